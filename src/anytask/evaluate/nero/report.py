"""The linked views of a NERO result as one HTML page, which the report is a file of, and the app shows.

The page holds Plotly, the figures of :mod:`anytask.evaluate.nero.figures` without numbers, and the numbers; its script
fills them in as things are chosen.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any

import numpy as np

from anytask.core.checks import check_counts
from anytask.core.colors import color_of
from anytask.evaluate.nero import detail, figures
from anytask.evaluate.nero.metrics import TASKS
from anytask.evaluate.nero.values import OrbitValues

#: Lets the page fetch nothing at all; in the app, only from where the page came from.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_METHODS = ("pca", "ica", "isomap", "tsne")
_CHUNK_BYTES, _MOST_POINTS, _MOST_NUMBERS, _FIELD_SIDE = 1 << 26, 256, 64, 32


def render(
    result: OrbitValues, title: str, max_samples: int = 1000, max_bytes: int = 24_000_000, max_side: int = 64,
    methods: Sequence[str] = ("pca", "ica", "isomap"), more: str = "",
) -> str:  # fmt: skip
    """Return the page: what :meth:`NeroResult.to_html` writes, with its arguments.

    With an address ``more``, it asks there for the maps and details that it does not hold.
    """
    check_counts(max_samples=max_samples, max_side=max_side)
    if not methods:
        raise ValueError("at least one method is needed")
    shown = _evenly(np.arange(len(result)), max_samples)
    maps = [points(result, method, max_samples) for method in methods]
    data = {
        "title": title, "more": more, "methods": [*methods, *(m for m in _METHODS if more and m not in methods)],
        **{kind: {key: one for found in maps for key, one in found[kind].items()} for kind in ("points", "notices")},
        **_data(result, shown), **_templates(result), **_first_details(result, shown, max_bytes, max_side),
    }  # fmt: skip
    parts = {
        "title": escape(title), "policy": POLICY + ("; connect-src 'self'" if more else ""), "plotly": _plotly(),
        "style": figures.asset("report.css"), "script": figures.asset("report.js"),
        "data": _zipped(json.dumps(data, allow_nan=False)),
    }  # fmt: skip
    return re.sub(r"%(\w+)%", lambda found: parts[found[1]], figures.asset("report.html"))


def details(result: OrbitValues, rows: Any, max_side: int = 64) -> dict[int, dict[str, Any]]:
    """Return inputs, outputs and right answers of samples under the different elements, as the page draws them."""
    distinct, found = result.group.distinct, {}
    room = max(1, _CHUNK_BYTES // max(1, len(distinct) * result.inputs([0]).nbytes))
    for mine in np.array_split(np.asarray(rows), math.ceil(len(rows) / room)):
        inputs, outputs = result.orbits(mine, distinct)  # (different elements, samples, ...)
        right = {} if result.task == "classification" else {
            name: result.targets(name, result.references[0], mine, distinct) for name in result.models
        }  # fmt: skip
        for p, i in enumerate(mine.tolist()):
            found[i] = {"input": [_input(result, i, one[p], max_side) for one in inputs]} | {
                kind: [[_answer(result.task, one[p]) for one in table] for table in tables.values()]
                for kind, tables in (("outputs", outputs), ("targets", right))
            }
    return found


def points(result: OrbitValues, method: str, max_samples: int) -> dict[str, dict[str, Any]]:
    """Return the sample maps that one method makes of all metrics, and its notices."""
    shown = _evenly(np.arange(len(result)), max_samples)
    made = {(f"{r}/{m}/{method}"): result.reduce(method, m, r) for r in result.references for m in result.metrics}
    notices = {key: notice for key, (_, notice) in made.items() if notice}
    return {"points": {key: listed(places[:, shown]) for key, (places, _) in made.items()}, "notices": notices}


# -- the data of the page -------------------------------------------------------------------------------------------


def _data(result: OrbitValues, shown: np.ndarray) -> dict[str, Any]:
    """Return what was measured: of all samples the curves and summaries, of the shown ones every value."""
    group, names, task, subsets = result.group, result.models, result.task, _subsets(result)
    keys = {f"{reference}/{m}": (m, reference) for reference in result.references for m in result.metrics}
    summary = [result.summary(subset=rows) for rows in subsets.values()]
    place = {int(i): p for p, i in enumerate(shown)}
    thinned = "" if len(shown) == len(result) else f", {len(shown)} of them shown one by one"
    error = next(iter(TASKS[task](result.kind).metrics.values())) if task != "detection" else TASKS[task].known[2]
    return {
        "task": task, "models": names, "colors": [color_of(name, names) for name in names],
        "facts": f"{len(names)} model{'s' * (len(names) > 1)}, {len(result)} samples{thinned}, {len(group)} elements "
        f"({len(group.distinct)} different): {', '.join(group.axes)}. Evaluated in {result.seconds:.1f} s.",
        "metrics": [{"key": m.key, "label": m.label, "higher": m.higher_is_better, "limits": m.limits}
                    for m in result.metrics.values()],
        "references": result.references, "subsets": list(subsets), "counts": list(map(len, subsets.values())),
        "members": [[place[i] for i in rows.tolist() if i in place] for rows in subsets.values()],
        "columns": [[] if c is None else list(map(str, c.tolist())) for c in result.classes.values()],
        "samples": shown.tolist(), "kind": "class" if result.y is not None else "consensus class",
        "labels": [[texts[i] for i in shown] for texts in map(result.label_texts, names)]
        if task in ("classification", "detection") else None,
        "consensus": [_consensus(result, name, shown) for name in names], "error_name": error.label,
        "failures": [[f.model, f.sample, f.element, f.error] for f in result.failures],
        "group": {
            "layout": group.layout, "labels": group.labels, "coords": group.coords.tolist(), "axes": group.axes,
            "weights": group.weights.tolist(), "identity": group.identity,
            "place": np.searchsorted(group.distinct, group.representative).tolist(),
        },
        "down": detail.points_down(group),
        "values": {key: listed(result.values(*one)[:, :, shown]) for key, one in keys.items()},
        "curves": {key: [listed(result.aggregate(*one, subset=rows)) for rows in subsets.values()]
                   for key, one in keys.items()},
        "summary": [json.loads(table.to_json(orient="records")) for table in summary],
    }  # fmt: skip


def _subsets(result: OrbitValues) -> dict[str, np.ndarray]:
    """Return the samples to choose from: all, those of a class, and those on which a consensus is right or not."""
    found = {"all samples": np.arange(len(result))}
    found |= {f"class {name}": result.rows(class_=name) for name in result.class_names()}
    if result.task == "classification" and len(result.references) == 2:
        for name, agreed in result.consensus.items():
            good, right = np.isfinite(agreed.value).all(axis=1), agreed.labels() == result.truth(name)
            whose = f"consensus of {name} is " if len(result.models) > 1 else "consensus is "
            found |= {f"{whose}the true class": np.flatnonzero(good & right)}
            found |= {f"{whose}another class": np.flatnonzero(good & ~right)}
    return {name: rows for name, rows in found.items() if len(rows)}


def _templates(result: OrbitValues) -> dict[str, Any]:
    """Return every figure for the first model, the first two, and so on; the page fills in the numbers."""
    group, start = result.group, result.element()
    first = [result.models[: count + 1] for count in range(len(result.models))]
    blank = np.full((len(first), len(group)), np.nan)
    found: dict[str, Any] = {
        "template": figures.style().to_plotly_json(), "tiles": None,
        "map": [_plain(figures.sample_map(result, models=names, selected=0)) for names in first],
        "plots": {
            key: [_plain(figures.orbit_figure(group, blank[: len(names)], names, metric, element=start))
                  for names in first]
            for key, metric in result.metrics.items()
        },
    }  # fmt: skip
    if figures.shows_maps(result):
        maps = np.full((*blank.shape, *_cut(np.zeros((2, *result.shape))).shape[1:]), np.nan)
        found["tiles"] = {
            key: [_plain(figures.error_tiles(group, maps[: len(names)], names, key, start)) for names in first]
            for key in result.metrics
        }
    return found


def _first_details(result: OrbitValues, shown: np.ndarray, max_bytes: int, max_side: int) -> dict[str, Any]:
    """Return the details of as many of the shown samples as there is room for, and the figures that they go into."""
    failed = {f.sample for f in result.failures}
    first = next((int(i) for i in shown if i not in failed), int(shown[0]))
    try:
        one = details(result, [first], max_side)
    except ValueError as error:
        return {"details": {}, "detail": None, "size": None, "why": f"There is no detail view: {error}."}
    names = result.models
    drawn = [_plain(detail.detail_figure(result, first, models=names[: count + 1])) for count in range(len(names))]
    rows = _evenly(shown, max(1, int(max_bytes // len(json.dumps(one)))))
    seen = result.group.phi(result.group.elements[0], result.inputs([0]))[0]
    image = detail.picture(result.group, seen)
    return {
        "details": details(result, rows, max_side), "detail": drawn, "side": max_side,
        "size": None if image is None or detail.is_cloud(result.group, seen) else image.shape[:2],
        "why": f"Details are kept for {len(rows)} of {len(shown)} samples, and not for this one.",
    }  # fmt: skip


def _consensus(result: OrbitValues, name: str, shown: np.ndarray) -> dict[str, Any] | None:
    agreed, classes, said = result.consensus.get(name), result.classes[name], None
    if agreed is None:
        return None
    if classes is not None:
        said = list(map(str, classes[agreed.labels()[shown]].tolist()))
    if result.task == "detection":
        said = [", ".join(map(str, one["labels"])) or "no box" for one in agreed.value[shown]]
    return {"agreement": listed(agreed.agreement[shown]), "said": said}


def _input(result: OrbitValues, i: int, x: np.ndarray, max_side: int) -> Any:
    """An input as an image (a character per value, "0" black and "o" white), as points in space, or as numbers."""
    if detail.is_cloud(result.group, x):
        return listed(x[:: math.ceil(len(x) / _MOST_POINTS)])
    image = detail.picture(result.group, x)
    if image is None:
        return listed(x.reshape(-1)[: 2 * _MOST_NUMBERS])
    stride, original = math.ceil(max(image.shape[:2]) / max_side), result.inputs([i]).astype(float)
    gray = (image[::stride, ::stride] - original.min()) / (np.ptp(original) or 1.0)
    return (48 + 63 * np.clip(gray, 0, 1)).round().astype(np.uint8).tobytes().decode("ascii")


def _answer(task: str, one: Any) -> Any:
    if one is None or (task != "detection" and not np.isfinite(one).all()):
        return None
    if task == "detection":
        return [[*np.round(box, 1).tolist(), round(float(score), 3), str(label)]
                for box, score, label in zip(one["boxes"], one["scores"], one["labels"])]  # fmt: skip
    values = np.asarray(one, dtype=float)
    if task == "classification":
        return values.round(3).tolist()
    return listed(_cut(values) if task == "field" else values.reshape(-1)[:_MOST_NUMBERS])


def _cut(field: np.ndarray) -> np.ndarray:
    stride = math.ceil(max(field.shape[1:]) / _FIELD_SIDE)
    return field[:, stride // 2 :: stride, stride // 2 :: stride]


# -- small steps ----------------------------------------------------------------------------------------------------


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    return rows if len(rows) <= most else rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]


def listed(values: Any) -> Any:
    """Numbers for JSON with four digits, None for what is not finite."""
    values = np.asarray(values, dtype=np.float64)
    good = np.isfinite(values)
    scale = 10.0 ** (3 - np.floor(np.log10(np.where(good & (values != 0), np.abs(values), 1.0))))
    rounded = np.round(np.where(good, values, 0.0) * scale) / scale
    return np.where(good, rounded.astype(object), np.array(None)).tolist()


def _plain(figure: Any) -> dict[str, Any]:
    """A figure as plain lists, without the style that all share: Plotly packs arrays, and the page reads them."""
    from plotly.utils import PlotlyJSONEncoder

    layout = {key: value for key, value in figure.layout._props.items() if key != "template"}
    return json.loads(PlotlyJSONEncoder().encode({"data": [trace._props for trace in figure.data], "layout": layout}))


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return _zipped(get_plotlyjs())


def _zipped(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
