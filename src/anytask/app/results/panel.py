"""One comparison, or two beside each other, as sections of a page."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from dash import dcc, html

from anytask import problems
from anytask.app import layout as pieces
from anytask.app.results.data import Loaded, Overview, finite
from anytask.bench import figures
from anytask.bench.comparison import Comparison
from anytask.bench.store import Run
from anytask.bench.tables import (
    Table,
    Who,
    average_ranks,
    cost_keys,
    cost_label,
    cost_table,
    cost_text,
    failures,
    ranking_table,
)
from anytask.bench.wording import TOLD, number, sentences, told, with_interval
from anytask.problems.base import Problem

logger = logging.getLogger(__name__)

#: The states of a comparison, in words and as a kind of badge.
STATES = {
    "running": ("running", "live"),
    "stopping": ("stopping", "live"),
    "silent": ("no sign of life", "bad"),
    "done": ("done", "good"),
    "stopped": ("stopped", "warn"),
    "interrupted": ("interrupted", "warn"),
}
#: What can be downloaded of a comparison.
DOWNLOADS = {"ranking.csv": "Ranking (CSV)", "runs.csv": "Runs (CSV)", "report.html": "Report (HTML)"}
#: Runs on one page of the table, and failures that are listed.
PAGE_ROWS = 50

_ORDERS = {
    "plan": "as planned",
    "best": "best first",
    "worst": "worst first",
    "slow": "slowest first",
    "late": "latest first",
}
_KEPT = {"persistence": True, "persistence_type": "memory"}  # while the page follows a running comparison


def panel(overview: Overview, loaded: Loaded) -> list[Any]:
    """Return everything about one comparison."""
    comparison = loaded.comparison
    parts = [_head(overview, comparison), *_warnings(overview, loaded)]
    if not comparison.runs:
        return [*parts, pieces.notice("No run has ended yet. This page follows by itself.")]
    found = views(overview, comparison)
    choice = dcc.RadioItems(
        id={"type": "view", "id": overview.id}, options=pieces.options(found), value=next(iter(found)), inline=True,
        className="tabs", **_KEPT,
    )  # fmt: skip
    left_out = pieces.table(["name", "reason"], map(list, comparison.left_out), label="Who was left out")
    return [
        *parts,
        _ranking(overview, comparison),
        *([pieces.section("Who was left out", left_out)] if comparison.left_out else []),
        html.Fieldset([html.Legend("A closer look"), choice], className="views"),
        html.Div(id={"type": "view-content", "id": overview.id}, className="closer"),
    ]


def views(overview: Overview, comparison: Comparison) -> dict[str, str]:
    """Return what else can be shown of a comparison, one at a time: name and title."""
    key, failed = overview.record.problem, len(comparison.failed)
    own = key in problems.KEYS and type(problems.get(key)).figures is not Problem.figures
    found = {
        "curves": "Curves" if own and failed < len(comparison.runs) else "",
        "cost": "Costs",
        "ranks": "Which differences count" if any(map(comparison.ranking, comparison.groups)) else "",
        "runs": f"Runs ({len(comparison.runs)})",
        "failures": f"Failures ({failed})" if failed else "",
        "again": "Do it again" if comparison.command else "",
    }
    return {name: words for name, words in found.items() if words}


def view(overview: Overview, comparison: Comparison, name: str) -> list[Any]:
    """Return one of the views that :func:`views` names."""
    makers = {"curves": _curves, "cost": _cost, "ranks": _ranks, "runs": _runs, "failures": _failures, "again": _again}
    return makers[name](overview, comparison)


def beside(overviews: Sequence[Overview], loaded: Sequence[Loaded]) -> list[Any]:
    """Return two comparisons in two columns, and who takes part in both in one table."""
    columns = []
    for overview, found in zip(overviews, loaded, strict=True):
        comparison = found.comparison
        parts = [_head(overview, comparison), *_warnings(overview, found)]
        if comparison.runs:
            parts += [_ranking(overview, comparison, narrow=True), *_cost(overview, comparison)]
        columns.append(html.Div(parts, className="column"))
    return [*_both(overviews, [found.comparison for found in loaded]), html.Div(columns, className="columns")]


def file_name(overview: Overview) -> str:
    """Return a name for files about a comparison, of letters, digits and dashes alone."""
    text = f"{overview.record.problem}-{overview.record.data_name}"
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60] or "comparison"


# -- sections ----------------------------------------------------------------------------------------------------


def _head(overview: Overview, comparison: Comparison) -> html.Div:
    ended, state = overview.done + overview.failed, overview.state
    first, *rest = sentences(comparison) if comparison.runs else ["Nothing has ended yet"]
    parts: list[Any] = [
        html.P([f"{overview.title} ", pieces.badge(*STATES[state])], className="kicker"),
        html.P(comparison.problem.setting(comparison.data), className="lead"),
        html.H2(first, className="answer"),
        html.P(" ".join(rest), className="lead"),
    ]
    if state in ("running", "stopping", "silent"):
        bar = {"id": f"progress-{overview.id}", "value": str(ended), "max": str(max(overview.total, 1))}
        running = [
            html.Label(f"{ended} of {overview.total} runs have ended", htmlFor=bar["id"]),
            html.Progress(**bar),
        ]
        if state == "running":
            id = {"type": "stop", "id": overview.id}
            running.append(html.Button("Stop this comparison", id=id, type="button", className="stop"))
        if state == "stopping":
            running.append(html.P("Stopping: runs that have begun end first, and are kept.", className="note"))
        parts.append(html.Div(running, className="running"))
    if comparison.runs:
        links = [
            html.A(words, href=f"/download/{overview.id}/{what}", download=f"{file_name(overview)}-{what}",
                   className="button")
            for what, words in DOWNLOADS.items()
        ]  # fmt: skip
        parts.append(html.Div([html.Span("Download", className="label"), *links], className="downloads"))
    return html.Div([part for part in parts if part.children], className="head")


def _warnings(overview: Overview, loaded: Loaded) -> list[Any]:
    said = []
    if overview.state == "silent":
        said.append(
            "This comparison has given no sign of life for over a minute: it was probably killed. Its finished runs "
            "are kept, and the same command goes on where it ended."
        )
    if loaded.unreadable:
        some = ", ".join(key[:12] for key in loaded.unreadable[:3])
        said.append(f"{len(loaded.unreadable)} stored runs are damaged and left aside (keys {some} ...).")
    metric = loaded.comparison.primary
    runs = [run for run in loaded.comparison.runs if run.status == "done" and not finite(run.metrics.get(metric.key))]
    if runs:
        who = ", ".join(dict.fromkeys(run.entrant_name for run in runs[:5]))
        said.append(f"{len(runs)} runs have no {metric.label}, by which this problem ranks, and get no rank: {who}.")
    if overview.loose and not loaded.comparison.written_command:
        said.append("These runs were stored without a comparison: they are put together by problem, data and settings.")
    return [pieces.notice(text, kind="warn") for text in said]


def _ranking(overview: Overview, comparison: Comparison, narrow: bool = False) -> Any:
    note = (
        "Differences are taken seed by seed, positive is better. “Chance?” is a paired t-test, adjusted after Holm: "
        "“no” means p < 0.05."
    )
    parts: list[Any] = []
    if comparison.groups:
        name = f"{file_name(overview)}-ranking"
        drawn, caption = figures.ranking(comparison), figures.ranking_caption(comparison)
        parts.append(pieces.figure(drawn, caption, name=name, label="Ranking with intervals"))
    parts.append(_table(ranking_table(comparison, narrow), "Ranking"))
    return pieces.section("Who does best", *parts, html.P(note, className="note"))


def _curves(overview: Overview, comparison: Comparison) -> list[Any]:
    """The problem's own figures: learning curves, accuracy after each task, and the like."""
    done = [run for run in comparison.runs if run.status == "done"]
    try:
        drawn = comparison.problem.figures(comparison.data, done)
    except Exception as error:  # runs without their details, or of an older version: the rest can still be shown
        logger.info("the figures of %s could not be drawn", comparison.problem.key, exc_info=True)
        text = f"The curves of this problem could not be drawn from these runs ({type(error).__name__}: {error})."
        return [pieces.notice(text, kind="warn")]
    parts = []
    for place, (title, caption, figure) in enumerate(drawn, 1):
        shown = pieces.figure(figure, caption, name=f"{file_name(overview)}-{place}", label=title)
        parts.append(pieces.section(title, shown, level=3))
    return parts or [html.P("This problem draws no curves.", className="note")]


