"""aTLAS: the algebra of task vectors, exact compositions, and what is learned and what stays."""

import copy
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.nn import functional as F

from anytask.core.errors import NotFinite
from anytask.multitask import ATLAS, TaskVector
from anytask.multitask.atlas.composition import trusted
from anytask.multitask.parts.task_vectors import LowRank, aligned, dense

torch.set_num_threads(1)
SHORT = {"epochs": 2, "device": "cpu"}


def network(seed=0, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)).to(dtype)


def moved(net, seed, dtype=torch.float32):
    """The network after a change of all its weights."""
    rng, out = torch.Generator().manual_seed(seed), copy.deepcopy(net)
    with torch.no_grad():
        for weight in out.parameters():
            weight += 0.5 * torch.randn(weight.shape, generator=rng, dtype=dtype)
    return out


NET = network()
BANK = {"a": moved(NET, 1), "b": moved(NET, 2), "c": moved(NET, 3)}
X = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(30) % 3


def composed(coef, net=NET, bank=BANK, **params):
    """The model with given coefficients of all vectors and blocks."""
    atlas = ATLAS(**SHORT, **params)
    atlas.compose(net, bank, X.to(next(net.parameters()).dtype), Y)
    atlas.coef_ = torch.as_tensor(coef).to(atlas.coef_).expand_as(atlas.coef_)
    return atlas.materialise(net, bank)


# -- task vectors -----------------------------------------------------------------------------------------------------


def test_a_vector_leads_to_the_fine_tuned_model_and_passes_over_buffers_and_tied_names():
    net = nn.ModuleDict({"embed": nn.Embedding(4, 3), "norm": nn.BatchNorm1d(3), "head": nn.Linear(3, 4, bias=False)})
    net["head"].weight = net["embed"].weight
    tuned = moved(net, 1)
    vector = TaskVector.between(net, tuned)
    assert list(vector) == ["embed.weight", "norm.weight", "norm.bias"]
    for given in (
        tuned.state_dict(),
        {"head.weight": tuned["embed"].weight, **tuned["norm"].state_dict(prefix="norm.")},
    ):
        assert all(torch.equal(vector[name], value) for name, value in TaskVector.between(net, given).items())
    by_state = TaskVector.between(net.state_dict(), tuned.state_dict())  # in which running statistics are tensors too
    assert "head.weight" not in by_state and "norm.num_batches_tracked" not in by_state
    assert list(aligned(net, {"a": by_state})) == list(vector)


def test_all_names_and_shapes_that_differ_are_listed():
    other = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4), nn.Linear(4, 4))
    with pytest.raises(
        ValueError, match=r"'4.weight' is not in the pre-trained.*'3.weight' is \(4, 8\), wanted \(3, 8\)"
    ):
        TaskVector.between(NET, other)
    with pytest.raises(ValueError, match=r"'3\.bias' is missing"):
        TaskVector.between(NET, {n: v for n, v in NET.state_dict().items() if n != "3.bias"})
    with pytest.raises(ValueError, match=r"vector '1' does not fit: 'x' is not in the model; '3.bias' is \(2,\)"):
        ATLAS().compose(NET, [BANK["a"], TaskVector({"x": torch.ones(1), "3.bias": torch.ones(2)})], X, Y)


def test_arithmetic_of_low_rank_changes_is_that_of_their_products():
    rng = torch.Generator().manual_seed(0)
    low = [LowRank(torch.randn(4, 2, generator=rng), torch.randn(2, 5, generator=rng)) for _ in range(2)]
    a, b = (TaskVector(w=one) for one in low)
    full_a, full_b = (TaskVector(w=one.dense()) for one in low)
    assert isinstance((a - 2 * b)["w"], LowRank)
    torch.testing.assert_close(dense((a - 2 * b)["w"]), full_a["w"] - 2 * full_b["w"])
    torch.testing.assert_close((a + full_b)["w"], full_a["w"] + full_b["w"])
    assert a.dot(b) == pytest.approx(full_a.dot(full_b)) and a.cosine(-a) == pytest.approx(-1)


