"""Contrastive losses: one loss on a similarity matrix and a target matrix, with the targets and scorers that fill them.

A contrastive method is a choice of three things: how two sides are compared (a *scorer* makes the similarity matrix),
which pairs belong together (a *target* matrix), and who may compete (a mask). :func:`contrastive_loss` takes the three;
:func:`supcon` and :func:`info_nce` are the two choices with names of their own. Each of the three may be a
:class:`LazyMatrix`, of which no more than a chunk of rows is ever held.

References
----------
Oord, Li, Vinyals, 2018, "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748.
Khosla et al., 2020, "Supervised Contrastive Learning", arXiv:2004.11362.
Khattab, Zaharia, 2020, "ColBERT", arXiv:2004.12832 (MaxSim).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True)
class LazyMatrix:
    """Matrix of which rows are computed when they are asked for.

    Parameters
    ----------
    shape : (n, m)
    block : callable
        Maps a slice of the rows and a slice of the columns to that block, a Tensor; called again in backward passes.

    Examples
    --------
    >>> a, b = torch.eye(3), torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    >>> S = LazyMatrix((3, 2), lambda i, j: a[i] @ b[j].T)
    >>> S[1:], S.T[:1]
    (tensor([[2., 5.],
            [3., 6.]]), tensor([[1., 2., 3.]]))
    """

    shape: tuple[int, int]
    block: Callable[[slice, slice], Tensor]

    def __getitem__(self, rows: slice) -> Tensor:
        return self.block(rows, slice(None))

    @property
    def T(self) -> LazyMatrix:
        """The transpose."""
        return LazyMatrix((self.shape[1], self.shape[0]), lambda i, j: self.block(j, i).T)

    def whole(self, chunk: int) -> Tensor:
        """Return all of it, of which each ``chunk`` rows are computed again in the backward pass.

        For scorers of which what they hold on the way is larger than their result, as late interaction's.
        """
        rows = _chunks(self.shape[0], chunk)
        return torch.cat([cast(Tensor, checkpoint(self.__getitem__, i, use_reentrant=False)) for i in rows])


def contrastive_loss(
    similarity: Tensor | LazyMatrix,
    target: Tensor | LazyMatrix,
    *,
    candidates: Tensor | LazyMatrix | None = None,
    target_columns: Tensor | LazyMatrix | None = None,
    reduction: Reduction = "mean",
    symmetric: bool = False,
    missing: Literal["error", "skip"] = "error",
    chunk: int | None = None,
) -> Tensor:
    """Cross-entropy between a target matrix and the row softmax of a similarity matrix.

    Row i is an anchor, and its loss is ``-sum_j T_ij log softmax_j(S_ij)``, with the softmax over the candidates of the
    row and T scaled so that each row sums to 1. One positive per row gives InfoNCE, several give the "outside" form of
    SupCon (each positive keeps the other positives in its denominator), fractions give soft targets.

    Parameters
    ----------
    similarity : Tensor or LazyMatrix of shape (n, m)
        Scores already divided by their temperature.
    target : Tensor or LazyMatrix of shape (n, m)
        Weights of at least 0: how much j is what i should be similar to. No gradient flows into it.
    candidates : bool Tensor or LazyMatrix of shape (n, m), optional
        Which entries take part in the softmaxes; all by default.
    target_columns : Tensor or LazyMatrix of shape (n, m), optional
        Targets of the column direction, where they are other than ``target`` (columns are scaled to sum to 1).
    reduction : {"mean", "sum", "none"}, default "mean"
        Over the anchors that have a positive; ``"none"`` returns (n,) with 0 for the others.
    symmetric : bool, default False
        Average the loss over rows and the loss over columns.
    missing : {"error", "skip"}, default "error"
        What to do with anchors that have no positive among their candidates.
    chunk : int, optional
        Anchors at a time, of which all is forgotten but the losses, and computed again in the backward pass; all at
        once by default. Losses and gradients are the same to rounding. With lazy matrices memory grows with
        ``chunk (n + m)`` and no more with ``n m``.

    Returns
    -------
    Tensor
        A scalar, or (n,) for ``reduction="none"``.

    Raises
    ------
    ValueError
        If shapes differ, a target is negative, an anchor has no positive (``missing="error"``), or none has.

    Examples
    --------
    >>> S = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    >>> T = torch.tensor([[1, 1, 0], [0, 0, 1]])
    >>> round(contrastive_loss(S, T).item(), 6)
    0.657606

    Thousands of pairs, of which 256 rows are held at a time:

    >>> u, v = torch.eye(4), torch.eye(4)
    >>> S, T = LazyMatrix((4, 4), lambda i, j: u[i] @ v[j].T / 0.1), LazyMatrix((4, 4), lambda i, j: torch.eye(4)[i, j])
    >>> round(contrastive_loss(S, T, symmetric=True, chunk=256).item(), 6)  # log(1 + 3 exp(-10))
    0.000136
    """
    if len(similarity.shape) != 2:
        raise ValueError(f"similarity must have shape (n, m), got {tuple(similarity.shape)}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    named = {"target": target, "candidates": candidates, "target_columns": target_columns}
    for name, matrix in named.items():
        if matrix is not None and matrix.shape != similarity.shape:
            raise ValueError(f"{name} has shape {tuple(matrix.shape)}, similarity has {tuple(similarity.shape)}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if symmetric and reduction == "none" and similarity.shape[0] != similarity.shape[1]:
        raise ValueError("reduction='none' with symmetric=True needs a square similarity matrix")
    rows = _row_loss(similarity, target, candidates, reduction, missing, chunk)
    if not symmetric:
        return rows
    other = (target if target_columns is None else target_columns).T
    columns = _row_loss(similarity.T, other, None if candidates is None else candidates.T, reduction, missing, chunk)
    return 0.5 * (rows + columns)


def _row_loss(
    S: Tensor | LazyMatrix, T: Tensor | LazyMatrix, candidates: Tensor | LazyMatrix | None, reduction: str,
    missing: str, chunk: int | None,
) -> Tensor:  # fmt: skip
    def some(i: slice) -> tuple[Tensor, Tensor]:
        return _anchor_losses(S[i], T[i], None if candidates is None else candidates[i])

    if chunk is None:
        losses, anchors = some(slice(None))
    else:
        parts = [checkpoint(some, i, use_reentrant=False) for i in _chunks(S.shape[0], chunk)]
        losses, anchors = map(torch.cat, zip(*cast(list[tuple[Tensor, Tensor]], parts)))
    if missing == "error" and not bool(anchors.all()):
        raise ValueError(f"anchor {int((~anchors).nonzero()[0])} has no positive among its candidates")
    if not bool(anchors.any()):
        raise ValueError("no anchor has a positive among its candidates")
    if reduction == "mean":
        return losses.mean()
    if reduction == "sum":
        return losses.sum()
    return losses.new_zeros(len(anchors)).masked_scatter(anchors, losses)


def _anchor_losses(S: Tensor, T: Tensor, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the losses of the rows that have a positive, and which these are (n,)."""
    T = T.detach().to(S.dtype)
    if bool((T < 0).any()):
        raise ValueError("targets must be at least 0")
    if candidates is not None:
        S = S.masked_fill(~candidates, -torch.inf)
        T = T.masked_fill(~candidates, 0.0)
    mass = T.sum(dim=1)  # (n,)
    anchors = mass > 0
    if not bool(anchors.all()):
        S, T, mass = S[anchors], T[anchors], mass[anchors]
    weights = T / mass[:, None]
    # A pair outside the target adds nothing, also where its log-probability is -inf.
    return -(weights * S.log_softmax(dim=1).masked_fill(weights == 0, 0.0)).sum(dim=1), anchors


