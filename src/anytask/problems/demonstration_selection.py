"""Which examples to annotate: a pool without labels, a budget, and a predictor that sees the bought labels only."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import attrs
import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.core.settings import real, taken, whole
from anytask.datasets.labelled_vectors import LabelledVectors, load_vectors
from anytask.datasets.text import TextData
from anytask.incontext.pool import AnnotatedPrompter, LMConfidence, NearestVote, Pool, check_selection
from anytask.lm.accounts import Tally
from anytask.problems.answers import answer_figures, confusion, one_answer
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.language import TextOptions, answerable
from anytask.problems.rehearsal import Rehearsal, forecast, summed
from anytask.problems.training import Learned, LoadedData, Progress, TrainingProblem


class SelectionOptions(TextOptions):
    """How much may be bought, from how many, and who predicts: a vote, or for texts a language model."""

    budget: int = whole(18, "labels that may be bought")
    pool: int | None = whole(
        None, "items in each seed's pool (none: 1000, at most five ninths of the data)", optional=True
    )
    test: int | None = whole(None, "test items (none: all the others, with a language model 256)", optional=True)
    n_neighbors: int = whole(3, "annotated items that vote on a test item")
    temperature: float = real(0.1, "temperature of the vote's weights", above=0)


@dataclass(frozen=True)
class SelectionData(LoadedData):
    """A labelled set from which each seed draws a pool and a test set."""

    source: LabelledVectors

    def facts(self) -> dict[str, Any]:
        """Return sizes and classes."""
        labels = self.source.labels
        return {
            "items": len(labels),
            "dimensions": self.source.vectors.shape[1],
            "classes": dict(Counter(map(str, labels))),
            "predictor": self.options.lm_name or f"vote of the {self.options.n_neighbors} nearest annotated items",
        }

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of the pool and of the test items, the same for every entrant."""
        order = np.random.default_rng(derive(seed, "demonstration-selection")).permutation(len(self.source.labels))
        n = self.options.pool
        return order[:n], order[n : n + self.options.test]

    @property
    def choices(self) -> list[str]:
        """The classes."""
        return sorted(set(map(str, self.source.labels)))


