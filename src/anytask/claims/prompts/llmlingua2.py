"""LLMLingua-2: a small encoder that reads both ways learns which words to keep."""

from anytask.claims.base import Beats, Claim, Experiment, RealTrial, Size
from anytask.problems.base import Entrant

LLMLINGUA2 = "anytask.prompts:LLMLingua2"
_MODULE, _HERE = "anytask.prompts.baselines", "anytask.claims.prompts.compression_rivals"

_QUICK = {"training": {"epochs": 2}}

_system = Entrant("llmlingua2", LLMLINGUA2, {}, "system", "llmlingua2")
_causal = Entrant("llmlingua2 (causal encoder)", LLMLINGUA2, {"mask": "causal"}, "ablation")
_unfiltered = Entrant(
    "llmlingua2 (no filters)", LLMLINGUA2, {"distillation": {"variation": 100, "gap": 100}}, "ablation"
)
_simple = (
    Entrant("truncation", f"{_MODULE}:Truncation", role="baseline"),
    Entrant("random deletion", f"{_MODULE}:RandomDeletion", role="baseline"),
)
_rivals = (
    *_simple,
    Entrant("word surprisal", f"{_MODULE}:SurprisalCompressor", {"order": 1}, "baseline"),
    Entrant("bigram surprisal", f"{_MODULE}:SurprisalCompressor", role="baseline"),
    Entrant("keep rates of words", f"{_HERE}:KeepRates", role="baseline"),
)
_real = (
    *_simple,
    Entrant("selective context", f"{_HERE}:SelectiveContext", role="baseline"),
    Entrant("uncompressed", f"{_MODULE}:Uncompressed", role="baseline"),
)

CLAIM = Claim(
    system="llmlingua2",
    statement=(
        "A small encoder that sees the words on both sides, trained on a language model's compressions, keeps the "
        "words that matter better than the surprisal of a causal language model does."
    ),
    experiments=(
        Experiment(
            "modifiers", "prompt-compression", "modifiers", (_system, _causal, *_rivals), plain="random deletion",
            quick={"train": 60, "test": 50}, quick_params=_QUICK,
        ),
        Experiment(
            "key-value", "prompt-compression", "key-value", (_system, _unfiltered, *_rivals),
            {"train": 600, "rate": 0.25}, plain="random deletion", quick={"train": 60, "test": 50},
            quick_params=_QUICK,
        ),
    ),
    headline=(
        Beats(
            "llmlingua2", tuple(one.name for one in _rivals), "f1",
            expected="+.30 over surprisal, of which a causal encoder leaves +.05",
        ),
    ),
    components=(
        Beats("llmlingua2", (_causal.name,), "f1", sentence="an encoder that reads both ways", expected="+.05"),
        Beats("llmlingua2", (_unfiltered.name,), "f1", "key-value", sentence="the filters of the training texts"),
        Beats("llmlingua2", ("llmlingua2",), "f1_pooled", rival_metric="f1", sentence="a rate for each text"),
    ),
    sizes=(
        Size("llmlingua2", "exact_match", "Answers that survive at a quarter of the tokens", "key-value"),
        Size("word surprisal", "exact_match", "The same, keeping rare words", "key-value"),
        Size("random deletion", "exact_match", "The same, at random", "key-value"),
        Size("llmlingua2", "rephrased_kept", "Rephrased examples that pass the filters", "key-value", expected=".5"),
    ),
    real=RealTrial(
        "SmolLM2-135M-Instruct reads news items at half their words, and gives Selective Context its surprisals; the "
        "encoder is the tiny one of this package, the items were written for this project",
        (
            Experiment(
                "topics", "few-shot-text", "topics", (_system, *_real),
                {"lm": "smollm2-135m?dtype=float32", "labels": 8, "k": 4, "max_test": 64, "rate": 0.5},
                plain="truncation", quick={"max_test": 4},
            ),
        ),
        (Beats("llmlingua2", ("truncation", "random deletion", "selective context"), "accuracy"),),
    ),
    source="code",
    tried=(
        "Answers on key-value documents were a headline until keeping rare words, which needs no training, kept them "
        "all (one seed): there they stand as sizes, at a quarter of the tokens instead of half, which keeps all as "
        "well. Rivals that know word frequencies, and the keep rates of words in the same labels, were added then; the "
        "latter is the strongest."
    ),
)  # fmt: skip
