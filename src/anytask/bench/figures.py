"""The figures that every report has, whatever the problem."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING

from anytask.bench.results import Results, Row
from anytask.bench.statistics import Ranking, indistinguishable_groups
from anytask.bench.wording import blocks, in_sentence, number
from anytask.core.colors import color_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

_INK, _SOFT, _LINE = "#2b3138", "#59636e", "#e3e7eb"
#: Letters of a name that fit beside a scale.
_LONGEST = 26
#: What an axis of costs is called, by the cost's name.
COSTS = {
    "wall_seconds": "seconds",
    "cpu_seconds": "CPU seconds",
    "peak_bytes": "bytes of peak memory",
    "peak_increase_bytes": "bytes of the run's own memory",
    "lm_calls": "language model calls",
    "lm_tokens": "language model tokens",
}
_SMALL = {
    "showarrow": False,
    "yanchor": "middle",
    "font": {"size": 12, "color": _SOFT},
    "bgcolor": "rgba(255,255,255,0.8)",
}
_SYMBOLS = {
    "system": ("circle", "system"),
    "ablation": ("square", "ablation"),
    "baseline": ("diamond-open", "baseline"),
    "upper": ("triangle-left-open", "reference"),
    "lower": ("triangle-right-open", "lower bound"),
}


def color(comparison: Results, name: str) -> str:
    """Return the colour of an entrant, the same in all figures of the report, the problem's own ones included."""
    names = dict.fromkeys(run.entrant_name for run in comparison.runs if run.status == "done")
    return color_of(name, [*names, *(e.name for e in comparison.plan.entrants if e.name not in names)])


def ranking(comparison: Results) -> go.Figure:
    """Means with intervals and single seeds, best on top, in a band for each thing told; upper bounds are lines."""
    import plotly.graph_objects as go

    metric = comparison.primary
    rows = [row for row in comparison.rows if row.done and row.bound != "upper"]
    upper = [row for row in comparison.rows if row.done and row.bound == "upper"]
    figure = go.Figure()
    for row in rows:
        seeds = comparison.values(row.name, metric.key)
        figure.add_scatter(
            x=list(seeds.values()),
            y=[escape(row.name)] * len(seeds),
            mode="markers",
            marker={"color": color(comparison, row.name), "size": 7, "opacity": 0.45},
            hovertemplate=[f"seed {seed}: {number(value, metric)}<extra></extra>" for seed, value in seeds.items()],
            showlegend=False,
        )
    shown: set[str] = set()
    for row in rows:
        symbol, label = _symbol(row)
        low, high = row.primary.low, row.primary.high
        mean = row.primary.mean
        figure.add_scatter(
            x=[mean],
            y=[escape(row.name)],
            mode="markers+text",
            text=[f" {number(mean, metric)}"],
            textposition="top center",
            textfont={"size": 12, "color": _INK},
            marker={"color": color(comparison, row.name), "size": 13, "symbol": symbol, "line": {"width": 2}},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [0 if high is None else high - mean],
                "arrayminus": [0 if low is None else mean - low],
                "thickness": 2.5,
                "width": 6,
            },
            hovertemplate=f"{escape(row.name)}: {number(mean, metric)}<extra></extra>",
            showlegend=False,
        )
        if label not in shown:
            shown.add(label)
            figure.add_scatter(
                x=[None],
                y=[escape(row.name)],
                mode="markers",
                name=label,
                marker={"color": _INK, "size": 10, "symbol": symbol, "line": {"width": 2}},
            )
    values = [row.primary.mean for row in [*rows, *upper]]
    line = {"color": _SOFT, "width": 1.5, "dash": "6px,4px"}
    for place, row in enumerate(upper):
        figure.add_vline(x=row.primary.mean, line=line, opacity=1)
        said = f" {escape(row.name)} {number(row.primary.mean, metric)} (reference) "
        side = "right" if 2 * row.primary.mean > min(values) + max(values) else "left"  # where there is room
        figure.add_annotation(x=row.primary.mean, y=-0.7 - 0.4 * place, text=said, xanchor=side, **_SMALL)
    order: list[str] = []  # from top to bottom; each heading has a line of its own
    for place, block in enumerate(blocks(comparison)):
        drawn = [escape(row.name) for row in block.rows if row in rows]
        if drawn and block.heading:
            order.append("\u00a0" * (place + 1))
        order += drawn
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=order[::-1],
        range=[-0.6 - 0.4 * len(upper), len(order) - 0.35],
        automargin=True,
        ticksuffix="  ",
    )
    for place, block in enumerate(blocks(comparison)):
        if (mark := "\u00a0" * (place + 1)) in order:
            y = len(order) - 1 - order.index(mark)
            figure.add_annotation(x=0, xref="paper", xanchor="left", y=y - 0.2, text=escape(block.heading), **_SMALL)
            if y < len(order) - 1:
                line = {"color": _SOFT, "width": 1}
                figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=y + 0.4, y1=y + 0.4, line=line, opacity=1)
    _style(figure, height=110 + 46 * len(order) + 20 * len(upper))
    figure.update_xaxes(title=_axis(comparison), automargin=True)
    return figure


