"""The problem `unlearning`: what is to be forgotten, what is measured, and what is refused."""

import numpy as np
import pytest
import torch

from anytask import problems
from anytask.core.errors import BadData
from anytask.problems.base import Entrant
from anytask.problems.unlearning import Unlearning

torch.set_num_threads(1)
LAF = Entrant("laf", "anytask.continual:LAF", {}, "system", "laf")
FEW = {"epochs": 20, "max_per_class": 40}


def test_it_is_registered():
    assert isinstance(problems.get("unlearning"), Unlearning)


@pytest.mark.parametrize(("forget", "n"), [("class:2", 30), ("random:0.2", 18), ("noise:0.2", 18)])
def test_what_is_to_be_forgotten(forget, n, tmp_path):
    world = Unlearning().load("iris", forget=forget, max_per_class=40).instance(0)
    assert world.forgotten.sum() == n and len(world.rows) == 90
    u = world.rows[world.forgotten]
    wrong = world.trained != world.y
    assert set(np.flatnonzero(wrong)) == (set(u) if forget.startswith("noise") else set())
    assert not np.isin(world.test, world.rows).any()


def test_rows_are_listed_in_a_file(tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("\n".join(map(str, range(0, 150, 3))) + "\n")
    world = Unlearning().load("iris", forget=f"rows:{file}").instance(0)
    assert set(world.rows[world.forgotten]) == set(world.rows) & set(range(0, 150, 3))


def test_training_anew_is_the_aim_and_doing_nothing_is_far_from_it_where_a_class_goes():
    problem = Unlearning()
    data = problem.load("digits", forget="class:3", **FEW)
    found = {entrant.name: problem.run(entrant, data, 0) for entrant in (*problem.baselines(data), LAF)}
    assert found["training anew"].metrics["gap"] == 0.0 and found["training anew"].metrics["forgotten"] == 0.0
    assert found["nothing"].metrics["forgotten"] > 0.5 + 0.3 and found["nothing"].metrics["unseen_forgotten"] > 0.5
    for name, outcome in found.items():
        assert 0 <= outcome.metrics["attack"] <= 1 and outcome.metrics["share_of_time"] >= 0, name
    assert found["laf"].metrics["gap"] < found["nothing"].metrics["gap"]
    assert problem.run(LAF, data, 0).metrics["forgotten"] == found["laf"].metrics["forgotten"]


@pytest.mark.parametrize(
    ("forget", "says"),
    [
        ("class", "forget must be class:LABEL"),
        ("class:9", "names none of the"),
        ("random:1.5", "a share lies between 0 and 1"),
        ("rows:nowhere.txt", "there is no such file"),
    ],
)
def test_what_cannot_be_forgotten_is_said(forget, says):
    with pytest.raises(BadData, match=says):
        Unlearning().load("iris", forget=forget)


def test_a_line_that_is_no_row_is_named(tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("1\nten\n")
    with pytest.raises(BadData, match=r"ids\.txt, line 2: 'ten' is no number of a row"):
        Unlearning().load("iris", forget=f"rows:{file}")


def test_a_row_beyond_the_data_is_named(tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("3\n150\n")
    with pytest.raises(BadData, match="names row 150, and there are rows 0 to 149"):
        Unlearning().load("iris", forget=f"rows:{file}")
