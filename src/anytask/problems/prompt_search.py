"""Prompt search: a full prompt, a frozen language model and a few labelled examples; which subsequence does best?"""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from anytask.core.checks import require_finite
from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.core.settings import choice, text, whole
from anytask.datasets.text import BAD_ROWS, TextData, load_text
from anytask.lm.protocol import MissingCapability, require
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.language import model_of, readable
from anytask.problems.options import Options
from anytask.problems.training import Builtin, LoadedData, Progress, TrainingProblem, taken


class PromptSearchOptions(Options):
    """What is searched with which model, and on how many examples."""

    read_only: ClassVar[tuple[str, ...]] = ("text", "target", "bad_rows")

    lm: str | None = text(
        None, "language model with log-probabilities: a folder, a Hugging Face name or tiny:NAME", optional=True
    )
    target: str = text("label", "name of the column or key that holds the label")
    prompt: str | None = text(
        None, "the full prompt with the place {text} (none: demonstrations from the data)", optional=True
    )
    format: str = text("Input: {text}\nLabel: {label}", "how a demonstration is written")
    separator: str = text("\n\n", "what stands between demonstrations")
    shots: int = whole(1, "demonstrations per class in the default prompt", at_least=0)
    wrong: int = whole(0, "how many of them get a wrong label, to see whether the search removes them", at_least=0)
    search: int = whole(8, "search examples per class")
    validation: int = whole(200, "validation examples")
    max_test: int = whole(2000, "most test examples")
    budget: int = whole(1000, "prompts that a search may score")
    text: str = text("text", "name of the column or key that holds the input")
    bad_rows: str = choice("refuse", BAD_ROWS, "rows that cannot be used: an error, left out, or cut")

    def _check_settings(self) -> None:
        for name, place in (("prompt", "{text}"), ("format", "{text}"), ("format", "{label}")):
            value = getattr(self, name)
            if value is not None and place not in value:
                raise ValueError(f"{name} must contain the place {place}, got {value!r}")


class _Instance(NamedTuple):
    """What one seed's run sees."""

    lm: Any
    prompt: str
    verbalizers: tuple[str, ...]
    search: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    test: list[dict[str, Any]]


