"""What problems that answer with labels show of the answers: what was said instead of what, and that all is one."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from anytask.problems.base import finished

#: What stands for answers that are no label.
OTHER = "(something else)"


def confusion(answers: Sequence[str], truth: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Return what a run's details say of its answers: the labels, and how often each was said for each.

    Examples
    --------
    >>> confusion(["no", "no", "yes"], ["no", "yes", "yes"], ["no", "yes"])
    {'labels': ['no', 'yes'], 'confusion': [[1, 0, 0], [1, 1, 0]]}

    The last column counts answers that are no label.
    """
    columns = [*labels, OTHER]
    said = [answer if answer in labels else OTHER for answer in answers]
    return {"labels": list(labels), "confusion": confusion_matrix(truth, said, labels=columns)[:-1].tolist()}


def one_answer(runs: Sequence[Any]) -> list[str]:
    """Return a sentence on each entrant that gives one label to more than two thirds of the texts with another one."""
    found = []
    for name, (labels, counts) in _counts(runs).items():
        said = counts[:, : len(labels)].sum(axis=0)  # (n_labels,), how often each was the answer
        most, total = int(said.argmax()), int(counts.sum())
        right, true = int(counts[most, most]), int(counts[most].sum())
        if said[most] - right > 2 / 3 * (total - true) > 0:
            found.append(
                f"{name} answers {labels[most]!r} for {said[most]} of {total} texts, of which {true} have that label."
            )
    return found


def answer_figures(runs: Sequence[Any]) -> list[tuple[str, str, Any]]:
    """Return (title, caption, plotly figure) triples: how often each label is the answer, and instead of which."""
    counts = _counts(runs)
    if not counts:
        return []
    return [
        (
            "What they answer",
            "How often each label is the answer, over all seeds, under how often it is right. A bar of one color is an "
            "entrant that says the same whatever it is asked.",
            _shares(counts),
        ),
        (
            "What they take for what",
            "A row for each right label, a column for each answer: share of the row, over all seeds. Right answers are "
            "on the diagonal; a dark column is a label that is said for everything.",
            _matrices(counts),
        ),
    ]


def _counts(runs: Sequence[Any]) -> dict[str, tuple[list[str], np.ndarray]]:
    """Labels and confusion matrix of each entrant, summed over its runs."""
    own = {
        name: [run.details for run in mine if "confusion" in (run.details or {})]
        for name, mine in finished(runs).items()
    }
    return {
        name: (details[0]["labels"], np.sum([one["confusion"] for one in details], axis=0))
        for name, details in own.items()
        if details
    }


def _other(counts: dict[str, tuple[list[str], np.ndarray]]) -> list[str]:
    return [OTHER] if any(matrix[:, -1].any() for _, matrix in counts.values()) else []


def _shares(counts: dict[str, tuple[list[str], np.ndarray]]) -> Any:
    import plotly.graph_objects as go
    from plotly.colors import sample_colorscale

    labels, first = next(iter(counts.values()))
    rows = {"right answers": np.append(first.sum(axis=1), 0)} | {
        name: matrix.sum(axis=0) for name, (_, matrix) in counts.items()
    }
    shares = np.array([row / row.sum() for row in rows.values()])  # (n_rows, n_labels)
    colors = sample_colorscale("Turbo", np.linspace(0.05, 0.95, len(labels)))
    named = zip([*labels, *_other(counts)], [*colors, "#bbbbbb"])
    bars = [
        go.Bar(
            y=list(rows), x=shares[:, i], name=escape(label), orientation="h", marker_color=color,
            hovertemplate="%{y}: " + escape(label) + " %{x:.0%}<extra></extra>",
        )
        for i, (label, color) in enumerate(named)
    ]  # fmt: skip
    figure = go.Figure(bars)
    figure.update_layout(
        barmode="stack", height=max(320, 120 + 34 * len(rows)), legend_traceorder="normal", margin_l=10
    )
    figure.update_xaxes(tickformat=".0%", range=[0, 1])
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def _matrices(counts: dict[str, tuple[list[str], np.ndarray]]) -> Any:
    from plotly.subplots import make_subplots

    columns = 2 if len(counts) > 1 else 1
    rows = -(-len(counts) // columns)
    labels = next(iter(counts.values()))[0]
    columns_of = [*labels, *_other(counts)]
    side = 60 + max(100, 16 * len(labels))
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=[f"<b>{escape(name)}</b>" for name in counts],
        shared_xaxes=True, shared_yaxes=True, vertical_spacing=40 / (side * rows),
    )  # fmt: skip
    for place, (_, matrix) in enumerate(counts.values()):
        matrix = matrix[:, : len(columns_of)]
        share = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
        small = len(labels) <= 8
        figure.add_heatmap(
            z=share, x=columns_of, y=labels, customdata=matrix, text=matrix if small else None,
            texttemplate="%{text}" if small else None, zmin=0, zmax=1, colorscale="Blues", showscale=False,
            hovertemplate="%{y}, answered as %{x}: %{customdata}<extra></extra>",
            row=place // columns + 1, col=place % columns + 1,
        )  # fmt: skip
    figure.update_layout(height=side * rows + 120, margin_t=40)
    figure.update_yaxes(autorange="reversed", automargin=True, type="category")
    figure.update_xaxes(automargin=True, type="category")
    return figure
