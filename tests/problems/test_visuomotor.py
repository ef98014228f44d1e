import base64

import numpy as np
import pytest
import torch

from anytask import problems
from anytask.control import demonstrations
from anytask.core.errors import BadData
from anytask.datasets.episode_files import save_episodes
from anytask.datasets.episodes import Episode, Episodes
from anytask.problems.base import Entrant
from anytask.problems.visuomotor import Visuomotor

TINY = {
    "diffusion": {"hidden": [32], "n_steps": 2}, "imitation": {"epochs": 3}, "critics": {"hidden": [32], "epochs": 2},
    "dynamics": {"hidden": [16], "steps": 10}, "student": {"steps": 4}, "online": {"epochs": 1}, "device": "cpu",
    "offline": {"steps": 4, "batch_size": 32, "gate_every": 2, "gate_states": 8, "rollout_length": 2},
}  # fmt: skip
SMALL = {"demos": 8, "rollouts": 4, "online_episodes": 6, "eval_episodes": 8, "num_envs": 4, "params": TINY}
RL100 = "anytask.control:RL100"


class Run:
    """What figures need of a run."""

    def __init__(self, name, seed, outcome):
        self.entrant_name, self.seed, self.status = name, seed, "done"
        self.metrics, self.details, self.cost = outcome.metrics, outcome.details, outcome.cost


@pytest.fixture(scope="module")
def outcome():
    torch.set_num_threads(1)
    problem = Visuomotor()
    return problem.run(Entrant("rl100", RL100), problem.load("reach", **SMALL), 0)


def test_it_is_a_problem_of_the_package():
    assert isinstance(problems.get("visuomotor"), Visuomotor) and Visuomotor().primary.key == "success"


def test_every_stage_is_tried_out_and_the_budget_is_counted(outcome):
    m = outcome.metrics
    assert set(outcome.details["stages"]) == {"imitation", "offline", "online", "student"}
    assert m["episodes"] == 10 and m["success"] == m["success_student"]
    assert m["offline_gain"] == m["success_offline"] - m["success_imitation"]
    assert m["student_gap"] == m["success_online"] - m["success_student"]
    assert m["network_calls"] == 1 and m["call_share"] == 0.5 and m["frequency"] > 0
    assert 0 <= m["accepted"] <= 1 and len(outcome.details["gate"]) == 2
    assert base64.b64decode(outcome.details["filmstrip"])[:4] == b"\x89PNG"
    assert outcome.cost["trainable_parameters"] > 0 and outcome.cost["train_seconds"] > 0


def test_entrants_get_the_same_demonstrations_and_no_more_episodes_than_allowed(monkeypatch):
    seen = []

    class Greedy:
        def __init__(self, seed):
            self.seed = seed

        def fit(self, episodes):
            seen.append(episodes.fingerprint)

        def act(self, obs, *, deterministic=True):
            return torch.ones(len(obs), 2)

        def reset(self, rows=None):
            pass

        def improve(self, env, demonstrations, *, rollouts, online_episodes, on_stage, progress):
            seen.append((rollouts, online_episodes, demonstrations.fingerprint))

    monkeypatch.setattr(Entrant, "load", lambda self: Greedy)
    problem = Visuomotor()
    data = problem.load("reach", **{**SMALL, "params": None})
    out = [problem.run(Entrant("greedy", "x:y"), data, seed) for seed in (0, 0, 1)]
    assert seen[0] == seen[2] != seen[4] and seen[1] == (4, 6, seen[0])
    assert out[0].metrics["success"] == out[1].metrics["success"]
    assert set(out[0].metrics) == {"success", "success_imitation", "episodes", "frequency"}


