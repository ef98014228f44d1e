"""The checks of a claim as a picture: interval, seeds, and the band in which the interval has to lie."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from anytask.core.colors import PALETTE, translucent

if TYPE_CHECKING:
    import plotly.graph_objects as go

_INK, _LINE = "#2b3138", "#e3e7eb"
_COLORS = {"shown": PALETTE[2], "not shown": "#b45309", "contradicted": PALETTE[9]}
_NUMBER = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
_ROW = 84


def bounds_of(check: Mapping[str, Any]) -> tuple[float, float]:
    """Return between which values the interval of a recorded check has to lie.

    Evidence records them as ``bounds``, None for no bound; older evidence states them in its sentence alone.

    Examples
    --------
    >>> bounds_of({"sentence": "tame beats fine-tuning by >= 0.4 on accuracy", "bounds": [0.4, None]})
    (0.4, inf)
    >>> bounds_of({"sentence": "tame has experts >= 4 and <= 6"})
    (4.0, 6.0)
    >>> bounds_of({"sentence": "gkcl is within 0.015 of replay on accuracy"})
    (-0.015, inf)
    """
    recorded = check.get("bounds")
    if isinstance(recorded, Sequence) and len(recorded) == 2:
        low, high = recorded
        return float(low) if _finite(low) else -math.inf, float(high) if _finite(high) else math.inf
    return _stated(str(check.get("sentence", "")))


def _stated(sentence: str) -> tuple[float, float]:
    if found := re.search(rf" is within {_NUMBER} of ", sentence):
        return -float(found[1]), math.inf
    if " spreads at most " in sentence:
        return 0.0, math.inf
    least = re.findall(rf">= {_NUMBER}", sentence)
    most = re.findall(rf"<= {_NUMBER}", sentence)
    return float(least[-1]) if least else -math.inf, float(most[-1]) if most else math.inf


def evidence_figure(checks: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Return one row per check, each on a scale of its own.

    Parameters
    ----------
    checks : sequence of mappings
        ``sentence, bounds, outcome, mean, low, high, values`` of each check, as the evidence records them. Failed
        checks, whose mean is None, are left out.
    """
    from plotly.subplots import make_subplots

    drawn = [check for check in checks if _finite(check.get("mean"))]
    n = len(drawn)
    height = _ROW * n + 46
    figure = make_subplots(rows=n, cols=1, vertical_spacing=0.6 * _ROW / height if n > 1 else 0)
    for row, check in enumerate(drawn, start=1):
        _draw(figure, row, check)
    figure.update_yaxes(visible=False, range=[-1, 1], fixedrange=True)
    figure.update_xaxes(
        showgrid=True, gridcolor=_LINE, zeroline=True, zerolinecolor="#9aa4ae", fixedrange=True, nticks=6
    )
    figure.update_layout(
        template="simple_white", height=height, showlegend=False, margin={"l": 12, "r": 16, "t": 34, "b": 28},
        font={"family": "system-ui, Segoe UI, Helvetica Neue, Arial, sans-serif", "size": 12, "color": _INK},
    )  # fmt: skip
    return figure


def _draw(figure: go.Figure, row: int, check: Mapping[str, Any]) -> None:
    mean = float(check["mean"])
    low, high = (float(check[end]) if _finite(check.get(end)) else mean for end in ("low", "high"))
    seeds = [float(value) for value in check.get("values", []) if _finite(value)]
    outcome, (at_least, at_most) = str(check.get("outcome")), bounds_of(check)
    color = _COLORS.get(outcome, _INK)
    edges = [edge for edge in (at_least, at_most) if math.isfinite(edge)]
    marks = [low, high, mean, *seeds, *edges, 0.0]
    room = 0.08 * (max(marks) - min(marks)) or 0.1
    left, right = min(marks) - room, max(marks) + room
    axes: Any = {"row": row, "col": 1}
    band = {"type": "rect", "layer": "below", "line": {"width": 0}, "fillcolor": translucent(PALETTE[2], 0.13)}
    figure.add_shape(x0=max(at_least, left), x1=min(at_most, right), y0=-1, y1=1, **band, **axes)
    for edge in edges:
        line = {"color": PALETTE[2], "width": 1.5, "dash": "dot"}
        figure.add_shape(type="line", x0=edge, x1=edge, y0=-1, y1=1, line=line, **axes)
    figure.add_scatter(
        x=seeds, y=[-0.42] * len(seeds), mode="markers", hovertemplate="one seed: %{x:.3f}<extra></extra>",
        marker={"color": color, "size": 7, "opacity": 0.55}, **axes,
    )  # fmt: skip
    bar = {"color": color, "width": 5}
    figure.add_scatter(x=[low, high], y=[0.25, 0.25], mode="lines", line=bar, hoverinfo="skip", **axes)
    diamond = {"color": color, "size": 13, "symbol": "diamond", "line": {"color": "white", "width": 1.5}}
    said = f"mean {mean:.3f}, 95 % interval {low:.3f} to {high:.3f}<extra></extra>"
    figure.add_scatter(x=[mean], y=[0.25], mode="markers", marker=diamond, hovertemplate=said, **axes)
    figure.update_xaxes(range=[left, right], **axes)
    lines = wrap(f"{check.get('sentence', '')}", 84)
    words = "<br>".join(escape(line) for line in lines[:2]) + ("…" if len(lines) > 2 else "")
    figure.add_annotation(
        x=0, y=next(figure.select_yaxes(**axes)).domain[1], xref="paper", yref="paper", xanchor="left",
        yanchor="bottom", showarrow=False, align="left", text=f"<b>{escape(outcome)}</b>  {words}",
        font={"size": 12, "color": _INK},
    )  # fmt: skip


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
