"""LLMLingua-2: a small encoder that reads both ways learns what to keep, and answers survive at half the tokens."""

from anytask.claims.base import Beats, Claim, Experiment, Reaches
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
            quick={"train": 100, "test": 50},
        ),
        Experiment(
            "key-value",
            "prompt-compression",
            "key-value",
            (_system, _truncation, _random, _surprisal),
            {"train": 600},
            quick={"train": 60, "test": 50},
        ),
    ),
    checks=(
        Beats("llmlingua2", "llmlingua2 (causal encoder)", 0.05, "f1", why="the reason for an encoder"),
        Beats("llmlingua2", "bigram surprisal", 0.30, "f1", why="rare is not the same as needed"),
        Reaches("llmlingua2", "exact_match", at_least=0.90, experiment="key-value", why="the answers survive"),
        Reaches("random deletion", "exact_match", at_most=0.60, experiment="key-value", why="and chance loses them"),
        Reaches("llmlingua2", "rephrased_kept", at_most=0.5, experiment="key-value", why="the filters see rewording"),
    ),
)
