"""A problem that costs nothing: entrants are numbers, and the seed is the noise."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np

from anytask.core.errors import BadData
from anytask.core.settings import whole
from anytask.problems.base import Entrant, Metric, Outcome, Problem
from anytask.problems.options import Options


class Guess:
    """An entrant with a level; the toy problem adds the noise."""

    sees = "none"

    def __init__(self, level=0.5, do="", seed=0):
        self.level, self.do, self.seed = level, do, seed


class Oracle(Guess):
    sees = "test"


class Careful(Guess):
    sees = "boundary"


class ToyData:
    def __init__(self, name="toy", rows=10, options=None):
        self.name = name
        self.X = np.arange(rows * 2, dtype=np.float64).reshape(rows, 2)
        self.options = dict(options or {})

    @property
    def fingerprint(self):
        return f"toy-{self.name}-{len(self.X)}-{sorted(self.options.items())}"

    def describe(self):
        return {"source": self.name, "rows": len(self.X), "options": self.options}


class ToyOptions(Options):
    rows: int = whole(10, "number of rows")


class Toy(Problem):
    """Accuracy is the level plus noise of the seed; ``do`` makes a run misbehave."""

    key = "toy"
    title = "Toy"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("accuracy", "accuracy"),
        Metric("forgetting", "forgetting", higher_is_better=False),
        Metric("tokens", "tokens", higher_is_better=False, unit="tokens"),
    )
    options_class = ToyOptions
    bounds: ClassVar = {"joint": "upper", "chance": "lower"}
    privileges: ClassVar = {"joint": "all the data"}
    log: str | None = None  # a file to which each run adds a line

    def load(self, source, **options):
        if source == "broken":
            raise BadData("broken.csv, column y, row 3: not a number")
        return ToyData(source, options.get("rows", 10), options)

    def baselines(self, data):
        return (
            Entrant("chance", "toy_problem:Guess", {"level": 0.1}, "baseline"),
            Entrant("replay", "toy_problem:Guess", {"level": 0.6}, "baseline"),
            Entrant("joint", "toy_problem:Oracle", {"level": 0.95}, "baseline"),
        )

    def refuses(self, entrant, data):
        return "it needs images, and the data are tables" if entrant.params.get("do") == "refuse" else None

    def run(self, entrant, data, seed, progress=None):
        if self.log is not None:
            with Path(self.log).open("a") as file:
                file.write(f"{entrant.name} {seed}\n")
        model = entrant.load()(**entrant.params)
        do, _, argument = model.do.partition(" ")
        if do == "fail":
            raise RuntimeError(f"<b>broken</b> at seed {seed}")
        if do == "exit":
            raise SystemExit(3)
        if do == "interrupt" and seed == 1:
            raise KeyboardInterrupt
        if do == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "memory":
            np.ones(int(argument) // 8)
        if do == "sleep":
            time.sleep(float(argument))
        if do == "await":
            end = time.monotonic() + 120
            while not Path(argument).exists():
                assert time.monotonic() < end, f"nobody made {argument}"
                time.sleep(0.02)
        if do == "work":
            end = time.process_time() + float(argument)
            while time.process_time() < end:
                sum(range(1000))
        if do == "write":
            data.X[:] = -1.0
        if do == "nothing":
            return Outcome({})
        if progress is not None:
            progress(1.0)
        rng = np.random.default_rng(seed)
        noise = 0.02 * rng.standard_normal() + 0.01 * np.random.default_rng([seed, len(entrant.name)]).standard_normal()
        return Outcome(
            {"accuracy": model.level + noise, "forgetting": 1 - model.level, "tokens": 100 * model.level},
            details={"curve": [0.1, model.level], "rows": len(data.X), "total": float(data.X.sum())},
            cost={"trainable_parameters": 1000.0, "stored_samples": 10.0},
        )


def await_stop():
    """Wait until the comparison of this process has noticed that it shall stop, if it has not."""
    for thread in threading.enumerate():
        if thread.name == "anytask-stop":
            thread.join()


def time_for_one_run(monkeypatch):
    """Return settings of a sequential comparison whose time is up once its first run has ended."""
    told = []
    monkeypatch.setattr(time, "time", lambda: 100.0 * len(told))
    return {"budget_seconds": 60, "on_event": lambda what, about: told.append(about)}
