"""One comparison, or two beside each other, as sections of a page."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html

from anytask import problems
from anytask.app import layout as pieces
from anytask.app.results.data import Loaded, Overview, finite
from anytask.bench import figures
from anytask.bench.comparison import Comparison
from anytask.bench.report import cost_label, cost_text
from anytask.bench.results import Group, Row
from anytask.bench.statistics import Ranking
from anytask.bench.store import Run
from anytask.bench.wording import (
    TOLD,
    blocks,
    chance,
    difference_text,
    in_sentence,
    number,
    role,
    sentences,
    told,
    with_interval,
)
from anytask.problems.base import Problem

logger = logging.getLogger(__name__)

#: Runs on one page of the table, and failures that are listed.
PAGE_ROWS = 50

_ORDERS = {
    "plan": "as planned",
    "best": "best first",
    "worst": "worst first",
    "slow": "slowest first",
    "late": "latest first",
}

_States = Mapping[str, tuple[str, str]]


def panel(overview: Overview, loaded: Loaded, states: _States) -> list[Any]:
    """Return everything about one comparison."""
    comparison = loaded.comparison
    parts = [_head(overview, comparison, states), *_warnings(overview, loaded)]
    if not comparison.runs:
        return [*parts, pieces.notice("No run has ended yet. This page follows by itself.")]
    found = views(overview, comparison)
    names = [{"label": words, "value": name} for name, words in found.items()]
    choice = dcc.RadioItems(
        id={"type": "view", "id": overview.id}, options=names, value=next(iter(found)), inline=True, className="tabs",
        persistence=True, persistence_type="memory",
    )  # fmt: skip
    return [
        *parts,
        _ranking(overview, comparison),
        *_left_out(comparison),
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
        "ranks": "Which differences count" if _ranked(comparison) else "",
        "runs": f"Runs ({len(comparison.runs)})",
        "failures": f"Failures ({failed})" if failed else "",
        "again": "Do it again",
    }
    return {name: words for name, words in found.items() if words}


def view(overview: Overview, comparison: Comparison, name: str) -> list[Any]:
    """Return one of the views that :func:`views` names."""
    if name == "curves":
        return _closer(overview, comparison)
    if name == "cost":
        return [_cost(overview, comparison)]
    if name == "ranks":
        return _significance(overview, comparison)
    if name == "runs":
        return [_runs(overview, comparison)]
    if name == "failures":
        return _failures(comparison)
    return [_again(comparison)]


def beside(overviews: Sequence[Overview], loaded: Sequence[Loaded], states: _States) -> list[Any]:
    """Return two comparisons in two columns, and who takes part in both in one table."""
    columns = []
    for overview, found in zip(overviews, loaded, strict=True):
        comparison = found.comparison
        parts = [_head(overview, comparison, states), *_warnings(overview, found)]
        if comparison.runs:
            parts += [_ranking(overview, comparison, narrow=True), _cost(overview, comparison)]
        columns.append(html.Div(parts, className="column"))
    return [*_both(overviews, [found.comparison for found in loaded]), html.Div(columns, className="columns")]


def file_name(overview: Overview) -> str:
    """Return a name for files about a comparison, of letters, digits and dashes alone."""
    text = f"{overview.record.problem}-{overview.record.data_name}"
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60] or "comparison"


# -- sections ----------------------------------------------------------------------------------------------------


def _head(overview: Overview, comparison: Comparison, states: _States) -> html.Div:
    words, kind = states[overview.state]
    ended = overview.done + overview.failed
    said = sentences(comparison) if comparison.runs else []
    setting = comparison.problem.setting(comparison.data)
    parts: list[Any] = [
        html.P([f"{overview.title} ", pieces.badge(words, kind)], className="kicker"),
        *([html.P(setting, className="lead")] if setting else []),
        html.H2(said[0] if said else "Nothing has ended yet", className="answer"),
    ]
    if said[1:]:
        parts.append(html.P(" ".join(said[1:]), className="lead"))
    if overview.state in ("running", "stopping", "silent"):
        running: list[Any] = [
            html.Label(f"{ended} of {overview.total} runs have ended", htmlFor=f"progress-{overview.id}"),
            html.Progress(id=f"progress-{overview.id}", value=str(ended), max=str(max(overview.total, 1))),
        ]
        if overview.state == "running":
            running.append(
                html.Button(
                    "Stop this comparison", id={"type": "stop", "id": overview.id}, type="button", className="stop"
                )
            )
        if overview.state == "stopping":
            running.append(html.P("Stopping: runs that have begun end first, and are kept.", className="note"))
        parts.append(html.Div(running, className="running"))
    links = [
        html.A(
            words, href=f"/download/{overview.id}/{what}", download=f"{file_name(overview)}-{what}", className="button"
        )
        for words, what in (
            ("Ranking (CSV)", "ranking.csv"),
            ("Runs (CSV)", "runs.csv"),
            ("Report (HTML)", "report.html"),
        )
    ]
    if comparison.runs:
        parts.append(html.Div([html.Span("Download", className="label"), *links], className="downloads"))
    return html.Div(parts, className="head")


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
    metric = comparison.primary
    parts: list[Any] = []
    if any(row.done and math.isfinite(row.primary.mean) for row in comparison.rows):
        drawn, caption = figures.ranking(comparison), figures.ranking_caption(comparison)
        parts.append(
            pieces.figure(drawn, caption, name=f"{file_name(overview)}-ranking", label="Ranking with intervals")
        )
    head: list[Any] = ["rank", "name", "role", metric.label, "difference to the best baseline", "chance?"]
    others = (
        []
        if narrow
        else [m for m in comparison.problem.metrics[1:] if any(finite(r.metrics.get(m.key)) for r in comparison.rows)]
    )
    head += [f"{m.label} {'↑' if m.higher_is_better else '↓'}" for m in others]
    found = blocks(comparison)
    rows = [
        [
            str(row.rank or "–"),
            _name(comparison, row),
            role(row),
            with_interval(row.primary, metric),
            difference_text(comparison, row),
            chance(row),
            *(number(row.metrics.get(m.key), m) for m in others),
        ]
        for block in found
        for row in block.rows
    ]
    cut = [(block.heading, len(block.rows), block.apart) for block in found]
    note = (
        "Differences are taken seed by seed, positive is better. “Chance?” is a paired t-test, adjusted after Holm: "
        "“no” means p < 0.05."
    )
    parts.append(pieces.table(head, rows, (0, *range(3, len(head))), "Ranking", cut))
    parts.append(html.P(note, className="note"))
    return pieces.section("Who does best", *parts)


def _closer(overview: Overview, comparison: Comparison) -> list[Any]:
    """The problem's own figures: learning curves, accuracy after each task, and the like."""
    done = [run for run in comparison.runs if run.status == "done"]
    if not done:
        return []
    try:
        drawn = comparison.problem.figures(comparison.data, done)
    except Exception as error:  # runs without their details, or of an older version: the rest can still be shown
        logger.info("the figures of %s could not be drawn", comparison.problem.key, exc_info=True)
        text = f"The curves of this problem could not be drawn from these runs ({type(error).__name__}: {error})."
        return [pieces.notice(text, kind="warn")]
    parts = []
    for place, (title, caption, figure) in enumerate(drawn):
        name = f"{file_name(overview)}-{place + 1}"
        parts.append(pieces.section(title, pieces.figure(figure, caption, name=name, label=title), level=3))
    return parts or [html.P("This problem draws no curves.", className="note")]


