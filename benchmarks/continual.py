"""Training time of the continual systems against plain fine-tuning of the same backbone, as ratios in one run.

Every repeat times fine-tuning and each system on the same stream, one after the other, and the ratio is taken within
the repeat, so that a change of the machine's speed hits both. The median of the ratios is reported.

Usage: python benchmarks/continual.py [--repeats 5] [--rows 1600] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from anytask.continual import GKCL, PRD, TAME, ExperienceReplay, FineTuning, JointTraining, LwF, NearestClassMean

SYSTEMS = {
    "fine-tuning": lambda: FineTuning.from_preset("small"),
    "tame": lambda: TAME.from_preset("small", n_classes=2),
    "prd": lambda: PRD.from_preset("small"),
    "gkcl": lambda: GKCL.from_preset("small"),
    "experience-replay": lambda: ExperienceReplay.from_preset("small"),
    "joint": lambda: JointTraining.from_preset("small"),
    "lwf": lambda: LwF.from_preset("small"),
    "nearest-class-mean": lambda: NearestClassMean.from_preset("small"),
}


def stream(rows: int, tasks: int = 4) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Return (task, X, y) chunks: two classes of 64 values per task."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(2 * tasks, 64))
    chunks = []
    for t in range(tasks):
        y = rng.integers(0, 2, rows // tasks) + 2 * t
        chunks.append((t, (centers[y] + rng.normal(size=(len(y), 64))).astype(np.float32), y))
    return chunks


def seconds(make, chunks) -> dict[str, float]:
    """Time one system: training, and one prediction of everything (which is when some systems train a part)."""
    model = make()
    start = time.perf_counter()
    for task, x, y in chunks:
        model.partial_fit(x, y, task=task)
        model.end_task()
    trained = time.perf_counter()
    for task, x, _ in chunks:
        model.predict(x, task=task if model.needs == "test" else None)
    return {"train": trained - start, "train_and_predict": time.perf_counter() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--systems", nargs="*", default=[n for n in SYSTEMS if n != "fine-tuning"], choices=SYSTEMS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    chunks = stream(args.rows)
    seconds(SYSTEMS["fine-tuning"], chunks)  # the first use of torch is not the system's cost
    ratios: dict[str, dict[str, list[float]]] = {n: {"train": [], "train_and_predict": []} for n in args.systems}
    for _ in range(args.repeats):
        reference = seconds(SYSTEMS["fine-tuning"], chunks)
        for name in args.systems:
            taken = seconds(SYSTEMS[name], chunks)
            for key, values in ratios[name].items():
                values.append(taken[key] / reference[key])
    result = {
        "benchmark": "continual: seconds relative to fine-tuning",
        "rows": args.rows,
        "repeats": args.repeats,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "median_ratio": {n: {k: round(statistics.median(v), 3) for k, v in r.items()} for n, r in ratios.items()},
        "ratios": ratios,
    }
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