class Shared:
    """A policy that walks on by ``stride``, and counts how often policies are trained."""

    trainings = 0

    def __init__(self, stride=1.0, seed=0):
        self.stride, self.seed = stride, seed

    def get_params(self):
        return {"stride": self.stride, "seed": self.seed}

    def set_params(self, **params):
        vars(self).update(params)

    def fit(self, episodes):
        type(self).trainings += 1

    def act(self, obs, *, deterministic=True):
        return self.stride * torch.nn.functional.normalize(obs[:, :2] * -1 + 1)

    def reset(self, rows=None):
        pass

    def improve(self, env, demonstrations, *, rollouts, online_episodes, on_stage, progress):
        on_stage(type("Stage", (), {"name": "online", "episodes": 3}))


def test_entrants_that_differ_in_what_is_set_after_training_share_it(monkeypatch):
    monkeypatch.setattr(Entrant, "load", lambda self: Shared)
    Shared.trainings = 0
    problem = Visuomotor()
    data = problem.load("reach", **{**SMALL, "params": None})
    still, moving = Entrant("still", "x:y", after={"stride": 0.0}), Entrant("moving", "x:y")
    shares = []
    together = problem.run_variants([still, moving], data, 0, shares.append)
    assert Shared.trainings == 1 and shares[-1] == 1.0
    alone = [problem.run(entrant, data, 0) for entrant in (still, moving)]
    for one, other in zip(together, alone):
        assert one.details["stages"] == other.details["stages"] and set(one.metrics) == set(other.metrics)
    assert list(together[0].details["stages"]) == ["imitation", "online"]
    assert together[0].details["stages"] != together[1].details["stages"]
    assert together[0].metrics["episodes"] == 3 and together[0].details["filmstrip"] != together[1].details["filmstrip"]


def test_who_cannot_learn_from_the_actions_is_left_out_before_anything_runs(monkeypatch):
    class Picky(Shared):
        @staticmethod
        def refuses(episodes):
            return None if episodes.actions.dtype.kind == "f" else "it wants real actions"

    problem = Visuomotor()
    demos = Episodes.from_list([Episode(np.zeros((3, 4)), [0, 1])])
    data = problem.load(demos, env="CartPole-v1")
    monkeypatch.setattr(Entrant, "load", lambda self: Picky)
    assert problem.refuses(Entrant("picky", "x:y"), data) == "it wants real actions"
    monkeypatch.setattr(Entrant, "load", lambda self: Shared)
    assert problem.refuses(Entrant("shared", "x:y"), data) is None


def test_every_baseline_runs():
    problem = Visuomotor()
    data = problem.load("walled-reach", **{**SMALL, "rollouts": 2, "online_episodes": 2, "eval_episodes": 2})
    names = []
    for entrant in problem.baselines(data):
        assert problem.refuses(entrant, data) is None
        assert 0 <= problem.run(entrant, data, 1).metrics["success"] <= 1
        names.append(entrant.name)
    assert names == [
        "diffusion policy", "RL-100 without gate", "RL-100 without offline stage", "Gaussian cloning + PPO",
    ]  # fmt: skip
    assert problem.refuses(Entrant("tame", "anytask.continual:TAME"), data) is not None


def test_pixels_go_through_all_stages():
    problem = Visuomotor()
    small = {**SMALL, "demos": 3, "rollouts": 2, "online_episodes": 2, "eval_episodes": 2, "observation": "pixels"}
    out = problem.run(Entrant("rl100", RL100), problem.load("reach", **small), 1)
    assert set(out.details["stages"]) == {"imitation", "offline", "online", "student"}


def test_any_gymnasium_id_and_a_file_of_demonstrations(tmp_path):
    rng = np.random.default_rng(0)
    episodes = Episodes.from_list([
        Episode(rng.normal(size=(6, 3)), rng.normal(size=(5, 1)).clip(-2, 2), np.zeros(5)) for _ in range(4)
    ])  # fmt: skip
    save_episodes(tmp_path / "swing.npz", episodes)
    problem = Visuomotor()
    options = {"env_options": {"max_episode_steps": 8}, "preset": "small"}
    data = problem.load(tmp_path / "swing.npz", env="Pendulum-v1", **{**SMALL, **options})
    other = problem.load("Pendulum-v1", demonstrations=tmp_path / "swing.npz", **{**SMALL, **options})
    assert data.name == "swing" and other.env == data.env == "Pendulum-v1"
    out = problem.run(Entrant("rl100", RL100, {"stages": ["imitation", "offline"]}), data, 0)
    assert out.metrics["return"] < 0 and "success" not in out.metrics  # Pendulum has no notion of success
    assert data.describe()["demonstrations"]["episodes"] == 4


