"""Which examples to annotate: a pool without labels, a budget, and a predictor that sees the bought labels only."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.datasets.text import TextData, load_text
from anytask.incontext.pool import AnnotatedPrompter, LMConfidence, NearestVote, Pool, check_selection
from anytask.lm.search import as_vectors
from anytask.problems.base import Entrant, Metric, Outcome, Problem

BUILTIN = ("digits", "intents")


@dataclass(frozen=True)
class SelectionData:
    """A labelled set from which each seed draws a pool and a test set.

    Attributes
    ----------
    name : str
        Where the data are from.
    vectors : ndarray of shape (n, d)
        What similarity is computed on.
    labels : ndarray of shape (n,)
        Revealed only for what an entrant selects.
    texts : tuple of str or None
        The texts, where there are any.
    budget, pool, test, n_neighbors, temperature, lm : options
        As given to :meth:`DemonstrationSelection.load`.
    """

    name: str
    vectors: np.ndarray
    labels: np.ndarray
    texts: tuple[str, ...] | None
    budget: int
    pool: int
    test: int
    n_neighbors: int = 3
    temperature: float = 0.1
    lm: Any = None

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(self.vectors).tobytes())
        digest.update("\x1f".join(map(str, self.labels)).encode())
        options = (self.budget, self.pool, self.test, self.n_neighbors, self.temperature, self._lm_name)
        digest.update(repr(options).encode())
        return digest.hexdigest()[:16]

    @property
    def _lm_name(self) -> str | None:
        return self.lm if self.lm is None or isinstance(self.lm, str) else f"{self.lm.kind}:{self.lm.name}"

    def describe(self) -> dict[str, Any]:
        """Facts for a report."""
        return {
            "source": self.name, "items": len(self.labels), "dimensions": self.vectors.shape[1],
            "classes": dict(Counter(map(str, self.labels))), "budget": self.budget, "pool": self.pool, "test":
            self.test, "predictor": self._lm_name or f"vote of the {self.n_neighbors} nearest annotated items",
        }  # fmt: skip


class DemonstrationSelection(Problem):
    """Choose ``budget`` of ``pool`` unlabelled items; test items are then predicted from the chosen ones and their
    labels.

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
    )
    options: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "budget": (18, "labels that may be bought"),
        "pool": (None, "items in each seed's pool (default: 1000, at most five ninths of the data)"),
        "test": (None, "test items (default: all the others, with a language model 256)"),
        "n_neighbors": (3, "annotated items that vote on a test item"),
        "temperature": (0.1, "temperature of the vote's weights"),
        "lm": (None, "language model that predicts instead of the vote: a name or folder, for texts only"),
        "text": ("text", "column of the texts"),
        "label": ("label", "column of the labels"),
    }

    def load(self, source: Any, **options: Any) -> SelectionData:
        """Return the data.

        Parameters
        ----------
        source : str, path, or pair
            ``"digits"``, ``"intents"`` (generated sentences of six intents with unequal frequencies), a JSONL or CSV
            file with the columns ``text`` and ``label``, or a pair (vectors or texts, labels).
        **options
            See :attr:`options`.

        Raises
        ------
        BadData
            If the data or the options cannot be used.
        """
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            raise BadData(f"unknown option {unknown[0]!r}; there are {', '.join(self.options)}")
        o = {name: options.get(name, default) for name, (default, _) in self.options.items()}
        name, vectors, labels, texts = _read(source, o["text"], o["label"])
        n = len(labels)
        if len(set(labels.tolist())) < 2:
            raise BadData(f"{name}: all labels are {labels[0]!r}; at least two classes are needed")
        if o["lm"] is not None and texts is None:
            raise BadData(f"{name}: a language model reads texts, and these data are vectors")
        pool = min(1000, 5 * n // 9) if o["pool"] is None else o["pool"]
        test = min(n - pool, n if o["lm"] is None else 256) if o["test"] is None else o["test"]
        for key, value in (("pool", pool), ("test", test), ("budget", o["budget"]), ("n_neighbors", o["n_neighbors"])):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadData(f"{key} must be a whole number of at least 1, got {value!r}")
        if pool + test > n:
            raise BadData(f"{name}: pool {pool} and test {test} need {pool + test} items, and there are {n}")
        if o["budget"] > pool:
            raise BadData(f"budget {o['budget']} exceeds the pool of {pool}")
        if not o["temperature"] > 0:
            raise BadData(f"temperature must be above 0, got {o['temperature']!r}")
        return SelectionData(
            name, vectors, labels, texts, o["budget"], pool, test, o["n_neighbors"], o["temperature"], o["lm"]
        )

    def baselines(self, data: SelectionData) -> tuple[Entrant, ...]:
        """Return random choice, diversity, facility location and least confidence."""
        module = "anytask.incontext.selection"
        return (
            Entrant("random", f"{module}:RandomSelection", role="baseline"),
            Entrant("diversity", f"{module}:Diversity", role="baseline"),
            Entrant("facility location", f"{module}:FacilityLocation", role="baseline"),
            Entrant("least confidence", f"{module}:LeastConfidence", role="baseline"),
        )

    def refuses(self, entrant: Entrant, data: SelectionData) -> str | None:
        """Refuse classes without ``select``."""
        return None if hasattr(entrant.load(), "select") else f"{entrant.entry} has no method select(pool, budget)"

    def run(
        self, entrant: Entrant, data: SelectionData, seed: int, progress: Callable[[float], None] | None = None
    ) -> Outcome:
        """Let the entrant select from this seed's pool, reveal the labels it chose, and predict the test items."""
        order = np.random.default_rng(derive(seed, "demonstration-selection")).permutation(len(data.labels))
        train, test = order[: data.pool], order[data.pool : data.pool + data.test]
        labels = data.labels[train]
        bought: list[int] = []

        def annotate(indices: Any) -> list[Any]:
            if len(bought) + len(indices) > data.budget:
                raise ValueError(f"{entrant.name} asked for more than the budget of {data.budget} labels")
            bought.extend(int(i) for i in indices)
            return [labels[i] for i in indices]

        texts = None if data.texts is None else [data.texts[i] for i in train]
        pool = Pool(data.vectors[train], texts=texts, annotate=annotate)
        lm = _language_model(data.lm)
        choices = sorted(set(map(str, data.labels)))
        vote = NearestVote(n_neighbors=data.n_neighbors, temperature=data.temperature)
        confidence = vote if lm is None else LMConfidence(lm, choices=choices)
        selector = entrant.make(seed=derive(seed, "entrant") % 2**32)
        offered: dict[str, Any] = {"confidence": confidence}
        if progress is not None:
            offered["progress"] = lambda share: progress(0.8 * share)
        taken = inspect.signature(selector.select).parameters
        chosen = selector.select(pool, data.budget, **{name: value for name, value in offered.items() if name in taken})
        indices = check_selection(chosen, len(pool), data.budget)
        wasted = sorted(set(bought) - set(indices))
        if wasted:
            raise ValueError(f"{entrant.name} annotated item {wasted[0]}, which it did not choose")
        pool.annotate(indices)
        if lm is None:
            predicted = vote.predict(pool, data.vectors[test])
            kind = None
        else:
            assert data.texts is not None
            prompter = AnnotatedPrompter(pool, lm, choices=choices)
            predicted = np.array(prompter.predict([data.texts[i] for i in test], data.vectors[test]))
            kind = lm.kind
        if progress is not None:
            progress(1.0)
        right = predicted.astype(str) == data.labels[test].astype(str)
        counts = Counter(str(labels[i]) for i in indices)
        metrics = {
            "accuracy": float(right.mean()),
            "covered": len(counts) / len(set(map(str, labels))),
            "labels": float(len(bought)),
        }
        return Outcome(metrics, {"annotated": dict(counts), "indices": indices}, {"labels": len(bought)}, kind)


def _language_model(lm: Any) -> Any:
    if isinstance(lm, (str, Path)):
        from anytask.lm import load_lm

        return load_lm(str(lm))
    return lm


def _read(source: Any, text: str, label: str) -> tuple[str, np.ndarray, np.ndarray, tuple[str, ...] | None]:
    if isinstance(source, str) and source == "digits":
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        return "digits", X.astype(np.float32), y, None
    if isinstance(source, str) and source == "intents":
        source = intents()
    if isinstance(source, (tuple, list)) and len(source) == 2 and not _are_texts(source[0]):
        try:
            vectors = as_vectors(source[0], "vectors")
        except (TypeError, ValueError) as error:
            raise BadData(str(error)) from error
        labels = np.asarray(source[1])
        if labels.shape != (len(vectors),):
            raise BadData(f"labels must have shape ({len(vectors)},) like the vectors, got {labels.shape}")
        return "vectors", vectors, labels, None
    if isinstance(source, str) and "." not in source and not Path(source).exists():
        raise BadData(f"no data {source!r}: built in are {', '.join(BUILTIN)}; else give a .jsonl or .csv file")
    data = load_text(source, text, label, min_rows=4)
    from anytask.lm.embeddings import Embedder

    return data.name, Embedder().embed(data.texts), np.array(data.labels), data.texts


def _are_texts(part: Any) -> bool:
    return len(part) > 0 and isinstance(part[0], str)


def intents(n: int = 900, seed: int = 0) -> TextData:
    """Return generated requests of six intents whose frequencies halve from one to the next.

    Examples
    --------
    >>> data = intents(200)
    >>> len(data), len(data.classes)
    (200, 6)
    """
    rng = np.random.default_rng(derive(seed, "intents"))
    names = list(_INTENTS)
    share = 0.5 ** np.arange(len(names))
    texts, labels = [], []
    for code in rng.choice(len(names), n, p=share / share.sum()):
        patterns, things = _INTENTS[names[code]]
        sentence = str(rng.choice(patterns)).replace("*", str(rng.choice(things)))
        sentence = f"{rng.choice(_OPENINGS)}{sentence}{rng.choice(_ENDINGS)}"
        texts.append(sentence.strip())
        labels.append(names[code])
    data = load_text((texts, labels))
    return TextData("intents", data.texts, data.labels, data.ids, None, data.fingerprint)


_OPENINGS = ("", "", "hi, ", "please, ", "hey, ", "quick question: ", "excuse me, ", "if you can, ")
_ENDINGS = ("", "", " thanks", " please", " today", " as soon as possible", " if possible", " for my sister")
_INTENTS = {
    "weather": (
        ("what is the weather in *", "will it rain in *", "how hot does it get in *", "do I need an umbrella in *"),
        ("Paris", "Oslo", "Lima", "Cairo", "Tokyo", "Dublin", "Madrid", "Denver", "the mountains", "our village"),
    ),
    "music": (
        ("play some *", "put on *", "I want to listen to *", "add * to my playlist", "turn up the *"),
        ("jazz", "piano music", "the new album", "rock songs", "a quiet ballad", "opera", "my favourite band", "folk"),
    ),
    "restaurant": (
        ("book a table at *", "is there a free table at *", "find me a good *", "reserve dinner in a *"),
        ("pizza place", "noodle bar", "steak house", "vegan restaurant", "seafood restaurant", "bistro", "curry house"),
    ),
    "alarm": (
        ("wake me up at *", "set an alarm for *", "cancel the alarm at *", "remind me to get up at *"),
        ("six", "half past seven", "noon", "eight in the morning", "five thirty", "midnight", "quarter to nine"),
    ),
    "transfer": (
        ("send * to my landlord", "transfer * to the savings account", "pay * to the electric company"),
        ("fifty euros", "two hundred dollars", "the rent", "ninety pounds", "half of my salary", "a thousand"),
    ),
    "flight": (
        ("find a flight to *", "when does the plane to * leave", "change my seat on the flight to *"),
        ("Berlin", "Rome", "New York", "Sydney", "Nairobi", "Toronto", "Lisbon", "Seoul"),
    ),
}
