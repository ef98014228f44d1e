"""The NERO plots as Plotly figures: aggregate, individual, and sample map, for one model or several.

Python shows them as they are; the report, and with it the page of the app, takes them with their style and fills in the
numbers of what is chosen. Traces therefore say what they hold: ``customdata`` has the indices of elements or samples,
and ``meta`` the place of the model, or what is marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anytask.core.colors import colour_of, translucent
from anytask.evaluate.nero.metrics import NeroMetric
from anytask.parts.transforms import Transforms

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from anytask.evaluate.nero.values import OrbitValues

INK, LINE, SOFT, MARK, TRUTH, CLEAR = "#2b3138", "#e3e7eb", "#6b747d", "#d55e00", "#e69f00", "rgba(0,0,0,0)"
_FONT = {"family": "system-ui, Segoe UI, Helvetica Neue, Arial, sans-serif", "size": 13, "color": INK}
_THIN = {"width": 0.5, "color": "white"}
_CENTERED: dict[str, Any] = {"x": 0.5, "xanchor": "center"}
BELOW = {**_CENTERED, "orientation": "h", "yanchor": "top"}


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
    curves = result.aggregate(metric, reference, subset=subset, class_=class_)[places]
    return orbit_figure(
        result.group, curves, names, result.metrics[metric], element=element, everyone=result.models
    )  # fmt: skip


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
    intensity, label = result.intensity(color_by, metric, reference), result.metrics[metric].label
    texts = [f"sample {i}" for i in range(len(result))]
    if result.task in ("classification", "detection"):
        texts = [f"{text}: {escape(', '.join(names_))}" for text, names_ in zip(texts, result.label_texts())]
    figure = _panels(names)
    for column, (name, j) in enumerate(zip(names, places)):
        figure.add_scatter(
            x=points[j, :, 0], y=points[j, :, 1], mode="markers", customdata=np.arange(len(result)), text=texts,
            marker={"color": intensity[j], "coloraxis": "coloraxis", "size": 8, "line": _THIN},
            hovertemplate=f"%{{text}}<br>{color_by} of {escape(label)}: %{{marker.color:.3g}}<extra></extra>",
            name=escape(name), showlegend=False, meta={"model": column}, row=1, col=column + 1,
        )  # fmt: skip
        if selected is not None:
            figure.add_scatter(
                x=points[j, [selected], 0], y=points[j, [selected], 1], mode="markers", hoverinfo="skip",
                marker={"size": 17, "color": CLEAR, "line": {"width": 3, "color": MARK}}, showlegend=False,
                meta={"mark": column}, row=1, col=column + 1,
            )  # fmt: skip
        figure.update_yaxes(scaleanchor=axis_id("x", column), scaleratio=1, row=1, col=column + 1)
    style(figure, 420)
    figure.update_xaxes(range=[-1.08, 1.08], visible=False).update_yaxes(range=[-1.08, 1.08], visible=False)
    finite = intensity[np.isfinite(intensity)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    bright = color_by == "mean" and result.metrics[metric].higher_is_better
    figure.update_layout(coloraxis=color_axis(f"{color_by} of {label}", low, high, bright))
    if notice:
        figure.add_annotation(
            text=escape(notice), x=0.5, y=-0.02, xref="paper", yref="paper", showarrow=False, font={"color": SOFT}
        )
    return figure


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
    high = high if high > low else low + 1.0
    draw = {"polar": _polar, "line": _line, "polar-grid": _polar_grid}.get(group.layout, _heatmaps)
    figure = draw(group, curves, names, metric, element, (low, high))
    if group.layout in ("polar", "line"):
        for trace, name in zip(figure.data, names):
            color = colour_of(name, everyone or names)
            trace.line.update(color=color, width=2.5)
            if trace.fill:
                trace.fillcolor = translucent(color, 0.08)
    return figure


def _polar(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, element: int | None,
           limits: tuple[float, float]) -> go.Figure:  # fmt: skip
    import plotly.graph_objects as go

    figure, theta, (low, high) = go.Figure(), group.coords[:, 0], limits
    closes = len(group.distinct) < len(group) or len(group) * float(np.diff(theta).mean()) >= 359.9
    for j, (name, curve) in enumerate(zip(names, curves)):
        figure.add_scatterpolar(
            theta=theta, r=curve, mode="lines+markers", name=escape(name), customdata=np.arange(len(group)),
            text=group.labels, marker={"size": 5}, fill="toself" if len(names) == 1 and closes else None,
            hovertemplate="%{text}: %{r:.3f}", meta={"model": j},
        )  # fmt: skip
    if element is not None:
        figure.add_scatterpolar(
            theta=[theta[element]] * 2, r=[low, high], mode="lines", line={"color": INK, "width": 1.5, "dash": "dot"},
            name=escape(group.labels[element]), hoverinfo="skip", showlegend=True, meta={"mark": 0},
        )  # fmt: skip
    style(figure, 440)
    grid = {"showgrid": True, "gridcolor": LINE, "ticks": ""}
    radial = {
        **grid, "range": [low, high + 0.03 * (high - low)], "angle": 22.5, "tickangle": 22.5, "showline": False,
        "nticks": 5, "tickfont": {"color": SOFT, "size": 11},
    }  # fmt: skip
    angular = {**grid, "direction": "counterclockwise", "dtick": 45, "ticksuffix": "°", "linecolor": LINE}
    return figure.update_layout(
        polar={"bgcolor": "white", "radialaxis": radial, "angularaxis": angular},
        title={**_CENTERED, "text": _axis_title(metric), "font": {"size": 13}, "y": 0.95, "yanchor": "top"},
        margin={"l": 44, "r": 44, "t": 74, "b": 64}, legend={**BELOW, "y": -0.1},
    )  # fmt: skip


def _line(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, element: int | None,
          limits: tuple[float, float]) -> go.Figure:  # fmt: skip
    import plotly.graph_objects as go

    one = len(group.axes) == 1
    x, (low, high) = group.coords[:, 0] if one else np.arange(len(group)), limits
    order = np.argsort(x, kind="stable")
    figure = go.Figure()
    for j, (name, curve) in enumerate(zip(names, curves)):
        figure.add_scatter(
            x=x[order], y=curve[order], mode="lines+markers" if group.ordered else "markers", name=escape(name),
            customdata=order, text=[group.labels[k] for k in order], marker={"size": 6},
            hovertemplate="%{text}: %{y:.3f}", meta={"model": j},
        )  # fmt: skip
    if element is not None:
        figure.add_vline(x=float(x[element]), line={"color": INK, "width": 1.5, "dash": "dot"})
    style(figure, 400)
    figure.update_layout(meta={"frames": np.stack([x, x, x * 0, x * 0 + 1], axis=1).tolist()})
    figure.update_xaxes(title=escape(group.axes[0] if one else "element"))
    room = 0.03 * (high - low)
    return figure.update_yaxes(title=_axis_title(metric), range=[low - room, high + room])


def _heatmaps(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, element: int | None,
              limits: tuple[float, float]) -> go.Figure:  # fmt: skip
    index, x, y, frames = _cells(group)
    tiles = group.layout == "tiles"
    look = {"texttemplate": "%{z:.2f}", "xgap": 4, "ygap": 4} if tiles else {}
    figure = _panels(names, 0.06 if tiles else 0.1)
    text = np.where(index >= 0, np.array(group.labels, dtype=object)[index], "")
    for j, name in enumerate(names):
        figure.add_heatmap(
            x=x, y=y, z=np.where(index >= 0, curves[j][index], np.nan), customdata=index, text=text, name=escape(name),
            coloraxis="coloraxis", hoverongaps=False, hovertemplate="%{text}: %{z:.3f}", meta={"model": j}, **look,
            row=1, col=j + 1,
        )  # fmt: skip
        _frame(figure, frames, element, j)
        if tiles:
            figure.update_yaxes(showticklabels=j == 0, row=1, col=j + 1)
        elif "pixels" in group.axes[0]:
            figure.update_yaxes(scaleanchor=axis_id("x", j), row=1, col=j + 1)
    style(figure, 150 + 70 * len(y) if tiles else 420)
    if tiles:
        figure.update_xaxes(type="category", showline=False, ticks="")
        figure.update_yaxes(type="category", showline=False, ticks="")
    else:
        figure.update_xaxes(title=escape(group.axes[0]), constrain="domain")
        figure.update_yaxes(constrain="domain").update_yaxes(title=escape(group.axes[1]), col=1)
    figure.update_xaxes(showgrid=False).update_yaxes(showgrid=False, autorange="reversed")
    axis = color_axis(metric.label, *limits, metric.higher_is_better, -0.16 if tiles else -0.3)
    return figure.update_layout(coloraxis=axis, meta={"frames": frames.tolist()})


def error_tiles(
    group: Transforms, maps: np.ndarray, names: Sequence[str], metric: str, element: int | None = None
) -> go.Figure:
    """Draw per-pixel error maps (models, m, height, width) of a vector field, one tile per element."""
    index, x, y, _ = _cells(group)
    h, w = maps.shape[2:]
    tall, wide = h + max(1, h // 12), w + max(1, h // 12)
    z = np.full((len(names), len(y) * tall - tall + h, len(x) * wide - wide + w), np.nan)
    element_of = np.full(z.shape[1:], -1)
    frames = np.empty((len(group), 4))
    for k in range(len(group)):
        top, left = np.argwhere(index == k)[0] * (tall, wide)
        z[:, top : top + h, left : left + w] = maps[:, k]
        element_of[top : top + h, left : left + w] = k
        frames[k] = left - 0.5, left + w - 0.5, top - 0.5, top + h - 0.5
    figure = _panels(names)
    text = np.where(element_of >= 0, np.array(group.labels, dtype=object)[element_of], "")
    for j, name in enumerate(names):
        figure.add_heatmap(
            z=z[j], customdata=element_of, text=text, coloraxis="coloraxis", hoverongaps=False, name=escape(name),
            hovertemplate="%{text}: %{z:.3f}", meta={"model": j}, row=1, col=j + 1,
        )  # fmt: skip
        figure.update_yaxes(showticklabels=j == 0, row=1, col=j + 1)
        _frame(figure, frames, element, j)
    style(figure, 160 + 90 * len(y))
    figure.update_xaxes(tickvals=np.arange(len(x)) * wide + w / 2, ticktext=x)
    figure.update_yaxes(tickvals=np.arange(len(y)) * tall + h / 2, ticktext=y, autorange="reversed")
    figure.update_xaxes(showgrid=False, showline=False, ticks="").update_yaxes(showgrid=False, showline=False, ticks="")
    peak = float(np.nanmax(z)) if np.isfinite(z).any() else 1.0
    axis = color_axis(f"{metric.upper()} of each pixel", 0.0, peak or 1.0, False)
    return figure.update_layout(coloraxis=axis, meta={"frames": frames.tolist(), "tile": [tall, wide]})


def _polar_grid(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, element: int | None,
                limits: tuple[float, float]) -> go.Figure:  # fmt: skip
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
        for j, name in enumerate(names):
            figure.add_barpolar(
                theta=group.coords[mine, 1], base=group.coords[mine, 2], r=np.full(len(mine), step),
                width=np.full(len(mine), width), customdata=mine, text=[group.labels[k] for k in mine],
                marker={"color": curves[j][mine], "coloraxis": "coloraxis", "line": {"width": 0}}, name=escape(name),
                hovertemplate="%{text}: %{marker.color:.3f}", showlegend=False, meta={"model": j}, row=p + 1, col=j + 1,
            )  # fmt: skip
            if element is not None:
                here = group.coords[element, 0] == p
                figure.add_scatterpolar(
                    theta=[group.coords[element, 1]], r=[group.coords[element, 2] + step / 2 if here else None],
                    marker={"symbol": "cross-thin", "size": 16, "line": {"width": 3, "color": "white"}}, mode="markers",
                    showlegend=False, hoverinfo="skip", meta={"mark": p, "step": step}, row=p + 1, col=j + 1,
                )  # fmt: skip
    figure.update_annotations(yshift=18)  # above the angle at the top
    style(figure, 110 + 380 * len(planes))
    figure.update_polars(
        bgcolor="white",
        radialaxis={"range": [0, float(angles.max()) + step], "ticksuffix": "°", "nticks": 4, "showgrid": False,
                    "tickfont": {"size": 10}},
        angularaxis={"dtick": 45, "ticksuffix": "°", "showgrid": False, "direction": "counterclockwise"},
    )  # fmt: skip
    axis = color_axis(metric.label, *limits, metric.higher_is_better, -0.1 / len(planes))
    return figure.update_layout(coloraxis=axis, margin={"l": 44, "r": 44, "t": 70, "b": 50})


def _cells(group: Transforms) -> tuple[np.ndarray, list[Any], list[Any], np.ndarray]:
    """Return the element in each cell (-1: none), what stands at columns and rows, and the frame of each element.

    The first axis runs across, the others down.
    """
    xs, ys = np.unique(group.coords[:, 0]), np.unique(group.coords[:, 1:], axis=0)
    column = np.searchsorted(xs, group.coords[:, 0])
    row = np.array([int(np.flatnonzero((ys == c).all(axis=1))[0]) for c in group.coords[:, 1:]])
    index = np.full((len(ys), len(xs)), -1)
    index[row, column] = np.arange(len(group))
    if group.layout == "grid":
        (x, y), half = group.coords.T, [np.diff(v).min() / 2 if len(v) > 1 else 0.5 for v in (xs, ys[:, 0])]
        frames = np.stack([x - half[0], x + half[0], y - half[1], y + half[1]], axis=1)
        return index, xs.tolist(), ys[:, 0].tolist(), frames

    def say(axis: str, value: float) -> str:
        if axis == "quarter turns":
            return f"{90 * value:g}°"
        if value not in (0, 1):
            return f"{axis} {value:g}"
        return axis if value else ""

    x_names = [say(group.axes[0], value) or "as it is" for value in xs]
    y_names = ["<br>".join(filter(None, map(say, group.axes[1:], values))) or "as it is" for values in ys]
    return index, x_names, y_names, np.stack([column - 0.5, column + 0.5, row - 0.5, row + 0.5], axis=1)


# -- small steps ----------------------------------------------------------------------------------------------------


def chosen_models(result: OrbitValues, models: Sequence[str] | None) -> tuple[list[str], list[int]]:
    names = list(result.models) if models is None else [models] if isinstance(models, str) else list(models)
    if not names:
        raise ValueError("no model was chosen")
    return names, [result._model(name) for name in names]


def _panels(names: Sequence[str], spacing: float = 0.06) -> go.Figure:
    from plotly.subplots import make_subplots

    return make_subplots(rows=1, cols=len(names), subplot_titles=bold(names), horizontal_spacing=spacing)


def axis_id(letter: str, place: int) -> str:
    return f"{letter}{place + 1 if place else ''}"


def _frame(figure: go.Figure, frames: np.ndarray, element: int | None, place: int) -> None:
    if element is not None:
        x0, x1, y0, y1 = frames[element].tolist()
        look = {"line": {"color": MARK, "width": 3}, "fillcolor": CLEAR, "opacity": 1}
        figure.add_shape(type="rect", x0=x0, x1=x1, y0=y0, y1=y1, **look, row=1, col=place + 1)


def color_axis(title: str, low: float, high: float, bright_is_high: bool, below: float = -0.16) -> dict[str, Any]:
    """Bright is good, whichever way the metric runs; the bar lies below, so that plots keep the width of the page."""
    bar = {**BELOW, "title": {"text": escape(title), "side": "top"}, "thickness": 12, "len": 0.7, "y": below}
    scale = "Viridis" if bright_is_high else "Viridis_r"
    return {"colorscale": scale, "cmin": low, "cmax": high if high > low else low + 1, "colorbar": bar}


def _axis_title(metric: NeroMetric) -> str:
    text = f"{metric.label} ({'higher' if metric.higher_is_better else 'lower'} is better)"
    return "<br>".join(escape(line) for line in wrap(text, 36))


def bold(names: Sequence[str]) -> list[str]:
    return [f"<b>{escape(name)}</b>" for name in names]


def style(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        template="simple_white", height=height, margin={"l": 20, "r": 20, "t": 44, "b": 50}, font=_FONT, autosize=True,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
        hoverlabel={"align": "left"},
    )  # fmt: skip
    figure.update_xaxes(showgrid=True, gridcolor=LINE, zeroline=False, automargin=True)
    figure.update_yaxes(showgrid=True, gridcolor=LINE, zeroline=False, automargin=True)
