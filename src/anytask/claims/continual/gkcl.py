"""GKCL: a generator that remembers replaces stored samples in kernel continual learning."""

from typing import Any

from anytask.claims.base import Beats, Claim, Experiment
from anytask.problems.base import Entrant

GKCL = "anytask.continual:GKCL"
_SMALL = {"preset": "small"}


def _support(size: int, source: str = "generated") -> dict[str, Any]:
    return {**_SMALL, "support": {"source": source, "size": size}}


CLAIM = Claim(
    system="gkcl",
    statement=(
        "On digits that arrive two classes at a time, with the task known, kernel ridge classifiers on a "
        "generated support set are as good as on ten stored samples per class; on two generated ones per class "
        "they are better than on two stored ones, and far better than kernel continual learning without a "
        "generator (KCL). No sample is stored. Without replay of the generator they are lost."
    ),
    experiments=(
        Experiment(
            "split digits",
            "task-stream",
            "digits",
            (
                Entrant("gkcl", GKCL, _support(10), "system", "gkcl"),
                Entrant("gkcl (2 generated)", GKCL, _support(2), "system"),
                Entrant("gkcl (no replay)", GKCL, {**_support(10), "generator": {"replay": False}}, "ablation"),
                Entrant("gkcl (no contrastive term)", GKCL, {**_support(10), "eta": 0.0}, "ablation"),
                Entrant(
                    "gkcl (standard prior)", GKCL, {**_support(10), "generator": {"prior": "standard"}}, "ablation"
                ),
                Entrant("10 stored, same generator", GKCL, _support(10, "stored"), "baseline"),
                Entrant("2 stored, same generator", GKCL, _support(2, "stored"), "baseline"),
                Entrant("kcl (2 stored)", GKCL, {**_support(2, "stored"), "generative": False}, "baseline"),
                Entrant("nearest mean", "anytask.continual:NearestClassMean", {}, "baseline"),
            ),
            {"scenario": "class", "n_tasks": 5, "epochs": 15, "batch_size": 32, "curve_points": 0},
            plain="nearest mean",
            quick={"n_tasks": 2, "classes_per_task": 2, "epochs": 2},
        ),
    ),
    headline=(
        Beats(
            "gkcl (2 generated)",
            ("kcl (2 stored)", "2 stored, same generator"),
            "accuracy",
            sentence="two generated samples per class beat two stored ones",
            expected="+.02 to +.10",
        ),
    ),
    components=(
        Beats("gkcl", ("gkcl (no replay)",), "accuracy", sentence="replay of the generator", expected="+.10"),
        Beats("gkcl", ("gkcl (no contrastive term)",), "accuracy", sentence="the contrastive term"),
        Beats("gkcl", ("gkcl (standard prior)",), "accuracy", sentence="a prior per class"),
        Beats("gkcl", ("10 stored, same generator",), "accuracy", sentence="ten generated against ten stored"),
    ),
    source="abstract",
    tried=(
        "The contrastive term and the standard-normal prior are reported and not judged: in three trial seeds "
        "the effect of the first was within the spread over seeds. KCL as published trains no generator; the "
        "rows with the same generator differ from GKCL in the support set alone, which is the harder "
        "comparison. The preset's 30 epochs per task do not fit into the time of a claim; it takes 15."
    ),
)
