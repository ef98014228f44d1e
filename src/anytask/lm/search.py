"""Nearest neighbors over vectors: :class:`VectorIndex` (faiss) finds the stored vectors that are most similar to a
query, :func:`knn_graph` the neighbors of every vector of a pool at once.

Both can leave an item out of its own results *by position*, so duplicates of an item stay in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from anytask.core.checks import check_numbers
from anytask.core.estimator import Fitted
from anytask.core.progress import Progress, heard
from anytask.core.settings import choice, whole
from anytask.lm.bm25 import excluded

__all__ = ["VectorIndex"]

#: From this many vectors on, :func:`knn_graph` looks for neighbors approximately unless told otherwise.
EXACT_GRAPH_LIMIT = 20_000


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("nearest-neighbor search needs faiss: pip install 'anytask[text]'") from error
    return faiss


@contextmanager
def _faiss_threads(threads: int) -> Iterator[Any]:
    # faiss keeps one process-wide OpenMP setting; the caller's value is put back.
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)


def as_vectors(X: ArrayLike, name: str, dim: int | None = None) -> np.ndarray:
    """Return ``X`` as a finite, contiguous float32 array of shape (n, d), n >= 1, or say what is wrong with it."""
    array = np.ascontiguousarray(check_numbers(X, name).float().cpu().numpy())
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} must have shape (n, d) with n, d >= 1, got {array.shape}")
    if dim is not None and array.shape[1] != dim:
        raise ValueError(f"{name} has {array.shape[1]} dimensions, and the index holds vectors of {dim}")
    sums = array.sum(axis=1, dtype=np.float64)
    if not np.isfinite(sums).all():
        raise ValueError(f"{name} contains NaN or infinity in row {int(np.argmax(~np.isfinite(sums)))}")
    return array


def unit(X: np.ndarray) -> np.ndarray:
    """Return the rows of ``X`` scaled to length 1; rows of zeros stay zero.

    Examples
    --------
    >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(X, axis=1, keepdims=True)
    # Squares that leave single precision: such rows are scaled down, or up, first.
    if (odd := ((norms == 0) | np.isinf(norms))[:, 0] & X.any(axis=1)).any():
        X = X.copy()
        X[odd] /= np.abs(X[odd]).max(axis=1, keepdims=True)
        norms[odd] = np.linalg.norm(X[odd], axis=1, keepdims=True)
    return np.asarray(X / np.where(norms > 0, norms, 1))


