"""CiCo: fixed values of its scores and its loss, what they do not depend on, its towers, and what it learns."""

import copy

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from anytask.core.checks import NotFinite
from anytask.datasets.signing import signing
from anytask.pretrain import CiCo, DomainEncoder
from anytask.pretrain.cico import matching_loss
from anytask.pretrain.cico.domain import fuse
from anytask.pretrain.pair_baselines import DualEncoder
from anytask.pretrain.parts.items import read_pairs
from anytask.pretrain.parts.pairs import PairBatch
from lm.random_models import word_tokenizer

CONTRACT = {"CiCo": {"max_words": 4}, "CiCo-transformer": {"layers": 1, "augment": "delete", "official_padding": True}}


def scored(model, videos, texts, seen=None, said=None):
    """Return Z1 and Z2 of tokens and masks."""
    v, w = F.normalize(videos, dim=2), F.normalize(texts, dim=2)
    seen = torch.ones(v.shape[:2], dtype=torch.bool) if seen is None else seen
    said = torch.ones(w.shape[:2], dtype=torch.bool) if said is None else said
    return model._directed(v, w, seen, said, model.max_words), model._directed(w, v, said, seen, model.max_vectors).T


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-6, rtol=0)


# Two pairs; the first sentence has two words and padding.
VIDEOS = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 0]]])
TEXTS = torch.tensor([[[1.0, 0, 0], [0, 2, 0], [9, 9, 9]], [[0, 0, 3], [1, 0, 1], [1, 1, 0]]])
SAID = torch.tensor([[True, True, False], [True, True, True]])


def test_scores_by_hand():
    # Cosines [[1, 0, .5], [0, 1, .5]]: .787605 = (e^2 + .5 e) / (e^2 + 1 + e), .880797 = e^2 / (e^2 + 1).
    v, w = torch.eye(3)[None, :2], torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0.5, 0.5, 0.5**0.5]]])
    for t, expected in ((0.5, (0.787605, 0.753865)), (1e-4, (1.0, 0.833333)), (1e6, (0.5, 0.5))):
        for Z, value in zip(scored(CiCo(temperature=t), v, w), expected):
            close(Z, [[value]])


def test_scores_and_loss_of_two_pairs():
    model = CiCo(temperature=0.07)
    Z1, Z2 = scored(model, VIDEOS, TEXTS, said=SAID)
    close(Z1, [[0.999999, 0.707071], [0.353553, 0.997604]])
    close(Z2, [[0.999999, 0.471395], [0.707078, 0.898963]])
    close(model._score(VIDEOS, TEXTS, torch.ones(2, 2, dtype=torch.bool), SAID),
          [[0.999999, 0.589233], [0.530316, 0.948284]])  # fmt: skip
    close(matching_loss(10 * Z1, 10 * Z2, 0.5), 0.039545)
    # With mu = 1 each score is compared from its queries' side alone.
    right = torch.arange(2)
    expected = (F.cross_entropy(10 * Z1, right) + F.cross_entropy(10 * Z2.T, right)) / 2
    close(matching_loss(10 * Z1, 10 * Z2, 1.0), expected.item())


def test_scores_know_no_order_and_no_padding_and_lie_between_minus_1_and_1():
    torch.manual_seed(0)
    v, w = torch.randn(3, 5, 4), torch.randn(4, 6, 4)
    seen, said = torch.arange(5) < torch.tensor([[5], [2], [1]]), torch.arange(6) < torch.tensor([[1], [6], [3], [4]])
    model = CiCo(official_padding=False)
    expected = scored(model, v, w, seen, said)
    assert all(bool((Z.abs() <= 1 + 1e-6).all()) for Z in expected)
    order, other = torch.randperm(5), torch.randperm(6)
    spoiled = v.masked_fill(~seen[..., None], 1e4), w.masked_fill(~said[..., None], -7.0)
    for found in (
        scored(model, v[:, order], w[:, other], seen[:, order], said[:, other]),
        scored(model, *spoiled, seen, said),
    ):
        for Z, wanted in zip(found, expected):
            torch.testing.assert_close(Z, wanted)


def test_official_padding_joins_the_softmax_with_cosine_0():
    v, w = torch.eye(2)[None, :1], torch.eye(2)[None, :1]  # one vector, one word, cosine 1
    Z1, Z2 = scored(CiCo(official_padding=True, temperature=1.0, max_words=3, max_vectors=2), v, w)
    e = float(np.e)
    close(Z1, [[e / (e + 2)]])
    close(Z2, [[e / (e + 1)]])


