"""The NERO plots as Plotly figures: aggregate, individual, and sample map, for one model or several.

Python shows them as they are; the report, and with it the page of the app, takes them with their style and fills in the
numbers of what is chosen. Traces therefore say what they hold: ``customdata`` has the indices of elements or samples,
and ``meta`` the place of the model, or what is marked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anytask.core.colors import color_of, translucent
from anytask.evaluate.nero.metrics import NeroMetric
from anytask.parts.transforms import Transforms

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from anytask.evaluate.nero.values import OrbitValues

INK, SOFT, MARK, TRUTH, CLEAR = "#2b3138", "#6b747d", "#d55e00", "#e69f00", "rgba(0,0,0,0)"
BELOW = {"x": 0.5, "xanchor": "center", "orientation": "h", "yanchor": "top"}
_DOTTED = {"color": INK, "width": 1.5, "dash": "dot"}
_BARE = {"showgrid": False, "showline": False, "ticks": ""}


def aggregate_figure(
    result: OrbitValues, metric: str | None = None, reference: str | None = None, *,
    models: Sequence[str] | None = None, subset: Any = None, class_: Any = None, element: int | None = None,
) -> go.Figure:  # fmt: skip
    """Draw the mean over samples (or mAP) for every element, on the group's natural layout.

    Parameters
    ----------
    result : OrbitValues
        What to draw.
    metric, reference : str, optional
        Which values; as in :meth:`OrbitValues.values`.
    models : sequence of str, optional
        Which models, in which order; default: all.
    subset, class_ : optional
        Which samples; as in :meth:`OrbitValues.aggregate`.
    element : int, optional
        Index of an element to mark.
    """
    names, places = chosen_models(result, models)
    reference, metric = result._key(metric, reference)
    element = None if element is None else result.element(index=element)
    curves = result.aggregate(metric, reference, subset=subset, class_=class_)[places]
    return orbit_figure(result.group, curves, names, result.metrics[metric], element=element, everyone=result.models)


def individual_figure(
    result: OrbitValues, sample: int, metric: str | None = None, reference: str | None = None, *,
    models: Sequence[str] | None = None, element: int | None = None,
) -> go.Figure:  # fmt: skip
    """Draw one sample's orbit on the group's natural layout; vector fields on tiles show the error of each pixel.

    Parameters
    ----------
    result, metric, reference, models, element
        As in :func:`aggregate_figure`.
    sample : int
        Index of the sample.
    """
    names, places = chosen_models(result, models)
    reference, metric = result._key(metric, reference)
    i = result._sample(sample)
    element = None if element is None else result.element(index=element)
    if shows_maps(result):
        shown = metric if metric in ("rmse", "mse", "mae") else "aee"
        found = [result.detail(i, index=k).maps for k in range(len(result.group))]
        blank = {shown: np.full(result.shape, np.nan)}
        maps = np.array([[one.get(name, blank)[shown] for one in found] for name in names])
        return error_tiles(result.group, maps, names, shown, element)
    curves = result.values(metric, reference)[places, :, i]
    return orbit_figure(result.group, curves, names, result.metrics[metric], element=element, everyone=result.models)


def shows_maps(result: OrbitValues) -> bool:
    """Whether the orbit of a sample is drawn as error maps: few tiles, and a vector field on each."""
    return result.task == "field" and result.group.layout == "tiles" and len(result.group) <= 32


def sample_map(
    result: OrbitValues, metric: str | None = None, reference: str | None = None, *,
    models: Sequence[str] | None = None, method: str = "pca", color_by: Literal["mean", "variance"] = "mean",
    selected: int | None = None,
) -> go.Figure:  # fmt: skip
    """Draw one point per sample, near those whose orbits are alike, colored by the mean or variance of the orbit.

    Parameters
    ----------
    result, metric, reference, models
        As in :func:`aggregate_figure`. All models share one map and one scale of colors.
    method : {"pca", "ica", "isomap", "tsne", "umap"}, default "pca"
        As in :func:`anytask.evaluate.nero.reduction.reduce_orbits`.
    color_by : {"mean", "variance"}, default "mean"
        What the color shows.
    selected : int, optional
        Index of a sample to mark.
    """
    names, places = chosen_models(result, models)
    reference, metric = result._key(metric, reference)
    points, notice = result.reduce(method, metric, reference)
    intensity, measured = result.intensity(color_by, metric, reference), result.metrics[metric]
    texts = [f"sample {i}" for i in range(len(result))]
    if result.task in ("classification", "detection"):
        texts = [f"{text}: {escape(', '.join(names_))}" for text, names_ in zip(texts, result.label_texts())]
    figure = panels(names, 420)
    for column, (name, j) in enumerate(zip(names, places)):
        look = {"mode": "markers", "showlegend": False, "row": 1, "col": column + 1}
        figure.add_scatter(
            x=points[j, :, 0], y=points[j, :, 1], customdata=np.arange(len(result)), text=texts, name=escape(name),
            marker={"color": intensity[j], "coloraxis": "coloraxis", "size": 8,
                    "line": {"width": 0.5, "color": "white"}},
            hovertemplate=f"%{{text}}<br>{color_by} of {escape(measured.label)}: %{{marker.color:.3g}}<extra></extra>",
            meta={"model": column}, **look,
        )  # fmt: skip
        if selected is not None:
            ring = {"size": 17, "color": CLEAR, "line": {"width": 3, "color": MARK}}
            x, y = points[j, [result._sample(selected)]].T
            figure.add_scatter(x=x, y=y, hoverinfo="skip", marker=ring, meta={"mark": column}, **look)
        figure.update_yaxes(scaleanchor=axis_id("x", column), scaleratio=1, row=1, col=column + 1)
    finite = intensity[np.isfinite(intensity)] if np.isfinite(intensity).any() else np.array([0.0, 1.0])
    bright = color_by == "mean" and measured.higher_is_better
    axis = color_axis(f"{color_by} of {measured.label}", float(finite.min()), float(finite.max()), bright)
    figure.update_layout(coloraxis=axis)
    if notice:
        figure.add_annotation(
            text=escape(notice), x=0.5, y=-0.02, xref="paper", yref="paper", showarrow=False, font={"color": SOFT}
        )
    square = {"range": [-1.08, 1.08], "visible": False}
    return figure.update_xaxes(**square).update_yaxes(**square)


# -- a value per element on the layout of its group -----------------------------------------------------------------


def orbit_figure(
    group: Transforms, curves: Any, names: Sequence[str], metric: NeroMetric, *, element: int | None = None,
    everyone: Sequence[str] | None = None,
) -> go.Figure:  # fmt: skip
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
        All models of the evaluation, so that each keeps its color when only some are drawn.
    """
    curves = np.asarray(curves, dtype=np.float64)
    finite = curves[np.isfinite(curves)]
    low, high = metric.limits or ((min(0.0, float(finite.min())), float(finite.max())) if len(finite) else (0.0, 1.0))
    limits = low, high if high > low else low + 1.0
    if group.layout in ("polar", "line"):
        return _curves(group, curves, names, everyone or names, metric, element, limits)
    draw = _polar_grid if group.layout == "polar-grid" else _cells_figure
    return draw(group, curves, names, metric, element, limits)


