"""Tunings as others see them, also while they run: a row each in the file that keeps the model's answers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from anytask.lm.cache import Store

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: How the curve is read.
CAPTION = (
    "Each point is a prompt; the line joins the best for its length. Heights are leave-one-out accuracies on the "
    "labelled texts, smoothed over margins; dotted lines are plain ways to answer, not smoothed."
)


class TuningRecord(Store):
    """What is known of each tuning.

    Examples
    --------
    >>> record = TuningRecord(":memory:")
    >>> record.put("one", {"share": 0.5})
    >>> record.put("one", {"share": 1.0})
    >>> [state["share"] for state in record.all()]
    [1.0]
    """

    what = "file of a model's answers"
    _table, _columns = "tunings", ("state", "time")

    def put(self, key: str, state: Mapping[str, Any]) -> None:
        """Keep the state of a tuning in place of its last one."""
        self._write([(key, json.dumps(state), time.time())])

    def all(self) -> list[dict[str, Any]]:
        """Return the states of all tunings, the last one first, each with its ``key``."""
        keys = [key for (key,) in self.execute("SELECT key FROM tunings ORDER BY time DESC")]
        found = self._read(keys, lambda state, _time: json.loads(state))
        return [{**found[key], "key": key} for key in keys if key in found]


def tunings_of(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the tunings of a file, none where there is no such file or none in it yet."""
    if not os.path.exists(path):
        return []
    with TuningRecord(path, read_only=True) as record:
        if not record.execute("SELECT 1 FROM sqlite_master WHERE name = 'tunings'"):
            return []
        return record.all()


def front(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the prompts that no shorter one is better than, the shortest first."""
    found: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda row: (row["tokens"], -row["smoothed"])):
        if not found or row["smoothed"] > found[-1]["smoothed"]:
            found.append(row)
    return found


def curve(rows: Sequence[Mapping[str, Any]], plain: Mapping[str, float] | None = None) -> go.Figure:
    """Return accuracy against tokens per query.

    Parameters
    ----------
    rows : sequence of mappings
        Of each prompt its ``prompt`` (name), ``tokens``, ``smoothed``, ``accuracy``, ``asked`` and ``role``.
    plain : mapping of name to accuracy, optional
        Plain ways to answer.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for shown, name, how in (
        (rows, "prompts", {"mode": "markers", "marker": {"color": "#56b4e9", "size": 9, "opacity": 0.7}}),
        (front(rows), "best for its length", {"mode": "lines", "line": {"color": "#0072b2", "shape": "hv"}}),
        ([row for row in rows if row["role"] == "best"], "the choice",
         {"mode": "markers", "marker": {"color": "#d55e00", "size": 14}}),
    ):  # fmt: skip
        figure.add_scatter(
            x=[row["tokens"] for row in shown], y=[row["smoothed"] for row in shown], name=name,
            text=[escape(row["prompt"]) for row in shown],
            customdata=[[row["accuracy"], row["asked"], row["prompt"]] for row in shown],
            hovertemplate="%{text}<br>%{x:.0f} tokens, smoothed %{y:.1%}"
            "<br>right on %{customdata[0]:.0%} of %{customdata[1]} texts<extra></extra>", **how,
        )  # fmt: skip
    for (name, accuracy), color in zip((plain or {}).items(), ("#4d4d4d", "#e69f00", "#009e73")):
        figure.add_hline(y=accuracy, line_dash="dot", line_color=color, annotation_text=name)
    ticks = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
    figure.update_xaxes(title="tokens per query", type="log", tickvals=ticks)
    figure.update_layout(legend={"orientation": "h", "y": 1.12}, margin={"t": 40, "l": 70})
    figure.update_yaxes(title="accuracy (leave-one-out)", tickformat=".0%", range=[0, 1.05])
    return figure
