"""The NERO plots as Plotly figures: aggregate, individual, sample map and detail, for one model or several.

In every trace that shows elements or samples, ``customdata`` holds their indices, so a page can turn a click into
``element`` or ``sample``.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anytask.evaluate.nero.detail import detail_figure as detail_figure
from anytask.evaluate.nero.detail import picture as picture
from anytask.evaluate.nero.layouts import error_tiles
from anytask.evaluate.nero.layouts import orbit_figure as orbit_figure
from anytask.evaluate.nero.look import SOFT, bold, chosen_models, colour_axis, style
from anytask.evaluate.nero.result import NeroResult

if TYPE_CHECKING:
    import plotly.graph_objects as go


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
    chosen = chosen_models(result, models)
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
    chosen = chosen_models(result, models)
    key = result._key(metric, reference)
    if result.task == "field" and result.group.layout == "tiles" and len(result.group) <= 32:
        return error_tiles(result, result._sample(sample), chosen, key[1], element)
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
        As in :func:`anytask.evaluate.nero.reduction.reduce_orbits`.
    color_by : {"mean", "variance"}, default "mean"
        What the colour shows.
    selected : int, optional
        Index of a sample to mark.
    """
    from plotly.subplots import make_subplots

    chosen = chosen_models(result, models)
    key = result._key(metric, reference)
    points, notice = result.reduce(method, key[1], key[0])
    intensity = result.intensity(color_by, key[1], key[0])
    name = result.metrics[key[1]].label
    figure = make_subplots(rows=1, cols=len(chosen), subplot_titles=bold(chosen), horizontal_spacing=0.06)
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
    style(figure, 420)
    figure.update_xaxes(range=[-1.08, 1.08], visible=False)
    figure.update_yaxes(range=[-1.08, 1.08], visible=False)
    for column in range(1, len(chosen) + 1):  # one unit is as long on both axes
        figure.update_yaxes(scaleanchor=f"x{column if column > 1 else ''}", scaleratio=1, row=1, col=column)
    finite = intensity[np.isfinite(intensity)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    better = result.metrics[key[1]].higher_is_better if color_by == "mean" else False
    figure.update_layout(coloraxis=colour_axis(f"{color_by} of {name}", low, high, better))
    if notice:
        figure.add_annotation(
            text=escape(notice), x=0.5, y=-0.02, xref="paper", yref="paper", showarrow=False, font={"color": SOFT}
        )
    return figure


def _sample_labels(result: NeroResult) -> list[str]:
    texts = [f"sample {i}" for i in range(len(result))]
    if result.task in ("classification", "detection"):
        shown = [", ".join(sorted(map(str, row))) if isinstance(row, set) else str(row) for row in result.labels()]
        texts = [f"{text}: {escape(label)}" for text, label in zip(texts, shown)]
    return texts
