"""The report of a comparison: one HTML file that needs nothing else, made to be looked at.

What is said and how it is computed stands here; how it is laid out stands in ``assets/report.html`` and ``report.css``.
"""

from __future__ import annotations

import json
import logging
import math
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anytask.bench import figures
from anytask.bench.results import Results, Row
from anytask.bench.wording import (
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

_ASSETS = Path(__file__).parent / "assets"

_ALIKE = (
    "Whoever is told more of the task has an easier problem: only those told the same are ranked against each other."
)

_KINDS = {
    "http": "an endpoint",
    "local": "local weights",
    "tiny": "tiny model trained here: evidence about the algorithm only",
    "sim": "simulated model: evidence about the algorithm only",
}

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
    if not isinstance(comparison, Results):
        raise TypeError(f"comparison must be what compare() returned, got {type(comparison).__name__}")
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"the report {path} cannot be written: there is no folder {path.parent}")
    write_whole(path, render(comparison))


def render(comparison: Results) -> str:
    """Return the report as HTML."""
    from jinja2 import Environment, FileSystemLoader
    from plotly.offline import get_plotlyjs

    page = Environment(loader=FileSystemLoader(_ASSETS), autoescape=True, trim_blocks=True).get_template("report.html")
    told = _answer(comparison) | _results(comparison) | _settings(comparison) | _failures(comparison)
    closer, closer_error = _problem_figures(comparison)
    return page.render(
        told,
        title=f"{comparison.problem.title}: {comparison.data.name}",
        style=(_ASSETS / "report.css").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
        alike=_ALIKE,
        several_groups=len(comparison.groups) > 1,
        left_out=comparison.left_out,
        closer=closer,
        closer_error=closer_error,
        significance=_significance(comparison),
        cost=_cost(comparison),
    )


# -- sections: what the template is given ------------------------------------------------------------------------


def _answer(comparison: Results) -> dict[str, Any]:
    systems = [e for e in comparison.plan.entrants if e.role != "baseline"]
    others = len(comparison.plan.entrants) - len(systems)
    seeds = _plural(len(comparison.plan.seeds), "seed")
    size = f"{_plural(len(systems), 'system')} and {_plural(others, 'baseline')}, {seeds} each"
    if comparison.left_out:
        size += f"; {', '.join(left.name for left in comparison.left_out)} could not take part"
    facts = comparison.data.describe().items()
    shown = {name: value for name, value in facts if _is_short(value) and name != "fingerprint"}
    return {
        "kicker": f"{comparison.problem.title} on {comparison.data.name}",
        "setting": comparison.problem.setting(comparison.data),
        "answer": sentences(comparison),
        "size": size,
        "known": ", ".join(f"{_words(name)}: {_plain(value)}" for name, value in shown.items()),
        "kinds": [_KINDS.get(kind, kind) for kind in sorted({run.kind for run in comparison.runs if run.kind})],
    }


def _row(comparison: Results, row: Row) -> dict[str, Any]:
    """Return what is said of an entrant in every table that names it."""
    params = ", ".join(f"{name}={value!r}" for name, value in row.entrant.settings.items())
    return {
        "name": row.name,
        "color": figures.color(comparison, row.name),
        "lm": row.kind,
        "role": role(row),
        "told": privilege(comparison, row) if row.bound == "upper" else told(row),
        "settings": params or "defaults",
        "entry": row.entrant.entry,
        "kind": _KINDS.get(row.kind or "", row.kind),
    }


def _results(comparison: Results) -> dict[str, Any]:
    metric, rows = comparison.primary, comparison.rows
    others = [m for m in comparison.problem.metrics[1:] if any(_finite(row.metrics.get(m.key)) for row in rows)]
    head = ["rank", "name", "role", metric.label, "difference to the best baseline", "chance?"]
    head += [f"{m.label} {'↑' if m.higher_is_better else '↓'}" for m in others]

    def ranked(row: Row) -> dict[str, Any]:
        return _row(comparison, row) | {
            "rank": row.rank or "–",
            "value": with_interval(row.primary, metric),
            "difference": difference_text(comparison, row),
            "chance": chance(row),
            "sure": distinguishable(row),
            "others": [number(row.metrics.get(m.key), m) for m in others],
        }

    parts = [
        {"heading": block.heading, "apart": block.apart, "rows": [ranked(row) for row in block.rows]}
        for block in blocks(comparison)
    ]
    drawn = any(row.done for row in rows)
    return {
        "result_head": head,
        "result_numeric": (0, *range(3, len(head))),
        "blocks": parts,
        "rows": [_row(comparison, row) for row in rows],
        "declared": any(row.sees for row in rows),
        "ranking": _drawn(figures.ranking(comparison), figures.ranking_caption(comparison)) if drawn else None,
    }


