"""SLA: learning the transformation with the class beats being taught to ignore it, and averaging pays on top."""

from anytask.claims.base import Beats, Claim, Experiment
from anytask.problems.base import Entrant

_SLA = "anytask.robust:SLA"
_BASELINES = "anytask.robust.baselines"
_SINGLE, _HEAD = "sla (single)", "sla+sd (distilled head)"
_PLAIN, _DA, _MT = "plain training", "rotations as augmentation", "rotations as a second task"
_DISTILL = {"distill": True}

CLAIM = Claim(
    system="sla",
    statement=(
        "With 10 labels per class of digits and four rotations, joint labels of class and rotation, averaged over the "
        "rotations, beat plain training and a linear model; with one forward pass they beat the same rotations used as "
        "augmentation or as a second task, and so does the distilled head."
    ),
    experiments=(
        Experiment(
            "few digits",
            "few-labels",
            "digits",
            (
                Entrant("sla", _SLA, {}, "system", "sla"),
                Entrant(_SINGLE, _SLA, {}, "ablation", after={"inference": "single"}),
                Entrant("sla+sd", _SLA, _DISTILL, "ablation"),
                Entrant(_HEAD, _SLA, _DISTILL, "ablation", after={"inference": "distilled"}),
                Entrant("sla (identity only)", _SLA, {"transforms": "identity"}, "ablation"),
                Entrant(_PLAIN, f"{_BASELINES}:PlainTraining", {}, "baseline"),
                Entrant(_DA, f"{_BASELINES}:TransformAugmentation", {}, "baseline"),
                Entrant(
                    f"{_DA}, averaged", f"{_BASELINES}:TransformAugmentation", {}, "baseline", after={"average": True}
                ),
                Entrant(_MT, f"{_BASELINES}:TransformMultiTask", {}, "baseline"),
                Entrant("linear", "anytask.evaluate.baselines:LinearClassifier", {}, "baseline"),
            ),
            {"per_class": 10},
            plain="linear",
            quick={"max_test": 300},
        ),
    ),
    headline=(
        Beats("sla", (_PLAIN, f"{_DA}, averaged", _MT), "accuracy", expected="+.02 to +.03"),
        Beats(
            _SINGLE,
            (_PLAIN, _DA, _MT),
            "accuracy",
            sentence="with one forward pass joint labels beat augmentation and a second task",
        ),
    ),
    components=(
        Beats("sla", (_SINGLE,), "accuracy", sentence="aggregation over the rotations"),
        Beats("sla", ("sla (identity only)",), "accuracy", sentence="rotations"),
        Beats(_HEAD, (_DA,), "accuracy", sentence="the distilled head, in one pass"),
    ),
    source="code",
    tried=(
        "The small network's batch norm and strides were chosen on development seeds 0 and 1 among five networks, as "
        "the paper's networks are far larger: without batch norm every entrant that sees rotations falls far behind "
        "plain training."
    ),
)
