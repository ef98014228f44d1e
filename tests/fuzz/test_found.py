"""What the fuzzing found, one case of each kind: refused in words that name what was given."""

import gymnasium
import numpy as np
import pytest
import torch
from fingerprints import fingerprint

from anytask import bench, control, evaluate, incontext, lm, models, prompts, robust
from anytask.bench.planning import plan
from anytask.bench.saving import check_folder
from anytask.continual import TAME, MagnitudeGate, RetrainedModel
from anytask.control.adapters import find_spec
from anytask.control.envs.reach import WaypointReach
from anytask.control.images import filmstrip, save_film
from anytask.core import files, persistence, rng
from anytask.datasets.episode_files import load_episodes, save_episodes
from anytask.evaluate.nero.reduction import reduce_orbits
from anytask.models.loading import read_pretrained
from fuzz import calls, world
from fuzz.areas import methods

ENV, FRAME = world.ENV, np.zeros((8, 8, 3), np.uint8)


def result():
    return evaluate.evaluate(world._probabilities, world.images(), "flips")


def toy():
    return world._comparison().data


def search(**options):
    model = world._scripted()
    made = prompts.PromptQuine(model.prompt, verbalizers=(" A", " B"))
    return made.search(model, model.examples(4, "search"), **options)


def cache(**options):
    return lm.ReplyCache("replies.sqlite", **options)


def box():
    return gymnasium.spaces.Box(-1, 1, (2,), np.float32)


def _single():
    world = control.SingleEnv(WaypointReach, seed=0)
    world.reset()
    return world


