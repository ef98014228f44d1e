"""What every policy of the control family promises, whichever it is; environments have a contract of their own."""

import functools
import random
import subprocess
import sys
from dataclasses import replace
from functools import partial

import gymnasium
import hard
import numpy as np
import pandas as pd
import pytest
import torch
from cases import cases, everyone
from damaged import damaged_files_are_refused
from hard import refused
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from anytask.control import ScriptedReach, demonstrations, make
from anytask.control.base import Policy
from anytask.control.envs.reach import WaypointReach
from anytask.core.settings import settings_of
from anytask.datasets.episodes import Episode, Episodes

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:the policy was updated", "ignore:no reward above 0")

STEPS = 25


def actions_for(env, seed=0, n=None):
    low, high = env.single_action_space.low, env.single_action_space.high
    rng = np.random.default_rng(seed)
    return [rng.uniform(low, high, (n or env.num_envs, *low.shape)).astype(np.float32) for _ in range(STEPS)]


def test_a_missing_gymnasium_is_an_error_that_names_the_extra():
    code = "import sys; sys.modules['gymnasium'] = None; import anytask.catalogue; import anytask.control"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "pip install 'anytask[control]'" in done.stderr


def test_publishing_names_costs_no_torch():
    code = "import sys, anytask.control; assert 'torch' not in sys.modules and 'mujoco' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


REACH = "anytask/WaypointReach-v0"
N = 3  # copies that a policy acts in


@functools.cache
def episodes(task, count=4):
    """Return a few episodes of the way-point world, marked as useful: what the imitation systems learn from."""
    data = demonstrations(REACH, count, task=task, noise=0.2)
    return replace(data, attributes={**data.attributes, "relevant": np.ones(len(data), bool)})


def trains(cls):
    return issubclass(cls, Policy) and (hasattr(cls, "train") or hasattr(cls, "fit"))


SMALL = {
    "cloning": {"hidden": (8,), "steps": 5, "batch_size": 8, "evaluation": "mode"}, "epochs": 1, "device": "cpu",
}  # fmt: skip
POLICIES = cases("control", trains, SMALL)
each_policy = everyone(POLICIES)


def make_policy(name, **params):
    case = POLICIES[name]
    given = {**case.params, **params}
    return case.cls.from_preset("small", **given) if "small" in case.cls.PRESETS else case.cls(**given)


def learn(policy, **options):
    """Train for a moment: in an environment, from recorded episodes, or from both in turn."""
    if hasattr(policy, "train"):
        return policy.train(REACH, 2 * policy.num_envs * policy.horizon, **options)
    if hasattr(policy, "improve"):
        policy.fit(episodes("A"), **options)
        return policy.improve(REACH, episodes("A"), rollouts=2, online_episodes=2)
    return policy.fit(episodes("A"), prior=episodes("B"), **options)


def global_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


@functools.cache
def trained(name, seed=0, turn=0):
    """Return the trained policy; ``turn`` tells repetitions apart."""
    return learn(make_policy(name, seed=seed))


@functools.cache
def seen(steps=5):
    """Return observations (steps, N, 3) of random play."""
    env = make(REACH, N, seed=9)
    first, _ = env.reset()
    return torch.stack([first, *(env.step(a)[0] for a in actions_for(env)[: steps - 1])])


def acts(policy, observations=None, **options):
    """Return actions (steps, N, d) of a policy that begins anew."""
    policy.reset()
    return torch.stack([policy.act(obs, **options) for obs in (seen() if observations is None else observations)])


@each_policy
def test_policies_act_within_the_action_space(name):
    policy, space = trained(name), make(REACH, N).single_action_space
    assert isinstance(policy, Policy)
    for deterministic in (True, False):
        actions = acts(policy, deterministic=deterministic)
        assert actions.shape == (5, N, 2) and actions.dtype == torch.float32 and not actions.requires_grad
        assert bool(torch.isfinite(actions).all())
        # Who sees recorded episodes alone does not know the action space.
        if hasattr(policy, "train") or hasattr(policy, "improve"):
            assert all(space.contains(action) for action in actions.reshape(-1, 2).numpy())


@each_policy
def test_policies_repeat_their_best_actions_after_a_reset(name):
    policy = trained(name)
    assert torch.equal(acts(policy), acts(policy))


