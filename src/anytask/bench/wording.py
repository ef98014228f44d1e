"""A comparison in words and as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from anytask.bench.results import ALPHA, Group, Results, Row
from anytask.problems.base import Metric

if TYPE_CHECKING:
    from anytask.bench.statistics import Difference, Summary

#: What an entrant was told of the task, in words that go on after "told".
TOLD = {
    "none": "nothing of the task",
    "boundary": "when a task ends",
    "train": "the task in training",
    "test": "the task in training and at test",
}


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
    """Whether a row differs from its reference by more than chance, by the Holm-adjusted t-test."""
    return math.isfinite(row.p_holm) and row.p_holm < ALPHA


def difference_text(comparison: Results, row: Row) -> str:
    """Return a row's difference to its reference with its interval, as a cell of a table."""
    if row.name in {group.best_baseline for group in comparison.groups}:
        return "best baseline"
    if row.difference is None:
        return "–"
    return with_interval(row.difference, comparison.primary, signed=True) + _to_another(comparison, row)


def chance(row: Row) -> str:
    """Return whether a row's difference may be chance, with the adjusted p-value, as a cell of a table."""
    if not math.isfinite(row.p_holm):
        return "–"
    p = "p < 0.001" if row.p_holm < 0.001 else f"p = {row.p_holm:.3f}"
    return f"{'no' if distinguishable(row) else 'cannot tell'}, {p}"


def headline(comparison: Results) -> str:
    """Return the answer in plain words, saying so when it may be chance."""
    return " ".join(sentences(comparison))


def sentences(comparison: Results) -> list[str]:
    """Return the sentences of the answer, the most important first."""
    metric = comparison.primary
    groups = sorted(comparison.groups, key=lambda group: group is not comparison.main)
    if not any(row.done for row in comparison.rows):
        return [f"No run finished, so there is nothing to rank ({len(comparison.failed)} failed)."]
    if not any(_finite(row.primary.mean) for row in comparison.rows):
        return [f"No {metric.label.lower()} was measured, so nothing is ranked."]
    entered = [group for group in groups if any(row.entrant.role != "baseline" for row in group.rows)]
    said = [sentence for group in entered or groups[:1] for sentence in _of_group(comparison, group)]
    if entered and not any(group.best_baseline for group in groups):
        said.append("No baseline finished, so nothing says how much of this is the system's merit.")
    upper = [row for row in comparison.rows if row.bound == "upper" and row.done]
    if upper:
        values = ", ".join(
            f"{row.name} {number(row.primary.mean, metric)} (given {privilege(comparison, row)})" for row in upper
        )
        said.append(f"For reference, not ranked: {values}.")
    failures = sum(row.failures for row in comparison.rows)
    if failures or comparison.not_run:
        parts = [f"{failures} failed"] if failures else []
        reason = "because it was stopped" if comparison.stopped else "for want of time"
        parts += [f"{len(comparison.not_run)} were not started {reason}"] if comparison.not_run else []
        said.append(f"Of {len(comparison.plan.items)} runs, {' and '.join(parts)}.")
    kinds = sorted({k for row in comparison.rows if row.kind for k in row.kind.split(", ")} & {"tiny", "sim"})
    if kinds:
        what = " and ".join({"tiny": "a tiny model trained here", "sim": "a simulated model"}[kind] for kind in kinds)
        said.append(f"Language model: {what}; this is evidence about the algorithms, not about real models.")
    return said


def told(row: Row | Group) -> str:
    """Return what an entrant or a group was told of the task, in words that go on after "told"."""
    return TOLD.get(row.sees or "none", row.sees or "")


def privilege(comparison: Results, row: Row) -> str:
    """Return what an upper bound is given that no system may have, in words."""
    return comparison.problem.privileges.get(row.name, "more than a system may have")


@dataclass(frozen=True)
class Block:
    """Rows of a ranking under one heading; ``apart`` from those that the answer is about, ranked or not."""

    heading: str
    rows: Sequence[Row]
    apart: bool = True


def blocks(comparison: Results) -> list[Block]:
    """Return the rows in the blocks of a ranking: those told the same, references, those without a value.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> blocks(SimpleNamespace(groups=[], rows=[], main=None))
    []
    """
    main = comparison.main
    found = []
    for place, group in enumerate(comparison.groups):
        than = "" if group is main else " more" if main in comparison.groups[:place] else " less"
        heading = f"Told{than}{':' if than else ''} {told(group)}" if len(comparison.groups) > 1 else ""
        found.append(Block(heading, group.rows, apart=group is not main))
    rest = [row for row in comparison.rows if row.rank is None]
    upper = [row for row in rest if row.bound == "upper" and row.done]
    found += [Block(f"For reference, not ranked: given {privilege(comparison, row)}", [row]) for row in upper]
    without = [row for row in rest if row not in upper]
    return [*found, Block("Without a value", without)] if without else found