@dataclass(frozen=True)
class PromptSearchData(LoadedData):
    """Where the examples come from, and the options."""

    source: TextData | Builtin

    def facts(self) -> dict[str, Any]:
        """Return the facts on the texts."""
        return {} if isinstance(self.source, Builtin) else self.source.describe()

    def instance(self, seed: int, hold_out: bool = True) -> _Instance:
        """Return the model, the full prompt and the three sets of examples of one seed; alike for every entrant.

        Without ``hold_out``, what would be tested on is among the validation examples.
        """
        o = self.options
        if isinstance(self.source, Builtin):
            from anytask.datasets.scripted_prompt import ScriptedPromptLM

            scripted = ScriptedPromptLM(seed)
            sizes = (("search", 64), ("validation", o.validation), ("test", o.max_test))
            sets = [scripted.examples(n, part) for part, n in sizes]
            return _Instance(scripted, scripted.prompt, (" A", " B"), *[list(map(dict, s)) for s in sets])
        from anytask.lm.placeholders import escape, fill

        data, classes = self.source, self.source.classes
        rng = np.random.default_rng(derive(seed, "prompt-search"))
        labels = np.array([classes.index(label) for label in data.labels])
        by_class = [rng.permutation(np.flatnonzero(labels == c)).tolist() for c in range(len(classes))]
        demos = [rows.pop() for rows in by_class for _ in range(o.shots)]
        search = [rows.pop() for rows in by_class for _ in range(o.search)]
        rest = rng.permutation([i for rows in by_class for i in rows]).tolist()
        n_validation = min(o.validation, len(rest) // 2) if hold_out else o.validation + o.max_test
        shown = {i: int(labels[i]) for i in demos}
        for i in rng.permutation(demos)[: o.wrong].tolist():
            shown[i] = (shown[i] + 1 + int(rng.integers(len(classes) - 1))) % len(classes)
        prompt = o.prompt
        if prompt is None:
            names = ("text", "mask_token")  # what looks like these in a demonstration is text
            rows = ((escape(data.texts[i], names), escape(classes[shown[i]], names)) for i in rng.permutation(demos))
            lines = [fill(o.format, {"text": a, "label": b}, ("text", "label"))[0] for a, b in rows]
            prompt = o.separator.join([*lines, o.format.partition("{label}")[0].rstrip(" ")])
        examples = [{"text": text, "label": int(label)} for text, label in zip(data.texts, labels)]
        test = rest[n_validation : n_validation + o.max_test]
        parts = [[examples[i] for i in rows] for rows in (search, rest[:n_validation], test)]
        return _Instance(model_of(o.lm), prompt, tuple(f" {c}" for c in classes), *parts)


def _readable(data: TextData, lm: Any, o: PromptSearchOptions) -> TextData:
    """Return the data with texts that fit into any prompt that a seed may draw, and beside it as a query."""
    from anytask.lm.placeholders import fill

    if not hasattr(lm, "count_tokens"):
        return data
    answer = max((f" {c}" for c in data.classes), key=lm.count_tokens)
    how: dict[str, Any] = {"bad_rows": o.bad_rows, "reserve": lm.count_tokens(answer)}
    if o.prompt is not None:
        whole = o.prompt
        return readable(data, lm, lambda text: "".join(fill(whole, {"text": text}, ("text", "mask_token"))), **how)

    def shown(text: str) -> str:
        return fill(o.format, {"text": text, "label": answer}, ("text", "label"))[0] + o.separator

    tokens = np.array([lm.count_tokens(shown(text)) for text in data.texts])
    labels = np.array(data.labels)

    def most(room: int) -> int:
        """Longest that a text may be where the longest of each class are the demonstrations, and the next is asked."""

        def needed(length: int) -> int:
            cut = np.minimum(tokens, length)
            demos = [np.sort(cut[labels == c])[::-1] for c in data.classes]
            rest = np.concatenate([of_class[o.shots :] for of_class in demos])
            return sum(int(of_class[: o.shots].sum()) for of_class in demos) + int(rest.max(initial=0))

        longest = int(tokens.max())
        return longest if needed(longest) <= room else bisect(range(longest), room, key=needed) - 1

    return readable(data, lm, shown, most=most, **how)


class PromptSearch(TrainingProblem):
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
    options_class = PromptSearchOptions

    def load(self, source: Any = "scripted", **options: Any) -> PromptSearchData:
        """Read a .jsonl or .csv file or (texts, labels); or take the built-in ``scripted``."""
        o = self.check_options(options)
        if isinstance(source, str) and source == "scripted":
            return PromptSearchData(Builtin(source), o)
        if not o.lm:
            raise BadData("prompt-search on your own data needs a language model: --lm FOLDER, a name or tiny:icl")
        data = load_text(source, text=o.text, label=o.target, min_rows=4, bad_rows=o.bad_rows)
        data = _readable(data, model_of(o.lm), o)
        classes = data.classes
        if len(classes) < 2:
            raise BadData(f"{data.name}: all rows have the label {classes[0]!r}, and at least two classes are needed")
        have, label = min((data.labels.count(label), label) for label in classes)
        if have < (need := o.shots + o.search + 1):
            raise BadData(f"{data.name}: {have} rows with label {label!r}, and at least {need} are needed")
        if o.wrong > o.shots * len(classes):
            raise BadData(f"wrong is {o.wrong}, and there are only {o.shots * len(classes)} demonstrations")
        return PromptSearchData(data, o)

    def baselines(self, data: PromptSearchData) -> tuple[Entrant, ...]:
        """Return the full prompt, hill climbing with threshold accepting, greedy deletion, and random masks."""
        names = ("full prompt", "TAPruning", "greedy deletion", "random masks")
        entries = (".baselines:FullPrompt", ":TAPruning", ".baselines:GreedyPruning", ".baselines:RandomMasks")
        return tuple(Entrant(name, f"anytask.prompts{entry}", role="baseline") for name, entry in zip(names, entries))

    def refuses(self, entrant: Entrant, data: PromptSearchData) -> str | None:
        """Say why an entrant cannot take part."""
        if not hasattr(entrant.load(), "search"):
            return f"{entrant.name} has no search(lm, examples)"
        try:
            if not isinstance(data.source, Builtin):
                require(model_of(data.options.lm), "logprobs", method=entrant.name)
        except MissingCapability as error:
            return str(error)
        return None

    def train(self, entrant: Entrant, data: PromptSearchData, seed: int, progress: Progress) -> tuple[_Instance, Any]:
        """Search, and choose on the validation examples."""
        world = data.instance(seed)
        return world, _search(entrant, world, data.options.budget, seed, progress)

    def system_of(self, trained: tuple[_Instance, Any]) -> Any:
        """Return the search's result."""
        return trained[1]

    def test(
        self, entrant: Entrant, trained: tuple[_Instance, Any], data: PromptSearchData, seed: int, progress: Progress
    ) -> Outcome:
        """Test the chosen prompt once."""
        from anytask.prompts.parts.evaluators import VerbalizerEvaluator

        world, result = trained
        judge = VerbalizerEvaluator(world.lm, world.verbalizers, reward="accuracy", tag="test")
        chosen, full = judge([result.prompt, world.prompt], world.test)
        require_finite(np.array([chosen.accuracy, full.accuracy]), "the language model's scores of the test examples")
        cost = {"lm_calls": float(result.lm_calls), "labels": float(len(world.search) + len(world.validation))}
        metrics = {"accuracy": chosen.accuracy, "gain": chosen.accuracy - full.accuracy, "lm_calls": cost["lm_calls"]}
        metrics |= {"evaluations": float(result.evaluations), "prompt_tokens": float(result.n_tokens)}
        if result.validation is not None:
            metrics["validation"] = result.validation
        details = {"prompt": result.prompt, "full_prompt": world.prompt, "search_score": result.score}
        details["best_so_far"] = np.maximum.accumulate([candidate.score for candidate in result.trace]).tolist()
        notes = [f"{result.discarded} prompts had no finite score."] if result.discarded else []
        notes += ["The search score is optimistic: the prompt was chosen by it. The test accuracy is not."]
        return Outcome(metrics, details, cost, kind=result.kind, notes=notes)

    def unsaveable(self, entrant: Entrant, data: PromptSearchData) -> str | None:
        """Refuse the scripted model; every search finds a prompt, and that is what is saved."""
        simulated = "scripted is a simulated model, and a prompt for it is of no use elsewhere."
        return simulated if isinstance(data.source, Builtin) else None

    def refit(self, entrant: Entrant, data: PromptSearchData, seed: int, progress: Progress | None = None) -> Trained:
        """Search with the same examples, and choose on all of the others."""
        world = data.instance(seed, hold_out=False)
        result = _search(entrant, world, data.options.budget, seed, progress)
        usage = (
            "from anytask.lm import load_lm",
            "from anytask.lm.option_scoring import score_options",
            "from anytask.prompts import SearchResult",
            f'lm, found = load_lm({data.options.lm!r}), SearchResult.load("{{folder}}")',
            f"labels = {list(world.verbalizers)}",
            'label = labels[score_options(lm, [found.fill(text=text)], [labels], rule="sum")[0].argmax()]',
        )
        return Trained((result,), usage)


def _search(entrant: Entrant, world: _Instance, budget: int, seed: int, progress: Progress | None) -> Any:
    searcher = entrant.make(prompt=world.prompt, verbalizers=world.verbalizers, seed=seed, budget=budget)
    return searcher.search(world.lm, world.search, world.validation, **taken(searcher.search, progress=progress))