def _chunks(n: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, n, size)]


# -- targets ----------------------------------------------------------------------------------------------------------


def one_hot_target(n: int, *, device: torch.device | str | None = None) -> Tensor:
    """Return the (n, n) identity: row i belongs with column i.

    Examples
    --------
    >>> one_hot_target(2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    return torch.eye(n, device=device)


def label_target(rows: Tensor, columns: Tensor | None = None) -> Tensor:
    """Return the multi-positive target: 1 where the labels of row and column agree.

    Parameters
    ----------
    rows : Tensor of shape (n,)
    columns : Tensor of shape (m,), optional
        By default the rows again, without the diagonal: nobody is their own positive.

    Examples
    --------
    >>> label_target(torch.tensor([0, 1, 0]))
    tensor([[0., 0., 1.],
            [0., 0., 0.],
            [1., 0., 0.]])
    """
    same = (rows[:, None] == (rows if columns is None else columns)[None, :]).float()
    return same.fill_diagonal_(0.0) if columns is None else same


def soft_target(affinity: Tensor, alpha: float, temperature: float = 1.0) -> Tensor:
    """Return ``(1 - alpha) I + alpha softmax(affinity / temperature)``: part of the target goes to similar columns.

    Parameters
    ----------
    affinity : Tensor of shape (n, n)
        Similarity of the n pairs by an outside measure (captions, concepts); detached. ``-inf`` rules a pair out.
    alpha : float in [0, 1]
        Share that leaves the diagonal; 0 is :func:`one_hot_target`.
    temperature : float > 0, default 1.0
        Temperature of the row softmax.

    Raises
    ------
    ValueError
        For a matrix that is not square, or numbers out of range.

    Examples
    --------
    >>> soft_target(torch.zeros(2, 2), alpha=0.4)
    tensor([[0.8000, 0.2000],
            [0.2000, 0.8000]])
    """
    if affinity.ndim != 2 or affinity.shape[0] != affinity.shape[1]:
        raise ValueError(f"affinity must be square, got {tuple(affinity.shape)}")
    if not 0 <= alpha <= 1 or temperature <= 0:
        raise ValueError(f"alpha must lie in [0, 1] and temperature above 0, got {alpha!r} and {temperature!r}")
    R = (affinity.detach() / temperature).softmax(dim=1)
    return (1 - alpha) * torch.eye(len(R), dtype=R.dtype, device=R.device) + alpha * R


def presence_target(rows: Tensor, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return (target, candidates) for n aligned pairs of which some have a side missing.

    A pair takes part, as anchor and as negative, only when both of its sides are there. Use it with
    ``contrastive_loss(..., missing="skip")``.

    Parameters
    ----------
    rows, columns : bool Tensor of shape (n,)
        Whether the row side (column side; all there by default) of each pair is present.

    Examples
    --------
    >>> target, candidates = presence_target(torch.tensor([True, False, True]))
    >>> target.diagonal(), candidates[0]
    (tensor([1., 0., 1.]), tensor([ True, False,  True]))
    """
    there = rows.bool() if columns is None else rows.bool() & columns.bool()
    return torch.diag(there.float()), there[:, None] & there[None, :]