def _curves(group: Transforms, curves: np.ndarray, names: Sequence[str], everyone: Sequence[str], metric: NeroMetric,
            element: int | None, limits: tuple[float, float]) -> go.Figure:  # fmt: skip
    """Lines over the one coordinate of the elements: around a circle, or from left to right."""
    import plotly.graph_objects as go

    turns = group.layout == "polar"
    kind, across, up = ("scatterpolar", "theta", "r") if turns else ("scatter", "x", "y")
    x, (low, high) = group.coords[:, 0] if len(group.axes) == 1 else np.arange(len(group)), limits
    order, room = np.argsort(x, kind="stable"), 0.03 * (high - low)
    closes = len(group.distinct) < len(group) or len(group) * float(np.diff(x).mean()) >= 359.9 if turns else False
    filled = closes and len(names) == 1
    figure = go.Figure(layout={"template": style(), "height": 440 if turns else 400})
    for j, (name, curve) in enumerate(zip(names, curves)):
        color = color_of(name, everyone)
        figure.add_trace({
            "type": kind, across: x[order], up: curve[order], "name": escape(name), "customdata": order,
            "mode": "lines+markers" if group.ordered else "markers", "text": [group.labels[k] for k in order],
            "line": {"color": color, "width": 2.5}, "marker": {"size": 5}, "meta": {"model": j},
            "fill": "toself" if filled else None, "fillcolor": translucent(color, 0.08) if filled else None,
            "hovertemplate": f"%{{text}}: %{{{up}:.3f}}",
        })  # fmt: skip
    if not turns:
        if element is not None:
            figure.add_vline(x=float(x[element]), line=_DOTTED)
        figure.update_xaxes(title=escape(group.axes[0] if len(group.axes) == 1 else "element"))
        figure.update_yaxes(title=_axis_title(metric), range=[low - room, high + room])
        return figure.update_layout(meta={"frames": np.stack([x, x, x * 0, x * 0 + 1], axis=1).tolist()})
    if element is not None:
        figure.add_scatterpolar(
            theta=[x[element]] * 2, r=[low, high], mode="lines", line=_DOTTED, name=escape(group.labels[element]),
            hoverinfo="skip", showlegend=True, meta={"mark": 0},
        )  # fmt: skip
    return figure.update_layout(
        polar={"radialaxis": {"range": [low, high + room], "angle": 22.5, "tickangle": 22.5}},
        title={"text": _axis_title(metric)}, margin={"l": 44, "r": 44, "t": 74, "b": 64}, legend={**BELOW, "y": -0.1},
    )  # fmt: skip


