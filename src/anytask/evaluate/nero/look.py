"""What all NERO figures have in common: colours, fonts, titles, and the choice of models."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from anytask.evaluate.nero.metrics import NeroMetric

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from anytask.evaluate.nero.result import NeroResult

INK, LINE, SOFT = "#2b3138", "#e3e7eb", "#6b747d"
TRUTH = "#e69f00"
_FONT = {"family": "system-ui, Segoe UI, Helvetica Neue, Arial, sans-serif", "size": 13, "color": INK}


def chosen_models(result: NeroResult, models: Sequence[str] | None) -> list[str]:
    chosen = list(result.models) if models is None else [models] if isinstance(models, str) else list(models)
    for name in chosen:
        result._model(name)
    if not chosen:
        raise ValueError("no model was chosen")
    return chosen


def colour_axis(title: str, low: float, high: float, bright_is_high: bool, below: float = -0.16) -> dict[str, Any]:
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


def axis_title(metric: NeroMetric) -> str:
    text = f"{metric.label} ({'higher' if metric.higher_is_better else 'lower'} is better)"
    return "<br>".join(escape(line) for line in wrap(text, 36))


def bold(names: Sequence[str]) -> list[str]:
    return [f"<b>{escape(name)}</b>" for name in names]


def style(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        template="simple_white",
        height=height,
        margin={"l": 20, "r": 20, "t": 44, "b": 50},
        font=_FONT,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
        hoverlabel={"align": "left"},
        autosize=True,
    )
    figure.update_xaxes(showgrid=True, gridcolor=LINE, zeroline=False, automargin=True)
    figure.update_yaxes(showgrid=True, gridcolor=LINE, zeroline=False, automargin=True)
