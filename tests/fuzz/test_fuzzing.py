"""The harness itself: a few calls of each area, verdicts, and mutants that still apply."""

import pytest

from anytask.core.checks import check_counts
from fuzz import calls
from fuzz.mutants import MUTANTS, SOURCE

SMOKE = {"settings": 8, "methods": 8, "learning": 1, "saving": 3, "loaders": 8, "cli": 4}


@pytest.mark.parametrize("area", SMOKE)
def test_a_few_calls_end_as_they_should(area, monkeypatch):
    monkeypatch.setenv("FUZZ_TARGET", "load_text" if area == "loaders" else "robust.")
    for number in range(SMOKE[area]):
        outcome = calls.run(area, number, seed=0)
        assert outcome.kind in ("ok", "clear"), outcome


def test_a_call_is_settled_by_seed_area_and_number(monkeypatch):
    monkeypatch.setenv("FUZZ_TARGET", "load_text")
    told = [calls.run("loaders", 3, seed) for seed in (5, 5, 6)]
    assert told[0] == told[1] != told[2]


def seen(function):
    try:
        function()
    except Exception as error:
        return calls.verdict(error)[0]
    return "ok"


def test_an_error_is_clear_where_the_library_raises_it_and_says_what_is_wrong():
    assert seen(lambda: check_counts(episodes=0)) == "clear"
    assert seen(lambda: check_counts(0)) == "clear"  # Python's own error names the parameter
    assert seen(lambda: [][3]) == "unclear"
    assert seen(lambda: open("/nowhere/at/all")) == "clear"  # noqa: SIM115
    assert seen(lambda: int("x")) == "unclear"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_every_mutant_still_applies(mutant):
    text = (SOURCE / "anytask" / mutant.file).read_text(encoding="utf-8")
    compile(mutant.applied(text), mutant.file, "exec")
