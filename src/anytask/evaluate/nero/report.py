"""The NERO report: one HTML file with linked views that opens offline and needs nothing else."""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.colors import colour_of
from anytask.core.files import write_whole
from anytask.evaluate.nero import figures as nero_figures
from anytask.evaluate.nero.outputs import move_targets
from anytask.evaluate.nero.page import PAGE, SCRIPT, STYLE
from anytask.evaluate.nero.result import NeroResult
from anytask.evaluate.parts.planar_groups import PlanarGroup
from anytask.evaluate.parts.transforms import Product, Transforms

#: Forbids the browser to fetch anything: all that the page needs is in it.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_MOST_ARROWS = 16
_WORDS = {"truth": "ground truth", "consensus": "consensus of the model"}


def write_html(
    result: NeroResult,
    path: str | os.PathLike[str],
    *,
    title: str = "NERO report",
    max_samples: int = 1000,
    max_bytes: int = 24_000_000,
    max_side: int = 64,
    methods: Sequence[str] = ("pca", "ica", "isomap"),
) -> None:
    """Write the interactive report: aggregate plot, sample map, orbit of a sample, and detail view, all linked.

    A click in the sample map shows that sample's orbit; a click in an orbit, or a drag on the picture, moves the
    element, and with it the transformed input, the models' outputs, and what was right. The file holds Plotly's
    JavaScript (about 5 MB) and loads nothing from a network.

    Parameters
    ----------
    result : NeroResult
        What to show.
    path : path
        The file, in a folder that exists.
    title : str, default "NERO report"
        Heading.
    max_samples : int, default 1000
        Most samples in the map; evenly spaced ones are taken of more. Aggregate curves are always over all.
    max_bytes : int, default 24000000
        Room for transformed inputs and outputs. If they need more, evenly spaced samples get a detail view, and the
        page says which have none.
    max_side : int, default 64
        Images larger than this are shown smaller.
    methods : sequence of str, default ("pca", "ica", "isomap")
        Sample maps to choose from, the first at the start; "tsne" (some seconds each) and "umap" can be added.

    Raises
    ------
    ValueError
        If there is no such folder, or no samples are left to show.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"the report {path} cannot be written: there is no folder {path.parent}")
    if max_samples < 1 or not methods:
        raise ValueError("max_samples must be at least 1, and at least one method is needed")
    page = render(result, title, max_samples, max_bytes, max_side, methods)
    write_whole(path, page)


def render(
    result: NeroResult, title: str, max_samples: int, max_bytes: int, max_side: int, methods: Sequence[str]
) -> str:
    """Return the report as HTML."""
    from plotly.offline import get_plotlyjs

    n = len(result)
    shown = np.unique(np.linspace(0, n - 1, min(n, max_samples)).round().astype(int))
    data = _data(result, shown, max_bytes, max_side, methods)
    facts = (
        f"{len(result.models)} model{'s' * (len(result.models) > 1)}, {n} samples, {len(result.group)} elements "
        f"({len(result.group.distinct)} different): {', '.join(result.group.axes)}. Evaluated in "
        f"{result.seconds:.1f} s."
    )
    body = PAGE.format(title=escape(title), facts=escape(facts), summary=_summary(result), failures=_failures(result))
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id="data">{text}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )


# -- the data -----------------------------------------------------------------------------------------------------


def _data(
    result: NeroResult, shown: np.ndarray, max_bytes: int, max_side: int, methods: Sequence[str]
) -> dict[str, Any]:
    group = result.group
    classes = result.class_names()
    keys = [(reference, metric) for reference in result.references for metric in result.metrics]
    plots, values, curves, maps, notices = {}, {}, {}, {}, {}
    for reference, metric in keys:
        name = f"{reference}/{metric}"
        table = result.values(metric, reference)[:, :, shown]  # (models, m, n)
        values[name] = _packed(table, np.float32)
        curves[name] = [
            [_listed(row) for row in result.aggregate(metric, reference, class_=class_)] for class_ in [None, *classes]
        ]
        for method in methods:
            points, notice = result.reduce(method, metric, reference)
            maps[f"{name}/{method}"] = _packed(points[:, shown], np.float32)
            if notice:
                notices[f"{name}/{method}"] = notice
    for key, metric_ in result.metrics.items():
        empty = np.full((len(result.models), len(group)), np.nan)
        plots[key] = _plain(nero_figures.orbit_figure(group, empty, result.models, metric_))
        template = plots[key]["layout"].pop("template")  # the same in all of them: kept once
    failed = {(f.model, f.sample) for f in result.failures}
    return {
        "task": result.task,
        "models": list(result.models),
        "colours": [colour_of(name, result.models) for name in result.models],
        "metrics": [
            {"key": m.key, "label": m.label, "higher": m.higher_is_better, "limits": _listed(m.limits)}
            for m in result.metrics.values()
        ],
        "references": [{"key": r, "label": _WORDS[r]} for r in result.references],
        "classes": [str(c) for c in classes],
        "columns": [[] if c is None else [str(v) for v in c.tolist()] for c in result.classes.values()],
        "samples": shown.tolist(),
        "labels": [_texts(result, name, shown) for name in result.models],
        "agreement": [
            _listed(result.consensus[name].agreement[shown]) if name in result.consensus else None
            for name in result.models
        ],
        "consensus": _consensus_labels(result, shown),
        "failed": [[(name, int(i)) in failed for i in shown] for name in result.models],
        "group": {
            "layout": group.layout, "labels": list(group.labels), "coords": group.coords.tolist(),
            "weights": group.weights.tolist(), "start": group.identity or 0,
        },
        "plots": plots,
        "map": _plain(nero_figures.sample_map(result, method=methods[0])),
        "template": template,
        "scales": [_plain(_scale(name))["layout"]["coloraxis"]["colorscale"] for name in ("Viridis", "Viridis_r")],
        "methods": list(methods),
        "notices": notices,
        "values": values,
        "curves": curves,
        "points": maps,
        "details": _details(result, shown, max_bytes, max_side),
    }  # fmt: skip


def _details(result: NeroResult, shown: np.ndarray, max_bytes: int, max_side: int) -> dict[str, Any]:
    """Transformed inputs and outputs of as many of the shown samples as there is room for."""
    if any(part.outputs is None and part.predictor is None for part in result._parts.values()) or result.X is None:
        return {"rows": [], "why": "The samples or the outputs were not kept."}
    one = _detail_of(result, shown[:1], max_side)
    size = len(json.dumps(one, allow_nan=False))
    room = max(1, int(max_bytes // size))
    rows = shown if room >= len(shown) else shown[np.unique(np.linspace(0, len(shown) - 1, room).round().astype(int))]
    why = f"Details are kept for {len(rows)} of {len(shown)} samples." if len(rows) < len(shown) else ""
    return {"rows": rows.tolist(), "why": why, **_detail_of(result, rows, max_side)}


def _detail_of(result: NeroResult, rows: np.ndarray, max_side: int) -> dict[str, Any]:
    group = result.group
    elements = [group.elements[k] for k in group.distinct]
    place = np.searchsorted(group.distinct, group.representative)
    inputs = np.concatenate(
        [group.orbit(np.asarray(result.X[part]), elements) for part in np.array_split(rows, max(1, len(rows) // 64))],
        axis=1,
    )  # (different elements, rows, ...)
    found: dict[str, Any] = {"place": place.tolist(), "input": _input(group, inputs, result.X, rows, max_side)}
    failed = {(f.model, f.sample) for f in result.failures}
    outputs, targets = [], []
    for name, part in result._parts.items():
        answers = _answers(result, name, rows, elements, (name, failed))
        outputs.append(_out(result, answers))
        truth = None if part.truth is None else _pick(part.truth, rows)
        value = truth
        if value is None and part.consensus is not None:
            value = (
                part.consensus.labels()[rows] if result.task == "classification" else _pick(part.consensus.value, rows)
            )
        moved = move_targets(group, elements, value, result.kind, result.shape)
        targets.append(None if result.task == "classification" else _out(result, _stacked(moved)))
    return found | {"outputs": outputs, "targets": targets, "shape": list(result.shape), "down": _down(group)}


def _answers(result: NeroResult, name: str, rows: np.ndarray, elements: Sequence[Any], skip: Any) -> Any:
    part = result._parts[name]
    if part.outputs is not None:
        if isinstance(part.outputs, list):
            return [[row[i] or {"boxes": [], "scores": [], "labels": []} for i in rows] for row in part.outputs]
        return part.outputs[:, rows]
    table = [[result.detail(int(i), index=int(k)).outputs.get(name) for i in rows] for k in result.group.distinct]
    example = next(one for row in table for one in row if one is not None)
    if result.task == "detection":
        return [[one or {"boxes": [], "scores": [], "labels": []} for one in row] for row in table]
    blank = np.full_like(np.asarray(example, dtype=float), np.nan)
    return np.array([[blank if one is None else one for one in row] for row in table])


def _out(result: NeroResult, table: Any) -> dict[str, Any]:
    """Outputs or targets of (different elements, rows) in the form the page draws."""
    if result.task == "detection":
        boxes = [
            [
                [
                    [*np.round(np.asarray(box, float), 1).tolist(), round(float(score), 3), str(label)]
                    for box, score, label in zip(one["boxes"], one["scores"], one["labels"])
                ]
                for one in row
            ]
            for row in table
        ]
        return {"boxes": boxes}
    values = np.asarray(table, dtype=np.float64)
    if result.task == "classification":
        return {"p": _packed(np.nan_to_num(values, nan=0.0) * 65535, np.uint16), "width": values.shape[2]}
    if result.task == "field":
        stride = max(1, math.ceil(max(values.shape[3:]) / _MOST_ARROWS))
        cut = values[:, :, :, stride // 2 :: stride, stride // 2 :: stride]
        return {"uv": _packed(cut, np.float32), "rows": cut.shape[3], "columns": cut.shape[4], "stride": stride}
    flat = values.reshape(*values.shape[:2], -1)[:, :, :24]
    return {"numbers": _packed(flat, np.float32), "width": flat.shape[2]}


def _input(group: Transforms, inputs: np.ndarray, X: Any, rows: np.ndarray, max_side: int) -> dict[str, Any]:
    """Inputs as pictures, points in space, or numbers."""
    m, n = inputs.shape[:2]
    if inputs.ndim == 4 and inputs.shape[-1] == 3 and group.layout == "polar-grid":
        every = max(1, math.ceil(inputs.shape[2] / 256))
        points = inputs[:, :, ::every]
        return {"kind": "points", "values": _packed(points, np.float32), "count": points.shape[2]}
    first = nero_figures.picture(group, inputs[0, 0])
    if first is None:
        flat = inputs.reshape(m, n, -1)[:, :, :128].astype(float)
        return {"kind": "numbers", "values": _packed(flat, np.float32), "width": flat.shape[2]}
    stride = max(1, math.ceil(max(first.shape[:2]) / max_side))
    pictures = np.empty((m, n, *first[::stride, ::stride].shape), dtype=np.uint8)
    for j, i in enumerate(rows):
        original = np.asarray(X[i], dtype=float)
        low, high = float(original.min()), float(original.max())
        for k in range(m):
            image = np.asarray(nero_figures.picture(group, inputs[k, j]), dtype=float)[::stride, ::stride]
            pictures[k, j] = np.clip(255 * (image - low) / ((high - low) or 1.0), 0, 255).round()
    return {
        "kind": "picture", "values": _packed(pictures, np.uint8), "height": pictures.shape[2],
        "width": pictures.shape[3], "channels": 3 if pictures.ndim == 5 else 1, "size": list(first.shape[:2]),
    }  # fmt: skip


# -- the parts written by Python ------------------------------------------------------------------------------------


def _summary(result: NeroResult) -> str:
    table = result.table()
    columns = [
        ("model", "model"), ("metric", "metric"), ("reference", "against"), ("identity", "at the identity"),
        ("mean", "mean over the orbit"), ("worst", "worst element"), ("gap", "gap"),
        ("sample_std", "spread along a sample's orbit"), ("agreement", "self-agreement"), ("residual", "residual"),
    ]  # fmt: skip
    if table["coverage"].min() < 1:
        columns.append(("coverage", "coverage"))
    if table["consensus_correct"].notna().any():
        columns.append(("consensus_correct", "consensus is right"))
    head = "".join(f"<th>{escape(text)}</th>" for _, text in columns)
    body = []
    for _, row in table.iterrows():
        cells = []
        for key, _ in columns:
            value: Any = row[key]
            if key == "metric":
                value = result.metrics[value].label
            elif key == "reference":
                value = _WORDS[value]
            number = isinstance(value, float)
            text = ("–" if not math.isfinite(value) else f"{value:.3f}") if number else escape(str(value))
            cells.append(f'<td class="{"number" if number else ""}">{text}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _failures(result: NeroResult) -> str:
    if not result.failures:
        return ""
    lines = "".join(
        f"<li>{escape(f.model)}, sample {f.sample}{f' at {escape(f.element)}' if f.element else ''}: "
        f"{escape(f.error)}</li>"
        for f in result.failures[:50]
    )
    more = f"<li>and {len(result.failures) - 50} more</li>" if len(result.failures) > 50 else ""
    return f"<section class='wide'><h2>Samples left out</h2><ul>{lines}{more}</ul></section>"


# -- small steps ----------------------------------------------------------------------------------------------------


def _texts(result: NeroResult, model: str, shown: np.ndarray) -> list[list[str]] | None:
    """Classes of each sample, as the class menu has them."""
    if result.task not in ("classification", "detection"):
        return None
    labels = result.labels(model)
    return [sorted(map(str, labels[i])) if isinstance(labels[i], set) else [str(labels[i])] for i in shown]


def _consensus_labels(result: NeroResult, shown: np.ndarray) -> list[list[str] | None]:
    out: list[list[str] | None] = []
    for name in result.models:
        agreed, classes = result.consensus.get(name), result.classes[name]
        if agreed is None or classes is None:
            out.append(None)
        else:
            out.append([str(c) for c in classes[np.nan_to_num(agreed.value[shown]).argmax(axis=1)]])
    return out


def _pick(values: Any, rows: np.ndarray) -> Any:
    return [values[i] for i in rows] if isinstance(values, list) else values[rows]


def _stacked(moved: list[Any]) -> Any:
    return moved if isinstance(moved[0], list) else np.stack(moved)


def _down(group: Transforms) -> bool:
    parts = (group.first, group.second) if isinstance(group, Product) else (group,)
    return any(isinstance(part, PlanarGroup) and part.v_axis == "down" for part in parts)


def _packed(values: np.ndarray, dtype: Any) -> str:
    if np.issubdtype(dtype, np.integer):
        values = np.round(values)
    return base64.b64encode(np.ascontiguousarray(values, dtype=np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def _scale(name: str) -> Any:
    import plotly.graph_objects as go

    return go.Figure(layout={"coloraxis": {"colorscale": name}})


def _listed(values: Any) -> list[float | None] | None:
    """Numbers for JSON, None for NaN."""
    if values is None:
        return None
    return [float(f"{v:.6g}") if math.isfinite(v) else None for v in np.asarray(values, dtype=float).tolist()]


def _plain(figure: Any) -> dict[str, Any]:
    """A figure as plain lists: Plotly packs arrays, and the page has to read them."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            if "bdata" in value:
                flat = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
                if "shape" in value:
                    flat = flat.reshape([int(side) for side in str(value["shape"]).split(",")])
                return walk(flat.tolist())
            return {key: walk(v) for key, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [walk(v) for v in value]
        if isinstance(value, np.ndarray):
            return walk(value.tolist())
        if isinstance(value, np.generic):
            return walk(value.item())
        return None if isinstance(value, float) and not math.isfinite(value) else value

    plain = walk(figure.to_dict())
    return {"data": plain["data"], "layout": plain["layout"]}
