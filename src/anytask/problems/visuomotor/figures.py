"""The figures that a report on visuomotor control adds: what each stage brought, what the gate saw, and films."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from anytask.core.colors import colour_of

_FONT = {"family": "system-ui, Segoe UI, Helvetica Neue, Arial, sans-serif", "size": 13, "color": "#2b3138"}
_LINE = "#e3e7eb"
_ORDER = ("imitation", "offline", "online", "student")


def visuomotor_figures(runs: Sequence[Any]) -> list[tuple[str, str, Any]]:
    """Return (title, caption, plotly figure) triples for finished runs; none if no run is done."""
    names = list(dict.fromkeys(run.entrant_name for run in runs))
    done = {name: [r for r in runs if r.entrant_name == name and r.status == "done"] for name in names}
    done = {name: mine for name, mine in done.items() if mine}
    if not done:
        return []
    n_seeds = max(len(mine) for mine in done.values())
    spread = f"from the lowest to the highest of {n_seeds} seeds" if n_seeds > 1 else "one seed, so none"
    first = next(iter(done.values()))[0]
    measure = "Return" if first.details.get("measure") == "return" else "Success rate"
    out = [
        (
            f"{measure.split()[0]} by stage",
            f"{measure} after each stage of an entrant, all tried out in the same episodes. Whiskers: {spread}.",
            _stages(done, names, measure),
        )
    ]
    gated = {name: mine for name, mine in done.items() if any(run.details["gate"] for run in mine)}
    if gated:
        out.append(
            (
                "Gate log",
                "Estimated value of the candidate policy at every check of the offline stage (first seed): filled "
                "where it passed, open where it did not. The estimate comes from learned critics in a learned world, "
                "so that a rise here is no promise of success: compare it with the stages above.",
                _gate(gated, names),
            )
        )
    films = {
        name: run.details["filmstrip"] for name, mine in done.items() for run in mine if "filmstrip" in run.details
    }
    if films:
        from anytask.control.behavior_retrieval.figures import strips

        out.append(("Trials", "One trial of each entrant's last stage from the same start.", strips(films)))
    return out


def _stages(done: dict[str, list[Any]], names: Sequence[str], measure: str) -> Any:
    import plotly.graph_objects as go

    figure, number = go.Figure(), ":.1%" if measure == "Success rate" else ":.4~g"
    for name, mine in done.items():
        stages = [s for s in _ORDER if s in mine[0].details["stages"]]
        values = np.array([[run.details["stages"][s] for s in stages] for run in mine])
        mean = values.mean(0)
        figure.add_scatter(
            x=stages, y=mean, name=escape(name), mode="lines+markers",
            line={"color": colour_of(name, names), "width": 2.5}, marker={"size": 9},
            error_y={"type": "data", "symmetric": False, "array": values.max(0) - mean,
                     "arrayminus": mean - values.min(0), "thickness": 1.2, "width": 4},
            hovertemplate=f"<b>{escape(name)}</b><br>after %{{x}}: %{{y{number}}}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(categoryorder="array", categoryarray=_ORDER, title="after the stage")
    figure.update_yaxes(title=measure.lower())
    if measure == "Success rate":
        figure.update_yaxes(range=[0, 1.03], tickformat=".0%")
    return _dress(figure)


def _gate(done: dict[str, list[Any]], names: Sequence[str]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, mine in done.items():
        log = next(run.details["gate"] for run in mine if run.details["gate"])
        steps, values, best, accepted = zip(*log, strict=True)
        tint = colour_of(name, names)
        figure.add_scatter(
            x=steps, y=np.maximum.accumulate([best[0], *values])[1:], mode="lines", line={"color": tint, "width": 1.2},
            hoverinfo="skip", showlegend=False, opacity=0.6,
        )  # fmt: skip
        figure.add_scatter(
            x=steps, y=values, name=escape(name), mode="markers",
            marker={"color": tint, "size": 8, "symbol": ["circle" if a else "circle-open" for a in accepted]},
            hovertemplate=f"<b>{escape(name)}</b><br>step %{{x}}: %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="step of the offline stage")
    figure.update_yaxes(title="estimated value J")
    return _dress(figure)


def _dress(figure: Any, height: int = 430) -> Any:
    figure.update_layout(
        template="simple_white", height=height, font=_FONT, margin={"l": 20, "r": 24, "t": 60, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1.03, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_xaxes(showgrid=True, gridcolor=_LINE, zeroline=False, automargin=True)
    figure.update_yaxes(showgrid=True, gridcolor=_LINE, zeroline=False, automargin=True)
    return figure
