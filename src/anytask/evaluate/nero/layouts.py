"""A value per element on the natural layout of its group: a polar line, a curve, a heat map, tiles, polar heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from anytask.core.colors import colour_of, translucent
from anytask.evaluate.nero.look import INK, LINE, SOFT, axis_title, bold, colour_axis, style
from anytask.evaluate.nero.metrics import NeroMetric
from anytask.evaluate.parts.transforms import Transforms

if TYPE_CHECKING:
    from typing import Any

    import plotly.graph_objects as go

    from anytask.evaluate.nero.result import NeroResult


def orbit_figure(
    group: Transforms,
    curves: Any,
    names: Sequence[str],
    metric: NeroMetric,
    *,
    element: int | None = None,
    everyone: Sequence[str] | None = None,
) -> go.Figure:
    """Draw a value per element and model on the natural layout of a group.

    Parameters
    ----------
    group : Transforms
        The m elements.
    curves : array of shape (models, m)
        What to draw.
    names : sequence of str
        The models.
    metric : NeroMetric
        What the values are: its label, limits and direction.
    element : int, optional
        Index of an element to mark.
    everyone : sequence of str, optional
        All models of the evaluation, so that each keeps its colour when only some are drawn.
    """
    curves = np.asarray(curves, dtype=np.float64)
    colours = [colour_of(name, everyone or names) for name in names]
    draw = {
        "polar": _polar, "grid": _grid, "tiles": _tiles, "polar-grid": _polar_grid, "line": _line,
    }[group.layout]  # fmt: skip
    return draw(group, curves, names, metric, colours, element)


def _polar(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, colours: list[str],
           element: int | None) -> go.Figure:  # fmt: skip
    import plotly.graph_objects as go

    figure = go.Figure()
    theta = group.coords[:, 0]
    low, high = _limits(curves, metric)
    for name, curve, colour in zip(names, curves, colours):
        figure.add_scatterpolar(
            theta=theta, r=curve, mode="lines+markers", name=escape(name), customdata=np.arange(len(group)),
            text=group.labels, line={"color": colour, "width": 2.5}, marker={"size": 5}, connectgaps=False,
            fill="toself" if len(names) == 1 and _closes(group) else None, fillcolor=translucent(colour, 0.08),
            hovertemplate=f"%{{text}}: %{{r:.3f}}<extra>{escape(name)}</extra>",
        )  # fmt: skip
    if element is not None:
        figure.add_scatterpolar(
            theta=[theta[element]] * 2, r=[low, high], mode="lines", line={"color": INK, "width": 1.5, "dash": "dot"},
            name=escape(group.labels[element]), hoverinfo="skip", showlegend=True,
        )  # fmt: skip
    style(figure, 440)
    figure.update_layout(
        polar={
            "bgcolor": "white",
            "radialaxis": {
                "range": [low, high + 0.03 * (high - low)], "angle": 22.5, "tickangle": 22.5, "showgrid": True,
                "gridcolor": LINE, "showline": False, "ticks": "", "nticks": 5,
                "tickfont": {"color": SOFT, "size": 11},
            },
            "angularaxis": {
                "direction": "counterclockwise", "rotation": 0, "dtick": 45, "ticksuffix": "°", "showgrid": True,
                "gridcolor": LINE, "linecolor": LINE, "ticks": "",
            },
        },
        title={"text": axis_title(metric), "font": {"size": 13}, "x": 0.5, "xanchor": "center", "y": 0.98,
               "yanchor": "top"},
        margin={"l": 44, "r": 44, "t": 62, "b": 64},
        legend={"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.1, "yanchor": "top"},
    )  # fmt: skip
    return figure


def _line(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, colours: list[str],
          element: int | None) -> go.Figure:  # fmt: skip
    import plotly.graph_objects as go

    one = len(group.axes) == 1
    x = group.coords[:, 0] if one else np.arange(len(group))
    order = np.argsort(x, kind="stable")
    figure = go.Figure()
    for name, curve, colour in zip(names, curves, colours):
        figure.add_scatter(
            x=x[order], y=curve[order], mode="lines+markers" if group.ordered else "markers",
            name=escape(name), customdata=order,
            text=[group.labels[k] for k in order], line={"color": colour, "width": 2.5}, marker={"size": 6},
            hovertemplate=f"%{{text}}: %{{y:.3f}}<extra>{escape(name)}</extra>",
        )  # fmt: skip
    if element is not None:
        figure.add_vline(x=float(x[element]), line={"color": INK, "width": 1.5, "dash": "dot"})
    style(figure, 400)
    low, high = _limits(curves, metric)
    figure.update_xaxes(title=escape(group.axes[0] if one else "element"))
    figure.update_yaxes(title=axis_title(metric), range=[low - 0.03 * (high - low), high + 0.03 * (high - low)])
    return figure


def _grid(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, colours: list[str],
          element: int | None) -> go.Figure:  # fmt: skip
    from plotly.subplots import make_subplots

    xs, ys, z, index = _on_grid(group, curves)
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=bold(names), horizontal_spacing=0.1)
    labels = np.array(group.labels, dtype=object)
    for column in range(len(names)):
        figure.add_heatmap(
            x=xs, y=ys, z=z[column], customdata=index, text=np.where(index >= 0, labels[index], ""),
            coloraxis="coloraxis", hoverongaps=False,
            hovertemplate=f"%{{text}}: %{{z:.3f}}<extra>{escape(names[column])}</extra>", row=1, col=column + 1,
        )  # fmt: skip
        if element is not None:
            place = group.coords[element]
            figure.add_scatter(
                x=[place[0]], y=[place[1]], mode="markers", showlegend=False, hoverinfo="skip",
                marker={"symbol": "cross-thin", "size": 18, "line": {"width": 3, "color": "white"}},
                row=1, col=column + 1,
            )  # fmt: skip
    style(figure, 420)
    figure.update_xaxes(title=escape(group.axes[0]), showgrid=False, constrain="domain")
    figure.update_yaxes(autorange="reversed", showgrid=False, constrain="domain")
    figure.update_yaxes(title=escape(group.axes[1]), col=1)
    if "pixels" in group.axes[0]:
        for column in range(1, len(names) + 1):
            figure.update_yaxes(scaleanchor=f"x{column if column > 1 else ''}", row=1, col=column)
    low, high = _limits(curves, metric)
    figure.update_layout(coloraxis=colour_axis(metric.label, low, high, metric.higher_is_better, below=-0.3))
    return figure


def _tiles(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, colours: list[str],
           element: int | None) -> go.Figure:  # fmt: skip
    from plotly.subplots import make_subplots

    place, x_names, y_names = _tile_places(group)
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=bold(names), horizontal_spacing=0.06)
    shape = (len(y_names), len(x_names))
    index = np.full(shape, -1)
    index[place[:, 0], place[:, 1]] = np.arange(len(group))
    labels = np.array(group.labels, dtype=object)
    for column in range(len(names)):
        z = np.where(index >= 0, curves[column][index], np.nan)
        figure.add_heatmap(
            z=z, x=x_names, y=y_names, customdata=index, text=np.where(index >= 0, labels[index], ""),
            texttemplate="%{z:.2f}", coloraxis="coloraxis", xgap=4, ygap=4, hoverongaps=False,
            hovertemplate=f"%{{text}}: %{{z:.3f}}<extra>{escape(names[column])}</extra>", row=1, col=column + 1,
        )  # fmt: skip
        if element is not None:
            _frame_tile(figure, place[element], column + 1)
        figure.update_yaxes(showticklabels=column == 0, row=1, col=column + 1)
    style(figure, 150 + 70 * shape[0])
    figure.update_xaxes(type="category", showgrid=False, showline=False, ticks="")
    figure.update_yaxes(
        type="category", autorange="reversed", showgrid=False, showline=False, ticks="", automargin=True
    )
    low, high = _limits(curves, metric)
    figure.update_layout(coloraxis=colour_axis(metric.label, low, high, metric.higher_is_better))
    return figure


def _polar_grid(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, colours: list[str],
                element: int | None) -> go.Figure:  # fmt: skip
    from plotly.subplots import make_subplots

    planes = getattr(group, "planes", None) or tuple(f"plane {k}" for k in range(int(group.coords[:, 0].max()) + 1))
    figure = make_subplots(
        rows=len(planes), cols=len(names), specs=[[{"type": "polar"}] * len(names)] * len(planes),
        subplot_titles=[f"<b>{escape(name)}</b>, axis in {plane}" for plane in planes for name in names],
        horizontal_spacing=0.2, vertical_spacing=0.16 if len(planes) > 1 else 0,
    )  # fmt: skip
    directions, angles = np.unique(group.coords[:, 1]), np.unique(group.coords[:, 2])
    width = float(np.diff(directions).min()) if len(directions) > 1 else 360.0
    step = float(np.diff(angles).min()) if len(angles) > 1 else 1.0
    for p in range(len(planes)):
        mine = np.flatnonzero(group.coords[:, 0] == p)
        for column, name in enumerate(names):
            figure.add_barpolar(
                theta=group.coords[mine, 1], base=group.coords[mine, 2], r=np.full(len(mine), step),
                width=np.full(len(mine), width), customdata=mine, text=[group.labels[k] for k in mine],
                marker={"color": curves[column][mine], "coloraxis": "coloraxis", "line": {"width": 0}},
                hovertemplate=f"%{{text}}: %{{marker.color:.3f}}<extra>{escape(name)}</extra>", showlegend=False,
                row=p + 1, col=column + 1,
            )  # fmt: skip
            if element is not None and group.coords[element, 0] == p:
                figure.add_scatterpolar(
                    theta=[group.coords[element, 1]], r=[group.coords[element, 2] + step / 2], mode="markers",
                    marker={"symbol": "cross-thin", "size": 16, "line": {"width": 3, "color": "white"}},
                    showlegend=False, hoverinfo="skip", row=p + 1, col=column + 1,
                )  # fmt: skip
    figure.update_annotations(yshift=18)  # above the angle at the top
    style(figure, 110 + 380 * len(planes))
    figure.update_polars(
        bgcolor="white",
        radialaxis={"range": [0, float(angles.max()) + step], "ticksuffix": "°", "nticks": 4, "showgrid": False,
                    "tickfont": {"size": 10}},
        angularaxis={"dtick": 45, "ticksuffix": "°", "showgrid": False, "direction": "counterclockwise"},
    )  # fmt: skip
    low, high = _limits(curves, metric)
    below = -0.1 / len(planes)
    figure.update_layout(
        coloraxis=colour_axis(metric.label, low, high, metric.higher_is_better, below),
        margin={"l": 44, "r": 44, "t": 70, "b": 50},
    )
    return figure


def error_tiles(result: NeroResult, sample: int, names: Sequence[str], metric: str, element: int | None) -> go.Figure:
    """Per-pixel error maps of a vector field, one tile per element."""
    from plotly.subplots import make_subplots

    group = result.group
    metric = metric if metric in ("rmse", "mse", "mae", "aee") else "aee"
    place, x_names, y_names = _tile_places(group)
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=bold(names), horizontal_spacing=0.06)
    details = [result.detail(sample, index=k) for k in range(len(group))]
    height, width = next(iter(details[0].maps.values()))[metric].shape
    gap = max(1, height // 12)
    peak = 0.0
    for column, name in enumerate(names, 1):
        z = np.full((len(y_names) * (height + gap) - gap, len(x_names) * (width + gap) - gap), np.nan)
        index = np.full(z.shape, -1)
        for k, detail in enumerate(details):
            top, left = place[k, 0] * (height + gap), place[k, 1] * (width + gap)
            if name in detail.maps:
                z[top : top + height, left : left + width] = detail.maps[name][metric]
            index[top : top + height, left : left + width] = k
        peak = max(peak, float(np.nanmax(z))) if np.isfinite(z).any() else peak
        labels = np.array(group.labels, dtype=object)
        figure.add_heatmap(
            z=z, customdata=index, text=np.where(index >= 0, labels[index], ""), coloraxis="coloraxis",
            hoverongaps=False, hovertemplate=f"%{{text}}: %{{z:.3f}}<extra>{escape(name)}</extra>", row=1, col=column,
        )  # fmt: skip
        figure.update_xaxes(
            tickvals=[c * (width + gap) + width / 2 for c in range(len(x_names))], ticktext=x_names, row=1, col=column
        )
        figure.update_yaxes(
            tickvals=[r * (height + gap) + height / 2 for r in range(len(y_names))],
            ticktext=y_names, showticklabels=column == 1, row=1, col=column,
        )  # fmt: skip
        if element is not None:
            top, left = place[element, 0] * (height + gap), place[element, 1] * (width + gap)
            figure.add_shape(
                type="rect", x0=left - 0.5, x1=left + width - 0.5, y0=top - 0.5, y1=top + height - 0.5,
                line={"color": "#d55e00", "width": 3}, fillcolor="rgba(0,0,0,0)", opacity=1, row=1, col=column,
            )  # fmt: skip
    style(figure, 160 + 90 * len(y_names))
    figure.update_xaxes(showgrid=False, showline=False, ticks="")
    figure.update_yaxes(autorange="reversed", showgrid=False, showline=False, ticks="", automargin=True)
    figure.update_layout(coloraxis=colour_axis(f"{metric.upper()} of each pixel", 0.0, peak or 1.0, False))
    return figure


# -- small steps ----------------------------------------------------------------------------------------------------


def _closes(group: Transforms) -> bool:
    return len(group.distinct) < len(group) or len(group) * float(np.diff(group.coords[:, 0]).mean()) >= 359.9


def _on_grid(group: Transforms, curves: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    xs, ys = np.unique(group.coords[:, 0]), np.unique(group.coords[:, 1])
    place = np.searchsorted(ys, group.coords[:, 1]), np.searchsorted(xs, group.coords[:, 0])
    index = np.full((len(ys), len(xs)), -1)
    index[place] = np.arange(len(group))
    z = np.full((len(curves), len(ys), len(xs)), np.nan)
    z[:, place[0], place[1]] = curves
    return xs, ys, z, index


def _tile_places(group: Transforms) -> tuple[np.ndarray, list[str], list[str]]:
    """Row and column of each element's tile, and the names of columns and rows: first axis across, others down."""
    first = np.unique(group.coords[:, 0])
    rest = np.unique(group.coords[:, 1:], axis=0)
    column = np.searchsorted(first, group.coords[:, 0])
    row = np.array([int(np.flatnonzero((rest == c).all(axis=1))[0]) for c in group.coords[:, 1:]])

    def say(axis: str, value: float) -> str:
        if axis == "quarter turns":
            return f"{90 * value:g}°"
        if value not in (0, 1):
            return f"{axis} {value:g}"
        return axis if value else ""

    x_names = [say(group.axes[0], value) or "as it is" for value in first]
    y_names = ["<br>".join(filter(None, map(say, group.axes[1:], values))) or "as it is" for values in rest]
    return np.stack([row, column], axis=1), x_names, y_names


def _frame_tile(figure: go.Figure, place: np.ndarray, column: int) -> None:
    row, col = int(place[0]), int(place[1])
    figure.add_shape(
        type="rect", x0=col - 0.5, x1=col + 0.5, y0=row - 0.5, y1=row + 0.5, line={"color": "#d55e00", "width": 3},
        fillcolor="rgba(0,0,0,0)", opacity=1, row=1, col=column,
    )  # fmt: skip


def _limits(curves: np.ndarray, metric: NeroMetric) -> tuple[float, float]:
    if metric.limits is not None:
        return metric.limits
    finite = curves[np.isfinite(curves)]
    if not len(finite):
        return 0.0, 1.0
    low, high = min(0.0, float(finite.min())), float(finite.max())
    return low, high if high > low else low + 1.0
