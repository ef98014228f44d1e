"""Behavior Retrieval: scores by hand, what is kept, what is trained on what, and corrections."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from torch import nn

from anytask.control.behavior_retrieval import BehaviorRetrieval, nearest_distance, retrieve, similarity_scores
from anytask.control.behavior_retrieval.figures import (
    embedding_map,
    embedding_points,
    similarity_curves,
    similarity_over_time,
)
from anytask.core.checks import NotFinite
from anytask.core.settings import merged
from anytask.datasets.episodes import Episode, Episodes

CONTRACT = {
    "embedding": {"steps": 5, "hidden": (8,)}, "delta": 0.1,
    "BehaviorRetrieval-memory": {
        "cloning": {"core": "lstm", "hidden": (8,), "steps": 5, "batch_size": 8, "evaluation": "mode"},
    },
    "BehaviorRetrieval-noise": {
        "cloning": {"hidden": (8,), "steps": 5, "batch_size": 8, "evaluation": "low-noise"},
    },
}  # fmt: skip
EXEMPT = {
    "BehaviorRetrieval-noise": {"test_a_copy_that_was_reset_acts_as_one_that_has_just_begun": "draws its noise"},
}

torch.set_num_threads(1)
FAST = {"cloning": {"hidden": (16,), "batch_size": 16, "steps": 40}, "device": "cpu"}
TINY = {**FAST, "embedding": {"latent_dim": 3, "hidden": (16,), "steps": 40}}


def tiny(**params):
    return BehaviorRetrieval.from_preset("small", **merged(TINY, params))


def walk(way, n=10, seed=0, **facts):
    rng = np.random.default_rng(seed)
    x = np.cumsum(np.vstack([rng.uniform(-1, 1, (1, 2)), np.full((n, 2), 0.1 * way)]), 0)
    return Episode(x, np.full((n, 2), way) + 0.1 * rng.normal(size=(n, 2)), attributes={"way": way, **facts})


def worlds():
    expert = Episodes.from_list([walk(1.0, seed=i) for i in range(2)])
    prior = Episodes.from_list([walk((1.0, -1.0)[i % 2], seed=10 + i, relevant=i % 2 == 0) for i in range(12)])
    return expert, prior


# -- scores -----------------------------------------------------------------------------------------------------------


def test_scores_by_hand():
    expert, prior = [[0, 0], [1, 0]], [[0, 1], [3, 0], [1, 0.5], [5, 0]]
    d = nearest_distance(prior, expert)
    np.testing.assert_allclose(d, [1, 2, 0.5, 4])
    S = similarity_scores(d)
    np.testing.assert_allclose(S, [0.857143, 0.571429, 1, 0], atol=1e-6)
    assert np.flatnonzero(retrieve(S, 0.8)).tolist() == [0, 2]


def test_the_ends_of_the_threshold():
    S = similarity_scores([2.0, 0.5, 0.5, 9.0])
    assert retrieve(S, 0.0).all()
    assert retrieve(S, 1.0).tolist() == [False, True, True, False]


def test_all_alike_are_all_kept():
    assert similarity_scores([3.0, 3.0]).tolist() == [1.0, 1.0]


def test_a_share_is_kept_with_its_ties():
    S = [0.1, 0.9, 0.5, 0.5]
    assert retrieve(S, quantile=0.25).tolist() == [False, True, False, False]
    assert retrieve(S, quantile=0.5).tolist() == [False, True, True, True]
    assert retrieve(S, quantile=1.0).all()


def test_a_share_does_not_mind_an_outlier():
    d = np.array([1.0, 2.0, 3.0, 4.0])
    far = np.append(d, 1e6)
    assert retrieve(similarity_scores(far), 0.8).tolist() == [True, True, True, True, False]  # squeezed towards 1
    assert retrieve(similarity_scores(far), quantile=0.4).tolist() == [True, True, False, False, False]


def test_a_threshold_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match="lower delta"):
        retrieve([0.2, 0.5], 0.6)
    with pytest.raises(ValueError, match="finite"):
        similarity_scores([np.nan])
    with pytest.raises(ValueError, match="delta or quantile"):
        retrieve([0.5])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 8))
def test_scores_do_not_mind_where_embeddings_lie_or_the_order_of_the_expert(seed, n, m):
    rng = np.random.default_rng(seed)
    prior, expert = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    S = similarity_scores(nearest_distance(prior, expert))
    assert S.min() >= 0 and S.max() == 1.0
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    shift = rng.normal(size=3)
    moved = similarity_scores(nearest_distance(prior @ turn + shift, expert[rng.permutation(m)] @ turn + shift))
    np.testing.assert_allclose(moved, S, atol=1e-6)
    more = np.vstack([expert, rng.normal(size=(1, 3))])
    assert (nearest_distance(prior, more) <= nearest_distance(prior, expert) + 1e-12).all()
    equal = similarity_scores(nearest_distance(np.vstack([prior, expert[:1]]), expert))
    assert equal[-1] == 1.0


# -- the system -------------------------------------------------------------------------------------------------------


def test_it_keeps_what_looks_like_the_expert_in_what_is_done():
    expert, prior = worlds()
    model = tiny(cloning={"steps": 200, "lr": 3e-3}).fit(expert, prior)
    right = prior.attributes["way"][prior.episode_of] > 0
    assert model.scores_.shape == model.selected_.shape == (prior.steps,)
    assert model.selected_.any() and not model.selected_[~right].any()
    assert model.act(np.zeros(2, np.float32)).min() > 0
    e, d = model.prior_embeddings_, model.distances_
    assert e.shape == (prior.steps, 3 + 2)
    np.testing.assert_allclose(
        d, np.linalg.norm(e[:, None] - model.expert_embeddings_[None], axis=-1).min(1), atol=1e-5
    )
    np.testing.assert_array_equal(model.selected_, model.scores_ >= 0.8)


def test_the_embedder_stands_still_and_has_no_gradient_while_the_policy_learns():
    expert, prior = worlds()
    seen = []

    class Spy:
        def fit(self, sources, statistics, progress):
            self.sources, parameters = sources, list(model.embedder_.parameters())
            seen.append([p.clone() for p in parameters])
            assert all(p.grad is None and not p.requires_grad for p in parameters)

    model = tiny(policy=Spy)
    model.fit(expert, prior)
    expert_source, kept = model.policy_.sources
    assert expert_source.episodes is expert and expert_source.weights is None
    assert kept.episodes is prior
    np.testing.assert_array_equal(kept.weights, model.selected_)
    full = tiny().fit(expert, prior)
    assert all(p.grad is None for p in full.embedder_.parameters())
    assert all(torch.equal(a, b) for a, b in zip(full.embedder_.parameters(), seen[0], strict=True))


def test_the_embedder_and_the_normalisation_come_from_the_prior_alone():
    expert, prior = worlds()
    other = Episodes.from_list([walk(0.3, seed=5)])
    a, b = (tiny().fit(e, prior) for e in (expert, other))
    assert all(torch.equal(p, q) for p, q in zip(a.embedder_.parameters(), b.embedder_.parameters(), strict=True))
    np.testing.assert_array_equal(a.prior_embeddings_, b.prior_embeddings_)
    np.testing.assert_array_equal(a.policy_.net_.action_mean, prior.statistics()["action"].mean)
    np.testing.assert_allclose(a.prior_embeddings_[:, 3:].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(a.prior_embeddings_[:, 3:].std(0), 1, atol=1e-4)


def test_each_ablation_switches_off_one_thing():
    expert, prior = worlds()
    full = tiny().fit(expert, prior)
    bare = tiny(action_in_embedding=False).fit(expert, prior)
    np.testing.assert_array_equal(bare.prior_embeddings_, full.prior_embeddings_[:, :3])
    dealt = tiny(scramble=True).fit(expert, prior)
    assert sorted(dealt.distances_) == sorted(full.distances_) and (dealt.distances_ != full.distances_).any()
    assert dealt.selected_.sum() == full.selected_.sum()
    assert tiny(delta=0.0).fit(expert, prior).selected_.all()
    share = tiny(quantile=0.1).fit(expert, prior)
    assert share.selected_.sum() == 12  # of 120 steps


@pytest.mark.parametrize("embedder", ["time-contrastive", "raw", "module"])
def test_other_embedders(embedder):
    class Double(nn.Module):
        def embed(self, obs, action):
            return 2 * obs["observation"]

    expert, prior = worlds()
    chosen = Double() if embedder == "module" else embedder
    model = tiny(embedding={"embedder": chosen}).fit(expert, prior)
    right = prior.attributes["way"][prior.episode_of] > 0
    assert model.scores_[right].mean() > model.scores_[~right].mean()
    x = prior.observations["observation"] - prior.statistics()["observation"].mean
    x = x / prior.statistics()["observation"].std
    if embedder == "module":
        np.testing.assert_allclose(model.prior_embeddings_[:, :2], 2 * x, atol=1e-5)
    if embedder == "raw":
        np.testing.assert_allclose(model.prior_embeddings_[:, :2], x, atol=1e-5)
        assert model.embedder_losses_ == []


def test_the_paper_s_values_are_the_defaults_and_those_for_images_a_preset():
    model = BehaviorRetrieval()
    c, e = model.cloning, model.embedding
    assert (model.delta, e.latent_dim, e.beta, e.lr, e.batch_size) == (0.75, 14, 1e-4, 1e-3, 100)
    assert (c.core, c.hidden, c.modes, c.min_std, c.lr, c.batch_size) == ("lstm", (400, 400), 5, 1e-4, 1e-4, 100)
    assert e.hidden == (300, 400) and e.steps == 1_000_000
    model = BehaviorRetrieval.from_preset("images")
    c, e = model.cloning, model.embedding
    assert (model.delta, e.latent_dim, e.batch_size) == (0.85, 128, 50)
    assert (c.core, c.hidden, c.batch_size, c.trunks) == ("lstm", (1000, 1000), 16, "spatial-softmax")


def test_pictures_go_through_all_three_phases():
    rng = np.random.default_rng(0)

    def scene(n=3):
        obs = {"camera": rng.integers(0, 255, (n + 1, 12, 12, 3), dtype=np.uint8), "x": rng.normal(size=(n + 1, 2))}
        return Episode(obs, rng.normal(size=(n, 2)))

    prior = Episodes.from_list([scene() for _ in range(3)])
    model = tiny(cloning={"crop": 10, "trunk_width": 8, "steps": 2}, embedding={"steps": 2})
    model.fit(prior.select([0]), prior)
    np.testing.assert_allclose(model.scores_[:3], 1.0, atol=1e-5)  # equal transitions are as near as can be
    assert model.embedder_.shapes["camera"] == (12, 12, 3)  # the crop is the policy's


def test_a_pretrained_vision_model_can_compare_pictures(tmp_path):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    obs = {"camera": rng.integers(0, 255, (5, 12, 12, 3), dtype=np.uint8), "x": rng.normal(size=(5, 2))}
    e = Episodes.from_list([Episode(obs, rng.normal(size=(4, 2)))])
    model = tiny(embedding={"embedder": f"frozen:{tmp_path}"}, cloning={"trunk_width": 8, "steps": 1}).fit(e, e)
    assert model.prior_embeddings_.shape == (4, 8 + 2 + 2)  # features, numbers, action
    assert model.embedder_losses_ == [] and not any(p.requires_grad for p in model.embedder_.parameters())


def test_what_was_saved_acts_alike(tmp_path):
    expert, prior = worlds()
    model = tiny().fit(expert, prior)
    model.save(tmp_path)
    loaded = BehaviorRetrieval.load(tmp_path, device="cpu")
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    model.reset(), loaded.reset()
    assert torch.equal(model.act(x), loaded.act(x))
    for name in ("scores_", "selected_", "prior_embeddings_"):
        np.testing.assert_array_equal(getattr(model, name), getattr(loaded, name))
    np.testing.assert_array_equal(model.embed(expert), loaded.embed(expert))
    assert loaded.cost() == model.cost() and tuple(loaded.cloning.hidden) == (16,)


def test_corrections_are_remembered_up_to_the_ring_and_learned_from_after_the_burn_in(tmp_path):
    expert, prior = worlds()
    model = tiny(corrections={"ring": 25, "burn_in": 3, "steps": 15}).fit(expert, prior)
    scores, steps = model.scores_.copy(), model.policy_.steps_
    for i in range(2):
        model.correct(walk(-1.0, seed=20 + i))
    assert model.policy_.steps_ == steps and (model.scores_ == scores).all()
    last = walk(-1.0, seed=30)
    model.correct(last)
    assert [len(e) for e in model.ring_] == [5, 10, 10]
    np.testing.assert_array_equal(model.ring_[0].actions, walk(-1.0, seed=20).actions[5:].astype(np.float32))
    assert model.policy_.steps_ == steps + 15
    left = prior.attributes["way"][prior.episode_of] < 0
    assert model.selected_[left].any() and not model.selected_[~left].any()
    model.save(tmp_path)
    loaded = BehaviorRetrieval.load(tmp_path, device="cpu")
    with pytest.raises(ValueError, match="prior"):
        loaded.correct(last)
    for one in (model, loaded):
        one.correct(last, prior=prior)
        one.reset()
    x = torch.zeros(3, 2)
    assert torch.equal(loaded.act(x), model.act(x)) and loaded.n_corrections_ == 4


def test_a_failed_correction_changes_nothing():
    expert, prior = worlds()
    model = tiny(corrections={"burn_in": 1, "steps": 5}).fit(expert, prior)
    before = model.scores_.copy()

    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.correct(walk(-1.0), progress=stop)
    assert model.ring_ == [] and model.n_corrections_ == 0 and (model.scores_ == before).all()
    with pytest.raises(ValueError, match="the corrections: observation 'observation' is missing"):
        model.correct(Episode({"other": [[0.0]]}, [[0.0, 0.0]]))


def test_a_failed_fit_leaves_the_system_as_it_was():
    expert, prior = worlds()

    def stop(share):
        if share > 0.6:
            raise KeyboardInterrupt

    model = tiny()
    with pytest.raises(KeyboardInterrupt):
        model.fit(expert, prior, stop)
    with pytest.raises(NotFittedError, match="call fit"):
        model.act(np.zeros(2))
    model.fit(expert, prior)
    before = model.scores_
    with pytest.raises(KeyboardInterrupt):
        model.fit(prior, expert, stop)
    assert model.scores_ is before


def test_an_embedder_that_diverges_is_refused_by_its_stage_and_nothing_is_kept():
    class Broken(nn.Module):
        def embed(self, obs, action):
            return torch.log(action * 0 - 1)

    expert, prior = worlds()
    model = tiny().fit(expert, prior)
    before = vars(model).copy()
    for embedding, stage in (
        ({"lr": 1e38}, "the embedder"), ({"embedder": "time-contrastive", "lr": 1e38}, "the embedder"),
        ({"embedder": Broken()}, "the embedding of a transition is NaN"),
    ):  # fmt: skip
        fresh = tiny(embedding=embedding)
        with pytest.raises(NotFinite, match=stage):
            fresh.fit(expert, prior)
        with pytest.raises(NotFittedError):
            fresh.act(np.zeros(2))
        broken = model.embedding
        model.embedding = fresh.embedding
        with pytest.raises(NotFinite, match=stage):
            model.fit(expert, prior)
        model.embedding = broken
        assert vars(model).keys() == before.keys() and all(vars(model)[k] is v for k, v in before.items())


@pytest.mark.parametrize("embedder", ["vae", "time-contrastive", "raw"])
def test_episodes_of_one_step_are_enough(embedder):
    one = [Episode([[x, x]], [[x, -x]]) for x in (0.0, 0.1, 5.0)]
    expert, prior = Episodes.from_list(one[:1]), Episodes.from_list(one)
    core = {"core": "lstm", "hidden": (8,)}
    model = tiny(cloning=core, embedding={"embedder": embedder, "batch_size": 2}).fit(expert, prior)
    assert model.scores_[0] == 1.0 and np.isfinite(model.act(np.zeros((2, 2), np.float32))).all()
    alike = Episodes.from_list(one[:1] * 3)  # every distance is 0, and no value varies
    assert tiny(embedding={"embedder": embedder}).fit(expert, alike).selected_.all()
    model.correct(one[0])
    assert [len(e) for e in model.ring_] == [1]


def test_actions_that_are_choices_are_refused_before_anything_is_trained():
    expert, prior = worlds()
    choices = Episodes.from_list([Episode(np.zeros((3, 2)), np.ones((2, 2), int))])
    assert "continuous actions" in BehaviorRetrieval.refuses(choices) and BehaviorRetrieval.refuses(expert) is None
    for data in ((choices, prior), (expert, choices)):
        with pytest.raises(ValueError, match=r"the (episodes|prior): it learns continuous actions"):
            tiny(embedding={"steps": 10**9}).fit(*data)


def test_data_that_do_not_fit_together_are_refused():
    expert, _ = worlds()
    with pytest.raises(ValueError, match="needs prior data"):
        tiny().fit(expert)
    with pytest.raises(TypeError, match="Episodes"):
        tiny().fit([walk(1.0)])
    wide = Episodes.from_list([Episode(np.zeros((3, 5)), np.zeros((2, 2)))])
    with pytest.raises(ValueError, match=r"prior has observation 'observation' of shape \(5,\) instead of \(2,\)"):
        tiny().fit(expert, wide)
    other = Episodes.from_list([Episode({"b": np.zeros((3, 2))}, np.zeros((2, 2)))])
    with pytest.raises(ValueError, match="observations"):
        tiny().fit(expert, other)
    model = tiny().fit(expert, expert)
    for data, message in ((wide, r"shape \(5,\), \(2,\) is wanted"), (other, "'observation' is missing")):
        with pytest.raises(ValueError, match=message):
            model.embed(data)
    narrow = Episodes.from_list([Episode(np.zeros((3, 2)), np.zeros((2, 1)))])
    with pytest.raises(ValueError, match="prior has the action dimension 1 instead of 2"):
        tiny().fit(expert, narrow)


# -- figures ----------------------------------------------------------------------------------------------------------


def test_figures_show_what_was_found():
    _, prior = worlds()
    scores = np.linspace(0, 1, prior.steps)
    curves = similarity_curves(scores, prior, prior.attributes["way"])
    assert sorted(curves) == ["-1.0", "1.0"] and len(curves["1.0"][0]) == 10
    rows = prior.starts[prior.attributes["way"] > 0]
    assert curves["1.0"][0][0] == pytest.approx(scores[rows].mean(), abs=1e-4)
    assert len(similarity_over_time(curves, 0.5).data) == 4
    e = np.random.default_rng(0).normal(size=(prior.steps, 4))
    for method in ("pca", "tsne"):
        points = embedding_points(e[:5], e, scores > 0.5, method=method, most=60)
        assert len(points["kept"]) + len(points["left out"]) == 60 and len(points["expert"]) == 5
    assert len(embedding_map(points).data) == 3
    with pytest.raises(ValueError, match="method"):
        embedding_points(e, e, scores > 0.5, method="umap")
