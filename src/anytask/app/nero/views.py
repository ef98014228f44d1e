"""What the NERO page shows of one result: which values, which figures, and the sentences beside them.

Every function here takes a result and a :class:`Question` and returns plain things, so that it can be tried without a
browser. The figures are those of :mod:`anytask.evaluate.nero.figures`.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.evaluate.nero import figures as nero_figures

if TYPE_CHECKING:
    from anytask.evaluate.nero.result import NeroResult

ALL, RIGHT, WRONG = "all", "consensus-right", "consensus-wrong"
METHODS = {"pca": "PCA", "ica": "ICA", "isomap": "Isomap", "tsne": "t-SNE", "umap": "UMAP"}
REFERENCES = {"truth": "ground truth", "consensus": "consensus"}
COLOURS = {"mean": "mean over the orbit", "variance": "variance over the orbit"}
#: Most sliders for the elements of a group: one per axis.
MOST_AXES = 3


@dataclass(frozen=True)
class Question:
    """What is looked at.

    Attributes
    ----------
    source : str
        Id of the result.
    models : tuple of str
        One model or two.
    metric, reference : str
        Which values.
    subset : str
        ``"all"``, ``"class-K"`` for the K-th class, or ``"consensus-right"`` or ``"consensus-wrong"`` of the first
        model.
    narrow : bool
        Whether the screen is that of a phone: panels are put under one another.
    """

    source: str
    models: tuple[str, ...]
    metric: str
    reference: str
    subset: str = ALL
    narrow: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it as a dictionary for the browser."""
        return asdict(self) | {"models": list(self.models)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Question:
        """Read what :meth:`as_json` returned."""
        return cls(**{**data, "models": tuple(data["models"])})


def ask(
    result: NeroResult,
    source: str,
    first: str | None = None,
    second: str | None = None,
    metric: str | None = None,
    reference: str | None = None,
    subset: str | None = None,
    narrow: bool = False,
) -> Question:
    """Return a question that the result can answer: what it does not have is replaced by its first choice."""
    first = first if first in result.models else result.models[0]
    models = (first, second) if second in result.models and second != first else (first,)
    return Question(
        source,
        models,
        metric if metric in result.metrics else next(iter(result.metrics)),
        reference if reference in result.references else result.references[0],
        subset if subset in {key for key, _ in subsets(result)} else ALL,
        bool(narrow),
    )


def subsets(result: NeroResult) -> list[tuple[str, str]]:
    """Return the subsets of samples to choose from: their keys and names."""
    found = [(ALL, "all samples")]
    found += [(f"class-{k}", f"class {name}") for k, name in enumerate(result.class_names())]
    if result.task == "classification" and set(result.references) == {"truth", "consensus"}:
        found += [(RIGHT, "consensus is the true class"), (WRONG, "consensus is another class")]
    return found


def rows(result: NeroResult, question: Question) -> np.ndarray:
    """Return the indices of the samples that the question is about."""
    if question.subset.startswith("class-"):
        name = result.class_names()[int(question.subset.removeprefix("class-"))]
        return result.rows(class_=name, model=question.models[0])
    everyone = np.arange(len(result))
    if question.subset in (RIGHT, WRONG):
        model = question.models[0]
        good = np.isfinite(result.consensus[model].value).all(axis=1)
        right = np.nan_to_num(result.consensus[model].value).argmax(axis=1) == result.truth(model)
        return everyone[good & (right if question.subset == RIGHT else ~right)]
    return everyone


# -- samples in order -----------------------------------------------------------------------------------------------


def order(result: NeroResult, question: Question, by: str) -> np.ndarray:
    """Return the samples of the question in the order of their intensity for the first model, failed ones last."""
    chosen = rows(result, question)
    values = result.intensity("variance" if by == "variance" else "mean", question.metric, question.reference)
    mine = values[result.models.index(question.models[0])][chosen]
    return chosen[np.argsort(np.where(np.isfinite(mine), mine, np.inf), kind="stable")]


def most_varied(result: NeroResult, question: Question) -> int:
    """Return the sample whose orbit varies most for the first model, the one to look at first."""
    by_variance = order(result, question, "variance")
    if not len(by_variance):
        return 0
    variance = result.intensity("variance", question.metric, question.reference)
    mine = variance[result.models.index(question.models[0])][by_variance]
    finite = by_variance[np.isfinite(mine)]
    return int(finite[-1] if len(finite) else by_variance[0])


def about_sample(result: NeroResult, question: Question, sample: int, by: str) -> str:
    """Return what there is to say of a sample: its class, its place in the order, and its intensity for each model."""
    ordered = order(result, question, by)
    values = result.intensity("variance" if by == "variance" else "mean", question.metric, question.reference)
    words = [f"Sample {sample}{label_of(result, sample)}."]
    place = np.flatnonzero(ordered == sample)
    if len(place):
        start = f"counted from the smallest {by} for {question.models[0]}"
        words.append(f"Number {place[0] + 1} of {len(ordered)}, {start}.")
    numbers = [f"{name} {number(values[result.models.index(name), sample])}" for name in question.models]
    metric = result.metrics[question.metric].label
    words.append(f"{by.capitalize()} of {metric} over its orbit: {', '.join(numbers)}.")
    return " ".join(words)


def label_of(result: NeroResult, sample: int) -> str:
    """Return ", class 3" for samples that have a class, with the word consensus where it is not a real label."""
    if result.task not in ("classification", "detection"):
        return ""
    label = result.labels()[sample]
    text = ", ".join(sorted(map(str, label))) if isinstance(label, set) else str(label)
    return f", {'class' if result.y is not None else 'consensus class'} {text}" if label not in (None, set()) else ""


# -- elements on sliders --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axes:
    """The elements of a group on one slider per axis, or on a single one where they fill no grid.

    Attributes
    ----------
    names : tuple of str
        The axes.
    values : list of arrays
        The coordinates on each slider; element indices on a single one.
    table : ndarray of int
        Slider positions -> element.
    """

    names: tuple[str, ...]
    values: list[np.ndarray]
    table: np.ndarray

    @classmethod
    def of(cls, group: Any) -> Axes:
        """Return the axes of a group."""
        d = len(group.axes)
        values = [np.unique(group.coords[:, j]) for j in range(d)]
        shape = tuple(len(one) for one in values)
        if d > MOST_AXES or math.prod(shape) != len(group):
            return cls(("element",), [np.arange(len(group))], np.arange(len(group)))
        table = np.full(shape, -1)
        table[tuple(np.searchsorted(values[j], group.coords[:, j]) for j in range(d))] = np.arange(len(group))
        if (table < 0).any():  # two elements share a place
            return cls(("element",), [np.arange(len(group))], np.arange(len(group)))
        return cls(tuple(group.axes), values, table)

    def element(self, positions: Sequence[Any]) -> int:
        """Return the element at slider positions; out-of-range ones are moved to the ends."""
        place = [min(max(int(p or 0), 0), len(v) - 1) for p, v in zip(positions, self.values)]
        return int(self.table[tuple(place)])

    def positions(self, element: int) -> list[int]:
        """Return the slider positions of an element."""
        return [int(p) for p in np.argwhere(self.table == element)[0]]


# -- figures --------------------------------------------------------------------------------------------------------


class Drawer:
    """Draw the figures of questions and keep the latest ones; safe for several threads.

    Parameters
    ----------
    get : callable
        ``get(source) -> NeroResult``.
    most : int, default 256
        Number of figures kept.
    """

    def __init__(self, get: Callable[[str], NeroResult], most: int = 256) -> None:
        self.get, self.most = get, most
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()

    def aggregate(self, question: Question, element: int) -> dict[str, Any]:
        """Return the aggregate plot."""

        def draw(result: NeroResult) -> Any:
            return nero_figures.aggregate_figure(
                result, question.metric, question.reference, models=question.models, subset=rows(result, question),
                element=element,
            )  # fmt: skip

        return self._drawn(("aggregate", question, element), question, draw)

    def samples(self, question: Question, method: str, by: str, sample: int) -> dict[str, Any]:
        """Return the sample map; samples that the question is not about are pale."""

        def draw(result: NeroResult) -> Any:
            figure = nero_figures.sample_map(
                result, question.metric, question.reference, models=question.models, method=method, color_by=by,  # type: ignore[arg-type]
                selected=sample,
            )  # fmt: skip
            if question.subset != ALL:
                mine = rows(result, question).tolist()
                for trace in figure.data:
                    if trace.customdata is not None:
                        trace.selectedpoints = mine
                        trace.unselected = {"marker": {"opacity": 0.12}}
            return figure

        return self._drawn(("samples", question, method, by, sample), question, draw)

    def individual(self, question: Question, sample: int, element: int) -> dict[str, Any]:
        """Return the orbit of one sample."""

        def draw(result: NeroResult) -> Any:
            return nero_figures.individual_figure(
                result, sample, question.metric, question.reference, models=question.models, element=element
            )

        return self._drawn(("individual", question, sample, element), question, draw)

    def detail(self, question: Question, sample: int, element: int) -> dict[str, Any]:
        """Return the transformed input and the outputs."""

        def draw(result: NeroResult) -> Any:
            if result.X is None:
                raise ValueError("the inputs were not saved")
            metric = question.metric if result.task == "field" and question.metric in _FIELD_MAPS else None
            figure = nero_figures.detail_figure(result, sample, element=element, models=question.models, metric=metric)
            if len(result.group.labels[element]) > 8:  # it stands above the figure, and leaves no room for other titles
                figure.layout.annotations[0].text = "<b>input</b>"
            if result.task == "field" and not question.narrow:
                figure.update_annotations(font_size=11)  # three titles in a row
            return figure

        return self._drawn(("detail", question, sample, element), question, draw)

    def _drawn(self, key: tuple[Any, ...], question: Question, draw: Callable[[NeroResult], Any]) -> dict[str, Any]:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        figure = draw(self.get(question.source))
        round_ = any(
            "polar" in trace.type for trace in figure.data
        )  # there, Plotly tells of clicks only where it zooms
        figure.update_layout(
            paper_bgcolor="white", plot_bgcolor="white", autosize=True, uirevision=question.source, clickmode="event",
            dragmode="zoom" if round_ else False,
        )  # fmt: skip
        figure.update_scenes(dragmode="turntable")
        if question.narrow:
            for_phones(figure)
        drawn = json.loads(figure.to_json())
        for plain, trace in zip(drawn["data"], figure.data):
            if trace.customdata is not None:  # Dash reads it in the browser, and cannot read packed arrays
                plain["customdata"] = np.asarray(trace.customdata).tolist()
        with self._lock:
            self._kept[key] = drawn
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return drawn


_FIELD_MAPS = ("rmse", "mse", "mae", "aee")


def markers(drawn: Mapping[str, Any]) -> dict[int, Any]:
    """Return the traces that only mark an element or a sample, by their index: those without ``customdata``."""
    return {k: trace for k, trace in enumerate(drawn["data"]) if trace.get("customdata") is None}


def for_phones(figure: Any) -> None:
    """Put the panels of a figure under one another, its colour bar below them, and make it as tall as that takes."""
    layout = figure.layout
    digits = "0123456789"
    axes = [name for name in layout if _is_panel(layout, name)]
    axes.sort(key=lambda name: int(name[len(name.rstrip(digits)) :] or 1))
    places = _panel_places(layout, axes)
    single, panels = layout.height or 420, len(axes)
    has_bar = layout.coloraxis.colorbar.title.text is not None
    titles = list(layout.annotations)[:panels] if len(layout.annotations) >= panels else []
    stacked = panels > 1 and len({top for _, top in places}) < panels
    if stacked:
        titled = any(name.startswith("xaxis") and layout[name].title.text for name in axes)
        below = 34 if titled or axes[0].startswith("polar") else 0
        top_px, gap_px, foot_px = 44, 64 + below, 96 + below
        side = 300
        height = top_px + panels * side + (panels - 1) * gap_px + foot_px
        inner = height - top_px - foot_px
        for k, name in enumerate(axes):
            high = 1 - k * (side + gap_px) / inner
            low = max(0.0, high - side / inner)
            if name.startswith("xaxis"):
                layout[name].domain = [0, 1]
                layout["yaxis" + name[5:]].domain = [low, high]
            else:
                layout[name].domain = {"x": [0, 1], "y": [low, high]}
            if titles:
                titles[k].update(x=0.5, xanchor="center", y=high + 8 / inner, yanchor="bottom")
        side_px = 36 if axes[0].startswith("polar") else 8
        layout.update(height=height, margin={"l": side_px, "r": side_px, "t": top_px, "b": foot_px})
        single = height
    else:
        below = 0
        layout.margin.update(l=8, r=8)
        inner = single - (layout.margin.t or 44) - (layout.margin.b or 50)
        if has_bar:
            layout.update(height=single + 60)
            layout.margin.b = (layout.margin.b or 50) + 60
    if has_bar:
        layout.coloraxis.colorbar.update(
            orientation="h",
            x=0.5,
            xanchor="center",
            y=-(34 + below) / inner,
            yanchor="top",
            len=0.9,
            title={"side": "top"},
        )
    if layout.legend.y is not None and layout.legend.y < 0 and stacked:
        layout.legend.update(x=0.5, xanchor="center", y=-(44 + below) / inner)
    layout.font.size = 12


def _is_panel(layout: Any, name: str) -> bool:
    return name.startswith(("xaxis", "polar", "scene")) and bool(_domain(layout, name))


def _domain(layout: Any, name: str) -> Any:
    domain = layout[name].domain
    return (domain if name.startswith("xaxis") else domain.x) or ()


def _panel_places(layout: Any, axes: Sequence[str]) -> list[tuple[float, float]]:
    places = []
    for name in axes:
        y = layout["yaxis" + name[5:]].domain if name.startswith("xaxis") else layout[name].domain.y
        places.append((float(_domain(layout, name)[0]), float((y or (0, 1))[1])))
    return places


# -- sentences and tables -------------------------------------------------------------------------------------------


def about_element(result: NeroResult, question: Question, sample: int, element: int) -> list[tuple[str, list[str]]]:
    """Return rows of text about a sample under an element: the metric, the answer, and the right answer, per model."""
    value = result.values(question.metric, question.reference)[:, element, sample]
    rows_ = [(result.metrics[question.metric].label, [number(value[result.models.index(m)]) for m in question.models])]
    detail = result.detail(sample, index=element)
    answers, agreed, shares = [], [], []
    for model in question.models:
        answers.append(_answer(result, model, detail.outputs.get(model)))
        agreed.append(_answer(result, model, detail.consensus.get(model), label=True))
        found = result.consensus.get(model)
        shares.append("–" if found is None else percent(found.agreement[sample]))
    rows_.append(("answer", answers))
    if detail.truth is not None and result.task != "field":
        rows_.append(("ground truth", [_answer(result, m, detail.truth, label=True) for m in question.models]))
    if result.consensus:
        if result.task != "field":
            rows_.append(("consensus", agreed))
        rows_.append(("orbit that agrees with the consensus", shares))
    return rows_


def failures_here(result: NeroResult, question: Question, sample: int) -> list[str]:
    """Return a sentence for each shown model that could not be evaluated on a sample."""
    return [
        f"{f.model} could not be evaluated on sample {sample}{f' at {f.element}' if f.element else ''}: {f.error}"
        for f in result.failures
        if f.sample == sample and f.model in question.models
    ]


def headline(result: NeroResult, question: Question) -> str:
    """Return in a sentence how each model's aggregate curve runs."""
    curves = result.aggregate(question.metric, question.reference, subset=rows(result, question))
    metric = result.metrics[question.metric]
    parts = []
    for name in question.models:
        curve = curves[result.models.index(name)]
        good = np.isfinite(curve)
        if not good.any():
            parts.append(f"{name}: nothing to measure")
            continue
        here = result.group.identity
        mean = float((curve[good] * result.group.weights[good]).sum() / result.group.weights[good].sum())
        worst = int(np.nanargmin(curve) if metric.higher_is_better else np.nanargmax(curve))
        start = f"{number(curve[here])} at {result.group.labels[here]}, " if here is not None else ""
        parts.append(
            f"{name}: {start}{number(mean)} on average over the orbit, {number(curve[worst])} at its worst "
            f"({result.group.labels[worst]})"
        )
    chosen = rows(result, question)
    return f"{metric.label.capitalize()} over {len(chosen)} samples. {'. '.join(parts)}."


def consensus_curve_correlation(result: NeroResult, question: Question, model: str) -> float | None:
    """Return the correlation of a model's aggregate curves against truth and against consensus, or None."""
    if set(result.references) != {"truth", "consensus"}:
        return None
    chosen = rows(result, question)
    j = result.models.index(model)
    two = [result.aggregate(question.metric, reference, subset=chosen)[j] for reference in ("truth", "consensus")]
    good = np.isfinite(two[0]) & np.isfinite(two[1])
    if good.sum() < 3 or min(np.ptp(curve[good]) for curve in two) < 1e-9:
        return None
    return float(np.corrcoef(two[0][good], two[1][good])[0, 1])


def _answer(result: NeroResult, model: str, output: Any, label: bool = False) -> str:
    if output is None:
        return "–"
    if result.task == "classification":
        if label:
            return str(output)
        classes = result.classes[model]
        best = int(np.argmax(output))
        return f"{classes[best] if classes is not None else best} ({percent(output[best])})"
    if result.task == "detection":
        count = len(output["labels"])
        if not count:
            return "no box"
        best = int(np.argmax(output["scores"]))
        return f"{output['labels'][best]}" + (f" and {count - 1} more" if count > 1 else "")
    values = np.asarray(output, dtype=float)
    if result.task == "field":
        return f"mean length {number(np.hypot(*values).mean())}"
    flat = values.reshape(-1)
    return ", ".join(number(v) for v in flat[:6]) + (", …" if len(flat) > 6 else "")


def number(value: Any) -> str:
    """Return a number with three digits, or a dash."""
    return f"{float(value):.3g}" if value is not None and np.isfinite(value) else "–"


def percent(value: Any) -> str:
    """Return a share as a percentage, or a dash."""
    return f"{100 * float(value):.0f} %" if value is not None and np.isfinite(value) else "–"