@pytest.mark.parametrize("rslora", [False, True])
def test_lora_vectors_are_what_peft_adds_from_a_module_or_a_folder(rslora, tmp_path):
    peft = pytest.importorskip("peft", reason="needs the extra text")
    base = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["0", "1"], use_rslora=rslora, alpha_pattern={"1": 10})
    model = peft.get_peft_model(copy.deepcopy(base), config)
    for name, weight in model.named_parameters():
        if "lora" in name:
            nn.init.normal_(weight)
    model.save_pretrained(tmp_path)
    merged = TaskVector.between(base, copy.deepcopy(model).merge_and_unload())
    for vector in (TaskVector.from_lora(model), TaskVector.from_lora(tmp_path)):
        assert set(vector) == {"0.weight", "1.weight"}
        for name, value in vector.items():
            torch.testing.assert_close(value.dense(), merged[name], atol=1e-5, rtol=1e-4)
    atlas = ATLAS(**SHORT)
    out = atlas.compose(base, [vector], X, Y)
    by_product = ATLAS(**SHORT).compose(base, [TaskVector({n: v.dense() for n, v in vector.items()})], X, Y)
    assert atlas.blocks_ == ["0.weight", "1.weight"]
    torch.testing.assert_close(out(X), by_product(X), atol=1e-3, rtol=1e-3)
    with pytest.raises(ValueError, match="no adapter"):
        TaskVector.from_lora(base)
    with pytest.raises(ValueError, match="no adapter of PEFT can be read"):
        TaskVector.from_lora(tmp_path / "nowhere")


# -- exact compositions -----------------------------------------------------------------------------------------------


def test_the_worked_example():
    net = nn.Linear(2, 2)
    net.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
    first = TaskVector(weight=torch.tensor([[0.0, 2], [0, 0]]), bias=torch.tensor([1.0, 0]))
    second = TaskVector(weight=torch.tensor([[0.0, 0], [1, 0]]), bias=torch.tensor([0.0, -1]))
    atlas = ATLAS(**SHORT)
    atlas.compose(net, [first, second], torch.ones(2, 2), [0, 1])
    atlas.coef_ = torch.tensor([[0.5, 2], [-1, 1]])[:, :, None]
    out = atlas.materialise(net, [first, second])
    assert out.weight.tolist() == [[1, 1], [-1, 1]] and out.bias.tolist() == [2, -1]
    assert out(torch.tensor([1.0, 2])).tolist() == [5, 0]


@pytest.mark.parametrize("params", [{}, {"partition": {"n_groups": 3}}, {"storage": "float16"}], ids=str)
def test_coefficients_of_zero_are_the_model_and_of_one_a_checkpoint(params):
    assert torch.equal(composed(0.0, **params)(X), NET(X))
    one = torch.tensor([0.0, 1, 0])[:, None, None]
    near = {"atol": 5e-3, "rtol": 5e-3} if "storage" in params else {}
    torch.testing.assert_close(composed(one, **params)(X), BANK["b"](X), **near)


def test_the_gradient_is_the_inner_product_with_the_vector():
    net = network(dtype=torch.float64)
    bank = [moved(net, 1, torch.float64), moved(net, 2, torch.float64)]
    c = ATLAS(device="cpu")._start(net, bank)
    F.cross_entropy(c.logits(c.theta(), X.double()), Y).backward()
    F.cross_entropy(net(X.double()), Y).backward()
    for i, tuned in enumerate(bank):
        vector = TaskVector.between(net, tuned)
        expected = torch.stack([(weight.grad * vector[name]).sum() for name, weight in net.named_parameters()])
        torch.testing.assert_close(c.lambda_.grad[i, :, 0], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "params", [{"partition": {"n_groups": 4}}, {"storage": "bfloat16"}, {"linearized": True}], ids=str
)
def test_the_gradient_is_that_of_finite_differences(params):
    net = network(dtype=torch.float64)
    bank = [moved(net, 1, torch.float64), moved(net, 2, torch.float64)]
    c = ATLAS(device="cpu", **params)._start(net, bank)
    c.lambda_.data.normal_(generator=torch.Generator().manual_seed(0))
    loss = lambda: F.cross_entropy(c.logits(c.theta(), X.double()), Y)  # noqa: E731
    loss().backward()
    eps, place = 1e-6, (1, 2, 0)
    with torch.no_grad():
        c.lambda_[place] += eps
        above = loss()
        c.lambda_[place] -= 2 * eps
        assert (above - loss()).item() / (2 * eps) == pytest.approx(c.lambda_.grad[place].item(), rel=1e-5)


