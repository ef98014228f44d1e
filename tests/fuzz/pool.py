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

#: What takes long to import, and is no part of the library: the processes begin with it.
HEAVY = [
    "torch",
    "pandas",
    "scipy.sparse",
    "sklearn.base",
    "sklearn.utils.estimator_checks",
    "hypothesis",
    "safetensors",
]
TESTS = Path(__file__).parents[1]
#: The library that is called: the one of this checkout.
SOURCE = TESTS.parent / "src"
#: One thread, no network, no screen; set before anything is imported that reads them.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "MUJOCO_GL": "disable", "TERM": "dumb",
}  # fmt: skip
os.environ |= ENVIRONMENT


def work(pipe: Connection, seed: int, source: str, target: str) -> None:
    """Make the calls that arrive, one by one, and say what each does and how it ended."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("anytask", "fuzz")]:
        del sys.modules[name]  # of the library as it is; what follows is read from ``source``
    sys.path[:0] = [source, str(TESTS)]
    os.environ |= {**ENVIRONMENT, "FUZZ_TARGET": target}
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

    def __init__(self, context: Any, *what: Any) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, *what), daemon=True)
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
        """Whether it has computed for longer than ``limit`` seconds, or waited for twenty times as long."""
        return self._cpu() - self.cpu > limit or time.monotonic() - self.begin > 20 * limit

    def _cpu(self) -> float:
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError):
            return 0.0


def fuzz(
    jobs: list[tuple[str, int]],
    on_end: Callable[[Outcome], bool],
    *,
    seed: int = 0,
    workers: int = 1,
    limit: float = 30,
    source: Path = SOURCE,
    target: str = "",
) -> None:
    """Make all calls, or those until ``on_end``, which is given each outcome, says that it is enough.

    ``source`` is the folder whose ``anytask`` is called; ``target``, with what the name of what is called begins.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    what = (seed, str(source), target)
    waiting = collections.deque(jobs)
    running = [Worker(context, *what) for _ in range(min(workers, len(jobs)))]
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
                running[running.index(worker)] = Worker(context, *what)
            elif idle:
                worker.give(waiting.popleft() if waiting else None)
                if worker.job is None:
                    worker.process.join()
                    running.remove(worker)
