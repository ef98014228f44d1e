"""The NERO results that the page can show: saved folders, results from Python, and an example made on demand."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anytask.evaluate.nero.result import NeroResult

logger = logging.getLogger(__name__)

#: The id and the name of the example that the page computes.
EXAMPLE, EXAMPLE_NAME = "example", "digits: plain against augmented network"
_STATE_FILE = "state.json"  # what NeroResult.save leaves in a folder
_MOST_SAMPLES, _FIRST_BYTES = 2000, 1_000_000


class NotShown(Exception):
    """A result, or a part of it, cannot be shown; the message says why, in a sentence for the page."""


@dataclass(frozen=True)
class Source:
    """One result of the list: its id on the page, its name, and the folder it is read from, if it is."""

    id: str
    name: str
    folder: Path | None = None


class Job(threading.Thread):
    """Work in a thread of its own, such as computing the example, watched by the page.

    Parameters
    ----------
    work : callable
        ``work(progress)``; calls ``progress`` with the finished share in [0, 1].

    Attributes
    ----------
    share : float
        Finished share.
    error : str
        Why it failed; "" while it runs, and if it did not fail.
    """

    def __init__(self, work: Callable[[Callable[[float], None]], Any]) -> None:
        super().__init__(name="nero-job", daemon=True)
        self.work, self.share, self.error = work, 0.0, ""
        self.start()

    def run(self) -> None:
        """Do the work."""
        try:
            self.work(lambda share: setattr(self, "share", float(share)))
        except Exception as error:
            logger.exception("the example of the NERO page failed")
            self.error = f"{type(error).__name__}: {error}"


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
        self._pages: dict[str, str] = {}
        self.example: Job | None = None
        given = _named(results)
        found = [inner for folder in folders for inner in _result_folders(Path(folder))]
        names = [folder.resolve().name for folder in found]
        listed: list[tuple[str, Path | None]] = [(name, None) for name in given]
        listed += [(name if names.count(name) == 1 else str(folder), folder) for name, folder in zip(names, found)]
        sources = [Source(f"result-{k}", name, folder) for k, (name, folder) in enumerate(listed, 1)]
        self.sources = (*sources, Source(EXAMPLE, EXAMPLE_NAME))
        self._results = {source.id: result for source, result in zip(sources, given.values())}

    def source(self, id: str | None) -> Source:
        """Return the source of this id, or the first one."""
        return next((source for source in self.sources if source.id == id), self.sources[0])

    def get(self, id: str) -> NeroResult:
        """Return a result.

        Raises
        ------
        NotShown
            If its folder is damaged or gone, or the example has not been computed.
        """
        with self._lock:
            if id not in self._results:
                folder = self.source(id).folder
                if folder is None:
                    raise NotShown("The example has not been computed yet.")
                self._results[id] = _read(folder)
            return self._results[id]

    def page(self, id: str, more: str) -> str:
        """Return the linked views of a result as HTML, made once; they ask for what they do not hold at ``more``."""
        from anytask.evaluate.nero.report import render

        with self._lock:
            if id not in self._pages:
                title = f"NERO: {self.source(id).name}"
                limits = {"max_samples": _MOST_SAMPLES, "max_bytes": _FIRST_BYTES}
                self._pages[id] = render(self.get(id), title, methods=("pca",), more=more, **limits)
            return self._pages[id]

    def more(self, id: str, method: str | None, sample: int | None) -> Any:
        """Return the sample maps of a method, or the details of a sample, which a page of :meth:`page` asked for."""
        from anytask.evaluate.nero import report

        result = self.get(id)
        with self._lock:
            if method is not None:
                return report.points(result, method, _MOST_SAMPLES)
            return report.details(result, [sample]) if sample is not None and 0 <= sample < len(result) else {}

    def compute_example(self) -> None:
        """Start to compute the example, unless that is under way or done."""

        def work(progress: Callable[[float], None]) -> None:
            from anytask.app.nero.example import digits_example

            self._results[EXAMPLE] = digits_example(progress=progress)

        with self._lock:
            if self.example is None or self.example.error:
                self.example = Job(work)


def result_csv(result: NeroResult, which: str) -> str:
    """Return a table as CSV.

    Parameters
    ----------
    result : NeroResult
        The result.
    which : {"summary", "samples", "orbit"}
        One row per reference, metric and model; one per sample of each; or the aggregate curves, one row per element.
    """
    import pandas as pd

    if which not in ("summary", "samples", "orbit"):
        raise ValueError(f"which must be summary, samples or orbit, got {which!r}")
    if which == "summary":
        return result.table().to_csv(index=False)
    frames = {}
    for reference, metric in ((r, m) for r in result.references for m in result.metrics):
        if which == "samples":
            frame = result.per_sample(metric, reference).reset_index()
            if result.task == "classification" and result.y is not None:
                frame.insert(2, "label", [result.labels()[i] for i in frame["sample"]])
        else:
            columns = {"element": result.group.labels, **dict(zip(result.group.axes, result.group.coords.T))}
            frame = pd.DataFrame(columns | dict(zip(result.models, result.aggregate(metric, reference))))
        frames[reference, metric] = frame
    return pd.concat(frames, names=["reference", "metric"]).droplevel(2).to_csv()


def _named(results: Any) -> dict[str, NeroResult]:
    from anytask.evaluate.nero.result import NeroResult

    if not isinstance(results, Mapping):
        results = {f"{' against '.join(getattr(r, 'models', ''))} ({k})": r for k, r in enumerate(results, 1)}
    for result in results.values():
        if not isinstance(result, NeroResult):
            raise TypeError(f"results must be NeroResult objects, got {type(result).__name__}")
    return {str(name): result for name, result in results.items()}


def _result_folders(folder: Path) -> list[Path]:
    from anytask.evaluate.nero.result import SAVED_AS

    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; NeroResult.save(folder) makes one")
    inside = [] if (folder / _STATE_FILE).exists() else sorted(folder.glob(f"*/{_STATE_FILE}"))
    return [f.parent for f in inside if f'"{SAVED_AS}"' in f.read_text("utf-8", errors="replace")] or [folder]


def _read(folder: Path) -> NeroResult:
    from anytask.evaluate.nero.result import NeroResult

    try:
        result = NeroResult.load(folder)
        if not len(result) or not result.references:
            raise ValueError("it holds no values")
        return result
    except FileNotFoundError:
        raise NotShown(f"There is no saved result in {folder}: NeroResult.save(folder) makes one.") from None
    except Exception as error:
        logger.info("the result in %s cannot be read", folder, exc_info=True)
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise NotShown(f"The result in {folder} cannot be read: {why.rstrip('.')}.") from error
