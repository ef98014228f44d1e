"""The report of a comparison: one HTML file that needs nothing else, made to be looked at.

What is said and how it is computed stands here; how it is laid out stands in ``assets/report.html`` and ``report.css``.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anytask.bench import figures
from anytask.bench.results import Results, Row
from anytask.bench.tables import average_ranks, cost_table, failures, ranking_table, who
from anytask.bench.wording import privilege, role, sentences, told
from anytask.core.files import as_path, write_whole

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["write_report"]

logger = logging.getLogger(__name__)

_ASSETS = Path(__file__).parent / "assets"

_ALIKE = (
    "Whoever is told more of the task has an easier problem: only those told the same are ranked against each other."
)

_RANKED = (
    "Differences are taken seed by seed and turned so that positive is better; their 95 % intervals are bootstrapped. "
    "“Chance?” is a paired t-test, adjusted for the number of comparisons after Holm: “no” means p < 0.05. An arrow "
    "says which way a metric is better."
)

#: What is said of a language model, by its kind.
KINDS = {
    "http": "an endpoint",
    "local": "local weights",
    "tiny": "tiny model trained here: evidence about the algorithm only",
    "sim": "simulated model: evidence about the algorithm only",
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
    path = as_path(path, "report")
    if not path.parent.is_dir():
        raise ValueError(f"the report {path} cannot be written: there is no folder {path.parent}")
    write_whole(path, render(comparison))


def render(comparison: Results) -> str:
    """Return the report as HTML."""
    told = _answer(comparison) | _results(comparison) | _settings(comparison) | _failures(comparison)
    closer, closer_error = _problem_figures(comparison)
    return laid_out(
        told,
        title=f"{comparison.problem.title}: {comparison.data.name}",
        alike=_ALIKE,
        several_groups=len(comparison.groups) > 1,
        left_out=comparison.left_out,
        closer=closer,
        closer_error=closer_error,
        cost=_cost(comparison),
    )


def laid_out(sections: Mapping[str, Any], **more: Any) -> str:
    """Return the page of ``assets/report.html`` with these sections; others are left out."""
    from jinja2 import Environment, FileSystemLoader
    from plotly.offline import get_plotlyjs

    page = Environment(loader=FileSystemLoader(_ASSETS), autoescape=True, trim_blocks=True).get_template("report.html")
    style = (_ASSETS / "report.css").read_text(encoding="utf-8")
    return page.render(sections, style=style, plotly=get_plotlyjs(), **more)


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
        "warnings": comparison.warnings,
        "known": ", ".join(f"{_words(name)}: {_plain(value)}" for name, value in shown.items()),
        "kinds": [KINDS.get(kind, kind) for kind in sorted({run.kind for run in comparison.runs if run.kind})],
    }


def _row(comparison: Results, row: Row) -> dict[str, Any]:
    """Return what is said of an entrant in every table that names it."""
    params = ", ".join(f"{name}={value!r}" for name, value in row.entrant.settings.items())
    return {
        "who": who(comparison, row),
        "role": role(row),
        "told": privilege(comparison, row) if row.bound == "upper" else told(row),
        "settings": params or "defaults",
        "entry": row.entrant.entry,
        "kind": KINDS.get(row.kind or "", row.kind),
    }


def _results(comparison: Results) -> dict[str, Any]:
    ended = any(row.done for row in comparison.rows)
    return {
        "ranked": ranking_table(comparison),
        "ranked_note": _RANKED + (f" {_ALIKE}" if len(comparison.groups) > 1 else ""),
        "rows": [_row(comparison, row) for row in comparison.rows],
        "declared": any(row.sees for row in comparison.rows),
        "ranking": drawn(figures.ranking(comparison), figures.ranking_caption(comparison)) if ended else None,
        "significance": [
            drawn(found.figure, found.caption) | {"told": told(found.group), "note": found.note}
            for found in average_ranks(comparison)
        ],
    }


def _problem_figures(comparison: Results) -> tuple[list[dict[str, str]], str]:
    done = [run for run in comparison.runs if run.status == "done"]
    if not done:
        return [], ""
    try:
        listed = comparison.problem.figures(comparison.data, done)
    except Exception as error:
        # An hour of runs must not be lost to a figure.
        logger.exception("the figures of %s could not be drawn", comparison.problem.key)
        return [], str(error)
    return [drawn(figure, caption) | {"title": title} for title, caption, figure in listed], ""


def _cost(comparison: Results) -> dict[str, Any] | None:
    if not any(row.done for row in comparison.rows):
        return None
    host = next((run.host for run in comparison.runs if run.host), {})
    cores, threads, jobs = (
        _plural(host[name], word) if name in host else f"? {word}s"
        for name, word in (("cores", "core"), ("threads", "thread"), ("jobs", "run"))
    )
    note = (
        f"Means per run, on {cores} with {threads} per run and {jobs} at a time. Peak memory is that of the whole "
        "process; the run’s own leaves out what was there before it."
    )
    return drawn(figures.cost(comparison), figures.cost_caption(comparison)) | {
        "table": cost_table(comparison),
        "note": note,
    }


def _failures(comparison: Results) -> dict[str, Any]:
    listed = ", ".join(f"{item.entrant.name} (seed {item.seed})" for item in comparison.not_run)
    reason = "because it was stopped" if comparison.stopped else "for want of time"
    return {"failed": list(failures(comparison)), "not_run": f"Not started, {reason}: {listed}." if listed else ""}


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


def drawn(figure: go.Figure, caption: str) -> dict[str, Any]:
    """Return a figure with its caption, as the page wants them."""
    # Drawings keep to a white card in both color schemes, since their own text cannot follow the page's.
    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white", autosize=True)
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=config, default_width="100%")
    return {"html": html, "caption": caption}


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _is_short(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and len(str(value)) <= 60


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, default=str)
