"""Rivals that match signed sentences; signs of another domain without labels; and sentences signed by real digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import normalize
from torch import Tensor, nn

from anytask.core.rng import derive, isolated
from anytask.core.settings import Settings, real, whole
from anytask.core.training import train
from anytask.datasets.labelled import load_labelled
from anytask.datasets.signing import SIGNS, WIDTH
from anytask.parts.contrastive import maxsim_scores
from anytask.pretrain import DomainEncoder
from anytask.pretrain.pair_baselines import DualEncoder
from anytask.problems.base import Entrant, Metric, Outcome
from anytask.problems.options import Options
from anytask.problems.paired_retrieval import PairedRetrieval
from anytask.problems.paired_retrieval.data import Drawn, GeneratedSet, PairedOptions, Ranking
from anytask.problems.training import Builtin, LoadedData, Progress, TrainingProblem


class MaxSimEncoder(DualEncoder):
    """Two towers, compared by the best partner of each token, in both directions: the loss is the dual encoder's."""

    def _score(self, a: Tensor, b: Tensor, mask_a: Tensor, mask_b: Tensor) -> Tensor:
        return 0.5 * (maxsim_scores(a, b, mask_a, mask_b) + maxsim_scores(b, a, mask_b, mask_a).T)


class WordRidge(Settings):
    """The plain reference: words are predicted from the sum of the vectors by ridge regression, and compared."""

    def fit(self, left: list[np.ndarray], right: list[str]) -> Self:
        """Learn which words stand where."""
        self.words_ = CountVectorizer(token_pattern=r"\S+", binary=True).fit(right)
        self.ridge_ = Ridge(1.0).fit(_sums(left), self.words_.transform(right).toarray())
        return self

    def scores(self, left: list[np.ndarray], right: list[str]) -> np.ndarray:
        """Return cosines of centered predictions and sentences."""
        found = self.ridge_.predict(_sums(left)) - self.ridge_.intercept_
        said = self.words_.transform(right).toarray() - self.ridge_.intercept_
        return normalize(found) @ normalize(said).T


def _sums(sequences: list[np.ndarray]) -> np.ndarray:
    return np.stack([sequence.sum(0) for sequence in sequences])


class CopyOnVectors(DomainEncoder):
    """A domain-aware encoder of single vectors, for whose classifier the problem's stands in."""

    encoder = nn.Identity()
    window = 1
    merge = 0
    suppress = 0
    batch_size = 16


class ShiftedOptions(Options):
    """How many vectors there are, and how far the domain is from where the classifier learned."""

    n: int = whole(2000, "vectors of the new domain, without labels")
    tested: int = whole(2000, "vectors tested on")
    labelled: int = whole(4000, "labelled vectors of the old domain")
    shift: float = real(0.5, "angle of the rotation between both, in radians", at_least=0)
    noise: float = real(0.8, "deviation of the noise", at_least=0)


