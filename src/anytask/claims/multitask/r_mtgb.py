"""R-MTGB finds the tasks that do not belong, and errs less than boosting that does not look for them."""

from typing import Any

from anytask.claims.base import Beats, Claim, Experiment, RealTrial, Size
from anytask.problems.base import Entrant

_RMTGB, _BASELINES = "anytask.multitask:RMTGB", "anytask.multitask.baselines"


def _blocks(name: str, shared: int, partition: int, task: int, role: str = "ablation", **params: Any) -> Entrant:
    rounds = {"shared_rounds": shared, "partition_rounds": partition, "task_rounds": task}
    return Entrant(name, _RMTGB, {**rounds, **params}, role)  # type: ignore[arg-type]


_LEAVES = {"max_leaf_nodes": 8}
_rmtgb = Entrant("r-mtgb", _RMTGB, {}, "system", "r-mtgb")
_trees = Entrant("r-mtgb, 8 leaves", _RMTGB, _LEAVES, "system")
_alone = Entrant("one model per task", f"{_BASELINES}:BoostingPerTask", {}, "baseline")
_pooled, _two = _blocks("pooled", 200, 0, 0, "baseline"), _blocks("two blocks", 160, 0, 40, "baseline")
_larger = (
    _blocks("two blocks, 8 leaves", 160, 0, 40, "baseline", **_LEAVES),
    Entrant("one model per task, 8 leaves", f"{_BASELINES}:BoostingPerTask", _LEAVES, "baseline"),
    Entrant("LightGBM per task", f"{_BASELINES}:LightGBMTasks", {"how": "each"}, "baseline"),
    Entrant("LightGBM, task as a feature", f"{_BASELINES}:LightGBMTasks", {"how": "feature"}, "baseline"),
)
_linear = Entrant("linear", f"{_BASELINES}:LinearPerTask", {}, "baseline")
_stumps = (_alone, _pooled, _two)
_parts = (
    _blocks("r-mtgb (theta stays)", 20, 140, 40, theta_lr=0.0),
    _blocks("r-mtgb (mean gradient)", 20, 140, 40, theta_grad="mean"),
    _blocks("r-mtgb (no shared block)", 0, 160, 40),
    _blocks("r-mtgb (no own trees)", 20, 180, 0),
)
_QUICK = {"n_tasks": 4, "n_outliers": 1, "per_task": 40, "tested": 60}


def _tables(*entrants: Entrant) -> tuple[Experiment, ...]:
    return tuple(
        Experiment(name, "multi-task-training", data, entrants, plain=_linear.name)
        for name, data in (("firms", "grunfeld"), ("age bands", "diabetes-age"))
    )


def _over(better: Entrant, *rivals: Entrant, sentence: str, experiment: str | None = None, expected: str = "") -> Beats:
    names = tuple(rival.name for rival in rivals)
    return Beats(better.name, names, "error", experiment, 0.03, share=True, sentence=sentence, expected=expected)


CLAIM = Claim(
    system="r-mtgb",
    statement=(
        "Where some tasks follow another function than the others, boosting in three blocks finds them and errs less "
        "than boosting all rows, each task, or all and then each; and less than what is in use for such tables."
    ),
    experiments=(
        Experiment(
            "random tasks", "multi-task-training", "random-tasks",
            (_rmtgb, _trees, *_stumps, *_larger, _linear, *_parts), {"per_task": 100, "tested": 300}, _linear.name,
            _QUICK,
        ),
    ),
    headline=(
        _over(_rmtgb, *_stumps, sentence="stumps, 200 rounds each", expected="6 % in a prototype"),
        _over(_trees, *_larger, sentence="larger trees, against LightGBM too"),
    ),
    components=(
        _over(_rmtgb, _two, sentence="the two groups"),
        _over(_rmtgb, _parts[0], sentence="theta is learned", expected="5 % in a prototype"),
        _over(_rmtgb, _parts[1], sentence="the sum of the gradient, not its mean"),
        _over(_rmtgb, _parts[2], sentence="the shared block"),
        _over(_rmtgb, _parts[3], sentence="the trees of each task"),
    ),
    sizes=(
        Size("r-mtgb", "found", "Outlier tasks told apart", expected="1 in a prototype"),
        Size("r-mtgb, 8 leaves", "found", "The same with 8 leaves"),
        Size("r-mtgb", "delta", "Error saved against one model per task"),
    ),
    real=RealTrial(
        "grunfeld (investment of 11 firms) and scikit-learn's diabetes by age band: real tables, boosting from scratch",
        _tables(_rmtgb, _trees, *_stumps, *_larger[2:], _linear),
        tuple(
            _over(_rmtgb, *_stumps, *_larger[2:], _linear, sentence=sentence, experiment=name)
            for name, sentence in (("firms", "investment by firm"), ("age bands", "diabetes by age band"))
        ),
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
