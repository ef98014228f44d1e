"""The problem `few-demos`: what a run sees, what is measured, user data, and what is refused."""

import pickle

import numpy as np
import pytest
import torch

from anytask import problems
from anytask.core.errors import BadData
from anytask.datasets.episode_files import save_episodes
from anytask.datasets.episodes import Episode, Episodes
from anytask.problems.base import Entrant
from anytask.problems.few_demos import FewDemos

pytest.importorskip("gymnasium")
torch.set_num_threads(1)
TINY = {"cloning": {"hidden": (16,), "batch_size": 16}, "device": "cpu"}
QUICK = {"prior_episodes": 4, "episodes": 8, "steps": 30, "embedder_steps": 30}
RETRIEVAL = Entrant(
    "br", "anytask.control:BehaviorRetrieval", {**TINY, "embedding": {"hidden": (16,), "latent_dim": 3}}
)


def baseline(name, **params):
    return Entrant(name, f"anytask.control.baselines:{name}", {**TINY, **params}, "baseline")


def test_it_is_registered():
    assert isinstance(problems.get("few-demos"), FewDemos)


def test_the_built_in_world_is_as_described():
    data = FewDemos().load("waypoints")
    world = data.instance(3)
    assert len(world.expert) == 3 and len(world.prior) == 160
    assert np.abs(world.expert.observations["observation"][world.expert.starts]).max() <= 0.05
    start = np.abs(world.prior.observations["observation"][world.prior.starts])
    assert 0.5 < start.max() <= 0.6
    tasks, of = world.prior.attributes["task"], world.prior.episode_of
    relevant = world.prior.attributes["relevant"]
    assert [int((tasks == t).sum()) for t in "ABCD"] == [40] * 4
    assert relevant[tasks[of] == "A"].all() and not relevant[np.isin(tasks[of], ["C", "D"])].any()
    for i in np.flatnonzero(tasks == "B"):
        rows = slice(world.prior.starts[i], world.prior.ends[i] + 1)
        helps, x = relevant[rows], world.prior.observations["observation"][rows, 0]
        assert helps[0] and not helps[-1] and (np.diff(helps.astype(int)) <= 0).all()
        assert (x[helps] < 1.0).all()


def test_every_seed_has_data_of_its_own_and_entrants_share_them():
    data = FewDemos().load("waypoints", prior_episodes=2)
    a, b, c = data.instance(0), data.instance(0), data.instance(1)
    assert a.prior.fingerprint == b.prior.fingerprint != c.prior.fingerprint
    assert a.expert.fingerprint != c.expert.fingerprint
    assert pickle.loads(pickle.dumps(data)).fingerprint == data.fingerprint
    assert FewDemos().load("waypoints", prior_episodes=3).fingerprint != data.fingerprint


def test_recordings_hold_the_same_steps_and_only_their_last_ends_show():
    parted = FewDemos().load("waypoints", prior_episodes=3).instance(0).prior
    joined = FewDemos().load("waypoints", prior_episodes=3, prior_joined=5).instance(0).prior
    assert len(joined) == 3 and joined.steps == parted.steps and "task" not in joined.attributes

    def steps(episodes):
        columns = [episodes.observations["observation"], episodes.actions, episodes.attributes["relevant"][:, None]]
        return sorted(map(tuple, np.concatenate(columns, 1).tolist()))

    assert steps(joined) == steps(parted)
    ends = parted.final_observations["observation"].tolist()
    assert all(end in ends for end in joined.final_observations["observation"].tolist())
    assert joined.terminated.sum() + joined.truncated.sum() == 3


def test_pictures_show_the_same_episodes():
    numbers = FewDemos().load("waypoints", prior_episodes=2, demos=1).instance(0)
    pixels = FewDemos().load("waypoints", prior_episodes=2, demos=1, observation="pixels").instance(0)
    assert pixels.prior.observations["observation"].shape[1:] == (32, 32, 3)
    np.testing.assert_array_equal(pixels.prior.actions, numbers.prior.actions)
    np.testing.assert_array_equal(pixels.prior.attributes["relevant"], numbers.prior.attributes["relevant"])


