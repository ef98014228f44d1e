"""The problem `source-selection`: what is shown of which task, what labels cost, what is measured."""

import numpy as np
import pandas as pd
import pytest

from anytask import problems
from anytask.core.errors import BadData
from anytask.datasets.source_tasks import CORRUPTIONS, corrupted_tasks, random_sources
from anytask.problems.base import Entrant
from anytask.problems.source_selection import SourceSelection

PROBLEM = SourceSelection()
SMALL = {"n_components": 2, "explore": 10, "rounds": 1}
L1 = Entrant("l1-amtrl", "anytask.multitask:L1AMTRL", SMALL, key="l1-amtrl")
UNIFORM, TWO, ALONE, ALL = PROBLEM.baselines(None)


def table(n=360, classes=False):
    rng = np.random.default_rng(0)
    size, age, shop = rng.normal(size=n), rng.normal(size=n), np.arange(n) % 6
    frame = pd.DataFrame({"size": size, "age": age, "shop": [f"shop {s}" for s in shop]})
    frame["price"] = (shop + 1) * size - age + 0.1 * rng.normal(size=n)
    return frame.assign(price=np.where(frame.price > 0, "high", "low")) if classes else frame


def load(frame, **options):
    return PROBLEM.load(
        frame, **{"targets": "price", "task": "shop", "target_labels": 20, "budget": 120, "target": "shop 3", **options}
    )


def test_it_is_registered():
    assert isinstance(problems.get("source-selection"), SourceSelection)


@pytest.mark.parametrize("classes", [False, True])
def test_a_table_shows_some_rows_of_the_target_and_pools_of_the_others(classes, tmp_path):
    table(classes=classes).to_csv(tmp_path / "mine.csv", index=False)
    data = load(tmp_path / "mine.csv")
    assert data.kind == ("classification" if classes else "regression") and "shop 3" in data.describe()["notes"][-1]
    world = data.instance(1)
    assert len(world.target[1]) == 20 and len(world.test[1]) == 40 and world.every == 300
    assert set(world.sources) == {f"shop {s}" for s in (0, 1, 2, 4, 5)}
    assert not {row.tobytes() for row in world.target[0]} & {row.tobytes() for row in world.test[0]}
    assert np.array_equal(data.instance(1).test[1], world.test[1])
    assert not np.array_equal(data.instance(2).test[1], world.test[1])
    outcome = PROBLEM.run(L1, data, 0)
    assert outcome.metrics["error"] < 0.35 and outcome.metrics["labels"] == 120 == sum(
        outcome.details["labels"].values()
    )
    assert outcome.cost["labels"] == 140 and "excess" not in outcome.metrics
    assert PROBLEM.run(ALONE, data, 0).cost["labels"] == 20
    assert PROBLEM.run(ALL, data, 0).metrics["labels"] == 300


def test_the_smallest_task_is_the_target_unless_another_is_named():
    frame = table()
    small = frame[(frame["shop"] != "shop 2") | (np.arange(360) < 200)]
    assert load(small, target=None).target == "shop 2" and load(small).facts()["target"] == "shop 3"
    assert load(small).fingerprint != load(frame).fingerprint


def test_random_sources_measure_the_excess_risk_and_support():
    data = PROBLEM.load("random-sources", n_sources=10, features=6, rank=2, budget=400, target_labels=300, tested=500)
    one, alike = (PROBLEM.run(entrant, data, 0).metrics for entrant in (L1, UNIFORM))
    assert one["labels"] == alike["labels"] == 400 and alike["support"] == 10 and 1 <= one["support"] <= 4
    world = data.instance(0)
    assert one["error"] == pytest.approx(one["excess"] ** 0.5 / world.test[1].std())
    W, w = world.heads
    assert np.linalg.norm(W, axis=0) == pytest.approx(np.ones(10)) and np.linalg.norm(w) == pytest.approx(1)
    assert world.test[1].std() == pytest.approx(1, abs=0.15)  # x is standard normal, and the noise is left out


def test_sources_are_drawn_anew_by_the_seed_and_lie_in_one_subspace():
    for seed in (0, 1):
        sources, target, (W, w) = random_sources(seed, n_sources=7, features=9, rank=3, noise=0.0)
        weights = np.stack([one.weights for one in (*sources, target)], axis=1)
        B = weights[:, :7] @ np.linalg.pinv(W)
        assert pytest.approx(np.eye(3)) == B.T @ B and B @ w == pytest.approx(weights[:, 7])
    assert not np.allclose(random_sources(0)[1].weights, random_sources(1)[1].weights)


def test_corrupted_digits_show_no_test_image_to_any_source():
    pools, shown, test = corrupted_tasks(3, "digits-corrupted", 30)
    assert len(pools) == 10 * len(CORRUPTIONS) - 1 and shown[1].sum() == 15 and len(shown[1]) == 30
    clean = [X for name, (X, _) in pools.items() if name.startswith("clean")]
    assert all(y.mean() == 0.5 for _, y in pools.values())
    for seed in range(40):  # until a target is clean, whose pixels can be compared
        pools, shown, test = corrupted_tasks(seed, "digits-corrupted", 30)
        if sum(name.startswith("clean") for name in pools) == 9:
            break
    clean = {row.tobytes() for name, (X, _) in pools.items() if name.startswith("clean") for row in X}
    assert len(clean) > 500 and not clean & {row.tobytes() for row in np.concatenate([shown[0], test[0]])}


def test_systems_that_select_nothing_are_refused():
    other = Entrant("r-mtgb", "anytask.multitask:RMTGB", {}, key="r-mtgb")
    data = load(table())
    assert "no select" in PROBLEM.refuses(other, data) and PROBLEM.refuses(L1, data) is None
    assert all(PROBLEM.refuses(entrant, data) is None for entrant in PROBLEM.baselines(data))


@pytest.mark.parametrize(("options", "says"), [
    ({"targets": "prize"}, "did you mean 'price'"), ({"task": None}, "task=shop"),
    ({"target": "Riga"}, "no task 'Riga'"),
    ({"target_labels": 60}, "has 60 rows"), ({"budget": 300}, "buys all 300"), ({"kind": "ranking"}, "kind must be"),
    ({"targets": "size,price"}, "shape"), ({"targets": None}, "name the columns"), ({"shops": 3}, "no option 'shops'"),
    ({"rank": 30}, "more than features"), ({"budget": 3}, "less than 4 labels of each of"),
])  # fmt: skip
def test_bad_options_are_said_in_one_line(options, says):
    with pytest.raises(BadData, match=says) as error:
        load(table(), **options)
    assert "\n" not in str(error.value)


def test_data_that_cannot_be_used_are_said():
    with pytest.raises(BadData, match="have their own tasks"):
        PROBLEM.load("random-sources", target="a")
    with pytest.raises(BadData, match="no such file"):
        PROBLEM.load("nowhere.csv", targets="price", task="shop")
    frame = table()
    frame.loc[3, "size"] = np.nan
    with pytest.raises(BadData, match=r"'size', row 3.*missing=impute"):
        load(frame)
    assert len(load(frame, missing="impute").instance(0).test[1]) == 40
    frame.loc[:29, "price"] = np.nan
    assert load(frame, missing="impute").instance(0).every == 275
