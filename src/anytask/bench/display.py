"""Progress bars of a comparison, on stderr."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from anytask.bench.planning import Plan, PlanItem
from anytask.bench.store import Run
from anytask.core.terminal import SafeConsole
from anytask.problems.base import Metric


class Display:
    """Notes on the data, a bar for the comparison and for each run that goes on, and a line for each that has ended.

    The workers write the finished share of their run into a small file in ``folder``, named after the run's key; a
    thread reads those files twice a second.
    """

    def __init__(
        self, plan: Plan, primary: Metric, folder: Path, notes: Sequence[str] = (), console: SafeConsole | None = None
    ) -> None:
        self._items = {item.key[:32]: item for item in plan.items}
        self._primary = primary
        self._notes = notes
        self._folder = folder
        self._stop = threading.Event()
        self._bars: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]left"),
            TimeRemainingColumn(),
            speed_estimate_period=600,
            console=console or SafeConsole(stderr=True),
            transient=True,
        )
        self._total = self._progress.add_task("runs", total=len(plan.items))
        self._ended = 0

    def __enter__(self) -> Self:
        for note in self._notes:
            self._print(f"[dim]{escape(note)}[/]")
        self._progress.start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._progress.stop()

    def __call__(self, what: str, about: Run | PlanItem) -> None:
        """Take note of an event of :func:`anytask.bench.execute`."""
        self._ended += 1
        if what == "stored":  # took no time: not to be counted into the estimate of what is left
            self._progress.reset(self._total, completed=self._ended)
        else:
            self._progress.update(self._total, completed=self._ended)
        if isinstance(about, PlanItem):
            self._print(f"[dim]–[/] {escape(about.entrant.name)}, seed {about.seed}: not started")
            return
        label = f"{escape(about.entrant_name)}, seed {about.seed}"
        seconds = about.cost.get("wall_seconds", float("nan"))
        if about.status == "failed" and about.error:
            reason = (about.error["message"].splitlines() or [""])[0][:100]
            self._print(f"[red]✗[/] {label}: {about.error['type']}: {escape(reason)}")
        else:
            reached = about.metrics[self._primary.key]
            value = f"{self._primary.label} {reached:.3g}" if math.isfinite(reached) else "done"
            known = " [dim](from the store)[/]" if what == "stored" else f", {seconds:.1f} s"
            self._print(f"[green]✓[/] {label}: {escape(value)}{known}")

    def _print(self, line: str) -> None:
        self._progress.console.print(line, highlight=False)

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            shares = {path.name: path for path in self._folder.iterdir() if path.name in self._items}
            for name in [name for name in self._bars if name not in shares]:
                self._progress.remove_task(self._bars.pop(name))
            begun = 0.0
            for name, path in shares.items():
                if name not in self._bars:
                    item = self._items[name]
                    label = f"  {escape(item.entrant.name)}, seed {item.seed}"
                    self._bars[name] = self._progress.add_task(label, total=100)
                try:
                    share = float(path.read_text() or 0)
                except (OSError, ValueError):
                    continue  # ended, or being written, just now
                self._progress.update(self._bars[name], completed=round(100 * share))
                begun += share
            self._progress.update(self._total, completed=min(self._ended + begun, len(self._items)))
