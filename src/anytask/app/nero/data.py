"""The NERO results that the page can show: saved folders, results from Python, and an example made on demand."""

from __future__ import annotations

import io
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytask.evaluate.nero.result import NeroResult

logger = logging.getLogger(__name__)

#: The id and the name of the example that the page computes.
EXAMPLE, EXAMPLE_NAME = "example", "digits: plain against augmented network"
_STATE_FILE = "state.json"  # what NeroResult.save leaves in a folder
_CLASS = "anytask.evaluate.nero.result:NeroResult"


class NotShown(Exception):
    """A result, or a part of it, cannot be shown; the message says why, in a sentence for the page."""


@dataclass(frozen=True)
class Source:
    """One result of the list: its id on the page, its name, and the folder it is read from, if it is."""

    id: str
    name: str
    folder: Path | None = None


@dataclass
class Job:
    """Work in a thread of its own, such as computing the example, watched by the page.

    Parameters
    ----------
    work : callable
        ``work(progress) -> outcome``; calls ``progress`` with the finished share in [0, 1].

    Attributes
    ----------
    state : str
        "running", "done" or "failed".
    share : float
        Finished share.
    outcome : object
        What ``work`` returned.
    error : str
        Why it failed.
    """

    work: Callable[[Callable[[float], None]], Any]
    state: str = "running"
    share: float = 0.0
    outcome: Any = None
    error: str = ""
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="nero-job", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self.work(self._note)
        except Exception as error:
            logger.exception("a job of the NERO page failed")
            self.error, self.state = f"{type(error).__name__}: {error}", "failed"
        else:
            self.share, self.state = 1.0, "done"

    def _note(self, share: float) -> None:
        self.share = float(share)


class NeroLibrary:
    """The results that the NERO page offers; each folder is read when it is first looked at.

    Parameters
    ----------
    folders : iterable of path
        Folders written by :meth:`NeroResult.save <anytask.evaluate.nero.result.NeroResult.save>`, or folders that hold
        such folders.
    results : mapping of name -> NeroResult, or iterable of NeroResult
        Results of this Python process, offered first.

    Raises
    ------
    ValueError
        If a folder does not exist.
    TypeError
        If one of the results is something else.

    Examples
    --------
    >>> [source.name for source in NeroLibrary().sources]
    ['digits: plain against augmented network']
    """

    def __init__(
        self,
        folders: Iterable[str | os.PathLike[str]] = (),
        results: Mapping[str, NeroResult] | Iterable[NeroResult] = (),
    ) -> None:
        self._lock = threading.RLock()
        self._results: dict[str, NeroResult] = {}
        self._unreadable: dict[str, str] = {}
        self._jobs: dict[str, Job] = {}
        sources: list[Source] = []
        for name, result in _named(results):
            source = Source(f"result-{len(sources) + 1}", name)
            self._results[source.id] = result
            sources.append(source)
        found = list(_result_folders(folders))
        names = [folder.resolve().name for folder in found]
        for folder, name in zip(found, names):
            unique = name if names.count(name) == 1 else str(folder)
            sources.append(Source(f"result-{len(sources) + 1}", unique, folder))
        self.sources: tuple[Source, ...] = (*sources, Source(EXAMPLE, EXAMPLE_NAME))

    def source(self, id: str | None) -> Source:
        """Return the source of this id, or the first one."""
        return next((source for source in self.sources if source.id == id), self.sources[0])

    def has(self, id: str) -> bool:
        """Whether the result can be had at once, or from its folder: all but an example not computed yet."""
        return id != EXAMPLE or EXAMPLE in self._results

    def get(self, id: str) -> NeroResult:
        """Return a result.

        Raises
        ------
        NotShown
            If its folder is damaged or gone, or the example has not been computed.
        """
        with self._lock:
            if id in self._results:
                return self._results[id]
            if id in self._unreadable:
                raise NotShown(self._unreadable[id])
            source = self.source(id)
            if source.id != id or source.folder is None:
                raise NotShown("The example has not been computed yet.")
            try:
                self._results[id] = _read(source.folder)
            except NotShown as error:
                self._unreadable[id] = str(error)
                raise
            return self._results[id]

    def read_again(self, id: str) -> None:
        """Forget that a folder could not be read, so that the next look tries again."""
        with self._lock:
            self._unreadable.pop(id, None)

    # -- work in the background ---------------------------------------------------------------------------------------

    def job(self, key: str) -> Job | None:
        """Return the job of this key (:data:`EXAMPLE`, or ``report:ID``), if one was started."""
        return self._jobs.get(key)

    def compute_example(self) -> Job:
        """Start to compute the example, unless that is under way or done."""

        def work(progress: Callable[[float], None]) -> None:
            from anytask.app.nero.example import digits_example

            result = digits_example(progress=progress)
            with self._lock:
                self._results[EXAMPLE] = result

        return self._start(EXAMPLE, work)

    def make_report(self, id: str) -> Job:
        """Start to write the self-contained report of a result; the outcome of the job is its bytes."""
        result, name = self.get(id), self.source(id).name

        def work(progress: Callable[[float], None]) -> bytes:
            return report_bytes(result, name)

        return self._start(f"report:{id}", work)

    def _start(self, key: str, work: Callable[[Callable[[float], None]], Any]) -> Job:
        with self._lock:
            job = self._jobs.get(key)
            if job is None or job.state == "failed":
                job = self._jobs[key] = Job(work)
            return job