def _cost(overview: Overview, comparison: Comparison) -> Any:
    rows = [row for row in comparison.rows if row.done]
    keys = [
        key for key in dict.fromkeys(key for row in rows for key in row.cost) if any(row.cost.get(key) for row in rows)
    ]
    if not keys:
        return html.Div()
    by = "wall_seconds" if "wall_seconds" in keys else keys[0]
    choice = dcc.Dropdown(
        id={"type": "cost-by", "id": overview.id},
        options=[{"value": key, "label": cost_label(key)} for key in keys],
        value=by,
        clearable=False,
        searchable=False,
    )
    head = ["name", *(cost_label(key) for key in keys)]
    cells = [[_name(comparison, row), *(cost_text(key, row.cost.get(key)) for key in keys)] for row in rows]
    listed = pieces.table(head, cells, numeric=range(1, len(head)), label="Costs")
    return pieces.section(
        "What it costs",
        html.Div([html.Span("Quality against", id=f"cost-label-{overview.id}", className="label"), choice],
                 className="control", role="group", **{"aria-labelledby": f"cost-label-{overview.id}"}),
        html.Div(cost_figure(comparison, by), id={"type": "cost", "id": overview.id}),
        html.Details([html.Summary("Costs in numbers, means per run"), listed]),
    )  # fmt: skip


