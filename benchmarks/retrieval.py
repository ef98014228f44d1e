"""Query time and recall of the HNSW index against exact search. Prints JSON.

python benchmarks/retrieval.py [--n 1000000] [--dimensions 384] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from anytask.lm.search import VectorIndex, unit


def clustered(n: int, d: int, rng: np.random.Generator, centers: np.ndarray) -> np.ndarray:
    """Return ``n`` unit vectors around random centres, made block by block."""
    out = np.empty((n, d), dtype=np.float32)
    for start in range(0, n, 50_000):
        stop = min(start + 50_000, n)
        noise = rng.standard_normal(size=(stop - start, d), dtype=np.float32)
        out[start:stop] = unit(centers[rng.integers(len(centers), size=stop - start)] + noise)
    return out


def main() -> None:
    """Build, search one query at a time, compare with exact neighbours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--M", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=40)
    parser.add_argument("--ef-search", type=int, nargs="+", default=[128, 512, 1024])
    o = parser.parse_args()
    rng = np.random.default_rng(0)
    centers = rng.standard_normal(size=(max(10, o.n // 500), o.dimensions), dtype=np.float32)
    X = clustered(o.n, o.dimensions, rng, centers)
    queries = clustered(o.queries, o.dimensions, rng, centers)
    best = np.zeros((o.queries, 0), dtype=np.int64)
    scores = np.zeros((o.queries, 0), dtype=np.float32)
    for start in range(0, o.n, 100_000):  # exact neighbours, without a second copy of the vectors
        block = queries @ X[start : start + 100_000].T
        scores = np.concatenate([scores, block], axis=1)
        best = np.concatenate([best, np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)], axis=1)
        order = np.argsort(-scores, axis=1)[:, : o.k]
        scores, best = np.take_along_axis(scores, order, axis=1), np.take_along_axis(best, order, axis=1)
    start_time = time.perf_counter()
    index = VectorIndex(metric="inner", kind="hnsw", threads=o.threads, M=o.M, ef_construction=o.ef_construction).fit(X)
    out = {**vars(o), "build_seconds": time.perf_counter() - start_time, "searches": []}
    for ef in o.ef_search:
        index.ef_search = ef
        times, found = [], []
        for query in queries:
            start_time = time.perf_counter()
            found.append(index.search(query[None], o.k)[1][0])
            times.append(1000 * (time.perf_counter() - start_time))
        out["searches"].append(
            {
                "ef_search": ef,
                "recall": float(np.mean([len(np.intersect1d(a, b)) / o.k for a, b in zip(found, best)])),
                "query_ms_median": float(np.median(times)),
                "query_ms_p95": float(np.quantile(times, 0.95)),
            }
        )
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
