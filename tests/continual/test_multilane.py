"""MULTI-LANE: summaries, lanes that never meet, the loss of what is annotated, and each ablation."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anytask.continual.multilane import Lane, MultiLane
from anytask.continual.parts.lanes import merged, selection
from anytask.problems.task_stream.metrics import macro_ap

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)
CONTRACT = {"width": 8, "s": 3, "k": 2}
EXEMPT = {
    "test_plain_defaults_learn_and_every_method_works_with_them": "its encoder is on the hub; `small` learns here"
}
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 1}


def vit(seed=0, **config):
    torch.manual_seed(seed)
    return transformers.ViTModel(transformers.ViTConfig(**{**SIZES, **IMAGE, **config}))


def lanes(**params):
    return MultiLane(**{"backbone": vit(), "s": 3, "k": 2, "blocks": 2, "batch_size": 16, "lr": 5e-3, **params})


def images(labels, n=32, seed=0):
    """Images of which each bright column, at random, is a label."""
    rng = np.random.default_rng([seed, *labels])
    Y = rng.integers(0, 2, (n, len(labels)))
    X = 0.3 * rng.normal(size=(n, 1, 8, 8)).astype(np.float32)
    for column, label in zip(Y.T, labels):
        X[:, 0, :, label] += 2 * column[:, None]
    return X, Y


def learned(model, tasks=((0, 1), (2, 3), (4, 5)), several=True):
    for labels in tasks:
        X, Y = images(labels)
        if several:
            model.partial_fit(X, Y, classes=labels)
        else:
            model.partial_fit(X, np.array(labels)[Y[:, 0]])
        model.end_task()
    return model


def test_summaries_of_three_tokens_by_two_selectors():
    sh, xh = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    assert torch.allclose(
        (selection(sh, xh) @ xh)[0], torch.tensor([[0.891617, 0.554192], [0.598888, 0.802224]]), atol=2e-6
    )


def test_summaries_are_convex_ignore_the_order_of_tokens_and_give_padding_no_weight():
    sh, xh = torch.randn(4, 8), torch.randn(5, 7, 8)
    A, order = selection(sh, xh), torch.randperm(7)
    assert (A >= 0).all() and torch.allclose(A.sum(-1), torch.ones(5, 4))
    assert torch.allclose(selection(sh, xh[:, order]) @ xh[:, order], A @ xh, atol=1e-6)
    valid = torch.arange(7) < torch.arange(3, 8)[:, None]
    masked = selection(sh, xh, valid)
    assert not masked.masked_select(~valid[:, None]).any()
    assert torch.allclose(masked[0, :, :3], selection(sh, xh[:1, :3])[0], atol=1e-6)


def test_merging_keeps_the_sum_of_tokens_by_how_many_they_are_made_of():
    x = torch.tensor([[[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 3.0]]])
    assert torch.equal(merged(x, 4), x)
    assert torch.equal(merged(x, 2), torch.tensor([[[2.0, 0.0], [0.0, 2.0]]]))
    y = torch.randn(3, 9, 4)
    assert merged(y, 3).shape == (3, 3, 4)
    assert torch.allclose(merged(y, 1)[:, 0], y.mean(1), atol=1e-6)


def test_classes_take_their_block_of_scores_from_their_own_lane(monkeypatch):
    model = MultiLane(backbone=None, width=2, s=1, blocks=0)
    model.partial_fit(np.zeros((4, 3)), [[1, 0]] * 4, classes=[0, 1]).end_task()
    model.partial_fit(np.zeros((4, 3)), [[1, 0]] * 4, classes=[2, 3])
    W, b = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 0.0], [-1.0, 1.0]]), torch.tensor([0.1, 0.2, -0.3, 0.0])
    for t, head in enumerate(model.heads_):
        head.weight.data, head.bias.data = W[2 * t : 2 * t + 2], b[2 * t : 2 * t + 2]
    c = {id(lane): torch.tensor([v]) for lane, v in zip(model.lanes_, ([3.0, 4.0], [0.0, 2.0]))}
    monkeypatch.setattr(MultiLane, "_read", lambda self, lane, image: F.normalize(c[id(lane)], dim=1))
    scores = model._scores(torch.zeros(1, 3), None)
    assert scores[0].tolist() == pytest.approx([2.3, -0.6, -0.3, 1.0])


@pytest.mark.parametrize("several", [True, False])
def test_answers_of_a_task_are_the_same_bits_after_the_later_ones(several):
    model = learned(lanes(), [(0, 1)], several)
    x = torch.from_numpy(images((0, 1), seed=1)[0])
    with torch.no_grad():
        before = model._scores(x, None)
        lane, network = copy.deepcopy(model.lanes_[0].state_dict()), copy.deepcopy(model.network_.state_dict())
        learned(model, [(2, 3), (4, 5)], several)
        after = model._scores(x, None)
    assert torch.equal(after[:, :2], before) and after.shape == (32, 6)
    assert all(torch.equal(value, lane[name]) for name, value in model.lanes_[0].state_dict().items())
    assert all(torch.equal(value, network[name]) for name, value in model.network_.state_dict().items())
    assert all(p.grad is None for p in model.network_.parameters())
    assert all(not torch.equal(lane.S, model.lanes_[1].S) for lane in model.lanes_[::2])


def test_gradients_reach_the_lane_of_the_task_alone():
    model = learned(lanes(), [(0, 1), (2, 3)])
    for p in (*model.lanes_.parameters(), *model.heads_.parameters()):
        p.grad = None
    X, Y = images((4, 5))
    model.partial_fit(X, Y, classes=(4, 5))
    for t in range(3):
        grads = [p.grad for p in (*model.lanes_[t].parameters(), *model.heads_[t].parameters())]
        assert all(g is not None and g.any() for g in grads) if t == 2 else all(g is None for g in grads)


def test_a_published_lane_has_168960_numbers_beside_its_rows_of_the_classifier():
    model = MultiLane(backbone=vit(num_hidden_layers=5)).partial_fit(*images((0, 1)))
    lane = Lane(model.s, model.k, model.blocks, 768, model.init_scale)
    assert sum(p.numel() for p in lane.parameters()) == (20 + 5 * 2 * 20) * 768
    assert model.cost()["trainable_parameters"] == (20 + 5 * 2 * 20) * 16 + 2 * 17
    assert model.cost()["stored_samples"] == 0 and model.predict(images((0, 1))[0]).shape == (32, 2)


def test_a_lane_starts_where_the_one_before_it_ended():
    model, X = learned(lanes(), [(0, 1)]), images((2, 3))
    model.lr = 1e-12
    model.partial_fit(*X, classes=(2, 3))
    assert torch.allclose(model.lanes_[1].S, model.lanes_[0].S)
    assert not torch.equal(model.lanes_[1].key, model.lanes_[0].key)


def test_a_lane_that_takes_every_patch_is_the_frozen_encoder_but_for_the_position_of_its_class_token(monkeypatch):
    encoder = vit()
    encoder.embeddings.position_embeddings.data[:, 0] = 0
    model = learned(lanes(backbone=encoder, s=4, k=0, drop_and_replace=False, normalize=False), [(0, 1)])
    monkeypatch.setattr(
        "anytask.continual.multilane.selection",
        lambda sh, xh, valid: torch.eye(5)[1:].expand(len(xh), -1, -1),  # A = I, but for the class token itself
    )
    x = torch.from_numpy(images((0, 1))[0])
    with torch.no_grad():
        v = model._read(model.lanes_[0], model._image(x))
        assert torch.allclose(v, encoder.eval()(pixel_values=x).last_hidden_state[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    "params",
    [
        {"drop_and_replace": False}, {"carried": True}, {"normalize": False}, {"summary": "merging"},
        {"lanes": "shared"}, {"route": "nearest"}, {"k": 0}, {"s": 1},
    ],
    ids=str,
)  # fmt: skip
def test_every_ablation_changes_answers(params):
    model, x = learned(lanes(**params)), images((0, 1, 4), seed=1)[0]
    assert not np.array_equal(model.predict_proba(x), learned(lanes()).predict_proba(x))
    assert len(model.lanes_) == (1 if params.get("lanes") else 3)


def test_a_lane_for_each_task_keeps_what_a_shared_one_forgets():
    tasks = ((0, 1), (2, 3), (4, 5))

    def precision(lanes):  # of the first task, at the end
        model = MultiLane.from_preset("small", lr=0.02, lanes=lanes)
        for labels in tasks:
            (X, Y), others = images(labels, 128), images(sum(tasks, ()), 128, seed=7)[0]
            for _ in range(6):
                model.partial_fit(X + others, Y, classes=labels)
            model.end_task()
        X, Y = images(sum(tasks, ()), 128, seed=9)
        return macro_ap(Y[:, :2], model.predict_proba(X)[:, :2])

    assert precision("per task") > precision("shared") + 0.1


def test_the_nearest_lane_alone_answers_for_inputs_like_its_own():
    model = lanes(route="nearest")
    tasks = {t: np.full((16, 1, 8, 8), 3.0) * (-1) ** t + 0.1 * np.arange(16)[:, None, None, None] for t in (0, 1)}
    for t, X in tasks.items():
        model.partial_fit(X, np.arange(16) % 2 + 2 * t, task=t)
    for t, X in tasks.items():
        assert (model.predict_proba(X)[:, [2 - 2 * t, 3 - 2 * t]] == 0).all()
        assert (
            model.predict_proba(X, task=1 - t)[:, [2 - 2 * t, 3 - 2 * t]] > 0
        ).all()  # a told task is not looked for


def test_the_rate_falls_along_a_cosine_and_begins_anew_with_each_task():
    model = lanes(steps_per_task=4)
    rates = []
    step = torch.optim.Adam.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
        learned(model, [(0, 1), (2, 3)])  # two mini-batches each
    assert rates == pytest.approx([5e-3, 5e-3 * (1 + np.cos(np.pi / 4)) / 2] * 2)


def test_encoders_of_texts_and_other_images_have_lanes():
    torch.manual_seed(0)
    texts = transformers.BertModel(transformers.BertConfig(vocab_size=30, pad_token_id=0, **SIZES))
    clip = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**SIZES, **IMAGE))
    ids = np.random.default_rng(0).integers(1, 30, (16, 6))
    ids[:, 4:] = 0  # padding, which no lane sees
    for encoder, X in ((texts, ids), (clip, images((0, 1), 16)[0])):
        model = lanes(backbone=encoder).partial_fit(X, images((0, 1), 16)[1], classes=["a", "b"])
        assert model.predict_proba(X).shape == (16, 2)
    padded = np.concatenate([ids, np.zeros((16, 2), int)], axis=1)
    model = lanes(backbone=texts).partial_fit(ids, np.arange(16) % 2)
    with torch.no_grad():
        short, long = (model._read(model.lanes_[0], model._image(torch.tensor(x).float())) for x in (ids, padded))
    assert torch.allclose(short, long, atol=1e-5)


def test_what_does_not_go_together_is_said():
    X, Y = images((0, 1))
    with pytest.raises(ValueError, match=r"classes \[1\] belong to a task that has ended"):
        learned(lanes(), [(0, 1)]).partial_fit(X, Y, classes=(1, 2))
    with pytest.raises(ValueError, match="width must be even"):
        MultiLane(width=7)
    with pytest.raises(ValueError, match=r"fails on inputs of shape \(4,\)"):
        lanes().partial_fit(X[:, 0, 0, :4], Y)
    with pytest.raises(ValueError, match="blocks=9 blocks with prompts, and the encoder has 3"):
        lanes(blocks=9).partial_fit(X, Y)
    headless = transformers.ViTMAEModel(transformers.ViTMAEConfig(**SIZES, **IMAGE))
    del headless.embeddings.cls_token
    with pytest.raises(ValueError, match="start from a class token, and ViTMAEModel has none"):
        lanes(backbone=headless).partial_fit(X, Y)
