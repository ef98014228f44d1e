"""A small world in which what helps differs from task to task, and a scripted language model that says so.

Every input is made of blocks, each a noisy copy of one of a few centres; the label of task t is the centre of block t.
A demonstration helps when its label is the query's. Plain similarity looks at all blocks and so finds it only now and
then; a retriever that was told the task, and learned what it means, finds it nearly always.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.incontext.feedback import RetrievalTask
from anytask.lm.search import VectorIndex
from anytask.problems.base import Entrant, Metric, Outcome, Problem


@dataclass(frozen=True)
class Blocks:
    """The numbers of the world; a run's seed draws its examples."""

    name: str = "blocks"
    n_tasks: int = 3
    n_train: int = 300
    n_test: int = 60
    block: int = 8
    n_centres: int = 6
    spread: float = 2.0  # standard deviation of the centres
    noise: float = 0.7  # standard deviation around a centre
    feedback_noise: float = 0.3  # standard deviation of the scripted language model's scores
    k: int = 8

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr(asdict(self)).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    def draw(self, seed: int) -> tuple[list[RetrievalTask], list[tuple[np.ndarray, np.ndarray]]]:
        """Return the tasks, and the held-out queries of each as (vectors, labels)."""
        rng = np.random.default_rng(derive(seed, "blocks"))
        centres = self.spread * rng.normal(size=(self.n_tasks, self.n_centres, self.block))
        tasks, queries = [], []
        for t in range(self.n_tasks):
            n = self.n_train + self.n_test
            codes = rng.integers(self.n_centres, size=(n, self.n_tasks))
            X = np.concatenate([centres[b, codes[:, b]] for b in range(self.n_tasks)], axis=1)  # (n, n_tasks * block)
            X = X + self.noise * rng.normal(size=X.shape)
            labels = codes[:, t]
            train, test = slice(None, self.n_train), slice(self.n_train, None)
            tasks.append(
                RetrievalTask(
                    f"block {t}", [f"input {i}" for i in range(self.n_train)], labels[train].astype(str).tolist(),
                    choices=[str(c) for c in range(self.n_centres)], vectors=X[train],
                    output_vectors=np.eye(self.n_centres)[labels[train]], instruction_vector=np.eye(self.n_tasks)[t],
                )
            )  # fmt: skip
            queries.append((X[test], labels[test].astype(str)))
        return tasks, queries


