"""AutoDistil: students of SuperLMs need fewer labels, and compact sub-spaces interfere less than one large space."""

from typing import Any

from anytask.claims.base import Beats, Claim, Experiment, RealTrial, Size
from anytask.claims.pretrain.student_worlds import Probes, ThreeTasks
from anytask.problems.base import Entrant

_AUTODISTIL, _DIRECT = "anytask.pretrain:AutoDistil", "anytask.pretrain:EncoderClassifier"
_TINY = {"name": "tiny", "layers": [1, 2], "heads": [1, 2], "width": [16, 24], "ratio": [1, 1.5]}
_ONE = {"name": "one", "layers": [2], "heads": [2], "width": [24], "ratio": [1.5]}
_ALL = {"name": "all", "layers": [1, 2, 3, 4], "heads": [1, 2, 3, 4], "width": [16, 24, 32, 40, 48],
        "ratio": [1, 1.5, 2]}  # fmt: skip
_TUNED = {"finetuning": {"min_steps": 300, "epochs": 1}}
_FEW_STEPS = {"finetuning": {"min_steps": 60, "epochs": 1, "batch_size": 16}, "max_tokens": 32}
_SHORT = {
    "epochs": 1, "small": {"steps": 20}, "finetuning": {"min_steps": 5},
}  # fmt: skip


def _own(name: str, role: Any = "ablation", **params: Any) -> Entrant:
    return Entrant(name, _AUTODISTIL, params, role, "autodistil" if role == "system" else None)


def _direct(name: str, start: str, **params: Any) -> Entrant:
    return Entrant(name, _DIRECT, {"start": start, **params}, "baseline")


def _students(
    tuned: dict[str, Any], one: dict[str, Any], spaces: tuple[Any, ...], **shared: Any
) -> tuple[Entrant, ...]:
    """Return the system on these sub-spaces, and its rivals, of which one distils the given shape alone."""
    distilled, made = {**tuned, **shared, "spaces": spaces}, {**tuned, "spaces": spaces}
    return (
        _own("autodistil", "system", **distilled),
        _own(_ALONE, "baseline", **{**distilled, "spaces": (one,)}),
        _direct(_SCRATCH, "random", **made), _direct(_SLICES, "slices", **made),
        _direct(_ANSWERS, "slices", answers=True, **made),
    )  # fmt: skip


_SCRATCH, _SLICES, _ANSWERS = "directly trained", "slices, not distilled", "teacher's answers"
_ALONE, _UNTAUGHT = "one student, distilled alone", "random teacher"
_RIVALS = (_SCRATCH, _SLICES, _ALONE, _ANSWERS)
_PROBED = {"loss": "mse", "epochs": 4}
_MINILM = (
    {"name": "tiny", "layers": [1, 2], "heads": [4, 8], "width": [96, 128], "ratio": [2, 4]},
    {"name": "one", "layers": [2], "heads": [8], "width": [128], "ratio": [4]},
)

CLAIM = Claim(
    system="autodistil",
    statement=(
        "A student that is cut without training out of a SuperLM, which learned a teacher's attention relations from "
        "inputs without labels, needs fewer labels than others of its size; and SuperLMs of compact sub-spaces learn "
        "more of the teacher than one of a large space."
    ),
    experiments=(
        Experiment(
            "fifty labels", "distillation", "digits",
            (
                *_students(_TUNED, _ONE, (_TINY,), epochs=20, batch_size=64),
                _own(_UNTAUGHT, **_TUNED, epochs=20, batch_size=64, spaces=[_TINY], teacher=None, small={"steps": 0}),
                Entrant("linear", "anytask.evaluate.baselines:LinearClassifier", {}, "baseline"),
            ),
            {"taught": "labels", "unlabeled": 950, "max_test": 600, "budget": 12_000}, "linear",
            {"unlabeled": 100, "max_test": 1500}, _SHORT,
        ),
        Experiment(
            "spaces", Probes(), "digits",
            (
                _own("autodistil", "system", **_PROBED),
                _own("one large space", "baseline", **{**_PROBED, "epochs": 8}, spaces=[_ALL]),
                _own("no sandwich", **_PROBED, sampling="random"),
            ),
            {"per_class": 1, "unlabeled": 1000, "max_test": 300}, None, {"unlabeled": 60}, _SHORT,
        ),
    ),
    headline=(
        Beats("autodistil", _RIVALS, "accuracy", sentence="with fifty labels of the digits",
              expected="+.09 to +.16 over directly trained ones after 200 steps, in a prototype"),
        Beats("autodistil", ("one large space",), "tiny", "spaces", 0.05, True, expected="-13 to -41 %, in a prototype",
              sentence="relation loss of the largest tiny member, with half of the steps for each SuperLM"),
    ),
    components=(
        Beats("autodistil", (_SCRATCH,), "accuracy", sentence="distillation, against labels alone", expected="+.09"),
        Beats("autodistil", (_UNTAUGHT,), "accuracy", sentence="a teacher that learned something"),
        Beats("autodistil", ("one large space",), "base", "spaces", 0.05, True,
              sentence="compact sub-spaces: the largest base member", expected="-25 to -48 %"),
        Beats("autodistil", ("no sandwich",), "base", "spaces", 0.05, True, sentence="the sandwich, largest member"),
        Beats("autodistil", ("no sandwich",), "smallest", "spaces", 0.05, True,
              sentence="the sandwich, smallest member"),
    ),
    sizes=(Size(_ANSWERS, "accuracy", "A student of the fine-tuned teacher's answers"),),
    real=RealTrial(
        "MiniLM teaches students of a fifth of its size reviews, customer messages and news items written for this "
        "project, 40 labelled texts of each; the teacher's weights are real",
        (
            Experiment(
                "three text tasks", ThreeTasks(), None,
                _students(_FEW_STEPS, _MINILM[1], _MINILM[:1], epochs=6),
                {}, None, {"n_train": 8, "n_test": 4},
                _SHORT,
            ),
        ),
        (Beats("autodistil", _RIVALS, "accuracy"),),
    ),
    source="code",
    tried=(
        "The digits, the teacher, the sub-spaces and the losses are those of our prototype, whose sizes are the "
        "expected ones; the teacher has learned the task's labels there. On development seed 0, after 80, 200, 600 and "
        "1,500 steps of fine-tuning, a student trained directly had .49, .65, .74 and .71, one of AutoDistil .51, .76, "
        ".79 and .78, one that was distilled alone .61, .78, .76 and .73: what 200 steps show is in part too little "
        "training, and 300 are taken. A student of the fine-tuned teacher's answers had .93, a linear model .87: who "
        "has one task and one budget needs neither sub-spaces nor relations, and the headline holds that rival all "
        "the same. With the scores' squared difference in the place of the divergence AutoDistil had .69 after 200 "
        "steps. The trial on texts was run in a quick look alone, for its errors."
    ),
)  # fmt: skip
