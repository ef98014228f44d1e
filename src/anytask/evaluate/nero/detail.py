"""One sample under one element as a Plotly figure: what the models see, what they answer, and what is right."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from anytask.core.colors import colour_of
from anytask.evaluate.nero.figures import (
    BELOW,
    CLEAR,
    INK,
    SOFT,
    TRUTH,
    axis_id,
    bold,
    chosen_models,
    color_axis,
    style,
)  # fmt: skip
from anytask.parts.planar_groups import PlanarGroup
from anytask.parts.transforms import Product, Transforms

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from anytask.evaluate.nero.runs import Detail
    from anytask.evaluate.nero.values import OrbitValues

_MOST_ARROWS, _MOST_CLASSES, _MOST_BOXES, _MOST_NUMBERS = 16, 12, 14, 64


def detail_figure(
    result: OrbitValues, sample: int, *, element: int | None = None, models: Sequence[str] | None = None,
    metric: str | None = None,
) -> go.Figure:  # fmt: skip
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

    names, _ = chosen_models(result, models)
    detail = result.detail(sample, index=result.element() if element is None else element)
    is_3d = detail.input.ndim == 2 and detail.input.shape[-1] == 3 and result.group.layout == "polar-grid"
    field = result.task == "field"
    titles = {"classification": "probabilities", "detection": "boxes", "regression": "outputs"}
    columns = len(names) + 1 if field else 2
    figure = make_subplots(
        rows=1, cols=columns, horizontal_spacing=0.1 if field else 0.14, column_widths=None if field else [0.45, 0.55],
        subplot_titles=["<b>input</b>", *(bold(names) if field else [f"<b>{titles[result.task]}</b>"])],
        specs=[[{"type": "scene" if is_3d else "xy"}, *[{"type": "xy"}] * (columns - 1)]],
    )  # fmt: skip
    style(figure, 380)
    _draw_input(figure, result, detail, is_3d)
    draw = {"classification": _draw_classes, "detection": _draw_boxes, "regression": _draw_numbers}
    if field:
        _draw_fields(figure, result, detail, names, metric if metric in ("rmse", "mse", "mae") else "aee")
    else:
        draw[result.task](figure, result, detail, names)
    return figure.update_layout(barmode="group", legend={**BELOW, "y": -0.02 if field else -0.24})


def picture(group: Transforms, x: np.ndarray) -> np.ndarray | None:
    """Return an input as an image (height, width) or (height, width, 3), or None if it is none.

    Of a pair of frames, the first is taken.
    """
    planar = _planar_part(group)
    if planar is None:
        is_image = x.ndim == 3 and x.shape[0] in (1, 3) and min(x.shape[1:]) > 3
        if x.ndim == 2 and min(x.shape) > 3:
            return x
        return (x[0] if x.shape[0] == 1 else np.moveaxis(x, 0, -1)) if is_image else None
    if x.ndim == 1 and planar.image_shape is not None:
        shape = list(planar.image_shape)
        for part in (group.first, group.second) if isinstance(group, Product) else (group,):
            (height, width), _ = part.canvas((shape[-2], shape[-1]))
            shape[-2:] = height, width
        x = x.reshape(shape)
    elif planar.channels_last and x.ndim >= 3:
        x = np.moveaxis(x, -1, -3)
    while x.ndim > 3 or (x.ndim == 3 and x.shape[0] != 3):
        x = x[0]
    return np.moveaxis(x, 0, -1) if x.ndim == 3 else x


def points_down(group: Transforms) -> bool:
    """Whether the second component of a vector field points down in the image."""
    planar = _planar_part(group)
    return planar is not None and planar.v_axis == "down"


def _draw_input(figure: go.Figure, result: OrbitValues, detail: Detail, is_3d: bool) -> None:
    x, place = detail.input, {"row": 1, "col": 1, "meta": {"part": "input"}, "hoverinfo": "skip"}
    original = np.asarray(result.X[detail.sample], dtype=float)
    if is_3d:
        marker = {"size": 3, "color": INK}
        figure.add_scatter3d(x=x[:, 0], y=x[:, 1], z=x[:, 2], mode="markers", marker=marker, showlegend=False, **place)
        span = float(np.abs(original).max()) * 1.1 or 1.0
        axis = {"range": [-span, span], "showticklabels": False}
        figure.update_scenes(xaxis=axis, yaxis=axis, zaxis=axis, aspectmode="cube")
        return
    image = picture(result.group, x)
    if image is None:
        figure.add_bar(y=x.reshape(-1), marker={"color": SOFT}, showlegend=False, **place)
        figure.update_xaxes(title="feature", row=1, col=1)
        return
    low, high = float(original.min()), float(original.max())
    # Pixel (r, c) covers [c, c + 1] x [r, r + 1], as boxes and positions have it.
    if image.ndim == 3:
        scaled = 255 * np.clip((image - low) / ((high - low) or 1.0), 0, 1)
        figure.add_image(z=scaled.astype(np.uint8), x0=0.5, y0=0.5, **place)
    else:
        figure.add_heatmap(
            z=image, x0=0.5, y0=0.5, dx=1, dy=1, colorscale="gray", zmin=low, zmax=high, showscale=False, **place
        )  # fmt: skip
    _frame_image(figure, image.shape[:2], 0)


def _draw_classes(figure: go.Figure, result: OrbitValues, detail: Detail, names: Sequence[str]) -> None:
    shown: list[str] = []
    for j, name in enumerate(names):
        classes = result.classes[name]
        assert classes is not None
        p = np.asarray(detail.outputs.get(name, np.zeros(len(classes))))
        order = np.sort(np.argsort(-p, kind="stable")[:_MOST_CLASSES])
        ticks = [escape(str(classes[c])) for c in order]
        shown += [tick for tick in ticks if tick not in shown]
        right = [detail.truth is not None and str(classes[c]) == str(detail.truth) for c in order]
        outline = {"color": [INK if one else CLEAR for one in right], "width": 2.5}
        figure.add_bar(
            x=ticks, y=p[order], name=escape(name), meta={"part": "output", "model": j}, row=1, col=2,
            marker={"color": colour_of(name, result.models), "line": outline}, hovertemplate="class %{x}: %{y:.3f}",
        )  # fmt: skip
    title = "class" if detail.truth is None else "class (outlined: the true one)"
    figure.update_xaxes(type="category", title=title, categoryorder="array", categoryarray=shown, row=1, col=2)
    figure.update_yaxes(range=[0, 1.02], row=1, col=2)


def _draw_boxes(figure: go.Figure, result: OrbitValues, detail: Detail, names: Sequence[str]) -> None:
    """Boxes over the input, one line with gaps per model and for what is right, and a list of them beside it."""
    lines: list[str] = []
    right = [("true", detail.truth, TRUTH)] if detail.truth is not None else [
        (f"consensus of {name}", detail.consensus.get(name), colour_of(name, result.models)) for name in names
    ]  # fmt: skip
    wanted = [(*one, "dash", {"part": "target", "model": j}) for j, one in enumerate(right)]
    for j, name in enumerate(names):
        mine = {"part": "output", "model": j}
        wanted.append((name, detail.outputs.get(name), colour_of(name, result.models), "solid", mine))
    for name, found, color, dash, meta in wanted:
        x: list[float | None] = []
        y: list[float | None] = []
        texts: list[str] = []
        for box, score, label in zip(*(found[key] for key in ("boxes", "scores", "labels")) if found else ((), (), ())):
            x1, y1, x2, y2 = map(float, box)
            x, y = [*x, x1, x2, x2, x1, x1, None], [*y, y1, y1, y2, y2, y1, None]
            worth = f"  {score:.2f}" if dash == "solid" else ""
            texts += [f"{escape(name)}: {escape(str(label))}{worth}"] * 6
            lines.append(
                f"<b>{escape(name)}</b>  {escape(str(label))}{worth}  [{x1:.0f}, {y1:.0f}, {x2:.0f}, {y2:.0f}]"
            )
        figure.add_scatter(
            x=x, y=y, mode="lines", name=escape(name), line={"color": color, "width": 2.5, "dash": dash}, text=texts,
            hovertemplate="%{text}<extra></extra>", meta=meta, row=1, col=1,
        )  # fmt: skip
    figure.update_xaxes(visible=False, range=[0, 1], row=1, col=2).update_yaxes(
        visible=False, range=[0, 1], row=1, col=2
    )
    figure.add_annotation(
        x=0, y=1, xref="x2", yref="y2", xanchor="left", yanchor="top", align="left", showarrow=False,
        text="<br>".join(lines[:_MOST_BOXES]) or "nothing was detected",
    )  # fmt: skip


def _draw_fields(figure: go.Figure, result: OrbitValues, detail: Detail, names: Sequence[str], metric: str) -> None:
    sign, blank = 1.0 if points_down(result.group) else -1.0, np.full((2, *result.shape), np.nan)
    peak = max((float(m[metric].max()) for m in detail.maps.values()), default=1.0) or 1.0
    for j, name in enumerate(names):
        field = np.asarray(detail.outputs.get(name, blank))
        right = np.asarray(detail.consensus.get(name, blank) if detail.truth is None else detail.truth)
        figure.add_heatmap(
            z=detail.maps[name][metric] if name in detail.maps else blank[0], x0=0.5, y0=0.5, dx=1, dy=1,
            coloraxis="coloraxis", name=escape(name), hovertemplate=f"{metric.upper()} %{{z:.3f}}",
            meta={"part": "error", "model": j}, row=1, col=j + 2,
        )  # fmt: skip
        longest = np.nanmax([np.hypot(*field), np.hypot(*right)], initial=1e-9)
        said = "consensus" if detail.truth is None else "true"
        for part, arrows, color, label, width in (
            ("target", right, TRUTH, said, 4), ("output", field, "#ffffff", escape(name), 1.5),
        ):  # fmt: skip
            x, y = _arrows(arrows, longest, sign)
            figure.add_scatter(
                x=x, y=y, mode="lines", line={"color": color, "width": width}, hoverinfo="skip", name=label,
                showlegend=j == 0 and part == "target", meta={"part": part, "model": j}, row=1, col=j + 2,
            )  # fmt: skip
        _frame_image(figure, field.shape[1:], j + 1)
    figure.update_layout(coloraxis=color_axis(metric.upper(), 0.0, peak, False))


def _draw_numbers(figure: go.Figure, result: OrbitValues, detail: Detail, names: Sequence[str]) -> None:
    right = next(iter(detail.consensus.values()), ()) if detail.truth is None else detail.truth
    for j, name in enumerate(names):
        values = np.asarray(detail.outputs.get(name, ()), dtype=float).reshape(-1)[:_MOST_NUMBERS]
        color = {"color": colour_of(name, result.models)}
        figure.add_bar(
            x=np.arange(len(values)), y=values, name=escape(name), marker=color, meta={"part": "output", "model": j},
            row=1, col=2,
        )  # fmt: skip
    values = np.asarray(right, dtype=float).reshape(-1)[:_MOST_NUMBERS]
    figure.add_scatter(
        x=np.arange(len(values)), y=values, mode="markers", name="consensus" if detail.truth is None else "true",
        marker={"symbol": "line-ew-open", "size": 22, "color": TRUTH, "line": {"width": 4}},
        meta={"part": "target", "model": 0}, row=1, col=2,
    )  # fmt: skip
    figure.update_xaxes(title="output", row=1, col=2)


def _arrows(field: np.ndarray, longest: float, sign: float) -> tuple[np.ndarray, np.ndarray]:
    """Lines with a head at the end, at most 16 along each axis, for a plot whose y grows downwards."""
    height, width = field.shape[1:]
    stride = max(1, -(-max(height, width) // _MOST_ARROWS))
    r, c = np.meshgrid(np.arange(stride // 2, height, stride), np.arange(stride // 2, width, stride), indexing="ij")
    scale = 0.9 * stride / longest
    u, v = field[0, r, c].ravel() * scale, sign * field[1, r, c].ravel() * scale
    x, y = c.ravel() + 0.5 - u / 2, r.ravel() + 0.5 - v / 2
    s, t, none = x + u, y + v, np.full(len(x), np.nan)
    xs = np.stack([x, s, s - 0.3 * (u + 0.6 * v), none, s, s - 0.3 * (u - 0.6 * v), none], axis=1).ravel()
    ys = np.stack([y, t, t - 0.3 * (v - 0.6 * u), none, t, t - 0.3 * (v + 0.6 * u), none], axis=1).ravel()
    return xs, ys


def _planar_part(group: Transforms) -> PlanarGroup | None:
    if isinstance(group, Product):
        return _planar_part(group.first) or _planar_part(group.second)
    return group if isinstance(group, PlanarGroup) else None


def _frame_image(figure: go.Figure, shape: Sequence[int], place: int) -> None:
    here = {"row": 1, "col": place + 1, "showgrid": False, "visible": False}
    figure.update_xaxes(range=[0, shape[1]], constrain="domain", **here)
    figure.update_yaxes(range=[shape[0], 0], scaleanchor=axis_id("x", place), **here)
