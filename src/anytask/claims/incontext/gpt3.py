"""GPT-3: a language model learns tasks from its context alone, the better the larger it is."""

from anytask.claims.base import Beats, Claim, Experiment, RealTrial, Size
from anytask.claims.incontext.gpt3_web import LARGE, SMALL, HiddenTasks
from anytask.problems.base import Entrant

GPT3 = "anytask.incontext:GPT3"
_LARGE, _SMALL, _NEAREST = "gpt3 (d=64, 2 layers)", "gpt3 (d=16, 1 layer)", "nearest demonstration"
_MANY, _ONE, _ZERO, _LINEAR = "gpt3 (8 demonstrations)", "one-shot", "zero-shot", "logistic regression"


def _within(metric: str, rival: str, sentence: str, expected: str) -> Beats:
    return Beats(_LARGE, (_LARGE,), metric, rival_metric=rival, sentence=sentence, expected=expected)


def _trial(data: str, description: str) -> Experiment:
    entrants = (
        Entrant(_MANY, GPT3, {"k": 8}, "system", "gpt3"),
        Entrant(_ONE, GPT3, {"k": 1}, "baseline"),
        Entrant(_ZERO, GPT3, {"k": 0}, "baseline"),
        Entrant(_LINEAR, "anytask.incontext.baselines:EmbeddingClassifier", {}, "baseline"),
    )
    options = {"lm": "smollm2-135m?dtype=float32", "labels": 8, "max_test": 64, "description": description}
    return Experiment(data, "few-shot-text", data, entrants, options, _LINEAR, {"max_test": 8})


CLAIM = Claim(
    system="gpt3",
    statement=(
        "Scaling up a language model greatly improves what it makes of instructions and demonstrations in its context, "
        "without any gradient update."
    ),
    experiments=(
        Experiment(
            "hidden tasks", HiddenTasks(), "web",
            (
                Entrant(_LARGE, GPT3, LARGE, "system", "gpt3"),
                Entrant(_SMALL, GPT3, SMALL, "baseline"),
                Entrant(_NEAREST, "anytask.claims.incontext.gpt3_web:NearestDemonstration", role="baseline"),
            ),
            plain=_NEAREST, quick={"steps": 40, "n": 30},
        ),
    ),
    headline=(
        Beats(_LARGE, (_SMALL, _NEAREST), "accuracy", sentence="size, both in the context", expected="+.58 by size"),
        Beats(_LARGE, (_SMALL, _NEAREST), "novel", sentence="size, for queries that no demonstration answers"),
    ),
    components=(
        Beats(_LARGE, (_SMALL,), "gain", sentence="size, in what demonstrations add", expected="+.25"),
        _within("few_shot", "zero_shot", "fifteen demonstrations", "+.42"),
        _within("few_shot", "one_shot", "many demonstrations, not one", "+.39"),
        _within("instructed", "zero_shot", "an instruction", "+.69"),
        _within("few_shot", "shuffled", "right outputs in the demonstrations", "+.42"),
    ),
    sizes=(
        Size(_LARGE, "few_shot", "Fifteen demonstrations alone, larger model", expected=".63"),
        Size(_SMALL, "few_shot", "Fifteen demonstrations alone, smaller model", expected=".36"),
        Size(_NEAREST, "few_shot", "Looking the query up among them", expected=".87, by counting"),
        Size(_LARGE, "weights_changed", "Weights changed in answering", expected="0"),
    ),
    real=RealTrial(
        "SmolLM2-135M-Instruct answers; the 320 news items and 320 reviews were written for this project",
        (_trial("topics", "Say what each text is about."), _trial("reviews", "Say what each review thinks.")),
        tuple(Beats(_MANY, (_ONE, _ZERO), "accuracy", data) for data in ("topics", "reviews")),
    ),
    source="paper",
    tried=(
        "Demonstrations alone: whoever looks the query up among them is right in .87 of the cases, far more often than "
        "either model; so the headline asks with the instruction, and for queries that cannot be looked up. Initial "
        "weights of .02 at rate 1e-3 left the large model undertrained (.36 after 15 demonstrations): the weights were "
        "scaled to the width, the rates chosen by the training loss on another web. 450 steps gave gains of .25 to .33."
    ),
)  # fmt: skip
