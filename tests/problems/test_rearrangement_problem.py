"""The rearrangement problem: its data, its held-out episodes, and what a run reports."""

import json

import numpy as np
import pytest
import torch

from anytask import problems
from anytask.problems import BadData, Entrant

torch.set_num_threads(1)
SCENE = {
    "bounds": [[-1, -1], [1, 1]],
    "objects": [{"name": "box", "half": [0.05, 0.05, 0.05]}],
    "episodes": [
        {
            "start": [0, 0, k / 3],
            "target": "box",
            "goal": [-0.7, 0.05, 0.7],
            "objects": {"box": [0.6, 0.05, 0.1 * k - 0.5]},
        }
        for k in range(12)
    ],
}


class Grasper:
    """Grasps at once wherever it stands."""

    def train(self, env, total_steps, progress=None):
        assert env.num_envs == 4 and total_steps == 40
        self.start = env.episodes.start
        self.history_ = [{"steps": 20, "success": float("nan")}, {"steps": 40, "success": 0.5}]
        self.throughput_ = {"simulation": 100.0, "training": 50.0}
        self.steps_ = 40

    def act(self, obs, *, deterministic=True):
        return torch.tensor([[1.0, 0, 0, 0]]).expand(len(obs), -1)


SHORT = {"max_episode_steps": 8}
HERE = f"{__name__}:Grasper"


def test_a_run_reports_metrics_curve_and_film():
    problem = problems.get("rearrangement")
    data = problem.load("pick", total_steps=40, num_envs=4, episodes=20, env_options=SHORT)
    outcome = problem.run(Entrant("grasper", HERE), data, seed=0)
    assert set(outcome.metrics) == {"success", "return", "length", "simulation_sps", "training_sps", "env_steps"}
    assert outcome.metrics["env_steps"] == 40 and len(outcome.details["lengths"]) == 20
    assert outcome.details["curve"] == {"steps": [40.0], "success": [0.5]}
    assert outcome.details["filmstrip"].startswith("iVBOR")
    again = problem.run(Entrant("grasper", HERE), data, seed=0)
    assert again.metrics == outcome.metrics
    json.dumps(outcome.details)


def test_figures_show_curves_and_films():
    problem = problems.get("rearrangement")
    data = problem.load("pick", total_steps=40, num_envs=4, episodes=5, env_options=SHORT)
    outcome = problem.run(Entrant("grasper", HERE), data, seed=0)

    class Run:
        entrant_name, status, seed, details = "grasper", "done", 0, outcome.details

    titles = [title for title, _, _ in problem.figures(data, [Run()])]
    assert titles == ["Success in training", "A test episode"]
    assert problem.figures(data, []) == []


def test_baselines_learn_for_the_same_steps_and_the_sparse_one_gets_no_shaping():
    problem = problems.get("rearrangement")
    data = problem.load("pick", total_steps=256, num_envs=4, episodes=8, env_options=SHORT)
    entrants = {e.name: e for e in problem.baselines(data)}
    assert list(entrants) == ["flat PPO", "sparse reward", "random policy"]
    assert entrants["sparse reward"].params["reward"] == {"progress": 0.0, "pick_bonus": 0.0}
    for entrant in entrants.values():
        assert problem.refuses(entrant, data) is None
        outcome = problem.run(entrant, data, seed=1)
        assert 0 <= outcome.metrics["success"] <= 1
        if entrant.name != "random policy":
            assert outcome.metrics["env_steps"] == 256


def test_test_episodes_are_held_out():
    problem = problems.get("rearrangement")
    data = problem.load("rearrange", num_envs=3, episodes=40)
    train, test = data.training_world(0), data.test_world(0)
    assert len(test.episodes) == 40 and test.order == "once"
    seen = {tuple(row) for row in train.episodes.start.tolist()}
    assert not seen & {tuple(row) for row in test.episodes.start.tolist()}
    assert not np.array_equal(test.episodes.start, data.test_world(1).episodes.start)
    assert np.array_equal(test.episodes.start, data.test_world(0).episodes.start)


def test_a_quarter_of_a_users_list_is_held_out(tmp_path):
    path = tmp_path / "room.json"
    path.write_text(json.dumps(SCENE))
    problem = problems.get("rearrangement")
    data = problem.load(str(path), task="pick", num_envs=2)
    train, test = data.training_world(0).episodes, data.test_world(0).episodes
    assert (len(train), len(test)) == (9, 3)
    both = sorted(np.concatenate([train.objects, test.objects])[:, 0, 2].tolist())
    assert both == pytest.approx(sorted(0.1 * k - 0.5 for k in range(12)))
    assert data.describe()["episodes"] == "12 listed, 3 held out for the test"
    few = problem.load({**SCENE, "episodes": SCENE["episodes"][:3]}, num_envs=2)
    assert len(few.training_world(0).episodes) == len(few.test_world(0).episodes) == 3


def test_any_gymnasium_id_goes_in():
    problem = problems.get("rearrangement")
    data = problem.load("CartPole-v1", total_steps=64, num_envs=2, episodes=4)
    names = [e.name for e in problem.baselines(data)]
    assert names == ["flat PPO", "random policy"]
    outcome = problem.run(problem.baselines(data)[1], data, seed=0)
    assert outcome.metrics["success"] == 0.0 and outcome.metrics["return"] == outcome.metrics["length"]


def test_where_an_environment_has_no_notion_of_success_the_return_ranks():
    problem = problems.get("rearrangement")
    data = problem.load("Pendulum-v1", episodes=2, total_steps=2, num_envs=2)
    assert problem.primary.key == "return" and problems.get("rearrangement").primary.key == "success"
    random = Entrant("random policy", "anytask.control.baselines:RandomPolicy", role="baseline")
    metrics = problem.run(random, data, 0).metrics
    assert metrics["return"] < 0 and "success" not in metrics


def test_fingerprints_follow_content_and_options():
    problem = problems.get("rearrangement")
    one, two, three = problem.load("pick"), problem.load("pick"), problem.load("pick", episodes=10)
    assert one.fingerprint == two.fingerprint != three.fingerprint
    assert problem.load("rearrange").options.total_steps == 3_000_000


def test_bad_sources_and_options_are_refused(tmp_path):
    problem = problems.get("rearrangement")
    with pytest.raises(ValueError, match="no option 'steps'"):
        problem.load("pick", steps=3)
    for option, value in (("num_envs", 0), ("episodes", 1.5), ("total_steps", -1)):
        with pytest.raises(ValueError, match=f"{option} must be an integer of at least 1"):
            problem.load("pick", **{option: value})
    with pytest.raises(ValueError, match="task must be one of"):
        problem.load("pick", task="fly")
    with pytest.raises(BadData, match="not built in"):
        problem.load("Nothing-v0")
    with pytest.raises(BadData, match=r"none\.json: No such file"):
        problem.load(str(tmp_path / "none.json"))
    bad = {**SCENE, "episodes": [{**SCENE["episodes"][0], "start": [0.6, -0.5, 0]}]}
    with pytest.raises(BadData, match="episode 0: the start pose"):
        problem.load(bad)
    assert (
        problem.refuses(Entrant("x", "builtins:dict"), problem.load("pick"))
        == "x has no train(env, total_steps=...) and no act(obs)."
    )