def _cells_figure(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, element: int | None,
                  limits: tuple[float, float]) -> go.Figure:  # fmt: skip
    """A heat map with one cell per element: a grid with numbers on its axes, or tiles with words on theirs."""
    index, x, y, frames = _cells(group)
    tiles = group.layout == "tiles"
    look = {"texttemplate": "%{z:.2f}", "xgap": 4, "ygap": 4} if tiles else {}
    z = np.where(index >= 0, curves[:, index], np.nan)
    axis = color_axis(metric.label, *limits, metric.higher_is_better, -0.16 if tiles else -0.3)
    figure = _heatmaps(group, z, index, names, frames, element, axis, 150 + 70 * len(y) if tiles else 420, x=x, y=y,
                       **look)  # fmt: skip
    if tiles:
        return figure.update_xaxes(type="category", **_BARE).update_yaxes(type="category", **_BARE)
    figure.update_xaxes(title=escape(group.axes[0]), constrain="domain").update_yaxes(constrain="domain")
    for j in range(len(names)) if "pixels" in group.axes[0] else ():
        figure.update_yaxes(scaleanchor=axis_id("x", j), row=1, col=j + 1)
    return figure.update_yaxes(showticklabels=True).update_yaxes(title=escape(group.axes[1]), col=1)


def error_tiles(
    group: Transforms, maps: np.ndarray, names: Sequence[str], metric: str, element: int | None = None
) -> go.Figure:
    """Draw per-pixel error maps (models, m, height, width) of a vector field, one tile per element."""
    cells, x, y, _ = _cells(group)
    h, w = maps.shape[2:]
    gap = max(1, h // 12)
    tall, wide = h + gap, w + gap
    index = np.full((len(y) * tall - gap, len(x) * wide - gap), -1)
    z = np.full((len(names), *index.shape), np.nan)
    frames = np.empty((len(group), 4))
    for k in range(len(group)):
        top, left = np.argwhere(cells == k)[0] * (tall, wide)
        z[:, top : top + h, left : left + w], index[top : top + h, left : left + w] = maps[:, k], k
        frames[k] = left - 0.5, left + w - 0.5, top - 0.5, top + h - 0.5
    peak = float(np.nanmax(z)) if np.isfinite(z).any() else 1.0
    axis = color_axis(f"{metric.upper()} of each pixel", 0.0, peak or 1.0, False)
    figure = _heatmaps(group, z, index, names, frames, element, axis, 160 + 90 * len(y))
    figure.update_xaxes(tickvals=np.arange(len(x)) * wide + w / 2, ticktext=x, **_BARE)
    figure.update_yaxes(tickvals=np.arange(len(y)) * tall + h / 2, ticktext=y, **_BARE)
    return figure.update_layout(meta={"frames": frames.tolist(), "tile": [tall, wide]})


def _heatmaps(group: Transforms, z: np.ndarray, index: np.ndarray, names: Sequence[str], frames: np.ndarray,
              element: int | None, axis: dict[str, Any], height: int, **look: Any) -> go.Figure:  # fmt: skip
    """A heat map per model of z (models, rows, columns) whose cells know their element, with a frame around one."""
    figure = panels(names, height, horizontal_spacing=0.06 if group.layout == "tiles" else 0.1)
    text = np.where(index >= 0, np.array(group.labels, dtype=object)[index], "")
    for j, name in enumerate(names):
        place = {"row": 1, "col": j + 1}
        figure.add_heatmap(
            z=z[j], customdata=index, text=text, name=escape(name), coloraxis="coloraxis",
            hovertemplate="%{text}: %{z:.3f}", meta={"model": j}, **look, **place,
        )  # fmt: skip
        figure.update_yaxes(showticklabels=j == 0, **place)
        if element is not None:
            x0, x1, y0, y1 = frames[element].tolist()
            line = {"color": MARK, "width": 3}
            figure.add_shape(type="rect", x0=x0, x1=x1, y0=y0, y1=y1, line=line, fillcolor=CLEAR, opacity=1, **place)
    figure.update_xaxes(showgrid=False).update_yaxes(showgrid=False, autorange="reversed")
    return figure.update_layout(coloraxis=axis, meta={"frames": frames.tolist()})


def _polar_grid(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, element: int | None,
                limits: tuple[float, float]) -> go.Figure:  # fmt: skip
    planes = getattr(group, "planes", None) or tuple(f"plane {k}" for k in range(int(group.coords[:, 0].max()) + 1))
    figure = panels(
        names, 110 + 380 * len(planes), rows=[f", axis in {plane}" for plane in planes], kind="polar",
        horizontal_spacing=0.2, vertical_spacing=0.16 if len(planes) > 1 else 0,
    )  # fmt: skip
    plane, direction, angle = group.coords.T
    steps = (np.diff(np.unique(values)) for values in (direction, angle))
    width, step = (float(found.min()) if len(found) else alone for found, alone in zip(steps, (360.0, 1.0)))
    for p in range(len(planes)):
        mine = np.flatnonzero(plane == p)
        for j, name in enumerate(names):
            place = {"row": p + 1, "col": j + 1}
            figure.add_barpolar(
                theta=direction[mine], base=angle[mine], r=np.full(len(mine), step), width=np.full(len(mine), width),
                customdata=mine, text=[group.labels[k] for k in mine], name=escape(name), meta={"model": j},
                marker={"color": curves[j][mine], "coloraxis": "coloraxis"},
                hovertemplate="%{text}: %{marker.color:.3f}", **place,
            )  # fmt: skip
            if element is not None:
                figure.add_scatterpolar(
                    theta=[direction[element]], r=[angle[element] + step / 2 if plane[element] == p else None],
                    marker={"symbol": "cross-thin", "size": 16, "line": {"width": 3, "color": "white"}}, mode="markers",
                    showlegend=False, hoverinfo="skip", meta={"mark": p, "step": step}, **place,
                )  # fmt: skip
    figure.update_annotations(yshift=18)  # above the angle at the top
    radial = {"range": [0, float(angle.max()) + step], "ticksuffix": "°", "nticks": 4, "showgrid": False}
    figure.update_polars(radialaxis=radial, angularaxis={"showgrid": False})
    axis = color_axis(metric.label, *limits, metric.higher_is_better, -0.1 / len(planes))
    return figure.update_layout(coloraxis=axis, margin={"l": 44, "r": 44, "t": 70, "b": 50})


def _cells(group: Transforms) -> tuple[np.ndarray, list[Any], list[Any], np.ndarray]:
    """Return the element in each cell (-1: none), what stands at columns and rows, and the frame of each element.

    The first axis runs across, the others down.
    """
    xs, column = np.unique(group.coords[:, 0], return_inverse=True)
    ys, row = np.unique(group.coords[:, 1:], axis=0, return_inverse=True)
    row = row.reshape(-1)
    index = np.full((len(ys), len(xs)), -1)
    index[row, column] = np.arange(len(group))
    if group.layout == "grid":
        (x, y), half = group.coords.T, [np.diff(v).min() / 2 if len(v) > 1 else 0.5 for v in (xs, ys[:, 0])]
        return index, xs.tolist(), ys[:, 0].tolist(), _frames(x, y, *half)

    def say(axis: str, value: float) -> str:
        if axis == "quarter turns":
            return f"{90 * value:g}°"
        if value not in (0, 1):
            return f"{axis} {value:g}"
        return axis if value else ""

    x_names = [say(group.axes[0], value) or "as it is" for value in xs]
    y_names = ["<br>".join(filter(None, map(say, group.axes[1:], values))) or "as it is" for values in ys]
    return index, x_names, y_names, _frames(column, row, 0.5, 0.5)


def _frames(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float) -> np.ndarray:
    return np.stack([x - half_x, x + half_x, y - half_y, y + half_y], axis=1)


# -- small steps ----------------------------------------------------------------------------------------------------


def chosen_models(result: OrbitValues, models: Sequence[str] | None) -> tuple[list[str], list[int]]:
    names = list(result.models) if models is None else [models] if isinstance(models, str) else list(models)
    if not names:
        raise ValueError("no model was chosen")
    return names, [result._model(name) for name in names]


def panels(
    names: Sequence[str], height: int, *, rows: Sequence[str] = ("",), kind: str = "xy", **more: Any
) -> go.Figure:
    """Return a figure in this module's style with a panel per name, once for each of the rows' endings of titles."""
    from plotly.subplots import make_subplots

    titles = [f"<b>{escape(name)}</b>{escape(ending)}" for ending in rows for name in names]
    kinds = {"specs": [[{"type": kind}] * len(names)] * len(rows)} | {"horizontal_spacing": 0.06} | more
    figure = make_subplots(rows=len(rows), cols=len(names), subplot_titles=titles, **kinds)
    return figure.update_layout(template=style(), height=height)


def axis_id(letter: str, place: int) -> str:
    return f"{letter}{place + 1 if place else ''}"


def color_axis(title: str, low: float, high: float, bright_is_high: bool, below: float = -0.16) -> dict[str, Any]:
    """Bright is good, whichever way the metric runs; the bar lies below, so that plots keep the width of the page."""
    return {
        "colorscale": "Viridis", "reversescale": not bright_is_high, "cmin": low,
        "cmax": high if high > low else low + 1, "colorbar": {"title": {"text": escape(title)}, "y": below},
    }  # fmt: skip


def _axis_title(metric: NeroMetric) -> str:
    text = f"{metric.label} ({'higher' if metric.higher_is_better else 'lower'} is better)"
    return "<br>".join(escape(line) for line in wrap(text, 36))


@cache
def asset(name: str) -> str:
    """Return the text of one of NERO's asset files."""
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


@cache
def style() -> go.layout.Template:
    """Return the style of all figures, a Plotly template."""
    import plotly.graph_objects as go

    return go.layout.Template(json.loads(asset("figures.json")))
