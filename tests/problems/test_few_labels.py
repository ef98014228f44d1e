"""Few labels per class: what is shown, what is tested on, and who takes part."""

import numpy as np
import pytest

from anytask.core.errors import BadData
from anytask.problems.base import Entrant
from anytask.problems.few_labels import FewLabels

PROBLEM = FewLabels()
SLA = Entrant("sla", "anytask.robust:SLA", {"steps": 2, "backbone": "small_cnn"}, key="sla")


def test_labels_tests_and_pool_are_apart_and_follow_the_seed():
    data = PROBLEM.load("digits", per_class=3, max_test=200, unlabeled=500)
    rows, test = data.split(1)
    pool = data.pool(1)
    assert np.bincount(data.source.y[rows]).tolist() == [3] * 10 and len(test) == 200 and len(pool) == 500
    assert len(set(rows) | set(test) | set(pool)) == 30 + 200 + 500
    assert np.array_equal(data.split(1)[0], rows) and not np.array_equal(data.split(2)[0], rows)
    more = PROBLEM.load("digits", per_class=3, max_test=200)
    assert np.array_equal(more.split(1)[1], test)  # showing inputs without labels moves nobody's labels or tests


def test_imbalance_takes_labels_from_the_later_classes():
    data = PROBLEM.load("digits", per_class=20, imbalance=0.1)
    sizes = np.bincount(data.source.y[data.split(0)[0]])
    assert sizes[0] == 20 and sizes[-1] == 2 and (np.diff(sizes) <= 0).all()


@pytest.mark.parametrize(("source", "options", "says"), [
    ("digits", {"per_class": 174}, "class 8 has 174 examples, not 174"), ("digits", {"per_class": 0}, "per_class"),
    ("digits", {"unlabeled": 5000}, "left to show unlabeled, not 5000"), ("iris", {"shots": 3}, "no option 'shots'"),
])  # fmt: skip
def test_options_that_the_data_do_not_allow(source, options, says):
    with pytest.raises(BadData, match=says):
        PROBLEM.load(source, **options)


def test_networks_for_images_are_left_out_of_tables_with_the_reason():
    data = PROBLEM.load("iris", unlabeled=30, max_test=50)
    names = [e.name for e in PROBLEM.baselines(data)]
    assert names == ["label spreading", "self-training", "10 principal components", "linear"]
    assert "learns from images" in PROBLEM.refuses(SLA, data)
    assert PROBLEM.refuses(SLA, PROBLEM.load("digits")) is None
    for entrant in PROBLEM.baselines(data):
        assert PROBLEM.run(entrant, data, 0).metrics["accuracy"] > 0.7


def test_images_that_are_not_square_or_have_no_channel_axis_get_the_networks_that_suit_them():
    rng, real = np.random.default_rng(0), "efficientnet-lite0"  # there where its weights are
    names: dict = {}
    for shape in ((1, 8, 6), (8, 8)):
        data = PROBLEM.load((rng.normal(size=(60, *shape)).astype(np.float32), np.tile([0, 1], 30)), per_class=5)
        names[shape] = [entrant.name for entrant in PROBLEM.baselines(data)]
    turned = ["rotations as augmentation", "rotations as a second task"]
    assert [name for name in names[1, 8, 6] if name != real] == ["plain training", "labels alone", "linear"]
    assert names[8, 8] == ["plain training", *turned, "labels alone", "linear"]


def test_variants_of_inference_share_one_training_and_the_winner_can_be_saved(tmp_path):
    data = PROBLEM.load("digits", per_class=2, max_test=50)
    single = Entrant("sla (single)", SLA.entry, SLA.params, after={"inference": "single"})
    a, b = PROBLEM.run_variants([SLA, single], data, 0)
    assert a.cost["train_seconds"] == b.cost["train_seconds"] and a.metrics != b.metrics
    trained = PROBLEM.refit(SLA, data, 0)
    for part in trained.parts:
        part.save(tmp_path)
    used: dict = {"X": data.inputs(np.arange(3)) * 16}
    usage = "\n".join(trained.usage).replace("{folder}", str(tmp_path))
    exec(usage.replace("inputs(X)", "inputs(X.astype('uint8')[:, 0])"), used)
    assert used["labels"].shape == (3,)


def test_groups_and_time_are_kept_apart(tmp_path):
    rng = np.random.default_rng(0)
    y, patient = np.tile([0, 1], 60), np.repeat(np.arange(20), 6)
    np.savez(tmp_path / "t.npz", X=rng.normal(size=(120, 3)), y=y, patient=patient)
    data = PROBLEM.load(tmp_path / "t.npz", per_class=5, group="patient", unlabeled=20)
    for seed in range(5):
        rows, test = data.split(seed)
        seen = set(patient[rows]) | set(patient[data.pool(seed)])
        assert not seen & set(patient[test]) and len(test) >= 20 and len(rows) == 10
    rows, test = PROBLEM.load(tmp_path / "t.npz", per_class=5, split="ordered").split(0)
    assert rows.max() < test.min() and np.bincount(y[test]).tolist() == [15, 15]
    with pytest.raises(BadData, match="choose one"):
        PROBLEM.load(tmp_path / "t.npz", group="patient", split="ordered")