class DemonstrationSelection(TrainingProblem):
    """Choose ``budget`` of ``pool`` unlabelled items, from whose labels test items are then predicted.

    An entrant's class is made with its ``params`` (and ``seed``, where its constructor takes one), and asked for
    ``select(pool, budget)``, where ``pool`` is a :class:`~anytask.incontext.pool.Pool`: vectors, texts where there are
    any, and ``pool.annotate(indices)``, which counts. An entrant may annotate at most ``budget`` items on the way, and
    only items of its final choice; anything else fails the run. Test items are predicted by a vote of the nearest
    annotated items weighted by ``exp(cosine / temperature)``, or by a language model prompted with them. Every seed
    draws another pool and test set, the same for all entrants.

    Examples
    --------
    >>> from anytask.problems.base import Entrant
    >>> problem = DemonstrationSelection()
    >>> data = problem.load("digits", pool=200, test=100, budget=18)
    >>> votek = problem.run(Entrant("vote-k", "anytask.incontext:VoteK"), data, seed=0)
    >>> int(votek.metrics["labels"]), votek.metrics["accuracy"] > 1 / 10 + 0.3  # chance is 1/10
    (18, True)
    """

    key = "demonstration-selection"
    title = "Which examples to annotate for prompting"
    metrics = (
        Metric("accuracy", "Accuracy on the test items"),
        Metric("covered", "Share of the pool's classes among the annotated items"),
        Metric("labels", "Labels bought", higher_is_better=False, unit="labels"),
        Metric("query_seconds", "Time per query", higher_is_better=False, unit="s"),
        Metric("lm_tokens", "Language-model tokens", higher_is_better=False, unit="tokens"),
        Metric("lm_calls", "Language-model calls", higher_is_better=False, unit="calls"),
    )
    costs: ClassVar[tuple[str, ...]] = ("query_seconds", "lm_tokens", "lm_calls")
    needs = ("select(pool, budget)",)
    options_class = SelectionOptions

    def load(self, source: Any, **options: Any) -> SelectionData:
        """Return the data.

        Parameters
        ----------
        source : str, path, or pair
            ``"digits"``, ``"intents"`` (generated sentences of six intents with unequal frequencies), a JSONL or CSV
            file with the columns ``text`` and ``label``, or a pair (vectors or texts, labels).
        **options
            See :class:`SelectionOptions`.

        Raises
        ------
        BadData
            If the data or the options cannot be used.
        """
        o = self.check_options(options)

        def readable(data: TextData) -> TextData:
            if o.lm is None:
                return data
            budget = attrs.fields(AnnotatedPrompter).budget.default
            return answerable(data, o.model, o.prompts, budget=budget, written=False, bad_rows=o.bad_rows)

        data = load_vectors(source, o.text, o.target, o.bad_rows, readable)
        n = len(data.labels)
        if len(set(data.labels.tolist())) < 2:
            raise BadData(f"{data.name}: all labels are {data.labels[0]!r}; at least two classes are needed")
        if o.lm is not None and data.texts is None:
            raise BadData(f"{data.name}: a language model reads texts, and these data are vectors")
        pool = min(1000, 5 * n // 9) if o.pool is None else o.pool
        test = min(max(1, n - pool), n if o.lm is None else 256) if o.test is None else o.test
        if pool + test > n:
            raise BadData(f"{data.name}: pool {pool} and test {test} need {pool + test} items, and there are {n}")
        if o.budget > pool:
            raise BadData(f"budget {o.budget} exceeds the pool of {pool}")
        return SelectionData(data, o.evolve(pool=pool, test=test), o.notes)

    def baselines(self, data: SelectionData) -> tuple[Entrant, ...]:
        """Return random choice, diversity, facility location and least confidence."""
        module = "anytask.incontext.selection"
        names = ("random", "diversity", "facility location", "least confidence")
        classes = ("RandomSelection", "Diversity", "FacilityLocation", "LeastConfidence")
        return tuple(Entrant(name, f"{module}:{cls}", role="baseline") for name, cls in zip(names, classes))

    def forecast(self, entrants: Sequence[Entrant], data: SelectionData, jobs: int = 1) -> str:
        """Say how often the language model will be asked, by selections from one that only counts."""
        o = data.options
        if not o.foretells:
            return ""
        lm = o.model
        counting = replace(data, options=o.evolve(lm=Rehearsal(lm, timed=True), chat_template=None))

        def counted(entrant: Entrant) -> Tally:
            before = counting.options.lm.usage.total
            with contextlib.suppress(Exception):  # its run will say what is wrong; an estimate stops nobody
                self.run(entrant, counting, 0)
            return counting.options.lm.usage.total - before

        return forecast(len(entrants), lm, summed(entrants, counted), jobs)

    def train(self, entrant: Entrant, data: SelectionData, seed: int, progress: Progress) -> Learned:
        """Let the entrant select from this seed's pool."""
        source, o = data.source, data.options
        places, _ = data.split(seed)
        labels = source.labels[places]
        bought: list[int] = []

        def annotate(indices: Any) -> list[Any]:
            if len(bought) + len(indices) > o.budget:
                raise ValueError(f"{entrant.name} asked for more than the budget of {o.budget} labels")
            bought.extend(int(i) for i in indices)
            return [labels[i] for i in indices]

        texts = None if source.texts is None else [source.texts[i] for i in places]
        pool = Pool(source.vectors[places], texts=texts, annotate=annotate)
        lm = o.model
        before = getattr(getattr(lm, "usage", None), "total", None)
        vote = NearestVote(n_neighbors=o.n_neighbors, temperature=o.temperature)
        confidence = vote if lm is None else LMConfidence(lm, choices=data.choices, template=o.prompts)
        selector = entrant.make(seed=derive(seed, "entrant") % 2**32)
        known = taken(selector.select, confidence=confidence, progress=progress)
        indices = check_selection(selector.select(pool, o.budget, **known), len(pool), o.budget)
        if wasted := sorted(set(bought) - set(indices)):
            raise ValueError(f"{entrant.name} annotated item {wasted[0]}, which it did not choose")
        pool.annotate(indices)
        return Learned(selector, (pool, indices, before))

    def test(self, entrant: Entrant, trained: Learned, data: SelectionData, seed: int, progress: Progress) -> Outcome:
        """Predict the test items from the labels that were bought."""
        source, o = data.source, data.options
        places, test = data.split(seed)
        labels, lm = source.labels[places], o.model
        pool, indices, before = trained.world
        began = time.perf_counter()
        if lm is None:
            vote = NearestVote(n_neighbors=o.n_neighbors, temperature=o.temperature)
            predicted = vote.predict(pool, source.vectors[test])
        else:
            assert source.texts is not None
            prompter = AnnotatedPrompter(pool, lm, choices=data.choices, template=o.prompts)
            predicted = np.array(prompter.predict([source.texts[i] for i in test], source.vectors[test], progress))
        seconds = time.perf_counter() - began
        counts = Counter(str(labels[i]) for i in indices)
        metrics = {
            "accuracy": float(np.mean(predicted.astype(str) == source.labels[test].astype(str))),
            "covered": len(counts) / len(set(map(str, labels))),
            "labels": float(len(set(indices))),
        }
        if before is not None:
            used = lm.usage.total - before
            metrics |= {"query_seconds": seconds / len(test), "lm_tokens": float(used.total_tokens)}
            metrics["lm_calls"] = float(used.calls)
        details: dict[str, Any] = {"annotated": dict(counts), "indices": indices}
        details |= confusion([str(one) for one in predicted], [str(one) for one in source.labels[test]], data.choices)
        return Outcome(metrics, details, {"labels": metrics["labels"]}, None if lm is None else lm.kind)

    def figures(self, data: SelectionData, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return how often each label is the answer, and instead of which."""
        return answer_figures(runs)

    def warnings(self, data: SelectionData, runs: list[Any]) -> list[str]:
        """Say with whose labels nearly everything is answered alike."""
        return one_answer(runs)
