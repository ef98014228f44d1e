"""NERO: what a test score prefers, the orbit rejects; and a consensus stands in for labels where models deserve it."""

from anytask.claims.base import Beats, Claim, Experiment, Reaches
from anytask.claims.evaluate.moving_outputs import MovingOutputs
from anytask.problems.base import Entrant

_NERO = "anytask.evaluate:NERO"
_BASELINES = "anytask.evaluate.baselines"
_PLAIN = Entrant("plain MLP", f"{_BASELINES}:PlainMLP", {}, "baseline")
_AUGMENTED = Entrant("augmented MLP", f"{_BASELINES}:AugmentedMLP", {}, "baseline")
_AVERAGED = Entrant("C4-averaged MLP", f"{_BASELINES}:C4AveragedMLP", {}, "baseline")
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
            (Entrant("nero", _NERO, {}, "system", "nero"), _BY_ACCURACY, _PLAIN, _AUGMENTED, _AVERAGED),
            {"start": 0, "stop": 345, "step": 15},
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
    checks=(
        Beats("nero", "chosen by accuracy", 0.30, "orbit_accuracy", why="half of what turned digits are known to cost"),
        Beats("plain MLP", "augmented MLP", 0.03, "accuracy", why="(a) a single score prefers the plain model"),
        Beats("augmented MLP", "plain MLP", 0.30, "orbit_accuracy", why="(a) and the orbit the augmented one"),
        Beats("augmented MLP", "plain MLP", 0.0, "confidence_spread", factor=0.5, why="at most half the spread"),
        Beats("augmented MLP", "plain MLP", 0.30, "orbit_accuracy", _WITHIN, why="also for small rotations"),
        Reaches("C4-averaged MLP", "quarter_turn_gap", at_most=1e-5, why="(b) exactly invariant, so flat"),
        Reaches("augmented MLP", "consensus_correct", at_least=0.75, why="(c) right on most of the orbit"),
        Reaches("augmented MLP", "consensus_correlation", at_least=0.9, why="(c) the same curve without labels"),
        Reaches("plain MLP", "consensus_correct", at_most=0.30, why="(c) wrong on most of the orbit"),
        Reaches("plain MLP", "consensus_correlation", at_most=0.0, why="(c) and misleading there"),
        Reaches("plain MLP", "consensus_correlation", at_least=0.8, experiment=_WITHIN, why="(c) usable again"),
        Beats(
            "nero", "nero (consensus without psi^-1)", 0.0, "field_error", _MOVING, factor=0.5,
            why="without psi^-1 the error is clearly larger",
        ),
        Beats("nero", "nero (consensus without psi^-1)", 0.2, "box_iou", _MOVING, why="the same for boxes"),
        Beats("nero", "single answer", 0.0, "field_error", _MOVING, why="averaging takes the bias out"),
    ),
    tried=(
        "Margins were set before the first full run, at about half of the differences that an earlier run with other "
        "settings and three other seeds had shown. A pilot on seed 100 led to two changes: the correlation is that of "
        "the mean probabilities, since the accuracy of the augmented model is nearly flat over the orbit, and the "
        "C4-averaged model is trained on quarter turns. The entrants' settings are those of the problem's baselines."
    ),
)  # fmt: skip
