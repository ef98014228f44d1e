"""Uni-Perceiver v2: likelihoods, the order of proposals, merged experts, four tasks in one, and what it refuses."""

import functools
import math

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from anytask.core.checks import NotFinite
from anytask.multitask import Proposals, UniPerceiverV2
from anytask.multitask.uni_perceiver_v2.perceiver import ConditionalFFN, Decoder, attribute
from anytask.multitask.uni_perceiver_v2.proposals import Scenes, components, matched, prepare

RNG = np.random.default_rng(0)
N = 48
SHAPES = np.array(["square", "bar"])[np.arange(N) % 2]
SIDES = np.array(["left", "right"])[np.arange(N) // 2 % 2]
IMAGES, BOXES = np.zeros((N, 1, 16, 16), np.float32), []
for image, shape, side in zip(IMAGES[:, 0], SHAPES, SIDES):
    top, left = RNG.integers(1, 4), RNG.integers(1, 4) + (0 if side == "left" else 8)
    bottom = top + (4 if shape == "square" else 10)
    image[top:bottom, left : left + 4] = 1
    BOXES.append(np.array([[left, top, left + 4, bottom]]) / 16)
SAID = [f"a {shape} at the {side}" for shape, side in zip(SHAPES, SIDES)]
TASKS = {
    "side": {"kind": "classification", "images": IMAGES, "labels": SIDES},
    "shapes": {"kind": "detection", "images": IMAGES, "boxes": BOXES, "labels": [[shape] for shape in SHAPES]},
    "caption": {"kind": "caption", "images": IMAGES, "texts": SAID, "ratio": None},
    "pairs": {"kind": "retrieval", "images": IMAGES, "texts": SAID},
    "text": {"kind": "language", "texts": SAID},
}
TINY = {"width": 16, "heads": 2, "layers": 1, "experts": 3, "steps": 2, "batch_size": 8, "device": "cpu"}
TINY["image"] = {"proposals": 2, "mask_size": 7, "crop_size": 8, "pools": 2}

WRONG = {**TINY, "image": {"proposer": lambda X: [Proposals(*torch.ones(3, 2))] * len(X)}}


@functools.cache
def tiny():
    return UniPerceiverV2(**TINY).fit(TASKS)


@functools.cache
def learned():
    params = {**TINY, "width": 32, "steps": 120, "batch_size": 16, "lr": 2e-3}
    return UniPerceiverV2(**params).fit({name: TASKS[name] for name in ("side", "shapes", "caption", "pairs")})


def test_one_network_classifies_detects_captions_and_retrieves():
    model = learned()
    assert (model.classify(IMAGES, ["right", "left"]) == SIDES).mean() > 0.8
    found = model.detect(IMAGES, ["square", "bar"], threshold=0.3)
    named = [one["labels"].tolist() == [shape] for one, shape in zip(found, SHAPES)]
    assert np.mean(named) > 0.8
    assert all(np.allclose(one["boxes"], box, atol=1e-6) for one, box, ok in zip(found, BOXES, named) if ok)
    captions = sorted(set(SAID))
    assert np.mean([captions[row[0]] == said for row, said in zip(model.retrieve(IMAGES, captions), SAID)]) > 0.7
    assert np.mean([a == b for a, b in zip(model.caption(IMAGES), SAID)]) > 0.7
    assert all(len(text.split()) <= 2 for text in model.caption(IMAGES, max_words=2))


def test_names_that_are_put_together_anew_need_no_parameter():
    model, before = learned(), learned().cost()
    names = ["square at the left", "bar at the right"]
    assert set(model.classify(IMAGES, names)) <= set(names) and model.cost() == before
    with pytest.warns(UserWarning, match=r"read as unknown: \['circle'\]"):
        assert model.classify(IMAGES, ["a circle", "a bar"]).shape == (N,)


def test_likelihoods_sum_to_one_and_follow_the_order_of_the_candidates():
    model, names = tiny(), ["left", "right", "a square", "bar"]
    P = model.predict_proba(IMAGES, names)
    assert P.shape == (N, 4) and np.allclose(P.sum(1), 1)
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(model.predict_proba(IMAGES, [names[i] for i in order]), P[:, order], atol=1e-6)
    a, b = torch.randn(3, 16), torch.randn(4, 16)
    assert torch.allclose(model.net_.logits(2 * a, 3 * b), model.net_.logits(a, b), atol=1e-5)
    S = model.similarity(IMAGES, names)
    np.testing.assert_allclose(P, np.exp(S / 0.1) / np.exp(S / 0.1).sum(1, keepdims=True), atol=0.02)  # tau, 2 steps on


def test_the_order_of_proposals_moves_them_and_nothing_else():
    generator = torch.Generator().manual_seed(0)
    X, k = torch.rand(2, 1, 16, 16, generator=generator), 2
    scenes = Scenes(X, torch.rand(2, k, 1, 8, 8, generator=generator), torch.rand(2, k, 4, generator=generator),
                    torch.rand(2, k, 49, generator=generator), torch.ones(2, k))  # fmt: skip
    turned = Scenes(X, *(part.flip(1) for part in (scenes.crops, scenes.boxes, scenes.masks, scenes.scores)))
    net = tiny().net_
    with torch.no_grad():
        (spe, regions), (spe_, regions_) = (net.look(one, "detection") for one in (scenes, turned))
    assert torch.allclose(spe, spe_, atol=1e-5) and torch.allclose(regions.flip(1), regions_, atol=1e-5)
    assert not torch.allclose(regions, regions_, atol=1e-2)


def test_absent_proposals_are_not_seen():
    scenes = prepare(torch.from_numpy(IMAGES[:2]), components(torch.from_numpy(IMAGES[:2])), 2, 8, 7)
    other = Scenes(scenes.maps, scenes.crops.clone(), scenes.boxes.clone(), scenes.masks, scenes.scores)
    assert (scenes.scores[:, 1] == -1).all()
    other.boxes[:, 1] = 0.5
    net = tiny().net_
    with torch.no_grad():
        assert torch.allclose(net.look(scenes, "detection")[0], net.look(other, "detection")[0])


def test_words_see_what_is_before_them_and_images_see_no_word():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        g, image, text = Decoder(16, 2, 2, 3, 2), torch.randn(1, 3, 16), torch.randn(1, 4, 16)
    there, kinds = torch.ones(1, 7, dtype=torch.bool), [attribute("caption", side) for side in ("image", "text")]

    def out(words):
        return g([(image, there[:, :3], kinds[0]), (words, there[:, 3:], kinds[1])], causal=4)[0]

    changed = text.clone()
    changed[0, 2] *= -1
    moved = (out(text) - out(changed)).abs().amax(1) > 1e-6
    assert moved.tolist() == [False] * 6 + [True] * 2  # [SPE], three of the image, four words


@pytest.mark.parametrize("activation", [nn.Identity, nn.GELU])
def test_merged_experts_are_the_sum_of_experts_by_their_gates(activation):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ffn, x = ConditionalFFN(8, 12, 5, 2, activation), torch.randn(3, 4, 8)
    bits = attribute("caption", "text")
    gates, places = ffn.gates(bits)
    assert gates.sum().item() == pytest.approx(1) and len(set(places)) == 2
    one_by_one = sum(g * ffn.down[e](ffn.activation(ffn.up[e](x))) for g, e in zip(gates, places))
    assert torch.allclose(ffn(x, bits), one_by_one, atol=1e-5)
    up, up_bias, down, down_bias = ffn.merged(bits)
    assert torch.allclose(ffn.activation(x @ up.T + up_bias) @ down.T + down_bias, one_by_one, atol=1e-5)
    ffn(x, bits).sum().backward()
    assert [e for e in range(5) if ffn.up[e].weight.grad is not None] == sorted(places)  # the others stay as they are


def test_attributes_are_those_of_the_released_code():
    assert attribute("classification", "answer") == (1, 0, 0, 1, 0, 1, 1, 0)
    assert attribute("caption", "image") == (1, 1, 0, 1, 1, 0, 0, 0)


def test_boxes_are_assigned_once_and_components_are_where_they_are():
    assert matched(torch.tensor([[0, 0, 1, 1], [0, 0, 0.9, 1]]), np.array([[0, 0, 1, 1.0]])).tolist() == [0, -1]
    assert matched(torch.zeros(0, 4), np.ones((1, 4))).tolist() == []
    for one, boxes in zip(components(torch.from_numpy(IMAGES)), BOXES):
        np.testing.assert_allclose(one.boxes, boxes, atol=1e-6)
    assert len(components(torch.full((1, 3, 8, 8), 0.5))[0].boxes) == 0


def queries(images):
    for image, one in zip(images, components(images)):
        sizes = one.masks.sum((1, 2))[:, None] / 100
        yield Proposals(one.boxes, one.masks, one.scores, torch.cat([sizes, image.mean().expand_as(sizes)], 1))


def test_other_proposers_towers_and_ablations_go_in(tmp_path):
    for image, more in (
        ({"proposer": queries}, {}),
        ({"tower": nn.Conv2d(1, 6, 4, 4)}, {}),
        ({"tower": nn.Conv2d(1, 6, 4, 4), "freeze_tower": True}, {}),
        ({"image_size": 24, "freeze_tower": True}, {"experts": 1, "top_k": 1}),
        ({"global_tokens": False}, {"sampling": "mixed", "balance": "adamw"}),
        ({"proposals": 0}, {"balance": "adamw"}),
        ({"proposals": 0, "freeze_tower": True}, {}),
    ):
        model = UniPerceiverV2(**{**TINY, **more, "image": {**TINY["image"], **image}}).fit(TASKS)
        assert len(model.caption(IMAGES[:3])) == 3 and model.similarity(IMAGES[:3], ["left"]).shape == (3, 1)
        if model.image.proposals:
            assert len(model.detect(IMAGES[:3], ["bar"], threshold=0)) == 3
        else:
            with pytest.raises(ValueError, match="without proposals"):
                model.detect(IMAGES, ["bar"])
        model.save(tmp_path / "model")
        again = {"image": model.image} if {"proposer", "tower"} & set(image) else {}
        twin = UniPerceiverV2.load(tmp_path / "model", device="cpu", **again)
        assert np.array_equal(twin.similarity(IMAGES, ["left", "bar"]), model.similarity(IMAGES, ["left", "bar"]))
        assert twin.caption(IMAGES[:3]) == model.caption(IMAGES[:3])


def test_a_frozen_tower_is_saved_with_what_it_has_learned(tmp_path):
    image = {**TINY["image"], "tower": nn.Conv2d(1, 6, 4, 4), "freeze_tower": True}
    model = UniPerceiverV2(**{**TINY, "image": image}).fit(TASKS)
    model.save(tmp_path)
    twin = UniPerceiverV2.load(tmp_path, device="cpu", image={**image, "tower": nn.Conv2d(1, 6, 4, 4)})
    assert np.array_equal(twin.similarity(IMAGES, ["left"]), model.similarity(IMAGES, ["left"]))


def proposing(**changes):
    """A model whose proposer gives one proposal for each image, with some of it changed."""

    def proposer(X):
        given = {"boxes": torch.tensor([[0.1, 0.1, 0.5, 0.6]]), "masks": torch.ones(1, 16, 16), "scores": torch.ones(1)}
        return [Proposals(**{**given, **changes})] * len(X)

    return UniPerceiverV2(**{**TINY, "image": {**TINY["image"], "proposer": proposer}})


def test_proposals_are_numbers_of_any_kind_without_their_graph():
    features = nn.Linear(1, 3)(torch.ones(1, 1))
    boxes = torch.tensor([[-0.01, 0.0, 0.5, 1.01]], dtype=torch.float64, requires_grad=True)
    with pytest.warns(UserWarning, match="Proposals cover"):
        model = proposing(features=features, boxes=boxes, masks=np.ones((1, 16, 16), bool)).fit(TASKS)
    found = model.detect(IMAGES[:2], ["bar"], threshold=0)
    assert all(((one["boxes"] >= 0) & (one["boxes"] <= 1)).all() for one in found)
    model.image.proposer = lambda X: [Proposals(boxes, torch.ones(1, 16, 16), torch.ones(1), torch.ones(1, 4))] * len(X)
    model._keep_shape()
    with pytest.raises(ValueError, match="gave 3 features in training, and gives 4 now"):
        model.detect(IMAGES[:2], ["bar"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"boxes": torch.tensor([[1.0, 1, 8, 8]])}, "boxes in .0, 1.; those of image 0 go from 1 to 8"),
        ({"boxes": torch.tensor([[0.5, 0.5, 0.1, 0.1]])}, "ends before it begins"),
        ({"boxes": torch.full((1, 4), math.nan)}, "boxes of image 0"),
        ({"scores": -torch.ones(1)}, "scores in .0, 1."),
        ({"masks": 255 * torch.ones(1, 16, 16)}, "masks in .0, 1."),
        ({"masks": torch.ones(1, 8, 8)}, "masks of image 0 of shape"),
        ({"features": torch.ones(2, 3)}, "features of image 0 of shape"),
        ({"features": torch.ones(1)}, "features of image 0 of shape"),
    ],
)  # fmt: skip
def test_proposals_that_cannot_be_are_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        proposing(**changes).fit(TASKS)