def _of_group(comparison: Results, group: Group) -> list[str]:
    """Say who is best of those that were told the same, by how much over the best baseline, and how sure that is."""
    metric = comparison.primary
    best = next((row for row in group.rows if row.entrant.role != "baseline"), group.rows[0])
    among, data = told(group) if len(comparison.groups) > 1 else "", comparison.data.name
    value = f"{in_sentence(metric.label)} {number(best.primary.mean, metric)}{_against(comparison, best)}"
    if among and len(group.rows) == 1:
        first = f"Told {among}, {best.name} is the only one on {data}: {value}."
    else:
        place = f"ranks first on {data}" if best is group.rows[0] else f"is the best system on {data}, but not first"
        first = f"{f'Of those told {among}, ' if among else ''}{best.name} {place}: {value}."
    return [first, _sure(comparison, best)]


def _against(comparison: Results, best: Row) -> str:
    """Say how far a row is from its reference, as the end of a sentence; "" for a baseline, and without a reference."""
    metric, difference = comparison.primary, best.difference
    reference = next((row for row in comparison.rows if row.name == best.reference), None)
    if difference is None or reference is None or best.entrant.role == "baseline":
        return ""
    value = number(reference.primary.mean, metric)
    which = f"the best baseline, {reference.name} ({value})"
    if told(reference) != told(best):
        which = f"{reference.name} ({value}), the best baseline, which was told {told(reference)}"
    if math.isclose(difference.mean, 0.0, abs_tol=1e-12):
        return f", the same as {which}"
    return f", {quantity(difference.mean, metric)} {'better' if difference.mean > 0 else 'worse'} than {which}"


def _sure(comparison: Results, best: Row) -> str:
    metric, summary, difference = comparison.primary, best.primary, best.difference
    if summary.low is None or summary.high is None:
        return "This is one seed, which cannot tell a difference from chance."
    said = f"Over {len(comparison.plan.seeds)} seeds the 95 % interval is "
    said += f"[{number(summary.low, metric)}, {number(summary.high, metric)}]"
    if difference is None or difference.low is None or difference.high is None or best.entrant.role == "baseline":
        return f"{said}."
    if difference.low == difference.high:
        return f"{said}, and the difference is the same whatever the seed."
    said += f", and that of the difference [{_points(difference.low, metric)}, {_points(difference.high, metric)}]"
    said += " points" if not metric.unit else ""
    return said + (
        ": more than chance between seeds explains."
        if distinguishable(best)
        else ", which may be chance between seeds."
    )


def _points(value: float, metric: Metric) -> str:
    return (f"{100 * value:+.1f}" if not metric.unit else number(value, None, signed=True)).replace("-", "−")


