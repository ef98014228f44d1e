"""A plan lists the runs, seeds outermost, and gives each a key that changes with everything that matters."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_problem import Toy, ToyData

import anytask
from anytask.bench import plan
from anytask.problems.base import Entrant

A = Entrant("a", "anytask.x:A", {"k": 1})
B = Entrant("b", "anytask.x:B")


def keys(problem=None, data=None, entrants=(A,), seeds=1, **rest):
    return [item.key for item in plan(problem or Toy(), data or ToyData(), entrants, seeds, **rest).items]


def test_published_names_stay_functions_when_the_submodules_are_imported():
    import anytask.bench.comparison
    import anytask.bench.planning  # noqa: F401
    from anytask import bench

    assert callable(bench.plan) and callable(bench.compare)


def test_seeds_are_outermost():
    items = plan(Toy(), ToyData(), [A, B], 2).items
    assert [(i.seed, i.entrant.name) for i in items] == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


def test_a_key_does_not_depend_on_name_and_role():
    assert keys() == keys(entrants=[dataclasses.replace(A, name="other", role="ablation", key="tame")])


@pytest.mark.parametrize(
    "change",
    [
        {"data": ToyData(rows=11)},
        {"data": ToyData(options={"rows": 3})},
        {"entrants": [Entrant("a", "anytask.x:A", {"k": 2})]},
        {"entrants": [Entrant("a", "anytask.x:B", {"k": 1})]},
        {"seeds": [1]},
    ],
)
def test_a_key_changes_with_data_options_parameters_class_and_seed(change):
    assert keys() != keys(**change)


def test_a_key_changes_with_the_version(monkeypatch):
    before = keys()
    monkeypatch.setattr(anytask, "__version__", "9.9")
    assert keys() != before


class Other(Toy):
    pass


def test_problems_of_one_key_share_no_runs_unless_they_are_the_same():
    tuned = Toy()
    tuned.level = 3
    assert len({keys(Toy())[0], keys(Other())[0], keys(tuned)[0]}) == 3
    assert keys(Toy()) == keys(Toy())


def test_a_problem_with_a_lambda_can_be_planned():
    odd = Toy()
    odd.rule = lambda x: x
    assert len(keys(odd)) == 1


def test_a_changed_class_outside_anytask_is_another_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_for_plan.py").write_text("class A: pass\n")
    entrant = Entrant("a", "mine_for_plan:A")
    before = keys(entrants=[entrant])
    assert keys(entrants=[entrant]) == before
    (tmp_path / "mine_for_plan.py").write_text("class A: level = 2\n")
    assert keys(entrants=[entrant]) != before


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans()), min_size=2))
def test_a_key_does_not_depend_on_the_order_of_arguments(params):
    turned = dict(reversed(params.items()))
    assert keys(entrants=[Entrant("a", "anytask:A", params)]) == keys(entrants=[Entrant("a", "anytask:A", turned)])


def test_refused_entrants_are_left_out_with_the_reason():
    made = plan(Toy(), ToyData(), [A, Entrant("b", "anytask.x:B", {"do": "refuse"})], 2)
    assert made.left_out == (("b", "it needs images, and the data are tables"),)
    assert {item.entrant.name for item in made.items} == {"a"}


@pytest.mark.parametrize("seeds", [0, -1, [], [1, 1], [-2], [0.5], [True]])
def test_senseless_seeds_are_refused(seeds):
    with pytest.raises(ValueError, match="seeds must be"):
        plan(Toy(), ToyData(), [A], seeds)


@pytest.mark.parametrize("seeds", [None, "5", True, 2.0])
def test_seeds_of_another_type_are_refused(seeds):
    with pytest.raises(TypeError, match="seeds must be"):
        plan(Toy(), ToyData(), [A], seeds)


def test_names_are_unique():
    with pytest.raises(ValueError, match="given twice: 'a'"):
        plan(Toy(), ToyData(), [A, Entrant("a", "anytask.x:B")])


def test_the_same_class_with_the_same_arguments_is_refused():
    with pytest.raises(ValueError, match="'a' and 'c' are the same"):
        plan(Toy(), ToyData(), [A, dataclasses.replace(A, name="c")])


def test_arguments_that_json_cannot_hold_are_named():
    with pytest.raises(TypeError, match="a: constructor argument 'model'"):
        plan(Toy(), ToyData(), [Entrant("a", "anytask:A", {"model": object()})])


def test_a_malformed_entry_is_named():
    with pytest.raises(ValueError, match="'module:Class'"):
        plan(Toy(), ToyData(), [Entrant("a", "anytask.A")])
