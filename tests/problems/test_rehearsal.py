"""What runs will ask of a real model is told before they start, within a factor of two of what they then ask."""

import re

import pytest

from anytask import problems
from anytask.lm import load_lm
from anytask.problems.base import Entrant

SMALL = {
    "demonstration-selection": ({"pool": 20, "test": 10, "budget": 6}, "anytask.incontext:VoteK"),
    "prompt-search": ({"budget": 10, "search": 2, "validation": 6, "max_test": 12}, "anytask.prompts:PromptQuine"),
    "prompt-compression": ({"test": 6}, "anytask.prompts.baselines:Uncompressed"),
}


@pytest.mark.parametrize("key", SMALL)
def test_what_runs_ask_is_told_before(key):
    lm = load_lm("tiny:icl")
    lm.kind = "local"  # a tiny model costs nothing worth a word
    options, entry = SMALL[key]
    problem = problems.get(key)
    data = problem.load("reviews", lm=lm, **options)
    entrant = Entrant("one", entry)
    sentence = problem.forecast([entrant, entrant], data, jobs=2)
    before = lm.usage.total
    for _ in range(2):
        problem.run(entrant, data, 0)
    used = lm.usage.total - before
    calls, tokens = (int(n.replace(",", "")) for n in re.findall(r"([0-9,]+) (?:times|tokens)", sentence))
    assert sentence.startswith(f"2 runs will ask {lm.name} about ") and sentence.endswith("s.")
    assert used.calls / 2 <= calls <= 2 * used.calls
    assert used.total_tokens / 2 <= tokens <= 2 * used.total_tokens
    assert problem.seeds(data) == 3 and data.describe()["notes"] == [f"{lm.settings}."]
    assert problem.forecast([entrant], problem.load("reviews", lm="tiny:icl", **options)) == ""