def test_data_that_do_not_fit_are_refused_before_anything_is_trained(tmp_path):
    problem = Visuomotor()
    save_episodes(tmp_path / "reach.npz", demonstrations("anytask/Reach-v0", 3))
    with pytest.raises(BadData, match="2 action dimensions"):
        problem.load(tmp_path / "reach.npz", env="Pendulum-v1")
    with pytest.raises(BadData, match="shows the observations"):
        problem.load(Episodes.from_list([Episode(np.zeros((3, 5)), np.zeros((2, 1)))]), env="Pendulum-v1")
    pendulum = Episodes.from_list([Episode(np.zeros((3, 3)), np.zeros((2, 2)))])
    with pytest.raises(BadData, match="2 action dimensions"):
        problem.load(pendulum, env="Pendulum-v1")
    with pytest.raises(BadData, match="give env"):
        problem.load(pendulum)
    with pytest.raises(BadData, match="neither reach"):
        problem.load("nowhere")
    with pytest.raises(BadData, match="needs demonstrations"):
        problem.load("Pendulum-v1")
    with pytest.raises(ValueError, match="no option 'speed'"):
        problem.load("reach", speed=1)
    with pytest.raises(ValueError, match="demos must be"):
        problem.load("reach", demos=0)
    assert problem.load(tmp_path / "reach.npz", env="anytask/Reach-v0").name == "reach"


def test_the_fingerprint_follows_content_and_options():
    problem = Visuomotor()
    one, two = problem.load("reach"), problem.load("reach", noise=0.1)
    assert one.fingerprint == problem.load("reach").fingerprint != two.fingerprint


def test_who_learns_from_no_records_plays_as_many_episodes():
    problem = Visuomotor()
    out = problem.run(Entrant("online", RL100, {"stages": ["imitation", "online"]}), problem.load("reach", **SMALL), 0)
    assert out.metrics["episodes"] == SMALL["rollouts"] + SMALL["online_episodes"]


def test_figures_show_stages_gate_and_films(outcome):
    problem = Visuomotor()
    data = problem.load("reach", **SMALL)
    figures = problem.figures(data, [Run("rl100", 0, outcome), Run("rl100", 1, outcome)])
    assert [title for title, _, _ in figures] == ["Success by stage", "Gate log", "Trials"]
    stages = figures[0][2].data[0]
    assert list(stages.x) == ["imitation", "offline", "online", "student"]
    assert list(stages.y) == [outcome.details["stages"][s] for s in stages.x]
    assert problem.figures(data, []) == []


def test_where_an_environment_has_no_notion_of_success_the_return_ranks():
    rng = np.random.default_rng(0)
    demos = Episodes.from_list([Episode(rng.normal(size=(9, 3)), rng.uniform(-2, 2, (8, 1))) for _ in range(3)])
    problem = Visuomotor()
    data = problem.load(demos, env="Pendulum-v1", **(SMALL | {"eval_episodes": 2, "num_envs": 2}), preset="small")
    assert problem.primary.key == "return" and Visuomotor().primary.key == "success"
    outcome = problem.run(Entrant("diffusion policy", RL100, {"stages": ["imitation"]}), data, 0)
    assert outcome.metrics["return"] == outcome.metrics["return_imitation"] < 0
    assert not [key for key in outcome.metrics if "success" in key]
    title, _, figure = problem.figures(data, [Run("diffusion policy", 0, outcome)])[0]
    assert title == "Return by stage" and list(figure.data[0].y) == [outcome.metrics["return"]]