def test_a_checkpoint_may_be_a_module_a_state_dict_or_its_change():
    bank = BANK["a"], BANK["b"].state_dict(), TaskVector.between(NET, BANK["c"])
    a, b = ATLAS(**SHORT), ATLAS(**SHORT)
    assert torch.equal(a.compose(NET, bank, X, Y)(X), b.compose(NET, list(BANK.values()), X, Y)(X))
    with pytest.raises(TypeError, match="a model must be a torch"):
        TaskVector.between(NET, 3)


def test_counts_and_that_tied_coefficients_are_those_of_a_vector():
    for params, n in (({}, 3 * 6), ({"scaling": "vector"}, 3), ({"partition": {"n_groups": 5}}, 3 * 6 * 5)):
        atlas = ATLAS(**SHORT, **params)
        atlas.compose(NET, BANK, X, Y)
        assert atlas.cost()["trainable_parameters"] == atlas.n_coefficients_ == n
        assert atlas.coef_.shape == (3, 6, params.get("partition", {}).get("n_groups", 1))
    atlas = ATLAS(**SHORT, scaling="vector")
    out = atlas.compose(NET, BANK, X, Y)
    assert (atlas.coef_ == atlas.coef_[:, :1]).all() and atlas.coef_.any()
    added = sum(
        (float(a) * TaskVector.between(NET, v) for a, v in zip(atlas.coef_[:, 0, 0], BANK.values())), TaskVector()
    )
    torch.testing.assert_close(TaskVector.between(NET, out)["0.weight"], added["0.weight"], atol=1e-5, rtol=1e-4)


def test_groups_of_a_partition_cover_each_tensor_once():
    for params, alike in (({"n_groups": 4}, False), ({"n_groups": 4, "share_masks": True}, True)):
        net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        c = ATLAS(device="cpu", partition=params)._start(net, [moved(net, 1)])
        for block in c.blocks.values():
            masks = torch.stack([block.groups == k for k in range(4)]).int()
            assert (masks.sum(0) == 1).all() and (masks.flatten(1).sum(1) == block.theta_0.numel() // 4).all()
        assert torch.equal(c.blocks["0.weight"].groups, c.blocks["1.weight"].groups) == alike
    atlas = ATLAS(**SHORT, partition={"n_groups": 4, "matrices_only": True})
    atlas.compose(NET, BANK, X, Y)
    assert atlas.blocks_ == ["0.weight", "3.weight"]


# -- what is learned, and what stays ----------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["compose", "add", "negate", "adapt"])
def test_the_given_model_stays_and_the_seed_decides(use):
    net = nn.Sequential(network(), nn.BatchNorm1d(3)).train()
    bank = [moved(net, 1), moved(net, 2)]
    before = copy.deepcopy(net.state_dict())
    given = {
        "compose": (X, Y),
        "add": ({"one": (X, Y), "two": (X.numpy(), Y.numpy())},),
        "negate": (X, Y),
        "adapt": (X,),
    }
    more, told = {"control": (X, (Y + 1) % 3)} if use == "negate" else {}, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = [ATLAS(**SHORT, seed=seed, min_batches=3, batch_size=8, keep=0.0) for seed in (1, 1, 2)]
        outs = [getattr(run, use)(net, bank, *given[use], **more, progress=told.append) for run in runs]
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for model in (net, *outs) for p in model.parameters())
    assert torch.equal(runs[0].coef_, runs[1].coef_) and torch.equal(outs[0].eval()(X), outs[1].eval()(X))
    n = {"compose": 2 * 4, "adapt": 2 * 4}.get(use, 2 * 8)  # 8 rows of 30, or 4 of each of two data sets
    assert told[-1] == 1.0 and len(runs[0].losses_) == n
    assert all(torch.equal(v, before[n]) for n, v in outs[0].state_dict().items() if "running" in n)
    if use != "negate":
        assert not torch.equal(runs[0].coef_, runs[2].coef_)


