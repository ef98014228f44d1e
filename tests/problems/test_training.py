"""Problems that train once and test then: costs, refusals, and variants that are set after training."""

import dataclasses

import pytest
from sklearn.base import BaseEstimator

from anytask.core.errors import BadData
from anytask.core.settings import whole
from anytask.problems.base import Entrant, Metric, Outcome, Problem
from anytask.problems.options import Options, listed, mapping
from anytask.problems.training import LoadedData, TrainingProblem

HERE = __name__


class Scale(BaseEstimator):
    trainings = 0

    def __init__(self, factor=1, seed=0):
        self.factor, self.seed = factor, seed

    def fit(self, X):
        type(self).trainings += 1
        return self

    def cost(self):
        return {"stored_parameters": 5}


class Loose:
    """Has no parameters that could be set."""

    def fit(self, X):
        pass


class MyOptions(Options):
    read_only = ("column",)

    size: int = whole(3, "rows")
    column: int = whole(1, "where they are")
    sides: tuple[int, ...] | None = listed("sides", int, separator="x", at_least=1, lengths=(2,))
    more: dict | None = mapping("more")


class Mine(TrainingProblem):
    title = "Mine"
    metrics = (Metric("value", "Value"),)
    options_class = MyOptions
    needs = ("fit(size)",)

    def load(self, source, **options):
        return LoadedData(source, self.check_options(options))

    def baselines(self, data):
        return ()

    def train(self, entrant, data, seed, progress):
        model = entrant.make(seed=seed)
        model.fit(data.options.size)
        progress(1.0)
        return model

    def test(self, entrant, trained, data, seed, progress):
        return Outcome({"value": float(getattr(trained, "factor", 0))}, cost={"labels": 3.0})


PROBLEM = Mine()
PROBLEM.key = "mine"


@pytest.fixture
def data():
    source = dataclasses.make_dataclass("Source", ["name", "fingerprint"])("rows", "f")
    return PROBLEM.load(source)


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, HERE, sys.modules[Scale.__module__])


def test_variants_share_one_training_and_leave_the_system_as_it_was(data):
    Scale.trainings = 0
    variants = [Entrant(f"x{n}", f"{HERE}:Scale", {"factor": 9}, after={"factor": n} if n else {}) for n in (0, 2, 3)]
    shares = []
    outcomes = PROBLEM.run_variants([variants[1], variants[0], variants[2]], data, 0, shares.append)
    assert [outcome.metrics["value"] for outcome in outcomes] == [2.0, 9.0, 3.0]
    assert Scale.trainings == 1 and shares[-1] == 1.0 and shares == sorted(shares)
    for outcome in outcomes:
        assert outcome.cost["stored_parameters"] == 5 and outcome.cost["labels"] == 3
        assert outcome.cost["train_seconds"] >= 0 and outcome.cost["predict_seconds"] >= 0


def test_what_cannot_be_set_after_training_is_named(data):
    with pytest.raises(ValueError, match="x: Scale has no parameter 'factr'"):
        PROBLEM.run(Entrant("x", f"{HERE}:Scale", after={"factr": 2}), data, 0)
    with pytest.raises(ValueError, match="x: a fitted Loose has no parameters"):
        PROBLEM.run(Entrant("x", f"{HERE}:Loose", after={"factor": 2}), data, 0)


def test_who_is_refused_does_not_run(data):
    with pytest.raises(ValueError, match=r"x cannot take part: x has no fit\(size\)\."):
        PROBLEM.run(Entrant("x", "builtins:dict"), data, 0)


def test_who_lacks_a_method_or_an_argument_that_is_given_by_name_is_refused(data, monkeypatch):
    monkeypatch.setattr(Mine, "needs", ("fit(size)", "set_params(factor=...)", "predict(X, task=None)"))
    reason = PROBLEM.refuses(Entrant("x", f"{HERE}:Scale"), data)
    assert reason == "x has no predict(X, task=None)."
    monkeypatch.setattr(Mine, "needs", ("fit(size, more=...)", "set_params(factor=...)"))
    assert PROBLEM.refuses(Entrant("x", f"{HERE}:Scale"), data) == "x has no fit(size, more=...)."


def test_the_fingerprint_follows_content_and_options_but_not_how_they_were_read(data):
    again = PROBLEM.load(data.source, column=2)
    assert data.fingerprint == again.fingerprint != PROBLEM.load(data.source, size=4).fingerprint
    assert data.describe()["options"] == {"size": 3, "sides": None, "more": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"siz": 3}, r"mine has no option 'siz'; did you mean 'size'\? Its options: size, column"),
        ({"zzz": 3}, "mine has no option 'zzz'; its options: size, column, sides, more"),
        ({"size": 0}, "size must be an integer of at least 1, got 0"),
        ({"sides": "4x0"}, "sides must be integers of at least 1, as 4x3x3, got '4x0'"),
        ({"sides": "4x4x4"}, "sides must be"),
        ({"sides": [1.5, 2]}, "sides must be"),
        ({"sides": "axb"}, "sides must be"),
        ({"more": 3}, "more must be a mapping, got 3"),
    ],
)
def test_options_are_refused_by_name(options, message):
    with pytest.raises(BadData, match=message):
        PROBLEM.check_options(options)


def test_options_of_a_problem_are_those_of_its_class():
    assert PROBLEM.options["size"] == (3, "rows") and PROBLEM.check_options({"sides": "4x3"}).sides == (4, 3)
    assert Problem.options == {}