# -- scorers ----------------------------------------------------------------------------------------------------------


def dot_scores(a: Tensor, b: Tensor) -> Tensor:
    """Return inner products (n, m) of rows a (n, d) and b (m, d)."""
    return a @ b.T


def cosine_scores(a: Tensor, b: Tensor, eps: float = 1e-8) -> Tensor:
    """Return cosines (n, m) of rows a (n, d) and b (m, d); a zero vector has cosine 0 with everything.

    Examples
    --------
    >>> cosine_scores(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    tensor([[1., 0.]])
    """
    return F.normalize(a, dim=-1, eps=eps) @ F.normalize(b, dim=-1, eps=eps).T


def pairwise_scores(a: Tensor, b: Tensor, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return (n, m) scores by any function of broadcast pairs, such as a negative distance or a small network.

    Parameters
    ----------
    a, b : Tensor of shape (n, d) and (m, d)
    score : callable
        Maps (n, 1, d) and (1, m, d) to (n, m).

    Examples
    --------
    >>> a = torch.tensor([[0.0, 0.0]])
    >>> pairwise_scores(a, torch.tensor([[3.0, 4.0]]), lambda x, y: -(x - y).norm(dim=-1))
    tensor([[-5.]])
    """
    return score(a[:, None, :], b[None, :, :])


def maxsim_scores(
    a: Tensor,
    b: Tensor,
    mask_a: Tensor | None = None,
    mask_b: Tensor | None = None,
    *,
    reduce: Literal["sum", "mean"] = "mean",
) -> Tensor:
    """Return hard late-interaction scores (n, m): each token of a takes its most cosine-similar token of b.

    Parameters
    ----------
    a, b : Tensor of shape (n, p, d) and (m, q, d)
        Token vectors.
    mask_a, mask_b : bool Tensor of shape (n, p) and (m, q), optional
        Which tokens are real; every item needs one at least.
    reduce : {"sum", "mean"}, default "mean"
        Over the tokens of a.

    Examples
    --------
    >>> a, b = torch.eye(2)[None], torch.tensor([[[2.0, 0.0], [1.0, 1.0]]])
    >>> maxsim_scores(a, b)
    tensor([[0.8536]])
    """
    return _of_tokens(a, b, mask_a, mask_b, "maxsim", 1.0, reduce)


def late_interaction_scores(
    a: Tensor,
    b: Tensor,
    mask_a: Tensor | None = None,
    mask_b: Tensor | None = None,
    *,
    temperature: float,
    reduce: Literal["sum", "mean"] = "mean",
    direction: Literal["rows", "columns", "both"] = "rows",
) -> Tensor:
    """Return soft late-interaction scores (n, m): each token of a attends to the tokens of b and takes their cosines.

    Attention uses raw inner products, so norms matter, and the value is the cosine. For tokens of norm 1 both are the
    same.

    Parameters
    ----------
    a, b, mask_a, mask_b, reduce
        As in :func:`maxsim_scores`.
    temperature : float > 0
        Of the attention; near 0 it picks the token with the largest inner product, at infinity it averages.
    direction : {"rows", "columns", "both"}, default "rows"
        Which tokens attend to those of the other side: those of a, those of b, or the mean of the two scores.

    Examples
    --------
    >>> a, b = torch.eye(2)[None], torch.tensor([[[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    >>> late_interaction_scores(a, b, temperature=0.5)
    tensor([[0.8746]])
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature!r}")
    return _of_tokens(a, b, mask_a, mask_b, direction, temperature, reduce)


def pooled_attention_scores(
    a: Tensor, b: Tensor, mask_a: Tensor | None = None, mask_b: Tensor | None = None, *, temperature: float
) -> Tensor:
    """Return scores (n, m) of which the target is one vector: tokens of a are weighted by how well they fit it.

    With y the mean of b's tokens: ``sum_i softmax_i(a_i . y / temperature) cos(a_i, y)``.

    Parameters
    ----------
    a, b, mask_a, mask_b, temperature
        As in :func:`late_interaction_scores`.

    Examples
    --------
    >>> a, b = torch.eye(2)[None], torch.tensor([[[2.0, 0.0]]])
    >>> pooled_attention_scores(a, b, temperature=0.1)
    tensor([[1.]])
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature!r}")
    mask_a, mask_b = _token_masks(a, b, mask_a, mask_b)
    y = (b * mask_b[..., None]).sum(1) / mask_b.sum(1, keepdim=True)  # (m, d)
    D = torch.einsum("npd,md->npm", a, y)
    A = (D / temperature).masked_fill(~mask_a[:, :, None], -torch.inf).softmax(dim=1)
    return (A * D / _norms(a)[:, :, None] / _norms(y)).sum(dim=1)


def token_scores(
    D: Tensor,
    norms_a: Tensor,
    norms_b: Tensor,
    mask_a: Tensor,
    mask_b: Tensor,
    *,
    scorer: Literal["maxsim", "rows", "columns", "both"],
    temperature: float = 1.0,
    reduce: Literal["sum", "mean"] = "mean",
) -> Tensor:
    """Return late-interaction scores (n, m) of inner products of tokens that are there already.

    Parameters
    ----------
    D : Tensor of shape (n, p, q, m)
        Inner products of the tokens of a (n, p) with those of b (m, q). The targets stand last, so that whatever runs
        over tokens runs over all targets at a time.
    norms_a, norms_b : Tensor of shape (n, p) and (m, q)
        Norms of the tokens, above 0.
    mask_a, mask_b : bool Tensor of shape (n, p) and (m, q)
    scorer : {"maxsim", "rows", "columns", "both"}
        As :func:`maxsim_scores`, or the direction of :func:`late_interaction_scores`.
    temperature, reduce
        As there.
    """
    real_a, real_b = mask_a[:, :, None, None], mask_b.T[None, None]
    C = D * norms_a.reciprocal()[:, :, None, None] * norms_b.reciprocal().T  # cosines
    if scorer == "maxsim":
        return _over_tokens(C.masked_fill(~real_b, -torch.inf).amax(dim=2), mask_a, reduce)
    # A token that is not real gets no weight; all of its own row is finite, and left out of the sum over tokens.
    least = torch.finfo(D.dtype).min / 4
    S = torch.add(torch.zeros_like(norms_b).masked_fill(~mask_b, least).T, D, alpha=1 / temperature)
    if not bool(mask_a.all()):
        S = S.masked_fill(~real_a, least)
    found = []
    if scorer != "columns":
        found.append(_over_tokens((S.softmax(dim=2) * C).sum(dim=2), mask_a, reduce))
    if scorer != "rows":
        attended = (S.softmax(dim=1) * C).sum(dim=1).permute(2, 1, 0)  # (m, q, n)
        found.append(_over_tokens(attended, mask_b, reduce).T)
    return found[0] if len(found) == 1 else 0.5 * (found[0] + found[1])


def _of_tokens(
    a: Tensor, b: Tensor, mask_a: Tensor | None, mask_b: Tensor | None, scorer: Any, temperature: float, reduce: Any
) -> Tensor:
    mask_a, mask_b = _token_masks(a, b, mask_a, mask_b)
    D = torch.einsum("npd,mqd->npqm", a, b)
    return token_scores(D, _norms(a), _norms(b), mask_a, mask_b, scorer=scorer, temperature=temperature, reduce=reduce)


def _norms(x: Tensor) -> Tensor:
    return x.norm(dim=-1).clamp_min(1e-8)


def _token_masks(a: Tensor, b: Tensor, mask_a: Tensor | None, mask_b: Tensor | None) -> tuple[Tensor, Tensor]:
    masks = []
    for name, tokens, mask in (("a", a, mask_a), ("b", b, mask_b)):
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device) if mask is None else mask.bool()
        if mask.shape != tokens.shape[:2]:
            raise ValueError(f"mask_{name} has shape {tuple(mask.shape)}, the tokens {tuple(tokens.shape[:2])}")
        if not bool(mask.any(dim=1).all()):
            raise ValueError(f"item {int((~mask.any(dim=1)).nonzero()[0])} of {name} has no token")
        masks.append(mask)
    return masks[0], masks[1]


def _over_tokens(scores: Tensor, mask: Tensor, reduce: str) -> Tensor:  # (n, p, m), (n, p) -> (n, m)
    total = (scores * mask[:, :, None]).sum(dim=1)
    return total / mask.sum(dim=1)[:, None] if reduce == "mean" else total


# -- losses with names ------------------------------------------------------------------------------------------------


def supcon(
    features: Tensor,
    labels: Tensor,
    temperature: float = 0.1,
    *,
    base_temperature: float | None = None,
    reduction: Reduction = "mean",
    missing: Literal["error", "skip"] = "error",
) -> Tensor:
    """Supervised contrastive loss: pull together what has the same label, push apart the rest of the batch.

    Parameters
    ----------
    features : Tensor of shape (n, d)
        Vectors of any norm; they are normalised here. For several views of a sample, stack the views along n.
    labels : Tensor of shape (n,)
    temperature : float > 0, default 0.1
    base_temperature : float, optional
        Multiplies the loss by ``temperature / base_temperature``, as public implementations do (with 0.07).
    reduction, missing
        As in :func:`contrastive_loss`. Two views per sample give every anchor a positive.

    Raises
    ------
    ValueError
        If an anchor is alone with its label and ``missing="error"``.

    Examples
    --------
    >>> features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.2], [0.0, 1.0]])
    >>> round(supcon(features, torch.tensor([0, 1, 0, 1]), 0.5).item(), 6)
    0.293756
    """
    if temperature <= 0 or (base_temperature is not None and base_temperature <= 0):
        raise ValueError(f"temperatures must be above 0, got {temperature!r} and {base_temperature!r}")
    if labels.shape != features.shape[:1]:
        shapes = f"{tuple(features.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"features and labels have shapes {shapes}, wanted (n, d) and (n,)")
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    loss = contrastive_loss(
        cosine_scores(features, features) / temperature, label_target(labels),
        candidates=others, reduction=reduction, missing=missing,
    )  # fmt: skip
    return loss if base_temperature is None else loss * (temperature / base_temperature)


def info_nce(
    queries: Tensor,
    keys: Tensor,
    positive: Tensor | None = None,
    *,
    temperature: float = 1.0,
    symmetric: bool = False,
    scorer: Callable[[Tensor, Tensor], Tensor] = cosine_scores,
) -> Tensor:
    """InfoNCE with in-batch negatives: every query must find its key among all keys of the batch.

    Parameters
    ----------
    queries : Tensor of shape (n, ...)
    keys : Tensor of shape (m, ...)
        ``m`` may be larger than ``n``: further keys are further negatives.
    positive : int Tensor of shape (n,), optional
        Index of each query's key; by default key i belongs to query i.
    temperature : float > 0, default 1.0
    symmetric : bool, default False
        Also let every key find its query (CLIP); needs m = n.
    scorer : callable, default :func:`cosine_scores`
        :func:`dot_scores` for retrievers that search by inner product.

    Raises
    ------
    ValueError
        For fewer keys than queries without ``positive``, an index out of range, or ``symmetric`` with m other than n.

    Examples
    --------
    >>> round(info_nce(torch.eye(4), torch.eye(4), temperature=0.1).item(), 6)  # log(1 + 3 exp(-10))
    0.000136
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature!r}")
    n, m = len(queries), len(keys)
    if positive is None:
        if m < n:
            raise ValueError(f"{n} queries have {m} keys: pass positive=, the index of each query's key")
        positive = torch.arange(n, device=queries.device)
    if positive.shape != (n,) or int(positive.min()) < 0 or int(positive.max()) >= m:
        raise ValueError(f"positive must hold {n} indices in [0, {m})")
    if symmetric and n != m:
        raise ValueError(f"symmetric=True needs as many keys as queries, got {m} and {n}")
    target = F.one_hot(positive, m)
    return contrastive_loss(scorer(queries, keys) / temperature, target, symmetric=symmetric)
