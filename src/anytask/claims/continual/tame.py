"""TAME finds task borders by itself, routes at test time, and so does not forget."""

from typing import Any

from anytask.claims.base import Beats, Claim, Experiment, Size
from anytask.problems.base import Entrant

TAME = "anytask.continual:TAME"
_STREAM = {"identity": "none", "curve_points": 0, "n_tasks": 5, "batch_size": 16}
_SPLIT = {**_STREAM, "epochs": 10, "labels": "local"}


def _variant(name: str, **params: Any) -> Entrant:
    return Entrant(name, TAME, {"preset": "small", **params}, "ablation")


_tame = Entrant("tame", TAME, {"preset": "small"}, "system", "tame")
_random = _variant("tame (random routing)", selector={"routing": "random"})
_low_k = _variant("tame (k=0.5)", k=0.5)
_retrained = _variant("tame (pruned)", pruning={"enabled": True})
_bare = _variant("tame (pruned, not retrained)", pruning={"enabled": True, "retrain": False})
_wide = Entrant("fine-tuning (5x width)", "anytask.continual:FineTuning", {"hidden": [320, 320]}, "baseline")
# TAME keeps 2,000 inputs for its selector; replay keeps as many, with their labels.
_replay = Entrant("replay", "anytask.continual:ExperienceReplay", {"capacity": 2000}, "baseline")
_means = Entrant("nearest mean", "anytask.continual:NearestClassMean", {}, "baseline")
_rivals = (_replay, _wide, _means)


def _stream(name: str, entrants: tuple[Entrant, ...], options: dict[str, Any], **quick: Any) -> Experiment:
    quick = {**quick, "epochs": 2}
    return Experiment(name, "task-stream", "digits", entrants, options, plain=_means.name, quick=quick)


CLAIM = Claim(
    system="tame",
    statement=(
        "On streams of digits whose task borders nobody announces, TAME makes about one expert per task, "
        "recognises tasks that come back, and keeps them all: far above one network of five times the width "
        "trained on the same stream."
    ),
    experiments=(
        _stream("permuted", (_tame, _random, *_rivals), {**_STREAM, "scenario": "permuted", "epochs": 10}, n_tasks=2),
        _stream("recurring", (_tame, *_rivals), {**_SPLIT, "scenario": "recurring", "order": "1,2,3,2,4"}),
        _stream(
            "split",
            (_tame, _low_k, _retrained, _bare, _means),
            {**_SPLIT, "scenario": "class"},
            n_tasks=2,
            classes_per_task=2,
        ),
    ),
    headline=(
        Beats("tame", ("replay", _wide.name), "accuracy", expected="> +.40 over one network of five times the width"),
        Beats("tame", ("replay", _wide.name), "accuracy", "recurring", sentence="the same where a task comes back"),
    ),
    components=(
        Beats("tame", (_random.name,), "accuracy", sentence="routing by the selector"),
        Beats("tame (pruned)", (_bare.name,), "accuracy", "split", sentence="retraining after pruning"),
        Beats("tame", (_low_k.name,), "accuracy", "split", sentence="a threshold of three deviations"),
    ),
    sizes=(
        Size("tame", "experts", "Experts made for five tasks", expected="5, give or take one"),
        Size("tame", "experts", "Experts made for five tasks of two digits", "split", expected="5, give or take one"),
        Size("tame", "experts", "Experts made for four tasks, one of them twice", "recurring", expected="4"),
    ),
    source="code",
    tried=(
        "With 4 passes over each task the loss has not settled when the task changes, the jump barely clears "
        "three standard deviations, and trial runs merged tasks; with 10 passes they did not. Both are judged. "
        "The baseline's learning rate was chosen among five on held-out training rows; TAME keeps the paper's."
    ),
)
