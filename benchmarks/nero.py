"""Time of NERO's batched orbit evaluation against a loop over transformed samples, as a ratio in one run.

The loop is what one writes first: for every sample and every element, transform the one image, call the model on it,
and keep the probability of the true class. Both give the same numbers; the largest difference is reported. Every repeat
times both, one after the other, so that a change of the machine's speed hits both; the median of the ratios is
reported.

Usage: python benchmarks/nero.py [--repeats 5] [--samples 40] [--out FILE.json]
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
from scipy.ndimage import rotate
from sklearn.datasets import load_digits

from anytask.evaluate import NERO
from anytask.parts.planar_groups import Rotations


def looped(model: torch.nn.Module, X: np.ndarray, y: np.ndarray, group: Rotations) -> np.ndarray:
    """Return the probability of the true class, (elements, samples), one call of the model for each."""
    out = np.empty((len(group), len(X)))
    with torch.no_grad():
        for k, angle in enumerate(group.elements):
            for i, image in enumerate(X):
                turned = rotate(image, angle, reshape=False, order=1, mode="grid-constant", cval=0.0)
                scores = model(torch.from_numpy(turned[None]).float())
                out[k, i] = torch.softmax(scores, dim=1)[0, y[i]].item()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    digits = load_digits()
    X, y = digits.images[: args.samples] / 16, digits.target[: args.samples]
    group = Rotations(step=5)
    models = {
        "perceptron 64-128-10": torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
        ),
        "convolutions 16-32": torch.nn.Sequential(
            torch.nn.Unflatten(1, (1, 8)), torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(2048, 10),
        ),
    }  # fmt: skip
    found = {}
    for name, model in models.items():
        model.eval()
        nero = NERO(group, metrics=["confidence"], consensus=False)
        nero.evaluate(model, X[:2], y[:2])  # the first use of torch is nobody's cost
        ratios, seconds = [], []
        for _ in range(args.repeats):
            start = time.perf_counter()
            slow = looped(model, X, y, group)
            middle = time.perf_counter()
            fast = nero.evaluate(model, X, y).values("confidence")[0]
            end = time.perf_counter()
            ratios.append((middle - start) / (end - middle))
            seconds.append({"loop": middle - start, "batched": end - middle})
        found[name] = {
            "median_ratio": round(statistics.median(ratios), 1),
            "ratios": [round(r, 1) for r in ratios],
            "seconds": seconds,
            "largest_difference": float(np.abs(slow - fast).max()),
        }
    result = {
        "benchmark": "nero: seconds of a loop over transformed samples relative to batched orbits",
        "samples": args.samples,
        "elements": len(group),
        "repeats": args.repeats,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "models": found,
    }
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
