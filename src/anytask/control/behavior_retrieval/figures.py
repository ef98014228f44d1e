"""Figures of a retrieval: how similar episodes are to the expert's over time, and where transitions lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from anytask.control.images import add_curve, framed
from anytask.core.colors import PALETTE
from anytask.datasets.episodes import Episodes

if TYPE_CHECKING:
    import plotly.graph_objects as go

_FAINT = "#c3c9cf"


def similarity_curves(
    scores: np.ndarray, prior: Episodes, groups: np.ndarray | None = None
) -> dict[str, list[list[float]]]:
    """Return the mean and the spread of the similarity at each step of the episodes.

    Parameters
    ----------
    scores : array (T,)
    prior : Episodes
    groups : array (E,), optional
        A label per episode, such as its task; one curve each. All episodes together otherwise.

    Returns
    -------
    dict of str to [mean, lower quartile, upper quartile]
        Each over the steps that at least three episodes (or all, if fewer) of the group have.
    """
    labels = np.full(len(prior), "all episodes") if groups is None else np.asarray(groups).astype(str)
    out = {}
    for label in sorted(set(labels.tolist())):
        members = np.flatnonzero(labels == label)
        table = np.full((len(members), int(prior.lengths[members].max())), np.nan)
        for row, i in enumerate(members):
            table[row, : prior.lengths[i]] = scores[prior.starts[i] : prior.ends[i] + 1]
        table = table[:, np.isfinite(table).sum(0) >= min(3, len(members))]
        stacked = [np.nanmean(table, 0), *np.nanquantile(table, (0.25, 0.75), axis=0)]
        out[label] = [np.round(line, 4).tolist() for line in stacked]
    return out


def similarity_over_time(curves: Mapping[str, Sequence[Sequence[float]]], delta: float | None = None) -> go.Figure:
    """Draw what :func:`similarity_curves` returned: mean lines, quartile bands, and the threshold.

    Examples
    --------
    >>> figure = similarity_over_time({"A": [[0.9, 0.8], [0.8, 0.7], [1.0, 0.9]]}, delta=0.85)
    >>> figure.data[-1].name, figure.layout.yaxis.title.text
    ('A', 'similarity to the expert')
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for place, (name, (mean, low, high)) in enumerate(curves.items()):
        add_curve(figure, name, PALETTE[place % len(PALETTE)], np.arange(len(mean)), mean, (low, high))
    if delta is not None:
        figure.add_hline(
            y=delta, line={"dash": "dot", "width": 1.5}, annotation_text=f"kept above {delta:g}",
            annotation_position="top right",
        )  # fmt: skip
    framed(figure, "step of the episode", "similarity to the expert")
    figure.update_yaxes(range=[0, 1.02])
    return figure


def embedding_points(
    expert: np.ndarray,
    prior: np.ndarray,
    selected: np.ndarray,
    *,
    method: Literal["pca", "tsne"] = "pca",
    most: int = 1500,
    seed: int = 0,
) -> dict[str, list[list[float]]]:
    """Return places in the plane for transitions: ``"left out"``, ``"kept"`` and ``"expert"``, each a list of (x, y).

    Parameters
    ----------
    expert, prior : array (n, d), (T, d)
        Embeddings.
    selected : array (T,) of bool
    method : {"pca", "tsne"}, default "pca"
    most : int, default 1500
        Prior transitions shown, drawn at random.
    seed : int
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(prior))[:most])
    shown = rng.permutation(len(expert))[:most]
    points = np.concatenate([prior[rows], expert[shown]]).astype(np.float64)
    if method == "pca":
        centered = points - points.mean(0)
        xy = centered @ np.linalg.svd(centered, full_matrices=False)[2][:2].T
        xy = np.pad(xy, ((0, 0), (0, 2 - xy.shape[1])))
    elif method == "tsne":
        from sklearn.manifold import TSNE

        xy = TSNE(2, random_state=seed, perplexity=min(30, (len(points) - 1) / 3)).fit_transform(points)
    else:
        raise ValueError(f"method must be 'pca' or 'tsne', got {method!r}")
    xy = np.round(xy, 3)
    kept = np.asarray(selected)[rows]
    n = len(rows)
    return {"left out": xy[:n][~kept].tolist(), "kept": xy[:n][kept].tolist(), "expert": xy[n:].tolist()}


def embedding_map(points: Mapping[str, Sequence[Sequence[float]]]) -> go.Figure:
    """Draw what :func:`embedding_points` returned.

    Examples
    --------
    >>> [trace.name for trace in embedding_map({"left out": [[0, 0]], "kept": [[1, 1]], "expert": [[1, 0]]}).data]
    ['left out (1)', 'kept (1)', 'expert (1)']
    """
    import plotly.graph_objects as go

    looks: dict[str, dict[str, Any]] = {
        "left out": {"color": _FAINT, "size": 5},
        "kept": {"color": PALETTE[0], "size": 6, "opacity": 0.75},
        "expert": {"color": PALETTE[1], "size": 8, "symbol": "x-thin", "line": {"width": 2, "color": PALETTE[1]}},
    }
    figure = go.Figure()
    for name, marker in looks.items():
        xy = np.asarray(points.get(name, []), dtype=float).reshape(-1, 2)
        figure.add_scatter(x=xy[:, 0], y=xy[:, 1], mode="markers", name=f"{name} ({len(xy)})", marker=marker)
    return framed(figure, "first axis", "second axis")
