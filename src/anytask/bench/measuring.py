"""What a run costs: its time and memory under a fixed number of threads, and the versions it ran with."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Self

import joblib
import psutil
from threadpoolctl import threadpool_limits

import anytask
from anytask.core.environment import environment

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_PACKAGES = {
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "transformers": "transformers",
    "sentence_transformers": "sentence-transformers",
    "faiss": "faiss-cpu",
    "bm25s": "bm25s",
    "openai": "openai",
    "datasets": "datasets",
    "peft": "peft",
}
_ALWAYS = ("numpy", "scipy", "scikit-learn", "torch")


def threads_per_run(jobs: int) -> int:
    """Return how many threads each of ``jobs`` runs gets: ``cores // jobs``, and no more than OMP_NUM_THREADS."""
    share = max(1, joblib.cpu_count() // jobs)
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(wanted)) if wanted.isdigit() and int(wanted) > 0 else share


@contextlib.contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Hold BLAS, OpenMP and torch to a number of threads in this process, and put back what was set before.

    Examples
    --------
    >>> import numpy
    >>> with limited_threads(1):
    ...     os.environ["OMP_NUM_THREADS"]
    '1'
    """
    with environment(dict.fromkeys(_THREAD_VARIABLES, str(threads))), threadpool_limits(threads):
        torch = sys.modules.get("torch")
        before = torch.get_num_threads() if torch else None
        if torch:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def uses_torch(cls: type) -> bool:
    """Whether a class, or one that it inherits from, is written in a module that imports something of torch.

    Examples
    --------
    >>> uses_torch(dict)
    False
    """
    modules = [sys.modules.get(base.__module__) for base in cls.__mro__]
    values = [value for module in modules if module is not None for value in list(vars(module).values())]
    sources = [v.__name__ for v in values if type(v) is ModuleType]
    sources += [str(v.__module__) for v in values if type(v) in (type, FunctionType)]
    return any(source.partition(".")[0] == "torch" for source in sources)


@lru_cache
def warm_up_torch() -> None:
    """Make torch load, once in each process, what it puts off until it first trains.

    The first optimizer imports some seconds' worth of modules, which would count as time of whichever entrant happens
    to be a worker's first. What a GPU loads at its first use is not covered.
    """
    import torch

    w = torch.ones(2, 2, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.0)
    (w @ w).sum().backward()
    optimizer.step()


def end_with(parent: int) -> None:
    """End this process, and all that it has started, once the process ``parent`` has ended, however that ended."""

    def watch() -> None:
        try:
            process = psutil.Process(parent)
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.5)
        except psutil.Error:
            pass  # it ended just now
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        os._exit(1)

    threading.Thread(target=watch, name="anytask-parent", daemon=True).start()


class Meter:
    """Measure the wall time, CPU time and peak memory of what is done inside the ``with`` block.

    ``peak_bytes`` is the peak resident memory of the process within the block, and not since the process began: on
    Linux the kernel's high-water mark is reset first. Elsewhere, and with ``shared=True``, for blocks that other
    threads run beside, memory is sampled every 20 ms. CPU time is that of the process; of the thread when shared.

    Attributes
    ----------
    cost : dict
        ``wall_seconds``, ``cpu_seconds``, ``peak_bytes``, ``peak_increase_bytes`` (the peak less what was resident at
        the start).

    Examples
    --------
    >>> with Meter() as meter:
    ...     block = bytearray(300_000_000)
    >>> meter.cost["peak_increase_bytes"] > 100_000_000
    True
    """

    def __init__(self, shared: bool = False) -> None:
        self.cost: dict[str, float] = {}
        self._clock = time.thread_time if shared else time.process_time
        self._shared = shared

    def __enter__(self) -> Self:
        self._process = psutil.Process()
        self._stop: threading.Event | None = None
        if self._shared or not _reset_peak():
            self._stop = threading.Event()
            self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._resident = self._peak = self._process.memory_info().rss
        if self._stop is not None:
            self._sampler.start()
        self._wall, self._cpu = time.perf_counter(), self._clock()
        return self

    def __exit__(self, *exc: object) -> None:
        wall, cpu = time.perf_counter() - self._wall, self._clock() - self._cpu
        if self._stop is None:
            self._peak = _read_peak()
        else:
            self._stop.set()
            self._sampler.join()
            self._peak = max(self._peak, self._process.memory_info().rss)
        self.cost = {
            "wall_seconds": wall,
            "cpu_seconds": cpu,
            "peak_bytes": float(self._peak),
            "peak_increase_bytes": float(max(0, self._peak - self._resident)),
        }

    def _sample(self) -> None:
        assert self._stop is not None
        while not self._stop.wait(0.02):
            self._peak = max(self._peak, self._process.memory_info().rss)


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _read_peak() > 0
    except OSError:
        return False


def _read_peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def versions() -> dict[str, str]:
    """Return the versions of anytask, Python, and the packages that are loaded, without loading any."""
    loaded = {name for module, name in _PACKAGES.items() if module in sys.modules}
    found = {name: version for name in (*_ALWAYS, *sorted(loaded)) if (version := _version(name))}
    return {"anytask": anytask.__version__, "python": platform.python_version(), **found}


@lru_cache
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
