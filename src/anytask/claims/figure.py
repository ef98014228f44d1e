"""The comparisons of a claim as a picture: interval, seeds, the good side of zero and what is worth having."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from anytask.core.colors import PALETTE, translucent

if TYPE_CHECKING:
    import plotly.graph_objects as go

_INK, _LINE = "#2b3138", "#e3e7eb"
_COLORS = {"shown": PALETTE[2], "not shown": "#b45309", "contradicted": PALETTE[9]}
_FONT = {"family": "system-ui, Segoe UI, Helvetica Neue, Arial, sans-serif", "size": 12, "color": _INK}
_ROW = 100

#: How to read the figure.
CAPTION = (
    "Each comparison has its own scale; right of zero is better. The bar is the 95 % interval over seeds, the diamond "
    "its mean, dots are single seeds, the dotted line is the smallest gain worth having."
)


def evidence_figure(evidence: Mapping[str, Any]) -> go.Figure:
    """Return one row per comparison of the headline, the components and the real trial, each on a scale of its own.

    Parameters
    ----------
    evidence : mapping
        What :func:`anytask.claims.verify.verify` returned: the ``sentence``, ``outcome``, ``worth``, ``difference`` and
        ``values`` of each entry of ``headline``, ``components`` and the trial's ``headline`` are drawn. Comparisons
        without a finite difference, whose runs all failed, are left out.
    """
    from plotly.subplots import make_subplots

    kinds = (("headline", "Headline"), ("components", "Component"))
    entries = [(word, entry) for key, word in kinds for entry in evidence.get(key, [])]
    real = evidence.get("real", {})
    measured = {"outcome": "measured"} if real.get("outcome") == "measured" else {}  # too few seeds for an outcome
    entries += [("Real trial", {**entry, **measured}) for entry in real.get("headline", [])]
    drawn = [(word, entry) for word, entry in entries if _finite(entry.get("difference", {}).get("mean"))]
    n = len(drawn)
    height = _ROW * n + 46
    figure = make_subplots(rows=n, cols=1, vertical_spacing=0.64 * _ROW / height if n > 1 else 0)
    for row, (word, entry) in enumerate(drawn, start=1):
        _draw(figure, row, word, entry)
    figure.update_yaxes(visible=False, range=[-1, 1], fixedrange=True)
    figure.update_xaxes(
        showgrid=True, gridcolor=_LINE, zeroline=True, zerolinecolor="#9aa4ae", fixedrange=True, nticks=6
    )
    figure.update_layout(
        template="simple_white", height=height, showlegend=False, margin={"l": 12, "r": 16, "t": 34, "b": 28},
        font=_FONT,
    )  # fmt: skip
    return figure


def effect_figure(evidence: Mapping[str, Any]) -> go.Figure:
    """Return the first headline's experiment as a picture: every entrant's seeds and mean, the best at the top.

    Parameters
    ----------
    evidence : mapping
        What :func:`anytask.claims.verify.verify` returned; its ``rows`` are drawn.
    """
    import plotly.graph_objects as go

    first = evidence["headline"][0]
    rows = [
        row for row in evidence["rows"] if (row["experiment"], row["metric"]) == (first["experiment"], first["metric"])
    ]
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["name"], []).extend([row["value"]] if _finite(row["value"]) else [])
    roles = {row["name"]: row["role"] for row in rows}
    colors = {"system": PALETTE[0], "ablation": PALETTE[1], "baseline": "#8a94a0"}
    means = {name: sum(own) / len(own) for name, own in values.items() if own}
    gains = (first["difference"]["mean"] or 0.0) >= 0
    higher_is_better = gains == (means.get(first["better"], 0.0) >= means.get(first["baseline"], 0.0))
    order = sorted(means, key=lambda name: means[name], reverse=not higher_is_better)
    figure = go.Figure()
    for role, color in colors.items():
        names = [name for name in order if roles[name] == role]
        if not names:
            continue
        seeds = [(value, name) for name in names for value in values[name]]
        dots = {"color": translucent(color, 0.45), "size": 7}
        figure.add_scatter(
            x=[x for x, _ in seeds], y=[y for _, y in seeds], mode="markers", marker=dots, showlegend=False,
            hovertemplate="%{y}, one seed: %{x:.3f}<extra></extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=[means[name] for name in names], y=names, mode="markers+text", name=role, cliponaxis=False,
            text=[f"{means[name]:.3f}" for name in names], textposition="top center",
            marker={"color": color, "size": 13, "symbol": "diamond", "line": {"color": "white", "width": 1.5}},
            hovertemplate="%{y}, mean: %{x:.3f}<extra></extra>",
        )  # fmt: skip
    title = wrap(f"{first['label']} ({first['experiment']})", 32)  # the axis is short on a phone
    figure.update_xaxes(title="<br>".join(title), gridcolor=_LINE)
    figure.update_yaxes(categoryorder="array", categoryarray=order, gridcolor=_LINE, automargin=True)
    figure.update_layout(
        template="simple_white", height=54 + 16 * len(title) + 46 * len(order),
        margin={"l": 12, "r": 24, "t": 12, "b": 30 + 16 * len(title)}, font=_FONT,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )  # fmt: skip
    return figure


def _draw(figure: go.Figure, row: int, word: str, entry: Mapping[str, Any]) -> None:
    difference = entry["difference"]
    mean = float(difference["mean"])
    low, high = (float(difference[end]) if _finite(difference.get(end)) else mean for end in ("low", "high"))
    seeds = [float(value) for value in entry.get("values", []) if _finite(value)]
    outcome, worth = str(entry.get("outcome")), entry.get("worth")
    edges = [float(worth)] if isinstance(worth, (int, float)) else []
    color = _COLORS.get(outcome, _INK)
    marks = [low, high, mean, *seeds, *edges, 0.0]
    room = 0.08 * (max(marks) - min(marks)) or 0.1
    left, right = min(marks) - room, max(marks) + room
    axes: Any = {"row": row, "col": 1}
    band = {"type": "rect", "layer": "below", "line": {"width": 0}, "fillcolor": translucent(PALETTE[2], 0.13)}
    figure.add_shape(x0=0.0, x1=right, y0=-1, y1=1, **band, **axes)
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
    lines = wrap(f"{word}: {entry.get('sentence', '')}", 54 - len(outcome))  # as much as a phone shows
    words = "<br>".join(escape(line) for line in lines[:2]) + ("…" if len(lines) > 2 else "")
    figure.add_annotation(
        x=0, y=next(figure.select_yaxes(**axes)).domain[1], xref="paper", yref="paper", xanchor="left",
        yanchor="bottom", showarrow=False, align="left", text=f"<b>{escape(outcome)}</b>  {words}",
        font={"size": 12, "color": _INK},
    )  # fmt: skip


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
