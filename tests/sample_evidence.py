"""Evidence as `anytask verify` records it, with made-up numbers."""

from typing import Any


def _compared(sentence: str, mean: float, low: float, high: float, outcome: str) -> dict[str, Any]:
    return {
        "sentence": sentence,
        "experiment": "digits",
        "better": "tame",
        "baseline": "replay",
        "metric": "accuracy",
        "label": "Accuracy",
        "worth": 0.01,
        "difference": {"mean": mean, "low": low, "high": high},
        "values": [low, mean, high],
        "means": {"tame": 0.9, "replay": 0.9 - mean, "fine-tuning": 0.3},
        "outcome": outcome,
        "expected": "+.10",
    }


def sample(key: str = "tame") -> dict[str, Any]:
    """Return evidence with a headline, two components, a plain reference and a size."""
    return {
        "system": key,
        "claim": "The system beats the others.",
        "outcome": "shown",
        "headline": [_compared("tame beats its rivals", 0.3, 0.2, 0.4, "shown")],
        "components": [
            _compared("routing", 0.2, 0.1, 0.3, "shown"),
            _compared("a floor on the deviation", 0.0, -0.1, 0.1, "not shown"),
        ],
        "sizes": [
            {"sentence": "Experts made", "experiment": "digits", "name": "tame", "metric": "experts",
             "mean": 5.0, "low": 4.5, "high": 5.5, "expected": "5"},
        ],
        "plain": [{"experiment": "digits", "name": "nearest mean", "metric": "accuracy", "label": "Accuracy",
                   "mean": 0.55, "beats_everybody": False}],
        "rows": [{"experiment": "digits", "metric": "accuracy", "role": "system", "name": "tame", "seed": 100,
                  "value": 0.9}],
        "real": {"none": "no trial is written yet"},
        "source": "code",
        "tried": "Nothing else.",
        "looks": 1,
        "seeds": list(range(100, 110)),
        "kind": None,
        "costs": {"digits": {"tame": {"wall_seconds": 12.5, "trainable_parameters": 5000.0}}},
        "experiments": [{"name": "digits", "problem": "task-stream", "data": "digits", "options": {},
                         "entrants": [{"name": "tame", "entry": "anytask.continual:TAME", "params": {}}]}],
        "failures": [],
        "commit": None,
        "seconds": 100.0,
        "peak_bytes": 2**28,
        "versions": {},
        "recorded": "2026-11-30T10:00:00+00:00",
    }  # fmt: skip