@dataclass(frozen=True)
class Sentences:
    """Generated sentences whose topic, tone and tense are three tasks, as vectors of the packaged MiniLM."""

    name: str = "sentences"
    n_train: int = 200
    n_test: int = 40
    feedback_noise: float = 0.3
    k: int = 8

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(repr((asdict(self), _TOPICS, _TONES, _TENSES)).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    def draw(self, seed: int) -> tuple[list[RetrievalTask], list[tuple[np.ndarray, np.ndarray]]]:
        """Return the tasks, and the held-out queries of each as (vectors, labels)."""
        from anytask.lm.embeddings import Embedder

        embedder, n = Embedder(device="cpu"), self.n_train + self.n_test
        tasks, queries = [], []
        for place, what in enumerate(("topic", "tone", "tense")):
            rng = np.random.default_rng(derive(seed, "sentences", what))
            texts, labels = [], []
            for _ in range(n):
                topic, tone, tense = (str(rng.choice(list(kind))) for kind in (_TOPICS, _TONES, _TENSES))
                thing, remark, frame = (
                    str(rng.choice(kind[name])) for kind, name in ((_TOPICS, topic), (_TONES, tone), (_TENSES, tense))
                )
                texts.append(f"{remark} {frame.replace('*', thing)}.")
                labels.append((topic, tone, tense)[place])
            instruction = f"Name the {what} of the sentence."
            X, Y = embedder.embed(texts), embedder.embed(labels)
            train, test = slice(None, self.n_train), slice(self.n_train, None)
            tasks.append(
                RetrievalTask(
                    what,
                    texts[train],
                    labels[train],
                    instruction,
                    vectors=X[train],
                    output_vectors=Y[train],
                    instruction_vector=embedder.embed([instruction])[0],
                )
            )
            queries.append((X[test], np.array(labels[test])))
        return tasks, queries


_TOPICS = {
    "food": ("the soup", "a fresh loaf of bread", "the roast", "two apple pies", "the lentil curry"),
    "sport": ("the tennis match", "the marathon", "a penalty kick", "the cycling race", "the swimming final"),
    "travel": ("the night train", "a trip to the coast", "the hotel by the lake", "the ferry", "the mountain pass"),
    "office": ("the quarterly report", "the budget meeting", "a new contract", "the printer", "the tax form"),
}
_TONES = {
    "glad": ("Wonderful:", "What a joy,", "Happily,", "I could not be more pleased,"),
    "angry": ("This is outrageous:", "I am furious,", "Damn it,", "How dare they,"),
    "neutral": ("For the record,", "As noted,", "According to the list,", "In short,"),
}
_TENSES = {
    "past": ("we dealt with * yesterday", "they had * last week", "nobody forgot * that day"),
    "present": ("we are dealing with * now", "they have * at this moment", "nobody forgets * these days"),
    "future": ("we will deal with * tomorrow", "they are going to have * next week", "nobody will forget * then"),
}


class ScriptedFeedback:
    """A language model by rule: 2 for a demonstration with the query's label, 0 for any other, plus fixed noise.

    The noise of a (task, query, demonstration) is the same whenever it is asked.
    """

    kind = "sim"

    def __init__(self, seed: int = 0, noise: float = 0.3) -> None:
        self.seed = seed
        self.noise = noise
        self.name = f"scripted:{seed}:{noise}"
        self.calls = 0

    def __call__(self, task: RetrievalTask, query: int, demos: Sequence[int]) -> list[float]:
        self.calls += len(demos)
        rng = np.random.default_rng(derive(self.seed, task.name, query))
        noise = self.noise * rng.normal(size=len(task))
        return [2.0 * (task.outputs[z] == task.outputs[query]) + float(noise[z]) for z in demos]


class CosineRetriever:
    """Retrieve the examples whose vectors are most similar to the query's; nothing is trained.

    Parameters
    ----------
    seed : int, default 0
        Taken for the sake of a common signature.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, tasks: Sequence[RetrievalTask], lm: Any, progress: Any = None) -> CosineRetriever:
        """Index the tasks' vectors."""
        self._indexes = {task.name: VectorIndex("cosine").fit(np.asarray(task.vectors)) for task in tasks}
        return self

    def find(self, task: str, vectors: Any, k: int) -> np.ndarray:
        """Return (n, k) indices of the examples most similar to each query."""
        return self._indexes[task].search(vectors, k)[1]


class RetrievalBlocks(Problem):
    """Retrieve helpful demonstrations in the world of blocks.

    An entrant's class is made with its ``params`` and ``seed``, trained with ``fit(tasks, feedback)``, and asked for
    ``retrieve(task, vectors=..., k=8)``, or ``find(task, vectors, k)``.
    """

    key = "retrieval-blocks"
    title = "Demonstrations for several tasks at once"
    metrics = (
        Metric("helpful", "Share of retrieved demonstrations with the query's label"),
        Metric("mined_gain", "Rise of the mean score of the five best candidates from first to last round"),
    )
    options: ClassVar[Mapping[str, tuple[Any, str]]] = {
        "n_train": (300, "training examples per task"),
        "n_test": (60, "held-out queries per task"),
        "noise": (0.7, "standard deviation of a block around its centre"),
        "feedback_noise": (0.3, "standard deviation of the noise of the scripted scores"),
    }

    def load(self, source: Any = "blocks", **options: Any) -> Blocks | Sentences:
        """Return the world ``"blocks"``, or ``"sentences"`` (which has no ``noise``)."""
        if source not in ("blocks", "sentences"):
            raise BadData(f"the built-in worlds are 'blocks' and 'sentences', got {source!r}")
        return Blocks(**options) if source == "blocks" else Sentences(**options)

    def baselines(self, data: Blocks | Sentences) -> tuple[Entrant, ...]:
        """Return plain cosine."""
        return (Entrant("cosine", "anytask.claims.incontext.udr_blocks:CosineRetriever", role="baseline"),)

    def run(
        self, entrant: Entrant, data: Blocks | Sentences, seed: int, progress: Callable[[float], None] | None = None
    ) -> Outcome:
        """Train on the tasks of this seed, and retrieve for their held-out queries."""
        tasks, queries = data.draw(seed)
        feedback = ScriptedFeedback(seed, data.feedback_noise)
        system = entrant.load()(**{"seed": seed, **entrant.params}).fit(tasks, feedback, progress=progress)
        shares = []
        for task, (X, labels) in zip(tasks, queries):
            if hasattr(system, "find"):
                found = system.find(task.name, X, data.k)
            else:
                found = np.array([one.indices for one in system.retrieve(task.name, vectors=X, k=data.k)])
            shares.append(float(np.mean(np.array(task.outputs)[found] == labels[:, None])))
        metrics = {"helpful": float(np.mean(shares))}
        details: dict[str, Any] = {"helpful_by_task": shares}
        history = getattr(system, "history_", None)
        if history:
            details["history"] = history
            metrics["mined_gain"] = float(np.mean(history[-1]["top5"]) - np.mean(history[0]["top5"]))
        return Outcome(metrics, details, {"lm_calls": feedback.calls}, kind="sim")
