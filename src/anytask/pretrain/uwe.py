"""UWE: one encoder of texts, trained on several graphs of pairs at once, that ranks any list of targets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import check_number, choice, flag, free, real, whole
from anytask.datasets.pairs import aligned, alike
from anytask.parts.contrastive import (
    contrastive_loss,
    cosine_scores,
    late_interaction_scores,
    maxsim_scores,
    one_hot_target,
    pooled_attention_scores,
    token_scores,
)
from anytask.pretrain.pair_baselines import pooled
from anytask.pretrain.parts.bags import Bags
from anytask.pretrain.parts.item_towers import Encoded, encoder_field, item_tower
from anytask.pretrain.parts.items import Items, Pairs, Tokens, read_pairs
from anytask.pretrain.parts.pairs import PairBatch, PairEncoder, Sides

__all__ = ["UWE"]

#: Scorer -> what :func:`~anytask.parts.contrastive.token_scores` calls it.
_OF_TOKENS: dict[str, Any] = {
    "both": "both", "query_to_target": "rows", "target_to_query": "columns", "maxsim": "maxsim",
}  # fmt: skip
#: Products of tokens at a time: what they are turned into stays in the processor's cache.
_AT_ONCE = 2**18
#: So many items of the other side, and at most so many numbers, are worth to sort texts by their lengths.
_MANY, _COPIED = 32, 2**25


def per_graph(name: str, default: float, help: str, **bounds: float) -> Any:
    """Return a field for a number, or a mapping of the names of graphs to numbers."""

    def check(value: Any) -> None:
        if isinstance(value, Mapping) and not value:
            raise ValueError(f"{name} must be a number, or a mapping of graphs to numbers, got {{}}")
        for one in value.values() if isinstance(value, Mapping) else [value]:
            check_number(one, name, **bounds)

    return free(default, f"{help}; or a mapping of graphs to numbers", check)


class UWE(PairEncoder):
    """Unified Work Embeddings: one text encoder for both sides, whose tokens meet in a soft late interaction.

    Pick it to match texts to labels, skills, titles or whatever else is said in words, where pairs come from several
    sources, a text has several right answers, and targets come that no pair has shown. It was published for the
    labour market; nothing in it is of that market.

    Every step draws items of the side that the graphs share (skills), and for each, in each graph, a partner (a job, a
    sentence, an alias). All edges among the drawn items are positives, whichever were drawn: what belongs together is
    nobody's negative.

    Parameters
    ----------
    encoder : None, str, path or torch.nn.Module
        Of both sides. None: a small tower that learns a vector for each word; "minilm", or another text model by name
        or folder; or a module that gives tokens (n, t, d) and their mask (n, t).
    width : int, default 64
        Width of a token in the small tower.
    max_tokens : int, default 64
        Tokens of a text that are read.
    scorer : {"both", "query_to_target", "target_to_query", "target_mean", "maxsim", "mean_pool"}, default "both"
        Who attends to whom. A token of the query takes the cosines of the target's tokens, weighted by the softmax of
        the inner products; or the other way; or the mean of both. ``target_mean``: query tokens attend to the target's
        mean. ``maxsim`` takes the best token alone; ``mean_pool`` compares means. The left items are the queries.
    tau_a : float, default 0.1
        Temperature of the attention; near 0 it is the best token's cosine, at infinity their mean.
    scale_dot : bool, default False
        Divide inner products by the root of the width before the attention.
    reduce : {"mean", "sum"}, default "mean"
        Over the tokens that attend. The paper's sum favours long queries where queries are ranked for a target.
    positives : {"all", "one"}, default "all"
        Every edge among the items of a batch, or the drawn partner alone.
    alpha, tau : float > 0, or mapping of graphs to such, default 1 and 0.05
        Weight of a graph's loss, and the temperature of its scores.
    concatenation : float in [0, 1], or mapping of graphs to such, default 0
        How often a partner (a sentence) is joined with another one of its graph, before or after it, that shares none
        of the drawn items with it. What the other one belongs with is no negative then.
    shared : {"right", "left"}, default "right"
        The side that graphs share, by whose items batches are drawn.
    lr, weight_decay, warmup, epochs, batch_size, precision, seed, device
        See :class:`~anytask.pretrain.parts.pairs.PairEncoder`; a batch has as many shared items, and an epoch as many
        steps as it takes to draw the pairs of the largest graph.

    Attributes
    ----------
    net_ : torch.nn.Module
        The encoder.

    Examples
    --------
    >>> jobs = [(f"{job} wanted", skill) for job, skill in [("nurse", "care"), ("welder", "steel"), ("baker", "dough")]]
    >>> model = UWE.from_preset("small", epochs=60).fit({"jobs": jobs, "aliases": [("bread", "dough")]})
    >>> model.rank(["a bread baker"], ["steel", "dough", "care"], k=1)[0].tolist()
    [[1]]

    References
    ----------
    "Unified Work Embeddings: Contrastive Learning of a Bidirectional Multi-task Ranker", 2025, arXiv:2511.07969.
    """

    sees: ClassVar[str] = "train"
    takes: ClassVar[str] = "graphs"
    KINDS: ClassVar[tuple[str | None, str | None]] = ("texts", "texts")
    INFERENCE: ClassVar[tuple[str, ...]] = ("scorer", "tau_a", "scale_dot", "reduce")
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"width": 24, "lr": 0.01, "epochs": 4, "batch_size": 48, "scale_dot": True},
        "minilm": {"encoder": "minilm", "lr": 5e-5, "epochs": 3, "batch_size": 32},
        "paper": {
            "encoder": "sentence-transformers/all-mpnet-base-v2", "lr": 8e-5, "batch_size": 512, "epochs": 1,
            "reduce": "sum", "alpha": {"job": 1.0, "sentence": 0.5, "alias": 0.5},
            "tau": {"job": 0.05, "sentence": 0.02, "alias": 0.02},
            "concatenation": {"job": 0.0, "sentence": 0.8, "alias": 0.0},
        },
    }  # fmt: skip

    encoder: Any = encoder_field("of both sides; None: a small tower")
    width: int = whole(64, "width of a token in the small tower")
    max_tokens: int = whole(64, "tokens of a text that are read")
    scorer: str = choice("both", (*_OF_TOKENS, "target_mean", "mean_pool"), "who attends to whom")
    tau_a: float = real(0.1, "temperature of the attention", above=0)
    scale_dot: bool = flag(False, "divide inner products by the root of the width before the attention")
    reduce: str = choice("mean", ("mean", "sum"), "over the tokens that attend")
    positives: str = choice("all", ("all", "one"), "every edge of a batch, or the drawn partner alone")
    alpha: Any = per_graph("alpha", 1.0, "weight of a graph's loss", above=0)
    tau: Any = per_graph("tau", 0.05, "temperature of a graph's scores", above=0)
    concatenation: Any = per_graph(
        "concatenation", 0.0, "how often a partner is joined to another", at_least=0, at_most=1
    )
    shared: str = choice("right", ("right", "left"), "the side that graphs share, by which batches are drawn")

    def fit(self, left: Any, right: Any = None, *, progress: Progress | None = None) -> Self:
        """Learn which texts belong together, in one graph or several.

        Parameters
        ----------
        left : sequence of str, or mapping of str to pairs
            The left texts, or graphs by name: each a list of pairs (left, right), or two aligned sides.
        right : sequence of str, optional
            The right texts, where there are no graphs. Texts that are equal but for case and spaces are one, in all
            graphs.
        progress : callable, optional
            Told the finished share, in [0, 1].

        Raises
        ------
        ValueError, TypeError
            For no graph, sides of different lengths, empty texts, a graph for which alpha, tau or concatenation holds
            no number.
        NotFinite
            If training made a NaN or infinite weight; the model is left as it was.
        """
        if not isinstance(left, Mapping):
            return self._fit({"": read_pairs(left, right, self.KINDS)}, progress)
        if right is not None or not left:
            raise ValueError("left must be a mapping of at least one graph, and right is left out then")
        graphs = {str(name): read_pairs(*aligned(str(name), given), self.KINDS) for name, given in left.items()}
        for setting in ("alpha", "tau", "concatenation"):
            for name in graphs:
                self._of(setting, name)
        return self._fit(graphs, progress)

    # -- batches --------------------------------------------------------------------------------------------------

    def _batches(self, graphs: dict[str, Pairs]) -> Iterator[Any]:
        """Yield, for each step, the batch of each graph that has partners of the drawn items."""
        place = 1 if self.shared == "right" else 0
        texts = [getattr(pairs, self.shared).values for pairs in graphs.values()]
        codes = torch.from_numpy(alike([text for some in texts for text in some])).split([len(some) for some in texts])
        known, order = torch.cat(codes).unique(), {}
        for (name, pairs), code in zip(graphs.items(), codes):
            owner = torch.searchsorted(known, code)[pairs.edges[:, place]]  # (m,)
            order[name] = owner.argsort(stable=True), owner.bincount(minlength=len(known))
        for _ in range(self._steps(graphs)):
            drawn = torch.randperm(len(known))[: self.batch_size]
            batches = {}
            for name, (edges, counts) in order.items():
                mine = drawn[counts[drawn] > 0]
                if len(mine):
                    start = counts.cumsum(0)[mine] - counts[mine]
                    chosen = start + (torch.rand(len(mine)) * counts[mine]).long()
                    batches[name] = PairBatch.of(graphs[name], graphs[name].edges[edges[chosen]])
            yield batches

    def _steps(self, graphs: dict[str, Pairs]) -> int:
        return max(math.ceil(len(pairs.edges) / self.batch_size) for pairs in graphs.values())

    # -- loss -----------------------------------------------------------------------------------------------------

    def _loss(self, batches: Any) -> Tensor:
        losses = [self._of("alpha", name) * self._graph_loss(name, batch) for name, batch in batches.items()]
        return torch.stack(losses).sum()

    def _graph_loss(self, name: str, batch: PairBatch) -> Tensor:
        """Return the many-to-many InfoNCE of a graph: of rows and of columns, each over all of its positives."""
        batch, candidates = self._concatenated(batch, self._of("concatenation", name))
        S = self._score_batch(batch) / self._of("tau", name)
        P, candidates = batch.positive.to(S.device), candidates.to(S.device)
        if self.positives == "one":
            rows, columns = batch.drawn.T.to(S.device)
            S, candidates = S[rows][:, columns], candidates[rows][:, columns]
            P = one_hot_target(len(S), device=S.device)
        return 2 * contrastive_loss(S, P, candidates=candidates, symmetric=True)

    def _concatenated(self, batch: PairBatch, share: float) -> tuple[PairBatch, Tensor]:
        """Join a share of the partners with others of their graph; return the batch, and who may compete (n, m)."""
        candidates = torch.ones_like(batch.positive)
        if not share:
            return batch, candidates
        side, rows = ("left", batch.rows) if self.shared == "right" else ("right", batch.columns)
        items = getattr(batch.pairs, side)
        other = torch.randint(len(items), (len(rows),))
        if side == "left":
            own, others = batch.positive, batch.pairs.positive(other, batch.columns)
        else:
            own, others = batch.positive.T, batch.pairs.positive(batch.rows, other).T
        joined = (torch.rand(len(rows)) < share) & ~(own & others).any(1) & (other != rows)
        others = others & joined[:, None]
        texts = []
        for text, more, join, before in zip(items.taken(rows), items.taken(other), joined, torch.rand(len(rows)) < 0.5):
            texts.append((f"{more} {text}" if before else f"{text} {more}") if join else text)
        told: dict[str, Any] = {side: Items("texts", texts)}
        named: dict[str, Any] = {"rows" if side == "left" else "columns": torch.arange(len(rows))}
        return replace(batch, pairs=replace(batch.pairs, **told), **named), candidates & ~(
            others if side == "left" else others.T
        )

    def _of(self, setting: str, graph: str) -> float:
        value = getattr(self, setting)
        if not isinstance(value, Mapping):
            return value
        if graph not in value:
            raise ValueError(f"{setting} holds no number for the graph {graph!r}; it has {', '.join(map(str, value))}")
        return value[graph]

    # -- encoder and scorer ---------------------------------------------------------------------------------------

    def _note(self, graphs: dict[str, Pairs]) -> None:
        super()._note(graphs)
        known = sorted({word for facts in self.facts_.values() for word in facts["words"]})
        self.facts_ = {side: {"kind": "texts", "words": known} for side in self.facts_}

    def _network(self) -> Sides:
        tower = item_tower(
            self.facts_["left"], self.encoder, width=self.width, max_tokens=self.max_tokens,
            seed=derive(self.seed, "tower"),
        )  # fmt: skip
        return OneTower(tower)

    def _score(self, a: Tensor, b: Tensor, mask_a: Tensor, mask_b: Tensor) -> Tensor:
        if self.scorer == "mean_pool":
            return cosine_scores(pooled(a, mask_a), pooled(b, mask_b))
        if self.scorer == "maxsim":
            return maxsim_scores(a, b, mask_a, mask_b, reduce=self.reduce)  # type: ignore[arg-type]
        how = {"temperature": self._temperature(a.shape[-1])}
        if self.scorer == "target_mean":
            return pooled_attention_scores(a, b, mask_a, mask_b, **how)
        return late_interaction_scores(
            a, b, mask_a, mask_b, reduce=self.reduce, direction=_OF_TOKENS[self.scorer], **how  # type: ignore[arg-type]
        )  # fmt: skip

    def _temperature(self, width: int) -> float:
        return self.tau_a * (math.sqrt(width) if self.scale_dot else 1.0)

    def _scored(self, a: Bags, b: Bags, rows: Tensor, columns: Tensor) -> Tensor:
        """Multiply all tokens at once, where they lie, and lay out the products instead of the vectors."""
        if self.scorer not in _OF_TOKENS:
            return super()._scored(a, b, rows, columns)
        (x, norms_a, place_a, mask_a), (y, norms_b, place_b, mask_b) = (
            self._laid_out(bags, places) for bags, places in ((a, rows), (b, columns))
        )
        D = x @ y.T
        if not bool(mask_b.all()):
            D = D.index_select(1, place_b.T.reshape(-1)).view(len(x), *place_b.T.shape)
        else:
            D = D.view(len(x), *place_b.shape).mT
        D = D.index_select(0, place_a.reshape(-1)).view(*place_a.shape, *place_b.T.shape)  # (n, p, q, m)
        return token_scores(
            D, norms_a[place_a], norms_b[place_b], mask_a, mask_b, scorer=_OF_TOKENS[self.scorer],
            temperature=self._temperature(x.shape[1]), reduce=self.reduce,  # type: ignore[arg-type]
        ).cpu()  # fmt: skip

    def scores(self, left: Any, right: Any) -> Any:
        """Return how well each left text fits each right one; see :meth:`PairEncoder.scores`."""
        sides, orders = [], []
        given = self._tokens(left, "left"), self._tokens(right, "right")
        for name, bags, other in (("left", given[0], given[1]), ("right", given[1], given[0])):
            # Texts of like lengths together leave little to pad, where that is worth a copy of their tokens.
            sort = len(other) >= _MANY and bags.tokens.numel() <= _COPIED
            order = bags.lengths.argsort(stable=True) if sort else torch.arange(len(bags))
            sides.append(Tokens(bags.only(order) if sort else bags, name))
            orders.append(order.argsort().numpy() if sort else slice(None))
        return super().scores(*sides)[orders[0]][:, orders[1]]

    def _laid_out(self, bags: Bags, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return tokens of successive bags, their norms, and where those of each bag are (n, t), with a mask."""
        ends = bags.lengths.cumsum(0)
        first, last = int(ends[rows[0]] - bags.lengths[rows[0]]), int(ends[rows[-1]])
        lengths = bags.lengths[rows]
        place = torch.arange(int(lengths.max()))
        mask = place < lengths[:, None]
        starts = lengths.cumsum(0) - lengths
        places = torch.where(mask, starts[:, None] + place, 0)
        found = bags.tokens[first:last], bags.norms[first:last].clamp_min(1e-8), places, mask
        return tuple(one.to(self._device) for one in found)  # type: ignore[return-value]

    def _room(self) -> int:
        return min(_AT_ONCE, super()._room())


class OneTower(Sides):
    """One tower for both sides."""

    def __init__(self, tower: nn.Module) -> None:
        nn.Module.__init__(self)
        self.tower = tower

    def forward(self, items: Items, rows: Tensor, side: str) -> Encoded:
        return self.tower(items.taken(rows))
