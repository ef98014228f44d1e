"""Uni-Perceiver v2: steps of one task each give every task its say, and one network without heads does four tasks."""

from typing import Any

from anytask.claims.base import Beats, Claim, Experiment, RealTrial, Size
from anytask.claims.multitask.scenes import Scenes
from anytask.claims.multitask.unbalanced import Unbalanced
from anytask.problems.base import Entrant

_LAYER, _MODEL = "anytask.claims.multitask.unbalanced:OneLayer", "anytask.multitask:UniPerceiverV2"
_LINEAR = Entrant("linear", "anytask.claims.multitask.unbalanced:Linear", {}, "baseline")
_MODELS = Entrant("linear models", "anytask.claims.multitask.scenes:LinearModels", {}, "baseline")
_ADAMW, _MIXED = ("adamw", "adamw, rate .01", "adamw, clipped"), ("uncertainty, mixed", "imtl-g, mixed")
_SMALL = {"width": 48, "layers": 1, "steps": 300, "lr": 1e-3}


def _layer(name: str, how: str, role: str = "baseline", **params: Any) -> Entrant:
    return Entrant(name, _LAYER, {"how": how, **params}, role)  # type: ignore[arg-type]


def _network(name: str, role: str = "ablation", image: Any = (), **params: Any) -> Entrant:
    key = "uni-perceiver-v2" if role == "system" else None
    given = {**_SMALL, **params, "image": {"proposals": 3, "mask_size": 7, **dict(image)}}
    return Entrant(name, _MODEL, given, role, key)  # type: ignore[arg-type]


def _scenes(name: str, data: str, *entrants: Entrant, **options: Any) -> Experiment:
    quick = {"trained": 60, "tested": 30}
    return Experiment(name, Scenes(), data, (*entrants, _MODELS), options, _MODELS.name, quick, {"steps": 10})


_LITE = {"tower": "efficientnet-lite0", "freeze_tower": True, "image_size": 96, "crop_size": 64}
_MNIST = ("uni-perceiver-v2", "by AdamW, rate .002", "by AdamW")


CLAIM = Claim(
    system="uni-perceiver-v2",
    statement=(
        "Where tasks differ in how often they are drawn and in the scale of their losses, task-balanced gradient "
        "normalization leaves less error than AdamW on one task a step, and than mixed steps that a balancer weighs."
    ),
    experiments=(
        Experiment(
            "regressions", Unbalanced(), "regressions",
            (
                _layer("uni-perceiver-v2 (its steps)", "tbgn", "system"), _layer("adamw", "adamw"),
                _layer("adamw, rate .01", "adamw", lr=0.01), _layer("adamw, clipped", "adamw", max_grad_norm=1.0),
                _layer("uncertainty, mixed", "uncertainty", lr=0.01), _layer("imtl-g, mixed", "imtl-g", lr=0.01),
                _layer("not reweighted", "tbgn", "ablation", reweight=False),
                _layer("not normalized", "tbgn", "ablation", normalize=False), _LINEAR,
            ),
            plain="linear", quick_params={"steps": 100},
        ),
        _scenes(
            "scenes", "digits-images", _network("uni-perceiver-v2", "system"),
            _network("whole images alone", image={"proposals": 0}),
            _network("proposals alone", image={"global_tokens": False}), _network("dense", experts=1, top_k=1),
            classes=5, trained=400, tested=100,
        ),
    ),
    headline=(
        Beats("uni-perceiver-v2 (its steps)", _ADAMW, "error", worth=0.05, share=True,
              sentence="against AdamW, one task a step", expected=".017 against .374 in a prototype"),
        Beats("uni-perceiver-v2 (its steps)", _MIXED, "error", worth=0.05, share=True,
              sentence="against mixed steps with balancers"),
    ),
    components=(
        Beats("uni-perceiver-v2 (its steps)", ("not reweighted",), "error", worth=0.05, share=True,
              sentence="moments weighted by 1 / s_k", expected=".017 against .057 in a prototype"),
        Beats("uni-perceiver-v2 (its steps)", ("not normalized",), "error", worth=0.05, share=True,
              sentence="gradients of one length", expected=".017 against .31 in a prototype"),
        Beats("uni-perceiver-v2", ("whole images alone",), "caption", "scenes",
              sentence="proposals, for captions", expected="30.6 against 28.8 BLEU in the paper"),
        Beats("uni-perceiver-v2", ("proposals alone",), "texture", "scenes",
              sentence="global tokens, for textures", expected="-.20 in a prototype"),
        Beats("uni-perceiver-v2", ("dense",), "mean", "scenes", sentence="experts by attributes",
              expected="51.3 against 46.0 text recall in the paper"),
    ),
    sizes=(
        Size("uni-perceiver-v2 (its steps)", "worst", "Error of the worst task"),
        *(Size("uni-perceiver-v2", metric, said, "scenes") for metric, said in (
            ("detection", "Digits found and named (F1)"), ("texture", "Textures named"),
            ("caption", "Captions right in every word"), ("retrieval", "Captions found first"))),
    ),
    real=RealTrial(
        "mnist-5k on textured canvases, seen through efficientnet-lite0: digits and tower are real; the tower is "
        "frozen, and the decoder, the text encoder and what projects features are trained from scratch",
        (
            _scenes(
                "mnist scenes", "mnist-5k", _network(_MNIST[0], "system", _LITE, steps=600),
                _network(_MNIST[1], "baseline", _LITE, balance="adamw", lr=2e-3, steps=600),
                _network(_MNIST[2], "baseline", _LITE, balance="adamw", steps=600), classes=5, rare=0.1, side=64,
                trained=300, tested=60,
            ),
        ),
        (Beats(_MNIST[0], _MNIST[1:], "mean", sentence="balanced steps, where captions are rare"),),
    ),
    source="paper",
    tried=(
        "The regressions are those of our prototype, with 1,500 steps instead of 2,500, and 3e-3 for the rate of "
        "our steps; rivals have .01 too, where that was better (IMTL-G: .08, and .24 with 3e-3). On development "
        "seed 0 the errors were .03 for ours, .61 for AdamW, .18 for linear models; drawing all tasks alike changed "
        "little (AdamW .55, IMTL-G .26, uncertainty weights .31). Scenes have five digits, one layer and 300 steps, "
        "so that ten seeds fit the time; of ten digits 1,000 steps found and named .80. Rates of 3e-4 to 3e-3 were "
        "tried there. On seed 0 the mean of the four tasks was .50, .57 with proposals alone (whose captions were "
        "ahead, and textures behind: .44 against .77), .19 with whole images alone, .44 dense, and .58 with AdamW: "
        "where tasks are drawn alike and losses are of one kind, balanced steps did not help. In the trial on real "
        "data, where captions are rare, they had .66 on seed 0, and AdamW with the rate .002 had .68."
    ),
)  # fmt: skip