def report_bytes(result: NeroResult, name: str) -> bytes:
    """Return the static report as the bytes of one HTML file."""
    with tempfile.TemporaryDirectory(prefix="anytask-nero-") as folder:
        path = Path(folder) / "report.html"
        result.to_html(path, title=f"NERO: {name}")
        return path.read_bytes()


def result_csv(result: NeroResult, which: str, metric: str | None = None, reference: str | None = None) -> str:
    """Return a table as CSV.

    Parameters
    ----------
    result : NeroResult
        The result.
    which : {"summary", "samples", "orbit"}
        One row per model, reference and metric; one per model and sample; or the aggregate curves, one per element.
    metric, reference : str, optional
        For "samples" and "orbit": which values.
    """
    import pandas as pd

    buffer = io.StringIO()
    if which == "summary":
        result.table().to_csv(buffer, index=False)
    elif which == "samples":
        frame = result.per_sample(metric, reference).reset_index()
        if result.task == "classification" and result.y is not None:
            frame.insert(2, "label", [result.labels()[i] for i in frame["sample"]])
        frame.to_csv(buffer, index=False)
    elif which == "orbit":
        curves = result.aggregate(metric, reference)
        columns = dict(zip(result.group.axes, result.group.coords.T))
        frame = pd.DataFrame({"element": result.group.labels, **columns, **dict(zip(result.models, curves))})
        frame.to_csv(buffer, index=False)
    else:
        raise ValueError(f"which must be summary, samples or orbit, got {which!r}")
    return buffer.getvalue()


def consensus_facts(result: NeroResult, model: str, rows: Any) -> dict[str, float | None]:
    """Return how far the consensus of a model can be trusted on some samples.

    ``agreement``, ``coverage`` and ``residual`` are those of :class:`~anytask.evaluate.nero.consensus.Consensus`, and
    ``correct`` is the share of consensus classes that are the real labels. ``error_name`` and ``error`` measure the
    consensus of other tasks against the real labels, on inputs as they are. None where there is nothing to measure.
    """
    import numpy as np

    agreed, truth = result.consensus.get(model), result.truth(model)
    if agreed is None:
        return {}
    facts: dict[str, Any] = {name: _mean(getattr(agreed, name)[rows]) for name in ("agreement", "coverage", "residual")}
    if truth is None:
        return facts
    if result.task == "classification":
        good = np.isfinite(agreed.value[rows]).all(axis=1)
        facts["correct"] = _mean(agreed.value[rows][good].argmax(axis=1) == truth[rows][good])
        return facts
    from anytask.evaluate.nero.metrics import TASKS

    pick = (lambda all_: [all_[i] for i in rows]) if isinstance(agreed.value, list) else (lambda all_: all_[rows])
    task = TASKS[result.task](result.kind)
    metric = "iou" if result.task == "detection" else next(iter(task.metrics))
    facts["error_name"] = task.metrics[metric].label
    facts["error"] = _mean(task.measure(pick(agreed.value), pick(truth))[metric])
    return facts


def _mean(values: Any) -> float | None:
    import numpy as np

    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _named(results: Any) -> list[tuple[str, NeroResult]]:
    from anytask.evaluate.nero.result import NeroResult

    pairs = list(results.items()) if isinstance(results, Mapping) else [(None, result) for result in results]
    for _, result in pairs:
        if not isinstance(result, NeroResult):
            raise TypeError(f"results must be NeroResult objects, got {type(result).__name__}")
    return [
        (str(name) if name is not None else f"{' against '.join(result.models)} ({k})", result)
        for k, (name, result) in enumerate(pairs, 1)
    ]


def _result_folders(folders: Iterable[str | os.PathLike[str]]) -> Iterable[Path]:
    for given in folders:
        folder = Path(given)
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder; NeroResult.save(folder) makes one")
        inside = [] if (folder / _STATE_FILE).exists() else sorted(folder.glob(f"*/{_STATE_FILE}"))
        mine = [path.parent for path in inside if _is_result(path)]
        yield from mine or [folder]


def _is_result(path: Path) -> bool:
    try:
        return f'"{_CLASS}"' in path.read_text("utf-8", errors="replace")
    except OSError:
        return False


def _read(folder: Path) -> NeroResult:
    from anytask.evaluate.nero.result import NeroResult

    try:
        result = NeroResult.load(folder)
        if not len(result) or not result.references:
            raise ValueError(f"the result in {folder} holds no values")
        return result
    except FileNotFoundError:
        raise NotShown(f"There is no saved result in {folder}: NeroResult.save(folder) makes one.") from None
    except ValueError as error:  # it says which folder, and what is the matter
        raise NotShown(f"{str(error)[:1].upper()}{str(error)[1:].rstrip('.')}.") from error
    except Exception as error:
        logger.warning("the result in %s cannot be read", folder, exc_info=True)
        raise NotShown(f"The result in {folder} cannot be read ({type(error).__name__}: {error}).") from error
