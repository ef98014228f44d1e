"""MIGU: which rows learn, what moves them otherwise, and whose loops it gates."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from anytask.continual import FineTuning
from anytask.continual.migu import MIGU, MagnitudeGate, magnitude_gating, trainer_callback
from anytask.continual.parts.gate import gate_of, gated

torch.set_num_threads(1)
N = torch.tensor([0.5, 3, 1, 2, 0.1, 4, 0.7, 0.2, 6, 0.3])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8))


def stepped(ratio=0.7, optimizer=torch.optim.SGD, parts=1, steps=1, **settings):
    """A network after steps on a fixed batch, cut into ``parts`` whose gradients are accumulated."""
    model, x = net(), torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    sgd = optimizer(model.parameters(), lr=0.05)
    with magnitude_gating(model, sgd, ratio, **settings) as gate:
        for _ in range(steps):
            sgd.zero_grad()
            for part in x.chunk(parts):
                (model(part).square().sum() / 12).backward()
            sgd.step()
    return model, gate


def test_the_quantile_of_ten_magnitudes_keeps_three():
    assert gate_of(N, 0.7).nonzero().flatten().tolist() == [1, 5, 8]  # the quantile is 2.3
    assert torch.equal(gate_of(N * 37, 0.7), gate_of(N, 0.7))
    assert gate_of(N, 0.5, cluster=5).tolist() == [False] * 5 + [True] * 5
    assert gate_of(N, 0.0).all()


@pytest.mark.parametrize("rule", ["quantile", "topk"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_ratio_of_0_is_plain_training_bit_for_bit(rule, optimizer):
    gated_, plain = stepped(0.0, optimizer, steps=3, rule=rule)[0], net()
    free = optimizer(plain.parameters(), lr=0.05)
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        free.zero_grad()
        (plain(x).square().sum() / 12).backward()
        free.step()
    assert all(torch.equal(a, b) for a, b in zip(gated_.parameters(), plain.parameters()))


def test_masked_rows_stay_and_the_others_move_as_without_a_mask():
    before, (masked, gate), (plain, _) = net(), stepped(), stepped(0.0)
    for i in (0, 2):
        learns = gate.gates[f"{i}.weight"]
        assert 0 < learns.sum() < len(learns)
        assert torch.equal(masked[i].weight[~learns], before[i].weight[~learns])
        assert torch.equal(masked[i].weight[learns], plain[i].weight[learns])
        assert torch.equal(masked[i].bias, plain[i].bias)  # biases are left alone


def test_accumulated_mini_batches_count_together_and_tests_do_not():
    (whole, gate), (cut, other) = stepped(), stepped(parts=3)
    assert all(torch.equal(gate.gates[name], other.gates[name]) for name in gate.gates)
    assert torch.allclose(whole[0].weight, cut[0].weight, atol=1e-6)
    model = net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    with magnitude_gating(model, sgd) as tested:
        with torch.no_grad():
            model(100 * torch.randn(50, 6))
        (model(x).square().sum() / 12).backward()
        sgd.step()
    assert torch.equal(tested.gates["0.weight"], gate.gates["0.weight"])


def test_momentum_and_decay_move_masked_rows_unless_strict():
    def run(strict):
        before, moved = net(), net()
        adam = torch.optim.AdamW(moved.parameters(), lr=0.05, weight_decay=0.5)
        with magnitude_gating(moved, adam, strict=strict) as gate:
            moved(torch.ones(3, 6)).square().sum().backward()
            adam.step()
        still = ~gate.gates["0.weight"]
        return torch.equal(moved[0].weight[still], before[0].weight[still])

    assert run(True) and not run(False)


def test_random_units_and_a_late_start():
    _, gate = stepped(units="random", seed=3)
    assert {int(g.sum()) for g in gate.gates.values()} == {10 - 7, 8 - 5}
    late, gate = stepped(start_step=5)
    assert not gate.gates and torch.equal(late[0].weight, stepped(0.0)[0][0].weight)


def after_a_left_out_step(model, x, sgd, gate):
    for _ in range(2):  # the first time the gradients overflow, and no step is made
        sgd.zero_grad()
        model(x).square().sum().backward()
        gate.mask_gradients()


def at_each_mini_batch(model, x, sgd, gate):
    for part in x.chunk(3):
        model(part).square().sum().backward()
        gate.mask_gradients()


def with_infinite_gradients(model, x, sgd, gate):
    model(x).square().sum().backward()
    model[0].weight.grad.fill_(torch.inf)


@pytest.mark.parametrize("loop", [after_a_left_out_step, at_each_mini_batch, with_infinite_gradients])
def test_in_anybodys_loop_masked_rows_stay(loop):
    before, model = net(), net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    with magnitude_gating(model, sgd) as gate:
        loop(model, torch.randn(12, 6, generator=torch.Generator().manual_seed(1)), sgd, gate)
        sgd.step()
    still = ~gate.gates["0.weight"]
    assert still.sum() == 7 and torch.equal(model[0].weight[still], before[0].weight[still])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_as_many_units_learn_in_every_precision(dtype):
    model = nn.Sequential(nn.Linear(4, 11), nn.ReLU()).to(dtype)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-6)
    for seed in range(5):
        x = 40 * torch.rand(5000, 4, generator=torch.Generator().manual_seed(seed))  # sums beyond half precision
        with magnitude_gating(model, sgd) as gate:
            model(x.to(dtype)).mean().backward()
            sgd.step()
        assert gate.gates["0.weight"].sum() == 4  # the quantile is the magnitude of a unit: 0.7 * 10 is whole


def test_a_tied_weight_is_gated_by_the_sum_of_its_layers():
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    first.weight.data, second.weight = torch.diag(torch.tensor([5.0, 1, 1])), first.weight
    sgd = torch.optim.SGD(first.parameters(), lr=0.1)
    with magnitude_gating(nn.Sequential(first, second), sgd) as gate:
        (first(torch.tensor([[1.0, 0, 0]])).sum() + second(torch.tensor([[0.0, 2, 1]])).sum()).backward()
        sgd.step()
    assert {name: g.tolist() for name, g in gate.gates.items()} == {"0.weight": [True, False, False]}


def test_padding_is_left_out_on_request():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 4, bias=False)
            self.layer.weight.data = torch.tensor([[1.0, 0], [2, 0], [0, 1], [0, 2]])

        def forward(self, x, attention_mask=None):
            return self.layer(x)

    x = torch.tensor([[[1.0, 0], [0, 9]]])  # the second token is padding, and louder
    found = {}
    for padding in (True, False):
        model = Tagger()
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        with magnitude_gating(model, sgd, 0.7, padding=padding) as gate:
            model(x, attention_mask=torch.tensor([[1, 0]])).sum().backward()
            sgd.step()
        found[padding] = gate.gates["layer.weight"].nonzero().flatten().tolist()
    assert found == {True: [3], False: [1]}


def test_layers_inside_the_blocks_of_a_transformer_are_gated_and_its_head_is_not():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertForSequenceClassification(config)
    names = [name for name, _, _ in gated(model)]
    assert len(names) == 2 * 6 and all(".layer." in name for name in names)
    assert [name for name, *_ in gated(model, lambda name, m: name == "classifier")] == ["classifier.weight"]


def test_fused_attention_is_refused_at_the_step():
    model = nn.ModuleList([nn.MultiheadAttention(4, 2)])
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(3, 1, 4)
    with magnitude_gating(model, sgd):
        model[0](x, x, x)[0].sum().backward()
        with pytest.raises(RuntimeError, match=r"out_proj\.weight has a gradient"):
            sgd.step()


def test_lora_is_gated_in_its_pairs_and_the_weight_below_never_changes():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("layer", nn.Linear(6, 10))
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["layer"], init_lora_weights=True))
    layer = model.base_model.model.layer
    below = layer.base_layer.weight.detach().clone()
    a, b = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
    x = torch.randn(20, 6)
    with torch.no_grad():
        full, low = layer(x).abs().sum(0), (x @ a.T).abs().sum(0)
    sgd = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with magnitude_gating(model, sgd) as gate:
        model(x).square().sum().backward()
        sgd.step()
    of_a, of_b = (next(g for n, g in gate.gates.items() if part in n) for part in ("lora_A", "lora_B"))
    assert torch.equal(of_a, gate_of(low, 0.7)) and torch.equal(of_b, gate_of(full, 0.7))
    assert torch.equal(b.any(1), of_b) and torch.equal(layer.base_layer.weight, below)


def test_transformers_trainer_is_gated_by_the_callback(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net()

        def forward(self, x, labels):
            return {"loss": nn.functional.mse_loss(self.body(x), labels)}

    data = [{"x": torch.randn(6), "labels": torch.zeros(8)} for _ in range(8)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, optim="sgd", learning_rate=0.1,
        save_strategy="no",
    )  # fmt: skip
    model = Model()
    before = copy.deepcopy(model)
    callback = trainer_callback(0.7)
    transformers.Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
    moved = (model.body[0].weight != before.body[0].weight).any(1)
    assert moved.any() and not (moved & ~callback.gate.gates["body.0.weight"]).any()


def test_of_an_estimator_the_ratio_0_is_fine_tuning():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    X = 3 * np.eye(8)[y] + rng.normal(size=(200, 8))
    plain, gated_, off = (
        cls.from_preset("small", **params).partial_fit(X, y)
        for cls, params in ((FineTuning, {}), (MIGU, {}), (MIGU, {"ratio": 0.0}))
    )
    assert np.array_equal(plain.predict_proba(X), off.predict_proba(X))
    assert not np.array_equal(plain.predict_proba(X), gated_.predict_proba(X))


@pytest.mark.parametrize(
    ("settings", "says"), [({"ratio": 1.0}, "ratio must be"), ({"layers": lambda *_: False}, "no linear layer to gate")]
)
def test_what_cannot_be_gated_is_said(settings, says):
    model = net()
    with pytest.raises(ValueError, match=says):
        MagnitudeGate(model, torch.optim.SGD(model.parameters(), lr=0.1), **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"ratio": 5}, "ratio must be"), ({"rule": "all"}, "rule must be"), ({"cluster": 0}, "cluster")],
)
def test_a_callback_is_checked_before_there_is_a_model(settings, says):
    with pytest.raises(ValueError, match=says):
        trainer_callback(**settings)


def test_a_gate_says_which_loops_it_is_not_for():
    model = net()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    gate = MagnitudeGate(model, sgd)
    gate.close()  # of a gate that was never entered
    with gate:
        with pytest.raises(RuntimeError, match="open already"):
            gate.__enter__()
        with pytest.raises(RuntimeError, match="closure"):
            sgd.step(lambda: model(torch.ones(1, 6)).sum())
    with gate:
        model(torch.ones(3, 6)).sum().backward()
        sgd.step()
    assert gate.steps == 1
