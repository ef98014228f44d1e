"""The processes that make the calls, watched from outside."""

from __future__ import annotations

import collections
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fuzz.outcomes import Outcome


def work(pipe: Connection, seed: int) -> None:
    """Make the calls that arrive, one by one, and say what each does and how it ended."""
    import torch

    from fuzz import calls

    torch.set_num_threads(1)
    room = 12 * 2**30  # one call that asks for more memory than a machine has is an error, not the end of it
    resource.setrlimit(resource.RLIMIT_DATA, (room, room))
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    pipe.send(("ready", None))
    while (job := pipe.recv()) is not None:
        pipe.send(("done", calls.run(*job, seed, lambda what: pipe.send(("doing", what)))))


class Worker:
    """A process that makes calls, watched: one that computes or waits for too long is ended."""

    def __init__(self, context: Any, seed: int) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, seed), daemon=True)
        self.process.start()
        theirs.close()
        self.job: tuple[str, int] | None = None
        self.what = "starting"
        self.rest()

    def rest(self) -> None:
        self.begin, self.cpu = time.monotonic(), self._cpu()

    def give(self, job: tuple[str, int] | None) -> None:
        self.job, self.what = job, ""
        self.rest()
        self.pipe.send(job)

    def late(self, limit: float) -> bool:
        """Whether it has computed for longer than ``limit`` seconds, or waited for six times as long."""
        return self._cpu() - self.cpu > limit or time.monotonic() - self.begin > 6 * limit

    def _cpu(self) -> float:
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            return 0.0


def fuzz(jobs: list[tuple[str, int]], seed: int, workers: int, limit: float, on_end: Callable[[Outcome], bool]) -> None:
    """Make all calls, or those until ``on_end``, which is given each outcome, says that it is enough."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fuzz.calls", "fuzz.world"])
    waiting = collections.deque(jobs)
    running = [Worker(context, seed) for _ in range(min(workers, len(jobs)))]
    while running:
        wait([worker.pipe for worker in running], timeout=0.5)
        for worker in list(running):
            outcome, idle = None, False
            try:
                while worker.pipe.poll():
                    said, content = worker.pipe.recv()
                    if said == "doing":
                        worker.what = content
                    else:
                        outcome, idle = content, True
            except (EOFError, OSError):
                if worker.job is None:
                    raise RuntimeError("a worker could not begin: see its traceback above") from None
                outcome = Outcome("unclear", *worker.job, worker.what, "the process died", "process")
            if outcome is None and not idle and worker.job and worker.late(limit):
                outcome = Outcome("hang", *worker.job, worker.what, f"did not end in {limit:.0f} s", "watchdog")
            if outcome is not None and on_end(outcome):
                for one in running:
                    one.process.kill()
                return
            if outcome is not None and not idle:
                worker.process.kill()
                running[running.index(worker)] = Worker(context, seed)
            elif idle:
                worker.give(waiting.popleft() if waiting else None)
                if worker.job is None:
                    worker.process.join()
                    running.remove(worker)
