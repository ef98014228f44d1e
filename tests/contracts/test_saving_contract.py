"""Whoever takes part in a problem is saved by it and loaded by the lines it prints, or refused before anything runs."""

import numpy as np
import pandas as pd
import pytest

from anytask import catalogue, problems
from anytask.bench.saving import check_entrants
from anytask.problems.base import Entrant

WORDS = {"film": "movie actor scene screen plot director", "food": "soup bread cheese salad pepper sauce"}
TEXTS = [
    f"the {a} and the {b} near the {c}"
    for words in map(str.split, WORDS.values())
    for a, b, c in zip(words * 2, words[1:] * 2, words[2:] * 3)
]
LABELS = [label for label in WORDS for _ in range(len(TEXTS) // 2)]


def table(folder):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"size": 10 * rng.normal(size=48), "color": rng.choice(["red", "blue"], 48)})
    frame["label"] = np.repeat(["p", "q", "r", "s"], 12)
    frame.to_csv(folder / "mine.csv", index=False)
    return str(folder / "mine.csv")


TINY_RL100 = {
    "diffusion": {"hidden": [16], "n_steps": 2}, "imitation": {"epochs": 2}, "critics": {"hidden": [16], "epochs": 1},
    "dynamics": {"hidden": [16], "steps": 5}, "student": {"steps": 2}, "device": "cpu",
    "offline": {"steps": 2, "batch_size": 16, "gate_every": 2, "gate_states": 4, "rollout_length": 2},
    "online": {"epochs": 1},
}  # fmt: skip


def new_rows():
    return pd.DataFrame({"color": ["blue", "red", "red"], "size": [3.0, -8.0, 14.5]})


def new_colors():
    return pd.DataFrame({"color": ["blue", "red", "red"]})


def first_observations(env_id):
    from anytask.control import make

    return make(env_id, 2, seed=0).reset(seed=0)[0]


#: Problem -> (data, options, what the printed lines use by its name in them).
CASES = {
    "task-stream": (table, {"n_tasks": 2, "epochs": 1}, {"X": lambda data: new_rows()}),
    "paired-retrieval": (
        lambda folder: (np.random.default_rng(0).normal(size=(24, 6)), [f"skill {i % 10}" for i in range(24)]),
        {},
        {"queries": lambda data: np.eye(6)[:2], "targets": lambda data: ["skill 8", "skill 3"]},
    ),
    "frozen-features": (table, {"shots": 2, "draws": 1}, {"X": lambda data: new_rows()}),
    "few-labels": (table, {"per_class": 3, "max_test": 8, "unlabeled": 6}, {"X": lambda data: new_rows()}),
    "multi-task-training": (table, {"targets": "size", "task": "label"}, {"X": lambda data: new_colors()}),
    "source-selection": (
        table,
        {"targets": "size", "task": "label", "target_labels": 6, "budget": 20},
        {"X": lambda data: new_colors()},
    ),
    "few-shot-text": (
        lambda folder: (TEXTS, LABELS),
        {"lm": "tiny:icl", "labels": 6, "k": 2, "search_budget": 4},
        {"texts": lambda data: TEXTS[::5]},
    ),
    "prompt-search": (
        lambda folder: (TEXTS, LABELS),
        {"lm": "tiny:icl", "search": 2, "budget": 4},
        {"text": lambda data: TEXTS[0]},
    ),
    "prompt-compression": (lambda folder: TEXTS, {}, {"text": lambda data: TEXTS[0]}),
    "long-tail": (
        table,
        {"most": 4, "imbalance": 2, "test_imbalance": 2},
        {"X": lambda data: new_rows()},
    ),
    "zero-shot-classification": (
        lambda folder: (
            np.random.default_rng(0).normal(size=(24, 6)),
            [f"shows {'ab'[i % 2]} {i}" for i in range(24)],
            ["ab"[i % 2] for i in range(24)],
            {"a": "shows a", "b": "shows b"},
        ),
        {},
        {"images": lambda data: np.eye(6, dtype=np.float32)[:3], "prompts": lambda data: data.source.prompts},
    ),
    "distillation": (
        lambda folder: (np.random.default_rng(0).normal(size=(60, 4, 4)), ["a", "b"] * 30),
        {"per_class": 3, "unlabeled": 20, "max_test": 20},
        {"X": lambda data: np.ones((2, 4, 4), np.float32)},
    ),
    "language-pretraining": (lambda folder: (TEXTS, LABELS), {"shots": 2}, {"texts": lambda data: TEXTS[:2]}),
    "image-quality": (
        lambda folder: "rated-digits",
        {"n": 60, "tested": 10, "labels": 10},
        {"images": lambda data: np.random.default_rng(0).random((3, 1, 8, 8)).astype(np.float32)},
    ),
    "few-demos": (
        lambda folder: "waypoints",
        {"steps": 3, "embedder_steps": 3, "demos": 2, "prior_episodes": 2},
        {"obs": lambda data: first_observations("anytask/WaypointReach-v0")},
    ),
    "visuomotor": (
        lambda folder: "reach",
        {"demos": 4, "rollouts": 4, "online_episodes": 4, "num_envs": 4, "params": TINY_RL100},
        {"obs": lambda data: first_observations("anytask/Reach-v0")},
    ),
    "rearrangement": (
        lambda folder: "pick",
        {"total_steps": 64, "num_envs": 2},
        {"obs": lambda data: data.training_world(0).reset(seed=0)[0]},
    ),
}
SLOW = ("distillation", "language-pretraining")
NOTHING_TO_SAVE = {
    "demonstration-selection": ("digits", {}),
    "equivariance": ("digits", {}),
    "model-composition": ("digits-domains", {"rows": 200, "steps": 20}),
    "prompt-search": ("scripted", {}),
    "unlearning": ("iris", {"forget": "class:0"}),
    "prompt-compression": ("modifiers", {}),
}