def _cost(overview: Overview, comparison: Comparison) -> list[Any]:
    known = {key: cost_label(key) for key in cost_keys(comparison)}
    if not known:
        return []
    by = "wall_seconds" if "wall_seconds" in known else next(iter(known))
    choice = dcc.Dropdown(
        id={"type": "cost-by", "id": overview.id}, options=pieces.options(known), value=by, clearable=False,
        searchable=False,
    )  # fmt: skip
    return [
        pieces.section(
            "What it costs",
            pieces.control("Quality against", choice),
            html.Div(cost_figure(comparison, by), id={"type": "cost", "id": overview.id}),
            pieces.fold("Costs in numbers, means per run", _table(cost_table(comparison), "Costs")),
        )
    ]


def cost_figure(comparison: Comparison, by: str) -> Any:
    """Return quality against one of the costs, as a figure with its caption."""
    label, caption = f"Quality against {cost_label(by)}", figures.cost_caption(comparison, by)
    return pieces.figure(figures.cost(comparison, by), caption, name=f"cost-{by}", label=label)


def _ranks(overview: Overview, comparison: Comparison) -> list[Any]:
    parts: list[Any] = []
    for place, found in enumerate(average_ranks(comparison), 1):
        parts += [html.H3(f"Told {told(found.group)}")] if len(comparison.groups) > 1 else []
        name = f"{file_name(overview)}-differences{place}"
        parts.append(pieces.figure(found.figure, found.caption, name=name, label="Average ranks"))
        parts.append(html.P(found.note, className="note"))
    wider = html.P("This drawing needs a wider screen.", className="note narrow-only")
    return [pieces.section("Which differences count", html.Div(parts, className="wide-only"), wider)]