def _problem_figures(comparison: Results) -> tuple[list[dict[str, str]], str]:
    done = [run for run in comparison.runs if run.status == "done"]
    if not done:
        return [], ""
    try:
        drawn = comparison.problem.figures(comparison.data, done)
    except Exception as error:
        # An hour of runs must not be lost to a figure.
        logger.exception("the figures of %s could not be drawn", comparison.problem.key)
        return [], str(error)
    return [_drawn(figure, caption) | {"title": title} for title, caption, figure in drawn], ""


def _significance(comparison: Results) -> list[dict[str, str]]:
    parts = []
    for group in comparison.groups:
        ranking = comparison.ranking(group)
        if ranking is None:
            continue
        text = (
            "How to read it: further left is better, and entrants joined by a thick bar are so close in average rank "
            f"that these {ranking.n} seeds cannot tell them apart (Nemenyi test, 5 % level)."
        )
        note = "Ranks are taken within each seed on the same data; they say nothing about other data."
        if math.isfinite(ranking.p):
            p = "is below 0.001" if ranking.p < 0.001 else f"= {ranking.p:.3f}"
            note += f" Friedman test of “all rank alike”: p {p}."
        figure = figures.critical_difference(comparison, [row.name for row in group.rows], ranking)
        parts.append(_drawn(figure, text) | {"told": told(group), "note": note})
    return parts


def _cost(comparison: Results) -> dict[str, Any] | None:
    rows = [row for row in comparison.rows if row.done]
    if not rows:
        return None
    keys = [key for key in _COSTS if any(key in row.cost for row in rows)]
    keys += sorted({key for row in rows for key in row.cost} - set(_COSTS))
    with_lm = any(row.kind for row in rows)
    host = next((run.host for run in comparison.runs if run.host), {})
    cores, threads, jobs = (
        _plural(host[name], word) if name in host else f"? {word}s"
        for name, word in (("cores", "core"), ("threads", "thread"), ("jobs", "run"))
    )
    note = (
        f"Means per run, on {cores} with {threads} per run and {jobs} at a time. Peak memory is that of the whole "
        "process; the run’s own leaves out what was there before it."
    )
    up = comparison.primary.higher_is_better
    text = f"{'Up' if up else 'Down'} and to the left is best: {'good' if up else 'low'} "
    text += f"{in_sentence(comparison.primary.label)} for little time."
    return _drawn(figures.cost(comparison), text) | {
        "head": ["name", *(cost_label(key) for key in keys), *(["language model"] if with_lm else [])],
        "rows": [
            _row(comparison, row) | {"costs": [cost_text(key, row.cost.get(key)) for key in keys]} for row in rows
        ],
        "with_lm": with_lm,
        "note": note,
    }


def _failures(comparison: Results) -> dict[str, Any]:
    failed = []
    for run in comparison.failed:
        error = run.error or {}
        first = (error.get("message", "").splitlines() or [""])[0]
        said = f"{error.get('type', '')}: {first}"
        failed.append(
            {"name": run.entrant_name, "seed": run.seed, "said": said, "traceback": error.get("traceback", "")}
        )
    listed = ", ".join(f"{item.entrant.name} (seed {item.seed})" for item in comparison.not_run)
    reason = "because it was stopped" if comparison.stopped else "for want of time"
    return {"failed": failed, "not_run": f"Not started, {reason}: {listed}." if listed else ""}


def _settings(comparison: Results) -> dict[str, Any]:
    runs = comparison.runs
    versions = {name: version for run in runs for name, version in run.versions.items()}
    host = next((run.host for run in runs if run.host), {})
    return {
        "command": comparison.command,
        "notes": list(dict.fromkeys(f"{run.entrant_name}: {note}" for run in runs for note in run.notes)),
        "settings": [
            ("seeds", ", ".join(map(str, comparison.plan.seeds))),
            *((f"option {name}", json.dumps(value)) for name, value in comparison.plan.options.items()),
            *((f"data, {_words(name)}", _plain(value)) for name, value in comparison.data.describe().items()),
            ("data fingerprint", comparison.data.fingerprint),
            *((f"version of {name}", version) for name, version in versions.items()),
            *((_words(name), str(value)) for name, value in host.items()),
            ("runs finished", max((run.finished for run in runs), default="–")),
            ("report written", datetime.now(UTC).isoformat(timespec="seconds")),
        ],
    }


# -- pieces ------------------------------------------------------------------------------------------------------


def _drawn(figure: go.Figure, caption: str) -> dict[str, Any]:
    # Drawings keep to a white card in both color schemes, since their own text cannot follow the page's.
    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white", autosize=True)
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=config, default_width="100%")
    return {"html": html, "caption": caption}


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
