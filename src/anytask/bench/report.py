"""The report of a comparison: one HTML file that needs nothing else, made to be looked at."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anytask.bench import figures
from anytask.bench.results import Results, Row
from anytask.bench.wording import (
    Block,
    blocks,
    chance,
    difference_text,
    distinguishable,
    duration,
    in_sentence,
    number,
    privilege,
    role,
    sentences,
    told,
    with_interval,
)
from anytask.core.files import write_whole

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["write_report"]

logger = logging.getLogger(__name__)

_ALIKE = (
    "Whoever is told more of the task has an easier problem: only those told the same are ranked against each other."
)

_KINDS = {
    "http": "an endpoint",
    "local": "local weights",
    "tiny": "tiny model trained here: evidence about the algorithm only",
    "sim": "simulated model: evidence about the algorithm only",
}

#: Forbids the browser to fetch anything: all that the page needs is in it.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

_COSTS = {
    "wall_seconds": ("time", duration),
    "cpu_seconds": ("CPU time", duration),
    "train_seconds": ("training", duration),
    "predict_seconds": ("prediction", duration),
    "peak_bytes": ("peak memory", lambda value: _size(value)),
    "peak_increase_bytes": ("the run's own memory", lambda value: _size(value)),
    "trainable_parameters": ("trainable parameters", lambda value: _count(value)),
    "stored_parameters": ("stored numbers", lambda value: _count(value)),
    "stored_samples": ("stored samples", lambda value: _count(value)),
    "labels": ("labels", lambda value: _count(value)),
    "lm_calls": ("LM calls", lambda value: _count(value)),
    "lm_tokens": ("LM tokens", lambda value: _count(value)),
}


def write_report(comparison: Results, path: str | os.PathLike[str]) -> None:
    """Write a comparison as one self-contained HTML file: the answer, figures, costs, failures, how to repeat it.

    The file holds Plotly's JavaScript (about 5 MB) and loads nothing from a network. It is written beside its place and
    moved there in one step, so a reader never finds half a report.

    Parameters
    ----------
    comparison : Comparison
        What :func:`anytask.bench.compare` returned.
    path : path
        The file, in a folder that exists.

    Raises
    ------
    ValueError
        If there is no such folder.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"the report {path} cannot be written: there is no folder {path.parent}")
    page = render(comparison)
    write_whole(path, page)


def render(comparison: Results) -> str:
    """Return the report as HTML."""
    from plotly.offline import get_plotlyjs

    title = f"{comparison.problem.title}: {comparison.data.name}"
    sections = [
        _answer(comparison),
        _results(comparison),
        _left_out(comparison),
        _problem_figures(comparison),
        _significance(comparison),
        _compared(comparison),
        _cost(comparison),
        _failures(comparison),
        _settings(comparison),
    ]
    body = "\n".join(section for section in sections if section)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<style>{_STYLE}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


# -- sections ----------------------------------------------------------------------------------------------------


def _answer(comparison: Results) -> str:
    first, *rest = sentences(comparison)
    setting = comparison.problem.setting(comparison.data)
    setting = f'<p class="lead">{escape(setting)}</p>' if setting else ""
    facts = comparison.data.describe()
    systems = [e for e in comparison.plan.entrants if e.role != "baseline"]
    others = len(comparison.plan.entrants) - len(systems)
    seeds = _plural(len(comparison.plan.seeds), "seed")
    size = f"{_plural(len(systems), 'system')} and {_plural(others, 'baseline')}, {seeds} each"
    if comparison.left_out:
        size += f"; {', '.join(left.name for left in comparison.left_out)} could not take part"
    shown = {name: value for name, value in facts.items() if _is_short(value) and name != "fingerprint"}
    known = ", ".join(f"{_words(name)}: {_plain(value)}" for name, value in shown.items())
    kinds = sorted({run.kind for run in comparison.runs if run.kind})
    label = "".join(f'<p class="label">Language model: {escape(_KINDS.get(kind, kind))}.</p>' for kind in kinds)
    return (
        f'<header><p class="kicker">{escape(comparison.problem.title)} on {escape(comparison.data.name)}</p>'
        f'{setting}<h1>{escape(first)}</h1><p class="lead">{escape(" ".join(rest))}</p>'
        f'<p class="facts">{escape(size)}{". Data: " if known else "."}{escape(known)}</p>{label}</header>'
    )


