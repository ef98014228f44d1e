"""The scripted expert of FetchReach, and the problems that it plays for."""

import numpy as np
import pytest

from anytask.control import ScriptedFetchReach, demonstrations, evaluate, make
from anytask.problems.few_demos import FewDemos
from anytask.problems.visuomotor import Visuomotor

pytest.importorskip("gymnasium_robotics")
pytest.importorskip("mujoco")


def test_it_reaches_the_goal_in_time_at_full_speed_alone():
    env = make("FetchReach-v4", 4, max_episode_steps=10)
    fast, slow = (evaluate(ScriptedFetchReach(env, speed=speed), env, 12).success_rate for speed in (1.0, 0.1))
    assert fast == 1.0 and slow < 0.5


def test_turned_by_half_a_turn_it_leads_away():
    def left(turn):
        data = demonstrations("FetchReach-v4", 4, turn=turn, max_episode_steps=10)
        gap = data.observations["desired_goal"] - data.observations["achieved_goal"]
        far = np.linalg.norm(gap[:, :2], axis=1)  # the way is turned about the vertical
        return far[data.ends].mean() - far[data.starts].mean()

    assert left(0.0) < 0 < left(180.0)


def test_the_problems_have_its_demonstrations():
    world = FewDemos().load("fetch-reach", prior_episodes=2).instance(1)
    assert len(world.expert) == 3 and len(world.prior) == 8
    assert world.prior.attributes["relevant"].tolist() == [True] * 2 + [False] * 6
    demos = Visuomotor().load("fetch-reach", demos=4).demonstrations(1)
    assert len(demos) == 4 and demos.lengths.max() == 10
