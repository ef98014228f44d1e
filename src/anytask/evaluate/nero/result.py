"""What NERO found, with its figures, its report, and its folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from anytask.core.errors import check_flags, check_word, instance_of, one_line
from anytask.core.files import as_path, write_whole
from anytask.core.persistence import DAMAGED, load_tree, save_tree
from anytask.evaluate.base import Result
from anytask.evaluate.nero import figures, report
from anytask.evaluate.nero.adapters import as_predictor
from anytask.evaluate.nero.consensus import Consensus
from anytask.evaluate.nero.detail import detail_figure
from anytask.evaluate.nero.metrics import TASKS, NeroMetric, clean_detections, pack_detections, unpack_detections
from anytask.evaluate.nero.runs import Failure, ModelPart, Reading
from anytask.evaluate.nero.values import OrbitValues
from anytask.parts.transforms import Transforms, group_from_state, group_state

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["NeroResult"]

#: What the saved tree says it is.
SAVED_AS = "anytask.evaluate.nero.result:NeroResult"


class NeroResult(OrbitValues, Result):
    """The outcome of :meth:`anytask.evaluate.nero.NERO.evaluate`: values, tables, figures, and the report.

    Made by NERO and by :meth:`load`, not by hand; :class:`~anytask.evaluate.nero.values.OrbitValues` says what it
    holds. ``anytask app --nero FOLDER`` shows a saved result in the browser, and
    ``anytask.app.serve(results=[result])`` one at hand.
    """

    def plot(
        self, kind: Literal["aggregate", "individual", "samples", "detail"] = "aggregate", **options: Any
    ) -> go.Figure:
        """Return one of the figures of :mod:`anytask.evaluate.nero.figures`, with its arguments."""
        makers: dict[str, Any] = {
            "aggregate": figures.aggregate_figure, "individual": figures.individual_figure,
            "samples": figures.sample_map, "detail": detail_figure,
        }  # fmt: skip
        check_word(kind, makers, "kind")
        return makers[kind](self, **options)

    def to_html(self, path: str | os.PathLike[str], *, title: str = "NERO report", **options: Any) -> None:
        """Write the interactive report: aggregate plot, sample map, orbit of a sample, and detail view, all linked.

        A click in the sample map shows that sample's orbit; a click in an orbit, or a drag on the image, moves the
        element, and with it the transformed input, the models' outputs, and what was right. The file holds Plotly's
        JavaScript (2 MB) and loads nothing from a network.

        Parameters
        ----------
        path : path
            The file, in a folder that exists.
        title : str, default "NERO report"
            Heading.
        max_samples : int, default 1000
            Most samples in the map; evenly spaced ones are taken of more. Aggregate curves are always over all.
        max_bytes : int, default 24000000
            Room for transformed inputs and outputs, before they are compressed. If they need more, evenly spaced
            samples get a detail view, and the page says which have none.
        max_side : int, default 64
            Images larger than this are shown smaller.
        methods : sequence of str, default ("pca", "ica", "isomap")
            Sample maps to choose from, the first at the start; "tsne" (some seconds each) and "umap" can be added.

        Raises
        ------
        ValueError
            If there is no such folder, or no samples are left to show.
        """
        path = as_path(path)
        instance_of("title", str, optional=False)(title)
        if not path.parent.is_dir():
            raise ValueError(f"the report {path} cannot be written: there is no folder {path.parent}")
        write_whole(path, report.render(self, title, **options))

    def save(self, folder: str | os.PathLike[str], *, inputs: bool = True, outputs: bool = True) -> None:
        """Write the result, without the models, to a folder.

        Parameters
        ----------
        folder : path
            Made if need be.
        inputs, outputs : bool, default True
            Whether the samples, and the outputs if they were kept, are saved too; detail views need them.
        """
        check_flags(inputs=inputs, outputs=outputs)
        y = self.y
        if y is not None and self.task == "detection":
            y = pack_detections([clean_detections(one, f"y[{i}]", truth=True) for i, one in enumerate(y)])
        options = {name: getattr(self._task, name) for name in self._task.options}
        save_tree(folder, {
            "class": SAVED_AS,
            "group": group_state(self.group),
            "task": {"key": self.task, "kind": self.kind, "options": options},
            "metrics": [[m.key, m.label, m.higher_is_better, m.limits] for m in self.metrics.values()],
            "X": np.asarray(self.X) if inputs and self.X is not None else None,
            "y": y,
            "shape": self.shape,
            "parts": {name: self._part_state(name, part, outputs) for name, part in self._parts.items()},
            "failures": [[f.model, f.sample, f.element, f.error] for f in self.failures],
            "seconds": self.seconds,
        })  # fmt: skip

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, models: Mapping[str, Any] | None = None,
        group: Transforms | None = None, X: Any = None,
    ) -> Self:  # fmt: skip
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        folder : path
            The folder given to :meth:`save`.
        models : dict of name -> model, optional
            The models, for details whose outputs were not kept.
        group : Transforms, optional
            The group, if it was your own and inputs are to be transformed again.
        X : array, optional
            The samples, if they were not saved.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such result in the folder.
        """
        tree = load_tree(folder)
        held = tree.get("class") if isinstance(tree, dict) else None
        if held != SAVED_AS:
            raise ValueError(f"{folder} holds a {held}, not a NeroResult")
        try:
            group, models, task = group or group_from_state(tree["group"]), models or {}, tree["task"]
            metrics = [NeroMetric(k, label, up, limits, of=_not_saved) for k, label, up, limits in tree["metrics"]]
            return cls(
                group=group,
                task=TASKS[task["key"]](task["kind"], metrics, **task["options"]),
                X=tree["X"] if X is None else X,
                y=_unpacked(tree["y"]),
                shape=tree["shape"],
                parts={n: _part(state, len(group.distinct), models.get(n)) for n, state in tree["parts"].items()},
                failures=[Failure(*fields) for fields in tree["failures"]],
                seconds=tree["seconds"],
            )
        except DAMAGED as error:
            raise ValueError(f"the result saved in {folder} is damaged: {one_line(error)}") from error

    def _part_state(self, name: str, part: ModelPart, outputs: bool) -> dict[str, Any]:
        kept, agreed = _packed(part.outputs if outputs else None), part.consensus
        if isinstance(kept, dict):
            kept["missing"] = np.array(sorted(self.failed(name)), dtype=np.int64)
        return {
            "values": {f"{reference}/{key}": table for (reference, key), table in part.values.items()},
            "consensus": agreed and {
                **vars(agreed), "boxes": self.task == "detection", "value": _packed(agreed.value),
            },
            "matches": part.matches,
            "outputs": kept,
            "truth": _packed(part.truth),
            "reading": asdict(part.reading),
        }  # fmt: skip


