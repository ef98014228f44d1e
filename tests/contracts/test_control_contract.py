"""What every environment of the control family promises, and every policy, whichever it is."""

import functools
import random
import subprocess
import sys
import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from cases import cases, everyone
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from anytask.control import ScriptedReach, SingleEnv, demonstrations, make
from anytask.control.base import Policy
from anytask.control.envs import ENVIRONMENTS, batched_class

torch.set_num_threads(1)

WORLDS = [
    pytest.param(env_id, options, id="-".join([env_id.split("/")[1], *map(str, options.values())]))
    for env_id in ENVIRONMENTS
    for options in ([{"observation": "state"}, {"observation": "pixels"}] if "Reach" in env_id else [{}])
]
each_world = pytest.mark.parametrize(("env_id", "options"), WORLDS)
STEPS = 25


def flat(obs):
    """Return an observation as a dict of arrays."""
    obs = obs if isinstance(obs, dict) else {"observation": obs}
    return {key: np.asarray(value) for key, value in obs.items()}


def same(a, b, rows=slice(None)):
    a, b = flat(a), flat(b)
    return a.keys() == b.keys() and all(np.array_equal(a[key][rows], b[key][rows]) for key in a)


def actions_for(env, seed=0, n=None):
    low, high = env.single_action_space.low, env.single_action_space.high
    rng = np.random.default_rng(seed)
    return [rng.uniform(low, high, (n or env.num_envs, *low.shape)).astype(np.float32) for _ in range(STEPS)]


@each_world
def test_gymnasiums_own_checker_finds_nothing(env_id, options):
    env = gymnasium.make(env_id, render_mode="rgb_array", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Distances in a world without edges have no bounds, as in Gymnasium's own MuJoCo environments.
        warnings.filterwarnings("ignore", message=".*Box observation space m.* value is -?infinity")
        check_env(env.unwrapped)


@each_world
def test_the_id_works_with_the_module_prefix_and_as_a_vector(env_id, options):
    assert gymnasium.make(f"anytask.control:{env_id}", **options).reset(seed=0)
    vector = gymnasium.make_vec(env_id, num_envs=3, **options)
    assert vector.num_envs == 3 and vector.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert same(vector.reset(seed=0)[0], make(env_id, 3, **options).reset()[0])


@each_world
def test_specs_can_be_written_down_and_read_again(env_id, options):
    spec = gymnasium.make(env_id, **options).spec
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(spec.to_json()))
    assert same(again.reset(seed=4)[0], gymnasium.make(env_id, **options).reset(seed=4)[0])


@each_world
def test_shapes_and_types(env_id, options):
    env = make(env_id, 4, **options)
    obs, infos = env.reset()
    assert isinstance(infos, dict)
    for actions in actions_for(env):
        obs, reward, terminated, truncated, infos = env.step(torch.from_numpy(actions))
        arrays = flat(obs)
        assert env.observation_space.contains(arrays if isinstance(obs, dict) else arrays["observation"])
        assert all(value.dtype in (np.float32, np.uint8) for value in flat(obs).values())
        assert reward.dtype == torch.float32 and reward.shape == (4,)
        for flag in (terminated, truncated, infos["success"]):
            assert flag.dtype == torch.bool and flag.shape == (4,)
        assert not (terminated & truncated).any()


@each_world
def test_a_step_of_many_is_many_steps_of_one_to_the_last_bit(env_id, options):
    many = make(env_id, 5, seed=3, **options)
    ones = [make(env_id, 1, seed=3 + i, **options) for i in range(5)]
    seen, apart = many.reset()[0], [one.reset()[0] for one in ones]
    for actions in actions_for(many):
        assert all(same({k: v[i : i + 1] for k, v in flat(seen).items()}, flat(apart[i])) for i in range(5))
        seen, reward, terminated, truncated, _ = many.step(actions)
        steps = [one.step(actions[i : i + 1]) for i, one in enumerate(ones)]
        apart = [step[0] for step in steps]
        for k, together in ((1, reward), (2, terminated), (3, truncated)):
            assert together.tolist() == [step[k].item() for step in steps]