def ranking_caption(comparison: Results) -> str:
    """Return how to read :func:`ranking`."""
    metric = comparison.primary
    better = "higher" if metric.higher_is_better else "lower"
    said = [
        f"Mean {in_sentence(metric.label)} over the seeds ({better} is better), with a 95 % bootstrap interval; small "
        "dots are the single seeds. Filled circles are systems, open diamonds baselines."
    ]
    bounds = {row.bound for row in comparison.rows if row.done}
    if "lower" in bounds:
        said.append("Triangles mark the lower end of the scale.")
    if "upper" in bounds:
        said.append("A dashed line is a reference: it is given what no system may have, and is not ranked.")
    return " ".join(said)


def critical_difference(comparison: Results, names: Sequence[str], ranking: Ranking) -> go.Figure:
    """Average ranks on a line, with bars over those that cannot be told apart."""
    import plotly.graph_objects as go

    k = len(names)
    order = sorted(range(k), key=lambda i: ranking.average_ranks[i])
    groups = indistinguishable_groups(ranking.average_ranks, ranking.critical_difference)
    half = (k + 1) // 2
    first_line = -0.5 - 0.45 * len(groups)  # the height of the first name: below all the bars
    span = max(k - 1, 1)
    left, right = 1 - 0.04 * span, k + 0.04 * span
    figure = go.Figure()
    figure.add_shape(type="line", x0=1, x1=k, y0=0, y1=0, line={"color": _INK, "width": 1.5})
    for tick in range(1, k + 1):
        figure.add_shape(type="line", x0=tick, x1=tick, y0=0, y1=0.15, line={"color": _INK, "width": 1.5})
        figure.add_annotation(x=tick, y=0.15, text=str(tick), showarrow=False, yanchor="bottom", font={"size": 12})
    for place, i in enumerate(order):
        rank = ranking.average_ranks[i]
        on_left = place < half
        height = first_line - 0.7 * (place if on_left else k - 1 - place)
        edge = left if on_left else right
        tint = color(comparison, names[i])
        label = escape(names[i] if len(names[i]) <= _LONGEST else names[i][: _LONGEST - 1] + "…")
        figure.add_shape(
            type="path",
            path=f"M {rank},0 L {rank},{height} L {edge},{height}",
            line={"color": tint, "width": 2},
            fillcolor="rgba(0, 0, 0, 0)",
        )
        figure.add_annotation(
            x=edge,
            y=height,
            text=f"{label} <b>{rank:.2f}</b>" if on_left else f"<b>{rank:.2f}</b> {label}",
            showarrow=False,
            xanchor="right" if on_left else "left",
            font={"size": 13, "color": _INK},
        )
        figure.add_scatter(
            x=[rank], y=[0], mode="markers", marker={"color": tint, "size": 9}, showlegend=False, hoverinfo="skip"
        )
    for level, group in enumerate(groups):
        ranks = [ranking.average_ranks[i] for i in group]
        height = -0.35 - 0.45 * level
        pad = 0.012 * span
        figure.add_shape(
            type="line",
            x0=min(ranks) - pad,
            x1=max(ranks) + pad,
            y0=height,
            y1=height,
            line={"color": _INK, "width": 6},
        )
    wide = min(ranking.critical_difference, float(span))
    figure.add_shape(type="line", x0=1, x1=1 + wide, y0=1.0, y1=1.0, line={"color": _INK, "width": 2})
    for x in (1, 1 + wide):
        figure.add_shape(type="line", x0=x, x1=x, y0=0.88, y1=1.12, line={"color": _INK, "width": 2})
    more = " (wider than the scale)" if ranking.critical_difference > span else ""
    figure.add_annotation(
        x=1 + wide / 2,
        y=1.12,
        text=f"critical difference {ranking.critical_difference:.2f}{more}",
        showarrow=False,
        yanchor="bottom",
        font={"size": 12},
    )
    bottom = first_line - 0.7 * half
    _style(figure, height=round(60 + 44 * (1.9 - bottom)))
    # Room for the names, at about 7 pixels a letter in a figure of 720 pixels.
    share = (7 * min(_LONGEST, max(map(len, names))) + 60) / 720
    room = share * (right - left) / (1 - 2 * share)
    figure.update_xaxes(visible=False, range=[left - room, right + room], fixedrange=True)
    figure.update_yaxes(visible=False, range=[bottom, 1.9], fixedrange=True)
    return figure