def _results(comparison: Results) -> str:
    metric = comparison.primary
    head = ["rank", "name", "role", metric.label, "difference to the best baseline", "chance?"]
    rows = comparison.rows
    others = [m for m in comparison.problem.metrics[1:] if any(_finite(row.metrics.get(m.key)) for row in rows)]
    head += [f"{m.label} {'↑' if m.higher_is_better else '↓'}" for m in others]
    cells = [
        [
            str(row.rank or "–"),
            _name(comparison, row),
            _whole(role(row)),
            with_interval(row.primary, metric),
            escape(difference_text(comparison, row)),
            _verdict(row),
            *(number(row.metrics.get(m.key), m) for m in others),
        ]
        for block in blocks(comparison)
        for row in block.rows
    ]
    note = (
        "Differences are taken seed by seed and turned so that positive is better; their 95 % intervals are "
        "bootstrapped. “Chance?” is a paired t-test, adjusted for the number of comparisons after Holm: “no” means "
        "p &lt; 0.05. An arrow says which way a metric is better."
    )
    return _section(
        "Who does best",
        _figure(figures.ranking(comparison), figures.ranking_caption(comparison)) if any(r.done for r in rows) else "",
        _table(head, cells, (0, *range(3, len(head))), blocks(comparison)),
        f'<p class="note">{note}{" " + _ALIKE if len(comparison.groups) > 1 else ""}</p>',
    )


def _problem_figures(comparison: Results) -> str:
    done = [run for run in comparison.runs if run.status == "done"]
    if not done:
        return ""
    try:
        drawn = comparison.problem.figures(comparison.data, done)
    except Exception as error:
        # An hour of runs must not be lost to a figure.
        logger.exception("the figures of %s could not be drawn", comparison.problem.key)
        return _section("A closer look", f"<p>These figures could not be drawn: {escape(str(error))}</p>")
    parts = [f"<h3>{escape(title)}</h3>{_figure(figure, caption)}" for title, caption, figure in drawn]
    return _section("A closer look", *parts) if parts else ""


def _significance(comparison: Results) -> str:
    parts = []
    for group in comparison.groups:
        ranking = comparison.ranking(group)
        if ranking is None:
            continue
        names = [row.name for row in group.rows]
        text = (
            "How to read it: further left is better, and entrants joined by a thick bar are so close in average rank "
            f"that these {ranking.n} seeds cannot tell them apart (Nemenyi test, 5 % level)."
        )
        friedman = ""
        if math.isfinite(ranking.p):
            p = "below 0.001" if ranking.p < 0.001 else f"{ranking.p:.3f}"
            friedman = f" Friedman test of “all rank alike”: p {'is ' if ranking.p < 0.001 else '= '}{p}."
        note = f"Ranks are taken within each seed on the same data; they say nothing about other data.{friedman}"
        if len(comparison.groups) > 1:
            parts.append(f"<h3>Told {escape(told(group))}</h3>")
        parts.append(_figure(figures.critical_difference(comparison, names, ranking), text))
        parts.append(f'<p class="note">{escape(note)}</p>')
    return _section("Which differences count", *parts) if parts else ""


def _compared(comparison: Results) -> str:
    declared = any(row.sees for row in comparison.rows)
    cells = []
    for row in comparison.rows:
        entrant = row.entrant
        params = ", ".join(f"{name}={value!r}" for name, value in entrant.settings.items()) or "defaults"
        kind = _KINDS.get(row.kind or "", row.kind or "")
        cells.append([_name(comparison, row), _whole(role(row))])
        if declared:
            cells[-1].append(escape(privilege(comparison, row) if row.bound == "upper" else told(row)))
        cells[-1].append(f"<code>{escape(params)}</code>")
        cells[-1].append(f"<code>{escape(entrant.entry)}</code>" + (f"<br>{escape(kind)}" if kind else ""))
    head = ["name", "role", *(["was told"] if declared else []), "settings", "class"]
    note = f'<p class="note">{_ALIKE}</p>' if declared else ""
    return _section("What was compared", _table(head, cells), note)


