"""MTLoRA: the brief's numbers, what moves and what does not, networks of transformers, and PEFT's adapters."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    PvtV2Config,
    PvtV2Model,
    SwinConfig,
    SwinModel,
    Swinv2Config,
    Swinv2Model,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTModel,
)

from anytask.multitask import DenseHead, LowRankTasks, MTLoRA
from anytask.multitask.parts.low_rank import LowRank, LowRankLinear, place

EXEMPT = {
    "test_the_order_of_rows_does_not_matter_to_what_is_learned": "dropout is drawn by a row's place in its batch",
    "test_a_frozen_backbone_is_left_as_it_is": "what it freezes is its own choice, and pairs need wider layers",
    "test_batch_norm_and_dropout_rest_after_training_and_after_loading": "pairs need wider layers",
}
T = 3
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SWIN = {"image_size": 16, "patch_size": 2, "num_channels": 1, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4]}
PVT = PvtV2Config(
    image_size=32, num_channels=1, hidden_sizes=[8, 16, 24, 32], depths=[1] * 4, num_attention_heads=[1, 1, 2, 2],
    mlp_ratios=[2] * 4,
)  # fmt: skip
VIT = ViTConfig(**SIZE, image_size=16, patch_size=4, num_channels=1)
IDS = {"input_ids": torch.arange(14).view(2, 7), "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
PIXELS = {"pixel_values": torch.linspace(-1, 1, 2 * 16 * 16).view(2, 1, 16, 16)}
NETWORKS = {
    "swin": (lambda: SwinModel(SwinConfig(**SWIN, window_size=4)), PIXELS),
    "vit": (
        lambda: ViTModel(ViTConfig(**SIZE, image_size=16, patch_size=4, num_channels=1), add_pooling_layer=False),
        PIXELS,
    ),
    "bert": (lambda: BertModel(BertConfig(**SIZE, vocab_size=20, hidden_dropout_prob=0.0)), IDS),
    "llama": (lambda: LlamaModel(LlamaConfig(**SIZE, vocab_size=20, use_cache=False)), IDS),
}
everywhere = pytest.mark.parametrize("name", NETWORKS)


def drawn(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def adapted(name="swin", n_tasks=T, perturbed=True, **low_rank):
    """A network with pairs, none of them 0 unless told, in evaluation mode."""
    low_rank = {"rank": 4, "task_rank": 2, **low_rank}
    network = drawn(lambda: LowRankTasks(NETWORKS[name][0](), n_tasks, LowRank(**low_rank))).eval()
    for key, weight in network.named_parameters():
        if perturbed and key.rpartition(".")[0].endswith("task_B") | key.endswith("lora_B"):
            weight.data = drawn(lambda w=weight: 0.2 * torch.randn_like(w), len(key))
    return network


def hidden(out):
    return out.last_hidden_state


def layer(mode="matrixv2", tasks=2, **settings):
    made = drawn(lambda: LowRankLinear(nn.Linear(5, 4), 2, [1] * tasks, mode=mode, **settings))
    for B in [made.lora_B, *made.lora_task_B] if made.lora_B is not None else made.lora_task_B:
        B.data = drawn(lambda B=B: torch.randn_like(B))
    return made.eval()


X = drawn(lambda: torch.randn(6, 5))


@pytest.mark.parametrize("mode", ["matrix", "matrixv2", "addition"])
def test_at_the_start_all_outputs_are_those_of_the_frozen_layer(mode):
    base = drawn(lambda: nn.Linear(5, 4))
    y, tasks = LowRankLinear(base, 2, [1, 3], mode=mode, dropout=0.5).outputs(X)
    assert all(torch.equal(one, base(X)) for one in tasks)
    assert torch.equal(y, base(X) + F.layer_norm(2 * base(X), [4]) if mode == "addition" else base(X))


def test_a_task_reads_its_own_input_through_its_pair_and_the_shared_one_through_W():
    x_tasks = torch.stack([X + 1, X - 1])
    for mode, below in (("matrix", F.linear), ("matrixv2", lambda x, W, b: F.linear(x, W, b) + shared(x))):
        made = layer(mode)

        def shared(x, made=made):
            return 4 * x @ made.lora_A.T @ made.lora_B.T

        for exact in (False, True):
            made.exact = exact
            y, found = made.outputs(X, x_tasks)
            assert torch.allclose(y, F.linear(X, made.base.weight, made.base.bias) + shared(X), atol=1e-5)
            for x_t, y_t, A, B in zip(x_tasks, found, made.lora_task_A, made.lora_task_B):
                wanted = below(x_t if exact else X, made.base.weight, made.base.bias) + 4 * x_t @ A.T @ B.T
                assert torch.allclose(y_t, wanted, atol=1e-5)


def test_dropout_is_on_the_shared_input_alone():
    made = layer("matrix", dropout=0.5).train()
    given, absent = (torch.stack([made.outputs(X, x)[1][0] for _ in range(20)]) for x in (torch.stack([X, X]), None))
    assert torch.equal(given[0], given[-1])  # x_t is as it is
    assert not torch.equal(absent[0], absent[-1])  # without one, a task reads the dropped x


def test_a_layer_has_r_times_i_plus_o_weights_of_each_pair():
    def count(made):
        return sum(weight.numel() for key, weight in made.named_parameters() if "lora_" in key)

    assert count(LowRankLinear(nn.Linear(5, 4), 2)) == 2 * (5 + 4)
    assert count(LowRankLinear(nn.Linear(5, 4), 2, [1, 3, 1])) == (2 + 1 + 3 + 1) * (5 + 4)
    assert count(LowRankLinear(nn.Linear(5, 4), 2, [1, 1], mode="addition")) == 2 * (5 + 4) + 2 * 4  # and a norm
    assert count(LowRankLinear(nn.Linear(5, 4), 2, [1], trainable_scales=True)) == 3 * (5 + 4) + 2


def test_merging_changes_no_output_and_unmerging_puts_W_back():
    for made in (layer(), layer(tasks=0)):
        before, W = made.outputs(X), made.base.weight.clone()
        made.merge(), made.merge()
        y, tasks = made.outputs(X)
        assert torch.allclose(y, before[0], atol=1e-5) and not torch.equal(made.base.weight, W)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(tasks, before[1]))
        with pytest.raises(ValueError, match="unmerge first"):
            made.state_dict()
        made.unmerge()
        assert torch.equal(made.base.weight, W)
    for mode in ("matrix", "addition"):
        with pytest.raises(ValueError, match="cannot merge"):
            layer(mode).merge()


def test_merging_leaves_layers_alone_that_share_weights():
    body = drawn(lambda: nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)))
    body[2].weight = W = body[0].weight
    network = LowRankTasks(body, 2, LowRank(rank=2, task_rank=1)).eval()
    for key, weight in network.named_parameters():
        weight.data = drawn(lambda w=weight: torch.randn_like(w), len(key)) if "lora_" in key else weight
    before, values = network(X), W.clone()
    network.merge()
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(network(X), before))
    network.unmerge()
    assert body[0].base.weight is W and body[2].base.weight is W and torch.equal(W, values)


def test_a_layer_that_stands_at_two_places_has_one_pair():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
            self.c = self.b

        def forward(self, x):
            return self.c(torch.tanh(self.b(self.a(x))))

    network = LowRankTasks(Twice(), 2, LowRank(rank=2, task_rank=1))
    assert network.model.c is network.model.b and isinstance(network.model.c, LowRankLinear)


def test_ranks_that_a_layer_has_no_room_for_are_refused():
    for rank, tasks in ((5, []), (2, [1, 5]), (0, [1]), (2, [0])):
        with pytest.raises(ValueError, match=r"rank must be"):
            LowRankLinear(nn.Linear(5, 4), rank, tasks)
    with pytest.raises(ValueError, match=r"layers\.0\.attention\.q_proj: rank must be at most min\(i, o\) = 16"):
        adapted("vit", rank=17)


def test_pairs_of_tasks_stand_in_the_last_block_of_each_stage():
    found = place(NETWORKS["swin"][0](), LowRank())
    ends = ("attention.o_proj", "mlp.fc1", "mlp.fc2")
    assert found.specific == tuple(f"encoder.layers.{s}.blocks.1.{end}" for s in (0, 1) for end in ends)
    assert len(found.agnostic) == 4 * 6 - 6 and found.borders == ("encoder.layers.0",)
    assert place(NETWORKS["bert"][0](), LowRank()).borders == ()
    both = place(NETWORKS["vit"][0](), LowRank(blocks=(0, -1), specialized="mlp"))
    assert both.borders == ("layers.0",) and both.specific[0] == "layers.0.mlp.fc1" and len(both.specific) == 4
    plus = place(NETWORKS["swin"][0](), LowRank(plus=True))
    assert set(plus.agnostic) - set(found.agnostic) == {"encoder.layers.0.downsample.reduction"}
    plain = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    assert place(plain, LowRank()) == (("0",), ("1",), ()) and place(plain, LowRank(specialized="0")).specific == ("0",)
    for settings, says in (
        ({"target": "fc9"}, "no linear layer is named by target='fc9'; there are 0, 1"),
        ({"specialized": "fc9"}, "no layer of the network gets pairs for each task"),
        ({"blocks": (0,)}, "has 0 blocks"),
    ):
        with pytest.raises(ValueError, match=says):
            place(plain, LowRank(**settings))
    with pytest.raises(ValueError, match="has no linear layer"):
        place(nn.Conv2d(1, 1, 1), LowRank())
    with pytest.raises(ValueError, match="has 2 blocks, got blocks=\\(2,\\)"):
        place(NETWORKS["vit"][0](), LowRank(blocks=(2,)))
    with pytest.raises(ValueError, match="target must be a regular expression"):
        LowRank(target="(")


@everywhere
def test_one_pass_gives_each_task_what_a_pass_of_its_own_would(name):
    network, given = adapted(name), NETWORKS[name][1]
    every = network(**given, select=hidden)
    for task in range(T):
        [alone] = network(**given, select=hidden, tasks=[task])
        assert torch.allclose(alone, every[task], atol=1e-5)
    assert not torch.allclose(every[0], every[1], atol=1e-3)
    assert torch.allclose(every[0], network(**given)[0]["last_hidden_state"])


def test_networks_and_tasks_that_cannot_be_are_refused():
    network = LowRankTasks(nn.Linear(5, 4), 2, LowRank(rank=2, task_rank=1))
    assert len(network(X, tasks=[1])) == 1 and network(X)[0].shape == (6, 4)
    for call, says in (
        (lambda: network(X, tasks=[2]), "there are 2 tasks, got index 2"),
        (lambda: LowRankTasks(nn.Linear(5, 4), 0), "n_tasks must be an integer of at least 1"),
        (lambda: LowRankTasks(network, 2), "has low-rank pairs already"),
    ):
        with pytest.raises(ValueError, match=says):
            call()


@everywhere
def test_without_pairs_all_streams_are_the_frozen_network(name):
    network, given = adapted(name, perturbed=False), NETWORKS[name][1]
    plain = drawn(NETWORKS[name][0]).eval()(**given).last_hidden_state
    assert all(torch.allclose(one, plain, atol=1e-5) for one in network(**given, select=hidden))
    assert torch.allclose(network.shared(**given).last_hidden_state, plain, atol=1e-5)


def test_streams_of_a_block_follow_the_papers_equations():
    network = adapted("vit")
    inner = network.model
    taken = {}
    hooks = [
        inner.layers[1].register_forward_pre_hook(lambda module, args: taken.update(u=args[0])),
        inner.layers[1].attention.o_proj.register_forward_pre_hook(lambda module, args: taken.update(h=args[0])),
    ]
    network.shared(**PIXELS)
    for hook in hooks:
        hook.remove()
    block, found = inner.layers[1], network(**PIXELS, select=hidden)
    p, p_t = block.attention.o_proj.outputs(taken["h"])
    x, x_t = taken["u"] + p, taken["u"] + p_t
    m, m_t = block.mlp.fc1.outputs(block.layernorm_after(x), block.layernorm_after(x_t))
    _, f_t = block.mlp.fc2.outputs(F.gelu(m), F.gelu(m_t))
    for one, f, stream in zip(x_t, f_t, found):
        assert torch.allclose(inner.layernorm(one + f), stream, atol=1e-5)


def test_the_frozen_product_and_what_comes_before_it_are_made_once():
    network, seen = adapted("vit"), []
    for part in network.modules():
        if isinstance(part, nn.Linear):
            part.register_forward_hook(lambda module, args, out: seen.append(args[0].numel() // args[0].shape[-1]))
    network(**PIXELS, select=hidden)
    assert len(seen) == 12 and set(seen) == {2 * 17}  # images x tokens


def test_the_shared_stream_alone_enters_the_next_stage():
    network = adapted("swin")
    maps = network(**PIXELS, select=lambda out: out.reshaped_hidden_states, output_hidden_states=True)
    assert [tuple(one.shape) for one in maps[0]] == [(2, 8, 8, 8), (2, 16, 4, 4), (2, 16, 4, 4)]
    assert torch.equal(maps[0][0], maps[1][0]) and not torch.allclose(maps[0][1], maps[1][1], atol=1e-4)
    first = [w for key, w in network.named_parameters() if "layers.0.blocks.1" in key and "lora_task_A" in key]
    maps[0][2].sum().backward()  # the last map has nothing of the first stage's pairs of tasks
    assert all(weight.grad is None or not weight.grad.any() for weight in first)


@pytest.mark.parametrize("mode", ["matrix", "matrixv2"])
@everywhere
def test_a_tasks_loss_moves_no_other_tasks_pairs(name, mode):
    network, given = adapted(name, mode=mode), NETWORKS[name][1]
    stages = {"select": lambda out: out.reshaped_hidden_states[1:], "output_hidden_states": True}
    asked = stages if name == "swin" else {"select": lambda out: [hidden(out)]}
    found = drawn(lambda: network.train()(**given, **asked))[1]  # one mask of drop-path, which may take a whole block
    sum((one**3).sum() for one in found).backward()
    for task in range(T):
        gradients = [weight.grad for weight in network.specific(task)]
        moved = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        assert all(moved) if task == 1 else not any(moved)
    shared = [(key, part.lora_B) for key, part in network.model.named_modules() if isinstance(part, LowRankLinear)]
    dead = [key for key, B in shared if B.grad is None or not B.grad.any()]
    assert dead == ([network.unread] if mode == "matrix" else [])


@everywhere
def test_what_is_frozen_is_the_same_to_the_bit_after_training(name):
    network, given = adapted(name, perturbed=False), NETWORKS[name][1]
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.AdamW([w for w in network.parameters() if w.requires_grad], 0.01, weight_decay=0.1)
    network.train()
    for _ in range(2):
        optimizer.zero_grad()
        sum((one - 1).square().mean() for one in network(**given, select=hidden)).backward()
        optimizer.step()
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved and all("lora_" in key or "norm" in key.lower() or "patch" in key or "bias_table" in key
                         or "reduction" in key for key in moved)  # fmt: skip
    assert any("norm" in key.lower() for key in moved) and not any(".base." in key for key in moved)


def test_batch_norms_keep_their_statistics_before_and_behind_the_pairs():
    for trainable in ("norm", r"^\d+\."):
        body = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 6), nn.BatchNorm1d(6))
        network = LowRankTasks(body, 2, LowRank(rank=2, task_rank=1, trainable=trainable)).train()
        network(X)[0].sum().backward()
        assert all(int(body[place].num_batches_tracked) == 0 for place in (0, 2)) and network.training


@pytest.mark.parametrize(("make", "given", "stages"), [
    (lambda: Swinv2Model(Swinv2Config(**SWIN, window_size=4)), PIXELS, 2),
    (lambda: PvtV2Model(PVT), {"pixel_values": torch.ones(1, 1, 32, 32)}, 4),
    (lambda: T5EncoderModel(T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=20)), IDS, 1),
])  # fmt: skip
def test_networks_whose_stages_and_layers_are_less_plain(make, given, stages):
    network = drawn(lambda: LowRankTasks(make(), 2, LowRank(rank=4, task_rank=2))).train()
    assert len(network.placement.borders) == stages - 1
    assert not any("position_bias" in name for name in network.placement.agnostic)
    first, second = ((one**3).sum() for one in drawn(lambda: network(**given, select=hidden)))
    (first + 2 * second).backward()
    assert all(weight.grad.any() for weight in network.specific(1)[-1:])


def test_steps_that_cannot_run_for_all_tasks_at_once_are_named():
    class Branch(nn.Sequential):
        def forward(self, x):
            out = super().forward(x)
            return out if out.sum() > 0 else -out

    with pytest.raises(ValueError, match=r"Branch has a step behind .* cannot run for all tasks at once: vmap"):
        LowRankTasks(Branch(nn.Linear(5, 4)), 2, LowRank(rank=2, task_rank=1))(X)


def test_language_models_are_taken_without_their_heads():
    config = LlamaConfig(**SIZE, vocab_size=20, tie_word_embeddings=True)
    whole = drawn(lambda: LlamaForCausalLM(config))
    ids, y = np.arange(40.0).reshape(8, 5) % 20, np.arange(16.0).reshape(8, 2)
    answers = [
        MTLoRA(backbone=one, low_rank={"rank": 4}, epochs=1, device="cpu").fit(ids, y).predict(ids)
        for one in (whole, whole.model)
    ]
    assert np.array_equal(*answers)


def test_without_pairs_of_tasks_all_read_the_shared_stream():
    network = adapted("swin", task_rank=0)
    first, *others = network(**PIXELS, select=hidden)
    assert all(torch.equal(first, one) for one in others) and network.specific(0) == []
    assert torch.allclose(first, network.shared(**PIXELS).last_hidden_state, atol=1e-5)


def test_plus_freezes_patch_merging_and_gives_it_pairs():
    def trained(network):
        return {key for key, weight in network.model.named_parameters() if weight.requires_grad}

    merging = "encoder.layers.0.downsample.reduction"
    assert f"{merging}.weight" in trained(adapted())
    assert {f"{merging}.lora_A", f"{merging}.lora_B"} == {k for k in trained(adapted(plus=True)) if merging in k}


def test_torchs_own_encoder_does_not_bypass_the_pairs():
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    network = drawn(lambda: LowRankTasks(nn.TransformerEncoder(block, 2), 2, LowRank(rank=2, task_rank=1))).eval()
    for task in (0, 1):
        for weight in network.specific(task)[1::2]:
            weight.data = drawn(lambda w=weight, task=task: torch.randn_like(w), task)
    with torch.no_grad():
        first, second = network(torch.ones(2, 3, 8))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("name", ["bert", "swin", "llama"])
def test_peft_makes_the_shared_stream_of_the_adapter_and_it_can_be_read_back(name, tmp_path):
    peft = pytest.importorskip("peft", reason="needs the extra text")
    network, given = adapted(name), NETWORKS[name][1]
    for key, weight in network.named_parameters():
        if weight.requires_grad and "lora_" not in key:
            weight.data += 0.1
    network.save_adapter(tmp_path)
    wanted = network.shared(**given).last_hidden_state
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = peft.PeftModel.from_pretrained(drawn(NETWORKS[name][0]), str(tmp_path)).eval()
    assert torch.allclose(loaded(**given).last_hidden_state, wanted, atol=1e-5)
    fresh = adapted(name, perturbed=False, scale=1.0)
    fresh.load_adapter(tmp_path)
    assert torch.allclose(fresh.shared(**given).last_hidden_state, wanted, atol=1e-5)
    for other, says in ((adapted(name, rank=3), "has rank 4"), (adapted(name, target="layer.*1"), "no place here")):
        with pytest.raises(ValueError, match=says):
            other.load_adapter(tmp_path)
    with pytest.raises(ValueError, match="no adapter of PEFT"):
        fresh.load_adapter(tmp_path / "none")


def test_merging_a_network_changes_no_stream():
    for mode in ("matrix", "matrixv2"):
        network = adapted("swin", mode=mode)
        before = network(**PIXELS, select=hidden)
        network.merge()
        merged = network(**PIXELS, select=hidden)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(before, merged))
        network.unmerge()
        assert all(torch.equal(a, b) for a, b in zip(before, network(**PIXELS, select=hidden)))


def test_label_maps_are_learned_on_a_hierarchical_network():
    network = adapted("swin", n_tasks=2, perturbed=False)
    heads = drawn(lambda: nn.ModuleList([DenseHead([16, 16], 2, [4, 4]), DenseHead([16, 16], 1, [4, 4])]))
    images = drawn(lambda: F.interpolate(torch.rand(8, 1, 4, 4), scale_factor=4, mode="bilinear"))
    bright = (images[:, 0] > images.mean()).long()
    weights = [w for module in (network, heads) for w in module.parameters() if w.requires_grad]
    optimizer, curve = torch.optim.Adam(weights, 0.01), []
    network.train()
    for _ in range(40):
        maps = network(
            pixel_values=images, select=lambda out: out.reshaped_hidden_states[1:], output_hidden_states=True
        )
        labels, values = (head(one, size=(16, 16)) for head, one in zip(heads, maps))
        loss = F.cross_entropy(labels, bright) + (values - images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    assert labels.shape == (8, 2, 16, 16) and values.shape == (8, 1, 16, 16)
    assert curve[-1] < 0.6 * curve[0]
    with pytest.raises(ValueError, match="for 2 maps, got 1"):
        heads[0](maps[0][:1], size=(16, 16))
    with pytest.raises(ValueError, match="number of channels for each map"):
        DenseHead([16, 16], 2, [4])


# -- the estimator ------------------------------------------------------------------------------------------------

ROWS = np.random.default_rng(0)
TABLE = ROWS.normal(size=(40, 5)).astype(np.float32)
TARGETS = np.stack([TABLE[:, 0], TABLE[:, 1] - TABLE[:, 0], TABLE[:, 2]], axis=1)


def test_balancers_share_pairs_and_leave_each_task_its_own():
    model = MTLoRA(epochs=1, balancer="sum").fit(TABLE, TARGETS)
    steps = model._steps(torch.optim.SGD(model.trunk_.parameters(), lr=0.1), lambda G: G.sum(0))
    named = {id(weight): key for key, weight in model.trunk_.named_parameters()}
    assert [len(own) for own in steps.own] == [4, 4, 4]  # a head, and A and B of the one specialised layer
    assert not any("lora_task" in named[id(weight)] for weight in steps.shared)
    pytest.importorskip("torchjd", reason="needs the extra multitask")
    assert np.isfinite(MTLoRA(epochs=1, balancer="upgrad").fit(TABLE, TARGETS).predict(TABLE)).all()


def test_weights_of_tasks_weigh_their_losses():
    even, first = (MTLoRA(epochs=60, lr=0.01, task_weights=w).fit(TABLE, TARGETS) for w in (None, (1.0, 1e-6, 1e-6)))
    off = [np.abs(model.predict(TABLE) - TARGETS).mean(axis=0) for model in (even, first)]
    assert off[1][1] > 2 * off[0][1] and off[1][0] < 0.3
    with pytest.raises(ValueError, match="3 tasks, got 2 task_weights"):
        MTLoRA(task_weights=(1, 2)).fit(TABLE, TARGETS)


def test_token_ids_go_into_language_models_and_padding_does_not_matter():
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 20, (40, 6))
    Y = np.stack([ids[:, 0] > 9, ids[:, :4].min(axis=1) > 3], axis=1).astype(int)
    for name in ("bert", "llama"):
        settings = {"backbone": drawn(NETWORKS[name][0]), "low_rank": {"rank": 4, "dropout": 0.0}, "epochs": 2}
        model = MTLoRA(**settings).fit(ids, Y)
        long = np.concatenate([ids, np.full((40, 2), -1)], axis=1)
        longer = MTLoRA(**settings).fit(long, Y)
        for a, b in zip(model.predict_proba(ids), longer.predict_proba(long)):
            np.testing.assert_allclose(a, b, atol=1e-3)
        for bad in (ids + 0.5, ids + 20):
            with pytest.raises(ValueError, match="reads token ids: whole numbers below 20"):
                model.predict(bad)


def test_an_adapter_is_where_shared_pairs_start(tmp_path):
    pytest.importorskip("peft", reason="needs the extra text")
    settings = {"backbone": drawn(NETWORKS["llama"][0]), "low_rank": {"rank": 4, "dropout": 0.0}}
    ids = np.random.default_rng(0).integers(1, 20, (20, 6))
    first = MTLoRA(**settings, epochs=5, lr=0.01).fit(ids, ids[:, 0] > 9)
    first.save_adapter(tmp_path)
    kept = MTLoRA(**settings, adapter=tmp_path, epochs=1, lr=1e-12).fit(ids, ids[:, 0] > 9)
    A, B = (model.trunk_.state_dict() for model in (first, kept))
    pairs = [key for key in A if key.endswith(("lora_A", "lora_B"))]
    assert pairs and all(torch.allclose(A[key], B[key], atol=1e-6) for key in pairs)


def test_a_shared_pair_that_nobody_reads_is_warned_of():
    with pytest.warns(UserWarning, match=r"no task reads the shared pair of 0\.layers\.3"):
        MTLoRA(low_rank={"mode": "matrix"}, epochs=1).fit(TABLE, TARGETS)
    with pytest.raises(ValueError, match="two hidden layers or more"):
        MTLoRA(hidden=(8,))
