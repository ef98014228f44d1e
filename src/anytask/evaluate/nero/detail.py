"""One sample under one element as a Plotly figure: what the models see, what they answer, and what is right."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.core.colors import color_of
from anytask.evaluate.nero.figures import BELOW, CLEAR, INK, SOFT, TRUTH, axis_id, chosen_models, color_axis, panels
from anytask.evaluate.nero.metrics import NOTHING
from anytask.parts.planar_groups import PlanarGroup
from anytask.parts.transforms import Product, Transforms

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from anytask.evaluate.nero.runs import Detail
    from anytask.evaluate.nero.values import OrbitValues

_MOST_ARROWS, _MOST_CLASSES, _MOST_BOXES, _MOST_NUMBERS = 16, 12, 14, 64
_OUTPUT = {"row": 1, "col": 2}


def detail_figure(
    result: OrbitValues, sample: int, *, element: int | None = None, models: Sequence[str] | None = None,
    metric: str | None = None,
) -> go.Figure:  # fmt: skip
    """Draw what the models see of one sample under one element, what they answer, and what is right.

    Parameters
    ----------
    result, models
        As in :func:`anytask.evaluate.nero.figures.aggregate_figure`.
    sample : int
        Index of the sample.
    element : int, optional
        Index of the element; default: the identity.
    metric : str, optional
        For vector fields: which error the map shows.
    """
    names, _ = chosen_models(result, models)
    detail = result.detail(sample, index=result.element() if element is None else element)
    is_field = result.task == "field"
    titles = {"classification": "probabilities", "detection": "boxes", "regression": "outputs"}
    beside = names if is_field else [titles[result.task]]
    look = {"horizontal_spacing": 0.1} if is_field else {"horizontal_spacing": 0.14, "column_widths": [0.45, 0.55]}
    kinds = [{"type": "scene" if is_cloud(result.group, detail.input) else "xy"}, *[{"type": "xy"}] * len(beside)]
    figure = panels(["input", *beside], 380, specs=[kinds], **look)
    _draw_input(figure, result, detail)
    if is_field:
        _draw_fields(figure, result, detail, names, metric if metric in ("rmse", "mse", "mae") else "aee")
    else:
        draw = {"classification": _draw_classes, "detection": _draw_boxes, "regression": _draw_numbers}
        draw[result.task](figure, result, detail, names)
    return figure.update_layout(barmode="group", legend={**BELOW, "y": -0.02 if is_field else -0.24})


def is_cloud(group: Transforms, x: np.ndarray) -> bool:
    """Whether an input is a set of points in space."""
    return x.ndim == 2 and x.shape[-1] == 3 and group.layout == "polar-grid"


def picture(group: Transforms, x: np.ndarray) -> np.ndarray | None:
    """Return an input as an image (height, width) or (height, width, 3), or None if it is none.

    Of a pair of frames, the first is taken.
    """
    planar = _planar_part(group)
    if planar is None:
        if x.ndim == 2 and min(x.shape) > 3:
            return x
        is_image = x.ndim == 3 and x.shape[0] in (1, 3) and min(x.shape[1:]) > 3
        return (x[0] if x.shape[0] == 1 else np.moveaxis(x, 0, -1)) if is_image else None
    if x.ndim == 1 and planar.image_shape is not None:
        shape = list(planar.image_shape)
        for part in (group.first, group.second) if isinstance(group, Product) else (group,):
            shape[-2:], _ = part.canvas((shape[-2], shape[-1]))
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


def _draw_input(figure: go.Figure, result: OrbitValues, detail: Detail) -> None:
    x, place = detail.input, {"row": 1, "col": 1, "meta": {"part": "input"}, "hoverinfo": "skip"}
    original = np.asarray(result.X[detail.sample], dtype=float)
    if is_cloud(result.group, x):
        span = float(np.abs(original).max()) * 1.1 or 1.0
        axis = {"range": [-span, span]}
        marker = {"size": 3, "color": INK}
        figure.add_scatter3d(**dict(zip("xyz", x.T)), mode="markers", marker=marker, showlegend=False, **place)
        figure.update_scenes(xaxis=axis, yaxis=axis, zaxis=axis)
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
        gray = {"colorscale": "gray", "zmin": low, "zmax": high, "showscale": False}
        figure.add_heatmap(z=image, x0=0.5, y0=0.5, dx=1, dy=1, **gray, **place)
    _frame_image(figure, image.shape[:2], 0)


def _draw_classes(figure: go.Figure, result: OrbitValues, detail: Detail, names: Sequence[str]) -> None:
    shown: dict[str, None] = {}
    for j, name in enumerate(names):
        classes = np.array(list(map(str, result.classes[name])))  # type: ignore[arg-type]
        p = np.asarray(detail.outputs.get(name, np.zeros(len(classes))))
        order = np.sort(np.argsort(-p, kind="stable")[:_MOST_CLASSES])
        ticks = [escape(text) for text in classes[order]]
        right = (classes[order] == str(detail.truth)) & (detail.truth is not None)
        outline = {"color": [INK if one else CLEAR for one in right], "width": 2.5}
        figure.add_bar(
            x=ticks, y=p[order], name=escape(name), meta={"part": "output", "model": j}, **_OUTPUT,
            marker={"color": color_of(name, result.models), "line": outline}, hovertemplate="class %{x}: %{y:.3f}",
        )  # fmt: skip
        shown |= dict.fromkeys(ticks)
    title = "class" if detail.truth is None else "class (outlined: the true one)"
    figure.update_xaxes(type="category", title=title, categoryorder="array", categoryarray=list(shown), **_OUTPUT)
    figure.update_yaxes(range=[0, 1.02], **_OUTPUT)


def _draw_boxes(figure: go.Figure, result: OrbitValues, detail: Detail, names: Sequence[str]) -> None:
    """Boxes over the input, one line with gaps per model and for what is right, and a list of them beside it."""
    colors, listed = [color_of(name, result.models) for name in names], []
    right: list[tuple[Any, ...]] = [("true", detail.truth, TRUTH, "target")]
    if detail.truth is None:
        right = [(f"consensus of {n}", detail.consensus.get(n), color, "target") for n, color in zip(names, colors)]
    answers = [(name, detail.outputs.get(name), color, "output") for name, color in zip(names, colors)]
    for group in (right, answers):
        for j, (name, found, color, part) in enumerate(group):
            boxes, scores, labels = ((found or NOTHING)[key] for key in NOTHING)
            said = [escape(str(label)) for label in labels]
            if part == "output":
                said = [f"{text}  {score:.2f}" for text, score in zip(said, scores)]
            corners = [
                np.insert(boxes[:, order], 5, np.nan, axis=1).ravel() for order in ([0, 2, 2, 0, 0], [1, 1, 3, 3, 1])
            ]
            figure.add_scatter(
                x=corners[0], y=corners[1], mode="lines", name=escape(name), meta={"part": part, "model": j},
                line={"color": color, "width": 2.5, "dash": "dash" if part == "target" else "solid"},
                text=np.repeat([f"{escape(name)}: {text}" for text in said], 6), row=1, col=1,
                hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip
            listed += [
                f"<b>{escape(name)}</b>  {text}  [{', '.join(f'{v:.0f}' for v in box)}]"
                for text, box in zip(said, boxes)
            ]
    blank = {"visible": False, "range": [0, 1], **_OUTPUT}
    figure.update_xaxes(**blank).update_yaxes(**blank)
    figure.add_annotation(
        x=0, y=1, xref="x2", yref="y2", xanchor="left", yanchor="top", align="left", showarrow=False,
        text="<br>".join(listed[:_MOST_BOXES]) or "nothing was detected",
    )  # fmt: skip


def _draw_fields(figure: go.Figure, result: OrbitValues, detail: Detail, names: Sequence[str], metric: str) -> None:
    sign, blank = 1.0 if points_down(result.group) else -1.0, np.full((2, *result.shape), np.nan)
    said = "consensus" if detail.truth is None else "true"
    for j, name in enumerate(names):
        field = np.asarray(detail.outputs.get(name, blank))
        right = np.asarray(detail.consensus.get(name, blank) if detail.truth is None else detail.truth)
        place = {"row": 1, "col": j + 2}
        figure.add_heatmap(
            z=detail.maps[name][metric] if name in detail.maps else blank[0], x0=0.5, y0=0.5, dx=1, dy=1,
            coloraxis="coloraxis", name=escape(name), hovertemplate=f"{metric.upper()} %{{z:.3f}}",
            meta={"part": "error", "model": j}, **place,
        )  # fmt: skip
        longest = np.nanmax([np.hypot(*field), np.hypot(*right)], initial=1e-9)
        for part, arrows, line, label in (
            ("target", right, {"color": TRUTH, "width": 4}, said),
            ("output", field, {"color": "#ffffff", "width": 1.5}, escape(name)),
        ):
            x, y = _arrows(arrows, longest, sign)
            figure.add_scatter(
                x=x, y=y, mode="lines", line=line, hoverinfo="skip", name=label, meta={"part": part, "model": j},
                showlegend=j == 0 and part == "target", **place,
            )  # fmt: skip
        _frame_image(figure, field.shape[1:], j + 1)
    peak = max((float(m[metric].max()) for m in detail.maps.values()), default=1.0) or 1.0
    figure.update_layout(coloraxis=color_axis(metric.upper(), 0.0, peak, False))


def _draw_numbers(figure: go.Figure, result: OrbitValues, detail: Detail, names: Sequence[str]) -> None:
    def numbers(values: Any) -> dict[str, Any]:
        shown = np.asarray(values, dtype=float).reshape(-1)[:_MOST_NUMBERS]
        return {"x": np.arange(len(shown)), "y": shown, **_OUTPUT}

    for j, name in enumerate(names):
        color = {"color": color_of(name, result.models)}
        mine = numbers(detail.outputs.get(name, ()))
        figure.add_bar(**mine, name=escape(name), marker=color, meta={"part": "output", "model": j})
    right = next(iter(detail.consensus.values()), ()) if detail.truth is None else detail.truth
    figure.add_scatter(
        **numbers(right), mode="markers", name="consensus" if detail.truth is None else "true",
        marker={"symbol": "line-ew-open", "size": 22, "color": TRUTH, "line": {"width": 4}},
        meta={"part": "target", "model": 0},
    )  # fmt: skip
    figure.update_xaxes(title="output", **_OUTPUT)


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