@each_world
def test_copies_do_not_know_their_place(env_id, options):
    order = [2, 0, 3, 1]
    seeds = [11, 5, 8, 20]
    plain, mixed = make(env_id, 4, **options), make(env_id, 4, **options)
    a, b = plain.reset(seed=seeds)[0], mixed.reset(seed=[seeds[i] for i in order])[0]
    for actions in actions_for(plain):
        assert all(np.array_equal(flat(a)[key][order], flat(b)[key]) for key in flat(a))
        a, reward, *_ = plain.step(actions)
        b, mixed_reward, *_ = mixed.step(actions[order])
        assert reward[order].tolist() == mixed_reward.tolist()


@each_world
def test_equal_seeds_play_alike_and_others_do_not(env_id, options):
    def play(seed):
        env = make(env_id, 2, **options)
        first = env.reset(seed=seed)[0]
        return [flat(first), *(flat(env.step(actions)[0]) for actions in actions_for(env))]

    first, again, other = play(0), play(0), play(100)
    assert all(same(a, b) for a, b in zip(first, again))
    assert not all(same(a, b) for a, b in zip(first, other))


@each_world
def test_the_global_generators_are_left_alone(env_id, options):
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    env = make(env_id, 2, **options)
    env.reset()
    env.step(actions_for(env)[0])
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@each_world
def test_a_restored_world_goes_on_as_if_nothing_had_been(env_id, options):
    env = make(env_id, 3, **options)
    env.reset(seed=1)
    actions = actions_for(env)
    for a in actions[:5]:
        env.step(a)
    state = env.state()
    first = [env.step(a) for a in actions]
    env.restore(state)
    for a, (obs, reward, *_) in zip(actions, first):
        again = env.step(a)
        assert same(obs, again[0]) and torch.equal(reward, again[1])
    other = make(env_id, 3, **options)
    other.reset(seed=9)
    other.restore(state)
    assert same(other.step(actions[0])[0], first[0][0])


@each_world
def test_bad_actions_are_refused(env_id, options):
    env = make(env_id, 2, **options)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(actions_for(env)[0])
    env.reset()
    with pytest.raises(ValueError, match="shape"):
        env.step(actions_for(env)[0][:, :1])
    bad = actions_for(env)[0]
    bad[1, 0] = np.inf
    with pytest.raises(ValueError, match="row 1"):
        env.step(bad)


@each_world
def test_automatic_resets_are_those_of_gymnasium(env_id, options):
    """The reference is Gymnasium's own loop over single environments with the same seeds, in mode SAME_STEP."""
    n, limit = 3, 7
    options = {**options, "max_episode_steps": limit}
    ours = make(env_id, n, **options)
    single = lambda: SingleEnv(batched_class(env_id), **options)  # noqa: E731
    theirs = SyncVectorEnv([single] * n, autoreset_mode=AutoresetMode.SAME_STEP)
    obs, reference = ours.reset(seed=2)[0], theirs.reset(seed=2)[0]
    ends = 0
    for actions in actions_for(ours):
        assert same(obs, reference)
        obs, reward, terminated, truncated, infos = ours.step(actions)
        reference, their_reward, their_end, their_cut, their_infos = theirs.step(actions)
        assert terminated.tolist() == their_end.tolist() and truncated.tolist() == their_cut.tolist()
        assert reward.tolist() == pytest.approx(their_reward.tolist())
        done = terminated | truncated
        assert ("final_obs" in infos) == ("final_obs" in their_infos) == bool(done.any())
        for row in done.nonzero()[:, 0].tolist():
            ends += 1
            assert same({k: v[row] for k, v in flat(infos["final_obs"]).items()}, their_infos["final_obs"][row])
            assert bool(infos["success"][row]) == bool(their_infos["final_info"]["success"][row])
    assert ends >= n


