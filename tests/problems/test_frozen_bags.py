"""Bags in the problem frozen-features: read from files, learned from in all views, and judged on the anchor."""

import numpy as np
import pytest

from anytask.core.errors import BadData
from anytask.datasets.bags import is_bags, load_bags, stained_bags
from anytask.problems.base import Entrant
from anytask.problems.frozen_features import FrozenFeatures

PROBLEM = FrozenFeatures()
RNG = np.random.default_rng(0)
HE = [RNG.normal(size=(n, 3)).astype(np.float32) for n in (1, 4, 2, 3, 2, 5, 1, 2)]
ER = [None if case % 3 == 0 else bag + 1 for case, bag in enumerate(HE)]
CSV = "case,label,group,HE,ER\n" + "".join(
    f"c{case},{'good' if case % 2 else 'bad'},p{case // 2},1,{int(bag is not None)}\n" for case, bag in enumerate(ER)
)


@pytest.fixture
def folder(tmp_path):
    for view, bags in {"HE": HE, "ER": ER}.items():
        (tmp_path / view).mkdir()
        for case, bag in enumerate(bags):
            if bag is not None:
                np.savez(tmp_path / view / f"c{case}.npz", features=bag, coordinates=np.zeros((len(bag), 2)))
    (tmp_path / "cases.csv").write_text(CSV)
    return tmp_path


def same(data):
    found = (data.views["HE"], data.views["ER"])
    return list(data.views) == ["HE", "ER"] and all(
        (a is None and b is None) or np.array_equal(a, b) for x, y in zip((HE, ER), found) for a, b in zip(x, y)
    )


def test_a_folder_of_files_and_one_file_are_the_same_bags(folder):
    h5py = pytest.importorskip("h5py", reason="needs the extra graphs")
    data = load_bags(folder)
    assert same(data) and data.y.tolist()[:2] == ["bad", "good"] and data.group.tolist()[2] == "p1"
    with h5py.File(folder / "all.h5", "w") as file:
        for view, bags in {"HE": HE, "ER": ER}.items():
            for case, bag in enumerate(bags):
                if bag is not None:
                    file[f"c{case}/{view}"] = bag
    (folder / "all.csv").write_text(CSV)
    assert same(load_bags(folder / "all.h5")) and load_bags(folder / "all.h5").fingerprint == data.fingerprint
    (folder / "HE" / "c0.npz").unlink()
    with h5py.File(folder / "HE" / "c0.h5", "w") as file:
        file["features"] = HE[0]
    assert same(load_bags(folder))


def test_without_columns_for_views_the_files_say_what_there_is(folder):
    (folder / "cases.csv").write_text("case,label\n" + "".join(f"c{case},{case % 2}\n" for case in range(8)))
    with pytest.raises(BadData, match="case 'c0' has no bag of the view 'ER', and every case needs one of the first"):
        load_bags(folder)
    (folder / "ER").rename(folder / "Later")
    data = load_bags(folder)
    assert list(data.views) == ["HE", "Later"] and "anchor is 'HE'" in data.notes[0]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "HE" / "c3.npz").unlink(), "case 'c3' has no bag of the view 'HE', and cases.csv says"),
        (lambda f: np.savez(f / "ER" / "c1.npz", features=np.ones((2, 4))), "case 'c1', view 'ER' has 4 features"),
        (lambda f: np.savez(f / "ER" / "c1.npz", features=np.full((2, 3), np.nan)), "view 'ER' contains NaN .* row 0"),
        (lambda f: np.savez(f / "ER" / "c1.npz", a=HE[0], b=HE[0]), "no array 'features'; its arrays: a, b"),
        (lambda f: np.savez(f / "ER" / "c1.npz", features=np.ones(3)), "numbers of shape \\(tokens, d\\)"),
        (lambda f: (f / "ER" / "c1.npz").write_text("no"), "not a readable .npz"),
        (lambda f: (f / "cases.csv").unlink(), "list of their cases, cases.csv"),
        (lambda f: (f / "cases.csv").write_text("case,y\nc0,1\n"), "no column 'label'"),
        (lambda f: (f / "cases.csv").write_text(CSV.replace("c1,", "c0,")), "line 3: the case 'c0' is listed more"),
        (lambda f: (f / "cases.csv").write_text(CSV.replace("c1,", "../c1,")), "cannot be the name of a file"),
        (lambda f: (f / "cases.csv").write_text(CSV.replace(",1,1", ",1,2")), "column 'ER' must say with 0 and 1"),
        (lambda f: (f / "cases.csv").write_text(CSV.replace("good", "bad")), "one class only"),
        (lambda f: (f / "cases.csv").write_text("case,label\n"), "'label' holds no value"),
        (lambda f: (f / "cases.csv").write_text(""), "cases.csv: the file is empty"),
        (lambda f: np.savez(f / "ER" / "c1.npz", features=np.full((2, 3), 1e300)), "view 'ER' contains NaN or inf"),
    ],
)
def test_what_cannot_be_used_is_named(folder, spoil, says):
    spoil(folder)
    with pytest.raises(BadData, match=says) as error:
        PROBLEM.load(folder)
    assert "\n" not in str(error.value)