def acts_after_a_reset_of_one(policy):
    """Return the actions (N, d) of a policy whose copy 1 was reset before the fourth observation."""
    acts(policy, seen()[:3])
    policy.reset(torch.tensor([1]))
    return policy.act(seen()[3])


@each_policy
def test_resetting_some_copies_leaves_the_others_alone(name):
    policy = trained(name)
    kept = acts(policy)[3]
    assert torch.equal(acts_after_a_reset_of_one(policy)[[0, 2]], kept[[0, 2]])


@each_policy
def test_a_copy_that_was_reset_acts_as_one_that_has_just_begun(name):
    policy = trained(name)
    first = acts(policy, seen()[3:4])[0]
    torch.testing.assert_close(acts_after_a_reset_of_one(policy)[1], first[1])


@each_policy
def test_one_observation_gives_one_action(name):
    policy = trained(name)
    policy.reset()
    action = policy.act(seen()[0, 0].numpy())
    assert isinstance(action, np.ndarray) and action.shape == (2,) and action.dtype == np.float32


@each_policy
def test_policies_read_from_a_file_act_alike(name, tmp_path):
    policy = trained(name)
    policy.save(tmp_path / "policy")
    again = type(policy).load(tmp_path / "policy", device="cpu")
    assert torch.equal(acts(policy), acts(again))
    assert policy.cost() == again.cost()


@each_policy
def test_policies_that_have_learned_nothing_say_so(name, tmp_path):
    policy = make_policy(name)
    for use in (lambda: policy.act(seen()[0]), lambda: policy.save(tmp_path), policy.cost):
        with pytest.raises(NotFittedError, match="call fit"):
            use()
    policy.reset()  # as evaluate() does before the first step


@each_policy
def test_wrong_settings_are_refused_by_name_and_change_nothing(name):
    policy = make_policy(name)
    before = repr(policy.get_params())
    for setting in settings_of(type(policy)):
        assert setting.help
        if not setting.wanted:  # of any kind
            continue
        outer, _, inner = setting.name.partition(".")
        with pytest.raises((ValueError, TypeError), match=inner or outer):
            make_policy(name, **{outer: {inner: object()} if inner else object()})
        with pytest.raises((ValueError, TypeError), match=inner or outer):
            policy.set_params(**{setting.name.replace(".", "__"): object()})
    for wrong in ({"device": "abacus"}, {"seed": -1}, {"n_worlds": 3}):
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
            make_policy(name, **wrong)
    with pytest.raises(ValueError, match="presets"):
        type(policy).from_preset("large")
    assert repr(policy.get_params()) == before == repr(clone(policy).get_params())


@each_policy
def test_bad_observations_are_refused(name):
    policy, obs = trained(name), seen()[0]
    for column in range(obs.shape[1]):
        spoiled = obs.clone()
        spoiled[1, column] = torch.nan
        with pytest.raises(ValueError, match="NaN"):
            policy.act(spoiled)
    for bad, says in ((obs[:, :1], "shape"), (obs.numpy()[:, :1], "shape"), ({"other": obs}, "keys")):
        with pytest.raises(ValueError, match=says):
            policy.act(bad)
    for three in (obs[:, :, None], obs[None], obs.numpy()[None]):
        with pytest.raises(ValueError, match="must have shape"):
            policy.act(three)
    refused(policy.act, np.tile(obs.numpy(), (3, 1)), BAD_OBSERVATIONS)


def named(says):
    return says.replace("X", "observation 'observation'")


#: What observations (n, 3) are made into; those that are no batch of vectors of three are refused by their shape.
BAD_OBSERVATIONS = {kind: (spoil, named(says)) for kind, (spoil, says) in hard.BAD_INPUTS.items()} | {
    kind: (hard.BAD_INPUTS[kind][0], says)
    for kind, says in (("empty", "at least one observation"), ("no features", "must have shape"))
}


