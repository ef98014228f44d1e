"""R-MTGB finds the tasks that do not belong, and errs less than boosting that does not look for them."""

from dataclasses import replace
from typing import Any

from anytask.claims.base import Beats, Claim, Experiment, RealTrial, Size
from anytask.problems.base import Entrant
from anytask.problems.multi_task_training import BASELINES

_alone, _pooled, _two, *_lightgbm, _linear = BASELINES
_rmtgb = Entrant("r-mtgb", "anytask.multitask:RMTGB", {}, "system", "r-mtgb")


def _eight(stumps: Entrant) -> Entrant:
    params = {**stumps.params, "max_leaf_nodes": 8}
    return replace(stumps, name=f"{stumps.name}, 8 leaves", params=params, key=None)


def _without(what: str, *rounds: int, **params: Any) -> Entrant:
    named = dict(zip(("shared_rounds", "partition_rounds", "task_rounds"), rounds or (20, 140, 40)))
    return Entrant(f"r-mtgb ({what})", _rmtgb.entry, {**named, **params}, "ablation")


_trees, _stumps, _larger = _eight(_rmtgb), (_alone, _pooled, _two), (_eight(_two), _eight(_alone), *_lightgbm)
_parts = (
    (_two, "the two groups", ""),
    (_without("theta stays", theta_lr=0.0), "theta is learned", "5 % in a prototype"),
    (_without("mean gradient", theta_grad="mean"), "the sum of the gradient, not its mean", ""),
    (_without("no shared block", 0, 160, 40), "the shared block", ""),
    (_without("no own trees", 20, 180, 0), "the trees of each task", ""),
)


def _on(name: str, data: str, *more: Entrant, **options: Any) -> Experiment:
    entrants = (_rmtgb, _trees, *_stumps, *more, _linear)
    quick = {"n_tasks": 4, "n_outliers": 1, "per_task": 40, "tested": 60} if options else {}
    return Experiment(name, "multi-task-training", data, entrants, options, _linear.name, quick)


def _over(better: Entrant, *rivals: Entrant, sentence: str, experiment: str | None = None, expected: str = "") -> Beats:
    names = tuple(rival.name for rival in rivals)
    return Beats(better.name, names, "error", experiment, 0.03, True, sentence, expected)


_REAL = (("firms", "grunfeld", "investment by firm"), ("age bands", "diabetes-age", "diabetes by age band"))

CLAIM = Claim(
    system="r-mtgb",
    statement=(
        "Where some tasks follow another function than the others, boosting in three blocks finds them and errs less "
        "than boosting all rows, each task, or all and then each; and less than what is in use for such tables."
    ),
    experiments=(
        _on("random tasks", "random-tasks", *_larger, *(part for part, *_ in _parts[1:]), per_task=100, tested=300),
    ),
    headline=(
        _over(_rmtgb, *_stumps, sentence="stumps, 200 rounds each", expected="6 % in a prototype"),
        _over(_trees, *_larger, sentence="larger trees, against LightGBM too"),
    ),
    components=tuple(_over(_rmtgb, part, sentence=said, expected=size) for part, said, size in _parts),
    sizes=(
        Size("r-mtgb", "found", "Outlier tasks told apart", expected="1 in a prototype"),
        Size("r-mtgb, 8 leaves", "found", "The same with 8 leaves"),
        Size("r-mtgb", "delta", "Error saved against one model per task"),
    ),
    real=RealTrial(
        "grunfeld (investment of 11 firms) and scikit-learn's diabetes by age band: real tables, boosting from scratch",
        tuple(_on(name, data, *_lightgbm) for name, data, _ in _REAL),
        tuple(_over(_rmtgb, *_stumps, *_lightgbm, _linear, sentence=s, experiment=name) for name, _, s in _REAL),
    ),
    source="code",
    tried=(
        "A gain of 3 % of the error counts: the paper gives no figures, and its prototype gained 5 to 6 %. On seeds 0 "
        "to 2 R-MTGB's stumps have .604, two blocks .634, one model per task .641, all rows .773, linear models .608; "
        "8 leaves have .417, and .542 and .524 in two blocks and per task. LightGBM with the task as a feature has "
        ".376 (.377 with 300 trees of 8 leaves), per task .523 (.496 with 200 trees of 8 leaves of 5 rows). With 8 "
        "leaves the outliers were told apart on 2 of 3 seeds, with stumps on all."
    ),
)  # fmt: skip
