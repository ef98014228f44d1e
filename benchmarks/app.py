"""How long the pages of ``anytask app`` take with 5,000 runs in the store: a report of times, not a test."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anytask.app.catalogue.page import timeline
from anytask.app.catalogue.search import CatalogueSearch
from anytask.app.nero.data import NeroLibrary, result_csv
from anytask.app.results.data import StoreView, ranking_csv, runs_csv
from anytask.app.results.panel import panel, runs_table
from anytask.bench import Run, RunStore
from anytask.bench.comparison import Comparison
from anytask.bench.planning import Plan, PlanItem
from anytask.bench.registration import record_of
from anytask.bench.stored import StoredData, StoredProblem
from anytask.catalogue import SYSTEMS
from anytask.evaluate import NERO
from anytask.evaluate.nero.report import render
from anytask.parts.planar_groups import Rotations
from anytask.problems.base import Entrant

METRICS = ({"key": "accuracy", "label": "accuracy"}, {"key": "forgetting", "label": "forgetting"})


def fill(path: Path, comparisons: int, entrants: int, seeds: int) -> None:
    """Write comparisons of made-up runs, each with a curve of 100 points."""
    rng = np.random.default_rng(0)
    people = tuple(Entrant(f"e{i}", "m:A", {"i": i}, "baseline" if i % 3 == 0 else "system") for i in range(entrants))
    problem = StoredProblem("made-up", {"title": "Made-up problem", "metrics": METRICS, "bounds": {}})
    with RunStore(path) as store:
        store._execute("PRAGMA synchronous = OFF", ())
        for c in range(comparisons):
            items = tuple(PlanItem(e, s, f"{c}-{s}-{e.name}") for s in range(seeds) for e in people)
            data = StoredData(f"data {c}", f"f{c}", {"rows": 100})
            record = record_of(Comparison(problem, data, Plan(items, people, tuple(range(seeds)), {}), []))
            store.begin(record)
            for item in items:
                value = float(rng.normal(0.7, 0.05))
                store.put(
                    Run(
                        item.key, "made-up", data.name, data.fingerprint, item.entrant.name, "m:A", item.seed,
                        role=item.entrant.role, metrics={"accuracy": value, "forgetting": 1 - value},
                        details={"curve": rng.random(100).tolist()}, finished="2026-01-01T00:00:00",
                        cost={"wall_seconds": 1 + value, "peak_bytes": 4e8, "trainable_parameters": 1e5},
                    )
                )  # fmt: skip
            store.end(record.id, "done")


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Do some work, and print how long it took."""
    start = time.perf_counter()
    done = work()
    print(f"  {what:<58}{1000 * (time.perf_counter() - start):>9.0f} ms")
    return done


def report(comparisons: int, entrants: int, seeds: int) -> None:
    """Time each step from an unread store to a page."""
    print(f"{comparisons} comparisons of {entrants} entrants x {seeds} seeds: {comparisons * entrants * seeds} runs")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.sqlite"
        fill(path, comparisons, entrants, seeds)
        view = StoreView(path)
        snapshot = timed("list of comparisons, first time", view.snapshot)
        timed("look at an unchanged store", view.snapshot)
        overview = snapshot.overviews[0]
        loaded = timed("read one comparison", lambda: view.load(overview))
        timed("its answer, ranking and statistics", lambda: panel(overview, loaded))
        timed("the same again", lambda: panel(overview, loaded))
        timed("a page of its runs, best first", lambda: runs_table(loaded.comparison, None, None, "best", 1))
        timed("CSV of ranking and runs", lambda: (ranking_csv(loaded.comparison), runs_csv(loaded.comparison)))


def nero(samples: int) -> None:
    """Time what the server does for the NERO page, of 73 rotations of each sample; the page links its views itself."""
    rng = np.random.default_rng(0)
    X, y = rng.uniform(size=(samples, 8, 8)), np.arange(samples) % 10
    answers = [rng.dirichlet(np.ones(10), size=73 * samples) for _ in range(2)]
    models = {f"m{k}": (lambda X, k=k: answers[k][: len(X)]) for k in range(2)}
    library = NeroLibrary(results=[NERO(Rotations()).evaluate(models, X, y)])
    source = library.sources[0].id
    print(f"NERO page, two models on {samples} samples")
    timed("the linked views", lambda: library.page(source, "/more"))
    timed("the same again", lambda: library.page(source, "/more"))
    timed("details of one sample", lambda: library.more(source, None, 1))
    timed("sample maps by Isomap", lambda: library.more(source, "isomap", None))
    timed("the report", lambda: render(library.get(source), "report"))
    timed("CSV of the samples", lambda: result_csv(library.get(source), "samples"))


def main() -> None:
    """Print the times."""
    import plotly.graph_objects  # noqa: F401 - the server imports it at its start
    import scipy.stats  # noqa: F401

    report(20, 10, 25)
    report(1, 50, 100)
    print("catalogue")
    search = CatalogueSearch(meaning=False)
    timed("first search by words", lambda: search.find("shorten long prompts"))
    timed("second search by words", lambda: search.find("data that keep changing"))
    timed("time line", lambda: timeline(SYSTEMS, []))
    nero(300)


if __name__ == "__main__":
    main()
