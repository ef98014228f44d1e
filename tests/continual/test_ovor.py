"""OVOR: what is trained when, virtual outliers, and the schemes of prompts."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from anytask.continual.ovor import OVOR
from anytask.continual.parts.prompt_schemes import SCHEMES, PromptMixture
from anytask.continual.parts.virtual_outliers import logit_spread, neighbor_distances, virtual_outliers

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)
CONTRACT = {"hidden": 8, "outliers": {"epochs": 2, "k": 3, "select": 4, "sample_from": 5, "per_class": 4}}
EXEMPT = {
    "test_plain_defaults_learn_and_every_method_works_with_them": "its encoder is on the hub; `small` learns here"
}
FEW = {"epochs": 2, "k": 3, "select": 4, "sample_from": 6, "per_class": 5}


def vit(seed=0):
    torch.manual_seed(seed)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_channels=1,
    )  # fmt: skip
    return transformers.ViTModel(config)


def prompted(scheme="one", **params):
    prompts = {"scheme": scheme, "general": (0,), "general_length": 2, "expert": (1, 2), "expert_length": 4}
    return OVOR(backbone=vit(), prompts=prompts, batch_size=16, lr=5e-3, **{"outliers": FEW, **params})


def images(labels, n=32, seed=0):
    rng = np.random.default_rng([seed, *labels])
    y = np.array(labels)[np.arange(n) % len(labels)]
    X = 0.3 * rng.normal(size=(n, 1, 8, 8)).astype(np.float32)
    for i, label in enumerate(y):
        X[i, 0, label] += 2
    return X, y


def test_loneliness_is_the_distance_to_the_kth_neighbor_with_itself_as_the_first():
    x = torch.tensor([[0.0], [0.1], [0.2], [0.3], [2.0]])
    assert neighbor_distances(x, x, 3).tolist() == pytest.approx([0.04, 0.01, 0.01, 0.04, 3.24], abs=1e-6)
    assert torch.equal(neighbor_distances(x, x, 99), neighbor_distances(x, x, 5))  # no more than there are


@pytest.mark.parametrize(("n", "wanted"), [(7, 7), (999, 4 * 6)])
def test_there_are_as_many_outliers_as_wanted_or_as_candidates(n, wanted):
    Z = torch.randn(30, 5)
    made = {"k": 3, "select": 4, "sample_from": 6, "cov": 0.5}
    outside = virtual_outliers(Z, n, center="boundary", generator=torch.Generator().manual_seed(0), **made)
    assert outside.shape == (wanted, 5)
    origin = virtual_outliers(Z + 100, n, center="origin", generator=torch.Generator().manual_seed(0), **made)
    assert origin.abs().max() < 10


def test_the_published_prompts_have_107520_numbers_for_any_number_of_tasks():
    scheme = SCHEMES["one"](OVOR().prompts.lengths, 768)
    for _ in range(3):
        scheme.begin_task()
    assert sum(p.numel() for p in scheme.parameters()) == 107_520


def test_prompts_learn_until_a_task_ends_and_heads_of_other_tasks_never_move():
    model = prompted().partial_fit(*images((0, 1)))
    prompts = copy.deepcopy(model.prompts_.state_dict())
    first = copy.deepcopy(model.heads_[0].state_dict())
    model.end_task()
    assert all(torch.equal(v, prompts[k]) for k, v in model.prompts_.state_dict().items())  # phase B: the head alone
    assert not torch.equal(model.heads_[0].weight, first["weight"]) and not len(model.memory_)
    ended, network = copy.deepcopy(model.heads_[0].state_dict()), copy.deepcopy(model.network_.state_dict())
    model.partial_fit(*images((2, 3))).end_task()
    assert any(not torch.equal(v, prompts[k]) for k, v in model.prompts_.state_dict().items())
    assert all(torch.equal(v, ended[k]) for k, v in model.heads_[0].state_dict().items())
    assert all(torch.equal(v, network[k]) for k, v in model.network_.state_dict().items())
    assert model.codes_ == [[0, 1], [2, 3]]


def test_without_hinges_outliers_do_not_matter():
    few = {**FEW, "lambda_": 0.0}
    a, b = (prompted(outliers={**few, "cov": cov}).partial_fit(*images((0, 1))).end_task() for cov in (0.1, 5.0))
    assert torch.equal(a.heads_[0].weight, b.heads_[0].weight)


def test_the_spread_of_logits_counts_differences_and_not_the_level():
    zero = torch.zeros(3, 4)
    assert logit_spread(zero).item() == pytest.approx(math.log(4))
    assert logit_spread(zero - 9).item() == pytest.approx(math.log(4), abs=1e-6)
    apart = torch.tensor([[30.0, 0.0, 0.0]])  # log(e^30 + 2) - 10
    assert logit_spread(apart).item() == pytest.approx(20, abs=1e-5)


def test_bounds_and_offsets_in_the_tasks_units_are_multiples_of_its_spread_and_deviation():
    model = prompted().partial_fit(*images((0, 1)))
    with torch.no_grad():
        Z = model._features(torch.tensor(images((0, 1))[0]))[0]
        spread, deviation = float(logit_spread(model.heads_[0](Z))), float(Z.var(0, correction=0).mean().sqrt())
    own = {"delta_in": -2.0, "delta_out": -0.5, "cov": 0.3}
    same = {"delta_in": -2 * spread, "delta_out": -0.5 * spread, "cov": 0.3 * deviation}
    heads = [
        prompted(outliers={**FEW, "lambda_": 1.0, **units}).partial_fit(*images((0, 1))).end_task().heads_[0].weight
        for units in ({"units": "task", **own}, same, own)
    ]
    assert torch.allclose(heads[0], heads[1], atol=1e-5)
    assert not torch.allclose(heads[0], heads[2], atol=1e-3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_learns_tasks_saves_and_keeps_what_belongs_to_older_ones(scheme, tmp_path):
    model = prompted(scheme).partial_fit(*images((0, 1))).end_task()
    own = [k for k, v in model.prompts_.named_parameters() if scheme in ("per task", "mixture") and "general" not in k]
    before = {name: model.prompts_.get_parameter(name).clone() for name in own}
    for _ in range(3):
        model.partial_fit(*images((2, 3)))
    model.end_task()
    assert all(torch.equal(model.prompts_.get_parameter(name), value) for name, value in before.items())
    x = images((0, 1, 2, 3), seed=1)[0]
    model.save(tmp_path)
    again = OVOR.load(tmp_path, backbone=vit())
    assert np.array_equal(again.predict_proba(x), model.predict_proba(x))


def test_components_of_a_mixture_begin_orthogonal_to_the_older_ones():
    scheme = PromptMixture({0: 2}, 40, size=6)
    scheme.begin_task()
    scheme.begin_task()
    K = torch.cat(list(scheme.keys))
    assert torch.allclose(K @ K.T, torch.eye(12), atol=1e-5)
    assert [p.requires_grad for p in scheme.keys] == [False, True]


def test_virtual_outliers_keep_tasks_from_claiming_each_others_inputs():
    X, y = load_digits(return_X_y=True)
    X, test = X / 16, np.arange(len(y)) % 3 == 0
    layer = torch.nn.Linear(64, 128)
    layer.weight.data = torch.randn(128, 64, generator=torch.Generator().manual_seed(0)) / 4
    layer.bias.data = -layer.weight.data @ torch.tensor(X.mean(0), dtype=torch.float32)
    features = torch.nn.Sequential(layer, torch.nn.ReLU())

    def accuracy(lambda_):
        outliers = {"lambda_": lambda_, "sample_from": 40}
        model = OVOR.from_preset("small", backbone=features, outliers=outliers, seed=0)
        for low in range(0, 10, 2):
            rows = np.flatnonzero(~test & (y >= low) & (y < low + 2))
            for epoch in range(10):
                order = np.random.default_rng(epoch).permutation(rows)
                model.partial_fit(X[order], y[order])
            model.end_task()
        return (model.predict(X[test]) == y[test]).mean()

    assert accuracy(1.0) > accuracy(0.0) + 0.05


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"backbone": torch.nn.Flatten()}, "prompts need an encoder of transformers"),
        ({"backbone": vit(), "prompts": {"expert": (7,)}}, r"prompts for blocks \[7\], and the encoder has 3"),
    ],
)
def test_what_does_not_go_together_is_said(params, says):
    with pytest.raises(ValueError, match=says):
        OVOR(**params).partial_fit(*images((0, 1)))
    with pytest.raises(ValueError, match="must be even"):
        OVOR(prompts={"expert_length": 3})
