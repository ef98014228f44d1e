"""Prompt search: a full prompt, a frozen language model and a few labelled examples; which subsequence does best?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from anytask.core.checks import require_finite
from anytask.core.errors import BadData
from anytask.core.settings import taken
from anytask.datasets.text import load_text
from anytask.lm.accounts import Tally
from anytask.lm.placeholders import fill, names_of
from anytask.lm.protocol import MissingCapability, require
from anytask.problems.base import Entrant, Metric, Outcome, Trained
from anytask.problems.prompt_search.data import Instance, PromptSearchData, PromptSearchOptions, searchable
from anytask.problems.rehearsal import forecast
from anytask.problems.training import Builtin, Learned, Progress, TrainingProblem


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
    costs: ClassVar[tuple[str, ...]] = ("evaluations", "lm_calls")
    needs = ("search(lm, examples)",)
    options_class = PromptSearchOptions

    def load(self, source: Any = "scripted", **options: Any) -> PromptSearchData:
        """Read a .jsonl or .csv file or (texts, labels); or take the built-in ``scripted``."""
        o = self.check_options(options)
        if isinstance(source, str) and source == "scripted":
            return PromptSearchData(Builtin(source), o)
        if not o.lm:
            raise BadData("prompt-search on your own data needs a language model: --lm FOLDER, a name or tiny:icl")
        data = load_text(source, text=o.text, label=o.target, min_rows=4, bad_rows=o.bad_rows)
        data = searchable(data, o.model, o)
        classes = data.classes
        if len(classes) < 2:
            raise BadData(f"{data.name}: all rows have the label {classes[0]!r}, and at least two classes are needed")
        have, label = min((data.labels.count(label), label) for label in classes)
        if have < (need := o.shots + o.search + 1):
            raise BadData(f"{data.name}: {have} rows with label {label!r}, and at least {need} are needed")
        if o.wrong > o.shots * len(classes):
            raise BadData(f"wrong is {o.wrong}, and there are only {o.shots * len(classes)} demonstrations")
        return PromptSearchData(data, o, o.notes)

    def baselines(self, data: PromptSearchData) -> tuple[Entrant, ...]:
        """Return the full prompt, hill climbing with threshold accepting, greedy deletion, and random masks."""
        names = ("full prompt", "TAPruning", "greedy deletion", "random masks")
        entries = (".baselines:FullPrompt", ":TAPruning", ".baselines:GreedyPruning", ".baselines:RandomMasks")
        return tuple(Entrant(name, f"anytask.prompts{entry}", role="baseline") for name, entry in zip(names, entries))

    def refuses(self, entrant: Entrant, data: PromptSearchData) -> str | None:
        """Refuse everybody where the model gives no log-probabilities."""
        try:
            if not isinstance(data.source, Builtin):
                require(data.options.model, "logprobs", method=entrant.name)
        except MissingCapability as error:
            return str(error)
        return super().refuses(entrant, data)

    def forecast(self, entrants: Sequence[Entrant], data: PromptSearchData, jobs: int = 1) -> str:
        """Say how often the language model will be asked if all of the budget is used."""
        o, told = data.options, Tally()
        if isinstance(data.source, Builtin) or not o.foretells:
            return ""
        world = data.instance(0)

        def asked(examples: Sequence[dict[str, Any]]) -> Tally:
            names = names_of(examples)
            prompts, after = zip(*(fill(world.prompt, example, names) for example in examples))
            return o.model.estimate(prompts, [[word + rest for word in world.verbalizers] for rest in after])

        searched, validated, tested = map(asked, (world.search, world.validation, world.test))
        for entrant in entrants:
            made = entrant.make(prompt=world.prompt, verbalizers=world.verbalizers, budget=o.budget)
            top = getattr(made, "top", 1)
            scored = 1 if entrant.class_name == "FullPrompt" else o.budget
            told += searched.times(scored) + validated.times(max(1, top * scored if top < 1 else top)) + tested.times(2)
        return forecast(len(entrants), o.model, told, jobs)

    def train(self, entrant: Entrant, data: PromptSearchData, seed: int, progress: Progress) -> Learned:
        """Search, and choose on the validation examples."""
        world = data.instance(seed)
        return Learned(_search(entrant, world, data.options.budget, seed, progress), world)

    def test(
        self, entrant: Entrant, trained: Learned, data: PromptSearchData, seed: int, progress: Progress
    ) -> Outcome:
        """Test the chosen prompt once."""
        from anytask.prompts.parts.evaluators import VerbalizerEvaluator

        world, result = trained.world, trained.system
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
            f'lm, found = load_lm({data.options.lm_name!r}), SearchResult.load("{{folder}}")',
            f"labels = {list(world.verbalizers)}",
            'label = labels[score_options(lm, [found.fill(text=text)], [labels], rule="sum")[0].argmax()]',
        )
        return Trained((result,), usage)


def _search(entrant: Entrant, world: Instance, budget: int, seed: int, progress: Progress | None) -> Any:
    searcher = entrant.make(prompt=world.prompt, verbalizers=world.verbalizers, seed=seed, budget=budget)
    return searcher.search(world.lm, world.search, world.validation, **taken(searcher.search, progress=progress))