def test_a_text_encoder_of_transformers_goes_in(tmp_path):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [chr(i) for i in range(97, 123)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(pieces), max_position_embeddings=64, **sizes)).save_pretrained(tmp_path)
    model = UniPerceiverV2(**TINY, text_encoder=str(tmp_path)).fit(TASKS)
    assert set(model.classify(IMAGES, ["left", "a new name"])) <= {"left", "a new name"}
    assert len(model.caption(IMAGES[:2])) == 2


def test_training_follows_the_seed_and_tells_its_progress():
    told = []
    a, b, c = (UniPerceiverV2(**TINY, seed=s).fit(TASKS, progress=told.append) for s in (1, 1, 2))
    S = [model.similarity(IMAGES, ["left", "right"]) for model in (a, b, c)]
    assert np.array_equal(S[0], S[1]) and not np.allclose(S[0], S[2]) and told[-1] == 1.0


BAD = {
    "no mapping": ([], "tasks must be a mapping"),
    "lacking": ({"a": {"kind": "caption", "images": IMAGES}}, "lacks texts"),
    "nan": ({"a": {**TASKS["side"], "images": np.where(IMAGES > 2, 0, np.nan)}}, "images of task 'a' contains NaN"),
    "bright": ({"a": {**TASKS["side"], "images": 300 * IMAGES}}, "numbers in \\[0, 1\\].*0 to 300"),
    "lengths": ({"a": {**TASKS["side"], "labels": SIDES[:-1]}}, "must match"),
    "one class": ({"a": {**TASKS["side"], "labels": ["left"] * N}}, "of one class only"),
    "no word": ({"a": {**TASKS["pairs"], "texts": [" ", *SAID[1:]]}}, "texts of task 'a'\\[0\\] has no word"),
    "no string": ({"a": {**TASKS["pairs"], "texts": [None, *SAID[1:]]}}, "got None at place 0"),
    "boxes": ({"a": {**TASKS["shapes"], "boxes": [16 * box for box in BOXES]}}, "boxes\\[0\\].*in \\[0, 1\\]"),
    "nan boxes": ({"a": {**TASKS["shapes"], "boxes": [box * math.nan for box in BOXES]}}, "boxes\\[0\\]"),
    "three numbers": ({"a": {**TASKS["shapes"], "boxes": [box[:, :3] for box in BOXES]}}, "boxes\\[0\\].*left, top"),
    "background": ({"a": {**TASKS["shapes"], "labels": [["background"]] * N}}, "'background' is the name"),
    "names read alike": ({"a": {**TASKS["side"], "labels": ["A", "a"] * (N // 2)}}, "'A' and 'a', which are read"),
    "classes read alike": ({"a": {**TASKS["shapes"], "labels": [["Background"]] * N}}, "which are read alike"),
    "one text": ({"a": {**TASKS["pairs"], "texts": ["x"] * N}}, "of one class only"),
    "one name": ({1: TASKS["side"], "1": TASKS["pairs"]}, "two tasks have the same name"),
    "channels": ({**TASKS, "side": {**TASKS["side"], "images": IMAGES.repeat(3, 1)}}, "as many channels"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_tasks_that_cannot_be_are_refused_and_the_model_is_left_as_it_was(what):
    model, (tasks, says) = tiny(), BAD[what]
    before = model.similarity(IMAGES[:2], ["left"])
    with pytest.raises((ValueError, TypeError), match=says):
        model.fit(tasks)
    assert np.array_equal(model.similarity(IMAGES[:2], ["left"]), before)


def test_questions_that_cannot_be_answered_are_refused():
    model = tiny()
    for call, says in (
        (lambda: model.classify(IMAGES * np.nan, ["left"]), "NaN"),
        (lambda: model.classify(IMAGES, []), "candidates is empty"),
        (lambda: model.classify(IMAGES, ["left", "left"]), "read alike"),
        (lambda: model.predict_proba(IMAGES, ["left", "Left"]), "'left' and 'Left', which are read alike"),
        (lambda: model.detect(IMAGES, ["bar", "bar"]), "read alike"),
        (lambda: UniPerceiverV2(**{**TINY, "batch_size": 1}).fit(TASKS), "batch_size=1 leaves nothing to choose from"),
        (lambda: model.classify(IMAGES.repeat(3, 1), ["left"]), "3 channels, and it was trained on 1"),
        (lambda: model.detect(IMAGES, ["bar"], threshold=math.nan), "threshold must be"),
        (lambda: model.caption(IMAGES, max_words=0), "max_words must be"),
        (lambda: model.set_params(image__proposer="yolo"), "proposer must be"),
        (lambda: UniPerceiverV2(**WRONG).fit(TASKS), "must give boxes of image 0 of shape"),
        (lambda: model.set_params(image__global_tokens=False, image__proposals=0), "leave nothing"),
        (lambda: UniPerceiverV2(**TINY).fit({"a": TASKS["text"]}).caption(IMAGES), "no task of caption"),
    ):
        with pytest.raises((ValueError, TypeError), match=says):
            call()
    with pytest.raises(NotFittedError):
        UniPerceiverV2().caption(IMAGES)
    with pytest.raises(NotFinite):
        UniPerceiverV2(**TINY, weight_decay=1e30, lr=1e30).fit(TASKS)