def _part(state: Mapping[str, Any], m: int, model: Any) -> ModelPart:
    kept, agreed = state["outputs"], state["consensus"]
    if isinstance(kept, dict):
        rows, missing = unpack_detections(kept).reshape(m, -1), kept["missing"]
        kept = np.full((m, rows.shape[1] + len(missing)), None)
        kept[:, np.setdiff1d(np.arange(kept.shape[1]), missing)] = rows
    return ModelPart(
        values={(key.split("/", 1)[0], key.split("/", 1)[1]): table for key, table in state["values"].items()},
        consensus=agreed and Consensus(
            _unpacked(agreed["value"]), agreed["agreement"], agreed["coverage"], agreed["residual"]
        ),
        matches=state["matches"],
        outputs=kept,
        truth=_unpacked(state["truth"]),
        reading=Reading(**state["reading"]),
        predictor=None if model is None else as_predictor(model),
    )  # fmt: skip


def _packed(rows: np.ndarray | None) -> Any:
    return pack_detections(rows.ravel()) if rows is not None and rows.dtype == object else rows


def _unpacked(rows: Any) -> np.ndarray | None:
    return unpack_detections(rows) if isinstance(rows, dict) else rows


def _not_saved(outputs: Any, targets: Any) -> Any:
    raise ValueError("a loaded result measures nothing anew")
