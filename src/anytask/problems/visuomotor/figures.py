"""The figures that a report on visuomotor control adds: what each stage brought, what the gate saw, and films."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from anytask.control.images import framed
from anytask.core.colors import color_of
from anytask.problems.base import finished
from anytask.problems.demonstrations import films

_ORDER = ("imitation", "offline", "online", "student")


def visuomotor_figures(runs: Sequence[Any]) -> list[tuple[str, str, Any]]:
    """Return (title, caption, plotly figure) triples for finished runs; none if no run is done."""
    names, done = list(dict.fromkeys(run.entrant_name for run in runs)), finished(runs)
    if not done:
        return []
    n_seeds = max(map(len, done.values()))
    spread = f"from the lowest to the highest of {n_seeds} seeds" if n_seeds > 1 else "one seed, so none"
    measure = "Return" if next(iter(done.values()))[0].details["measure"] == "return" else "Success rate"
    text = f"{measure} after each stage of an entrant, all tried out in the same episodes. Whiskers: {spread}."
    out = [(f"{measure.split()[0]} by stage", text, _stages(done, names, measure))]
    logs: dict[str, list[Any]] = {}
    for run in (run for mine in done.values() for run in mine if run.details["gate"]):
        logs.setdefault(run.entrant_name, run.details["gate"])
    if logs:
        text = (
            "Estimated value of the candidate policy at every check of the offline stage (first seed): filled where it "
            "passed, open where it did not. The estimate comes from learned critics in a learned world, so that a rise "
            "here is no promise of success: compare it with the stages above."
        )
        out.append(("Gate log", text, _gate(logs, names)))
    return out + films(runs, "Trials", "One trial of each entrant's last stage from the same start.")


def _stages(done: dict[str, list[Any]], names: Sequence[str], measure: str) -> Any:
    import plotly.graph_objects as go

    figure, number = go.Figure(), ":.1%" if measure == "Success rate" else ":.4~g"
    for name, mine in done.items():
        stages = [s for s in _ORDER if s in mine[0].details["stages"]]
        values = np.array([[run.details["stages"][s] for s in stages] for run in mine])
        mean = values.mean(0)
        figure.add_scatter(
            x=stages, y=mean, name=escape(name), mode="lines+markers",
            line={"color": color_of(name, names), "width": 2.5}, marker={"size": 9},
            error_y={"type": "data", "symmetric": False, "array": values.max(0) - mean,
                     "arrayminus": mean - values.min(0), "thickness": 1.2, "width": 4},
            hovertemplate=f"<b>{escape(name)}</b><br>after %{{x}}: %{{y{number}}}<extra></extra>",
        )  # fmt: skip
    framed(figure, "after the stage", measure.lower(), height=430)
    figure.update_xaxes(categoryorder="array", categoryarray=_ORDER)
    if measure == "Success rate":
        figure.update_yaxes(range=[0, 1.03], tickformat=".0%")
    return figure


def _gate(logs: dict[str, list[Any]], names: Sequence[str]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, log in logs.items():
        steps, values, best, accepted = zip(*log, strict=True)
        tint = color_of(name, names)
        figure.add_scatter(
            x=steps, y=np.maximum.accumulate([best[0], *values])[1:], mode="lines", line={"color": tint, "width": 1.2},
            hoverinfo="skip", showlegend=False, opacity=0.6,
        )  # fmt: skip
        figure.add_scatter(
            x=steps, y=values, name=escape(name), mode="markers",
            marker={"color": tint, "size": 8, "symbol": ["circle" if a else "circle-open" for a in accepted]},
            hovertemplate=f"<b>{escape(name)}</b><br>step %{{x}}: %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    return framed(figure, "step of the offline stage", "estimated value J", height=430)
