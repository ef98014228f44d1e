"""Vote-k against a plain reading of its definition, and on a large pool. Prints JSON.

python benchmarks/votek.py [--n 5000] [--large 100000] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from anytask.incontext.pool import Pool
from anytask.incontext.votek import Ballot, VoteK


def clustered(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Return ``n`` vectors around 200 centres."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(200, d))[rng.integers(200, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


def plain_graph(X: np.ndarray, k: int) -> list[list[int]]:
    """The k nearest neighbours, item by item."""
    graph = []
    for v in range(len(X)):
        cosine = X @ X[v]
        cosine[v] = -np.inf
        graph.append(np.argsort(-cosine, kind="stable")[:k].tolist())
    return graph


def plain_votek(graph: list[list[int]], budget: int, rho: float) -> list[int]:
    """Fast vote-k as it is defined: before every pick, every item that is left votes."""
    n = len(graph)
    degree = [0] * n
    for row in graph:
        for u in row:
            degree[u] += 1
    chosen: list[int] = []
    taken: set[int] = set()
    for _ in range(budget):
        score = [0.0] * n
        for v in range(n):
            if v in taken:
                continue
            weight = rho ** -sum(u in taken for u in graph[v])
            for u in graph[v]:
                score[u] += weight
        best = max((u for u in range(n) if u not in taken), key=lambda u: (round(score[u], 9), degree[u], -u))
        chosen.append(best)
        taken.add(best)
    return chosen


def compare(n: int, d: int, budget: int, threads: int) -> dict[str, Any]:
    """Time both on the same pool, graph and election apart."""
    from anytask.lm.search import knn_graph

    X = Pool(clustered(n, d)).vectors
    k = VoteK()._k(n)
    start = time.perf_counter()
    slow_graph = plain_graph(X, k)
    plain_graph_s = time.perf_counter() - start
    start = time.perf_counter()
    graph = knn_graph(X, k, threads=threads)
    graph_s = time.perf_counter() - start
    start = time.perf_counter()
    slow = plain_votek(graph.tolist(), budget, 10.0)
    plain_s = time.perf_counter() - start
    start = time.perf_counter()
    ballot = Ballot(graph, 10.0)
    fast = [ballot.elect()[0] for _ in range(budget)]
    fast_s = time.perf_counter() - start
    same_graph = float(np.mean([len(set(a) & set(b)) / k for a, b in zip(graph.tolist(), slow_graph)]))
    return {
        "n": n,
        "dimensions": d,
        "k": k,
        "budget": budget,
        "plain_graph_seconds": plain_graph_s,
        "graph_seconds": graph_s,
        "plain_election_seconds": plain_s,
        "election_seconds": fast_s,
        "election_ratio": plain_s / fast_s,
        "ratio": (plain_graph_s + plain_s) / (graph_s + fast_s),
        "same_picks": fast == slow,
        "graph_overlap": same_graph,
    }


def large(n: int, d: int, budget: int, threads: int) -> dict[str, Any]:
    """Time fast vote-k, graph included, on a large pool."""
    X = clustered(n, d)
    start = time.perf_counter()
    cpu = time.process_time()
    chosen = VoteK(stages="fast", threads=threads).select(X, budget)
    return {
        "n": n, "dimensions": d, "k": chosen.details["k"], "budget": budget, "threads": threads,
        "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu,
    }  # fmt: skip


def main() -> None:
    """Run both and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--budget", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    out = {
        "compare": compare(options.n, options.dimensions, options.budget, options.threads),
        "large": large(options.large, options.dimensions, options.budget, options.threads),
    }
    print(json.dumps(out, indent=2))


if __name__ == "__main__":
    main()