def _cost(comparison: Results) -> str:
    rows = [row for row in comparison.rows if row.done]
    keys = [key for key in _COSTS if any(key in row.cost for row in rows)]
    keys += sorted({key for row in rows for key in row.cost} - set(_COSTS))
    if not rows:
        return ""
    head = ["name", *(cost_label(key) for key in keys)]
    with_lm = any(row.kind for row in rows)
    cells = []
    for row in rows:
        values = [cost_text(key, row.cost.get(key)) for key in keys]
        cells.append([_name(comparison, row), *values, *([escape(row.kind or "none")] if with_lm else [])])
    host = next((run.host for run in comparison.runs if run.host), {})
    note = (
        f"Means per run, on {host.get('cores', '?')} cores with {host.get('threads', '?')} threads per run and "
        f"{host.get('jobs', '?')} runs at a time. Peak memory is that of the whole process; the run’s own leaves out "
        "what was there before it."
    )
    text = f"Up and to the left is best: good {in_sentence(comparison.primary.label)} for little time."
    if not comparison.primary.higher_is_better:
        text = f"Down and to the left is best: low {in_sentence(comparison.primary.label)} for little time."
    return _section(
        "What it costs",
        _figure(figures.cost(comparison), text),
        _table([*head, *(["language model"] if with_lm else [])], cells, numeric=range(1, len(head))),
        f'<p class="note">{escape(note)}</p>',
    )


def _failures(comparison: Results) -> str:
    parts = []
    for run in comparison.failed:
        error = run.error or {}
        first = (error.get("message", "").splitlines() or [""])[0]
        parts.append(
            f"<details><summary><b>{escape(run.entrant_name)}</b>, seed {run.seed}: "
            f"{escape(error.get('type', ''))}: {escape(first)}</summary>"
            f"<pre>{escape(error.get('traceback', ''))}</pre></details>"
        )
    if comparison.not_run:
        listed = ", ".join(f"{item.entrant.name} (seed {item.seed})" for item in comparison.not_run)
        reason = "because it was stopped" if comparison.stopped else "for want of time"
        parts.append(f"<p>Not started, {reason}: {escape(listed)}.</p>")
    return _section("What failed", *parts) if parts else ""


def _left_out(comparison: Results) -> str:
    if not comparison.left_out:
        return ""
    cells = [[escape(name), escape(reason)] for name, reason in comparison.left_out]
    return _section("Who was left out", _table(["name", "reason"], cells))


def _settings(comparison: Results) -> str:
    runs = comparison.runs
    versions = {name: version for run in runs for name, version in run.versions.items()}
    host = next((run.host for run in runs if run.host), {})
    notes = list(dict.fromkeys(f"{run.entrant_name}: {note}" for run in runs for note in run.notes))
    pairs = [
        ("seeds", ", ".join(map(str, comparison.plan.seeds))),
        *((f"option {name}", json.dumps(value)) for name, value in comparison.plan.options.items()),
        *((f"data, {_words(name)}", _plain(value)) for name, value in comparison.data.describe().items()),
        ("data fingerprint", comparison.data.fingerprint),
        *((f"version of {name}", version) for name, version in versions.items()),
        *((_words(name), str(value)) for name, value in host.items()),
        ("runs finished", max((run.finished for run in runs), default="–")),
        ("report written", datetime.now(UTC).isoformat(timespec="seconds")),
    ]
    table = _table(["setting", "value"], [[escape(name), f"<code>{escape(value)}</code>"] for name, value in pairs])
    remarks = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return _section(
        "Do it again",
        f"<pre>{escape(comparison.command)}</pre>",
        f"<ul>{remarks}</ul>" if remarks else "",
        f"<details><summary>Settings, versions and seeds</summary>{table}</details>",
    )


# -- pieces ------------------------------------------------------------------------------------------------------


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _figure(figure: go.Figure, caption: str) -> str:
    # Drawings keep to a white card in both colour schemes, since their own text cannot follow the page's.
    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white", autosize=True)
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=config, default_width="100%")
    return f"<figure>{html}<figcaption>{escape(caption)}</figcaption></figure>"


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = (), parts: Sequence[Block] = ()
) -> str:
    """A table; cells are HTML, heads are text. ``parts`` cut it into blocks with headings, grey where apart."""
    right = set(numeric)
    kind = ['class="n"' if i in right else "" for i in range(len(head))]
    top = "".join(f"<th {kind[i]}>{escape(cell)}</th>" for i, cell in enumerate(head))
    lines = [f"<tr>{''.join(f'<td {kind[i]}>{c}</td>' for i, c in enumerate(row))}</tr>" for row in rows]
    body = f"<tbody>{''.join(lines)}</tbody>" if not parts else ""
    for part in parts:
        over = f'<tr><th colspan="{len(head)}"><span>{escape(part.heading)}</span></th></tr>' if part.heading else ""
        own, lines = lines[: len(part.rows)], lines[len(part.rows) :]
        body += f"<tbody{' class=apart' if part.apart else ''}>{over}{''.join(own)}</tbody>"
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead>{body}</table></div>'


