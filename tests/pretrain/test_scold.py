"""SCOLD: its losses by numbers, what its targets are, and classes by prompts."""

import numpy as np
import pytest
import torch

from anytask.parts.contrastive import contrastive_loss, soft_target
from anytask.pretrain import SCOLD, DualEncoder
from anytask.pretrain.parts.items import read_pairs
from anytask.pretrain.parts.zero_shot import PromptClassifier
from anytask.pretrain.scold import PooledTexts, concept_target

S = torch.tensor([[0.9, 0.7, 0.1], [0.6, 0.8, 0.2], [0.0, 0.3, 0.7]]) / 0.5
CONCEPT = torch.tensor([0, 0, 1])
COLORS = ("red", "green", "blue")
EYE = np.eye(3, dtype=np.float32)


def world(n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = (EYE[y] + 0.3 * rng.normal(size=(n, 3))).astype(np.float32)
    return X, [f"{COLORS[c]} seen on day {i}" for i, c in enumerate(y)], y


@pytest.fixture(scope="module")
def model():
    X, captions, y = world()
    return SCOLD.from_preset("small", epochs=25).fit(X, captions, concepts=y)


def loss(T):
    return contrastive_loss(S, T, target_columns=T.T, symmetric=True).item()


@pytest.mark.parametrize(("target", "wanted"), [
    (concept_target(CONCEPT, 0.0), 0.611278), (concept_target(CONCEPT, 0.4), 0.664612),
    (concept_target(CONCEPT, 1.0), 0.744612), (soft_target(torch.zeros(3, 3), 0.3), 0.804612),
    (soft_target(torch.tensor([[1, 0.8, 0.1], [0.8, 1, 0.2], [0.1, 0.2, 1]]), 0.4, 0.1), 0.624121),
])  # fmt: skip
def test_the_loss_by_numbers(target, wanted):
    assert loss(target) == pytest.approx(wanted, abs=2e-6)
    assert torch.allclose(target.sum(1), torch.ones(3))


def test_targets_have_no_gradient_and_the_order_of_a_batch_does_not_matter():
    likeness = torch.rand(3, 3, requires_grad=True)
    scores = S.clone().requires_grad_()
    contrastive_loss(scores, soft_target(likeness, 0.4, 0.1), symmetric=True).backward()
    assert scores.grad.abs().max() > 0 and likeness.grad is None
    T, order = concept_target(CONCEPT, 0.4), torch.tensor([2, 0, 1])
    moved = contrastive_loss(S[order][:, order], T[order][:, order], symmetric=True)
    assert moved.item() == pytest.approx(loss(T), abs=1e-6)


def test_no_loss_is_below_the_entropy_of_its_target_which_the_target_itself_reaches():
    T = soft_target(torch.tensor([[1, 0.8, 0.1], [0.8, 1, 0.2], [0.1, 0.2, 1]]), 0.4, 0.1)
    entropy = -(T * T.log()).sum(1).mean().item()
    assert contrastive_loss(S, T).item() > entropy + 1e-3
    assert contrastive_loss(T.log(), T).item() == pytest.approx(entropy, abs=1e-6)


def test_cosines_are_first_multiplied_with_1_by_07():
    X, captions, _ = world(6)
    assert SCOLD(epochs=0).fit(X, captions)._scale().item() == pytest.approx(14.2857, abs=1e-3)


def test_one_caption_of_each_image_is_drawn_anew():
    model, pairs = SCOLD(per_image="one"), read_pairs(list(EYE[[0, 0, 0, 1, 2]]), list("abcda"))
    drawn = [model._edges(pairs) for _ in range(30)]
    assert all(sorted(edges[:, 0].tolist()) == [0, 1, 2] for edges in drawn)
    assert {edges[edges[:, 0] == 0][0, 1].item() for edges in drawn} == {0, 1, 2}
    assert len(SCOLD()._edges(pairs)) == 5


def test_all_concepts_different_is_clip_and_one_concept_is_smoothing():
    assert torch.equal(concept_target(torch.arange(3), 0.7), torch.eye(3))
    assert torch.allclose(concept_target(torch.zeros(3), 0.3), 0.7 * torch.eye(3) + 0.1)


def test_without_a_share_for_others_all_targets_are_clip():
    X, captions, y = world()
    made = {
        mode: SCOLD.from_preset("small", epochs=2, targets=mode, alpha=0.0).fit(X, captions, concepts=y)
        for mode in SCOLD.MODES
    }
    plain = DualEncoder(**SCOLD.PRESETS["small"] | {"epochs": 2}).fit(X, captions).scores(X, captions)
    for mode, model in made.items():
        np.testing.assert_allclose(model.scores(X, captions), plain, atol=1e-4, err_msg=mode)


def test_every_kind_of_target_trains_another_model():
    X, captions, y = world()
    found = [
        SCOLD.from_preset("small", epochs=2, targets=mode).fit(X, captions, concepts=y).scores(X, captions)
        for mode in SCOLD.MODES[1:]
    ]
    for i, a in enumerate(found):
        assert all(np.abs(a - b).max() > 1e-4 for b in found[:i])


def test_concepts_that_do_not_fit_are_refused():
    X, captions, y = world(6)
    with pytest.raises(ValueError, match="needs concepts"):
        SCOLD(targets="concept").fit(X, captions)
    with pytest.raises(ValueError, match="left has 6 items and concepts 5"):
        SCOLD().fit(X, captions, concepts=y[:5])
    with pytest.raises(ValueError, match="of two concepts"):
        SCOLD().fit(X[[0, 0]], [captions[0]] * 2, concepts=[0, 1])


def test_texts_are_pooled_over_what_is_asked_for():
    tokens, mask = torch.arange(6.0).reshape(1, 3, 2), torch.tensor([[True, True, False]])

    def pool(how):
        h, there = PooledTexts(lambda texts: (tokens, mask), how)(["a b"])
        assert there.tolist() == [[True]]
        return h[0, 0].tolist()

    assert pool("mean") == [1, 2] and pool("first+mean") == [1, 3] and pool("released") == [2, 4]


def test_flat_maps_of_images_see_where_something_is():
    rng = np.random.default_rng(0)
    X = 0.1 * rng.normal(size=(40, 1, 8, 8)).astype(np.float32)
    y = np.arange(40) % 2
    X[y == 0, :, :4] += 1
    X[y == 1, :, 4:] += 1
    captions = [f"{('top', 'bottom')[c]} of shot {i}" for i, c in enumerate(y)]
    model = SCOLD.from_preset("small", epochs=20, flat=True, batch_size=20).fit(X, captions, concepts=y)
    assert (PromptClassifier(model, {0: "top", 1: "bottom"}).predict(X) == y).mean() > 0.9


def test_prompts_say_classes(model):
    X, _, y = world(30, seed=1)
    prompts = {c: [color, f"{color} seen"] for c, color in enumerate(COLORS)}
    classifier = PromptClassifier(model, prompts)
    P = classifier.predict_proba(X)
    assert np.allclose(P.sum(1), 1) and (classifier.predict(X) == y).mean() > 0.8
    assert np.array_equal(PromptClassifier(model, prompts, temperature=9.0).predict(X), classifier.predict(X))
    one, two = model.transform(prompts[0], side="right")
    mean = (one + two) / np.linalg.norm(one + two)
    np.testing.assert_allclose(classifier.cosines(X)[:, 0], model.transform(X) @ mean, atol=1e-6)


def test_what_is_like_no_class_is_unfamiliar(model):
    X, _, _ = world(60, seed=1)
    classifier = PromptClassifier(model, dict(enumerate(COLORS)))
    assert classifier.unfamiliar(X, X, share=0.1).sum() == 6
    assert classifier.unfamiliar(-EYE - 1, X, share=0.1).all() and not classifier.unfamiliar(EYE, X, share=0.1).any()
    with pytest.raises(ValueError, match="share"):
        classifier.unfamiliar(X, X, share=2)


def test_a_few_labels_move_the_prototypes(model):
    X, _, y = world(30, seed=1)
    prompts = dict(enumerate(COLORS))
    wrong = {0: "green", 1: "red", 2: "blue"}
    before = (PromptClassifier(model, wrong).predict(X) == y).mean()
    after = PromptClassifier(model, wrong).fit(X[:6], y[:6], weight=0.9)
    assert (after.predict(X[6:]) == y[6:]).mean() > before + 0.3
    same = PromptClassifier(model, prompts).fit(X[:6], y[:6], weight=0.0)
    np.testing.assert_allclose(same.cosines(X), PromptClassifier(model, prompts).cosines(X))
    only = PromptClassifier(model, prompts).fit(X[:1], y[:1])
    np.testing.assert_array_equal(only.prototypes_[1:], PromptClassifier(model, prompts).prototypes_[1:])


@pytest.mark.parametrize(("prompts", "says"), [
    ({0: "red"}, "2 classes"), ({0: "red", 1: " "}, "empty text"), ({0: "red", 1: []}, "class 1 has no prompt"),
    (["red", "green"], "must say for each class"), ({0: "red", 1: 3}, r"int|string|iterable"),
])  # fmt: skip
def test_prompts_that_say_nothing(model, prompts, says):
    with pytest.raises((ValueError, TypeError), match=says):
        PromptClassifier(model, prompts)


def test_labels_without_a_prompt(model):
    classifier = PromptClassifier(model, dict(enumerate(COLORS)))
    with pytest.raises(ValueError, match="y holds 7"):
        classifier.fit(EYE, [0, 1, 7])
    with pytest.raises(ValueError, match="X has 3 items and y 2"):
        classifier.fit(EYE, [0, 1])
    for temperature in (0, -1, float("nan"), "a"):
        with pytest.raises(ValueError, match="temperature"):
            PromptClassifier(model, dict(enumerate(COLORS)), temperature)


def test_a_frozen_text_model_stays_as_it_is_and_what_is_on_it_learns(tmp_path):
    X, captions, y = world(12)
    setting = {"right_encoder": "minilm", "frozen": True, "epochs": 3, "batch_size": 12}
    models = [SCOLD.from_preset("small", **setting | {"epochs": n}).fit(X, captions, concepts=y) for n in (0, 3)]
    before, after = (model.net_.right.tower for model in models)
    weights = after.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in before.model.state_dict().items())
    assert not torch.equal(before.out.weight, after.out.weight)
    models[1].save(tmp_path)
    loaded = SCOLD.load(tmp_path, device="cpu")
    np.testing.assert_allclose(loaded.scores(X, captions), models[1].scores(X, captions), atol=1e-5)