def cost_figure(comparison: Comparison, by: str) -> Any:
    """Return quality against one of the costs, as a figure with its caption."""
    better = "Up" if comparison.primary.higher_is_better else "Down"
    caption = f"{better} and to the left is best: good {in_sentence(comparison.primary.label)} for little."
    return pieces.figure(
        figures.cost(comparison, by), caption, name=f"cost-{by}", label=f"Quality against {cost_label(by)}"
    )


def _ranked(comparison: Comparison) -> list[tuple[Group, Ranking]]:
    """The groups whose average ranks can be drawn."""
    found = [(group, comparison.ranking(group)) for group in comparison.groups if len(group.rows) <= 20]
    return [(group, ranking) for group, ranking in found if ranking is not None]


def _significance(overview: Overview, comparison: Comparison) -> list[Any]:
    parts: list[Any] = []
    for place, (group, ranking) in enumerate(_ranked(comparison)):
        caption = (
            "Further left is better. Entrants joined by a thick bar are so close in average rank that these "
            f"{ranking.n} seeds cannot tell them apart (Nemenyi test, 5 % level)."
        )
        drawn = figures.critical_difference(comparison, [row.name for row in group.rows], ranking)
        name = f"{file_name(overview)}-differences{place + 1 if place else ''}"
        parts += [html.H3(f"Told {told(group)}")] if len(comparison.groups) > 1 else []
        parts.append(pieces.figure(drawn, caption, name=name, label="Average ranks"))
    if not parts:
        return []
    return [pieces.section("Which differences count", html.Div(parts, className="wide-only"),
                           html.P("This drawing needs a wider screen.", className="note narrow-only"))]  # fmt: skip


def _runs(overview: Overview, comparison: Comparison) -> Any:
    names = [entrant.name for entrant in comparison.plan.entrants]
    pages = max(1, math.ceil(len(comparison.runs) / PAGE_ROWS))

    def pick(kind: str, label: str, options: list[Any], value: Any = None, **more: Any) -> Any:
        id = {"type": f"runs-{kind}", "id": overview.id}
        mark = f"runs-{kind}-{overview.id}"
        kept = {"persistence": True, "persistence_type": "memory"}  # while the page follows a running comparison
        picked = dcc.Dropdown(id=id, options=options, value=value, placeholder="all", **kept, **more)
        return html.Div([html.Span(label, id=mark, className="label"), picked], className="control", role="group",
                        **{"aria-labelledby": mark})  # fmt: skip

    filters = [
        pick("entrant", "Entrant", _options({name: name for name in names})),
        pick("status", "Ended", _options({"done": "well", "failed": "failed"}), searchable=False),
        pick("order", "Order", _options(_ORDERS), "plan", clearable=False, searchable=False),
        pick("page", "Page", _options({i: f"{i} of {pages}" for i in range(1, pages + 1)}), 1, clearable=False,
             searchable=False),
    ]  # fmt: skip
    return pieces.section(
        f"The {len(comparison.runs)} runs",
        html.Div(filters, className="filters"),
        html.Div(id={"type": "runs", "id": overview.id}),
    )


