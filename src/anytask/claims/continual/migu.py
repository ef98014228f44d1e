"""MIGU: letting only the units learn that a batch excites keeps more of the earlier tasks, and asks for nothing."""

from typing import Any

from anytask.claims.base import Beats, Claim, Experiment, RealTrial, Size
from anytask.claims.continual.lora_texts import LoRATexts
from anytask.claims.continual.words import Words
from anytask.problems.base import Entrant

_MODULE = "anytask.claims.continual.words"
_LORA = "anytask.claims.continual.lora_texts:LoRATuning"
_SGD = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "n_features": 64}
_OPTIONS = {"epochs": 6, "batch_size": 16, "test_size": 1 / 3, "curve_points": 0}
_PLAIN, _RANDOM, _LATE = "fine-tuning", "random units", "migu (first task not gated)"


def _gated(name: str, role: str = "ablation", **params: Any) -> Entrant:
    key = "migu" if role == "system" else None
    return Entrant(name, f"{_MODULE}:GatedBlock", {**_SGD, **params}, role, key)  # type: ignore[arg-type]


CLAIM = Claim(
    system="migu",
    statement=(
        "Updating only the units whose output is large on the current batch leaves a network more accurate over all "
        "tasks than plain fine-tuning, without old samples and without a word on the tasks."
    ),
    experiments=(
        Experiment(
            "words", Words(), 0,
            (
                _gated("migu", "system"), _gated(_RANDOM, units="random"), _gated(_LATE, start_step=150),
                _gated("migu (ratio 0.3)", ratio=0.3), _gated("migu (strict)", strict=True),
                Entrant(_PLAIN, f"{_MODULE}:PlainBlock", _SGD, "baseline"),
                Entrant("replay", f"{_MODULE}:ReplayBlock", {**_SGD, "buffer": 100}, "baseline"),
                Entrant("joint training", f"{_MODULE}:JointBlock", _SGD, "baseline"),
                Entrant("nearest mean", "anytask.continual:NearestClassMean", {}, "baseline"),
            ),
            _OPTIONS, "nearest mean", {"epochs": 1, "max_per_class": 20},
        ),
    ),
    headline=(
        Beats("migu", (_PLAIN, _RANDOM), "accuracy", expected="+.03 to +.05 over fine-tuning, +.02 over random units"),
    ),
    components=(
        Beats("migu", (_RANDOM,), "accuracy", sentence="magnitudes, not random units", expected="+.02"),
        Beats(_LATE, ("migu",), "accuracy", sentence="gating from the second task on, where borders are known"),
        Beats("migu", ("migu (ratio 0.3)",), "accuracy", sentence="seven tenths of the units, not three"),
        Beats("migu (strict)", ("migu",), "accuracy", sentence="putting masked rows back, with plain SGD",
              expected="0"),
    ),
    sizes=(
        Size("migu", "forgetting", "Forgetting", expected=".34 with SGD, .40 of fine-tuning"),
        Size("migu", "learning_accuracy", "Accuracy right after a task", expected=".995"),
        Size("replay", "accuracy", "Replay of 100 stored samples"),
        Size("joint training", "accuracy", "A block trained on all tasks at once"),
    ),
    real=RealTrial(
        "SmolLM2-135M-Instruct learns reviews, customer messages and news items written for this project through LoRA, "
        "one task after the other",
        (
            Experiment(
                "three text tasks", LoRATexts(), None,
                (
                    Entrant("migu", _LORA, {"gate": "magnitude"}, "system", "migu"),
                    Entrant(_RANDOM, _LORA, {"gate": "random"}, "ablation"),
                    Entrant("LoRA", _LORA, {}, "baseline"),
                    Entrant("LoRA on all tasks at once", _LORA, {"joint": True}, "baseline"),
                    Entrant("zero-shot", _LORA, {"epochs": 0}, "baseline"),
                ),
                {"n_train": 64, "n_test": 24}, "zero-shot", {"n_train": 8, "n_test": 2},
            ),
        ),
        (Beats("migu", ("LoRA", _RANDOM), "accuracy"),),
    ),
    source="code",
    tried=(
        "The world and the rate are those of our prototype. Replay stores what MIGU must not store, and is printed "
        "beside it. On permuted digits, whose tasks excite the same units, MIGU gains nothing, as in the prototype. "
        "The trial has the rank, scale and layers of the paper's LoRA scripts, and a rate of 1e-3, of which no other "
        "was tried; its order of tasks is drawn by the seed, and the first task is not gated."
    ),
)  # fmt: skip
