"""The overlapped stepper returns at call t + 1 exactly what the environment returns at call t."""

import threading

import pytest
import torch
from gymnasium.vector import AutoresetMode

from anytask.control import make
from anytask.control.envs.rearrangement import Rearrangement
from anytask.control.stepping import OverlappedStepper


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return torch.equal(a, b)


def world(**options):
    return Rearrangement(16, task="rearrange", max_episode_steps=9, episodes=50, **options)


def actions(steps, n=16, d=4):
    return torch.rand((steps, n, d), generator=torch.Generator().manual_seed(1)) * 2.4 - 1.2


@pytest.mark.parametrize("options", [{}, {"images": ("depth", "rgb"), "image_size": (4, 6)}], ids=["state", "images"])
def test_overlapped_is_synchronous_one_call_later(options):
    plain, late = world(**options), OverlappedStepper(world(**options))
    first, _ = plain.reset(seed=3)
    plain.stagger()
    again, _ = late.reset(seed=3)
    late.unwrapped.stagger()
    assert equal(first, again)
    a = actions(40)
    wanted = [plain.step(x) for x in a]
    found = [late.step(x) for x in a] + [late.step(torch.zeros(16, 4))]
    obs, reward, terminated, truncated, _ = found[0]
    assert equal(obs, first) and not reward.any() and not terminated.any() and not truncated.any()
    ends = 0
    for want, have in zip(wanted, found[1:]):
        for x, y in zip(want[:4], have[:4]):
            assert equal(x, y)
        assert equal(want[4], have[4])
        ends += int((want[2] | want[3]).sum())
    assert ends > 50
    late.close()


def test_other_vector_environments_are_late_by_one_call_too():
    plain, late = make("CartPole-v1", 3), OverlappedStepper(make("CartPole-v1", 3))
    first, _ = plain.reset(seed=0)
    again, _ = late.reset(seed=0)
    assert equal(first, again)
    ones = torch.ones(3, dtype=torch.int64)
    wanted = [plain.step(ones) for _ in range(30)]
    found = [late.step(ones) for _ in range(31)][1:]
    for want, have in zip(wanted, found):
        for x, y in zip(want[:4], have[:4]):
            assert equal(x, y)
    late.close()


def test_state_of_a_step_under_way_is_restored():
    late = OverlappedStepper(world())
    late.reset(seed=0)
    a = actions(30)
    for x in a[:12]:
        late.step(x)
    kept = late.state()
    wanted = [late.step(x) for x in a[12:]]
    late.restore(kept)
    for want, x in zip(wanted, a[12:]):
        have = late.step(x)
        assert all(equal(p, q) for p, q in zip(want, have))
    fresh = OverlappedStepper(world())
    fresh.reset(seed=9)
    fresh.restore(kept)
    for want, x in zip(wanted, a[12:]):
        assert all(equal(p, q) for p, q in zip(want, fresh.step(x)))
    late.close()
    fresh.close()


def test_physics_runs_in_the_background_and_observations_in_the_caller():
    seen = {}
    env = world()
    advance, observe = env._advance, type(env)._observe

    def physics(x):
        seen["physics"] = threading.current_thread().name
        return advance(x)

    class Watched(type(env)):
        def _observe(self, rows=None):
            seen["observe"] = threading.current_thread()
            return observe(self, rows)

    env._advance, env.__class__ = physics, Watched
    late = OverlappedStepper(env)
    late.reset(seed=0)
    late.step(torch.zeros(16, 4))
    late.step(torch.zeros(16, 4))
    assert seen["physics"].startswith("physics") and seen["observe"] is threading.current_thread()
    late.close()


def test_an_error_in_the_background_comes_up_in_the_caller_and_reset_recovers():
    env = world()
    late = OverlappedStepper(env)
    late.reset(seed=0)
    right = env._advance
    env._advance = lambda x: 1 / 0
    late.step(torch.zeros(16, 4))
    with pytest.raises(ZeroDivisionError):
        late.step(torch.zeros(16, 4))
    with pytest.raises(RuntimeError, match="reset"):
        late.step(torch.zeros(16, 4))
    env._advance = right
    late.reset(seed=0)
    late.step(torch.zeros(16, 4))
    late.step(torch.zeros(16, 4))
    late.close()


def test_close_joins_the_thread_and_closes_once():
    late = OverlappedStepper(world())
    late.reset(seed=0)
    late.step(torch.zeros(16, 4))
    threads = list(late._pool._threads)
    late.close()
    late.close()
    assert not any(t.is_alive() for t in threads)
    with pytest.raises(RuntimeError, match="closed"):
        late.step(torch.zeros(16, 4))


def test_misuse_is_refused():
    with pytest.raises(TypeError, match="vector environment"):
        OverlappedStepper("CartPole-v1")
    with pytest.raises(ValueError, match="autoreset"):
        OverlappedStepper(world(autoreset=False))
    late = OverlappedStepper(world())
    with pytest.raises(RuntimeError, match="reset"):
        late.step(torch.zeros(16, 4))
    late.reset(seed=0)
    with pytest.raises(ValueError, match="shape"):
        late.step(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="reset_mask"):
        late.reset(options={"reset_mask": torch.ones(16, dtype=torch.bool)})
    late.close()


def test_a_stepper_is_an_environment_like_any_other():
    late = OverlappedStepper(world())
    assert late.lag == 1 and late.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert make(late) is late
    late.close()
