"""What every environment of the package promises, whichever it is; they are found from their files."""

import re
import warnings

import attrs
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from anytask.control import SingleEnv, make
from anytask.control.envs import ENVIRONMENTS, batched_class

torch.set_num_threads(1)

STEPS = 25
#: Few episodes are sampled fast, and few are enough.
FAST = {"episodes": 50, "cell": 0.08}


def fields_of(env_id):
    return {field.name: field for field in attrs.fields(batched_class(env_id).settings_class)}


def variants(env_id):
    """Yield the default options, and each other value of every choice by itself."""
    fields = fields_of(env_id)
    fast = {name: value for name, value in FAST.items() if name in fields}
    yield fast
    for name, field in fields.items():
        if (wanted := field.metadata["wanted"]).startswith("one of"):
            yield from ({**fast, name: v} for v in re.findall("'([^']+)'", wanted) if v != field.default)


def worlds(*choices):
    """Return test cases of all environments, with the alternatives of these choices, or of all."""
    return [
        pytest.param(env_id, options, id="-".join([env_id.split("/")[1], *map(str, chosen.values())]))
        for env_id in ENVIRONMENTS
        for options in variants(env_id)
        if not (chosen := {k: v for k, v in options.items() if k not in FAST})
        or not choices
        or set(chosen) & {*choices}
    ]


each_world = pytest.mark.parametrize(("env_id", "options"), worlds("observation"))
each_variant = pytest.mark.parametrize(("env_id", "options"), worlds())
each_field = pytest.mark.parametrize(
    ("env_id", "name"), [(env_id, name) for env_id in ENVIRONMENTS for name in fields_of(env_id)]
)


def flat(obs):
    """Return an observation as a dict of arrays."""
    obs = obs if isinstance(obs, dict) else {"observation": obs}
    return {key: np.asarray(value) for key, value in obs.items()}


def same(a, b, rows=slice(None)):
    a, b = flat(a), flat(b)
    return a.keys() == b.keys() and all(np.array_equal(a[key][rows], b[key][rows]) for key in a)


def actions_for(env, seed=0, n=None, steps=STEPS, bold=False):
    """Return random actions; bold ones are at the bounds."""
    low, high = env.single_action_space.low, env.single_action_space.high
    rng = np.random.default_rng(seed)
    drawn = [rng.uniform(low, high, (n or env.num_envs, *low.shape)).astype(np.float32) for _ in range(steps)]
    return [np.where(a > (low + high) / 2, high, low) for a in drawn] if bold else drawn


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
def test_environments_do_not_know_their_place(env_id, options):
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
def test_bad_actions_are_refused_and_nothing_moves(env_id, options):
    env = make(env_id, 2, **options)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(actions_for(env)[0])
    env.reset()
    before = env.state()
    with pytest.raises(ValueError, match="shape"):
        env.step(actions_for(env)[0][:, :1])
    for value in (np.nan, np.inf):
        bad = actions_for(env)[0]
        bad[1, 0] = value
        with pytest.raises(ValueError, match=r"actions must be finite numbers, got .* in row 1"):
            env.step(bad)
    assert all(torch.equal(value, before[name]) for name, value in env.state().items())


@each_world
def test_actions_beyond_the_space_are_clamped(env_id, options):
    plain, beyond = make(env_id, 2, **options), make(env_id, 2, **options)
    plain.reset()
    beyond.reset()
    space = plain.single_action_space
    for actions in actions_for(plain)[:5]:
        a, b = plain.step(np.clip(3 * actions, space.low, space.high)), beyond.step(3 * actions)
        assert same(a[0], b[0]) and torch.equal(a[1], b[1])


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
def test_images_are_for_people(env_id, options):
    env = make(env_id, 2, render_mode="rgb_array", **options)
    env.reset()
    images = env.render()
    assert len(images) == 2
    for image in (*images, env.image(1)):
        assert image.dtype == np.uint8 and image.shape[2] == 3 and min(image.shape[:2]) >= 128
        assert len(np.unique(image.astype(int) @ [65536, 256, 1])) > 10  # something is drawn


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@each_world
def test_tensors_stay_on_their_device(env_id, options):
    env = make(env_id, 2, device="cuda", **options)
    obs, _ = env.reset()
    assert all(v.is_cuda for v in (obs.values() if isinstance(obs, dict) else [obs]))
    obs, reward, terminated, *_ = env.step(torch.zeros(2, env.action_dim, device="cuda"))
    assert reward.is_cuda and terminated.is_cuda


@each_world
@pytest.mark.parametrize("given", [{"num_envs": 0}, {"num_envs": 1.5}, {"seed": -1}, {"render_mode": "human"}])
def test_bad_arguments_are_refused_by_name(env_id, options, given):
    with pytest.raises(ValueError, match=next(iter(given))):
        batched_class(env_id)(**{**options, **given})


@each_field
@pytest.mark.parametrize("value", [float("nan"), "no such value", [None]])
def test_bad_options_are_refused_by_name(env_id, name, value):
    with pytest.raises((TypeError, ValueError), match=name.removesuffix("s")):
        make(env_id, 1, **{name: value})


def test_unknown_options_are_refused_by_name():
    for env_id in ENVIRONMENTS:
        with pytest.raises(TypeError, match="gravity"):
            make(env_id, 1, gravity=9.81)


# -- Markov rewards ---------------------------------------------------------------------------------------------------


def read_but_unobserved(env, steps=24, every=4):
    """Return the entries of the state on which the next reward, end or success depends and no observation does.

    One entry at a time is exchanged (booleans are flipped, others taken from another environment). Where the
    observation stays what it was, so must what the same action then leads to.
    """
    found = set()
    env.reset(seed=0)
    env.stagger()
    for t, actions in enumerate(actions_for(env, n=env.num_envs, steps=steps, bold=True)):
        state = env.state()
        seen, wanted = flat(env._observe()), outcome(env, actions)
        after = env.state()
        for name, value in state.items() if t % every == 0 else ():
            other = ~value if value.dtype == torch.bool else value.roll(1, 0)
            if name in found or name in ("keys", "counters") or torch.equal(other, value):
                continue
            env.restore({**state, name: other})
            hidden = np.ones(env.num_envs, bool)
            for key, shown in flat(env._observe()).items():
                hidden &= (shown == seen[key]).reshape(env.num_envs, -1).all(1)
            if (hidden & (outcome(env, actions) != wanted).any(1)).any():
                found.add(name)
        env.restore(after)
    return found


def outcome(env, actions):
    """Return reward, termination and success (n, 3) of a step."""
    env.ended[:] = False
    _, reward, terminated, _, infos = env.step(actions)
    return np.stack([np.asarray(v, np.float64) for v in (reward, terminated, infos["success"])], 1)


@each_variant
def test_what_reward_and_success_read_is_observed_or_waived_in_writing(env_id, options):
    env = make(env_id, 64, **options)
    assert read_but_unobserved(env) <= set(env.UNOBSERVED)
    assert set(env.UNOBSERVED) <= set(env.state()) and all(len(why.split()) >= 5 for why in env.UNOBSERVED.values())


def test_a_bonus_that_depends_on_an_unseen_flag_is_found():
    hidden = make("anytask/Rearrangement-v0", 384, task="rearrange", observe_picked=False, **FAST)
    assert "picked" in read_but_unobserved(hidden)