@each_policy
def test_observations_of_every_kind_are_the_same(name):
    policy = trained(name)
    array = np.round(8 * seen()[0].numpy()) / 8  # exact in half precision
    policy.reset()
    wanted = policy.act(array)
    for kind, convert in hard.SAME.items():
        policy.reset()
        actions = policy.act(convert(array))
        assert isinstance(actions, torch.Tensor) == ("tensor" in kind), kind
        assert not isinstance(actions, torch.Tensor) or not actions.requires_grad, kind
        np.testing.assert_allclose(np.asarray(actions), wanted, atol=1e-6, err_msg=kind)


#: Nothing of this is a data set of episodes.
NO_EPISODES = {
    "a list of episodes": lambda e: list(e),
    "one episode": lambda e: e[0],
    "a mapping": lambda e: dict(e.observations),
    "an array": lambda e: e.actions,
    "a tensor": lambda e: torch.from_numpy(e.actions),
    "a table": lambda e: pd.DataFrame(e.actions),
    "a path": lambda e: "episodes.npz",
    "an object": lambda e: object(),
}


@each_policy
def test_what_is_no_data_set_of_episodes_is_refused_in_one_line(name):
    policy = trained(name)
    if hasattr(policy, "train"):
        wrong = {kind: (spoil, "env must be") for kind, spoil in NO_EPISODES.items() if kind != "a path"}
        refused(lambda env: policy.train(env, 1), episodes("A"), wrong)
        return
    before = acts(policy)
    wrong = {kind: (spoil, "must be Episodes, got") for kind, spoil in NO_EPISODES.items()}
    asked = ("fit", "improve_offline", "distil", "log_prob", "predict")
    calls = [getattr(policy, call) for call in asked if hasattr(policy, call)]
    if hasattr(policy, "improve"):
        calls += [partial(policy.improve, REACH), partial(policy.iterate, REACH)]
    else:
        calls.append(partial(policy.fit, episodes("A")))
    nothing = Episodes.from_list([Episode(np.zeros((3, 0)), np.zeros((2, 2)))])
    with pytest.raises(ValueError, match="holds no numbers"):
        policy.fit(nothing, **({} if hasattr(policy, "improve") else {"prior": nothing}))
    if hasattr(policy, "correct"):
        wrong = {kind: case for kind, case in wrong.items() if kind != "one episode"}
        refused(policy.correct, episodes("A"), wrong)
    for call in calls:
        refused(call, episodes("A"), wrong)
    assert torch.equal(acts(policy), before)


def clothed(data, convert):
    """Return the same episodes, whose numbers came in other clothes."""
    parts = [Episode(convert(one.observations["observation"]), convert(one.actions)) for one in data]
    return Episodes.from_list(parts, {"relevant": np.ones(len(data), bool)})


@pytest.mark.parametrize("name", ["ExpertOnly", "RL100"])
def test_episodes_of_every_kind_are_learned_alike(name):
    plain = Episodes.from_list([
        Episode(np.round(8 * one.observations["observation"]) / 8, np.round(8 * one.actions) / 8)
        for one in episodes("A", 2)
    ])  # fmt: skip
    wanted = acts(make_policy(name).fit(plain))
    for kind, convert in hard.SAME.items():
        if kind not in ("objects", "tensor in half precision"):  # which data sets of episodes refuse
            assert torch.equal(acts(make_policy(name).fit(clothed(plain, convert))), wanted), kind


@each_policy
def test_an_observation_that_was_refused_changes_nothing(name):
    policy = trained(name)
    expected = acts(policy)
    policy.reset()
    for obs, action in zip(seen(), expected):
        for bad in (obs * torch.nan, obs[:, :1], obs[:, :1].numpy(), {"other": obs}):
            with pytest.raises(ValueError, match=r"NaN|shape|keys"):
                policy.act(bad)
        assert torch.equal(policy.act(obs), action)


@each_policy
def test_a_folder_tells_its_class_and_no_device(name, tmp_path):
    policy = trained(name)
    policy.save(tmp_path / "policy")
    other = type("Other", (type(policy),), {})
    with pytest.raises(ValueError, match=f"not a .*:{other.__qualname__}"):
        other.load(tmp_path / "policy")
    # As if another machine had saved it: what its device was called is nowhere in the folder.
    assert "device" not in (tmp_path / "policy" / "state.json").read_text()
    with pytest.raises(FileNotFoundError):
        type(policy).load(tmp_path / "nothing")
    damaged_files_are_refused(lambda: type(policy).load(tmp_path / "policy"), tmp_path / "policy")


