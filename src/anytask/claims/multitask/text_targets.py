"""Three text tasks that one language model learns at once: each text is labelled for one of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from anytask.claims.text_tasks import TextProblem, TextTasks
from anytask.core.settings import text, whole
from anytask.multitask import MTLoRA
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.language import model_of
from anytask.problems.options import Options


class TextTargetOptions(Options):
    """Which model reads, how many of its blocks are adapted, and how many texts each task has."""

    lm: str = text("smollm2-135m?dtype=float32", "language model whose last blocks are adapted")
    n_train: int = whole(40, "texts per task", at_least=4)
    n_test: int = whole(40, "held-out texts per task")
    top: int = whole(2, "blocks that are adapted: the last ones; what enters them is computed once")


class TopBlocks(nn.Module):
    """The last blocks of a language model, from what enters them to the last token behind its last norm."""

    def __init__(self, model: Any, top: int) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).float()
        self.model.layers = self.model.layers[-top:]
        self.model.config.num_hidden_layers, self.model.config.use_cache = top, False

    def forward(self, x: Tensor) -> Tensor:  # (n, length, d), 0 where a text has ended -> (n, d)
        ends = x.any(2).long().sum(1) - 1
        h = self.model(inputs_embeds=x).last_hidden_state
        here = torch.arange(x.shape[1], device=x.device) == ends[:, None]
        return (h * here[:, :, None]).sum(1)


class LoRAPerTask(MTLoRA):
    """A network of its own for each task, with pairs of its own."""

    def fit(self, X: Any, y: Any, task: Any = None, **told: Any) -> LoRAPerTask:
        """Fit each to the rows that its task labels."""
        rows = {name: y[name].notna().to_numpy() for name in y}
        params = self.get_params(deep=False)
        self.models_ = {name: MTLoRA(**params).fit(X[own], y[[name]][own]) for name, own in rows.items()}
        return self

    def predict(self, X: Any, task: Any = None) -> Any:
        """Return one task's answers."""
        return self.models_[task].predict(X, task)


class TextTargets(TextProblem):
    """Learn reviews, customer messages and news items at once, and name the class of held-out ones."""

    key = "text-targets"
    title = "Several text tasks, one model"
    metrics = (Metric("accuracy", "Accuracy, mean over the tasks"),)
    options_class = TextTargetOptions

    def baselines(self, data: TextTasks) -> tuple[Entrant, ...]:
        """Return heads on the frozen model."""
        return (Entrant("heads only", "anytask.claims.multitask.teacher:Tuning", {}, "baseline"),)

    def run(
        self, entrant: Entrant, data: TextTasks, seed: int, progress: Callable[[float], None] | None = None
    ) -> Outcome:
        """Train on all tasks' texts, and answer each task's held-out ones."""
        lm, top, drawn = model_of(data.options.lm), data.options.top, data.draw(seed)
        texts = tuple(one for task, queries, _ in drawn for one in (*task.inputs, *queries))
        X = dict(zip(texts, entering(lm.model.model, lm.tokenizer, texts, top)))
        Y = pd.concat([pd.DataFrame({task.name: task.outputs}) for task, _, _ in drawn], ignore_index=True)
        model = entrant.make(seed=seed, backbone=TopBlocks(lm.model.model, top))
        model.fit(np.stack([X[one] for task, _, _ in drawn for one in task.inputs]), Y, kinds="classification")
        found = {}
        for task, queries, truth in drawn:
            answers = model.predict(np.stack([X[one] for one in queries]), task.name)
            found[task.name] = float(np.mean(answers == np.array(task.choices)[truth]))
        return Outcome({"accuracy": float(np.mean(list(found.values())))}, {"by_task": found}, {}, lm.kind)


@lru_cache(maxsize=1)
def entering(model: Any, tokenizer: Any, texts: tuple[str, ...], top: int) -> np.ndarray:
    """Return what enters the last blocks of a language model (texts, length, d); 0 behind the end of a text."""
    lower = copy.copy(model)
    lower._modules = {**model._modules, "layers": model.layers[:-top], "norm": nn.Identity()}
    ids = [tokenizer(one).input_ids for one in texts]
    X = np.zeros((len(ids), max(map(len, ids)), model.config.hidden_size), np.float32)
    order = np.argsort([len(one) for one in ids], kind="stable")
    for rows in np.array_split(order, -(-len(order) // 16)):  # of about one length; padding on the right is not seen
        n = max(len(ids[row]) for row in rows)
        padded = torch.tensor([ids[row] + [0] * (n - len(ids[row])) for row in rows])
        with torch.no_grad():
            made = lower(input_ids=padded, use_cache=False).last_hidden_state.float().numpy()
        for row, one in zip(rows, made):
            X[row, : len(ids[row])] = one[: len(ids[row])]
    return X
