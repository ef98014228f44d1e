"""What the bench adds to runs of about a second: time of a comparison over that of its runs alone. Prints JSON.

python benchmarks/bench_overhead.py [--runs 20] [--seconds 1.2] [--jobs 2] [--most 0.05]

The runs sleep, so the machine's load hardly matters, and ``jobs`` of them can go on at once on any number of cores.
``steady_overhead`` leaves out what a comparison pays once, however long it is: starting the worker processes, up to the
start of the first run. The exit code is 1 if it is more than ``--most``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from anytask.bench import compare
from anytask.problems.base import Entrant, Metric, Outcome, Problem


class Nap:
    """An entrant that is no work."""


class Naps(Problem):
    """Each run sleeps for a given time."""

    key = "naps"
    title = "Naps"
    metrics = (Metric("accuracy", "accuracy"),)

    def load(self, source: Any, **options: Any) -> Any:
        """Return data whose name is the length of a nap in seconds."""
        return SimpleNamespace(name=str(source), fingerprint=f"naps-{source}", describe=dict)

    def baselines(self, data: Any) -> tuple[Entrant, ...]:
        """There are none."""
        return ()

    def run(self, entrant: Entrant, data: Any, seed: int, progress: Callable[[float], None] | None = None) -> Outcome:
        """Sleep, in ten parts."""
        for part in range(10):
            time.sleep(float(data.name) / 10)
            if progress is not None:
                progress((part + 1) / 10)
        return Outcome({"accuracy": 0.5})


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--most", type=float, default=0.05)
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.time()
        made = compare(Naps(), o.seconds, Nap, seeds=o.runs, jobs=o.jobs, store=Path(folder) / "runs.sqlite")
        ended = time.time()
    assert not made.failed
    alone = sum(run.cost["wall_seconds"] for run in made.runs) / o.jobs
    first = min(datetime.fromisoformat(run.started).timestamp() for run in made.runs)
    steady = (ended - first) / alone - 1
    found = {
        **vars(o),
        "wall_seconds": round(ended - begun, 3),
        "runs_alone_seconds": round(alone, 3),
        "start_seconds": round(first - begun, 3),
        "overhead": round((ended - begun) / alone - 1, 4),
        "steady_overhead": round(steady, 4),
    }
    print(json.dumps(found))
    return int(steady > o.most)


if __name__ == "__main__":
    sys.exit(main())
