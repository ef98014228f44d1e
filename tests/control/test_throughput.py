"""Throughput counts environment steps, all together, and leaves the warm-up out."""

import pytest
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv

from anytask.control.throughput import Throughput, throughput


class Clock:
    """A clock that moves only when the world steps or the policy acts."""

    now = 0.0

    def __call__(self):
        return self.now


CLOCK = Clock()


class Slow(VectorEnv):
    """A call of step takes 0.1 s, whatever num_envs; the first eight calls take 10 s."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs):
        self.num_envs, self.calls = num_envs, 0
        self.single_observation_space = self.single_action_space = Box(-1, 1, (2,))
        self.observation_space = self.action_space = Box(-1, 1, (num_envs, 2))

    def reset(self, *, seed=None, options=None):
        self.calls = 0
        return torch.zeros(self.num_envs, 2), {}

    def step(self, actions):
        assert actions.shape == (self.num_envs, 2)
        CLOCK.now += 10.0 if self.calls < 8 else 0.1
        self.calls += 1
        nothing = torch.zeros(self.num_envs, dtype=torch.bool)
        return torch.zeros(self.num_envs, 2), torch.zeros(self.num_envs), nothing, nothing, {}


class Still:
    def act(self, obs, *, deterministic=True):
        CLOCK.now += 0.1
        return torch.zeros(len(obs), 2)


class Learner:
    horizon = 5
    steps_ = 0

    def train(self, env, total_steps):
        CLOCK.now += total_steps * 0.01
        self.steps_ += total_steps


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr("anytask.control.throughput.make", lambda env, n, **options: env(n))
    return Slow


def test_rates_are_num_envs_over_the_time_of_a_call_without_warm_up(slow):
    report = throughput(slow, Still(), (1, 8), learner=lambda n: Learner(), seconds=2.0, clock=CLOCK)
    assert report.rates["simulation"] == pytest.approx((10.0, 80.0))
    assert report.rates["policy"] == pytest.approx((5.0, 40.0))
    assert report.rates["training"] == pytest.approx((100.0, 100.0))


def test_a_real_environment_and_the_report():
    shares = []
    report = throughput("anytask/Rearrangement-v0", None, (2, 4), seconds=0.02, progress=shares.append, task="pick")
    assert shares == [0.5, 1.0] and min(report.rates["simulation"]) > 0
    lines = report.table().splitlines()
    assert len(lines) == 3 and lines[0].split() == ["num_envs", "simulation"]
    figure = report.figure({"other": ([2, 4], [1.0, 2.0])})
    assert [trace.name for trace in figure.data] == ["simulation", "other"]


def test_the_table_says_what_was_measured():
    report = Throughput((1,), {"simulation": (1000.0,), "training": (10.0,)}, "x", "cpu")
    assert (
        report.table() == "num_envs  simulation  simulation and learning\n       1       1,000                       10"
    )


def test_bad_sizes_are_refused():
    for options in ({"num_envs": ()}, {"num_envs": (0,)}, {"seconds": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            throughput("anytask/Reach-v0", **options)
