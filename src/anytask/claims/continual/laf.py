"""LAF makes a classifier forget a class without any label, and with them after one pass of repair."""

from typing import Any

from anytask.claims.base import Beats, Claim, Experiment, RealTrial, Size
from anytask.problems.base import Entrant

_LAF = "anytask.continual:LAF"
_MODULE = "anytask.continual.unlearning"
_KINDS = {"training on": "Retained", "gradient ascent": "GradientAscent", "random labels": "RandomLabels"}
_PASSES = {"epochs": 80}
_laf = Entrant("laf", _LAF, _PASSES, "system", "laf")
_repaired = Entrant("laf, repaired", "anytask.claims.continual.repair:Repaired", _PASSES, "system")
_told = tuple(Entrant(name, f"{_MODULE}:{cls}", {}, "baseline") for name, cls in _KINDS.items())
_untold = tuple(
    Entrant(f"{name} (own answers)", f"{_MODULE}:{cls}", {"own_labels": True}, "baseline")
    for name, cls in _KINDS.items()
)
_nothing = Entrant("nothing", f"{_MODULE}:Untouched", {}, "baseline")


def _without(name: str, **params: Any) -> Entrant:
    return Entrant(f"laf ({name})", _LAF, {**_PASSES, **params}, "ablation")


_ONE_LOSS = (_without("no unlearning loss", lr_forget=0.0), _without("no alignment", lr_align=0.0))
_TEN: dict[str, Any] = {"epochs": 10, "temperature": 20.0, "vae": {"standardize": True}}
_SHORT = (_without("10 passes", **_TEN), _without("10 passes, no unlearning loss", **_TEN, lr_forget=0.0))
_QUICK = {"epochs": 5, "max_per_class": 40}


def _forgets(name: str, data: str, *entrants: Entrant, forget: str = "class:0", **options: Any) -> Experiment:
    return Experiment(name, "unlearning", data, entrants, {"forget": forget, **options}, _nothing.name, _QUICK)


def _headline(experiment: str) -> tuple[Beats, ...]:
    untold, told = (tuple(one.name for one in rivals) for rivals in (_untold, _told))
    return (
        Beats("laf", untold, "gap", experiment, 0.05, share=True, sentence="where nobody has labels"),
        Beats(_repaired.name, told, "gap", experiment, 0.05, share=True, sentence="repaired, where all have them"),
    )


CLAIM = Claim(
    system="laf",
    statement=(
        "Without labels, a classifier forgets a class so that it comes closer to one trained anew than what trains it "
        "on; repaired by one pass over labelled inputs it comes closer than what has labels too."
    ),
    experiments=(
        _forgets("a class", "digits", _laf, _repaired, *_untold, *_told, *_ONE_LOSS, *_SHORT, _nothing),
        _forgets("wrong labels", "digits", _laf, _repaired, *_told, _nothing, forget="noise:0.3"),
    ),
    headline=_headline("a class"),
    components=(
        Beats("laf", (_ONE_LOSS[0].name,), "gap", sentence="the loss that forgets", share=True, worth=0.05),
        Beats("laf", (_ONE_LOSS[1].name,), "gap", sentence="the alignment", share=True, worth=0.05),
        Beats(_repaired.name, ("laf",), "unseen", "wrong labels", sentence="the repair, after wrong labels",
              expected="+.07 in a prototype"),
    ),
    sizes=(
        Size("laf", "forgotten", "Accuracy on the forgotten class", expected="0.10 at most"),
        Size("laf", "attack", "Forgotten rows taken for training rows", expected=".48 in the paper, on other data"),
        Size("laf", "share_of_time", "Time, as a share of training anew"),
    ),
    real=RealTrial("mnist-5k: the images are real, the classifier is trained from scratch",
                   (_forgets("mnist", "mnist-5k", _laf, _repaired, *_untold, *_told, _nothing),), _headline("mnist")),
    source="code",
    tried=(
        "First recorded with 40 passes, from a prototype: contradicted, and without the loss that forgets the gap "
        "was the same. Before the second look LAF's settings were chosen as the rivals' are (1 to 20 passes, three "
        "rates), by the gap on the development seeds 0 to 2: 10, 20, 40 or 80 passes, T = 5 or 20 (the paper's for "
        "classes and wrong labels), embeddings as they are or standardized. These 16 gaps ran from .266 to .0024; "
        "random labels had .002. With 80 passes they were .0024 to .0027, but for T = 5 and standardized (.0040). "
        "The smallest, T = 20 and standardized, did not forget three clouds of points in the class's own example; "
        "so the passes alone were raised here, to 80 (.0027); the preset keeps 40 (.006), which take half the time. "
        "5 passes, auto-encoders of 100 and 300 passes, a "
        "sigmoid's, and the mean in place of the sum of squared errors were looked at too; none was better. The "
        "alignment alone forgets a class of digits in 20 passes, so a comparison after 10 was added, with T = 20, "
        "where it had not begun: .333 without the other loss, .097 with it and standardized. It is a setting in "
        "which the loss works, chosen for that: its runs are recorded, and are not counted as a component. Rows that "
        "were learned have the same own answers and labels. Where random rows go, there is little to forget, and LAF "
        "hardly moves."
    ),
)  # fmt: skip