@dataclass(frozen=True)
class ShiftedData(LoadedData):
    """The name of a world that a seed draws anew."""

    def vectors(self, seed: int, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors (n, 16) of one part ("labelled", "n" or "tested"), and their signs."""
        o, world = self.options, np.random.default_rng(derive(seed, "shifted signs"))
        prototypes, plane = world.normal(size=(SIGNS, WIDTH)), np.linalg.qr(world.normal(size=(WIDTH, WIDTH)))[0]
        rng = np.random.default_rng(derive(seed, "shifted signs", part))
        if part != "labelled":
            turn = np.kron(
                np.eye(WIDTH // 2), [[np.cos(o.shift), -np.sin(o.shift)], [np.sin(o.shift), np.cos(o.shift)]]
            )
            prototypes = prototypes @ plane @ turn @ plane.T
        y = rng.integers(SIGNS, size=getattr(o, part))
        return (prototypes[y] + o.noise * rng.normal(size=(len(y), WIDTH))).astype(np.float32), y


class ShiftedSigns(TrainingProblem):
    """Name signs of a new domain without its labels, from a classifier of another domain.

    The new domain's prototypes are the old one's, turned in each of eight planes.
    """

    key: ClassVar[str] = "shifted-signs"
    title: ClassVar[str] = "Shifted signs"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "Accuracy in the new domain"),
        Metric("labels", "Accuracy of the labels that are taken"),
        Metric("sure", "Share of the vectors that are labelled"),
    )
    needs: ClassVar[tuple[str, ...]] = ("fit(sequences)", "predict_proba(windows)")
    options_class = ShiftedOptions

    def load(self, source: Any, **options: Any) -> ShiftedData:
        """Return a world with checked options; ``source`` is a name for the report."""
        return ShiftedData(Builtin(source), self.check_options(options))

    def baselines(self, data: Any) -> tuple[Entrant, ...]:
        """Return none: the claim names them."""
        return ()

    def train(self, entrant: Entrant, data: ShiftedData, seed: int, progress: Progress) -> Any:
        """Return an encoder that has seen the new domain's vectors, of the seed's classifier."""
        x, _ = data.vectors(seed, "n")
        net = source_classifier(*data.vectors(seed, "labelled"), seed)
        return entrant.make(seed=seed, encoder=net).fit(list(x[:, None]), progress=progress)

    def test(
        self, entrant: Entrant, trained: DomainEncoder, data: ShiftedData, seed: int, progress: Progress
    ) -> Outcome:
        """Name new vectors of the new domain."""
        x, y = data.vectors(seed, "tested")
        right = trained.predict_proba(x[:, None]).argmax(1) == y
        taken, own = trained.segments_, data.vectors(seed, "n")[1]
        labels = float((taken[:, 1] == own[taken[:, 0]]).mean())
        return Outcome({"accuracy": float(right.mean()), "labels": labels, "sure": trained.sure_})


def source_classifier(x: np.ndarray, y: np.ndarray, seed: int) -> nn.Module:
    """Return a network of two layers that names the signs of windows (n, 1, 16), trained on labelled vectors."""
    X, labels = torch.from_numpy(x)[:, None], torch.from_numpy(y)
    with isolated(derive(seed, "source classifier")):
        net = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, SIGNS))
        adam = torch.optim.Adam(net.parameters(), 3e-3)

        def loss(rows: Tensor) -> Tensor:
            return nn.functional.cross_entropy(net(X[rows]), labels[rows])

        train(net, lambda step: torch.randint(len(X), (64,)), loss, steps=600, optimizer=adam)
    return net


class DigitSigningOptions(PairedOptions):
    """How many pairs there are."""

    n: int = whole(1000, "pairs to learn from")
    tested: int = whole(200, "pairs to test on")


class DigitSigning(PairedRetrieval):
    """Match sequences of real digits with sentences that name them in another order."""

    key = "digit-signing"
    options_class = DigitSigningOptions

    def load(self, source: Any, **options: Any) -> DigitSigned:
        """Return the world that a seed draws; ``source`` is a name for the report."""
        return DigitSigned(Builtin(source), self.check_options(options))  # type: ignore[arg-type]


class DigitSigned(GeneratedSet):
    """Sequences of handwritten digits in four positions, as 40 signs; test sequences show digits of their own."""

    kinds = ("sequences", "texts")

    def draw(self, seed: int) -> Drawn:
        """Return the pairs of a seed."""
        X, y, order = digit_vectors()
        rng = np.random.default_rng(derive(seed, "digit signing"))

        def drawn(count: int, rows: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
            sequences, sentences = [], []
            for _ in range(count):
                signs = rng.choice(40, rng.integers(3, 7), replace=False)
                steps = np.repeat(signs, rng.integers(1, 3, size=len(signs)))
                shown = [X[sign // 10, rng.choice(rows[y[rows] == sign % 10])] for sign in steps]
                sequences.append(np.stack(shown))
                sentences.append(" ".join(f"{_TURNS[sign // 10]}{sign % 10}" for sign in rng.permutation(signs)))
            return sequences, sentences

        half = len(order) // 2
        known = {"": Ranking(*drawn(self.options.tested, order[half:]), np.eye(self.options.tested, dtype=bool))}
        return Drawn({"": drawn(self.options.n, order[:half])}, known, known)


_TURNS = ("upright", "left", "inverted", "right")


@lru_cache(maxsize=1)
def digit_vectors() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return principal components of digits in four positions (4, n, 32), labels (n,), and an order of them."""
    data = load_labelled("mnist-5k")
    images = np.asarray(data.X[np.arange(len(data.y))], dtype=np.float32)[:, 0]
    turned = np.stack([np.rot90(images, k, axes=(1, 2)).reshape(len(images), -1) for k in range(4)])
    order = np.random.default_rng(0).permutation(len(images))
    components = PCA(32, random_state=0).fit(turned[:, order[: len(order) // 2]].reshape(-1, turned.shape[2]))
    found = components.transform(turned.reshape(-1, turned.shape[2])).reshape(4, len(images), 32)
    return (found / found.std()).astype(np.float32), np.asarray(data.y), order