def runs_table(comparison: Comparison, entrant: str | None, status: str | None, order: str, page: int) -> list[Any]:
    """Return one page of the runs, filtered and in the wanted order, each with its details to unfold."""
    metric = comparison.primary
    runs = [
        run
        for run in comparison.runs
        if (not entrant or run.entrant_name == entrant) and (not status or run.status == status)
    ]
    runs = ordered(runs, order, metric.key, metric.higher_is_better)
    pages = max(1, math.ceil(len(runs) / PAGE_ROWS))
    page = min(max(page, 1), pages)
    shown = runs[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    rows = [
        [
            _name(comparison, run.entrant_name),
            str(run.seed),
            pieces.badge("done", "good") if run.status == "done" else pieces.badge("failed", "bad"),
            number(run.metrics.get(metric.key), metric),
            cost_text("wall_seconds", run.cost.get("wall_seconds")),
            cost_text("peak_bytes", run.cost.get("peak_bytes")),
            html.Details([html.Summary("details"), _run_details(comparison, run)]),
        ]
        for run in shown
    ]
    head = ["entrant", "seed", "ended", metric.label, "time", "peak memory", ""]
    count = f"{len(runs)} runs" if pages == 1 else f"{len(runs)} runs, page {page} of {pages}"
    return [html.P(count, className="small"), pieces.table(head, rows, numeric=(1, 3, 4, 5), label="Runs")]


def ordered(runs: Sequence[Run], order: str, metric: str, higher_is_better: bool) -> list[Run]:
    """Return the runs in the chosen order; those without the value come last."""

    def last_without(value: Any, turn: bool) -> tuple[bool, float]:
        return (not finite(value), (-value if turn else value) if finite(value) else 0.0)

    if order in ("best", "worst"):
        turn = higher_is_better if order == "best" else not higher_is_better
        return sorted(runs, key=lambda run: last_without(run.metrics.get(metric), turn))
    if order == "slow":
        return sorted(runs, key=lambda run: last_without(run.cost.get("wall_seconds"), True))
    if order == "late":
        return sorted(runs, key=lambda run: run.finished, reverse=True)
    return list(runs)


def _run_details(comparison: Comparison, run: Run) -> Any:
    metrics = {metric.key: metric for metric in comparison.problem.metrics}
    pairs: list[tuple[str, Any]] = [(name, number(value, metrics.get(name))) for name, value in run.metrics.items()]
    pairs += [(cost_label(name), cost_text(name, value)) for name, value in run.cost.items()]
    pairs += [
        ("class", run.entry),
        ("settings", json.dumps(run.params) if run.params else "defaults"),
        *([("was told", TOLD.get(sees, sees))] if (sees := comparison.told(run)) else []),
        ("language model", run.kind or "none"),
        ("finished", run.finished[:19].replace("T", " ")),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
        ("key", run.key[:16]),
    ]
    listed = html.Dl(
        [part for name, value in pairs for part in (html.Dt(name), html.Dd(value))], className="facts tight"
    )
    notes = [html.Ul([html.Li(note) for note in run.notes])] if run.notes else []
    error = [html.Pre((run.error or {}).get("traceback") or (run.error or {}).get("message", ""))] if run.error else []
    return html.Div([*error, listed, *notes])


def _failures(comparison: Comparison) -> list[Any]:
    failed = comparison.failed
    if not failed:
        return []
    parts: list[Any] = []
    for run in failed[:PAGE_ROWS]:
        error = run.error or {}
        first = (str(error.get("message", "")).splitlines() or [""])[0]
        parts.append(
            html.Details(
                [
                    html.Summary(
                        [html.Strong(run.entrant_name), f", seed {run.seed}: {error.get('type', '')}: {first}"]
                    ),
                    html.Pre(error.get("traceback", "")),
                ]
            )
        )
    if len(failed) > PAGE_ROWS:
        parts.append(
            html.P(f"... and {len(failed) - PAGE_ROWS} more; the table above lists all of them.", className="note")
        )
    return [pieces.section("What failed", *parts)]


def _left_out(comparison: Comparison) -> list[Any]:
    parts: list[Any] = []
    if comparison.left_out:
        rows = [[left.name, left.reason] for left in comparison.left_out]
        parts.append(pieces.table(["name", "reason"], rows, label="Who was left out"))
    return [pieces.section("Who was left out", *parts)] if parts else []


def _again(comparison: Comparison) -> Any:
    if not comparison.command:
        return html.Div()
    return pieces.section("Do it again", pieces.code(comparison.command))


def _both(overviews: Sequence[Overview], comparisons: Sequence[Comparison]) -> list[Any]:
    by_name = [{row.name: row for row in comparison.rows} for comparison in comparisons]
    shared = [name for name in by_name[0] if name in by_name[1]]
    if not shared:
        return [pieces.notice("These two comparisons have no entrant in common.")]
    metrics = [comparison.primary for comparison in comparisons]
    head = ["name", *(f"{o.title}: {m.label}" for o, m in zip(overviews, metrics, strict=True)), "ranks"]
    rows = [
        [
            _name(comparisons[0], name),
            *(with_interval(rows[name].primary, metric) for rows, metric in zip(by_name, metrics, strict=True)),
            " / ".join(str(rows[name].rank or "–") for rows in by_name),
        ]
        for name in shared
    ]
    note = "" if metrics[0].key == metrics[1].key else "The two rank by different metrics."
    return [pieces.section("In both", pieces.table(head, rows, numeric=(1, 2, 3), label="Entrants in both"), note=note)]


# -- pieces ------------------------------------------------------------------------------------------------------


def _options(named: Mapping[Any, str]) -> list[Any]:
    return [{"value": value, "label": label} for value, label in named.items()]


def _name(comparison: Comparison, who: Row | str) -> html.Span:
    name = who if isinstance(who, str) else who.name
    kind = None if isinstance(who, str) else who.kind
    small = [html.Small(f" ({kind} LM)")] if kind else []
    named = [pieces.dot(figures.colour(comparison, name)), name, *small]
    return html.Span(named, className="who" if len(name) <= 40 else "")
