"""The problem `multi-task-training`: what is shown and tested on, what is measured, who takes part."""

import numpy as np
import pandas as pd
import pytest

from anytask import problems
from anytask.core.errors import BadData
from anytask.problems.base import Entrant
from anytask.problems.multi_task_training import MultiTaskTraining

PROBLEM = MultiTaskTraining()
RMTGB = Entrant("r-mtgb", "anytask.multitask:RMTGB", {"partition_rounds": 60}, key="r-mtgb")
LINEAR = Entrant("linear", "anytask.multitask.baselines:LinearPerTask", {}, "baseline")
ALONE = Entrant("one model per task", "anytask.multitask.baselines:BoostingPerTask", {}, "baseline")


def table(n=80):
    rng = np.random.default_rng(0)
    size, shop = rng.normal(size=n), np.arange(n) % 4
    frame = pd.DataFrame({"size": size, "color": rng.choice(["red", "blue"], n), "shop": [f"shop {s}" for s in shop]})
    frame["price"] = 3 * size + 0.1 * rng.normal(size=n)
    frame["churn"] = (size > 0).astype(float)
    frame.loc[::5, "churn"] = np.nan
    frame["segment"] = np.where(frame.color == "red", "a", "b")
    return frame


def test_it_is_registered():
    assert isinstance(problems.get("multi-task-training"), MultiTaskTraining)


@pytest.mark.parametrize("kind", ["csv", "parquet", "frame"])
def test_a_table_with_several_targets(kind, tmp_path):
    frame = table().drop(columns="shop")
    source = frame if kind == "frame" else tmp_path / f"mine.{kind}"
    if kind != "frame":
        frame.to_csv(source, index=False) if kind == "csv" else frame.to_parquet(source, index=False)
    data = PROBLEM.load(source, targets="price,churn,segment")
    assert data.kinds == {"price": "regression", "churn": "classification", "segment": "classification"}
    assert "churn, segment: classification" in data.describe()["notes"][-1]
    outcome = PROBLEM.run(LINEAR, data, 0)
    errors = outcome.details["errors"]
    assert list(errors) == ["price", "churn", "segment"] and errors["price"] < 0.1 and errors["segment"] == 0
    assert outcome.metrics["error"] == pytest.approx(np.mean(list(errors.values())))
    assert outcome.metrics["worst"] == max(errors.values())
    assert "tasks of one kind" in PROBLEM.refuses(RMTGB, data)


def test_a_table_with_the_task_of_each_row():
    data = PROBLEM.load(table().drop(columns=["churn", "segment"]), targets="price", task="shop")
    assert data.facts()["tasks"] == {f"shop {s}": 20 for s in range(4)}
    world = data.instance(1)
    assert pd.Series(world.table.task[world.test]).value_counts().tolist() == [5] * 4
    assert not set(world.train) & set(world.test) and len(world.train) + len(world.test) == 80
    assert np.array_equal(data.instance(1).test, world.test) and not np.array_equal(data.instance(2).test, world.test)
    assert data.fingerprint != PROBLEM.load(table().drop(columns=["churn", "segment"])[:79], targets="price",
                                            task="shop").fingerprint  # fmt: skip
    assert list(PROBLEM.run(RMTGB, data, 0).details["errors"]) == [f"shop {s}" for s in range(4)]


def test_tasks_of_one_row_are_said_to_be_untested():
    frame = table().drop(columns=["churn", "segment"])
    frame.loc[7, "shop"] = "kiosk"
    data = PROBLEM.load(frame, targets="price", task="shop")
    assert "Tasks of one row are trained on, and not tested: ['kiosk']." in data.describe()["notes"]
    assert "kiosk" not in PROBLEM.run(LINEAR, data, 0).details["errors"]