def test_a_run_measures_success_and_what_was_kept():
    problem = FewDemos()
    data = problem.load("waypoints", **QUICK)
    shares = []
    outcome = problem.run(RETRIEVAL, data, 0, shares.append)
    again = problem.run(RETRIEVAL, data, 0)
    assert outcome.metrics == again.metrics
    assert set(outcome.metrics) == {"success", "return", "retrieved", "precision"}
    assert 0 < outcome.metrics["retrieved"] <= 1 and outcome.metrics["success"] * 8 % 1 == 0
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert sum(outcome.details["retrieved_by_task"].values()) == pytest.approx(1.0)
    run = type("Run", (), {"status": "done", "entrant_name": "br", "details": outcome.details, "seed": 0})
    titles = [title for title, _, figure in problem.figures(data, [run]) if figure.to_json()]
    assert titles == ["Trials", "Similarity over time: br", "What was kept: br"]


def test_only_the_oracle_is_told_what_helps(monkeypatch):
    from anytask.control import baselines

    told = {}
    original = baselines.Imitator.fit

    def fit(self, episodes, prior=None, progress=None):
        told[type(self).__name__] = (set(episodes.attributes), set(prior.attributes))
        return original(self, episodes, prior, progress)

    monkeypatch.setattr(baselines.Imitator, "fit", fit)
    problem = FewDemos()
    data = problem.load("waypoints", **QUICK)
    oracle = problem.run(baseline("OracleSelection"), data, 1)
    problem.run(baseline("MixedData"), data, 1)
    assert oracle.metrics["precision"] == 1.0
    assert told["MixedData"] == (set(), set()) and "relevant" in told["OracleSelection"][1]


def test_every_baseline_can_take_part():
    problem = FewDemos()
    data = problem.load("waypoints")
    entrants = problem.baselines(data)
    assert [problem.refuses(e, data) for e in entrants] == [None] * len(entrants)
    assert {"expert only", "everything", "oracle selection"} <= {e.name for e in entrants}
    assert problem.bounds == {"oracle selection": "upper"}
    other = Entrant("tame", "anytask.continual:TAME")
    assert "no fit(episodes, prior=...)" in problem.refuses(other, data)


# -- user data --------------------------------------------------------------------------------------------------------


def pendulum(n=3, steps=6, seed=0, **facts):
    rng = np.random.default_rng(seed)
    return Episodes.from_list([
        Episode(rng.normal(size=(steps + 1, 3)), rng.uniform(-2, 2, (steps, 1)),
                attributes={k: v[i] for k, v in facts.items()})
        for i in range(n)
    ])  # fmt: skip


def test_a_folder_without_an_environment_is_judged_by_held_out_actions(tmp_path):
    expert, prior = pendulum(4), pendulum(6, seed=1, relevant=[True] * 3 + [False] * 3)
    save_episodes(tmp_path / "expert.npz", expert)
    save_episodes(tmp_path / "prior.hdf5", prior)
    problem = FewDemos()
    data = problem.load(tmp_path, steps=20, embedder_steps=20)
    assert problem.primary.key == "action_error" and not problem.primary.higher_is_better
    assert FewDemos().primary.key == "success"
    world = data.instance(0)
    assert len(world.held_out) == 1 and len(world.expert) == 3
    assert data.labelled and data.describe()["prior"]["steps"] == 36
    outcome = problem.run(RETRIEVAL, data, 0)
    assert {"action_error", "log_likelihood", "retrieved", "precision"} == set(outcome.metrics)
    held_out = {data.instance(s).held_out.fingerprint for s in range(20)}
    assert len(held_out) == 4  # each episode is held out under some seed


def test_the_error_is_in_standard_deviations_of_the_prior(tmp_path):
    class Still:
        def predict(self, episodes):
            return np.zeros_like(episodes.actions)

    from anytask.problems.few_demos import _compared

    expert, prior = pendulum(2), pendulum(6, seed=1)
    error = _compared(Still(), expert, prior)["action_error"]
    assert error == pytest.approx(np.sqrt((expert.actions**2).mean()) / prior.actions.std(), rel=1e-5)