def test_bags_of_cases_that_are_not_listed_are_said_to_be_left_out(folder):
    assert load_bags(folder).notes == ()
    (folder / "ER" / "c1.npz").rename(folder / "ER" / "C1.npz")
    (folder / "cases.csv").write_text(CSV.replace("good,p0,1,1", "good,p0,1,0"))
    assert load_bags(folder).notes == ("Left out, as cases.csv does not list them: 1 cases with bags, such as 'C1'.",)


@pytest.mark.parametrize(
    ("store", "says"),
    [
        (lambda file: file.create_group("c1/ER"), "c1/ER is a group, and wanted is a data set"),
        (lambda file: file.update({"c1/ER": "abc"}), r"case 'c1', view 'ER' must hold numbers of shape \(tokens, d\)"),
    ],
)
def test_what_is_no_bag_in_a_file_is_refused(folder, store, says):
    h5py = pytest.importorskip("h5py", reason="needs the extra graphs")
    with h5py.File(folder / "all.h5", "w") as file:
        for case, bag in enumerate(HE):
            file[f"c{case}/HE"] = bag
        store(file)
    (folder / "all.csv").write_text("case,label,HE,ER\n" + "".join(f"c{c},{c % 2},1,{int(c == 1)}\n" for c in range(8)))
    with pytest.raises(BadData, match=says):
        load_bags(folder / "all.h5")


def test_bags_are_told_from_other_data(folder):
    assert is_bags(folder) and is_bags("stained-bags") and not is_bags("digits") and not is_bags(HE)
    data = PROBLEM.load(({"HE": HE, "ER": ER}, np.arange(8) % 2), shots=1, draws=1)
    assert data.kind == "bags" and data.facts()["views"] == {"HE": 8, "ER": 5}
    for source, says in [
        (({"HE": HE}, np.arange(7) % 2), "8 cases, and labels or groups of shape"),
        (({"HE": [None, *HE[1:]]}, np.arange(8) % 2), "case 0 has no bag of the first view 'HE'"),
        (({"HE": HE, "ER": ER[:-1]}, np.arange(8) % 2), "'ER' has 7 cases"),
    ]:
        with pytest.raises(BadData, match=says):
            PROBLEM.load(source)
    with pytest.raises(BadData, match="image_size is for other data"):
        PROBLEM.load("stained-bags", image_size=3)


def test_encoders_learn_from_all_views_of_training_cases_and_groups_stay_together(folder):
    data = PROBLEM.load(folder, shots=1, draws=1)
    train, test = data.split(0)
    assert not set(data.source.group[train]) & set(data.source.group[test])
    assert set(data.shown(train)) == {"HE", "ER"} and len(data.shown(train)["ER"]) == len(train)
    assert "judged on the anchor 'HE' alone" in data.notes[-1]
    model = PROBLEM.train(Entrant("mean", "anytask.pretrain:MeanPooling"), data, 0, lambda share: None)
    np.testing.assert_allclose(data.features(model, test), [HE[case].mean(0) for case in test], atol=1e-6)


def test_every_baseline_runs_and_what_is_saved_reads_new_bags(tmp_path):
    data = PROBLEM.load("stained-bags", shots=5, draws=1)
    found = {entrant.name: PROBLEM.run(entrant, data, 0).metrics for entrant in PROBLEM.baselines(data)}
    assert len(found) == 6 and found["canonical correlations"]["accuracy"] > found["random encoder"]["accuracy"] + 0.1
    assert "learns from bags" in (PROBLEM.refuses(PROBLEM.baselines(data)[0], PROBLEM.load("iris")) or "")
    trained = PROBLEM.refit(PROBLEM.baselines(data)[0], data, 0)
    for part in trained.parts:
        part.save(tmp_path)
    used: dict = {"bags": data.inputs(np.arange(3))["anchor"]}
    exec("\n".join(trained.usage).replace("{folder}", str(tmp_path)), used)
    assert used["features"].shape == (3, 32)


def test_the_generated_world_is_what_it_says():
    data = stained_bags(400, 1, loud=3.0, mark=8.0)
    X = np.stack(data.views["anchor"])  # (cases, tokens, d)
    assert X.shape == (400, 24, 32) and set(data.y.tolist()) == {0, 1}
    there = np.mean([bag is not None for bag in data.views["stain 1"]])
    assert 0.6 < there < 0.8
    quiet = np.sort(X.std(axis=2).ravel())  # two kinds of tokens
    assert quiet[-1] / quiet[0] > 2
    assert stained_bags(5, 1).fingerprint != stained_bags(5, 2).fingerprint
