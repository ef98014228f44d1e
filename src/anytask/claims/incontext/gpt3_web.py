"""GPT-3's effect in miniature: a model of a synthetic web learns tasks from its context, and only from there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from anytask.core.rng import derive
from anytask.core.settings import whole
from anytask.datasets.task_web import Questions, TaskWeb, web_tokenizer
from anytask.incontext.gpt3 import GPT3
from anytask.incontext.gpt3.model import build_gpt3, gpt3_config
from anytask.incontext.gpt3.training import Recipe, pack, pretrain
from anytask.lm.local import LocalLM
from anytask.lm.option_scoring import score_options
from anytask.lm.prompting import PromptTemplate
from anytask.problems.base import Entrant, Metric, Outcome, Problem
from anytask.problems.options import Options
from anytask.problems.training import fingerprint_of

SHOTS = 15
# Peak learning rates: the lowest training loss on another web after 300 steps, of 1, 2, 4e-3 and of 2, 4, 8e-3.
LARGE: dict[str, Any] = {"d": 64, "L": 2, "heads": 4, "lr": 4e-3}
SMALL: dict[str, Any] = {"d": 16, "L": 1, "heads": 2, "lr": 8e-3}
TEMPLATE = PromptTemplate("{input} {output} ;", separator=" ", query_format="{input}")


def train_web_model(
    web: TaskWeb, *, d: int, L: int, heads: int, lr: float, steps: int = 600, batch: int = 64, seed: int = 0
) -> LocalLM:
    """Train a decoder on the web with GPT-3's recipe; every packed sequence holds one document.

    The documents are shorter than a band would need to be of use, so the bands are as wide as the context; and the
    initial weights are as large for the width as the published ones are for width 768.
    """
    n_ctx = 3 * web.lines + 2
    tokenizer = web_tokenizer(web)
    config = gpt3_config(
        L=L, d=d, heads=heads, n_ctx=n_ctx, vocab_size=len(tokenizer), window=n_ctx,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.02 * (768 / d) ** 0.5,
    )  # fmt: skip
    model = build_gpt3(config, seed=derive(seed, "weights"))
    sequences = pack(web.stream(derive(seed, "documents")), n_ctx, tokenizer.eos_token_id)
    recipe = Recipe.scaled(steps * batch * n_ctx, lr=lr, batch_tokens=batch * n_ctx, warmup_tokens=20 * batch * n_ctx)
    pretrain(model, recipe, sequences)
    return LocalLM((model.eval(), tokenizer), kind="tiny", name=f"web-d{d}-L{L}")


class NearestDemonstration:
    """Answer as the last demonstration with the query's input, else with the most frequent output; reads nothing else.

    Examples
    --------
    >>> NearestDemonstration().answer(["x0", "x1"], ["y2", "y0"], "x1"), NearestDemonstration().answer([], [], "x1")
    ('y0', None)
    """

    def answer(self, inputs: Sequence[str], outputs: Sequence[str], query: str) -> str | None:
        """Return the output; None without demonstrations."""
        return dict(zip(inputs, outputs)).get(query, max(outputs, key=list(outputs).count, default=None))


def answers(lm: LocalLM, questions: Questions, k: int, instruction: bool, seed: int) -> list[str]:
    """Answer questions through GPT-3's prompts and scores, with ``k`` demonstrations each."""
    prompts = []
    for i, query in enumerate(questions.queries):
        learner = GPT3(
            lm, k=k, template=TEMPLATE, description=questions.instructions[i] if instruction else "task?",
            leak="allow", seed=derive(seed, "document", i),
        )  # fmt: skip
        learner.fit(questions.inputs[i], questions.outputs[i], options=questions.options)
        prompts.append(learner.prompt(query, reserve=1).text)
    options = [TEMPLATE.completion(o) for o in questions.options]
    scores = score_options(lm, prompts, [options] * len(prompts), tag="gpt3")
    return [questions.options[i] for i in np.array(scores).argmax(axis=1)]