def _runs(overview: Overview, comparison: Comparison) -> list[Any]:
    def pick(kind: str, label: str, named: Mapping[Any, str], value: Any = None) -> Any:
        look = {"placeholder": "all", "clearable": value is None, "searchable": kind == "entrant"}
        id = {"type": f"runs-{kind}", "id": overview.id}
        return pieces.control(label, dcc.Dropdown(id=id, options=pieces.options(named), value=value, **look, **_KEPT))

    pages = math.ceil(len(comparison.runs) / PAGE_ROWS)
    filters = [
        pick("entrant", "Entrant", {entrant.name: entrant.name for entrant in comparison.plan.entrants}),
        pick("status", "Ended", {"done": "well", "failed": "failed"}),
        pick("order", "Order", _ORDERS, "plan"),
        pick("page", "Page", {i: f"{i} of {pages}" for i in range(1, pages + 1)}, 1),
    ]
    listed = html.Div(id={"type": "runs", "id": overview.id})
    return [pieces.section(f"The {len(comparison.runs)} runs", html.Div(filters, className="filters"), listed)]


def runs_table(comparison: Comparison, entrant: str | None, status: str | None, order: str, page: int) -> list[Any]:
    """Return one page of the runs, filtered and in the wanted order, each with its details to unfold."""
    metric = comparison.primary
    runs = [run for run in comparison.runs if entrant in (None, run.entrant_name) and status in (None, run.status)]
    runs = ordered(runs, order, metric.key, metric.higher_is_better)
    pages = max(1, math.ceil(len(runs) / PAGE_ROWS))
    page = min(max(page, 1), pages)
    rows = [
        [
            _name(run.entrant_name, figures.color(comparison, run.entrant_name)), str(run.seed),
            pieces.badge(run.status, "good" if run.status == "done" else "bad"),
            number(run.metrics.get(metric.key), metric),
            *(cost_text(key, run.cost.get(key)) for key in ("wall_seconds", "peak_bytes")),
            pieces.fold("details", *_run_details(comparison, run)),
        ]
        for run in runs[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    ]  # fmt: skip
    head = ["entrant", "seed", "ended", metric.label, "time", "peak memory", ""]
    count = f"{len(runs)} runs" if pages == 1 else f"{len(runs)} runs, page {page} of {pages}"
    return [html.P(count, className="small"), pieces.table(head, rows, numeric=(1, 3, 4, 5), label="Runs")]


def ordered(runs: Sequence[Run], order: str, metric: str, higher_is_better: bool) -> list[Run]:
    """Return the runs in the chosen order; those without the value come last."""
    if order == "late":
        return sorted(runs, key=lambda run: run.finished, reverse=True)
    if order == "plan":
        return list(runs)
    falling = order == "slow" or (order == "best") == higher_is_better

    def place(run: Run) -> tuple[bool, float]:
        value = run.cost.get("wall_seconds") if order == "slow" else run.metrics.get(metric)
        return (False, -value if falling else value) if value is not None and finite(value) else (True, 0.0)

    return sorted(runs, key=place)


def _run_details(comparison: Comparison, run: Run) -> list[Any]:
    metrics, sees = {metric.key: metric for metric in comparison.problem.metrics}, comparison.told(run)
    named: list[tuple[str, Any]] = [
        *((name, number(value, metrics.get(name))) for name, value in run.metrics.items()),
        *((cost_label(name), cost_text(name, value)) for name, value in run.cost.items()),
        ("class", run.entry),
        ("settings", json.dumps(run.params) if run.params else "defaults"),
        *([("was told", TOLD.get(sees, sees))] if sees else []),
        ("language model", run.kind or "none"),
        ("finished", run.finished[:19].replace("T", " ")),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        ("key", run.key[:16]),
    ]
    error = run.error or {}
    told_of = error.get("traceback") or error.get("message", "")
    return [
        *([html.Pre(told_of)] if told_of else []),
        pieces.pairs(named, "facts tight"),
        *([html.Ul([html.Li(note) for note in run.notes])] if run.notes else []),
    ]


def _failures(overview: Overview, comparison: Comparison) -> list[Any]:
    parts: list[Any] = [
        pieces.fold([html.Strong(run.name), f", seed {run.seed}: {run.said}"], html.Pre(run.traceback))
        for run in islice(failures(comparison), PAGE_ROWS)
    ]
    if (more := len(comparison.failed) - PAGE_ROWS) > 0:
        parts.append(html.P(f"... and {more} more; the table above lists all of them.", className="note"))
    return [pieces.section("What failed", *parts)]


def _again(overview: Overview, comparison: Comparison) -> list[Any]:
    return [pieces.section("Do it again", pieces.code(comparison.command))]


def _both(overviews: Sequence[Overview], comparisons: Sequence[Comparison]) -> list[Any]:
    by_name = [{row.name: row for row in comparison.rows} for comparison in comparisons]
    shared = [name for name in by_name[0] if name in by_name[1]]
    if not shared:
        return [pieces.notice("These two comparisons have no entrant in common.")]
    metrics = [comparison.primary for comparison in comparisons]
    head = ["name", *(f"{o.title}: {m.label}" for o, m in zip(overviews, metrics, strict=True)), "ranks"]
    rows = [
        [
            _name(name, figures.color(comparisons[0], name)),
            *(with_interval(rows[name].primary, metric) for rows, metric in zip(by_name, metrics, strict=True)),
            " / ".join(str(rows[name].rank or "–") for rows in by_name),
        ]
        for name in shared
    ]
    note = "" if metrics[0].key == metrics[1].key else "The two rank by different metrics."
    return [pieces.section("In both", pieces.table(head, rows, numeric=(1, 2, 3), label="Entrants in both"), note=note)]


def _table(found: Table, label: str) -> html.Div:
    cells = [[_name(*cell) if isinstance(cell, Who) else cell for cell in row] for p in found.parts for row in p.rows]
    cut = [(part.heading, len(part.rows), part.apart) for part in found.parts]
    return pieces.table(found.head, cells, found.numeric, label, cut)


def _name(name: str, color: str, lm: str | None = None) -> html.Span:
    small = [html.Small(f" ({lm} LM)")] if lm else []
    return html.Span([pieces.dot(color), name, *small], className="who" if len(name) <= 40 else "")