@dataclass(frozen=True)
class TerminalTable:
    """The ranking for a terminal, fitted to its width: what it measures, the table, and the answer in words.

    Rank, name, role, the metric with its interval and the difference to the best baseline are always there, and so are
    the metrics that the problem calls costs, in a table of their own where the terminal is too narrow. What else a
    wider one has room for is added in this order: seconds, failures, and up to two more metrics. Nothing is cut off;
    what is too long goes on in the next line. Entrants that were told different things of the task are ranked in tables
    of their own, under a heading that says what it was.
    """

    comparison: Results

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the lines for a console, as Rich asks for them."""
        setting = self.comparison.problem.setting(self.comparison.data)
        if setting:
            yield Text(setting)
        yield self._title()
        yield ""
        yield from self._tables(options.max_width)
        yield ""
        yield Text(headline(self.comparison))

    def _title(self) -> Text:
        comparison = self.comparison
        metric = comparison.primary
        if not any(_finite(row.primary.mean) for row in comparison.rows):
            return Text("What was measured, in no order:", style="dim")
        better = "higher" if metric.higher_is_better else "lower"
        said = f"{metric.label} ({better} is better)"
        if len(comparison.plan.seeds) > 1:
            said += f": mean over {len(comparison.plan.seeds)} seeds [95 % interval]"
        if any(row.difference for row in comparison.rows):
            best = [group.best_baseline for group in comparison.groups]
            which = f", {best[0]}" if len(best) == 1 else " told the same"
            said += f"; difference to the best baseline{which}: positive is better"
            if any(math.isfinite(row.p_holm) for row in comparison.rows):
                said += ", p by paired t-test with Holm's adjustment"
        return Text(f"{said}.", style="dim")

    def _tables(self, width: int) -> Iterator[Table | Text]:
        parts = blocks(self.comparison)
        shown, costs, more = self._columns([row for block in parts for row in block.rows])
        beside = sum(_width(column) + 2 for column in (*shown, *costs)) <= width
        named, shown = shown[:2], [*shown, *costs] if beside else shown
        room = width - sum(_width(column) + 2 for column in shown)
        for column in more:
            if (room := room - _width(column) - 2) < 0:
                break
            shown.append(column)
        fits = sum(_width(column) + 2 for column in shown) <= width
        start = 0
        for block in parts:
            if block.heading:
                yield Text(block.heading, style="dim bold" if block.apart else "bold")
            table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1), show_header=start == 0)
            for column in shown:
                # Tables of one ranking keep their columns in line.
                least = _width(column) if fits else None
                table.add_column(escape(column[0]), justify=column[1], overflow="fold", min_width=least)
            for place, row in enumerate(block.rows, start):
                faint = block.apart or row.entrant.role == "baseline"
                table.add_row(*(cells[place] for _, _, cells in shown), style="dim" if faint else None)
            start += len(block.rows)
            yield table
        if costs and not beside:
            table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
            for header, justify, _ in (*named, *costs):
                table.add_column(escape(header), justify=justify, overflow="fold")
            for line in zip(*(cells for _, _, cells in (*named, *costs))):
                table.add_row(*line)
            yield Text("\nWhat it cost", style="bold")
            yield table

    def _columns(self, rows: list[Row]) -> tuple[list[_Column], list[_Column], list[_Column]]:
        """What must be shown, what must be shown anywhere, and what may be, as (header, justification, cells)."""
        comparison = self.comparison
        metric = comparison.primary
        names = [escape(row.name) + (f" [dim]({row.kind} LM)[/]" if row.kind else "") for row in rows]
        must: list[_Column] = [
            ("#", "right", [str(row.rank or "–") for row in rows]),
            ("name", "left", names),
            ("role", "left", [role(row) for row in rows]),
        ]
        wanted = comparison.problem.costs

        def measured(cost: bool) -> list[_Column]:
            kept = [m for m in comparison.other_metrics if (m.key in wanted) is cost]
            return [(m.key, "right", [number(row.metrics.get(m.key), m) for row in rows]) for m in kept]

        costs, rest = measured(True), measured(False)
        if any(_finite(row.primary.mean) for row in rows):
            must += [
                (metric.key, "left", [escape(with_interval(row.primary, metric)) for row in rows]),
                ("difference", "left", [_difference_cell(comparison, row) for row in rows]),
            ]
        else:  # nothing says who is best: what else was measured is what there is to see
            must, rest = must + rest, []
        failures = [f"[red]{row.failures}[/]" if row.failures else "0" for row in rows]
        may: list[_Column] = [
            ("seconds", "right", [_seconds(row.cost.get("wall_seconds")) for row in rows]),
            ("failures", "right", failures),
        ]
        return must, costs, may + rest[:2]


_Column = tuple[str, Literal["left", "right"], list[str]]


def _width(column: _Column) -> int:
    lines = [line for cell in (escape(column[0]), *column[2]) for line in Text.from_markup(cell).split()]
    return max(line.cell_len for line in lines)


def _seconds(value: float | None) -> str:
    return duration(value).removesuffix(" s") if value is not None and value < 120 else number(value)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def role(row: Row) -> str:
    """Write the part a row plays; an upper bound is only called a reference, since a system may come out above it."""
    return {"upper": "reference", "lower": "lower bound"}.get(row.bound or "", row.entrant.role)


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


def _to_another(comparison: Results, row: Row) -> str:
    """Name the reference of a difference where it is not the best baseline of the row's own block."""
    group = next((g for g in comparison.groups if row.name in {r.name for r in g.rows}), None)
    own = group.best_baseline if group else comparison.groups[0].best_baseline if len(comparison.groups) == 1 else None
    return "" if own == row.reference else f" to {row.reference}"


def _difference_cell(comparison: Results, row: Row) -> str:
    if row.name in {group.best_baseline for group in comparison.groups}:
        return "[dim]best baseline[/]"
    if row.difference is None:
        return "–"
    text = number(row.difference.mean, comparison.primary, signed=True)
    to = escape(_to_another(comparison, row)).replace(" to", "\nto", 1)
    if not math.isfinite(row.p_holm):
        return text + to
    if not distinguishable(row):
        return f"{text} [dim]p={row.p_holm:.2f}[/]{to}"
    color = "green" if row.difference.mean > 0 else "red"
    return f"[{color}]{text}[/] [dim]p{'<.001' if row.p_holm < 0.001 else f'={row.p_holm:.3f}'}[/]{to}"
