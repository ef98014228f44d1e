"""Behaviour cloning: heads by their formulas, batches by their shares, memory, crops, and what is refused."""

import math

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from anytask.control.behavior_retrieval import nearest_distance
from anytask.control.behavior_retrieval.state_action_vae import PlainFeatures, StateActionVAE, TimeContrastive
from anytask.control.parts.imitation import (
    BehaviorCloning,
    CloningSettings,
    MixtureHead,
    MSEHead,
    PolicyNet,
    Rows,
    Source,
    _cropped,
    mixture_log_prob,
)
from anytask.core.checks import NotFinite
from anytask.datasets.episodes import Episode, Episodes, statistics_of
from anytask.parts.vae import diagonal_gaussian_kl

torch.set_num_threads(1)
FAST = {"core": "mlp", "hidden": (16,), "lr": 1e-2, "batch_size": 32, "device": "cpu"}


def walk(n=12, seed=0, d=2, key=None):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + 1, d))
    return Episode(x if key is None else {key: x}, x[:-1] * [[2.0, -1.0]])


def data(episodes=4, **kwargs):
    return Episodes.from_list([walk(seed=i, **kwargs) for i in range(episodes)])


def test_a_mixture_of_equal_components_is_that_gaussian():
    a = torch.tensor([[0.3, -1.0]])
    mean, std = torch.zeros(1, 3, 2), torch.full((1, 3, 2), 2.0)
    normal = torch.distributions.Normal(0.0, 2.0).log_prob(a).sum()
    weights = torch.tensor([[0.2, 0.5, 0.3]]).log()
    assert mixture_log_prob(a, weights, mean, std).item() == pytest.approx(normal.item(), abs=1e-6)


def test_two_components_by_hand():
    # 0.25 N(0; -1, 1) + 0.75 N(0; 2, 0.5) = 0.25 * 0.2419707 + 0.75 * 0.0002676605
    log_p = mixture_log_prob(
        torch.zeros(1), torch.tensor([0.25, 0.75]).log(), torch.tensor([[-1.0], [2.0]]), torch.tensor([[1.0], [0.5]])
    )
    assert log_p.item() == pytest.approx(math.log(0.25 * 0.2419707 + 0.75 * 0.0002676605), abs=1e-5)


def test_the_spread_of_a_mixture_has_a_floor_and_low_noise_uses_it():
    head = MixtureHead(4, 2, modes=3, min_std=0.01)
    with torch.no_grad():
        head.out.weight.zero_()
        head.out.bias.copy_(torch.cat([torch.tensor([9.0, 0.0, 0.0]), torch.arange(6.0), torch.full((6,), -50.0)]))
    h = torch.zeros(500, 4)
    assert head.parameters_of(h)[2].unique().tolist() == [pytest.approx(0.01)]
    generator = torch.Generator().manual_seed(0)
    low = head.act(h, "low-noise", generator)
    assert 0.005 < low[(low - torch.tensor([0.0, 1.0])).abs().amax(1) < 0.1].std(0).mean() < 0.02
    assert torch.equal(head.act(h, "mode", None), torch.tensor([0.0, 1.0]).expand(500, 2))


def test_low_noise_shrinks_the_spread_but_keeps_all_ways():
    head = MixtureHead(1, 1, modes=2, min_std=1e-4)
    with torch.no_grad():
        head.out.weight.zero_()
        head.out.bias.copy_(torch.tensor([0.0, 0.0, -1.0, 1.0, 1.0, 1.0]))
    h, generator = torch.zeros(1000, 1), torch.Generator().manual_seed(0)
    low, full = (head.act(h, how, generator).abs() for how in ("low-noise", "sample"))
    assert (low - 1).abs().max() < 1e-3 and (full - 1).abs().mean() > 0.3
    assert 400 < (head.act(h, "low-noise", generator) > 0).sum() < 600