def test_equal_pairs_are_left_out_of_the_comparison():
    Z = torch.tensor([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    # Rows 0 and 1 compare 2 with 0 alone, row 2 compares 2 with two zeros.
    expected = (2 * np.log(1 + np.exp(-2)) + np.log(1 + 2 * np.exp(-2))) / 3
    close(matching_loss(Z, Z, 0.5, same), float(expected))
    assert matching_loss(Z, Z, 0.5) > matching_loss(Z, Z, 0.5, same) + 0.3


def test_an_epoch_shows_one_sequence_of_each_sentence():
    pairs = read_pairs([np.full((2, 1), i) for i in range(12)], [f"text {i % 4}" for i in range(12)])
    torch.manual_seed(0)
    epochs = [CiCo()._edges(pairs) for _ in range(6)]
    assert all(sorted(edges[:, 1].tolist()) == [0, 1, 2, 3] for edges in epochs)
    assert len({edge for edges in epochs for edge in map(tuple, edges.tolist())}) > 6
    assert all(len(CiCo(repeats=way)._edges(pairs)) == 12 for way in ("mask", "negative"))


def test_changed_sentences_enter_the_words_score_alone():
    model = CiCo.from_preset("small", epochs=0, augment="delete", augment_share=1.0, mix=1.0)
    rng = np.random.default_rng(0)
    x, said = [rng.normal(size=(3, 4)) for _ in range(6)], [f"a{i} b{i} c{i} d{i}" for i in range(6)]
    model.fit(x, said)
    read = []
    model.net_.right.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    pairs = read_pairs(x, said)
    torch.manual_seed(0)
    model._loss(PairBatch.of(pairs, pairs.edges)).backward()
    clean, changed = read
    assert clean == said and all(len(text.split()) == 3 for text in changed)


def test_sequences_of_one_sentence_count_by_their_best():
    rng = np.random.default_rng(0)
    x, said = [rng.normal(size=(3, 4)) for _ in range(6)], ["up", "down", "left"] * 2
    model = CiCo.from_preset("small", epochs=2).fit(x, said)
    S = model.scores(x, ["up"])[:, 0]
    best = [max(S[0], S[3]), max(S[1], S[4]), max(S[2], S[5])]
    places, scores = model.rank(["up"], x, side="right", groups=[0, 1, 2] * 2)
    assert places[0].tolist() == np.argsort(-np.array(best)).tolist()
    np.testing.assert_allclose(scores[0], sorted(best, reverse=True))
    found = model.evaluate(x, said)
    assert set(found) == {"to_sentence", "to_sequence"} and found["to_sequence"]["R@5"] == 1.0
    with pytest.raises(ValueError, match="the group of each of 6 targets"):
        model.rank(["up"], x, side="right", groups=[0, 2] * 3)


def test_parts_are_matched_where_their_order_differs():
    world = signing(0, n=200, tested=60)
    model = CiCo.from_preset("small", epochs=16).fit(*world.train)
    flat = CiCo.from_preset("small", epochs=16, temperature=10.0).fit(*world.train)
    pooled = DualEncoder.from_preset("small", epochs=16).fit(*world.train)
    found, uniform = (m.evaluate(*world.tested)["to_sentence"]["R@1"] for m in (model, flat))
    means = (pooled.scores(*world.tested).argmax(1) == np.arange(60)).mean()
    assert found > max(means, uniform) + 0.15
    right = []
    for sequence, sentence, signs in zip(*world.tested, world.signs):
        map_ = model.alignment(sequence, sentence)
        right += [map_.words[j] == f"s{s}" for j, s in zip(map_.of_vectors.argmax(1), signs) if s >= 0]
    assert np.mean(right) > 0.6


def test_alignment_says_which_vectors_and_words_were_read():
    rng = np.random.default_rng(0)
    x, said = [rng.normal(size=(9, 4)) for _ in range(4)], [f"a{i} b c d e" for i in range(4)]
    model = CiCo.from_preset("small", epochs=1, max_vectors=3, max_words=2).fit(x, said)
    found = model.alignment(x[0], said[0])
    assert found.places.tolist() == [0, 4, 8] and found.words == ["a0", "e"] and found.cosines.shape == (3, 2)
    np.testing.assert_allclose(found.of_vectors.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(found.of_words.sum(0), 1, atol=1e-6)
    # The same as on the vectors and words that were read.
    thin = model.scores([x[0][[0, 4, 8]]], ["a0 e"])
    np.testing.assert_allclose(model.scores(x[:1], said[:1]), thin, atol=1e-6)


def test_clips_towers_take_sequences_and_sentences(tmp_path):
    said = [f"w{i} goes to w{i + 1}" for i in range(8)]
    tokenizer = word_tokenizer(" ".join(said), ends=True)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(tokenizer), "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 8, "patch_size": 4}, projection_dim=12
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(tmp_path / "clip")
    tokenizer.save_pretrained(tmp_path / "clip")
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(1 + i % 4, 5)).astype(np.float32) for i in range(8)]
    place = str(tmp_path / "clip")
    model = CiCo(sequence_encoder=place, sentence_encoder=place, epochs=1, batch_size=4, device="cpu").fit(x, said)
    S = model.scores(x, said)
    np.testing.assert_allclose(model.scores(x[2:3], said[4:5]), S[2:3, 4:5], atol=1e-5)  # padding changes nothing
    assert model.alignment(x[3], said[1]).words == ["[CLS]", "w1", "goes", "to", "w2", "[SEP]"]
    model.save(tmp_path / "saved")
    assert np.array_equal(CiCo.load(tmp_path / "saved", device="cpu").scores(x, said), S)


def test_settings_that_do_not_go_together():
    with pytest.raises(ValueError, match="needs synonyms"):
        CiCo(augment="synonyms")
    with pytest.raises(ValueError, match="hidden must be a multiple of heads"):
        CiCo(hidden=30, heads=4)
    assert CiCo(augment="synonyms", synonyms={"big": ["large"]})._changed("a big dog") in ("a big dog", "a large dog")


# -- stage 1 ----------------------------------------------------------------------------------------------------------


def classifier(d=2):
    """Return a network whose classes are its inputs, summed over the window."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(d, d))
    nn.init.eye_(net[1].weight)
    nn.init.zeros_(net[1].bias)
    return net


def test_windows_are_labelled_and_the_copy_is_tuned_on_them_alone():
    net = classifier()
    before = copy.deepcopy(net.state_dict())
    log = float(np.log(1.5))  # class 0 has the probability .6: not above the threshold
    x = [np.array([[log, 0], [3, 0], [0, 0]]), np.array([[0.0, 2.0], [0.2, 0.1]])]
    model = DomainEncoder(net, window=1, merge=0, suppress=0, epochs=3).fit(x)
    assert model.segments_.tolist() == [[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]] and model.sure_ == 0.4
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    windows = np.array([[[3.0, 0.0]], [[0.0, 2.0]]])
    tuned = model.predict_proba(windows)
    untouched = DomainEncoder(net, window=1, epochs=0).fit(x).predict_proba(windows)
    assert (tuned.diagonal() > untouched.diagonal()).all()


def test_features_of_both_encoders():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.inner(x.flatten(1)))

    torch.manual_seed(0)
    net, x = Net(), [np.random.default_rng(0).normal(size=(5, 2)), np.zeros((1, 2))]
    made = {
        how: DomainEncoder(net, window=2, threshold=0.0, features=how, epochs=4, lr=0.5).fit(x).transform(x)
        for how in ("agnostic", "aware", "fused", "concatenated")
    }
    assert [one.shape for one in made["fused"]] == [(4, 3), (1, 3)]  # the short one is lengthened
    windows = torch.tensor(np.stack([x[0][i : i + 2] for i in range(4)])).float()
    np.testing.assert_allclose(made["agnostic"][0], net.inner(windows.flatten(1)).detach(), atol=1e-6)
    assert np.abs(made["agnostic"][0] - made["aware"][0]).max() > 1e-3
    np.testing.assert_allclose(made["fused"][0], 0.8 * made["agnostic"][0] + 0.2 * made["aware"][0], atol=1e-6)
    np.testing.assert_allclose(made["concatenated"][0], np.hstack([made["agnostic"][0], made["aware"][0]]))


def test_alpha_is_the_weight_of_the_agnostic_features():
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    assert torch.equal(fuse(a, b, "fused", 1.0), a) and torch.equal(fuse(a, b, "fused", 0.0), b)
    with pytest.raises(ValueError, match="one shape"):
        fuse(a, b[:, :2], "fused", 0.5)


def test_a_callable_may_label_instead():
    x = [np.array([[3.0, 0.0], [0.0, 3.0]])]
    labelled = DomainEncoder(classifier(), window=1, merge=0, suppress=0, labeler=lambda w: -w[:, 0]).fit(x)
    assert labelled.segments_[:, :3].tolist() == [[0, 0, 1], [0, 1, 0]]


def test_what_cannot_be_labelled_is_refused_by_its_sequence(tmp_path):
    x = [np.zeros((3, 2)), np.ones((3, 2))]
    with pytest.raises(ValueError, match="none of 6 windows is labelled"):
        DomainEncoder(classifier(), window=1).fit(x)
    with pytest.raises(NotFinite, match="sequence 1"):
        DomainEncoder(classifier(), window=1, labeler=lambda w: torch.log(0.5 - w[:, 0])).fit(x)
    with pytest.raises(ValueError, match="sequence 1"):
        DomainEncoder(classifier(), window=1).fit([x[0], np.full((2, 2), np.nan)])
    with pytest.raises(ValueError, match="last_layer must name"):
        DomainEncoder(classifier(), window=1, threshold=0.1, last_layer="top").fit(x).transform(x)
    model = DomainEncoder(classifier(), window=1, threshold=0.1).fit(x)
    model.save(tmp_path)
    again = DomainEncoder.load(tmp_path, encoder=classifier(), device="cpu")
    np.testing.assert_array_equal(again.transform(x)[1], model.transform(x)[1])
