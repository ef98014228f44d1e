"""How good is what ``anytask tune-prompt`` chooses? Regret against the whole grid, judged on texts that were held out.

Each of the built-in text sets is split into a pile and held-out texts, 16 labels are bought in the pile, and the search
runs on these. Then every point of the grid answers the held-out texts with the same labels, and so do the plain ways
and random search over the same grid with as many calls. Everything asked is kept in ``--store``: an interrupted
measurement goes on. An hour or two on two idle cores with SmolLM2-135M:

    python scripts/measure_tuning.py --lm smollm2-135m --out tuning.json

Draws below 10 are for development; the held-out texts choose nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anytask import problems
from anytask.bench.statistics import paired_difference
from anytask.incontext.baselines import EmbeddingClassifier
from anytask.lm import load_lm
from anytask.tuning import prepare_tuning
from anytask.tuning.grid import Judged, Point
from anytask.tuning.plan import UNTUNED, ZERO_SHOT, Plan
from anytask.tuning.race import choose
from anytask.tuning.result import Tuning

SETS = ("reviews", "topics", "customer-intents")
#: What is compared with the choice.
OTHERS = (
    "best of the grid",
    "best of the grid, by other texts",
    "zero-shot",
    "untuned default",
    "logistic regression",
    "random search",
)


def bought(name: str, draw: int, lm: Any, args: argparse.Namespace) -> tuple[Plan, list[str], list[str]]:
    """Return a search whose labels are bought in one draw of the pile, and the held-out texts with their labels."""
    data = problems.get("few-shot-text").load(name, lm="tiny:icl", max_test=args.rows)
    pool, held = data.split(draw)
    texts, labels = np.array(data.source.texts), np.array(data.source.labels)
    pile = texts[pool].tolist(), labels[pool].tolist()
    plan = prepare_tuning(pile, lm=lm, labels=args.labels, seed=draw, max_k=args.max_k, store=args.store)
    return plan, texts[held].tolist(), labels[held].tolist()


def calls_of(plan: Plan, tuning: Tuning) -> float:
    """Return the calls that a search spent: each distinct prompt is one, with all of its options."""
    return sum(plan.costs[point].calls * one.n / len(plan.task.texts) for point, one in tuning.judged.items())


def answered(plan: Plan, point: Point, texts: list[str], labels: list[str]) -> Judged:
    """Return how a point of the grid answers held-out texts, with the labels that were bought."""
    into = Judged.blank(len(texts))
    held = replace(plan.task, texts=texts, labels=labels)
    held.judge(point, range(len(texts)), into, plan.task.pipeline(point))
    return into


def measured(name: str, draw: int, lm: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Return the accuracies on held-out texts of one draw of labels."""
    plan, texts, labels = bought(name, draw, lm, args)
    began = time.perf_counter()
    tuning = plan.run()
    seconds = time.perf_counter() - began
    spent = calls_of(plan, tuning)

    accuracy, tokens, right = {}, {}, {}
    for point in [*plan.points, UNTUNED]:
        into = answered(plan, point, texts, labels)
        accuracy[point], tokens[point] = into.accuracy, float(np.nanmean(into.tokens))
        right[point] = into.correct.astype(int).tolist()
        print(f"  {accuracy[point]:.3f} {tokens[point]:5.0f} {point}", flush=True)

    classifier = EmbeddingClassifier().fit(list(plan.task.texts), list(plan.task.labels))
    said = np.array(classifier.predict(texts))
    best = max(plan.points, key=accuracy.__getitem__)
    found = {
        "the choice": accuracy[tuning.chosen],
        "best of the grid": accuracy[best],
        OTHERS[1]: best_by_other_texts([right[point] for point in plan.points]),
        "zero-shot": accuracy[ZERO_SHOT],
        "untuned default": accuracy[UNTUNED],
        "logistic regression": float((said == labels).mean()),
        "random search": float(np.mean([accuracy[p] for p in _random_searches(plan, spent)])),
    }
    return {
        "set": name, "draw": draw, "seconds": seconds, "accuracy": found, "nested": tuning.nested,
        "leave_one_out": tuning.best.accuracy, "tokens": {"choice": tokens[tuning.chosen], "best": tokens[best]},
        "choice": str(tuning.chosen), "best": str(best), "calls": spent,
        "right": {str(point): one for point, one in right.items()},
    }  # fmt: skip


def best_by_other_texts(right: Sequence[Sequence[int]]) -> float:
    """Return the accuracy on half of the held-out texts of the point that is best on the others, over both halves.

    The best of many on the same texts that judge it is flattered by their noise: between the two lies what the best
    point is worth.
    """
    R = np.array(right)  # (n_points, n_texts)
    halves = R[:, ::2], R[:, 1::2]
    return float(np.mean([judge[seen.mean(1).argmax()].mean() for seen, judge in (halves, halves[::-1])]))


def _random_searches(plan: Plan, spent: float, times: int = 20) -> list[Point]:
    """Return what random search over the grid chooses with as many calls, by leave-one-out on all labels."""
    judged = {point: Judged.blank(len(plan.task.texts)) for point in plan.points}
    for point, into in judged.items():
        plan.task.judge(point, range(len(plan.task.texts)), into)
    chosen = []
    for seed in range(times):
        order = np.random.default_rng(seed).permutation(len(plan.points))
        left, drawn = spent, []
        for place in order:
            left -= plan.costs[plan.points[place]].calls
            if drawn and left < 0:
                break
            drawn.append(plan.points[place])
        right = np.array([[judged[point].accuracy] for point in drawn])
        chosen.append(drawn[choose(right, np.arange(len(drawn)))])  # of equal ones the first drawn
    return chosen


def summary(runs: list[dict[str, Any]], others: Sequence[str] = OTHERS) -> list[dict[str, Any]]:
    """Return the paired differences of the choice to each of the others, with 95 % intervals over the runs."""
    rows = []
    for name in [*dict.fromkeys(run["set"] for run in runs), "all"]:
        mine = [run["accuracy"] for run in runs if name in (run["set"], "all")]
        for other in others:
            found = paired_difference([one["the choice"] for one in mine], [one[other] for one in mine])
            rows.append(
                {"set": name, "other": other, "mean": found.mean, "low": found.low, "high": found.high, "n": len(mine)}
            )
    return rows


def told(rows: list[dict[str, Any]]) -> str:
    """Return a summary as lines to read."""
    lines = []
    for row in rows:
        interval = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
        lines.append(f"{row['set']:18} the choice less {row['other']:32} {row['mean']:+.3f}{interval}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", default="smollm2-135m")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    parser.add_argument("--draws", nargs="+", type=int, default=[100, 101, 102, 103, 104])
    parser.add_argument("--labels", type=int, default=16)
    parser.add_argument("--rows", type=int, default=50, help="held-out texts of each draw")
    parser.add_argument("--max-k", type=int, default=8)
    parser.add_argument("--store", default="measure-tuning.sqlite")
    parser.add_argument("--out", type=Path, default=Path("tuning.json"))
    args = parser.parse_args()
    lm, runs = load_lm(args.lm), []
    for draw in args.draws:
        for name in args.sets:
            print(name, draw, flush=True)
            runs.append(measured(name, draw, lm, args))
            found = {"lm": args.lm, "labels": args.labels, "rows": args.rows, "runs": runs, "summary": summary(runs)}
            args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(json.dumps({key: value for key, value in runs[-1].items() if key != "right"}, indent=1), flush=True)
    print(told(summary(runs)))


if __name__ == "__main__":
    main()