def cost(comparison: Results, by: str = "wall_seconds") -> go.Figure:
    """The primary metric against the time of a run, or against another of its costs; rows without it are left out."""
    import plotly.graph_objects as go

    figure = go.Figure()
    rows = [row for row in comparison.rows if row.done and (by == "wall_seconds" or by in row.cost)]
    rows.sort(key=lambda row: row.cost.get(by, 0.0))
    least = 1e-4 if by == "wall_seconds" else 1.0
    for place, row in enumerate(rows):
        symbol, _ = _symbol(row)
        figure.add_scatter(
            x=[max(row.cost.get(by, 0.0), least)],
            y=[row.primary.mean],
            mode="markers+text",
            text=[escape(row.name)],
            # Neighbours in time put their names on different sides.
            textposition=("top right", "bottom right", "top left", "bottom left")[place % 4],
            textfont={"size": 12, "color": _INK},
            marker={"color": color(comparison, row.name), "size": 13, "symbol": symbol, "line": {"width": 2}},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [0 if row.primary.high is None else row.primary.high - row.primary.mean],
                "arrayminus": [0 if row.primary.low is None else row.primary.mean - row.primary.low],
                "thickness": 1.5,
                "width": 4,
            },
            cliponaxis=False,
            showlegend=False,
        )
    _style(figure, height=430)
    axis = COSTS.get(by, by.replace("_", " "))
    ticks = _decades([max(row.cost.get(by, 0.0), least) for row in rows])
    figure.update_xaxes(type="log", title=f"{escape(axis)} per run (logarithmic)", dtick=ticks, automargin=True)
    figure.update_yaxes(title=_axis(comparison), automargin=True)
    return figure


def cost_caption(comparison: Results, by: str = "wall_seconds") -> str:
    """Return how to read :func:`cost`."""
    label, little = in_sentence(comparison.primary.label), "little time" if by == "wall_seconds" else "little"
    where, what = ("Up", "good") if comparison.primary.higher_is_better else ("Down", "low")
    return f"{where} and to the left is best: {what} {label} for {little}."


def _decades(values: Sequence[float]) -> str | None:
    """Ticks at 1, 2, 5, 10, ... where values lie so close that whole decades alone would leave the axis empty."""
    return "D2" if not values or max(values) / min(values) < 100 else None


def _symbol(row: Row) -> tuple[str, str]:
    return _SYMBOLS[row.bound or row.entrant.role]


def _axis(comparison: Results) -> str:
    metric = comparison.primary
    unit = f", {metric.unit}" if metric.unit and metric.unit != metric.label else ""
    text = f"{metric.label}{unit} ({'higher' if metric.higher_is_better else 'lower'} is better)"
    return "<br>".join(escape(line) for line in wrap(text, 34))


def _style(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        template="simple_white",
        height=height,
        margin={"l": 20, "r": 24, "t": 36, "b": 50},
        font={"family": "system-ui, Segoe UI, Helvetica Neue, Arial, sans-serif", "size": 13, "color": _INK},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
        hoverlabel={"align": "left"},
    )
    figure.update_xaxes(showgrid=True, gridcolor=_LINE, zeroline=False)
    figure.update_yaxes(showgrid=True, gridcolor=_LINE, zeroline=False)