class VectorIndex(Fitted):
    """Find the stored vectors most similar to a query.

    Pick ``kind="exact"`` up to some 100,000 vectors or where every neighbor counts, ``"hnsw"`` (a navigable
    small-world graph) for millions of vectors with answers in milliseconds, and ``"cells"`` where the stored vectors
    are the queries themselves.

    Parameters
    ----------
    metric : {"cosine", "inner"}, default "cosine"
        Similarity: cosine (vectors are scaled to length 1 on their way in) or the plain inner product.
    kind : {"exact", "hnsw", "cells"}, default "exact"
        Exhaustive search; the approximate graph; or about 2 sqrt(n) cells made by k-means, of which those nearest to a
        query are searched: approximate, and it may find fewer than k, marked by index -1.
    threads : int, default 1
        Threads of faiss during calls of this index; the process-wide setting is put back after each call. An HNSW
        graph built by several threads depends on their timing; one thread gives the same graph each time.
    M : int, default 32
        Links of a vertex of the graph ("hnsw").
    ef_construction, ef_search : int, default 100 and 64
        Length of the candidate list while building and while searching ("hnsw"): longer is slower and more exact.
    seed : int, default 0
        Of the k-means ("cells").

    Examples
    --------
    >>> index = VectorIndex().fit([[1, 0], [0, 1], [1, 1]])
    >>> similarities, indices = index.search([[2, 0.1]], k=2)
    >>> indices
    array([[0, 2]])
    >>> index.search([[1, 0]], k=2, exclude=[0])[1]
    array([[2, 1]])
    """

    metric: str = choice("cosine", ("cosine", "inner"), "how similarity is measured")
    kind: str = choice("exact", ("exact", "hnsw", "cells"), "exhaustive search, a graph, or cells")
    threads: int = whole(1, "threads of faiss")
    M: int = whole(32, "links of a vertex of the graph")
    ef_construction: int = whole(100, "candidates while building the graph")
    ef_search: int = whole(64, "candidates while searching the graph")

    def __len__(self) -> int:
        return int(self.index_.ntotal) if self.__sklearn_is_fitted__() else 0

    def fit(self, vectors: ArrayLike, progress: Progress | None = None) -> Self:
        """Store ``vectors`` (n, d) instead of what was stored before; ``progress`` gets the finished share."""
        X = as_vectors(vectors, "vectors")
        n, d = X.shape
        with _faiss_threads(self.threads) as faiss:
            if self.kind == "exact":
                index = faiss.IndexFlatIP(d)
            elif self.kind == "hnsw":
                index = faiss.IndexHNSWFlat(d, self.M, faiss.METRIC_INNER_PRODUCT)
                index.hnsw.efConstruction = self.ef_construction
            else:
                n_cells = max(1, int(2 * np.sqrt(n)))
                index = faiss.IndexIVFFlat(faiss.IndexFlatIP(d), d, n_cells, faiss.METRIC_INNER_PRODUCT)
                index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid = self.seed, 10, 64
                index.cp.min_points_per_centroid = 1
                index.train(unit(X) if self.metric == "cosine" else X)
            self._add(index, X, progress)
        self.index_: Any = index
        return self

    def add(self, vectors: ArrayLike, progress: Progress | None = None) -> Self:
        """Store more vectors behind those already there."""
        self._check_fitted()
        X = as_vectors(vectors, "vectors", self.index_.d)
        with _faiss_threads(self.threads):
            self._add(self.index_, X, progress)
        return self

    def _add(self, index: Any, vectors: np.ndarray, progress: Progress | None) -> None:
        tell = heard(progress)
        for start in range(0, len(vectors), 50_000):
            block = vectors[start : start + 50_000]
            index.add(unit(block) if self.metric == "cosine" else block)
            tell(min(1.0, (start + len(block)) / len(vectors)))

    def search(self, queries: ArrayLike, k: int, exclude: ArrayLike | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return similarities and indices of the ``k`` most similar vectors, both (n_queries, k), best first.

        Parameters
        ----------
        queries : array of shape (n_queries, d)
            What to look for.
        k : int
            How many to return.
        exclude : sequence of int, optional
            For each query, the position of one stored vector that must not be returned: its own. Duplicates of that
            vector are returned like any other.

        Raises
        ------
        ValueError
            If fewer than ``k`` vectors could be returned, or shapes do not fit.
        """
        self._check_fitted()
        X = as_vectors(queries, "queries", self.index_.d)
        own = excluded(k, len(self), len(X), exclude)
        found = k + (own is not None)
        options: dict[str, Any] = {}
        with _faiss_threads(self.threads) as faiss:
            if self.kind == "hnsw":
                options["params"] = faiss.SearchParametersHNSW(efSearch=max(self.ef_search, found))
            elif self.kind == "cells":  # enough for 10 candidates per wanted neighbor, and never fewer than 8
                n_cells = self.index_.nlist
                probes = min(n_cells, max(8, int(np.ceil(10 * k * n_cells / len(self)))))
                options["params"] = faiss.SearchParametersIVF(nprobe=probes)
            similarities, indices = self.index_.search(unit(X) if self.metric == "cosine" else X, found, **options)
        return (similarities, indices) if own is None else _drop(similarities, indices, own)

    def _state(self) -> Any:
        return {"index": _faiss().serialize_index(self.index_)}

    def _load_state(self, state: Any) -> None:
        self.index_ = _faiss().deserialize_index(state["index"])


def _drop(similarities: np.ndarray, indices: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # One column too many was fetched: drop each row's own index, or the last column where it was not found.
    hit = indices == own[:, None]
    drop = np.where(hit.any(axis=1), hit.argmax(axis=1), indices.shape[1] - 1)
    keep = np.ones(indices.shape, dtype=bool)
    keep[np.arange(len(indices)), drop] = False
    shape = (len(indices), indices.shape[1] - 1)
    return similarities[keep].reshape(shape), indices[keep].reshape(shape)


def knn_graph(
    vectors: ArrayLike,
    k: int,
    *,
    method: Literal["auto", "exact", "cells", "hnsw"] = "auto",
    threads: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return the ``k`` nearest neighbors of every vector by cosine, itself left out by position.

    Parameters
    ----------
    vectors : array of shape (n, d)
        The pool.
    k : int
        Out-degree of every vertex, 1 <= k < n.
    method : {"auto", "exact", "cells", "hnsw"}, default "auto"
        Kind of :class:`VectorIndex`. ``"cells"`` is approximate, deterministic, and the fastest for a whole pool; a
        vector that finds too few there is compared with all others. ``"auto"``: exact up to 20,000 vectors, then cells.
    threads : int, default 2
        Threads of faiss during the call.
    seed : int, default 0
        Seed of the k-means of ``"cells"``.
    progress : callable, optional
        Called with the finished share in [0, 1].

    Returns
    -------
    ndarray of shape (n, k), int32
        Neighbors, most similar first; equal similarities by smaller index (as far as they are not cut off).

    Examples
    --------
    >>> knn_graph([[1, 0], [1, 0], [1, 2]], k=2)
    array([[1, 2],
           [0, 2],
           [0, 1]], dtype=int32)
    """
    X = unit(as_vectors(vectors, "vectors"))
    n = len(X)
    if not isinstance(k, (int, np.integer)) or not 1 <= k < n:
        raise ValueError(f"k must be an integer in [1, {n - 1}] for a pool of {n}, got {k!r}")
    if method not in ("auto", "exact", "cells", "hnsw"):
        raise ValueError(f"method must be 'auto', 'exact', 'cells' or 'hnsw', got {method!r}")
    if method == "auto":
        method = "exact" if n <= EXACT_GRAPH_LIMIT else "cells"
    index = VectorIndex(metric="inner", kind=method, threads=threads, seed=seed).fit(X)
    graph = np.empty((n, k), dtype=np.int32)
    for start in range(0, n, 4096):
        rows = np.arange(start, min(start + 4096, n))
        similarities, indices = index.search(X[rows], k, exclude=rows)
        short = np.flatnonzero((indices < 0).any(axis=1))
        if len(short):  # too few vectors in the cells that were looked at: these rows are done over all pairs
            all_pairs = X[rows[short]] @ X.T
            all_pairs[np.arange(len(short)), rows[short]] = -np.inf
            indices[short] = np.argsort(-all_pairs, axis=1, kind="stable")[:, :k]
            similarities[short] = np.take_along_axis(all_pairs, indices[short], axis=1)
        order = np.lexsort((indices, -similarities), axis=1)
        graph[rows] = np.take_along_axis(indices, order, axis=1)
        if progress is not None:
            progress((rows[-1] + 1) / n)
    return graph