def test_the_squared_error_is_a_unit_gaussian_up_to_constants():
    head, h, a = MSEHead(3, 2), torch.randn(5, 3), torch.randn(5, 2)
    constant = math.log(2 * math.pi)
    torch.testing.assert_close(-head.log_prob(h, a), head.loss(h, a) + constant)


def tables(sources):
    return [Rows(source.episodes, ["observation"], torch.device("cpu")) for source in sources]


def test_every_batch_holds_equally_many_of_each_source_and_only_what_has_weight():
    small, large = data(1), Episodes.from_list([walk(seed=i) for i in range(1, 10)])
    weights = np.zeros(large.steps)
    weights[[3, 50, 107]] = (1.0, 3.0, 0.0)
    rng = np.random.default_rng(0)
    policy = BehaviorCloning(steps=1, **FAST).fit(small)
    _, actions, valid = policy._draw(sources := [Source(small), Source(large, weights)], tables(sources), rng)
    assert len(actions) == len(valid) == 2 * FAST["batch_size"]
    half = FAST["batch_size"]
    assert np.isin(actions[:half].numpy(), small.actions).all()
    assert not np.isin(actions[half:].numpy(), small.actions).any()
    second = np.concatenate([Source(large, weights).draw(16, rng) for _ in range(200)])
    assert set(second.tolist()) == {3, 50}
    assert (second == 50).mean() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("weights", [np.zeros(48), -np.ones(48), np.ones(3), np.full(48, np.nan)])
def test_weights_that_make_no_sense_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        Source(data(), weights)


def test_statistics_of_several_data_sets_are_those_of_the_joined_data():
    a, b = data(2), data(3)
    pooled, joined = statistics_of([a, b]), Episodes.concatenate([a, b]).statistics()
    for key in joined:
        for ours, theirs in zip(pooled[key], joined[key]):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("head", ["gmm", "gaussian", "mse"])
def test_it_learns_a_linear_rule(head):
    train, test = data(12), data(2, n=30)
    policy = BehaviorCloning(head=head, steps=400, **FAST).fit(train)
    untrained = BehaviorCloning(head=head, steps=1, **FAST).fit(train)
    error, before = (np.abs(model.predict(test) - test.actions).mean() for model in (policy, untrained))
    assert error < before / 3
    assert policy.losses_[-1] < policy.losses_[0]
    one = policy.act(test.observations["observation"][0])
    assert isinstance(one, np.ndarray) and one.shape == (2,)


def test_log_prob_is_in_the_units_of_the_actions():
    train = data(6)
    scaled = Episodes.from_list([Episode(e.observations, np.asarray(e.actions) * 10) for e in train])
    a, b = (BehaviorCloning(head="gaussian", steps=5, **FAST).fit(d).log_prob(d) for d in (train, scaled))
    np.testing.assert_allclose(b, a - 2 * math.log(10), atol=1e-3)


def test_a_recurrent_policy_remembers_what_it_saw_and_forgets_after_its_window():
    # The action is the first observation of the episode: only memory can tell it.
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(60):
        first = rng.choice([-1.0, 1.0])
        parts.append(Episode(np.array([first, 0, 0, 0, 0])[:, None], np.full((4, 1), first)))
    policy = BehaviorCloning(
        head="mse", core="lstm", hidden=(24,), window=4, steps=200, lr=1e-2, batch_size=32, device="cpu"
    ).fit(Source(Episodes.from_list(parts), np.tile([1.0, 0, 0, 0], 60)))  # fmt: skip
    obs = [torch.tensor([[1.0], [-1.0]])] + [torch.zeros(2, 1)] * 3
    acts = torch.cat([policy.act(o) for o in obs], 1)
    assert acts[0].min() > acts[1].max() + 1  # 1 and -1 were seen
    assert policy.act(torch.zeros(2, 1)).diff(dim=0).abs() < 1e-6  # the window is over, both start anew
    policy.reset(torch.tensor([0]))
    a = policy.act(torch.tensor([[-1.0], [1.0]]))
    assert a[0] < acts[0].min() - 1
    policy.reset()
    torch.testing.assert_close(policy.act(obs[0]), acts[:, :1])


