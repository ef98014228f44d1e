"""Three text tasks that a language model learns one after the other through LoRA, and what it still knows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anytask.claims.text_tasks import ASKING, TextProblem, TextTasks, asked
from anytask.continual import magnitude_gating
from anytask.core.rng import derive, isolated
from anytask.core.settings import Settings, choice, flag, real, whole
from anytask.core.training import train
from anytask.datasets.retrieval_tasks import RetrievalTask
from anytask.lm import LocalLM
from anytask.lm.option_scoring import score_options
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.language import model_of


class LoRATuning(Settings):
    """Plain fine-tuning of LoRA pairs on the queries and values of all blocks, with or without MIGU's mask.

    Parameters
    ----------
    gate : {"none", "magnitude", "random"}
        Which output units learn: all, those that the batch excites, or random ones.
    ratio : float in [0, 1)
        Share of the units that do not learn, from the second task on, as in the paper's code.
    epochs, batch_size, lr, r, alpha
        Passes over a task (0: the model is left as it is), AdamW, rank and scale of the pairs.
    joint : bool
        Learn all tasks at once instead: the upper bound.
    """

    gate: str = choice("none", ("none", "magnitude", "random"), "which output units learn")
    ratio: float = real(0.7, "share of the units that do not learn", at_least=0, below=1)
    epochs: int = whole(1, "passes over a task", at_least=0)
    batch_size: int = whole(8, "rows of a mini-batch")
    lr: float = real(1e-3, "learning rate", above=0)
    r: int = whole(8, "rank of the pairs")
    alpha: int = whole(32, "scale of the pairs")
    joint: bool = flag(False, "learn all tasks at once: the upper bound")
    seed: int = whole(0, "of the pairs, the order of rows and random units", at_least=0)

    def start(self, lm: Any) -> None:
        """Take a copy of a frozen model, and put pairs into it."""
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(r=self.r, lora_alpha=self.alpha, target_modules=["q_proj", "v_proj"])
        with isolated(derive(self.seed, "pairs")):
            self.model: Any = inject_adapter_in_model(config, copy.deepcopy(lm.model))
        self.lm = LocalLM((self.model, lm.tokenizer), name=f"{lm.name} with LoRA")
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=self.lr, weight_decay=0.0)

    def learn(self, tasks: Sequence[RetrievalTask], n_before: int) -> None:
        """Learn from the examples of a task, or of several at once; ``n_before`` tasks came before."""
        rows = [row for task in tasks for row in self._rows(task)]
        steps = self.epochs * -(-len(rows) // self.batch_size)
        if not steps:
            return
        gated = self.gate != "none" and n_before > 0
        settings: dict[str, Any] = {"units": self.gate, "seed": derive(self.seed, "units", n_before) % 2**31}
        mask = magnitude_gating(self.model, self.optimizer, self.ratio, **settings) if gated else nullcontext()
        with mask, isolated(derive(self.seed, "rows", n_before)):
            batches = self._batches(len(rows))
            train(
                self.model, lambda step: [rows[i] for i in next(batches)], self._loss, steps=steps,
                optimizer=self.optimizer, max_grad_norm=1.0, stage=f"LoRA after {n_before} tasks",
            )  # fmt: skip

    def _rows(self, task: RetrievalTask) -> list[tuple[list[int], int]]:
        """Return the tokens of each example, and how many of them are the prompt."""
        rows, read = [], self.lm.tokenizer
        for text, answer in zip(task.inputs, task.outputs):
            prompt = read(asked(task, text), add_special_tokens=False).input_ids
            whole_ = read(asked(task, text) + ASKING.completion(answer), add_special_tokens=False).input_ids
            rows.append((whole_, len(prompt)))
        return rows

    def _batches(self, n: int) -> Iterator[list[int]]:
        while True:
            yield from (part.tolist() for part in torch.randperm(n).split(self.batch_size))

    def _loss(self, rows: list[tuple[list[int], int]]) -> Tensor:
        """Return the mean cross-entropy of the answers' tokens."""
        n = max(len(ids) for ids, _ in rows)
        ids, answer = torch.zeros(len(rows), n, dtype=torch.long), torch.zeros(len(rows), n, dtype=torch.bool)
        reads = torch.zeros(len(rows), n, dtype=torch.long)
        for i, (tokens, start) in enumerate(rows):  # padded to the right, which a causal model does not see
            ids[i, : len(tokens)], answer[i, start : len(tokens)] = torch.tensor(tokens), True
            reads[i, : len(tokens)] = 1
        logits = self.model(input_ids=ids, attention_mask=reads).logits[:, :-1]  # (rows, n - 1, vocabulary)
        wanted = answer[:, 1:]
        return F.cross_entropy(logits[wanted], ids[:, 1:][wanted])


class LoRATexts(TextProblem):
    """Learn three text tasks one after the other, in an order that the seed draws, and answer all of them in the end.

    An entrant's class has ``start(lm)``, ``learn(tasks, n_before)``, ``joint`` and the model as it is then, ``lm``.
    """

    key = "lora-texts"
    title = "Text tasks that follow each other"
    metrics = (
        Metric("accuracy", "Accuracy after the last task, mean over the tasks"),
        Metric("learning_accuracy", "Accuracy on a task right after it"),
        Metric("forgetting", "What is lost of it in the end", higher_is_better=False),
    )

    def baselines(self, data: TextTasks) -> tuple[Entrant, ...]:
        """Return plain LoRA and the model that learns nothing."""
        entry = f"{__name__}:LoRATuning"
        return (Entrant("LoRA", entry, {}, "baseline"), Entrant("zero-shot", entry, {"epochs": 0}, "baseline"))

    def run(
        self, entrant: Entrant, data: TextTasks, seed: int, progress: Callable[[float], None] | None = None
    ) -> Outcome:
        """Learn the tasks one by one; answer each right after it, and all in the end."""
        lm, system, drawn = model_of(data.options.lm), entrant.make(seed=seed), data.draw(seed)
        order = np.random.default_rng(derive(seed, "order of tasks")).permutation(len(drawn))
        drawn = [drawn[i] for i in order]
        system.start(lm)
        after = np.zeros(len(drawn))
        for n, (task, queries, truth) in enumerate(drawn):
            due = [task] if not system.joint else [one for one, _, _ in drawn] if n == 0 else []
            system.learn(due, n)
            after[n] = _accuracy(system.lm, task, queries, truth)
        last = np.array([_accuracy(system.lm, *one) for one in drawn[:-1]] + [after[-1]])
        found = {"accuracy": last.mean(), "learning_accuracy": after.mean(), "forgetting": (after - last)[:-1].mean()}
        names = [task.name for task, _, _ in drawn]
        detail = {"order": names, "after": after.tolist(), "last": last.tolist()}
        return Outcome({key: float(value) for key, value in found.items()}, detail, {}, lm.kind)


def _accuracy(lm: Any, task: RetrievalTask, queries: list[str], truth: np.ndarray) -> float:
    options = [[ASKING.completion(answer) for answer in task.choices or ()]] * len(queries)
    scores = np.array(score_options(lm, [asked(task, query) for query in queries], options, tag="answers"))
    return float(np.mean(scores.argmax(axis=1) == truth))