def _name(comparison: Results, row: Row) -> str:
    colour = figures.colour(comparison, row.name)
    kind = f" <small>({escape(row.kind)} LM)</small>" if row.kind else ""
    dot = f'<span class="dot" style="background:{colour}"></span>'
    return _whole(row.name, dot) + kind


def _whole(text: str, before: str = "") -> str:
    """Text that stays on one line, unless it is very long."""
    return f'<span class="whole">{before}{escape(text)}</span>' if len(text) <= 40 else before + escape(text)


def _verdict(row: Row) -> str:
    said = escape(chance(row))
    return f"<b>no</b>{said[2:]}" if distinguishable(row) else said


def _size(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return (
        f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB" if value < 1e7 else f"{value / 1e6:.0f} MB"
    )


def _count(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def cost_label(name: str) -> str:
    """Return what a cost is called in tables.

    Examples
    --------
    >>> cost_label("wall_seconds"), cost_label("gpu_hours")
    ('time', 'gpu hours')
    """
    return _COSTS[name][0] if name in _COSTS else _words(name)


def cost_text(name: str, value: float | None) -> str:
    """Return an amount of a cost as text, in units that fit it.

    Examples
    --------
    >>> cost_text("peak_bytes", 5e8), cost_text("wall_seconds", 75.0), cost_text("labels", None)
    ('500 MB', '75 s', '–')
    """
    return _COSTS[name][1](value) if name in _COSTS else number(value)


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _is_short(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and len(str(value)) <= 60


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, default=str)


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --line: #d9dee3; --page: #fbfbfa; --card: #fff;
  --label: #fff3d6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb5; --line: #3a4048; --page: #16191d;
  --card: #1f2328; --label: #4a3c14; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 28px 80px; }
header { border-bottom: 2px solid var(--ink); padding-bottom: 16px; margin-bottom: 8px; }
.kicker { margin: 0; color: var(--soft); font-weight: 600; }
h1 { font-size: 1.5rem; line-height: 1.35; margin: 8px 0 12px; font-weight: 650; max-width: 62em; text-wrap: pretty; }
h2 { font-size: 1.2rem; margin: 44px 0 12px; }
h3 { font-size: 1rem; margin: 28px 0 8px; }
.lead { font-size: 1.08rem; margin: 0 0 14px; max-width: 62em; }
.facts, .note, figcaption { color: var(--soft); font-size: 0.9rem; }
.facts { margin: 0; }
.note { max-width: 78em; margin: 10px 0 0; }
.label { background: var(--label); display: inline-block; padding: 3px 10px; border-radius: 4px; margin: 12px 0 0;
  font-size: 0.9rem; }
figure { margin: 0 0 18px; background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 12px 12px 10px;
  break-inside: avoid; }
figcaption { padding: 4px 8px 0; color: #4a535d; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; vertical-align: bottom; color: var(--soft); font-weight: 600;
  border-bottom: 1px solid var(--ink); }
th, td { padding: 6px 10px 6px 0; }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
th.n, td.n { text-align: right; }
th.n:not(:first-child) { min-width: 7em; }
td.n { white-space: nowrap; }
tbody th { padding-top: 18px; border-bottom: 1px solid var(--line); color: var(--ink); }
tbody th span { position: sticky; left: 0; }
.apart td { color: var(--soft); }
.whole { white-space: nowrap; }
.dot { display: inline-block; width: 0.7em; height: 0.7em; border-radius: 50%; margin-right: 0.5em;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
code, pre { font: 0.86em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
td code { overflow-wrap: break-word; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 12px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
details { margin: 8px 0; }
summary { cursor: pointer; overflow-wrap: anywhere; }
@media (max-width: 760px) { main { padding: 24px 14px 60px; } h1 { font-size: 1.2rem; } figure { padding: 6px; } }
@media print { body { background: #fff; color: #000; } main { max-width: none; padding: 0; }
  section { break-inside: auto; } h2 { break-after: avoid; } .scroll { overflow: visible; }
  td.n { white-space: normal; } table { font-size: 0.75rem; } }
"""