def test_acting_step_by_step_is_what_was_trained():
    train = data(3)
    policy = BehaviorCloning(head="mse", core="lstm", hidden=(8, 8), window=4, steps=3, batch_size=4, device="cpu").fit(
        train
    )
    predicted = policy.predict(train)
    standardised = (train.actions - policy.net_.action_mean.numpy()) / policy.net_.action_std.numpy()
    at = (predicted - policy.net_.action_mean.numpy()) / policy.net_.action_std.numpy()
    expected = -0.5 * ((standardised - at) ** 2).sum(1) - math.log(2 * math.pi)
    expected -= float(policy.net_.action_std.log().sum())
    np.testing.assert_allclose(policy.log_prob(train), expected, rtol=1e-4, atol=1e-4)


def test_padded_steps_do_not_count():
    # With one step per episode, a window of 5 has 4 padded steps: the loss is that of a window of 1.
    one = Episodes.from_list([Episode(np.zeros((2, 1)), [[v]]) for v in (-1.0, 0.5, 2.0)])
    a, b = (BehaviorCloning(head="mse", window=w, steps=20, **FAST).fit(one) for w in (1, 5))
    np.testing.assert_allclose(a.losses_, b.losses_, rtol=1e-4)


def test_crops_are_random_in_training_and_central_when_acting():
    image = torch.arange(36.0).reshape(1, 1, 6, 6).expand(200, 1, 6, 6)
    center = _cropped(image, 4, None)
    assert torch.equal(center, image[..., 1:5, 1:5])
    crops = _cropped(image, 4, torch.Generator().manual_seed(0))
    corners = {int(c[0, 0, 0]) for c in crops}
    assert corners == {r * 6 + c for r in range(3) for c in range(3)}
    for crop in crops[:20]:
        top, left = divmod(int(crop[0, 0, 0]), 6)
        assert torch.equal(crop, image[0, :, top : top + 4, left : left + 4])


def test_pictures_and_numbers_together():
    rng = np.random.default_rng(0)
    parts = [
        Episode({"camera": rng.integers(0, 255, (4, 12, 12, 3), dtype=np.uint8), "x": rng.normal(size=(4, 2))},
                rng.normal(size=(3, 2)))
        for _ in range(2)
    ]  # fmt: skip
    e = Episodes.from_list(parts)
    policy = BehaviorCloning(crop=10, trunk_width=8, trunks="cnn", steps=3, **FAST).fit(e)
    shape = policy.net_.trunks[0](torch.zeros(1, 3, 10, 10)).shape
    assert shape == (1, 8) and policy.act({k: v[:2] for k, v in e.observations.items()}).shape == (2, 2)
    with pytest.raises(ValueError, match="crop"):
        BehaviorCloning(crop=13, steps=1, **FAST).fit(e)
    with pytest.raises(ValueError, match="unknown observations"):
        BehaviorCloning(trunks={"lidar": None}, steps=1, **FAST).fit(e)


def test_the_resnet_trunk_gives_keypoints():
    settings = CloningSettings(trunks="spatial-softmax", trunk_width=16, core="mlp", hidden=(8,), head="mse")
    net = PolicyNet({"camera": (40, 40, 3)}, 2, settings, seed=0)
    assert net.trunks[0].keypoints.width == 64  # 32 keypoints of two coordinates
    assert net({"camera": torch.zeros(1, 2, 40, 40, 3, dtype=torch.uint8)}).shape == (1, 2, 8)


def test_a_users_modules_are_copied():
    class Core(nn.Linear):
        width = 8

    core = Core(2, 8)
    before = core.weight.clone()
    policy = BehaviorCloning(head="mse", core=core, steps=20, lr=1e-2, device="cpu").fit(data())
    assert torch.equal(core.weight, before) and not torch.equal(policy.net_.core.weight, before)
    with pytest.raises(ValueError, match="width"):
        BehaviorCloning(head="mse", core=nn.Linear(2, 8), steps=1, device="cpu").fit(data())


