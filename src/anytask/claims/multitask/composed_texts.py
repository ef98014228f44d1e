"""LoRA adapters of a language model for three text tasks, of which one model for all is made with a few labels."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.claims.text_tasks import ASKING, TextOptions, TextTasks, asked, text_sets
from anytask.core.estimator import Tool
from anytask.core.rng import derive, isolated
from anytask.core.settings import choice, whole
from anytask.core.training import train
from anytask.problems.language import model_of
from anytask.problems.model_composition import ModelComposition, World
from anytask.problems.model_composition.data import CompositionData, CompositionOptions, accuracy


class ComposedTextOptions(TextOptions, CompositionOptions):
    """How many texts there are of each task."""

    task: str = choice("addition", ("addition",), "one model for all tasks")
    shown: int = whole(8, "labelled texts of each task for the composition")
    layers: int = whole(6, "last layers of the model, which have adapters")
    length: int = whole(64, "most tokens of a text with its question")


class Top(nn.Module):
    """The last layers of a language model, and what it would say next, out of a few answers.

    Parameters
    ----------
    model : transformers.LlamaForCausalLM
    layers : int
    answers : list of int
        Tokens.
    """

    def __init__(self, model: Any, layers: int, answers: list[int]) -> None:
        super().__init__()
        self.lm = copy.deepcopy(model.model)
        self.lm.layers, self.lm.config.use_cache = self.lm.layers[-layers:], False
        self.lm.embed_tokens = None
        self.answers = nn.Parameter(model.lm_head.weight.detach()[answers].clone())  # (answers, d)

    def forward(self, x: Tensor) -> Tensor:  # (n, length, d) what the lower layers give, after zeros -> (n, answers)
        reads = x.abs().sum(2) > 0
        n = int(reads.sum(1).max())
        x, reads = x[:, -n:], reads[:, -n:].long()
        place = (reads.cumsum(1) - 1).clamp(min=0)
        return self.lm(inputs_embeds=x, attention_mask=reads, position_ids=place)[0][:, -1] @ self.answers.T


class LoRA(Tool):
    """Train LoRA pairs on labelled rows, and merge them: what makes the vectors, and, on a few labels, a rival."""

    steps: int = whole(24, "steps of AdamW")
    batch_size: int = whole(8, "rows of a batch")

    def tuned(self, top: nn.Module, X: Tensor, y: Tensor) -> nn.Module:
        """Return a copy with trained pairs in it."""
        from peft import LoraConfig, inject_adapter_in_model

        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        with isolated(derive(self.seed, "LoRA")):
            config = LoraConfig(r=8, lora_alpha=32, target_modules=names)
            model: Any = inject_adapter_in_model(config, copy.deepcopy(top).requires_grad_(False))
            adamw = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=3e-3, weight_decay=0.0)
            train(
                model, lambda step: torch.randperm(len(X))[: self.batch_size],
                lambda rows: F.cross_entropy(model(X[rows]), y[rows]), steps=self.steps, optimizer=adamw,
                max_grad_norm=1.0, stage="LoRA",
            )  # fmt: skip
        return model

    def compose(self, pretrained: nn.Module, vectors: Any, X: Any, y: Any) -> nn.Module:
        """Return the model with pairs trained on the rows, whatever the vectors are."""
        return self.tuned(pretrained, X, y)


@dataclass(frozen=True)
class ComposedTextData(CompositionData):
    """The text sets, from which a seed draws what adapters learn from, what is shown, and what is tested on."""

    def instance(self, seed: int) -> World:
        """Return the model, a vector of each task's adapter, and the texts of all tasks."""
        o = self.options
        return _world(o.lm, o.n_train, o.shown, o.n_test, o.layers, o.length, seed)


class ComposedTexts(ModelComposition):
    """Make one model for three text tasks out of an adapter of each, with a few labels."""

    key = "composed-texts"
    title = "One model out of three adapters"
    options_class = ComposedTextOptions

    def load(self, source: Any = None, **options: Any) -> ComposedTextData:
        """Read the three text sets."""
        return ComposedTextData(text_sets(), self.check_options(options))


@lru_cache(maxsize=5)
def _world(name: str, n_train: int, n_shown: int, n_test: int, layers: int, length: int, seed: int) -> World:
    from anytask.multitask import TaskVector

    lm = model_of(name)
    drawn = TextTasks(text_sets(), TextOptions(n_train=n_train + n_shown, n_test=n_test)).draw(seed)
    answers = [_first(lm, answer) for task, _, _ in drawn for answer in task.choices or ()]
    top, place = Top(lm.model, layers, answers), {token: i for i, token in enumerate(answers)}
    vectors, shown, tested, fine = {}, {}, {}, {}
    for task, queries, truth in drawn:
        y = [place[_first(lm, answer)] for answer in (*task.outputs, *[(task.choices or ())[i] for i in truth])]
        X = _lower(lm, [asked(task, text) for text in (*task.inputs, *queries)], layers, length)
        sizes = [n_train, n_shown, n_test]
        learn, shown[task.name], tested[task.name] = zip(X.split(sizes), torch.tensor(y).split(sizes))
        tuned = LoRA(seed=seed).tuned(top, *learn)
        vectors[task.name] = TaskVector.from_lora(tuned)
        fine[task.name] = accuracy(tuned, *tested[task.name])
    return World(top, vectors, shown, tested, fine)


def _first(lm: Any, answer: str) -> int:
    return lm.tokenizer(ASKING.completion(answer), add_special_tokens=False).input_ids[0]


@torch.no_grad()
def _lower(lm: Any, prompts: list[str], layers: int, length: int) -> Tensor:
    """Return what the lower layers give for prompts, after zeros: (n, length, d)."""
    lower: Any = copy.copy(lm.model.model)
    lower._modules = {**lower._modules, "layers": lower.layers[:-layers], "norm": nn.Identity()}
    rows = [lm.tokenizer(prompt, add_special_tokens=False).input_ids[-length:] for prompt in prompts]
    out = torch.zeros(len(rows), length, lm.model.config.hidden_size)
    order = np.argsort([len(row) for row in rows])
    for part in np.split(order, range(16, len(order), 16)):
        n = max(len(rows[i]) for i in part)
        ids = torch.zeros(len(part), n, dtype=torch.long)
        reads = torch.zeros(len(part), n, dtype=torch.long)
        for k, i in enumerate(part):
            ids[k, -len(rows[i]) :], reads[k, -len(rows[i]) :] = torch.tensor(rows[i]), 1
        place = (reads.cumsum(1) - 1).clamp(min=0)
        h = lower(input_ids=ids, attention_mask=reads, position_ids=place, use_cache=False)[0]
        out[torch.from_numpy(part), -n:] = h * reads[:, :, None]
    return out