@each_policy
def test_progress_grows_to_one_and_a_failure_leaves_no_trace(name):
    policy, told = make_policy(name), []

    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(policy, progress=stop)
    if not hasattr(policy, "train"):  # which keeps the rounds that were finished
        with pytest.raises(NotFittedError):
            policy.act(seen()[0])
    learn(policy, progress=told.append)
    assert told == sorted(told) and told[0] >= 0 and told[-1] == 1


@each_policy
def test_a_seed_makes_training_repeatable_and_no_global_generator_is_touched(name, tmp_path):
    policy = trained(name)
    torch.manual_seed(5)
    before = global_states()
    with torch.no_grad():  # gradients are what training needs, whatever its caller does
        again = trained(name, turn=1)
    again.save(tmp_path)
    sampled = acts(type(again).load(tmp_path, device="cpu"), deterministic=False)
    assert global_states() == before
    assert torch.equal(acts(policy), acts(again))
    assert sampled.shape == (5, N, 2)
    assert not torch.equal(acts(policy), acts(trained(name, seed=1)))


class Spoiled(WaypointReach):
    """The way-point world, whose observations are infinite from the third step on."""

    def _observe(self, rows=None):
        return super()._observe(rows) + torch.where(self.elapsed.max() < 3, 0.0, torch.inf)


class SpoiledElsewhere(gymnasium.Wrapper):
    """The same as one environment of somebody else's."""

    def __init__(self):
        super().__init__(gymnasium.make(REACH))

    def step(self, action):
        obs, *rest = super().step(action)
        return obs / np.float32(self.env.unwrapped.batched.elapsed.item() < 3), *rest


@pytest.mark.parametrize("name", [name for name, case in POLICIES.items() if hasattr(case.cls, "train")])
@pytest.mark.parametrize("world", [Spoiled, SpoiledElsewhere])
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_training_that_meets_an_infinite_observation_changes_nothing(name, world, tmp_path):
    said = pytest.raises(FloatingPointError, match=r"observation .* NaN or infinite")
    fresh = make_policy(name)
    with said:
        fresh.train(world, 999)
    with pytest.raises(NotFittedError):
        fresh.act(seen()[0])
    policy, twin = trained(name, turn=2), trained(name, turn=3)
    for one in (policy, twin):
        acts(one, seen()[:3], deterministic=False)
    with said:
        policy.train(world, 999)
    assert policy.history_ == twin.history_ and policy.steps_ == twin.steps_
    # The memory, the generator of sampled actions, and, by their hash, all weights, optimizers and generators.
    assert torch.equal(*(one.act(seen()[3], deterministic=False) for one in (policy, twin)))
    saved = []
    for place, one in enumerate((policy, twin)):
        one.save(tmp_path / str(place))
        saved.append([file.name for file in (tmp_path / str(place)).glob("state-*")])
    assert saved[0] == saved[1]


def test_scripted_experts_are_policies_of_the_world_they_walk_in():
    before = global_states()
    env = make(REACH, N, seed=9)
    obs, _ = env.reset()
    expert = ScriptedReach(env, noise=0.5)
    assert isinstance(expert, Policy)
    noisy, best = expert.act(obs, deterministic=False), expert.act(obs)
    for actions in (noisy, best):
        assert actions.shape == (N, 2) and actions.dtype == torch.float32
        assert all(env.single_action_space.contains(action) for action in actions.numpy())
    assert not torch.equal(noisy, best)
    expert.reset()
    assert torch.equal(expert.act(obs), best)
    again = ScriptedReach(env, noise=0.5)
    assert torch.equal(again.act(obs, deterministic=False), noisy)
    # Each copy draws its own speed, and draws again only where its episode begins.
    mixed = ScriptedReach(env, speed=(0.2, 1.0))
    before_reset = mixed.act(obs)
    mixed.reset(torch.tensor([1]))
    after = mixed.act(obs)
    assert torch.equal(after[[0, 2]], before_reset[[0, 2]]) and not torch.equal(after[1], before_reset[1])
    assert global_states() == before


def test_what_a_system_is_exempt_from_is_a_test_of_this_contract():
    assert {test for case in POLICIES.values() for test in case.exempt} <= set(globals())