def test_any_gymnasium_id_is_played():
    problem = FewDemos()
    data = problem.load(
        "mine", expert=pendulum(2), prior=pendulum(4, seed=1), env="Pendulum-v1", episodes=2, steps=10,
    )  # fmt: skip
    outcome = problem.run(baseline("MixedData"), data, 0)
    assert "success" not in outcome.metrics and outcome.metrics["return"] < 0
    assert problem.primary.key == "return" and data.describe()["environment"] == "Pendulum-v1"


def test_labels_are_needed_only_by_the_oracle():
    problem = FewDemos()
    data = problem.load("mine", expert=pendulum(2), prior=pendulum(4, seed=1))
    assert "oracle selection" not in {e.name for e in problem.baselines(data)}
    assert "needs to be told" in problem.refuses(baseline("OracleSelection"), data)


def test_who_cannot_learn_from_the_actions_is_left_out_before_anything_runs():
    problem = FewDemos()
    choices = [Episodes.from_list([Episode(np.zeros((3, 4)), [i, 1])] * 2) for i in (0, 1)]
    data = problem.load("mine", expert=choices[0], prior=choices[1], env="CartPole-v1")
    for entrant in (RETRIEVAL, *problem.baselines(data)):
        assert "learns continuous actions" in problem.refuses(entrant, data)
    with pytest.raises(BadData, match=r"CartPole-v1 takes Discrete\(2\), and the demonstrations' actions are float32"):
        real = Episodes.from_list([Episode(np.zeros((3, 4)), [[0.5], [0.5]])] * 2)
        problem.load("mine", expert=real, prior=real, env="CartPole-v1")


def test_what_is_wrong_with_the_data_is_named(tmp_path):
    problem = FewDemos()
    with pytest.raises(BadData, match="neither waypoints nor fetch-reach nor a folder"):
        problem.load("nowhere")
    save_episodes(tmp_path / "expert.npz", pendulum())
    with pytest.raises(BadData, match=r"must hold one prior\.npz.*found: none"):
        problem.load(tmp_path)
    save_episodes(tmp_path / "prior.npz", pendulum())
    save_episodes(tmp_path / "prior.hdf5", pendulum())
    with pytest.raises(BadData, match=r"found: prior\.hdf5, prior\.npz"):
        problem.load(tmp_path)
    (tmp_path / "prior.hdf5").unlink()
    (tmp_path / "prior.npz").write_text("no")
    with pytest.raises(BadData, match=r"prior\.npz: not a readable"):
        problem.load(tmp_path)
    wide = Episodes.from_list([Episode(np.zeros((3, 9)), np.zeros((2, 1)))])
    with pytest.raises(BadData, match=r"of shape \(9,\) instead of \(3,\)"):
        problem.load("mine", expert=pendulum(), prior=wide)
    with pytest.raises(BadData, match="cannot be made"):
        problem.load("mine", expert=pendulum(), prior=pendulum(), env="Pendulumm-v1")
    with pytest.raises(BadData, match=r"Hopper-v5 shows .*\(11,\).*demonstrations hold .*\(3,\)"):
        problem.load("mine", expert=pendulum(), prior=pendulum(), env="Hopper-v5")
    two = Episodes.from_list([Episode(np.zeros((3, 3)), np.zeros((2, 2)))])
    with pytest.raises(BadData, match=r"takes Box\(.*\), and the demonstrations have 2 action dimensions"):
        problem.load("mine", expert=two, prior=two, env="Pendulum-v1")
    with pytest.raises(BadData, match="cannot be split"):
        problem.load("mine", expert=pendulum(1), prior=pendulum())
    wrong = {"demos": 0, "held_out": 1.0, "observation": "sound", "demo": 3}
    for options, word in (({name: value}, name) for name, value in wrong.items()):
        with pytest.raises(ValueError, match=word):
            problem.load("waypoints", **options)
