"""A comparison in words and as a table for the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from anytask.bench.comparison import ALPHA, Comparison, Row
from anytask.problems.base import Metric

if TYPE_CHECKING:
    from anytask.bench.statistics import Difference, Summary


def number(value: float | None, metric: Metric | None = None, signed: bool = False) -> str:
    """Write a value of a metric: three decimals for shares, three significant digits for the rest.

    Examples
    --------
    >>> number(0.93149, Metric("accuracy", "accuracy")), number(1234.5, Metric("t", "t", unit="tokens")), number(None)
    ('0.931', '1,234', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    sign = "+" if signed else ""
    if metric is not None and not metric.unit:
        text = f"{value:{sign}.3f}"
    elif abs(value) >= 100:
        text = f"{value:{sign},.0f}"
    else:
        text = f"{value:{sign}.3g}"
    return text.replace("-", "−")


def in_sentence(label: str) -> str:
    """Write a label as it stands within a sentence: without its capital, unless it is an acronym.

    Examples
    --------
    >>> in_sentence("Final accuracy"), in_sentence("BLEU")
    ('final accuracy', 'BLEU')
    """
    return label if label[1:2].isupper() else label[:1].lower() + label[1:]


def with_interval(summary: Summary | Difference, metric: Metric, signed: bool = False) -> str:
    """Write a mean with its interval, as ``0.931 [0.910, 0.950]``."""
    if summary.low is None or summary.high is None:
        return number(summary.mean, metric, signed)
    low, high = number(summary.low, metric, signed), number(summary.high, metric, signed)
    return f"{number(summary.mean, metric, signed)} [{low}, {high}]"


def quantity(difference: float, metric: Metric) -> str:
    """Write the size of a difference: in points for shares, in the metric's unit otherwise.

    Examples
    --------
    >>> quantity(-0.042, Metric("accuracy", "accuracy")), quantity(12, Metric("t", "t", unit="tokens"))
    ('4.2 points', '12 tokens')
    """
    size = abs(difference)
    if not metric.unit:
        return f"{100 * size:.1f} points"
    return f"{number(size)} {metric.unit}"


def distinguishable(row: Row) -> bool:
    """Whether a row differs from the best baseline by more than chance, by the Holm-adjusted t-test."""
    return math.isfinite(row.p_holm) and row.p_holm < ALPHA


def difference_text(comparison: Comparison, row: Row) -> str:
    """Return a row's difference to the best baseline with its interval, as a cell of a table."""
    if row.name == comparison.best_baseline:
        return "best baseline"
    return with_interval(row.difference, comparison.primary, signed=True) if row.difference else "–"


def chance(row: Row) -> str:
    """Return whether a row's difference may be chance, with the adjusted p-value, as a cell of a table."""
    if not math.isfinite(row.p_holm):
        return "–"
    p = "p < 0.001" if row.p_holm < 0.001 else f"p = {row.p_holm:.3f}"
    return f"{'no' if distinguishable(row) else 'cannot tell'}, {p}"


def headline(comparison: Comparison) -> str:
    """Return the answer in plain words, saying so when it may be chance."""
    return " ".join(sentences(comparison))


def sentences(comparison: Comparison) -> list[str]:
    """Return the sentences of the answer, the most important first."""
    metric = comparison.primary
    rows = [row for row in comparison.rows if row.rank is not None]
    if not rows:
        return [f"No run finished, so there is nothing to rank ({len(comparison.failed)} failed)."]
    challengers = [row for row in rows if row.entrant.role != "baseline"]
    best = challengers[0] if challengers else rows[0]
    said = [_first(comparison, best, rows)]
    reference = next((row for row in rows if row.name == comparison.best_baseline), None)
    if best.difference is not None and reference is not None and challengers:
        said.append(_against(best, reference, metric))
    elif challengers:
        said.append("No baseline finished, so nothing says how much of this is the system's merit.")
    upper = [row for row in rows if row.bound == "upper"]
    if upper:
        values = ", ".join(f"{row.name} {number(row.primary.mean, metric)}" for row in upper)
        said.append(f"Upper bound, with more than a system may see: {values}.")
    failures = sum(row.failures for row in comparison.rows)
    if failures or comparison.not_run:
        parts = [f"{failures} failed"] if failures else []
        reason = "because it was stopped" if comparison.stopped else "for want of time"
        parts += [f"{len(comparison.not_run)} were not started {reason}"] if comparison.not_run else []
        said.append(f"Of {len(comparison.plan.items)} runs, {' and '.join(parts)}.")
    kinds = sorted({kind for row in rows if row.kind for kind in row.kind.split(", ")} & {"tiny", "sim"})
    if kinds:
        what = " and ".join({"tiny": "a tiny model trained here", "sim": "a simulated model"}[kind] for kind in kinds)
        said.append(f"Language model: {what}; this is evidence about the algorithms, not about real models.")
    return said


def _first(comparison: Comparison, best: Row, rows: list[Row]) -> str:
    metric = comparison.primary
    value = with_interval(best.primary, metric)
    among = [row for row in rows if row.bound != "upper"]
    seeds = len(comparison.plan.seeds)
    over = f"over {seeds} seeds" if seeds > 1 else "with one seed"
    data = comparison.data.name
    if best is rows[0] or best is among[0]:
        aside = "" if best is rows[0] else ", upper bounds aside"
        return f"{best.name} ranks first on {data}{aside}: {in_sentence(metric.label)} {value} {over}."
    return f"{best.name} is the best system on {data}, but not first: {in_sentence(metric.label)} {value} {over}."


def _against(best: Row, reference: Row, metric: Metric) -> str:
    difference = best.difference
    assert difference is not None
    size = quantity(difference.mean, metric)
    way = "better" if difference.mean > 0 else "worse"
    against = f"the best baseline, {reference.name} ({number(reference.primary.mean, metric)})"
    if math.isclose(difference.mean, 0.0, abs_tol=1e-12):
        return f"That is the same as {against}."
    if difference.n < 2 or difference.low is None or difference.high is None:
        return f"That is {size} {way} than {against}; one seed cannot tell this from chance."
    interval = f"[{_points(difference.low, metric)}, {_points(difference.high, metric)}]"
    if difference.low == difference.high:
        return f"That is {size} {way} than {against}, whatever the seed."
    if distinguishable(best):
        return f"That is {size} {way} than {against} {interval}, more than chance between seeds explains."
    return f"That is {size} {way} than {against} {interval}, which these seeds cannot tell from chance."


def _points(value: float, metric: Metric) -> str:
    return (f"{100 * value:+.1f}" if not metric.unit else number(value, None, signed=True)).replace("-", "−")


@dataclass(frozen=True)
class TerminalTable:
    """The ranking for a terminal, fitted to its width: what it measures, the table, and the answer in words.

    Rank, name, role, the metric with its interval and the difference to the best baseline are always there. What else
    a wider terminal has room for is added in this order: what an entrant sees of the task, seconds, failures, and up to
    two more metrics. Nothing is cut off; what is too long goes on in the next line.
    """

    comparison: Comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the lines for a console, as Rich asks for them."""
        yield self._title()
        yield ""
        yield self._table(options.max_width)
        yield ""
        yield Text(headline(self.comparison))

    def _title(self) -> Text:
        comparison = self.comparison
        metric = comparison.primary
        better = "higher" if metric.higher_is_better else "lower"
        said = f"{metric.label} ({better} is better)"
        if len(comparison.plan.seeds) > 1:
            said += f": mean over {len(comparison.plan.seeds)} seeds [95 % interval]"
        best = comparison.best_baseline
        if best is not None and any(row.difference for row in comparison.rows):
            said += f"; difference to the best baseline, {best}: positive is better"
            if any(math.isfinite(row.p_holm) for row in comparison.rows):
                said += ", p by paired t-test with Holm's adjustment"
        return Text(f"{said}.", style="dim")

    def _table(self, width: int) -> Table:
        rows = self.comparison.rows
        shown, more = self._columns()
        room = width - sum(_width(column) + 2 for column in shown)
        for column in more:
            if (room := room - _width(column) - 2) < 0:
                break
            shown.append(column)
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
        for name, justify, _ in shown:
            table.add_column(escape(name), justify=justify, overflow="fold")
        for i, row in enumerate(rows):
            table.add_row(*(cells[i] for _, _, cells in shown), style="dim" if row.entrant.role == "baseline" else None)
        return table

    def _columns(self) -> tuple[list[_Column], list[_Column]]:
        """What must be shown, and what may be, as (header, justification, cells)."""
        comparison = self.comparison
        rows, metric = comparison.rows, comparison.primary
        names = [escape(row.name) + (f" [dim]({row.kind} LM)[/]" if row.kind else "") for row in rows]
        must: list[_Column] = [
            ("#", "right", [str(row.rank or "–") for row in rows]),
            ("name", "left", names),
            ("role", "left", [role(row) for row in rows]),
            (metric.key, "left", [escape(with_interval(row.primary, metric)) for row in rows]),
            ("difference", "left", [_difference_cell(comparison, row) for row in rows]),
        ]
        failures = [f"[red]{row.failures}[/]" if row.failures else "0" for row in rows]
        may: list[_Column] = [
            ("sees", "left", [escape(row.sees or "–") for row in rows]),
            ("seconds", "right", [_seconds(row.cost.get("wall_seconds")) for row in rows]),
            ("failures", "right", failures),
        ]
        others = [m for m in comparison.problem.metrics[1:] if any(_finite(row.metrics.get(m.key)) for row in rows)]
        may += [(m.key, "right", [number(row.metrics.get(m.key), m) for row in rows]) for m in others[:2]]
        return must, may


_Column = tuple[str, Literal["left", "right"], list[str]]


def _width(column: _Column) -> int:
    return max(Text.from_markup(cell).cell_len for cell in (escape(column[0]), *column[2]))


def _seconds(value: float | None) -> str:
    return duration(value).removesuffix(" s") if value is not None and value < 120 else number(value)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def role(row: Row) -> str:
    """Write the part a row plays, with the end of the scale it marks."""
    return f"{row.bound} bound" if row.bound else row.entrant.role


def duration(seconds: float | None) -> str:
    """Write a duration.

    Examples
    --------
    >>> duration(0.5), duration(75), duration(7500), duration(None)
    ('0.50 s', '75 s', '2.1 h', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _difference_cell(comparison: Comparison, row: Row) -> str:
    if row.name == comparison.best_baseline:
        return "[dim]best baseline[/]"
    if row.difference is None:
        return "–"
    text = number(row.difference.mean, comparison.primary, signed=True)
    if not math.isfinite(row.p_holm):
        return text
    if not distinguishable(row):
        return f"{text} [dim]p={row.p_holm:.2f}[/]"
    colour = "green" if row.difference.mean > 0 else "red"
    return f"[{colour}]{text}[/] [dim]p{'<.001' if row.p_holm < 0.001 else f'={row.p_holm:.3f}'}[/]"
