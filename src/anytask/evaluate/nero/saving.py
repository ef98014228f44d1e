"""NERO results on disk: the tree that a folder holds, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.evaluate.nero.adapters import as_predictor, to_numpy
from anytask.evaluate.nero.consensus import Consensus
from anytask.evaluate.nero.metrics import (
    TASKS,
    Matches,
    NeroMetric,
    Task,
    clean_detections,
    pack_detections,
    unpack_detections,
)
from anytask.evaluate.nero.outputs import Reading
from anytask.evaluate.nero.records import Failure, ModelPart
from anytask.evaluate.parts.transforms import Transforms, group_from_state, group_state

if TYPE_CHECKING:
    from anytask.evaluate.nero.result import NeroResult

#: What the saved tree says it is.
SAVED_AS = "anytask.evaluate.nero.result:NeroResult"
_DETECTION = ("iou_threshold", "score_threshold", "pixel_offset")


def tree_of(
    result: NeroResult, parts: Mapping[str, ModelPart], task: Task, *, inputs: bool, outputs: bool
) -> dict[str, Any]:
    """Return what a folder has to hold so that :func:`arguments_of` can make the result again.

    Parameters
    ----------
    result : NeroResult
        The result.
    parts : mapping of name -> ModelPart
        What it keeps of each model.
    task : Task
        Its task, with the thresholds of detections.
    inputs, outputs : bool
        Whether samples and kept outputs go along.
    """
    detection = result.task == "detection"
    saved = {}
    for name, part in parts.items():
        kept: Any = part.outputs if outputs else None
        if detection and kept is not None:
            missing = {f.sample for f in result.failures if f.model == name}
            rows = [one for row in kept for i, one in enumerate(row) if i not in missing]
            kept = pack_detections(rows) | {"missing": sorted(missing)}
        truth: Any = part.truth
        saved[name] = {
            "values": {f"{reference}/{key}": table for (reference, key), table in part.values.items()},
            "consensus": None if part.consensus is None else part.consensus.state(),
            "matches": {ref: [asdict(m) for m in found] for ref, found in part.matches.items()},
            "outputs": kept,
            "truth": pack_detections(truth) if detection and truth is not None else truth,
            "reading": asdict(part.reading),
        }
    y = result.y
    if y is not None:
        y = pack_detections([dict(row) for row in _plain_truth(y)]) if detection else np.asarray(to_numpy(y))
    options = {name: getattr(task, name) for name in _DETECTION if detection}
    return {
        "class": SAVED_AS,
        "group": group_state(result.group),
        "task": {"key": result.task, "kind": result.kind, "options": options},
        "metrics": [[m.key, m.label, m.higher_is_better, m.limits] for m in result.metrics.values()],
        "X": np.asarray(result.X) if inputs else None,
        "y": y,
        "shape": result.shape,
        "parts": saved,
        "failures": [[f.model, f.sample, f.element, f.error] for f in result.failures],
        "seconds": result.seconds,
    }


def arguments_of(
    tree: Mapping[str, Any], *, models: Mapping[str, Any] | None = None, group: Transforms | None = None, X: Any = None
) -> dict[str, Any]:
    """Return the arguments of :class:`NeroResult` from a saved tree, and what was not saved with it."""
    group = group or group_from_state(tree["group"])
    detection = tree["task"]["key"] == "detection"
    parts = {}
    for name, part in tree["parts"].items():
        kept, truth = part["outputs"], part["truth"]
        if detection and truth is not None:
            truth = unpack_detections(truth)
        if detection and kept is not None:
            kept = _outputs_of(kept, len(group.distinct))
        parts[name] = ModelPart(
            values={_reference_and_metric(key): table for key, table in part["values"].items()},
            consensus=None if part["consensus"] is None else Consensus.from_state(part["consensus"]),
            matches={ref: [Matches(**m) for m in found] for ref, found in part["matches"].items()},
            outputs=kept,
            truth=truth,
            reading=Reading(**part["reading"]),
            predictor=as_predictor(models[name]) if models and name in models else None,
        )
    metrics = [NeroMetric(k, label, up, limits, of=_not_saved) for k, label, up, limits in tree["metrics"]]
    return {
        "group": group,
        "task": TASKS[tree["task"]["key"]](tree["task"]["kind"], metrics, **tree["task"]["options"]),
        "X": tree["X"] if X is None else X,
        "y": unpack_detections(tree["y"]) if detection and tree["y"] is not None else tree["y"],
        "shape": tree["shape"],
        "parts": parts,
        "failures": [Failure(*fields) for fields in tree["failures"]],
        "seconds": tree["seconds"],
    }


def _outputs_of(kept: dict[str, Any], m: int) -> list[list[Any]]:
    rows = unpack_detections(kept)
    n = len(rows) // m + len(kept["missing"])
    good = [i for i in range(n) if i not in set(kept["missing"])]
    table: list[list[Any]] = [[None] * n for _ in range(m)]
    for place, one in enumerate(rows):
        table[place // len(good)][good[place % len(good)]] = one
    return table


def _plain_truth(y: Any) -> list[dict[str, Any]]:
    return [clean_detections(one, f"y[{i}]", truth=True) for i, one in enumerate(y)]


def _reference_and_metric(key: str) -> tuple[str, str]:
    reference, metric = key.split("/", 1)
    return reference, metric


def _not_saved(outputs: Any, targets: Any) -> Any:
    raise ValueError("a loaded result measures nothing anew")
