"""The tables of a comparison as data, which the report and the app lay out each in its own way."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from anytask.bench import figures
from anytask.bench.results import Group, Results, Row
from anytask.bench.wording import blocks, chance, difference_text, duration, number, role, with_interval

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Who(NamedTuple):
    """The cell that names an entrant: in the color of the figures, with the kind of its language model."""

    name: str
    color: str
    lm: str | None


@dataclass(frozen=True)
class Part:
    """Rows of cells under one heading, which may be empty; ``apart`` from those that the answer is about."""

    rows: list[list[str | Who]]
    heading: str = ""
    apart: bool = False


@dataclass(frozen=True)
class Table:
    """A table: its head, its rows in parts, and which columns hold numbers."""

    head: list[str]
    parts: list[Part]
    numeric: Sequence[int]


class Failure(NamedTuple):
    """A run that failed: who with which seed, the error in one line, and where it came from."""

    name: str
    seed: int
    said: str
    traceback: str


class AverageRanks(NamedTuple):
    """The average ranks of a group: the figure, how to read it, and what it does not say."""

    group: Group
    figure: go.Figure
    caption: str
    note: str


def who(comparison: Results, row: Row) -> Who:
    """Return the cell that names the entrant of a row."""
    return Who(row.name, figures.color(comparison, row.name), row.kind)


def ranking_table(comparison: Results, narrow: bool = False) -> Table:
    """Return the ranking; ``narrow`` is without the other metrics."""
    metric, others = comparison.primary, [] if narrow else comparison.other_metrics
    head = ["rank", "name", "role", metric.label, "difference to the best baseline", "chance?"]
    head += [f"{m.label} {'↑' if m.higher_is_better else '↓'}" for m in others]

    def cells(row: Row) -> list[str | Who]:
        measured = [number(row.metrics.get(m.key), m) for m in others]
        compared = [with_interval(row.primary, metric), difference_text(comparison, row), chance(row)]
        return [str(row.rank or "–"), who(comparison, row), role(row), *compared, *measured]

    parts = [Part([cells(row) for row in block.rows], block.heading, block.apart) for block in blocks(comparison)]
    return Table(head, parts, (0, *range(3, len(head))))


def cost_keys(comparison: Results) -> list[str]:
    """Return the costs that were counted, the usual ones first."""
    counted = {key for row in comparison.rows for key in row.cost}
    return [key for key in _COSTS if key in counted] + sorted(counted - set(_COSTS))


def cost_table(comparison: Results) -> Table:
    """Return the mean costs of a run of each entrant."""
    rows, keys = [row for row in comparison.rows if row.done], cost_keys(comparison)
    with_lm = any(row.kind for row in rows)
    head = ["name", *map(cost_label, keys), *(["language model"] if with_lm else [])]
    cells: list[list[str | Who]] = [
        [
            who(comparison, row),
            *(cost_text(key, row.cost.get(key)) for key in keys),
            *([row.kind or "none"] if with_lm else []),
        ]
        for row in rows
    ]
    return Table(head, [Part(cells)], range(1, len(keys) + 1))


def failures(comparison: Results) -> Iterator[Failure]:
    """Yield the runs that failed."""
    for run in comparison.failed:
        error: dict[str, Any] = run.error or {}
        first = (str(error.get("message", "")).splitlines() or [""])[0]
        said = f"{error.get('type', '')}: {first}"
        yield Failure(run.entrant_name, run.seed, said, str(error.get("traceback", "")))


def average_ranks(comparison: Results) -> Iterator[AverageRanks]:
    """Yield the average ranks of each group that has any."""
    for group in comparison.groups:
        ranking = comparison.ranking(group)
        if ranking is None:
            continue
        caption = (
            "How to read it: further left is better, and entrants joined by a thick bar are so close in average rank "
            f"that these {ranking.n} seeds cannot tell them apart (Nemenyi test, 5 % level)."
        )
        note = "Ranks are taken within each seed on the same data; they say nothing about other data."
        if math.isfinite(ranking.p):
            p = "is below 0.001" if ranking.p < 0.001 else f"= {ranking.p:.3f}"
            note += f" Friedman test of “all rank alike”: p {p}."
        figure = figures.critical_difference(comparison, [row.name for row in group.rows], ranking)
        yield AverageRanks(group, figure, caption, note)


def cost_label(name: str) -> str:
    """Return what a cost is called in tables.

    Examples
    --------
    >>> cost_label("wall_seconds"), cost_label("gpu_hours")
    ('time', 'gpu hours')
    """
    return _COSTS[name][0] if name in _COSTS else name.replace("_", " ")


def cost_text(name: str, value: float | None) -> str:
    """Return an amount of a cost as text, in units that fit it.

    Examples
    --------
    >>> cost_text("peak_bytes", 5e8), cost_text("wall_seconds", 75.0), cost_text("labels", None)
    ('500 MB', '75 s', '–')
    """
    return _COSTS[name][1](value) if name in _COSTS else number(value)


def _size(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return (
        f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB" if value < 1e7 else f"{value / 1e6:.0f} MB"
    )


def _count(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"


_COSTS = {
    "wall_seconds": ("time", duration),
    "cpu_seconds": ("CPU time", duration),
    "train_seconds": ("training", duration),
    "predict_seconds": ("prediction", duration),
    "peak_bytes": ("peak memory", _size),
    "peak_increase_bytes": ("the run's own memory", _size),
    "trainable_parameters": ("trainable parameters", _count),
    "stored_parameters": ("stored numbers", _count),
    "stored_samples": ("stored samples", _count),
    "labels": ("labels", _count),
    "lm_calls": ("LM calls", _count),
    "lm_tokens": ("LM tokens", _count),
}