def weights_checksum(lm: LocalLM) -> str:
    """SHA-256 of the model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in lm.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


class WebOptions(Options):
    """How long is trained, and on how many documents is tested."""

    steps: int = whole(600, "training steps of 64 documents")
    n: int = whole(300, "test documents")


@dataclass(frozen=True)
class WebData:
    """The options; the web is drawn by each seed."""

    options: WebOptions
    name: str = "web of 64 hidden tasks"

    @property
    def fingerprint(self) -> str:
        """Hash of the options; a run's seed draws the web."""
        return fingerprint_of(self.name, self.options)

    def describe(self) -> dict[str, Any]:
        """Facts for the report."""
        return {"steps": self.options.steps, "test_documents": self.options.n, "shots": SHOTS}


class HiddenTasks(Problem):
    """Train a small language model on the web, then ask it about fresh documents through GPT-3's prompts and scores.

    An entrant's parameters are the size of its model (``d``, ``L``, ``heads``) and the learning rate; for one without
    parameters nothing is trained, and its class has ``answer(inputs, outputs, query)``.
    """

    key: ClassVar[str] = "hidden-tasks"
    title: ClassVar[str] = "In-context learning of hidden tasks"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Accuracy with the instruction and 15 demonstrations"),
        Metric("instructed", "Accuracy with the instruction alone"),
        Metric("few_shot", "Accuracy with 15 demonstrations alone"),
        Metric("one_shot", "Accuracy with one demonstration alone"),
        Metric("zero_shot", "Accuracy with neither"),
        Metric("shuffled", "Accuracy with 15 demonstrations whose outputs are shuffled"),
        Metric("novel", "Accuracy with 15 demonstrations, none of them with the query's input"),
        Metric("gain", "Gain from 15 demonstrations"),
        Metric("weights_changed", "Weights changed by answering", higher_is_better=False, unit=""),
    )
    options_class = WebOptions

    def load(self, source: Any = None, **options: Any) -> WebData:
        """Return the options; the web is drawn in each run."""
        return WebData(self.check_options(options))

    def baselines(self, data: WebData) -> tuple[Entrant, ...]:
        """Return the small model, and the nearest demonstration."""
        nearest = Entrant("nearest demonstration", f"{__name__}:NearestDemonstration", role="baseline")
        return (Entrant("d=16, 1 layer", "anytask.incontext:GPT3", SMALL, "baseline"), nearest)

    def run(
        self, entrant: Entrant, data: WebData, seed: int, progress: Callable[[float], None] | None = None
    ) -> Outcome:
        """Train one model on the seed's web, and measure it with and without demonstrations and instructions."""
        web = TaskWeb(seed=derive(seed, "tables"))
        lookup: Any = None if entrant.params else entrant.make()
        lm = None if lookup else train_web_model(web, **entrant.params, steps=data.options.steps, seed=seed)
        before = weights_checksum(lm) if lm else ""

        def accuracy(k: int, instruction: bool = False, **drawn: bool) -> float:
            asked = Questions.draw(web, data.options.n, derive(seed, "test documents"), **drawn)
            if lm:
                said = answers(lm, asked, k, instruction, seed)
            else:
                shown = [(x[:k], y[:k]) for x, y in zip(asked.inputs, asked.outputs)]
                found = [lookup.answer(*lines, query) for lines, query in zip(shown, asked.queries)]
                said = [one or asked.options[0] for one in found]
            return float(np.mean([a == asked.options[i] for a, i in zip(said, asked.answers)]))

        metrics = {
            "accuracy": accuracy(SHOTS, instruction=True),
            "instructed": accuracy(0, instruction=True),
            "few_shot": accuracy(SHOTS),
            "one_shot": accuracy(1),
            "zero_shot": accuracy(0),
            "shuffled": accuracy(SHOTS, shuffled=True),
            "novel": accuracy(SHOTS, novel=True),
        }
        metrics["gain"] = metrics["few_shot"] - metrics["zero_shot"]
        if not lm:
            return Outcome(metrics)
        metrics["weights_changed"] = float(weights_checksum(lm) != before)
        parameters = sum(p.numel() for p in lm.model.parameters())
        return Outcome(metrics, cost={"trainable_parameters": parameters}, kind=lm.kind)