def test_training_goes_on_after_loading_as_if_nothing_had_happened(tmp_path):
    e = data()
    policy = BehaviorCloning(steps=10, **FAST).fit(e)
    policy.save(tmp_path)
    loaded = BehaviorCloning.load(tmp_path, device="cpu")
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    for one in (policy, loaded):
        one.train(e, 10)
    assert torch.equal(policy.act(x), loaded.act(x)) and policy.steps_ == loaded.steps_ == 20


def test_a_failure_leaves_the_policy_as_it_was():
    e = data()
    policy = BehaviorCloning(steps=10, **FAST).fit(e)
    before = {k: v.clone() for k, v in policy.net_.state_dict().items()}

    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        policy.train(e, 10, stop)
    with pytest.raises(KeyboardInterrupt):
        policy.fit(data(2), progress=stop)
    assert policy.steps_ == 10
    assert all(torch.equal(v, before[k]) for k, v in policy.net_.state_dict().items())
    with pytest.raises(KeyboardInterrupt):
        (fresh := BehaviorCloning(steps=10, **FAST)).fit(e, progress=stop)
    with pytest.raises(NotFittedError, match="call fit"):
        fresh.act(torch.zeros(1, 2))


@pytest.mark.parametrize("core", ["mlp", "lstm"])
def test_an_observation_that_gives_no_action_changes_nothing(core):
    policy = BehaviorCloning(**{**FAST, "core": core, "steps": 2, "evaluation": "low-noise"}).fit(data())
    x = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    expected = [policy.act(obs) for obs in x]
    policy.reset()
    for obs, action in zip(x, expected):
        for bad in (obs * torch.nan, obs[:, :1], {"other": obs}):
            with pytest.raises(ValueError, match=r"NaN|shape|keys"):
                policy.act(bad)
        if core == "mlp":  # which has no gates that saturate
            with pytest.raises(NotFinite, match="the encoded observation is NaN"):
                policy.act(torch.full_like(obs, 3e38))
        assert torch.equal(policy.act(obs), action)


def test_weights_that_diverge_are_refused_by_their_stage_and_taken_back():
    policy = BehaviorCloning(steps=5, evaluation="mode", **FAST).fit(data())
    x = data().observations["observation"]
    before = policy.act(x)
    policy._optimizer.param_groups[0]["lr"] = 1e38
    with pytest.raises(NotFinite, match="behavior cloning"):
        policy.train(data(), 5)
    assert np.array_equal(policy.act(x), before) and policy.steps_ == 5
    with pytest.raises(NotFinite, match="behavior cloning"):
        (fresh := BehaviorCloning(**{**FAST, "lr": 1e38}, steps=5)).fit(data())
    with pytest.raises(NotFittedError):
        fresh.act(x)


@pytest.mark.parametrize("core", ["mlp", "lstm"])
def test_episodes_of_one_step_are_learned_from(core):
    one = Episodes.from_list([Episode([[0.5]], [[v]]) for v in (1.0, 1.0)])  # nothing varies, and nothing follows
    policy = BehaviorCloning(head="mse", **{**FAST, "core": core, "steps": 60}).fit(one)
    np.testing.assert_allclose(policy.predict(one), 1.0, atol=0.1)
    assert np.isfinite(policy.log_prob(one)).all()


