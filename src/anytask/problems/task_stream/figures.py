"""The figures that a report on task streams adds: what was kept, what was forgotten, when, and at which price."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from anytask.core.colors import color_of, translucent
from anytask.problems.base import finished

_FONT = {"family": "Inter, Helvetica, Arial, sans-serif", "size": 13, "color": "#222222"}
_GRID = "#e6e6e6"


def stream_figures(blur: float, runs: Sequence[Any], measured: str = "accuracy") -> list[tuple[str, str, Any]]:
    """Return (title, caption, plotly figure) triples for finished runs; none if no run is done.

    Parameters
    ----------
    blur : float
        Share of blurred batches around borders, shaded in the curve.
    runs : sequence
        Runs with ``entrant_name``, ``seed``, ``metrics``, ``details``, ``cost`` and ``status``.
    measured : str
        What the matrices hold.
    """
    names = list(dict.fromkeys(run.entrant_name for run in runs))
    done = finished(runs)
    if not done:
        return []
    n_seeds = max(len(mine) for mine in done.values())
    spread = f"from the lowest to the highest of {n_seeds} seeds" if n_seeds > 1 else "one seed, so none"
    figures = [
        (
            f"{measured.capitalize()} on each task after each task",
            "Each row is a moment, right after a segment of the stream; each column a task. A column that fades "
            "downwards is a task being forgotten; an empty cell is a task that could not be asked for yet. In per "
            f"cent, mean over {n_seeds} seed{'s' if n_seeds > 1 else ''}.",
            _matrices(done, measured),
        ),
        (
            "Forgetting",
            f"Best {measured} a task ever had minus its {measured} at the end, averaged over all tasks but the last: "
            f"shorter is better. Dots are seeds; whiskers: {spread}.",
            _forgetting(done, names, measured),
        ),
    ]
    if all(run.details["curve"] for mine in done.values() for run in mine):
        found = [name for name, mine in done.items() if any(any(_found(run)) for run in mine)]
        triangles = ", triangles below are borders that a learner found by itself" if found else ""
        caption = (
            "Accuracy on the tasks met so far (at most 256 test items of them); grey lines are the true borders"
            f"{triangles}. Bands: {spread}."
        )
        figures.insert(1, ("Accuracy over the stream", caption, _curves(done, names, blur, found)))
    return figures


def _found(run: Any) -> list[int]:
    """Return the borders that a learner found by itself, as mini-batches."""
    return run.details.get("borders_found", [])


def _matrices(done: dict[str, list[Any]], measured: str) -> Any:
    from plotly.subplots import make_subplots

    n_columns = min(3, len(done))
    n_rows = math.ceil(len(done) / n_columns)
    height = 290 * n_rows + 90
    figure = make_subplots(
        rows=n_rows, cols=n_columns, subplot_titles=[f"<b>{escape(name)}</b>" for name in done],
        horizontal_spacing=0.1 if n_columns > 1 else 0, vertical_spacing=95 / height if n_rows > 1 else 0,
    )  # fmt: skip
    for place, (name, mine) in enumerate(done.items()):
        stack = np.array([r.details["accuracy_matrix"] for r in mine], dtype=float)  # (seeds, segments, tasks)
        mean, low, high = _over_seeds(stack)
        visits, written = mine[0].details["visits"], max(mean.shape) <= 10
        figure.add_heatmap(
            z=mean, customdata=np.stack([low, high], axis=-1), coloraxis="coloraxis", xgap=2, ygap=2,
            x=[f"{k + 1}" for k in range(mean.shape[1])],
            y=[f"{s + 1}" if visits[s] == s else f"{s + 1} (task {visits[s] + 1})" for s in range(mean.shape[0])],
            text=np.where(np.isnan(mean), "", np.char.mod("%.0f", np.nan_to_num(100 * mean))) if written else None,
            texttemplate="%{text}" if written else None,
            hovertemplate=f"<b>{escape(name)}</b><br>after segment %{{y}}, on task %{{x}}<br>{measured} %{{z:.1%}}"
            "<br>seeds %{customdata[0]:.1%} to %{customdata[1]:.1%}<extra></extra>",
            row=place // n_columns + 1, col=place % n_columns + 1,
        )  # fmt: skip
    figure.update_xaxes(title_text="tested on task", type="category", title_standoff=4, showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    figure.update_yaxes(title_text="after segment", title_standoff=4, col=1)
    bar = {"title": {"text": measured}, "tickformat": ".0%", "thickness": 14}
    figure.update_layout(coloraxis={"colorscale": "Viridis", "cmin": 0, "cmax": 1, "colorbar": bar})
    return _dress(figure, height=height, show_legend=False)


def _curves(done: dict[str, list[Any]], names: Sequence[str], blur: float, found: Sequence[str]) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    n_segments = len(next(iter(done.values()))[0].details["visits"])
    gray = {"fillcolor": "#9a9a9a", "opacity": 0.15, "line_width": 0, "layer": "below"}
    for s in range(1, n_segments):
        if blur:
            figure.add_vrect(x0=s - blur / 2, x1=s + blur / 2, **gray)
        figure.add_vline(x=s, line={"color": "#9a9a9a", "width": 1, "dash": "dot"}, layer="below")
    for name, mine in done.items():
        color, shared = color_of(name, names), {"legendgroup": name, "showlegend": False}
        # Positions count from the start of each segment, so seeds whose segments differ by some batches still agree.
        seeds = [[point["accuracy"] for point in r.details["curve"]] for r in mine]
        shortest = min(map(len, seeds))
        x = [point["position"] for point in mine[0].details["curve"]][:shortest]
        mean, low, high = _over_seeds(np.array([values[:shortest] for values in seeds]))
        if len(mine) > 1:
            figure.add_scatter(
                x=[*x, *x[::-1]], y=[*high, *low[::-1]], mode="lines", line={"width": 0}, hoverinfo="skip",
                fill="toself", fillcolor=translucent(color, 0.15), **shared,
            )  # fmt: skip
        figure.add_scatter(
            x=x, y=mean, mode="lines+markers", name=escape(name), legendgroup=name,
            customdata=np.stack([low, high], axis=-1), line={"color": color, "width": 2.5}, marker={"size": 5},
            hovertemplate=f"<b>{escape(name)}</b>: %{{y:.1%}} "
            "(%{customdata[0]:.1%} to %{customdata[1]:.1%})<extra></extra>",
        )  # fmt: skip
        if name in found:
            marks = [_position(b, r.details["segment_ends"]) for r in mine for b in _found(r) if b]
            figure.add_scatter(
                x=marks, y=[-0.04 * (1 + found.index(name))] * len(marks), mode="markers",
                marker={"symbol": "triangle-up", "size": 8, "color": translucent(color, 0.6)}, **shared,
                hovertemplate=f"<b>{escape(name)}</b> found a border at %{{x:.2f}}<extra></extra>",
            )  # fmt: skip
    figure.update_xaxes(
        title_text="position in the stream", range=[0, n_segments + 0.02],
        tickvals=[s + 0.5 for s in range(n_segments)],
        ticktext=[f"segment {s + 1}" if n_segments <= 10 else str(s + 1) for s in range(n_segments)],
    )  # fmt: skip
    figure.update_yaxes(
        title_text="accuracy on the tasks met so far", tickformat=".0%", range=[-0.02 - 0.04 * len(found), 1.02],
        tickvals=[0, 0.2, 0.4, 0.6, 0.8, 1],
    )  # fmt: skip
    _dress(figure, height=500).update_layout(hovermode="x unified")
    return figure.update_xaxes(gridcolor="rgba(0,0,0,0)")


def _forgetting(done: dict[str, list[Any]], names: Sequence[str], measured: str) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    values = {name: np.array([r.metrics["forgetting"] for r in mine], dtype=float) for name, mine in done.items()}
    for name in sorted(values, key=lambda name: -float(np.mean(values[name]))):
        mean, low, high = (float(v) for v in _over_seeds(values[name]))
        color, said = color_of(name, names), f"<b>{escape(name)}</b>"
        figure.add_bar(
            x=[mean], y=[escape(name)], orientation="h", marker={"color": translucent(color, 0.75)}, width=0.6,
            error_x={"array": [high - mean], "arrayminus": [mean - low], "color": "#333333", "thickness": 1.3},
            hovertemplate=f"{said}<br>forgetting %{{x:.1%}}<br>seeds {low:.1%} to {high:.1%}<extra></extra>",
        )  # fmt: skip
        if len(values[name]) > 1:
            figure.add_scatter(
                x=values[name], y=[escape(name)] * len(values[name]), mode="markers",
                marker={"color": "white", "size": 7, "line": {"color": color, "width": 1.5}},
                customdata=[r.seed for r in done[name]],
                hovertemplate=f"{said}, seed %{{customdata}}<br>forgetting %{{x:.1%}}<extra></extra>",
            )  # fmt: skip
    figure.add_vline(x=0, line={"color": "#444444", "width": 1})
    lost = f"forgetting ({measured} lost; below 0, later tasks helped)"
    figure.update_xaxes(title_text=lost, tickformat=".0%")
    figure.update_yaxes(title_text="entrant", title_standoff=8)
    return _dress(figure, height=120 + 38 * len(done), show_legend=False)


def _over_seeds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (mean, lowest, highest) over the first axis. An interval over a few seeds would fill the whole figure."""
    return values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def _position(batch: int, ends: Sequence[int]) -> float:
    """Return where the start of a batch lies in the stream, in segments."""
    s = int(np.searchsorted(ends, batch, side="right"))
    start = ends[s - 1] if s else 0
    return s + (batch - start) / (ends[s] - start) if s < len(ends) else float(len(ends))


def _dress(figure: Any, height: int, show_legend: bool = True) -> Any:
    for update in (figure.update_xaxes, figure.update_yaxes):
        update(gridcolor=_GRID, zeroline=False, automargin=True, linecolor="#bbbbbb")
    return figure.update_layout(
        height=height, font=_FONT, paper_bgcolor="white", plot_bgcolor="white", showlegend=show_legend, title=None,
        margin={"l": 70, "r": 30, "t": 46, "b": 60},
        legend={"orientation": "v", "x": 1.02, "y": 1, "xanchor": "left", "bgcolor": "rgba(0,0,0,0)"},
        hoverlabel={"bgcolor": "white", "font": {"size": 13}},
    )  # fmt: skip
