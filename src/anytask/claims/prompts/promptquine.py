"""PromptQuine: evolution by deletion alone finds better prompts than hill climbing and random search do."""

from anytask.claims.base import Beats, Claim, Experiment, RealTrial, Size
from anytask.datasets.attribute_language import AttributeLanguage
from anytask.problems.base import Entrant

PROMPTQUINE = "anytask.prompts:PromptQuine"
_MODULE = "anytask.prompts.baselines"
_TINY = "tiny model, 3 of 8 demonstrations wrong"


def _quine(name: str = "promptquine", **params: object) -> Entrant:
    return Entrant(name, PROMPTQUINE, params, "ablation" if params else "system", None if params else "promptquine")


_full = Entrant("full prompt", f"{_MODULE}:FullPrompt", role="baseline")
_rivals = (
    Entrant("TAPruning", "anytask.prompts:TAPruning", role="baseline"),
    Entrant("TAPruning, restarted", "anytask.claims.prompts.restarts:RestartedTAPruning", role="baseline"),
    Entrant("greedy deletion", f"{_MODULE}:GreedyPruning", role="baseline"),
    Entrant("random masks", f"{_MODULE}:RandomMasks", role="baseline"),
)
_names = tuple(one.name for one in _rivals)
_brief = Entrant("promptquine", PROMPTQUINE, {"population": 8, "offspring": 12}, "system", "promptquine")


def coded_topics(n: int = 600, seed: int = 0) -> tuple[list[str], list[str]]:
    """Sentences of the attribute language that the tiny model was not trained on, and a code word for their topics.

    The code has to be read from the demonstrations, so wrong ones mislead.
    """
    language = AttributeLanguage(seed=seed)
    code = language.labels("topic", labeling="coded")
    sentences = [language.sentence(held_out=True) for _ in range(n)]
    return [s.text for s in sentences], [code[s.attributes["topic"]] for s in sentences]


CLAIM = Claim(
    system="promptquine",
    statement=(
        "Evolving a few-shot prompt by deleting tokens finds better prompts than pruning it token by token, "
        "and pruned prompts beat the full one."
    ),
    experiments=(
        Experiment(
            "scripted model", "prompt-search", "scripted",
            (_quine(), _quine("promptquine (r=1)", counts=[1]), _quine("promptquine (no ageing)", ageing=False),
             _quine("promptquine (steady state)", algorithm="ssga"), _full, *_rivals),
            plain="full prompt", quick={"budget": 100},
        ),
        Experiment(
            _TINY, "prompt-search", coded_topics(), (_brief, _full, *_rivals),
            {"lm": "tiny:icl", "shots": 2, "wrong": 3, "search": 4, "budget": 200, "validation": 100, "max_test": 200},
            plain="full prompt", quick={"budget": 20, "max_test": 20, "validation": 20, "search": 2},
        ),
    ),
    headline=(
        Beats("promptquine", _names, "accuracy", expected="+.03 over TAPruning, +.06 over random masks"),
        Beats("promptquine", _names, "accuracy", _TINY, sentence="the same on a tiny language model"),
    ),
    components=(
        Beats("promptquine", ("promptquine (r=1)",), "accuracy", sentence="several deletions at once", expected="+.02"),
        Beats("promptquine", ("promptquine (no ageing)",), "accuracy", sentence="ageing", expected="0"),
        Beats("promptquine", ("full prompt",), "accuracy", _TINY, sentence="pruning what misleads"),
    ),
    sizes=(
        Size("promptquine", "gain", "Gain over the full prompt", expected="+.52"),
        Size("promptquine", "evaluations", "Prompts scored", expected="770"),
        Size("promptquine", "prompt_tokens", "Tokens left of 49", expected="19"),
        Size("promptquine (steady state)", "accuracy", "The steady-state variant"),
    ),
    real=RealTrial(
        "SmolLM2-135M-Instruct prunes two demonstrations of its own; the 320 reviews were written for this project",
        (
            Experiment(
                "reviews", "prompt-search", "reviews", (_brief, _full, _rivals[0], _rivals[3]),
                {
                    "lm": "smollm2-135m?dtype=float32", "shots": 1, "search": 4, "budget": 60, "validation": 24,
                    "max_test": 60,
                },
                plain="full prompt", quick={"budget": 8, "max_test": 8, "validation": 4},
            ),
        ),
        (Beats("promptquine", ("full prompt", "TAPruning", "random masks"), "accuracy"),),
        seeds=3,
    ),
    source="code",
    tried=(
        "TAPruning stops at some 90 prompts of 1000; restarted in other orders it spends what evolution may: the "
        "fairer rival. With the topics' own names as labels the tiny model needs no demonstrations (the full prompt "
        "was right on every test sentence of one seed), so the labels are code words that only demonstrations tell. "
        "On language models, tiny or real, members and children are fewer than the paper's, or the 200 and 60 prompts "
        "that these can be asked about would be four generations and two. With 200 prompts TAPruning was ahead on one "
        "development seed of the tiny model (.71 and .52)."
    ),
)  # fmt: skip