FOUND = {
    # what names no file or folder
    "save": (lambda: persistence.save_tree(3, {}), "folder .* got 3"),
    "load": (lambda: robust.SLA.load(True), "folder .* got True"),
    "load bytes": (lambda: persistence.load_tree(b"x"), "folder .* got b'x'"),
    "no name": (lambda: persistence.load_tree("a\0b"), "folder holds a character"),
    "no text": (lambda: files.write_whole("\ud800", ""), "path holds a character"),
    "store": (lambda: bench.RunStore(1.5), "path .* got 1.5"),
    "cache": (lambda: lm.ReplyCache([]), r"path .* got \[\]"),
    "winner": (lambda: check_folder(b""), "folder .* got b''"),
    "report": (lambda: bench.compare("task-stream", "digits", report=5), "report .* got 5"),
    "state file": (lambda: search(state_file=3), "state_file .* got 3"),
    "episodes": (lambda: load_episodes(3.5), "path .* got 3.5"),
    "no episodes": (lambda: save_episodes("a.npz", 3), "episodes must be a Episodes, got 3"),
    "film": (lambda: save_film(3, [FRAME]), "path .* got 3"),
    "model": (lambda: read_pretrained(3, dict), "model .* got 3"),
    "prompt": (lambda: prompts.SearchResult.load(3), "folder .* got 3"),
    # arguments of another kind
    "seed": (lambda: rng.derive("1"), "seed .* got '1'"),
    "plan of texts": (
        lambda: plan(world._comparison().problem, world._comparison().data, "..", 1),
        "entrants must hold several .* got '..'",
    ),
    "plan of a number": (lambda: plan(3, None, []), "problem .* got 3"),
    "ranking": (lambda: world._comparison().ranking("all"), "group .* got 'all'"),
    "env": (lambda: control.ScriptedFetchReach(ENV), "env .* got 'anytask"),
    "noise": (lambda: control.ScriptedReach(world._world(), noise="0"), "noise .* got '0'"),
    "speed": (lambda: control.ScriptedReach(world._world(), speed="fast"), "speed .* got 'fast'"),
    "environment id": (lambda: find_spec("Reach v0 "), "'Reach v0 ' is no environment"),
    "reset options": (lambda: world._world().reset(options=[1]), r"options .* got \[1\]"),
    "other reset options": (lambda: control.make("CartPole-v1").reset(options=[1]), r"options .* got \[1\]"),
    "seed of one": (lambda: control.SingleEnv(WaypointReach).reset(seed={}), "seed .* got {}"),
    "batched": (lambda: control.SingleEnv("x"), "batched .* got 'x'"),
    "row": (lambda: world._started().image(row=0.0), "2 environments, got index 0.0"),
    "state": (lambda: world._started().restore(3), "state .* got 3"),
    "action space": (lambda: control.BatchedEnv.__init__(world._world(), 2, box(), (), 5), r"action_space .* got \(\)"),
    "env options": (lambda: control.PPO(device="cpu").train(ENV, 8, env_options="x"), "env_options .* got 'x'"),
    "frames": (lambda: filmstrip(None), "frames .* got None"),
    "height": (lambda: filmstrip([FRAME], height=5000), "height must be from 16 to 4320"),
    "labels": (lambda: filmstrip([FRAME], labels=6), "labels .* got 6"),
    "images": (lambda: robust.SLA().images("a"), "X"),
    "shape": (lambda: robust.SLA().check_shape((4, 4, {})), r"input_shape\[2\] .* got {}"),
    "unlearning": (
        lambda: RetrainedModel().forget("a", forget=None, retain=None, forget_labels=None, retain_labels=None),
        "model must be a Module, got 'a'",
    ),
    "gate": (lambda: MagnitudeGate("a", None), "model must be a Module, got 'a'"),
    "entrants": (lambda: bench.compare("task-stream", "digits", np.array(1.0)), "systems must be 'all' or a list"),
    "share": (lambda: control.learning_curves({"a": ([0], [1])}, share=[]), "share must be True or False"),
    "infinite images": (lambda: robust.SLA().images(np.full((2, 1, 4, 4), np.inf)), "X contains NaN or infinity"),
    "task": (lambda: incontext.UDR().add_task(0), "task .* got 0"),
    "no data": (lambda: evaluate.evaluate(world._probabilities, ()), "data must be an array or"),
    "elements": (lambda: result().orbits([0], [10**6]), "elements, got index 1000000"),
    "metric": (lambda: result().intensity(metric={}), "no metric {}"),
    "orbits": (lambda: reduce_orbits(torch.zeros(3, 3, device="meta")), "orbits must be a dense tensor"),
    "cyclic": (lambda: evaluate.cyclic(None), "n must be an integer"),
    "count of worlds": (lambda: control.make(ENV, 10**400), r"num_envs must be an integer below 2\*\*63"),
    "seeds": (lambda: control.make(ENV, 2, seed=[[1], [1, 2]]), "seed is no array"),
    "deterministic": (lambda: world._policy().act(None, deterministic=[]), r"deterministic must be True or False"),
    "render mode": (lambda: control.make(ENV, render_mode=np.zeros(2)), "render_mode must be one of"),
    "round": (lambda: robust.SLA().images(None), "X"),
    "confidence": (lambda: control.EpisodeResults(*np.ones((3, 4))).interval("0.9"), "confidence .* got '0.9'"),
    "curves": (lambda: control.learning_curves({"a": 3}), "a curve must be a pair"),
    "class": (lambda: result().rows(class_=[]), "class_ must be one label"),
    "keys": (lambda: bench.RunStore(":memory:").check_kept(3.5), "keys must hold several"),
    "flag": (lambda: bench.RunStore(":memory:").runs_of([], details=[]), "details must be True or False"),
    "run": (lambda: bench.Run.from_dict(None), "values .* got None"),
    "large key": (lambda: bench.RunStore(":memory:").delete(10**400), "cannot be used as a store"),
    # language models
    "prompts": (lambda: incontext.GPT3(world._lm()).judge(True, []), "prompts must hold several"),
    "demonstrations": (lambda: incontext.GPT3(world._lm()).assemble("ab", "c"), "demos must hold several"),
    "limits": (lambda: lm.Budget.of(3), "limits .* got 3"),
    "estimate": (lambda: lm.SimulatedChat().estimate(None), "prompts must be a sequence"),
    "excluded": (lambda: lm.BM25Index(["a", "b"]).search(["a"], 1, [[1], [1, 2]]), "exclude is no array"),
    "shuffle": (lambda: lm.BM25Index(["a", "b"]).search(["a"], 1, shuffle=b"x"), "shuffle .* got b'x'"),
    "ids": (lambda: world._lm().decode({"a"}), "ids must hold objects"),
    "layer": (lambda: world._lm().hidden_states("the day", [(0, 3)], layer=-1.0), "layer .* got -1.0"),
    "real model": (lambda: models.load(np.zeros((2, 0))), "name must be a str"),
    "network seed": (lambda: models.build_backbone("mlp", (4,), 3, seed="a"), "seed must be an integer, got 'a'"),
    "input shape": (lambda: models.build_backbone("mlp", 4, 3, seed=0), "input_shape must be a tuple, got 4"),
    "setting of a group": (lambda: TAME(schedule={"": 3}), "ScheduleSettings has no setting ''"),
    "ragged action": (lambda: _single().step([[], [1.0]]), "action is no array"),
    "format": (lambda: lm.ChatRequest(({},), response_format=np.zeros(2)), "response_format must be None"),
    "encode": (lambda: lm.SimulatedChat().encode("a"), "sim-medium has no tokenizer"),
    "decode": (lambda: lm.SimulatedChat().decode([1]), "sim-medium has no tokenizer"),
    "count": (lambda: lm.SimulatedChat().count_tokens(False), "text must be a string"),
    "chat": (lambda: lm.SimulatedChat().chat(3.0), "request .* got 3.0"),
    "many": (lambda: lm.SimulatedChat().chat_many({"a"}), "requests must hold objects"),
    "mode": (lambda: cache(mode=np.zeros(2)), "mode is 'off'"),
    "request": (lambda: cache().get("m", {"a": print}, 0), "a request must be JSON"),
    "no request": (lambda: cache().get("m", 3, 0), "request .* got 3"),
    "reply": (lambda: cache().put("m", {}, 0, 3), "reply .* got 3"),
    "latency": (lambda: lm.ChatReply((), latency_s=float("nan")), "latency_s is NaN"),
    "usage": (lambda: lm.ChatReply((), usage=[]), r"usage must be a Usage, got \[\]"),
    "score": (lambda: lm.OptionScore(-1.0, None, 4), "n_tokens .* got None"),
}