def test_what_was_learned_is_saved_and_composes_again(tmp_path):
    atlas = ATLAS(**SHORT, partition={"n_groups": 3})
    with pytest.raises(NotFittedError):
        atlas.materialise(NET, BANK)
    out = atlas.compose(NET, BANK, X, Y)
    atlas.save(tmp_path)
    again = ATLAS.load(tmp_path, device="cpu")
    assert again.vectors_ == ["a", "b", "c"] and again.cost() == atlas.cost()
    torch.testing.assert_close(again.materialise(NET, dict(reversed(BANK.items())))(X), out(X))
    with pytest.raises(ValueError, match="'c' is not among those given"):
        again.materialise(NET, {"a": BANK["a"], "b": BANK["b"]})
    with pytest.raises(ValueError, match="shapes the fitted model"):
        again.set_params(seed=5).materialise(NET, BANK)


def test_a_frozen_head_and_what_is_excluded_have_no_coefficient():
    bank = copy.deepcopy(BANK)
    for tuned in bank.values():
        tuned[3] = NET[3]
    atlas = ATLAS(**SHORT, exclude=["1.*"])
    atlas.compose(NET, bank, X, Y)
    assert atlas.blocks_ == ["0.weight", "0.bias"]
    with pytest.raises(ValueError, match="change no parameter"):
        ATLAS(exclude=["*"]).compose(NET, bank, X, Y)


@pytest.mark.parametrize("selection", ["block", "vector", "random"])
def test_a_budget_keeps_the_vectors_with_the_largest_gradients(selection):
    bank = [moved(NET, 1), (1e-3 * TaskVector.between(NET, moved(NET, 2))), moved(NET, 3)]
    atlas = ATLAS(**SHORT, budget=2, selection=selection)
    out = atlas.compose(NET, bank, X, Y)
    used = atlas.coef_[:, :, 0] != 0
    assert (used.sum(0) == 2).all() and atlas.n_coefficients_ == 2 * 6
    assert selection == "random" or not used[1].any()
    torch.testing.assert_close(atlas.materialise(NET, bank)(X), out(X))


def test_a_penalty_makes_coefficients_smaller_and_decay_pulls_to_the_model():
    def size(**params):
        atlas = ATLAS(**{**SHORT, "epochs": 4, **params})
        atlas.compose(NET, BANK, X, Y)
        return atlas.coef_.abs().sum()

    assert size(penalty=10.0) < 0.5 * size() and size(weight_decay=5.0) < size(weight_decay=0.0)


def test_validation_keeps_the_best_coefficients():
    wrong = (X, (BANK["a"](X).argmax(1) + 1) % 3)  # what is learned is wrong there: an early epoch is best
    atlas = ATLAS(device="cpu", epochs=6)
    told = atlas.compose(NET, BANK, X, BANK["a"](X).argmax(1), validation=wrong)
    last = ATLAS(device="cpu", epochs=6).compose(NET, BANK, X, BANK["a"](X).argmax(1))
    right = [(model(X).argmax(1) == wrong[1]).float().mean() for model in (told, last)]
    assert right[0] > right[1]