def test_large_integers_of_a_file_stay_apart_beside_gaps(tmp_path):
    code = [None if k % 5 == 0 else 2**60 + k % 3 for k in range(80)]
    frame = pd.DataFrame({"size": np.arange(80) / 8, "code": pd.array(code, dtype="Int64")})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    labels = PROBLEM.load(tmp_path / "mine.csv", targets="code").source.Y["code"]
    assert labels.dropna().tolist() == [one for one in code if one]


def test_every_target_with_gaps_is_trained_and_tested_on():
    frame = table().drop(columns=["shop", "churn", "segment"])
    frame["rare"] = np.where(np.arange(80) % 20 == 3, frame.price, np.nan)
    data = PROBLEM.load(frame, targets="price,rare")
    for seed in range(4):
        world = data.instance(seed)
        assert world.table.Y["rare"].notna().to_numpy()[world.test].sum() == 1
    frame.loc[:9, ["price", "rare"]] = np.nan
    assert "10 rows without any target were left out." in PROBLEM.load(frame, targets="price,rare").describe()["notes"]


def test_what_is_saved_is_measured_against_one_model_per_task():
    data = PROBLEM.load("random-tasks", n_tasks=4, n_outliers=1, per_task=40, tested=60)
    alone, own = (PROBLEM.run(entrant, data, 0) for entrant in (ALONE, RMTGB))
    assert alone.metrics["delta"] == 0
    errors = [outcome.details["errors"] for outcome in (alone, own)]
    saved = [100 * (1 - errors[1][name] / errors[0][name]) for name in errors[0]]
    assert own.metrics["delta"] == pytest.approx(np.mean(saved))


def test_random_tasks_know_their_outliers():
    data = PROBLEM.load("random-tasks", n_tasks=5, n_outliers=1, per_task=60, tested=60, common=1.0)
    world = data.instance(0)
    assert world.outlier.sum() == 1 and len(world.train) == 300 and len(world.test) == 300
    outcome = PROBLEM.run(RMTGB, data, 0)
    assert outcome.metrics["found"] == 1
    values = np.array(list(outcome.details["errors"].values()))
    assert outcome.metrics["outlying"] == pytest.approx(values[world.outlier][0])
    assert outcome.metrics["belonging"] == pytest.approx(values[~world.outlier].mean())
    assert outcome.cost["labels"] == 300


def test_tasks_that_have_all_in_common_are_one_function():
    from anytask.datasets.random_tasks import random_tasks

    X, y, task, outlier = random_tasks(3, 400, n_tasks=4, n_outliers=1, features=2, common=1.0)
    own = [np.flatnonzero(~outlier)[k] for k in range(2)]
    other = np.flatnonzero(outlier)[0]
    apart = []
    for t in (own[1], other):  # how far the targets of inputs are that are next to each other
        near = np.abs(X[task == own[0]][:, None] - X[task == t][None]).sum(2)
        i, j = np.unravel_index(np.argsort(near, axis=None)[:20], near.shape)
        apart.append(np.abs(y[task == own[0]][i] - y[task == t][j]).mean())
    assert apart[0] < 0.2 * apart[1]


@pytest.mark.parametrize("name", ["linnerud", "diabetes-age", "grunfeld"])
def test_built_in_tables_are_learned(name):
    if name == "grunfeld":
        pytest.importorskip("statsmodels", reason="needs the extra multitask")
    data = PROBLEM.load(name)
    assert PROBLEM.run(LINEAR, data, 0).metrics["error"] < 2
    assert [e.name for e in PROBLEM.baselines(data)][-1] == "linear"


@pytest.mark.parametrize(("options", "says"), [
    ({}, "name the columns of the targets"), ({"targets": "prize"}, "did you mean 'price'"),
    ({"targets": "price,churn", "task": "shop"}, "must have shape"), ({"targets": "price", "task": "price"}, "two of"),
    ({"targets": "price", "kinds": "ranking"}, "kinds must be"),
    ({"targets": "segment", "kinds": "regression"}, "are strings"),
    ({"targets": "price", "test_size": 1}, "test_size"), ({"goals": "price"}, "no option 'goals'"),
    ({"targets": "even"}, "target 'even' are the same"),
    ({"targets": "price", "task": "row"}, "all 80 tasks have one row each"),
    ({"targets": "size,color,shop,price,churn,segment,even,row"}, "no column is left"),
])  # fmt: skip
def test_bad_options_are_said_in_one_line(options, says):
    with pytest.raises(BadData, match=says) as error:
        PROBLEM.load(table().assign(churn="no", even=0.5, row=np.arange(80)), **options)
    assert "\n" not in str(error.value)