@each_world
def test_without_automatic_resets_the_caller_resets(env_id, options):
    env = make(env_id, 2, max_episode_steps=3, autoreset=False, **options)
    assert env.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    env.reset()
    actions = actions_for(env)
    for a in actions[:3]:
        obs, _, terminated, truncated, infos = env.step(a)
    assert (terminated | truncated).all() and same(infos["final_obs"], obs)
    with pytest.raises(RuntimeError, match="over"):
        env.step(actions[3])
    env.reset(options={"reset_mask": torch.tensor([True, True])})
    env.step(actions[3])


@each_world
def test_observations_given_out_do_not_change_afterwards(env_id, options):
    env = make(env_id, 2, max_episode_steps=3, **options)
    obs, _ = env.reset()
    kept = [(obs, {k: v.copy() for k, v in flat(obs).items()})]
    for actions in actions_for(env)[:8]:
        obs, *_, infos = env.step(actions)
        kept.append((obs, {k: v.copy() for k, v in flat(obs).items()}))
        if "final_obs" in infos:
            kept.append((infos["final_obs"], {k: v.copy() for k, v in flat(infos["final_obs"]).items()}))
    assert all(same(now, then) for now, then in kept)


@each_world
def test_pictures_are_for_people(env_id, options):
    env = make(env_id, 2, render_mode="rgb_array", **options)
    env.reset()
    pictures = env.render()
    assert len(pictures) == 2
    for picture in (*pictures, env.image(1)):
        assert picture.dtype == np.uint8 and picture.shape[2] == 3 and min(picture.shape[:2]) >= 128
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10  # something is drawn


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@each_world
def test_tensors_stay_on_their_device(env_id, options):
    env = make(env_id, 2, device="cuda", **options)
    obs, _ = env.reset()
    assert all(v.is_cuda for v in (obs.values() if isinstance(obs, dict) else [obs]))
    obs, reward, terminated, *_ = env.step(torch.zeros(2, env.action_dim, device="cuda"))
    assert reward.is_cuda and terminated.is_cuda


def test_a_missing_gymnasium_is_an_error_that_names_the_extra():
    code = "import sys; sys.modules['gymnasium'] = None; import anytask.catalogue; import anytask.control"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "pip install 'anytask[control]'" in done.stderr


def test_publishing_names_costs_no_torch():
    code = "import sys, anytask.control; assert 'torch' not in sys.modules and 'mujoco' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- policies ---------------------------------------------------------------------------------------------------------

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
    "preset": "small", "hidden": (8,), "steps": 5, "batch_size": 8, "epochs": 1, "evaluation": "mode", "device": "cpu",
}  # fmt: skip
POLICIES = cases("control", trains, SMALL)
each_policy = everyone(POLICIES)


def learn(policy):
    """Train for a moment: in an environment, from recorded episodes, or from both in turn."""
    if hasattr(policy, "train"):
        return policy.train(REACH, 2 * policy.n_envs * policy.horizon)
    if hasattr(policy, "improve"):
        policy.fit(episodes("A")).improve(REACH, episodes("A"), rollouts=2, online_episodes=2)
        return policy
    return policy.fit(episodes("A"), prior=episodes("B"))


def global_states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


@functools.cache
def trained(name, seed=0, turn=0):
    """Return the trained policy; ``turn`` tells repetitions apart."""
    return learn(POLICIES[name].make(seed=seed))


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
        if hasattr(policy, "train"):  # who sees recorded episodes alone does not know the action space
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
    policy = POLICIES[name].make()
    with pytest.raises(RuntimeError, match=r"call (fit|train)"):
        policy.act(seen()[0])
    with pytest.raises(RuntimeError, match=r"call (fit|train)"):
        policy.save(tmp_path)
    policy.reset()  # as evaluate() does before the first step


@each_policy
def test_a_seed_makes_training_repeatable_and_no_global_generator_is_touched(name, tmp_path):
    policy = trained(name)
    torch.manual_seed(5)
    before = global_states()
    again = trained(name, turn=1)
    again.save(tmp_path)
    sampled = acts(type(again).load(tmp_path, device="cpu"), deterministic=False)
    assert global_states() == before
    assert torch.equal(acts(policy), acts(again))
    assert sampled.shape == (5, N, 2)
    assert not torch.equal(acts(policy), acts(trained(name, seed=1)))


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