def test_a_sum_of_tasks_is_found_again_with_their_heads():
    # Features are x scaled by theta; each data set reads one of them, and each vector turns on the one that it reads.
    net = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(net.weight)
    bank = {name: TaskVector(weight=torch.diag(torch.eye(2)[i])) for i, name in enumerate("pq")}
    heads = {name: nn.Linear(2, 2, bias=False) for name in "pq"}
    for i, head in enumerate(heads.values()):
        head.weight.data = 9 * torch.stack([torch.eye(2)[i], -torch.eye(2)[i]])
    data = {name: (X[:, :2], (X[:, i] < 0).long()) for i, name in enumerate("pq")}
    atlas = ATLAS(device="cpu")
    out = atlas.add(net, bank, data, heads=heads)
    assert all((heads[n](out(x)).argmax(1) == y).float().mean() > 0.95 for n, (x, y) in data.items())
    assert (atlas.coef_ > 0.2).all()


def test_negation_keeps_the_control_or_says_that_it_could_not():
    target, control = (X, BANK["a"](X).argmax(1)), (X, NET(X).argmax(1))
    strong = moved(BANK["a"], 5)
    with pytest.warns(UserWarning, match="No coefficients made the task fail and kept the control"):
        out = ATLAS(device="cpu", lr=50.0, epochs=3, keep=1.0).negate(NET, [strong], *target, control=control)
    assert torch.equal(out(X), NET(X))
    atlas = ATLAS(device="cpu", keep=0.5)
    out = atlas.negate(BANK["a"], [TaskVector.between(NET, BANK["a"])], *target, control=control)
    right = lambda model, pair: (model(pair[0]).argmax(1) == pair[1]).float().mean()  # noqa: E731
    assert right(out, target) < right(BANK["a"], target) == 1
    assert right(out, control) >= 0.5 * right(BANK["a"], control)


def test_trusted_rows_are_the_surest_of_every_class():
    P = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)).softmax(1)
    rows, labels = trusted(P)
    assert labels.bincount().tolist() == [5] * 4
    for c in range(4):
        assert set(rows[labels == c].tolist()) == set(P[:, c].argsort(descending=True)[:5].tolist())


@pytest.mark.parametrize("objective", ["ufm", "entropy"])
def test_adapting_makes_answers_surer_without_labels(objective):
    atlas = ATLAS(device="cpu", lr=0.05, adaptation={"objective": objective, "threshold": 0.5, "temperature": 0.5})
    out = atlas.adapt(NET, BANK, X)
    assert out(X).softmax(1).amax(1).mean() > NET(X).softmax(1).amax(1).mean() + 0.05


def test_a_linearized_model_is_linear_in_the_coefficients():
    at = [composed(scale, linearized=True)(X) for scale in (0.0, 1.0, 2.0)]
    torch.testing.assert_close(at[0], NET(X))
    torch.testing.assert_close(at[2] - at[0], 2 * (at[1] - at[0]), atol=1e-4, rtol=1e-3)


def test_whole_numbers_reach_an_embedding_and_are_numbers_elsewhere():
    net = nn.Sequential(nn.Embedding(5, 6), nn.Flatten(), nn.Linear(18, 2))
    tokens = torch.randint(5, (8, 3), generator=torch.Generator().manual_seed(0))
    assert ATLAS(**SHORT).compose(net, [moved(net, 1)], tokens, torch.arange(8) % 2)(tokens).shape == (8, 2)
    assert ATLAS(**SHORT).compose(NET, BANK, X.round().int().numpy(), Y)(X).shape == (30, 3)
    with pytest.raises(ValueError, match="both views of an input are the same"):
        ATLAS(**SHORT).adapt(net, [moved(net, 1)], tokens)


