"""Distance to the nearest of a set of vectors, for tables of any length."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from anytask.core.checks import check_counts


def nearest_distance(
    queries: Any,
    points: Any,
    *,
    index: Literal["exact", "faiss"] = "exact",
    chunk: int = 4096,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Return ``min_i ||q_j - p_i||_2`` for every query.

    Parameters
    ----------
    queries : array (n, d)
    points : array (m, d)
    index : {"exact", "faiss"}, default "exact"
        Exact distances, computed in blocks that never hold more than ``chunk * chunk`` of them; or a faiss index of the
        points, for large sets: exact up to 50,000 points, an approximate one (HNSW) beyond.
    chunk : int, default 4096
        Rows per block.
    device : default "cpu"
        Where exact distances are computed.

    Returns
    -------
    array (n,) of float64

    Raises
    ------
    ImportError
        For ``index="faiss"`` without the extra ``text``.

    Examples
    --------
    >>> nearest_distance([[0.0, 1.0], [3.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]).tolist()
    [1.0, 2.0]
    """
    check_counts(chunk=chunk)
    q, p = (_matrix(x, name) for x, name in ((queries, "queries"), (points, "points")))
    if q.shape[1] != p.shape[1]:
        raise ValueError(f"queries have {q.shape[1]} numbers each and points {p.shape[1]}")
    if len(p) == 0:
        raise ValueError("there are no points to be near to")
    if index == "faiss":
        return _with_faiss(q, p)
    if index != "exact":
        raise ValueError(f"index must be 'exact' or 'faiss', got {index!r}")
    parts = [part.to(device) for part in p.split(chunk)]
    # Differences, not dot products: those lose the small distances that decide who is nearest.
    exact = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = [q.new_zeros(0)]
    for block in q.split(chunk):
        nearest.append(torch.stack([exact(block.to(device), part).amin(1) for part in parts]).amin(0).cpu())
    return torch.cat(nearest).numpy()


def _matrix(x: Any, name: str) -> Tensor:
    x = torch.as_tensor(np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x), dtype=torch.float64)
    if x.dim() != 2:
        raise ValueError(f"{name} must be a table (rows, numbers), got shape {tuple(x.shape)}")
    return x


def _with_faiss(q: Tensor, p: Tensor) -> np.ndarray:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("index='faiss' needs faiss: pip install 'anytask[text]'") from error
    table = faiss.IndexFlatL2(p.shape[1]) if len(p) <= 50_000 else faiss.IndexHNSWFlat(p.shape[1], 32)
    table.add(p.float().numpy())
    squared, _ = table.search(q.float().numpy(), 1)
    return np.sqrt(np.maximum(squared[:, 0].astype(np.float64), 0.0))
