"""NERO: what a test score prefers, the orbit rejects; and a consensus stands in for labels where models deserve it."""

from anytask.claims.base import Beats, Claim, Experiment, Size
from anytask.claims.evaluate.moving_outputs import MovingOutputs
from anytask.problems.base import Entrant

_NERO = "anytask.evaluate:NERO"
_BASELINES = "anytask.evaluate.baselines"
_PLAIN = Entrant("plain MLP", f"{_BASELINES}:PlainMLP", {}, "baseline")
_AUGMENTED = Entrant("augmented MLP", f"{_BASELINES}:AugmentedMLP", {}, "baseline")
_AVERAGED = Entrant("C4-averaged MLP", f"{_BASELINES}:C4AveragedMLP", {}, "baseline")
_LINEAR = Entrant("linear", f"{_BASELINES}:LinearClassifier", {}, "baseline")
_BY_ACCURACY = Entrant("chosen by accuracy", f"{_BASELINES}:Chosen", {"by": "accuracy"}, "baseline")
_CIRCLE, _WITHIN, _MOVING = "full circle", "within 40 degrees", "outputs that move"

CLAIM = Claim(
    system="nero",
    statement=(
        "On digits that may come turned, test accuracy prefers a plain perceptron to one trained on turned digits, and "
        "NERO reveals the opposite: choosing among models by their orbits gives a far more accurate one over all "
        "rotations. An exactly C4-averaged model is measured as unchanged by quarter turns. The consensus of a "
        "model stands in for labels when the model is right on most of the orbit, and is wrong when it is not; for "
        "outputs that move with their inputs it needs psi^-1."
    ),
    experiments=(
        Experiment(
            _CIRCLE,
            "equivariance",
            "digits",
            (Entrant("nero", _NERO, {}, "system", "nero"), _BY_ACCURACY, _PLAIN, _AUGMENTED, _AVERAGED, _LINEAR),
            {"start": 0, "stop": 345, "step": 15},
            plain="linear",
            quick={"max_per_class": 30},
        ),
        Experiment(
            _WITHIN,
            "equivariance",
            "digits",
            (_PLAIN, _AUGMENTED),
            {"start": -40, "stop": 40, "step": 8},
            quick={"max_per_class": 30},
        ),
        Experiment(
            _MOVING,
            MovingOutputs(),
            "moving outputs",
            (
                Entrant("nero", _NERO, {}, "system", "nero"),
                Entrant("nero (consensus without psi^-1)", _NERO, {"undo": False}, "ablation"),
                Entrant("single answer", "anytask.claims.evaluate.moving_outputs:SingleAnswer", {}, "baseline"),
            ),
            {"n": 40},
            quick={"n": 10},
        ),
    ),
    headline=(
        Beats("nero", ("chosen by accuracy",), "orbit_accuracy", sentence="chosen by their orbits", expected="+.30"),
    ),
    components=(
        Beats(
            "nero", ("nero (consensus without psi^-1)",), "field_error", _MOVING, worth=0.05, share=True,
            sentence="psi^-1 in the consensus of vector fields",
        ),
        Beats("nero", ("nero (consensus without psi^-1)",), "box_iou", _MOVING, sentence="psi^-1 in that of boxes"),
        Beats(
            "nero", ("single answer",), "field_error", _MOVING, worth=0.05, share=True,
            sentence="a consensus against a single answer",
        ),
    ),
    sizes=(
        Size("C4-averaged MLP", "quarter_turn_gap", "Change of an invariant model by quarter turns", expected="0"),
        Size("augmented MLP", "consensus_correct", "Consensus right, model right on most of the orbit", expected=".75"),
        Size("plain MLP", "consensus_correct", "Consensus right, model wrong on most of the orbit", expected=".30"),
        Size("augmented MLP", "consensus_correlation", "Curve without labels against that with them", expected=".9"),
        Size("plain MLP", "consensus_correlation", "The same within 40 degrees", _WITHIN, expected=".8"),
    ),
    source="paper",
    tried=(
        "Margins were set before the first full run, at about half of the differences that an earlier run with other "
        "settings and three other seeds had shown. A pilot on seed 100 led to two changes: the correlation is that of "
        "the mean probabilities, since the accuracy of the augmented model is nearly flat over the orbit, and the "
        "C4-averaged model is trained on quarter turns. The entrants' settings are those of the problem's baselines."
    ),
)  # fmt: skip
