"""GPT-3: a language model learns tasks from its context alone, the better the larger it is."""

from anytask.claims.base import Beats, Claim, Experiment, Reaches
from anytask.claims.incontext.gpt3_web import LARGE, SMALL, HiddenTasks
from anytask.problems.base import Entrant

GPT3 = "anytask.incontext:GPT3"
_LARGE, _SMALL = "gpt3 (d=64, 2 layers)", "gpt3 (d=16, 1 layer)"

CLAIM = Claim(
    system="gpt3",
    statement=(
        "A small decoder trained on a web of hidden tasks answers better the more demonstrations it reads, "
        "without any change of its weights; an instruction that names the task works without demonstrations; "
        "shuffled outputs teach nothing; and a smaller model gains less from the context."
    ),
    experiments=(
        Experiment(
            "hidden tasks",
            HiddenTasks(),
            "web",
            (Entrant(_LARGE, GPT3, LARGE, "system", "gpt3"), Entrant(_SMALL, GPT3, SMALL, "baseline")),
            quick={"steps": 40, "n": 30},
        ),
    ),
    checks=(
        Beats(_LARGE, _SMALL, 0.15, "accuracy", why="learning from the context grows with size"),
        Reaches(_LARGE, "gain", at_least=0.30, why="fifteen demonstrations against none"),
        Reaches(_LARGE, "instruction_gain", at_least=0.40, why="the instruction names the task"),
        Reaches(_LARGE, "shuffled_gain", at_most=0.05, why="what is learned is the demonstrations' mapping"),
        Reaches(_LARGE, "weights_changed", at_most=0.0, why="nothing is trained when answering"),
    ),
    tried=(
        "With 450 training steps, three trial seeds gave gains of .31, .25 and .33, and leads over the small "
        "model of .17, .11 and .10; the claim trains 600 steps, as first planned. Initial weights of .02 at "
        "rate 1e-3 left the large model undertrained (.36 after 15 demonstrations); the initialisation was then "
        "scaled to the width and the rates chosen by the training loss on another web, after one seed of both "
        "earlier settings had been seen."
    ),
)
