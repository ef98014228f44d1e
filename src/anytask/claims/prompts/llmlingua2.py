"""LLMLingua-2: a small encoder that reads both ways learns what to keep, and answers survive at half the tokens."""

from anytask.claims.base import Beats, Claim, Experiment, Size
from anytask.problems.base import Entrant

LLMLINGUA2 = "anytask.prompts:LLMLingua2"
_MODULE = "anytask.prompts.baselines"

_system = Entrant("llmlingua2", LLMLINGUA2, {}, "system", "llmlingua2")
_causal = Entrant("llmlingua2 (causal encoder)", LLMLINGUA2, {"mask": "causal"}, "ablation")
_truncation = Entrant("truncation", f"{_MODULE}:Truncation", role="baseline")
_random = Entrant("random deletion", f"{_MODULE}:RandomDeletion", role="baseline")
_surprisal = Entrant("bigram surprisal", f"{_MODULE}:SurprisalCompressor", role="baseline")

CLAIM = Claim(
    system="llmlingua2",
    statement=(
        "Where what matters depends on the next word, an encoder that reads both ways finds the words to keep "
        "better than a causal one and far better than surprisal; after distillation from a scripted model that "
        "drops words, answers to questions on a text survive at half its tokens, where random deletion loses "
        "most."
    ),
    experiments=(
        Experiment(
            "modifiers",
            "prompt-compression",
            "modifiers",
            (_system, _causal, _truncation, _random, _surprisal),
            plain="truncation",
            quick={"train": 100, "test": 50},
        ),
        Experiment(
            "key-value",
            "prompt-compression",
            "key-value",
            (_system, _truncation, _random, _surprisal),
            {"train": 600},
            plain="truncation",
            quick={"train": 60, "test": 50},
        ),
    ),
    headline=(
        Beats("llmlingua2", (_surprisal.name, _random.name, _truncation.name), "f1", expected="+.30 over surprisal"),
        Beats("llmlingua2", (_surprisal.name, _random.name, _truncation.name), "exact_match", "key-value"),
    ),
    components=(
        Beats("llmlingua2", (_causal.name,), "f1", sentence="an encoder that reads both ways", expected="+.05"),
    ),
    sizes=(
        Size("llmlingua2", "exact_match", "Answers that survive at half the tokens", "key-value", expected=".90"),
        Size(
            "random deletion",
            "exact_match",
            "Answers that survive random deletion",
            "key-value",
            expected=".60 at most",
        ),
        Size(
            "llmlingua2",
            "rephrased_kept",
            "Rephrased examples that the filters let pass",
            "key-value",
            expected=".5 at most",
        ),
    ),
    source="code",
)
