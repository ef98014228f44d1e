"""One sample under one element as a NERO figure: what the models see, what they answer, and what is right."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.core.colors import colour_of
from anytask.evaluate.nero.look import INK, SOFT, TRUTH, chosen_models, colour_axis, style
from anytask.evaluate.parts.planar_groups import PlanarGroup
from anytask.evaluate.parts.transforms import Product, Transforms

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from anytask.evaluate.nero.records import Detail
    from anytask.evaluate.nero.result import NeroResult

_MOST_ARROWS = 16
_MOST_CLASSES = 12


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

    chosen = chosen_models(result, models)
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
    style(figure, 380)
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


def picture(group: Transforms, x: np.ndarray) -> np.ndarray | None:
    """Return an input as an image (height, width) or (height, width, 3), or None if it is none.

    Of a pair of frames, the first is taken.
    """
    planar = planar_part(group)
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
            marker={"size": 3, "color": INK}, row=1, col=1,
        )  # fmt: skip
        span = float(np.abs(np.asarray(result.X[detail.sample])).max()) * 1.1 or 1.0
        axis = {"range": [-span, span], "showticklabels": False}
        figure.update_scenes(xaxis=axis, yaxis=axis, zaxis=axis, aspectmode="cube")
        return
    image = picture(result.group, x)
    if image is None:
        values = x.reshape(-1)
        figure.add_bar(
            x=np.arange(len(values)), y=values, marker={"color": SOFT}, showlegend=False, row=1, col=1,
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
            INK if detail.truth is not None and str(classes[c]) == str(detail.truth) else "rgba(0,0,0,0)" for c in order
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
    wanted = [("true", detail.truth, TRUTH, "solid")] if detail.truth is not None else []
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
    planar = planar_part(result.group)
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
        layers = [(right, TRUTH, "true" if target is not None else "consensus", 4)] if right is not None else []
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
        coloraxis=colour_axis(metric.upper(), 0.0, peak, False),
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
            marker={"symbol": "line-ew-open", "size": 22, "color": TRUTH, "line": {"width": 4}},
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


def planar_part(group: Transforms) -> PlanarGroup | None:
    if isinstance(group, Product):
        return planar_part(group.first) or planar_part(group.second)
    return group if isinstance(group, PlanarGroup) else None