@pytest.mark.parametrize("name", FOUND)
def test_it_is_refused_in_words(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, words = FOUND[name]
    with pytest.raises((ValueError, TypeError, lm.MissingCapability), match=words) as refused:
        call()
    assert calls.verdict(refused.value)[0] == "clear"


@pytest.mark.parametrize("kind", ["single", "vector"])
def test_refused_options_of_a_reset_leave_the_seeds_as_they_were(kind):
    world = control.SingleEnv(WaypointReach, seed=0) if kind == "single" else control.make("CartPole-v1")
    before = fingerprint(world)
    with pytest.raises(TypeError, match="options"):
        world.reset(seed=1, options=[1])
    assert fingerprint(world) == before


def test_a_transfer_to_an_unknown_simulator_begins_nowhere():
    policy = world.reach("control.Galactic").ready()
    before = fingerprint(policy)
    with pytest.raises(ValueError, match="no environment"):
        policy.transfer(ENV, "Reach v0")
    assert fingerprint(policy) == before


@pytest.mark.parametrize("name", ["LAF", "RandomLabels", "Untouched"])
def test_what_keeps_nothing_has_nothing_to_save(name):
    from anytask import continual

    assert not hasattr(getattr(continual, name), "save")


def test_an_interrupted_chunk_of_tame_leaves_no_trace():
    X, y = world.rows()
    model = TAME.from_preset("small", device="cpu").partial_fit(X, y)
    before = fingerprint(model)
    with pytest.raises(calls.Interrupted), methods._interrupted(1):
        model.partial_fit(X, y)
    assert fingerprint(model) == before