def test_mistakes_are_named():
    policy = BehaviorCloning(steps=1, **FAST).fit(data())
    with pytest.raises(ValueError, match=r"must have shape \(n, 2\)"):
        policy.act(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="keys"):
        policy.act({"other": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="source 0: observation 'observation' is missing"):
        policy.train(data(key="b"), 1)
    with pytest.raises(ValueError, match="continuous actions"):
        BehaviorCloning(steps=1, **FAST).fit(Episodes.from_list([Episode([[0.0]], [1])]))
    with pytest.raises(TypeError, match="Source"):
        BehaviorCloning(steps=1, **FAST).fit([data()])
    for params in ({"head": "beta"}, {"core": "gru"}, {"hidden": (3, 4), "core": "lstm"}, {"window": 0}):
        with pytest.raises(ValueError, match=r"head|core|LSTM|window"):
            BehaviorCloning(**{**FAST, "steps": 1, **params})


# -- what compares transitions ----------------------------------------------------------------------------------------


def test_the_divergence_of_two_gaussians_by_hand():
    zero = torch.zeros(2)
    assert diagonal_gaussian_kl(torch.tensor([1.0, 0.0]), zero, zero, zero).item() == pytest.approx(0.5)
    # 0.5 * (4 - ln 4 - 1)
    four = torch.tensor([4.0, 1.0]).log()
    assert diagonal_gaussian_kl(zero, four, zero, zero).item() == pytest.approx(0.806853, abs=1e-6)


def test_the_loss_of_the_vae_is_all_reconstructions_and_beta_times_the_divergence():
    shapes = {"camera": (8, 8, 3), "x": (3,)}
    vae = StateActionVAE(shapes, 2, latent_dim=4, hidden=(16, 16), beta=0.5, trunk_width=8, decoder_channels=16)
    obs = {"camera": torch.randint(0, 255, (6, 8, 8, 3), dtype=torch.uint8), "x": torch.randn(6, 3)}
    loss, parts = vae.loss(obs, torch.randn(6, 2), torch.Generator().manual_seed(0))
    assert set(parts) == {"camera", "x", "action", "kl"}
    total = parts["camera"] + parts["x"] + parts["action"] + 0.5 * parts["kl"]
    torch.testing.assert_close(loss, total)
    m, v = vae.posterior(obs, torch.zeros(6, 2))
    zero = torch.zeros_like(m)
    assert m.shape == (6, 4) and diagonal_gaussian_kl(m, v, zero, zero).shape == (6,)
    rebuilt = vae.decode(m)
    assert rebuilt["camera"].shape == (6, 3, 8, 8) and rebuilt["action"].shape == (6, 2)


def test_embeddings_depend_on_what_was_done():
    torch.manual_seed(0)
    for cls in (StateActionVAE, TimeContrastive):
        encoder = cls({"x": (3,)}, 2, latent_dim=4, hidden=(16,))
        obs = {"x": torch.zeros(1, 3)}
        assert not torch.allclose(encoder.embed(obs, torch.zeros(1, 2)), encoder.embed(obs, torch.ones(1, 2)))
    plain = PlainFeatures({"x": (3,)})
    assert torch.equal(plain.embed({"x": torch.ones(1, 3)}, torch.zeros(1, 2)), torch.ones(1, 3))


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_distances_in_blocks_are_those_by_brute_force(chunk):
    rng = np.random.default_rng(0)
    q, p = rng.normal(size=(150, 5)), 1000 + rng.normal(size=(90, 5))
    q[:75] += 1000
    brute = np.sqrt(((q[:, None] - p[None]) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(nearest_distance(q, p, chunk=chunk), brute, atol=1e-5)


def test_faiss_agrees_with_exact_distances():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    q, p = rng.normal(size=(50, 5)), rng.normal(size=(40, 5))
    np.testing.assert_allclose(nearest_distance(q, p, index="faiss"), nearest_distance(q, p), atol=1e-4)


def test_bad_tables_are_named():
    with pytest.raises(ValueError, match="2 numbers each and points 3"):
        nearest_distance(np.zeros((1, 2)), np.zeros((1, 3)))
    with pytest.raises(ValueError, match="no points"):
        nearest_distance(np.zeros((1, 2)), np.zeros((0, 2)))
    with pytest.raises(ValueError, match="table"):
        nearest_distance(np.zeros(2), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="index"):
        nearest_distance(np.zeros((1, 2)), np.zeros((1, 2)), index="kd")
    with pytest.raises(ValueError, match="chunk"):
        nearest_distance(np.zeros((1, 2)), np.zeros((1, 2)), chunk=0)
