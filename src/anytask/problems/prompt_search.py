"""Prompt search: a full prompt, a frozen language model and a few labelled examples; which subsequence does best?"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.datasets.text import TextData, load_text
from anytask.problems.base import Entrant, Metric, Outcome, Problem, Trained


class _Instance(NamedTuple):
    """What one seed's run sees."""

    lm: Any
    prompt: str
    verbalizers: tuple[str, ...]
    search: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    test: list[dict[str, Any]]


@dataclass(frozen=True)
class PromptSearchData:
    """Where the examples come from (None: the scripted model), and the options."""

    source: TextData | None
    options: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the source."""
        return "scripted" if self.source is None else self.source.name

    @property
    def fingerprint(self) -> str:
        """Hash of the content and of every option."""
        content = "scripted" if self.source is None else self.source.fingerprint
        return hashlib.sha256(json.dumps([content, dict(self.options)], sort_keys=True).encode()).hexdigest()[:32]

    def describe(self) -> dict[str, Any]:
        """Return facts for the report."""
        facts = {"source": self.name, "options": dict(self.options), "fingerprint": self.fingerprint}
        return facts if self.source is None else facts | self.source.describe()

    def instance(self, seed: int, hold_out: bool = True) -> _Instance:
        """Return the model, the full prompt and the three sets of examples of one seed; alike for every entrant.

        Without ``hold_out``, what would be tested on is among the validation examples.
        """
        o = self.options
        if self.source is None:
            from anytask.datasets.scripted_prompt import ScriptedPromptLM

            scripted = ScriptedPromptLM(seed)
            sizes = (("search", 64), ("validation", o["validation"]), ("test", o["max_test"]))
            sets = [scripted.examples(n, part) for part, n in sizes]
            return _Instance(scripted, scripted.prompt, (" A", " B"), *[list(map(dict, s)) for s in sets])
        from anytask.lm import load_lm

        data, classes = self.source, self.source.classes
        rng = np.random.default_rng(derive(seed, "prompt-search"))
        labels = np.array([classes.index(label) for label in data.labels])
        by_class = [rng.permutation(np.flatnonzero(labels == c)).tolist() for c in range(len(classes))]
        demos = [rows.pop() for rows in by_class for _ in range(o["shots"])]
        search = [rows.pop() for rows in by_class for _ in range(o["search"])]
        rest = rng.permutation([i for rows in by_class for i in rows]).tolist()
        n_validation = min(o["validation"], len(rest) // 2) if hold_out else o["validation"] + o["max_test"]
        shown = {i: int(labels[i]) for i in demos}
        for i in rng.permutation(demos)[: o["wrong"]].tolist():
            shown[i] = (shown[i] + 1 + int(rng.integers(len(classes) - 1))) % len(classes)
        prompt = o["prompt"]
        if prompt is None:
            lines = [o["format"].format(text=data.texts[i], label=classes[shown[i]]) for i in rng.permutation(demos)]
            query = o["format"].format(text="{text}", label="{mask_token}").partition("{mask_token}")[0].rstrip(" ")
            prompt = o["separator"].join([*lines, query])
        examples = [{"text": text, "label": int(label)} for text, label in zip(data.texts, labels)]
        test = rest[n_validation : n_validation + o["max_test"]]
        parts = [[examples[i] for i in rows] for rows in (search, rest[:n_validation], test)]
        return _Instance(load_lm(o["lm"]), prompt, tuple(f" {c}" for c in classes), *parts)


class PromptSearch(Problem):
    """Find a shorter and better prompt by pruning a full one.

    Every entrant gets the same full prompt, model, search examples and validation examples, and at most ``budget``
    evaluated prompts. The prompt it chooses is tested on examples that nobody saw. Built in is ``scripted``, a
    simulated model whose answers depend on 48 prompt words in a known way, anew for each seed; it is evidence about
    the search, not about language models. Your own data: a .jsonl or .csv file with a text and a label per row, and
    ``lm``.

    Metrics
    -------
    ``accuracy`` (held-out test accuracy of the chosen prompt; ranks), ``validation``, ``evaluations``, ``lm_calls``,
    ``prompt_tokens``, ``gain`` (over the full prompt, on the test examples).
    """

    key: ClassVar[str] = "prompt-search"
    title: ClassVar[str] = "Prompt search"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Test accuracy"),
        Metric("gain", "Gain over the full prompt"),
        Metric("validation", "Validation accuracy"),
        Metric("evaluations", "Evaluated prompts", higher_is_better=False, unit="prompts"),
        Metric("lm_calls", "Language-model calls", higher_is_better=False, unit="calls"),
        Metric("prompt_tokens", "Prompt length", higher_is_better=False, unit="tokens"),
    )
    options: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "lm": (None, "language model with log-probabilities: a folder, a Hugging Face name or tiny:NAME"),
        "text": ("text", "name of the column or key that holds the input"),
        "target": ("label", "name of the column or key that holds the label"),
        "prompt": (None, "the full prompt with the place {text}; default: demonstrations from the data"),
        "format": ("Input: {text}\nLabel: {label}", "how a demonstration is written"),
        "separator": ("\n\n", "what stands between demonstrations"),
        "shots": (1, "demonstrations per class in the default prompt"),
        "wrong": (0, "how many of them get a wrong label, to see whether the search removes them"),
        "search": (8, "search examples per class"),
        "validation": (200, "validation examples"),
        "max_test": (2000, "most test examples"),
        "budget": (1000, "prompts that a search may score"),
    }

    def load(self, source: Any = "scripted", **options: Any) -> PromptSearchData:
        """Read a .jsonl or .csv file or (texts, labels); or take the built-in ``scripted``."""
        unknown = set(options) - set(self.options)
        if unknown:
            raise ValueError(f"prompt-search has no option {min(unknown)!r}; its options: {', '.join(self.options)}")
        o = {name: default for name, (default, _) in self.options.items()} | options
        for name, least in (
            ("shots", 0),
            ("wrong", 0),
            ("search", 1),
            ("validation", 1),
            ("max_test", 1),
            ("budget", 1),
        ):
            if isinstance(o[name], bool) or not isinstance(o[name], int) or o[name] < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {o[name]!r}")
        text, target = o.pop("text"), o.pop("target")
        if isinstance(source, str) and source == "scripted":
            return PromptSearchData(None, o)
        if not o["lm"]:
            raise ValueError("prompt-search on your own data needs a language model: --lm FOLDER, a name or tiny:icl")
        data = load_text(source, text=text, label=target, min_rows=4)
        classes = data.classes
        if len(classes) < 2:
            raise BadData(f"{data.name}: all rows have the label {classes[0]!r}, and at least two classes are needed")
        need = o["shots"] + o["search"] + 1
        for label in classes:
            if (have := data.labels.count(label)) < need:
                raise BadData(f"{data.name}: {have} rows with label {label!r}, and at least {need} are needed")
        if o["wrong"] > o["shots"] * len(classes):
            raise ValueError(f"wrong is {o['wrong']}, and there are only {o['shots'] * len(classes)} demonstrations")
        for name in ("prompt", "format"):
            if o[name] is not None and "{text}" not in o[name]:
                raise ValueError(f"{name} must contain the place {{text}}, got {o[name]!r}")
        return PromptSearchData(data, o)

    def baselines(self, data: PromptSearchData) -> tuple[Entrant, ...]:
        """Return the full prompt, hill climbing with threshold accepting, greedy deletion, and random masks."""
        return (
            Entrant("full prompt", "anytask.prompts.baselines:FullPrompt", role="baseline"),
            Entrant("TAPruning", "anytask.prompts:TAPruning", role="baseline"),
            Entrant("greedy deletion", "anytask.prompts.baselines:GreedyPruning", role="baseline"),
            Entrant("random masks", "anytask.prompts.baselines:RandomMasks", role="baseline"),
        )

    def refuses(self, entrant: Entrant, data: PromptSearchData) -> str | None:
        """Say why an entrant cannot take part."""
        return None if hasattr(entrant.load(), "search") else f"{entrant.name} has no search(lm, examples)"

    def run(
        self, entrant: Entrant, data: PromptSearchData, seed: int, progress: Callable[[float], None] | None = None
    ) -> Outcome:
        """Search, choose on the validation examples, and test the chosen prompt once."""
        from anytask.prompts.parts.evaluators import VerbalizerEvaluator

        world = data.instance(seed)
        result = _search(entrant, world, data.options["budget"], seed, progress)
        judge = VerbalizerEvaluator(world.lm, world.verbalizers, "accuracy", tag="test")
        chosen, full = judge([result.prompt, world.prompt], world.test)
        metrics = {
            "accuracy": chosen.accuracy,
            "gain": chosen.accuracy - full.accuracy,
            "evaluations": float(result.evaluations),
            "lm_calls": float(result.lm_calls),
            "prompt_tokens": float(result.n_tokens),
        }
        if result.validation is not None:
            metrics["validation"] = result.validation
        best = np.maximum.accumulate([c.score for c in result.trace]).tolist() if result.trace else []
        details = {
            "prompt": result.prompt,
            "full_prompt": world.prompt,
            "search_score": result.score,
            "best_so_far": best,
        }
        labels = float(len(world.search) + len(world.validation))
        cost = {"lm_calls": float(result.lm_calls), "labels": labels}
        notes = ["The search score is optimistic: the prompt was chosen by it. The test accuracy is not."]
        return Outcome(metrics, details, cost, kind=result.kind, notes=notes)

    def unsaveable(self, entrant: Entrant, data: PromptSearchData) -> str | None:
        """Refuse the scripted model; every search finds a prompt, and that is what is saved."""
        return (
            "scripted is a simulated model, and a prompt for it is of no use elsewhere."
            if data.source is None
            else None
        )

    def refit(
        self, entrant: Entrant, data: PromptSearchData, seed: int, progress: Callable[[float], None] | None = None
    ) -> Trained:
        """Search with the same examples, and choose on all of the others."""
        world = data.instance(seed, hold_out=False)
        result = _search(entrant, world, data.options["budget"], seed, progress)
        usage = (
            "from anytask.lm import load_lm",
            "from anytask.lm.option_scoring import score_options",
            "from anytask.prompts import SearchResult",
            f'lm, prompt = load_lm({data.options["lm"]!r}), SearchResult.load("{{folder}}").prompt',
            f"labels = {list(world.verbalizers)}",
            'label = labels[score_options(lm, [prompt.replace("{text}", text)], [labels], rule="sum")[0].argmax()]',
        )
        return Trained((result,), usage)


def _search(
    entrant: Entrant, world: _Instance, budget: int, seed: int, progress: Callable[[float], None] | None
) -> Any:
    cls = entrant.load()
    known = inspect.signature(cls).parameters
    given = {"seed": seed, "budget": budget, **entrant.params}
    default = {"seed", "budget"} - set(entrant.params)
    searcher = cls(
        world.prompt, world.verbalizers, **{k: v for k, v in given.items() if k in known or k not in default}
    )
    extra = {"progress": progress} if "progress" in inspect.signature(searcher.search).parameters else {}
    return searcher.search(world.lm, world.search, world.validation, **extra)
