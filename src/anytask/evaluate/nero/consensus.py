"""Consensus: what a model says on average over the orbit of an input, as a reference where there are no labels.

c_i = mean over g of psi(g^-1, O[g, i]): outputs are first brought back to where the untransformed input has them. A
consensus can be wrong with confidence, so it never comes without its self-agreement (how much of the orbit is for it)
and its coverage (on how much of the orbit the model said anything).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytask.evaluate.nero.metrics import NOTHING, as_rows


@dataclass
class Consensus:
    """The consensus of n samples.

    Attributes
    ----------
    value : ndarray of shape (n, ...)
        c_i: probabilities, fields or numbers; or a dict with one box and its label (none where nothing was detected).
    agreement : ndarray of shape (n,)
        Classes and boxes: share of the orbit whose own answer has the label of c_i. Others: 1 - mean over g of
        min(1, ||psi(g^-1, O[g]) - c_i|| / ||c_i||).
    coverage : ndarray of shape (n,)
        Share of the orbit with an answer; below 1 only for detections.
    residual : ndarray of shape (n,)
        r_i = mean over g of ||psi(g^-1, O[g]) - c_i||, 0 for a perfectly equivariant model.
    """

    value: Any
    agreement: np.ndarray
    coverage: np.ndarray
    residual: np.ndarray

    def labels(self) -> np.ndarray:
        """Return the class with the largest mean probability, shape (n,)."""
        return self.value.argmax(axis=1)


def orbit_consensus(
    group: Any,
    elements: Sequence[Any],
    outputs: Any,
    kind: str,
    task: str,
    shape: tuple[int, int] | None = None,
    undo: bool = True,
) -> Consensus:
    """Bring the outputs of an orbit back and average them.

    Parameters
    ----------
    group : Group, or Transforms for outputs that stay
        The group.
    elements : sequence
        g_1 ... g_m, all different.
    outputs : array (m, n, ...)
        O[g, i]; detections are dicts.
    kind : str
        The kind of output that psi acts on.
    task : {"classification", "detection", "field", "regression"}
        Which of the three rules applies.
    shape : (height, width), optional
        Size of the images that the model sees, for boxes and positions.
    undo : bool, default True
        False leaves psi^-1 out; only to see what it is good for.
    """
    if undo and kind != "invariant":
        outputs = [group.undo(g, outputs[k], kind, shape) for k, g in enumerate(elements)]
    if task == "detection":
        return consensus_of_boxes(outputs)
    return (consensus_of_classes if task == "classification" else consensus_of_arrays)(np.stack(list(outputs)))


def consensus_of_classes(outputs: np.ndarray) -> Consensus:
    """Average probability vectors (m, n, C) over the orbit.

    Examples
    --------
    >>> p = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])[:, None]
    >>> c = consensus_of_classes(p)
    >>> c.value.round(6).tolist(), c.agreement.tolist()
    ([[0.4, 0.4, 0.2]], [0.5])
    """
    mean = outputs.mean(axis=0, dtype=np.float64)  # (n, C)
    votes = outputs.argmax(axis=2) == mean.argmax(axis=1)
    residual = np.linalg.norm(outputs - mean, axis=2).mean(axis=0)
    return Consensus(mean, votes.mean(axis=0), np.ones(len(mean)), residual)


def consensus_of_arrays(outputs: np.ndarray) -> Consensus:
    """Average arrays (m, n, ...) that have been brought back, entry by entry."""
    mean = outputs.mean(axis=0, dtype=np.float64)  # (n, ...)
    flat = (outputs - mean).reshape(*outputs.shape[:2], -1)
    distance = np.linalg.norm(flat, axis=2)  # (m, n)
    size = np.linalg.norm(mean.reshape(len(mean), -1), axis=1)
    relative = np.divide(distance, size, out=(distance > 0).astype(float), where=size > 0)
    agreement = 1 - np.minimum(relative, 1).mean(axis=0)
    return Consensus(mean, agreement, np.ones(len(mean)), distance.mean(axis=0))


def consensus_of_boxes(outputs: Sequence[Sequence[Mapping[str, np.ndarray]]]) -> Consensus:
    """Average the most confident box of each element, brought back; its label is the majority's.

    Elements without a box take no part. A tie of labels goes to the larger sum of scores.

    Examples
    --------
    >>> def one(*box):
    ...     return [{"boxes": np.array([box]), "scores": np.array([0.9]), "labels": np.array([3])}]
    >>> consensus_of_boxes([one(1, 1, 5, 6), one(2, 1, 6, 6), one(1, 2, 5, 7)]).value[0]["boxes"].round(4).tolist()
    [[1.3333, 1.3333, 5.3333, 6.3333]]
    """
    m, n = len(outputs), len(outputs[0])
    values, facts = [], np.full((3, n), np.nan)  # facts: agreement, coverage, residual
    for i in range(n):
        tops = [(row[i], int(row[i]["scores"].argmax())) for row in outputs if len(row[i]["scores"])]
        if not tops:
            values.append(NOTHING)
            facts[:2, i] = 0
            continue
        boxes, scores, labels = (np.array([one[key][k] for one, k in tops]) for key in NOTHING)
        names, code, votes = np.unique(labels, return_inverse=True, return_counts=True)
        winner = max(range(len(names)), key=lambda c: (votes[c], scores[code == c].sum()))
        mean = boxes.mean(axis=0)
        values.append({"boxes": mean[None], "scores": scores.mean(keepdims=True), "labels": names[winner : winner + 1]})
        facts[:, i] = votes[winner] / m, len(tops) / m, np.linalg.norm(boxes - mean, axis=1).mean()
    return Consensus(as_rows(values), *facts)
