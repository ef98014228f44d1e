"""The problem `model-composition`: its worlds, folders of checkpoints, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from anytask import problems
from anytask.core.errors import BadData
from anytask.models.build import MLP
from anytask.multitask.merging import FineTuned
from anytask.problems.base import Entrant
from anytask.problems.model_composition import BASELINES, ModelComposition

torch.set_num_threads(1)
ATLAS = Entrant("atlas", "anytask.multitask:ATLAS", {"epochs": 2}, "system", "atlas")
QUICK = {"rows": 200, "steps": 30}


def test_it_is_registered():
    assert isinstance(problems.get("model-composition"), ModelComposition)


def test_what_is_shown_of_a_new_domain_is_neither_tested_nor_among_the_vectors():
    data = ModelComposition().load("digits-domains", shots=2, **QUICK)
    world = data.instance(0)
    assert set(world.vectors) == {"rot90", "rot180", "inverted", "flipped", "shifted", "thresholded"}
    (X, y), (tested, _) = world.shown["rot180+inverted"], world.tested["rot180+inverted"]
    assert y.bincount().tolist() == [2] * 10
    assert not set(map(bytes, X.numpy().reshape(20, -1))) & set(map(bytes, tested.numpy().reshape(len(tested), -1)))
    assert world.fine["rot180+inverted"] > 0.5
    assert all(torch.equal(vector[-1].weight, world.pretrained[-1].weight) for vector in world.vectors.values())
    single = ModelComposition().load("digits-domains", unseen="flipped", **QUICK).instance(0)
    assert "flipped" not in single.vectors


@pytest.mark.parametrize("task", ["few-labels", "addition", "negation", "test-time"])
def test_every_task_is_done_by_the_system_and_its_baselines(task):
    problem = ModelComposition()
    data = problem.load("digits-domains", task=task, unseen="flipped", domains="rot180,flipped", **QUICK)
    entrants = {entrant.name: entrant for entrant in (ATLAS, *problem.baselines(data))}
    assert ("full fine-tuning" in entrants) == (task in ("few-labels", "addition"))
    found = {name: problem.run(entrant, data, 0) for name, entrant in entrants.items()}
    for name, outcome in found.items():
        metrics = outcome.metrics
        assert 0 <= metrics["accuracy"] <= 1 and ("control" in metrics) == (task == "negation"), name
        assert metrics["score"] == pytest.approx(abs((task == "negation") - metrics["accuracy"]))
        assert outcome.cost["labels"] == {"few-labels": 10, "test-time": 0}.get(task, outcome.cost["labels"])
    vectors = {"few-labels": 5, "addition": 2, "negation": 1, "test-time": 5}[task]
    assert found["atlas"].metrics["trained"] == 14 * vectors and found["zero-shot"].metrics["trained"] == 0
    assert len(found["atlas"].details["by_domain"]) == (2 if task == "addition" else 1)
    assert problem.run(ATLAS, data, 0).metrics == found["atlas"].metrics
    if task == "addition":
        assert found["full fine-tuning"].metrics["accuracy"] > found["zero-shot"].metrics["accuracy"] + 0.1


@pytest.mark.parametrize("how", ["arithmetic", "average", "ties"])
def test_merging_is_the_formula_at_the_best_scale(how):
    pytest.importorskip("peft", reason="needs the extra text")
    from anytask.multitask import TaskVector
    from anytask.multitask.merging import Merged

    net = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.zeros_(net.weight)
    vectors = [TaskVector(weight=torch.tensor(w)) for w in ([[4.0, -1.0], [0.0, 0.0]], [[2.0, 3.0], [0.0, 1.0]])]
    X, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])  # the larger the scale, the smaller the loss
    merged = Merged(how=how, density=0.5).compose(net, vectors, X, y).weight.tolist()
    # TIES keeps 4 and -1, and 2 and 3; the signs are + and +; the mean of what has them is 3 and 3.
    assert merged == {"arithmetic": [[6, 2], [0, 1]], "average": [[3, 1], [0, 0.5]], "ties": [[3, 3], [0, 0]]}[how]


def folder(path, n=24):
    """A perceptron, two changed versions of it, and labelled rows."""
    rng, net = np.random.default_rng(0), MLP((4,), 2, (5,))
    save_file(net.state_dict(), path / "base.safetensors")
    for name in ("first", "second"):
        other = copy.deepcopy(net)
        torch.nn.init.normal_(other.layers[1].weight)
        save_file(other.state_dict(), path / f"{name}.safetensors")
    np.savez(
        path / "labelled.npz",
        X=rng.normal(size=(n, 4)).astype(np.float32),
        y=np.array(["no", "yes"])[rng.integers(2, size=n)],
    )
    return path


READERS = [entrant for entrant in (ATLAS, *BASELINES) if entrant.name != "zero-shot"]


@pytest.mark.parametrize("entrant", READERS, ids=lambda entrant: entrant.name)
def test_whoever_composes_reads_rows_of_every_kind_alike(entrant):
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2)
    )
    other, X, y = copy.deepcopy(net), torch.arange(24).view(8, 3) % 9, torch.arange(8) % 2
    torch.nn.init.ones_(other[0].weight)

    def answers(X, y=y, model=net):
        system = entrant.make("small", device="cpu", **({"steps": 5} if entrant.entry.endswith("FineTuned") else {}))
        return system.compose(model, {"a": other}, X, y).eval()(torch.ones(2, 3))

    wanted = answers(X.float())
    assert net.training and torch.equal(net[1].running_mean, torch.zeros(4))
    for given in (X, X.half(), X.double().numpy(), X.byte().numpy(), X.tolist()):
        assert torch.equal(answers(given, y.numpy()), wanted)
    assert torch.equal(answers(X, y.tolist(), copy.deepcopy(net).eval()), wanted)
    for given, labels, says in (
        (torch.where(X > 7, torch.nan, X.float()), y, "NaN"),
        (X[:, :2], y, r"maps no X of shape \(2,\)"),
        (X, y + 1, "places among the 2 logits"),
        (X, y[:5], "must match"),
        (X[:0], y[:0], "0 sample"),
    ):
        with pytest.raises(ValueError, match=says):
            answers(given, labels)


def test_fine_tuning_leaves_frozen_weights_and_says_where_all_are():
    net, X, y = (
        torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)),
        torch.randn(8, 3),
        torch.arange(8) % 2,
    )
    net[1].requires_grad_(False)
    tuned = FineTuned(steps=2, device="cpu")
    out = tuned.compose(net, {}, X, y)
    assert torch.equal(out[1].weight, net[1].weight) and not torch.equal(out[0].weight, net[0].weight)
    assert tuned.cost() == {"trainable_parameters": 16}
    with pytest.raises(ValueError, match="part='head' of the model has no weight that requires a gradient"):
        FineTuned(part="head", device="cpu").compose(net, {}, X, y)


def test_a_folder_of_checkpoints_is_composed(tmp_path):
    problem, path = ModelComposition(), folder(tmp_path)
    data = problem.load(str(path), shots=3)
    assert data.describe()["vectors"] == ["first", "second"] and data.describe()["rows"] == 24
    world = data.instance(0)
    assert len(world.shown["rows"][1]) == 6 and len(world.tested["rows"][1]) == 18
    for entrant in (ATLAS, *problem.baselines(data)):
        assert "normalised" not in problem.run(entrant, data, 0).metrics
    assert problem.run(ATLAS, problem.load(path, task="test-time"), 0).cost["labels"] == 0
    assert problem.load(path).fingerprint == problem.load(path).fingerprint != data.fingerprint


def test_what_cannot_be_composed_is_said(tmp_path):
    problem = ModelComposition()
    with pytest.raises(BadData, match="there is no domain 'upside'"):
        problem.load("digits-domains", unseen="upside+inverted")
    with pytest.raises(BadData, match="rows=1700 leaves fewer than 200 of 1797"):
        problem.load("digits-domains", rows=1700)
    with pytest.raises(BadData, match=r"wanted are one of .* a folder with base\.safetensors"):
        problem.load(tmp_path)
    path = folder(tmp_path)
    with pytest.raises(BadData, match="needs labelled rows of several tasks"):
        problem.load(path, task="addition")
    with pytest.raises(BadData, match="shots=20 leaves none to test on"):
        problem.load(path, shots=20)
    save_file({"layers.1.weight": torch.zeros(5, 3)}, path / "second.safetensors")
    with pytest.raises(BadData, match=r"'layers\.1\.bias' is missing"):
        problem.load(path)
    (path / "second.safetensors").write_bytes(b"none")
    with pytest.raises(BadData, match="no safetensors file"):
        problem.load(path)
    data = problem.load("digits-domains", task="negation")
    with pytest.raises(ValueError, match=r"has no negate\(\.\.\.\)"):
        problem.run(Entrant("tuned", "anytask.multitask.merging:FineTuned"), data, 0)