def test_numbers_with_a_slip_and_names_of_rows_are_no_classes():
    frame = table().drop(columns=["churn", "segment"])
    frame["price"] = frame.price.round(3).astype(str)
    frame.loc[5, "price"] = "12,50"
    for source, says in (
        (frame, "80 different texts in 80 rows: '12,50' is no number"),
        (frame.assign(price=[f"row {k}" for k in range(80)]), "80 different texts in 80 rows; kinds"),
    ):
        with pytest.raises(BadData, match=says):
            PROBLEM.load(source, targets="price")
    with pytest.raises(BadData, match="are strings: '12,50' is no number"):
        PROBLEM.load(frame, targets="price", kinds="regression")


@pytest.mark.parametrize(("source", "options", "says"), [
    ("nowhere.csv", {"targets": "y"}, "no such file"), ("random-tasks", {"targets": "y"}, "have their own targets"),
    ("random-tasks", {"n_outliers": 10}, "leaves no task"), ("linnerud", {"task": "y"}, "have their own targets"),
    ((np.zeros((4, 2)), np.zeros(3)), {}, "shape"),
    ((np.eye(4), np.ones(4)), {"task": "y"}, "have their own targets"), (3, {}, "data must be"),
])  # fmt: skip
def test_data_that_cannot_be_used_are_said(source, options, says):
    with pytest.raises(BadData, match=says):
        PROBLEM.load(source, **options)


def test_missing_inputs_are_refused_or_filled_in():
    frame = table().drop(columns="churn")
    frame.loc[3, "size"] = np.nan
    with pytest.raises(BadData, match=r"'size', row 3.*missing=impute"):
        PROBLEM.load(frame, targets="price")
    filled = PROBLEM.load(frame, targets="price", missing="impute")
    place = filled.source.inputs.encoding.feature_names.index("size")
    assert filled.source.X[3, place] == pytest.approx(np.nanmedian(frame["size"]), rel=1e-6)


def test_what_to_csv_numbers_is_no_input_and_texts_of_digits_stay_apart(tmp_path):
    frame = table()[["size", "price"]].assign(code=["007", "7"] * 40)
    frame.to_csv(tmp_path / "mine.csv")
    data = PROBLEM.load(tmp_path / "mine.csv", targets="price,code")
    assert data.source.inputs.encoding.feature_names == ("size",) and data.kinds["code"] == "classification"
    assert set(data.source.Y["code"]) == {"007", "7"}
    assert any("was left out" in note for note in data.describe()["notes"])


def test_arrays_are_taken_too():
    frame = table()
    data = PROBLEM.load((frame[["size"]].to_numpy(), frame.price.to_numpy(), frame.shop.to_numpy()))
    assert data.facts()["tasks"]["shop 0"] == 20
    assert PROBLEM.run(LINEAR, data, 0).metrics["error"] < 0.2


def test_figures_show_errors_and_ranks():
    from types import SimpleNamespace as Run

    data = PROBLEM.load("linnerud")
    runs = [
        Run(entrant_name=name, status="done", details={"errors": {"a": 1.0 + k, "b": 2.0 - k, "c": 3.0 + k}})
        for k, name in enumerate(("one", "two"))
    ]
    (_, _, bars), (_, _, ranks) = PROBLEM.figures(data, runs)
    assert len(bars.data) == 2 and dict(zip(ranks.data[0].x, ranks.data[0].y)) == pytest.approx(
        {"one": 4 / 3, "two": 5 / 3}
    )
