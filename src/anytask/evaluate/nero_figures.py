"""The NERO plots as Plotly figures: aggregate, individual, sample map and detail, for one model or several.

In every trace that shows elements or samples, ``customdata`` holds their indices, so a page can turn a click into
``element`` or ``sample``.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anytask.bench.colours import colour_of, translucent
from anytask.evaluate.nero_metrics import NeroMetric
from anytask.evaluate.nero_result import Detail, NeroResult
from anytask.parts.planar_groups import PlanarGroup
from anytask.parts.transforms import Product, Transforms

if TYPE_CHECKING:
    import plotly.graph_objects as go

_INK, _LINE, _SOFT = "#2b3138", "#e3e7eb", "#6b747d"
_FONT = {"family": "system-ui, Segoe UI, Helvetica Neue, Arial, sans-serif", "size": 13, "color": _INK}
_TRUTH = "#e69f00"
_MOST_ARROWS = 16
_MOST_CLASSES = 12


def aggregate_figure(
    result: NeroResult,
    metric: str | None = None,
    reference: str | None = None,
    *,
    models: Sequence[str] | None = None,
    subset: Any = None,
    class_: Any = None,
    element: int | None = None,
) -> go.Figure:
    """Draw the mean over samples (or mAP) for every element, on the group's natural layout.

    Parameters
    ----------
    result : NeroResult
        What to draw.
    metric, reference : str, optional
        Which values; as in :meth:`NeroResult.values`.
    models : sequence of str, optional
        Which models, in which order; default: all.
    subset, class_ : optional
        Which samples; as in :meth:`NeroResult.aggregate`.
    element : int, optional
        Index of an element to mark.
    """
    chosen = _models(result, models)
    key = result._key(metric, reference)
    curves = result.aggregate(key[1], key[0], subset=subset, class_=class_)
    return orbit_figure(
        result.group, curves[[result.models.index(name) for name in chosen]], chosen, result.metrics[key[1]],
        element=element, everyone=result.models,
    )  # fmt: skip


def individual_figure(
    result: NeroResult,
    sample: int,
    metric: str | None = None,
    reference: str | None = None,
    *,
    models: Sequence[str] | None = None,
    element: int | None = None,
) -> go.Figure:
    """Draw one sample's orbit on the group's natural layout; vector fields on tiles show the error of each pixel.

    Parameters
    ----------
    result, metric, reference, models, element
        As in :func:`aggregate_figure`.
    sample : int
        Index of the sample.
    """
    chosen = _models(result, models)
    key = result._key(metric, reference)
    if result.task == "field" and result.group.layout == "tiles" and len(result.group) <= 32:
        return _error_tiles(result, result._sample(sample), chosen, key[1], element)
    curves = result.values(key[1], key[0])[:, :, result._sample(sample)]
    return orbit_figure(
        result.group, curves[[result.models.index(name) for name in chosen]], chosen, result.metrics[key[1]],
        element=element, everyone=result.models,
    )  # fmt: skip


def sample_map(
    result: NeroResult,
    metric: str | None = None,
    reference: str | None = None,
    *,
    models: Sequence[str] | None = None,
    method: str = "pca",
    color_by: Literal["mean", "variance"] = "mean",
    selected: int | None = None,
) -> go.Figure:
    """Draw one point per sample, near those whose orbits are alike, coloured by the mean or variance of the orbit.

    Parameters
    ----------
    result, metric, reference, models
        As in :func:`aggregate_figure`. All models share one map and one scale of colours.
    method : {"pca", "ica", "isomap", "tsne", "umap"}, default "pca"
        As in :func:`anytask.evaluate.nero_reduction.reduce_orbits`.
    color_by : {"mean", "variance"}, default "mean"
        What the colour shows.
    selected : int, optional
        Index of a sample to mark.
    """
    from plotly.subplots import make_subplots

    chosen = _models(result, models)
    key = result._key(metric, reference)
    points, notice = result.reduce(method, key[1], key[0])
    intensity = result.intensity(color_by, key[1], key[0])
    name = result.metrics[key[1]].label
    figure = make_subplots(rows=1, cols=len(chosen), subplot_titles=_bold(chosen), horizontal_spacing=0.06)
    labels = _sample_labels(result)
    for column, model in enumerate(chosen, 1):
        j = result.models.index(model)
        figure.add_scatter(
            x=points[j, :, 0], y=points[j, :, 1], mode="markers", customdata=np.arange(len(result)), text=labels,
            marker={
                "color": intensity[j], "coloraxis": "coloraxis", "size": 8, "line": {"width": 0.5, "color": "white"},
            },
            hovertemplate=f"%{{text}}<br>{color_by} of {escape(name)}: %{{marker.color:.3g}}<extra></extra>",
            showlegend=False, row=1, col=column,
        )  # fmt: skip
        if selected is not None:
            i = result._sample(selected)
            figure.add_scatter(
                x=points[j, [i], 0], y=points[j, [i], 1], mode="markers", showlegend=False, hoverinfo="skip",
                marker={"size": 17, "color": "rgba(0,0,0,0)", "line": {"width": 3, "color": "#d55e00"}},
                row=1, col=column,
            )  # fmt: skip
    _style(figure, 420)
    figure.update_xaxes(range=[-1.08, 1.08], visible=False)
    figure.update_yaxes(range=[-1.08, 1.08], visible=False)
    for column in range(1, len(chosen) + 1):  # one unit is as long on both axes
        figure.update_yaxes(scaleanchor=f"x{column if column > 1 else ''}", scaleratio=1, row=1, col=column)
    finite = intensity[np.isfinite(intensity)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    better = result.metrics[key[1]].higher_is_better if color_by == "mean" else False
    figure.update_layout(coloraxis=_colours(f"{color_by} of {name}", low, high, better))
    if notice:
        figure.add_annotation(
            text=escape(notice), x=0.5, y=-0.02, xref="paper", yref="paper", showarrow=False, font={"color": _SOFT}
        )
    return figure


def detail_figure(
    result: NeroResult,
    sample: int,
    *,
    element: int | None = None,
    models: Sequence[str] | None = None,
    metric: str | None = None,
) -> go.Figure:
    """Draw what the models see of one sample under one element, what they answer, and what is right.

    Parameters
    ----------
    result, models
        As in :func:`aggregate_figure`.
    sample : int
        Index of the sample.
    element : int, optional
        Index of the element; default: the identity.
    metric : str, optional
        For vector fields: which error the map shows.
    """
    from plotly.subplots import make_subplots

    chosen = _models(result, models)
    detail = result.detail(sample, index=result.element() if element is None else element)
    is_3d = detail.input.ndim == 2 and detail.input.shape[-1] == 3 and result.group.layout == "polar-grid"
    titles = [f"<b>input</b> at {escape(detail.label)}", *_answers_titles(result, detail, chosen)]
    per_model = result.task == "field"
    columns = 1 + (len(chosen) if per_model else 1)
    kinds: list[dict[str, Any]] = [{"type": "scene" if is_3d else "xy"}, *[{"type": "xy"}] * (columns - 1)]
    widths = [1.0] + [1.0] * (columns - 1) if per_model else [0.45, 0.55]
    figure = make_subplots(
        rows=1, cols=columns, subplot_titles=titles, specs=[kinds], column_widths=widths, horizontal_spacing=0.14
    )
    _style(figure, 380)
    _draw_input(figure, result, detail, is_3d)
    if result.task == "classification":
        _draw_classes(figure, result, detail, chosen)
    elif result.task == "detection":
        _draw_boxes(figure, result, detail, chosen)
    elif result.task == "field":
        _draw_fields(figure, result, detail, chosen, metric or "aee")
    else:
        _draw_numbers(figure, result, detail, chosen)
    return figure


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


# -- one function per layout --------------------------------------------------------------------------------------


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
            theta=[theta[element]] * 2, r=[low, high], mode="lines", line={"color": _INK, "width": 1.5, "dash": "dot"},
            name=escape(group.labels[element]), hoverinfo="skip", showlegend=True,
        )  # fmt: skip
    _style(figure, 440)
    figure.update_layout(
        polar={
            "bgcolor": "white",
            "radialaxis": {
                "range": [low, high + 0.03 * (high - low)], "angle": 22.5, "tickangle": 22.5, "showgrid": True,
                "gridcolor": _LINE, "showline": False, "ticks": "", "nticks": 5,
                "tickfont": {"color": _SOFT, "size": 11},
            },
            "angularaxis": {
                "direction": "counterclockwise", "rotation": 0, "dtick": 45, "ticksuffix": "°", "showgrid": True,
                "gridcolor": _LINE, "linecolor": _LINE, "ticks": "",
            },
        },
        title={"text": _axis(metric), "font": {"size": 13}, "x": 0.5, "xanchor": "center", "y": 0.98},
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
        figure.add_vline(x=float(x[element]), line={"color": _INK, "width": 1.5, "dash": "dot"})
    _style(figure, 400)
    low, high = _limits(curves, metric)
    figure.update_xaxes(title=escape(group.axes[0] if one else "element"))
    figure.update_yaxes(title=_axis(metric), range=[low - 0.03 * (high - low), high + 0.03 * (high - low)])
    return figure


def _grid(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, colours: list[str],
          element: int | None) -> go.Figure:  # fmt: skip
    from plotly.subplots import make_subplots

    xs, ys, z, index = _on_grid(group, curves)
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=_bold(names), horizontal_spacing=0.1)
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
    _style(figure, 420)
    figure.update_xaxes(title=escape(group.axes[0]), showgrid=False, constrain="domain")
    figure.update_yaxes(autorange="reversed", showgrid=False, constrain="domain")
    figure.update_yaxes(title=escape(group.axes[1]), col=1)
    if "pixels" in group.axes[0]:
        for column in range(1, len(names) + 1):
            figure.update_yaxes(scaleanchor=f"x{column if column > 1 else ''}", row=1, col=column)
    low, high = _limits(curves, metric)
    figure.update_layout(coloraxis=_colours(metric.label, low, high, metric.higher_is_better, below=-0.3))
    return figure


def _tiles(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, colours: list[str],
           element: int | None) -> go.Figure:  # fmt: skip
    from plotly.subplots import make_subplots

    place, x_names, y_names = _tile_places(group)
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=_bold(names), horizontal_spacing=0.06)
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
    _style(figure, 150 + 70 * shape[0])
    figure.update_xaxes(type="category", showgrid=False, showline=False, ticks="")
    figure.update_yaxes(
        type="category", autorange="reversed", showgrid=False, showline=False, ticks="", automargin=True
    )
    low, high = _limits(curves, metric)
    figure.update_layout(coloraxis=_colours(metric.label, low, high, metric.higher_is_better))
    return figure


def _polar_grid(group: Transforms, curves: np.ndarray, names: Sequence[str], metric: NeroMetric, colours: list[str],
                element: int | None) -> go.Figure:  # fmt: skip
    from plotly.subplots import make_subplots

    planes = getattr(group, "planes", None) or tuple(f"plane {k}" for k in range(int(group.coords[:, 0].max()) + 1))
    figure = make_subplots(
        rows=len(planes), cols=len(names), specs=[[{"type": "polar"}] * len(names)] * len(planes),
        subplot_titles=[f"<b>{escape(name)}</b>, axis in {plane}" for plane in planes for name in names],
        horizontal_spacing=0.12, vertical_spacing=0.16 if len(planes) > 1 else 0,
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
    _style(figure, 110 + 380 * len(planes))
    figure.update_polars(
        bgcolor="white",
        radialaxis={"range": [0, float(angles.max()) + step], "ticksuffix": "°", "nticks": 4, "showgrid": False,
                    "tickfont": {"size": 10}},
        angularaxis={"dtick": 45, "ticksuffix": "°", "showgrid": False, "direction": "counterclockwise"},
    )  # fmt: skip
    low, high = _limits(curves, metric)
    below = -0.1 / len(planes)
    figure.update_layout(coloraxis=_colours(metric.label, low, high, metric.higher_is_better, below), margin_t=70)
    return figure


def _error_tiles(result: NeroResult, sample: int, names: Sequence[str], metric: str, element: int | None) -> go.Figure:
    """Per-pixel error maps of a vector field, one tile per element."""
    from plotly.subplots import make_subplots

    group = result.group
    metric = metric if metric in ("rmse", "mse", "mae", "aee") else "aee"
    place, x_names, y_names = _tile_places(group)
    figure = make_subplots(rows=1, cols=len(names), subplot_titles=_bold(names), horizontal_spacing=0.06)
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
    _style(figure, 160 + 90 * len(y_names))
    figure.update_xaxes(showgrid=False, showline=False, ticks="")
    figure.update_yaxes(autorange="reversed", showgrid=False, showline=False, ticks="", automargin=True)
    figure.update_layout(coloraxis=_colours(f"{metric.upper()} of each pixel", 0.0, peak or 1.0, False))
    return figure


# -- the detail view ------------------------------------------------------------------------------------------------


def picture(group: Transforms, x: np.ndarray) -> np.ndarray | None:
    """Return an input as an image (height, width) or (height, width, 3), or None if it is none.

    Of a pair of frames, the first is taken.
    """
    planar = _planar(group)
    if planar is None:
        is_image = x.ndim == 3 and x.shape[0] in (1, 3) and min(x.shape[1:]) > 3
        if x.ndim == 2 and min(x.shape) > 3:
            return x
        return (x[0] if x.shape[0] == 1 else np.moveaxis(x, 0, -1)) if is_image else None
    if x.ndim == 1 and planar.image_shape is not None:
        shape = list(planar.image_shape)
        for part in (group,) if not isinstance(group, Product) else (group.first, group.second):
            (height, width), _ = part.canvas((shape[-2], shape[-1]))
            shape[-2:] = height, width
        x = x.reshape(shape)
    elif planar.channels_last and x.ndim >= 3:
        x = np.moveaxis(x, -1, -3)
    while x.ndim > 3 or (x.ndim == 3 and x.shape[0] != 3):
        x = x[0]
    return np.moveaxis(x, 0, -1) if x.ndim == 3 else x


def _draw_input(figure: go.Figure, result: NeroResult, detail: Detail, is_3d: bool) -> None:
    x = detail.input
    if is_3d:
        figure.add_scatter3d(
            x=x[:, 0], y=x[:, 1], z=x[:, 2], mode="markers", hoverinfo="skip", showlegend=False,
            marker={"size": 3, "color": _INK}, row=1, col=1,
        )  # fmt: skip
        span = float(np.abs(np.asarray(result.X[detail.sample])).max()) * 1.1 or 1.0
        axis = {"range": [-span, span], "showticklabels": False}
        figure.update_scenes(xaxis=axis, yaxis=axis, zaxis=axis, aspectmode="cube")
        return
    image = picture(result.group, x)
    if image is None:
        values = x.reshape(-1)
        figure.add_bar(
            x=np.arange(len(values)), y=values, marker={"color": _SOFT}, showlegend=False, row=1, col=1,
            hovertemplate="value %{x}: %{y:.3g}<extra></extra>",
        )  # fmt: skip
        figure.update_xaxes(title="feature", row=1, col=1)
        return
    original = np.asarray(result.X[detail.sample], dtype=float)
    low, high = float(original.min()), float(original.max())
    # Pixel (r, c) covers [c, c + 1] x [r, r + 1], as boxes and positions have it.
    if image.ndim == 3:
        scaled = np.clip((image - low) / ((high - low) or 1.0), 0, 1)
        figure.add_image(z=(255 * scaled).astype(np.uint8), x0=0.5, y0=0.5, hoverinfo="skip", row=1, col=1)
    else:
        figure.add_heatmap(
            z=image, x0=0.5, y0=0.5, dx=1, dy=1, colorscale="gray", zmin=low, zmax=high, showscale=False,
            hoverinfo="skip", row=1, col=1,
        )  # fmt: skip
    height, width = image.shape[:2]
    figure.update_xaxes(range=[0, width], showgrid=False, visible=False, constrain="domain", row=1, col=1)
    figure.update_yaxes(range=[height, 0], showgrid=False, visible=False, scaleanchor="x", row=1, col=1)


def _answers_titles(result: NeroResult, detail: Detail, names: Sequence[str]) -> list[str]:
    if result.task == "field":
        return [f"<b>{escape(name)}</b>: field and error" for name in names]
    if result.task == "classification":
        if detail.truth is not None:
            return [f"<b>probabilities</b> (true class: {escape(str(detail.truth))})"]
        agreed = ", ".join(escape(str(detail.consensus[name])) for name in names if name in detail.consensus)
        return [f"<b>probabilities</b> (consensus: {agreed})"]
    return ["<b>boxes</b>" if result.task == "detection" else "<b>outputs</b>"]


def _draw_classes(figure: go.Figure, result: NeroResult, detail: Detail, names: Sequence[str]) -> None:
    shown: list[str] = []
    for name in names:
        if name not in detail.outputs:
            continue
        classes = result.classes[name]
        assert classes is not None
        p = np.asarray(detail.outputs[name])
        order = np.sort(np.argsort(-p)[:_MOST_CLASSES])
        ticks = [escape(str(classes[c])) for c in order]
        shown += [t for t in ticks if t not in shown]
        marked = [
            "#2b3138" if detail.truth is not None and str(classes[c]) == str(detail.truth) else "rgba(0,0,0,0)"
            for c in order
        ]
        figure.add_bar(
            x=ticks, y=p[order], name=escape(name), row=1, col=2,
            marker={"color": colour_of(name, result.models), "line": {"color": marked, "width": 2.5}},
            hovertemplate=f"class %{{x}}: %{{y:.3f}}<extra>{escape(name)}</extra>",
        )  # fmt: skip
    title = "class (outlined: the true one)" if detail.truth is not None else "class"
    figure.update_xaxes(
        type="category", title=title, categoryorder="array", categoryarray=shown, row=1, col=2
    )  # fmt: skip
    figure.update_yaxes(range=[0, 1.02], row=1, col=2)
    figure.update_layout(
        barmode="group", legend={"orientation": "h", "x": 1, "xanchor": "right", "y": -0.24, "yanchor": "top"}
    )


def _draw_boxes(figure: go.Figure, result: NeroResult, detail: Detail, names: Sequence[str]) -> None:
    rows: list[list[str]] = []
    wanted = [("true", detail.truth, _TRUTH, "solid")] if detail.truth is not None else []
    for name in names:
        if name in detail.outputs:
            wanted.append((name, detail.outputs[name], colour_of(name, result.models), "solid"))
        if detail.truth is None and name in detail.consensus:
            wanted.append((f"consensus of {name}", detail.consensus[name], colour_of(name, result.models), "dot"))
    for name, found, colour, dash in wanted:
        for place, (box, score, label) in enumerate(zip(found["boxes"], found["scores"], found["labels"])):
            x1, y1, x2, y2 = map(float, box)
            figure.add_scatter(
                x=[x1, x2, x2, x1, x1], y=[y1, y1, y2, y2, y1], mode="lines", name=escape(name), legendgroup=name,
                showlegend=place == 0, line={"color": colour, "width": 2.5, "dash": dash},
                hovertemplate=f"{escape(name)}: {escape(str(label))} ({score:.2f})<extra></extra>", row=1, col=1,
            )  # fmt: skip
            rows.append(
                [name, str(label), "" if name == "true" else f"{score:.2f}", f"{x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f}"]
            )
    figure.update_xaxes(visible=False, range=[0, 1], row=1, col=2)
    figure.update_yaxes(visible=False, range=[0, 1], row=1, col=2)
    lines = [f"<b>{escape(who)}</b>  {escape(what)}  {score}  [{box}]" for who, what, score, box in rows[:14]]
    figure.add_annotation(
        x=0, y=1, xref="x2", yref="y2", xanchor="left", yanchor="top", align="left", showarrow=False,
        text="<br>".join(lines) or "nothing was detected",
    )  # fmt: skip
    figure.update_layout(legend={"orientation": "h", "x": 0, "xanchor": "left", "y": -0.02, "yanchor": "top"})


def _draw_fields(figure: go.Figure, result: NeroResult, detail: Detail, names: Sequence[str], metric: str) -> None:
    planar = _planar(result.group)
    sign = 1.0 if planar is not None and planar.v_axis == "down" else -1.0
    peak = max((float(m[metric].max()) for m in detail.maps.values()), default=1.0) or 1.0
    target = detail.truth
    for column, name in enumerate(names, 2):
        if name not in detail.outputs:
            continue
        field = np.asarray(detail.outputs[name])
        right = target if target is not None else detail.consensus.get(name)
        if name in detail.maps:
            figure.add_heatmap(
                z=detail.maps[name][metric], x0=0.5, y0=0.5, dx=1, dy=1, coloraxis="coloraxis", row=1, col=column,
                hovertemplate=f"{metric.upper()} %{{z:.3f}}<extra></extra>",
            )  # fmt: skip
        longest = max(
            float(np.hypot(*field).max()), 0.0 if right is None else float(np.hypot(*np.asarray(right)).max())
        )
        layers = [(right, _TRUTH, "true" if target is not None else "consensus", 4)] if right is not None else []
        for arrows, colour, label, width in [*layers, (field, "#ffffff", "output", 1.5)]:
            x, y = _arrows(np.asarray(arrows), longest, sign)
            figure.add_scatter(
                x=x, y=y, mode="lines", line={"color": colour, "width": width}, hoverinfo="skip", name=label,
                showlegend=column == 2 and label != "output", row=1, col=column,
            )  # fmt: skip
        height, width_ = field.shape[1:]
        axis = f"x{column}"
        figure.update_xaxes(range=[0, width_], visible=False, constrain="domain", row=1, col=column)
        figure.update_yaxes(range=[height, 0], visible=False, scaleanchor=axis, row=1, col=column)
    figure.update_layout(
        coloraxis=_colours(metric.upper(), 0.0, peak, False),
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": -0.02, "yanchor": "top"},
    )


def _draw_numbers(figure: go.Figure, result: NeroResult, detail: Detail, names: Sequence[str]) -> None:
    for name in names:
        if name in detail.outputs:
            values = np.asarray(detail.outputs[name], dtype=float).reshape(-1)[:64]
            figure.add_bar(
                x=np.arange(len(values)), y=values, name=escape(name), row=1, col=2,
                marker={"color": colour_of(name, result.models)},
            )  # fmt: skip
    if detail.truth is not None:
        values = np.asarray(detail.truth, dtype=float).reshape(-1)[:64]
        figure.add_scatter(
            x=np.arange(len(values)), y=values, mode="markers", name="true", row=1, col=2,
            marker={"symbol": "line-ew-open", "size": 22, "color": _TRUTH, "line": {"width": 4}},
        )  # fmt: skip
    figure.update_xaxes(title="output", dtick=1, row=1, col=2)
    figure.update_layout(
        barmode="group", legend={"orientation": "h", "x": 1, "xanchor": "right", "y": -0.24, "yanchor": "top"}
    )


def _arrows(field: np.ndarray, longest: float, sign: float) -> tuple[np.ndarray, np.ndarray]:
    """Lines with a head at the end, at most 16 along each axis, for a plot whose y grows downwards."""
    height, width = field.shape[1:]
    stride = max(1, -(-max(height, width) // _MOST_ARROWS))
    r, c = np.meshgrid(np.arange(stride // 2, height, stride), np.arange(stride // 2, width, stride), indexing="ij")
    scale = 0.9 * stride / longest if longest else 0.0
    u, v = field[0, r, c].ravel() * scale, sign * field[1, r, c].ravel() * scale
    x, y = c.ravel() + 0.5 - u / 2, r.ravel() + 0.5 - v / 2
    tip_x, tip_y = x + u, y + v
    none = np.full(len(x), np.nan)
    head = 0.3
    left_x, left_y = tip_x - head * (u + 0.6 * v), tip_y - head * (v - 0.6 * u)
    right_x, right_y = tip_x - head * (u - 0.6 * v), tip_y - head * (v + 0.6 * u)
    xs = np.stack([x, tip_x, left_x, none, tip_x, right_x, none], axis=1).ravel()
    ys = np.stack([y, tip_y, left_y, none, tip_y, right_y, none], axis=1).ravel()
    return xs, ys


# -- small steps ----------------------------------------------------------------------------------------------------


def _planar(group: Transforms) -> PlanarGroup | None:
    if isinstance(group, Product):
        return _planar(group.first) or _planar(group.second)
    return group if isinstance(group, PlanarGroup) else None


def _models(result: NeroResult, models: Sequence[str] | None) -> list[str]:
    chosen = list(result.models) if models is None else [models] if isinstance(models, str) else list(models)
    for name in chosen:
        result._model(name)
    if not chosen:
        raise ValueError("no model was chosen")
    return chosen


def _sample_labels(result: NeroResult) -> list[str]:
    texts = [f"sample {i}" for i in range(len(result))]
    if result.task in ("classification", "detection"):
        shown = [", ".join(sorted(map(str, row))) if isinstance(row, set) else str(row) for row in result.labels()]
        texts = [f"{text}: {escape(label)}" for text, label in zip(texts, shown)]
    return texts


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


def _colours(title: str, low: float, high: float, bright_is_high: bool, below: float = -0.16) -> dict[str, Any]:
    """Bright is good, whichever way the metric runs."""
    return {  # the bar lies below, so that narrow pages keep their width for the plots
        "colorscale": "Viridis" if bright_is_high else "Viridis_r",
        "cmin": low,
        "cmax": high if high > low else low + 1,
        "colorbar": {
            "title": {"text": escape(title), "side": "top"},
            "orientation": "h",
            "thickness": 12,
            "len": 0.7,
            "x": 0.5,
            "xanchor": "center",
            "y": below,
            "yanchor": "top",
        },
    }


def _axis(metric: NeroMetric) -> str:
    text = f"{metric.label} ({'higher' if metric.higher_is_better else 'lower'} is better)"
    return "<br>".join(escape(line) for line in wrap(text, 36))


def _bold(names: Sequence[str]) -> list[str]:
    return [f"<b>{escape(name)}</b>" for name in names]


def _style(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        template="simple_white",
        height=height,
        margin={"l": 20, "r": 20, "t": 44, "b": 50},
        font=_FONT,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
        hoverlabel={"align": "left"},
        autosize=True,
    )
    figure.update_xaxes(showgrid=True, gridcolor=_LINE, zeroline=False, automargin=True)
    figure.update_yaxes(showgrid=True, gridcolor=_LINE, zeroline=False, automargin=True)
