"""Time of the multi-task systems against what they replace, as ratios in one run.

Every repeat times both sides one after the other, and the ratio is taken within the repeat, so that a change of the
machine's speed hits both. Medians are reported.

* ``mtlora``: one pass of a ViT of 12 blocks that answers 4 tasks, against 4 passes of it with shared pairs alone;
  forward, and forward and backward. More is better; 4 would be free.
* ``fs_mtl``: steps in flat regions against steps of the same aggregator without them. About 2 is due.
* ``r_mtgb``: against the same algorithm with a tree of scikit-learn in each round, as in the released code, with equal
  errors; and against LightGBM for each task, with both errors.

Usage: python benchmarks/multitask.py [--repeats 5] [--rows 10000] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from sklearn.tree import DecisionTreeRegressor
from transformers import ViTConfig, ViTModel

from anytask.datasets.random_tasks import random_tasks
from anytask.multitask import FSMTL, RMTGB, LowRankTasks, SharedTrunk
from anytask.multitask.baselines import LightGBMTasks

TASKS = 4


def seconds(call: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def passes() -> tuple[Callable[[], Any], ...]:
    """Return one pass for all tasks, and a pass for each; forward, and then with backward."""
    config = ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, image_size=64, patch_size=8
    )
    network = LowRankTasks(ViTModel(config, add_pooling_layer=False), TASKS).eval()
    images = torch.randn(4, 3, 64, 64)

    def once() -> list[torch.Tensor]:
        return network(images, select=lambda out: out.last_hidden_state[:, 0])

    def each() -> list[torch.Tensor]:
        return [network.shared(images).last_hidden_state[:, 0] for _ in range(TASKS)]

    def forward(run: Callable[[], list[torch.Tensor]]) -> Callable[[], Any]:
        return torch.no_grad()(run)

    def backward(run: Callable[[], list[torch.Tensor]]) -> Callable[[], Any]:
        return lambda: torch.stack(run()).square().sum().backward()

    return forward(once), forward(each), backward(once), backward(each)


def steps() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return steps in flat regions, and the same steps without them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 100))
    Y = X @ rng.normal(size=(100, TASKS))
    how = {"hidden": (512, 512), "epochs": 2, "batch_size": 128, "balancer": "pcgrad"}
    return lambda: FSMTL(rho=0.05, **how).fit(X, Y), lambda: SharedTrunk(**how).fit(X, Y)


class OneTreeARound:
    """R-MTGB for regression as the released code computes it: a stump of scikit-learn, fitted anew in each round."""

    def __init__(self, rounds: tuple[int, int, int] = (20, 140, 40), lr: float = 0.1, seed: int = 0) -> None:
        self.rounds, self.lr, self.seed = rounds, lr, seed

    def fit(self, X: np.ndarray, y: np.ndarray, task: np.ndarray) -> OneTreeARound:
        """Grow the three blocks on standardised targets."""
        T, lr = task.max() + 1, self.lr
        self.center, self.scale = y.mean(), y.std()
        y = (y - self.center) / self.scale
        meta, out, non, own = (np.zeros(len(y)) for _ in range(4))
        self.theta = 0.1 * np.random.default_rng(self.seed).standard_normal(T)
        self.meta, self.out, self.non, self.own = [], [], [], [[] for _ in range(T)]
        for _ in range(self.rounds[0]):
            meta += lr * self._grow(self.meta, X, y - meta)
        for _ in range(self.rounds[1]):
            s = expit(self.theta)[task]
            r = y - meta - s * out - (1 - s) * non
            slope = np.bincount(task, -r * s * (1 - s) * (out - non), minlength=T)
            grown = self._grow(self.out, X, r * s), self._grow(self.non, X, r * (1 - s))
            self.theta = np.clip(self.theta - lr * slope, -10, 10)
            out, non = out + lr * grown[0], non + lr * grown[1]
        s = expit(self.theta)[task]
        for code in range(T):
            rows = task == code
            below = (y - meta - s * out - (1 - s) * non)[rows]
            for _ in range(self.rounds[2]):
                own[rows] += lr * self._grow(self.own[code], X[rows], below - own[rows])
        return self

    def predict(self, X: np.ndarray, task: np.ndarray) -> np.ndarray:
        """Return the answers."""

        def total(trees: list[Any], x: np.ndarray) -> np.ndarray:
            return self.lr * sum(tree.predict(x) for tree in trees)

        s = expit(self.theta)[task]
        F = total(self.meta, X) + s * total(self.out, X) + (1 - s) * total(self.non, X)
        for code, trees in enumerate(self.own):
            F[task == code] += total(trees, X[task == code])
        return F * self.scale + self.center

    def _grow(self, trees: list[Any], X: np.ndarray, target: np.ndarray) -> np.ndarray:
        trees.append(DecisionTreeRegressor(max_leaf_nodes=2).fit(X, target))
        return trees[-1].predict(X)


def boosted(rows: int) -> dict[str, Callable[[], float]]:
    """Return what fits each learner and gives its error, in standard deviations of the target."""
    X, y, task, _ = random_tasks(0, rows // 10 + 500)
    train = np.tile(np.arange(rows // 10 + 500) < rows // 10, 10)

    def error(make: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            model = make().fit(X[train], y[train], task[train])
            off = model.predict(X[~train], task[~train]) - y[~train]
            return float(np.sqrt(np.mean(off**2)) / y[~train].std())

        return run

    return {"r-mtgb": error(RMTGB), "a tree a round": error(OneTreeARound), "lightgbm": error(LightGBMTasks)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    once, each, once_back, each_back = passes()
    flat, plain = steps()
    learners = boosted(args.rows)
    for call in (once, each, once_back, each_back, flat, plain):  # first uses are nobody's cost
        call()
    ratios: dict[str, list[float]] = {}
    for _ in range(args.repeats):
        taken = {name: seconds(run) for name, run in learners.items()}
        found = {
            "mtlora, forward: 4 passes / one": seconds(each) / seconds(once),
            "mtlora, forward and backward: 4 passes / one": seconds(each_back) / seconds(once_back),
            "fs_mtl: flat / plain steps": seconds(flat) / seconds(plain),
            "r_mtgb: a tree of scikit-learn a round / r-mtgb": taken["a tree a round"] / taken["r-mtgb"],
            "r_mtgb: r-mtgb / lightgbm per task": taken["r-mtgb"] / taken["lightgbm"],
        }
        for name, value in found.items():
            ratios.setdefault(name, []).append(value)
    result = {
        "benchmark": "multitask: time against what is replaced",
        "rows": args.rows,
        "repeats": args.repeats,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "median_ratio": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "errors": {name: round(run(), 4) for name, run in learners.items()},
        "ratios": ratios,
    }
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
