"""Paired retrieval: which encoder of pairs finds what belongs to new queries, and targets that no pair has shown?"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from anytask.core.progress import heard
from anytask.core.settings import taken
from anytask.parts.ranking import ranking_metrics
from anytask.problems.base import Entrant, Metric, Outcome, Trained, finished
from anytask.problems.paired_retrieval.data import VACANCIES, PairedOptions, PairedSet, Ranking, read
from anytask.problems.training import Progress, TrainingProblem

_TOWERS, _TEXTS = "anytask.pretrain.pair_baselines", "anytask.pretrain.text_pair_baselines"


class PairedRetrieval(TrainingProblem):
    """Learn from pairs of items which belong together, and find the partners of new items.

    A share of the queries (the left items) is kept for testing, and a share of the targets is held out with all of
    their pairs. New queries rank the targets that training pairs show; queries of the held-out targets rank those
    alone, zero-shot. Where each target belongs to one query, as a caption to its image, both are the same. Several
    graphs (a column ``graph``) count alike; encoders that learn from graphs are given them apart, others all pairs.

    Metrics
    -------
    Means over the queries that have relevant targets, then over graphs; intervals of a comparison are over seeds.

    * ``map``: mean average precision (ranks); ``zero_shot``: on the held-out targets; ``reverse``: of targets that rank
      the new queries;
    * ``rp10``: relevant among the ten best, over min(10, number of relevant);
    * ``recall1``, ``recall10``: share of the relevant among the best 1 and 10; ``mrr``: 1 / rank of the first.

    Examples
    --------
    >>> problem = PairedRetrieval()
    >>> data = problem.load("vacancies", n=20, tested=20)
    >>> metrics = problem.run(problem.baselines(data)[0], data, seed=0).metrics
    >>> 0.5 < metrics["map"] < metrics["mrr"] < 1
    True
    """

    key: ClassVar[str] = "paired-retrieval"
    title: ClassVar[str] = "Paired retrieval"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("map", "Mean average precision, new queries"),
        Metric("zero_shot", "Mean average precision, targets that no pair has shown"),
        Metric("reverse", "Mean average precision, targets that rank new queries"),
        Metric("rp10", "R-precision among the 10 best"),
        Metric("recall1", "Recall of the best"),
        Metric("recall10", "Recall among the 10 best"),
        Metric("mrr", "Mean reciprocal rank of the first relevant target"),
    )
    needs: ClassVar[tuple[str, ...]] = ("fit(left, right)", "scores(left, right)")
    options_class = PairedOptions

    def load(self, source: Any, **options: Any) -> PairedSet:
        """Take a world that a seed draws ("vacancies", "signing"), or what ``datasets.pairs.load_pairs`` takes."""
        return read(source, self.check_options(options))

    def baselines(self, data: PairedSet) -> tuple[Entrant, ...]:
        """Return BM25 and MiniLM where both sides are texts, and two towers with one or with all positives."""
        found = [] if data.name == VACANCIES or any(n.startswith("MiniLM") for n in data.notes) else [
            Entrant("MiniLM", f"{_TEXTS}:SentenceEncoder", {"epochs": 0}, "baseline"),
            Entrant("MiniLM, fine-tuned", f"{_TEXTS}:SentenceEncoder", {}, "baseline"),
        ]  # fmt: skip
        if not any(note.startswith("BM25") for note in data.notes):
            found.insert(0, Entrant("BM25", f"{_TEXTS}:BM25Pairs", {}, "baseline"))
        if data.kinds != ("texts", "texts"):
            found = []
        found += [
            Entrant("dual encoder, hard targets", f"{_TOWERS}:DualEncoder", {}, "baseline"),
            Entrant("dual encoder, all positives", f"{_TOWERS}:DualEncoder", {"targets": "all"}, "baseline"),
        ]
        return tuple(found)

    def told(self, sees: str | None, options: Any) -> str | None:
        """Return the same for all: the graph of a training pair is part of the data, and no test says one."""
        return None

    def refuses(self, entrant: Entrant, data: PairedSet) -> str | None:
        """Refuse encoders of items of another kind."""
        if reason := super().refuses(entrant, data):
            return reason
        for side, wanted, kind in zip(("left", "right"), getattr(entrant.load(), "KINDS", (None, None)), data.kinds):
            if wanted not in (None, kind):
                return f"{entrant.name} takes {wanted} on the {side}, and here are {kind}."
        return None

    def train(self, entrant: Entrant, data: PairedSet, seed: int, progress: Progress) -> Any:
        """Fit an encoder to the training pairs."""
        return _fitted(entrant, data.draw(seed).graphs, seed, progress)

    def refit(self, entrant: Entrant, data: PairedSet, seed: int, progress: Progress | None = None) -> Trained:
        """Fit an encoder to all pairs."""
        model = _fitted(entrant, data.everything(), seed, heard(progress))
        lines = (
            entrant.import_line,
            f'model = {entrant.class_name}.load("{{folder}}")',
            f"ranking = model.rank(queries, targets)  # places and scores; queries: {data.kinds[0]} as on the left",
        )
        return Trained((model,), lines, data.notes)

    def test(self, entrant: Entrant, trained: Any, data: PairedSet, seed: int, progress: Progress) -> Outcome:
        """Rank the targets for new queries, the held-out targets, and new queries for the targets."""
        drawn = data.draw(seed)
        known = {name: _scored(trained, ranking) for name, ranking in drawn.known.items()}
        progress(0.5)
        unseen = known if drawn.unseen is drawn.known else {n: _scored(trained, r) for n, r in drawn.unseen.items()}
        forward = {name: ranking_metrics(S, drawn.known[name].relevant) for name, S in known.items()}
        back = [ranking_metrics(S.T, drawn.known[name].relevant.T)["map"] for name, S in known.items()]
        metrics = {key: _mean([found[key] for found in forward.values()]) for key in next(iter(forward.values()))}
        metrics["reverse"] = _mean(back)
        if unseen:
            metrics["zero_shot"] = _mean(
                [ranking_metrics(S, drawn.unseen[name].relevant)["map"] for name, S in unseen.items()]
            )
        progress(1.0)
        details = {"graphs": {name: {k: round(v, 4) for k, v in found.items()} for name, found in forward.items()}}
        return Outcome(metrics, details, {"pairs": float(sum(len(left) for left, _ in drawn.graphs.values()))})

    def figures(self, data: PairedSet, runs: list[Any]) -> list[tuple[str, str, Any]]:
        """Return precision by graph, where there are several."""
        import plotly.graph_objects as go

        bars = []
        for name, mine in finished(runs).items():
            graphs = list(mine[0].details["graphs"])
            heights = [_mean([run.details["graphs"][graph]["map"] for run in mine]) for graph in graphs]
            bars.append(go.Bar(name=name, x=graphs, y=heights))
            if len(graphs) < 2:
                return []
        return [("Mean average precision by graph", "New queries.", go.Figure(bars))] * bool(bars)


def _fitted(entrant: Entrant, graphs: dict[str, tuple[Any, Any]], seed: int, progress: Progress) -> Any:
    model = entrant.make("small", seed=seed, random_state=seed)
    told = taken(model.fit, progress=progress)
    if getattr(model, "takes", "pairs") == "graphs":
        return model.fit(graphs, **told)
    sides = [[item for pair in graphs.values() for item in pair[side]] for side in (0, 1)]
    left, right = (side if isinstance(side[0], str) or side[0].ndim == 2 else np.stack(side) for side in sides)
    return model.fit(left, right, **told)


def _scored(model: Any, ranking: Ranking) -> np.ndarray:
    return np.asarray(model.scores(ranking.queries, ranking.targets), dtype=np.float64)


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