NAN = X.clone()
NAN[4, 2] = float("nan")
BAD = {
    "no module": (lambda: ATLAS().compose(NET.state_dict(), BANK, X, Y), "pretrained must be a torch.nn.Module"),
    "no vectors": (lambda: ATLAS().compose(NET, [], X, Y), "at least one"),
    "one vector": (lambda: ATLAS().compose(NET, TaskVector.between(NET, BANK["a"]), X, Y), "put one alone into a list"),
    "a head": (lambda: ATLAS().add(NET, BANK, {"p": (X, Y)}, heads={"p": 3}), "the head of p must be a"),
    "part of a checkpoint": (lambda: ATLAS().compose(NET, [{"3.bias": torch.ones(3)}], X, Y), "vector 0: .* missing"),
    "no vector": (lambda: ATLAS().compose(NET, [3], X, Y), "vector 0 must be a task vector"),
    "same": (lambda: ATLAS().compose(NET, [NET], X, Y), "change no parameter"),
    "NaN inputs": (lambda: ATLAS().compose(NET, BANK, NAN, Y), "row 4"),
    "shape": (lambda: ATLAS().compose(NET, BANK, X[:, :4], Y), r"maps no X of shape \(4,\)"),
    "labels": (lambda: ATLAS().compose(NET, BANK, X, Y + 1), "places among the 3 logits"),
    "lengths": (lambda: ATLAS().compose(NET, BANK, X, Y[:-1]), "30 rows"),
    "validation": (lambda: ATLAS().compose(NET, BANK, X, Y, validation=X), "must be a pair"),
    "budget": (lambda: ATLAS(budget=4).compose(NET, BANK, X, Y), "more than the 3 vectors"),
    "budget of tied": (lambda: ATLAS(budget=2, scaling="vector"), "no coefficient of a block"),
    "names": (lambda: ATLAS().compose(NET, {1: BANK["a"], "1": BANK["b"]}, X, Y), "two vectors have the name '1'"),
    "array": (lambda: ATLAS().compose(NET, [TaskVector({"3.bias": np.ones(3)})], X, Y), "3.bias of vector '0' must be"),
    "exclude": (lambda: ATLAS(exclude=["heads.*"]).compose(NET, BANK, X, Y), "fits no parameter of the model"),
    "augment": (lambda: ATLAS().compose(NET, BANK, X, Y, augment=3), "augment must be a callable"),
    "heads": (lambda: ATLAS().add(NET, BANK, {"p": (X, Y)}, heads=[NET]), "heads must be a mapping"),
    "no data": (lambda: ATLAS().add(NET, BANK, {}), "mapping of names"),
    "other names": (lambda: ATLAS().add(NET, BANK, {"p": (X, Y)}, heads={"q": NET}), "the names of data, p; got q"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_composed_is_said(kind):
    call, says = BAD[kind]
    with pytest.raises((ValueError, TypeError), match=says):
        call()


def test_what_teaches_nothing_is_warned_of():
    still = {"a": BANK["a"], "still": NET}
    for call, says in (
        (lambda: ATLAS(**SHORT).compose(NET, still, X, Y), "'still' changes nothing"),
        (lambda: ATLAS(**SHORT).compose(NET, BANK, X, 0 * Y + 2), "All labels of X are 2"),
        (lambda: ATLAS(**SHORT).adapt(NET, BANK, X[:2]), "2 inputs are fewer than the 3 classes"),
    ):
        with pytest.warns(UserWarning, match=says):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ATLAS(**SHORT).compose(NET, BANK, X, Y)
        ATLAS(**SHORT).add(NET, BANK, {0: (X, Y), 1: (X, Y)})


def test_a_vector_of_nan_and_a_training_that_diverges_are_refused_and_leave_what_was_learned():
    atlas = ATLAS(**SHORT)
    atlas.compose(NET, BANK, X, Y)
    before = atlas.coef_.clone()
    with pytest.raises(NotFinite, match=r"0.bias of vector '0'"):
        atlas.compose(NET, [TaskVector({"0.bias": torch.full((8,), np.nan)})], X, Y)
    with pytest.raises(NotFinite, match="the loss of the coefficients"):
        atlas.compose(NET, BANK, X, Y, augment=lambda x: x * np.nan)
    assert torch.equal(atlas.coef_, before)