def entrants_of(problem, data):
    systems = [Entrant(c.key, c.entry, key=c.key) for c in catalogue.SYSTEMS if problem.key in c.problems]
    systems = [entrant for entrant in systems if catalogue.state(catalogue.get(entrant.key)) == "available"]
    everyone = [*systems, *problem.baselines(data)]
    return [entrant for entrant in everyone if problem.refuses(entrant, data) is None]


def test_every_problem_is_covered():
    assert set(CASES) | set(NOTHING_TO_SAVE) == set(problems.KEYS)


@pytest.mark.parametrize("key", NOTHING_TO_SAVE)
def test_where_nothing_can_be_saved_everyone_is_refused_by_name(key):
    problem = problems.get(key)
    source, options = NOTHING_TO_SAVE[key]
    data = problem.load(source, **options)
    entrants = entrants_of(problem, data)
    with pytest.raises(ValueError, match="could not be saved") as refused:
        check_entrants(problem, data, entrants)
    assert all(e.name in str(refused.value) for e in entrants if e.name not in problem.bounds)


@pytest.mark.parametrize("key", [pytest.param(key, marks=[pytest.mark.slow] * (key in SLOW)) for key in CASES])
def test_the_printed_lines_give_what_the_model_in_memory_gives(key, tmp_path):
    problem = problems.get(key)
    source, options, given = CASES[key]
    data = problem.load(source(tmp_path), **options)
    entrants = entrants_of(problem, data)
    check_entrants(problem, data, entrants)
    given = {name: make(data) for name, make in given.items()}
    for entrant in entrants:
        if problem.unsaveable(entrant, data) is not None:
            assert entrant.name in problem.bounds
            continue
        trained = problem.refit(entrant, data, seed=3)
        folder = tmp_path / entrant.name
        folder.mkdir()
        for part in trained.parts:
            part.save(folder)
        loaded = dict(given)
        exec("\n".join(trained.usage).replace("{folder}", str(folder)), loaded)
        # The last line once more, with the objects that were saved in the place of the loaded ones.
        first, *rest = trained.parts
        in_memory = {"model": first, "policy": first, "compressor": first, "inputs": rest[0] if rest else None}
        in_memory |= {"found": first}
        exec(trained.usage[-1], in_memory := {**loaded, **in_memory})
        answer = trained.usage[-1].partition(" = ")[0]
        np.testing.assert_array_equal(np.asarray(loaded[answer]), np.asarray(in_memory[answer]), err_msg=entrant.name)
