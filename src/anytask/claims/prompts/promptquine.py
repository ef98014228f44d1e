"""PromptQuine: evolution by deletion alone finds better prompts than hill climbing and random search do."""

from anytask.claims.base import Beats, Claim, Experiment
from anytask.datasets.attribute_language import AttributeLanguage
from anytask.problems.base import Entrant

PROMPTQUINE = "anytask.prompts:PromptQuine"
_MODULE = "anytask.prompts.baselines"

_TINY = "tiny model, 3 of 8 demonstrations wrong"

_quine = Entrant("promptquine", PROMPTQUINE, {}, "system", "promptquine")
_steady = Entrant("promptquine (steady state)", PROMPTQUINE, {"algorithm": "ssga"}, "ablation")
_single = Entrant("promptquine (r=1)", PROMPTQUINE, {"counts": [1]}, "ablation")
_ageless = Entrant("promptquine (no ageing)", PROMPTQUINE, {"ageing": False}, "ablation")
_full = Entrant("full prompt", f"{_MODULE}:FullPrompt", role="baseline")
_tap = Entrant("TAPruning", "anytask.prompts:TAPruning", role="baseline")
_greedy = Entrant("greedy deletion", f"{_MODULE}:GreedyPruning", role="baseline")
_masks = Entrant("random masks", f"{_MODULE}:RandomMasks", role="baseline")


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
        "Where tokens of a prompt help only together, deleting one at a time gets stuck. Evolving the prompt by "
        "deleting one to four tokens crosses such valleys: better test accuracy than threshold-accepting hill "
        "climbing and than as many random masks. On a tiny language model, pruning a prompt with wrong "
        "demonstrations raises its accuracy."
    ),
    experiments=(
        Experiment(
            "scripted model",
            "prompt-search",
            "scripted",
            (_quine, _steady, _single, _ageless, _full, _tap, _greedy, _masks),
            plain="full prompt",
            quick={"budget": 100},
        ),
        Experiment(
            _TINY,
            "prompt-search",
            coded_topics(),
            (_quine, _full, _tap, _masks),
            {"lm": "tiny:icl", "shots": 2, "wrong": 3, "budget": 200, "validation": 100, "max_test": 200},
            plain="full prompt",
            quick={"budget": 60, "max_test": 50},
        ),
    ),
    headline=(
        Beats("promptquine", ("TAPruning", "greedy deletion", "random masks"), "accuracy", expected="+.03 to +.06"),
        Beats("promptquine", ("TAPruning", "random masks"), "accuracy", _TINY, sentence="the same on a tiny model"),
    ),
    components=(
        Beats("promptquine", ("promptquine (r=1)",), "accuracy", sentence="several deletions at once"),
        Beats("promptquine", ("promptquine (no ageing)",), "accuracy", sentence="ageing"),
        Beats("promptquine", ("full prompt",), "accuracy", _TINY, sentence="pruning what misleads"),
    ),
    source="code",
    tried=(
        "Ageing, and the steady-state variant, are reported and not judged. With the topics' own names as "
        "labels the tiny model needs no demonstrations (the full prompt was right on every test sentence of the "
        "one seed that was run), so the labels are code words that only the demonstrations tell."
    ),
)
