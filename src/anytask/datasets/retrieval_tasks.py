"""Tasks that demonstrations are retrieved for, and two generated worlds of them in which what helps is known.

In :class:`Blocks` every input is made of blocks, each a noisy copy of one of a few centres; the label of task t is the
centre of block t. A demonstration helps when its label is the query's. Plain similarity looks at all blocks and so
finds it only now and then; a retriever that was told the task, and learned what it means, finds it nearly always.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from anytask.core.checks import check_numbers
from anytask.core.rng import derive
from anytask.lm.protocol import check_text, check_texts
from anytask.lm.search import as_vectors


@dataclass
class RetrievalTask:
    """One task: its instruction and its worked examples.

    Parameters
    ----------
    name : str
        Unique among the tasks of a retriever.
    inputs : sequence of n str
        The examples' inputs (any words where only vectors are used).
    outputs : sequence of n str
        The examples' answers.
    instruction : str
        One line that says what the task is; it is how the retriever tells tasks apart.
    choices : sequence of str, optional
        All possible answers of a classification or multiple-choice task.
    vectors : array of shape (n, d), optional
        Vectors that stand for the inputs, instead of their embeddings.
    output_vectors : array of shape (n, e), optional
        Vectors that stand for the answers.
    instruction_vector : array of shape (c,), optional
        Vector that stands for the instruction.
    """

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    instruction: str = ""
    choices: Sequence[str] | None = None
    vectors: ArrayLike | None = None
    output_vectors: ArrayLike | None = None
    instruction_vector: ArrayLike | None = None

    def __post_init__(self) -> None:
        self.instruction = check_text(self.instruction, f"instruction of task {self.name!r}")
        self.inputs = check_texts(self.inputs, f"inputs of task {self.name!r}")
        self.outputs = check_texts(self.outputs, f"outputs of task {self.name!r}")
        if not self.inputs or len(self.inputs) != len(self.outputs):
            raise ValueError(
                f"task {self.name!r} needs as many outputs as inputs, at least one: "
                f"got {len(self.inputs)} and {len(self.outputs)}"
            )
        for field in ("vectors", "output_vectors"):
            value = getattr(self, field)
            if value is not None:
                value = as_vectors(value, f"{field} of task {self.name!r}")
                if len(value) != len(self.inputs):
                    raise ValueError(
                        f"{field} of task {self.name!r} has {len(value)} rows for {len(self.inputs)} examples"
                    )
                setattr(self, field, value)
        if (self.output_vectors is not None or self.instruction_vector is not None) and self.vectors is None:
            raise ValueError(f"task {self.name!r} has vectors for other parts, but none for its inputs")
        if self.instruction_vector is not None:
            self.instruction_vector = as_vectors(
                check_numbers(self.instruction_vector, f"instruction_vector of task {self.name!r}").reshape(1, -1),
                f"instruction_vector of task {self.name!r}",
            )[0]
        if self.choices is not None:
            self.choices = check_texts(self.choices, f"choices of task {self.name!r}")
            strange = sorted(set(self.outputs) - set(self.choices))
            if strange:
                raise ValueError(f"task {self.name!r} has the output {strange[0]!r}, which is not one of its choices")

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def fingerprint(self) -> str:
        """Hash of everything a language model reads of the task."""
        digest = hashlib.sha256()
        for text in (self.name, *(self.choices or ()), "", *self.inputs, "", *self.outputs):
            digest.update(f"{len(text)}:".encode() + text.encode("utf-8", "surrogatepass"))
        if self.vectors is not None:
            digest.update(np.asarray(self.vectors).tobytes())
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Blocks:
    """The numbers of the world; a run's seed draws its examples."""

    name: str = "blocks"
    n_tasks: int = 3
    n_train: int = 300
    n_test: int = 60
    block: int = 8
    n_centers: int = 6
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
        centers = self.spread * rng.normal(size=(self.n_tasks, self.n_centers, self.block))
        tasks, queries = [], []
        for t in range(self.n_tasks):
            n = self.n_train + self.n_test
            codes = rng.integers(self.n_centers, size=(n, self.n_tasks))
            X = np.concatenate([centers[b, codes[:, b]] for b in range(self.n_tasks)], axis=1)  # (n, n_tasks * block)
            X = X + self.noise * rng.normal(size=X.shape)
            labels, k = codes[:, t], self.n_train
            tasks.append(
                RetrievalTask(
                    f"block {t}", [f"input {i}" for i in range(k)], labels[:k].astype(str).tolist(),
                    choices=[str(c) for c in range(self.n_centers)], vectors=X[:k],
                    output_vectors=np.eye(self.n_centers)[labels[:k]], instruction_vector=np.eye(self.n_tasks)[t],
                )
            )  # fmt: skip
            queries.append((X[k:], labels[k:].astype(str)))
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
        return hashlib.sha256(repr((asdict(self), *_KINDS)).encode()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    def draw(self, seed: int) -> tuple[list[RetrievalTask], list[tuple[np.ndarray, np.ndarray]]]:
        """Return the tasks, and the held-out queries of each as (vectors, labels)."""
        from anytask.lm.embeddings import Embedder

        embedder, k = Embedder(device="cpu"), self.n_train
        tasks, queries = [], []
        for place, what in enumerate(("topic", "tone", "tense")):
            rng = np.random.default_rng(derive(seed, "sentences", what))
            texts, labels = [], []
            for _ in range(k + self.n_test):
                names = [str(rng.choice(list(kind))) for kind in _KINDS]
                thing, remark, frame = (str(rng.choice(kind[name])) for kind, name in zip(_KINDS, names))
                texts.append(f"{remark} {frame.replace('*', thing)}.")
                labels.append(names[place])
            instruction = f"Name the {what} of the sentence."
            X, Y = embedder.embed(texts), embedder.embed(labels)
            vector = embedder.embed([instruction])[0]
            vectors = {"vectors": X[:k], "output_vectors": Y[:k], "instruction_vector": vector}
            tasks.append(RetrievalTask(what, texts[:k], labels[:k], instruction, **vectors))
            queries.append((X[k:], np.array(labels[k:])))
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
_KINDS: tuple[Mapping[str, Sequence[str]], ...] = (_TOPICS, _TONES, _TENSES)


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
