"""What claims ask of their problems is there, and evidence holds what other programs read."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import pytest

from anytask import bench, catalogue, claims, problems
from anytask.claims.base import Beats, Claim, Experiment, RealTrial
from anytask.claims.evidence import in_words, next_look, read_evidence, write_evidence
from anytask.claims.figure import evidence_figure
from anytask.claims.verify import verify, verify_real
from anytask.lm.protocol import Capabilities
from anytask.problems.base import Entrant, Metric, Outcome, Problem
from anytask.problems.options import Options
from sample_evidence import sample

#: What problems settle for entrants that do not run without.
GIVEN = {"lm": SimpleNamespace(capabilities=Capabilities(logprobs=True)), "prompt": "{text}", "evaluator": len}


def parts(key):
    claim = claims.get(key)
    return [claim, claim.real] if isinstance(claim.real, RealTrial) else [claim]


@pytest.mark.parametrize("key", claims.KEYS)
def test_options_and_metrics_of_experiments_are_known_to_their_problems(key):
    for part in parts(key):
        known = {}
        for experiment in part.experiments:
            problem = problems.get(experiment.problem) if isinstance(experiment.problem, str) else experiment.problem
            problem.check_options(experiment.reduced().options)
            problem.check_options(experiment.options)
            known[experiment.name] = {metric.key for metric in problem.metrics}
        first = part.experiments[0].name
        for one in (*part.headline, *getattr(part, "components", ()), *getattr(part, "sizes", ())):
            wanted = {one.metric, getattr(one, "rival_metric", None) or one.metric}
            assert wanted <= known[one.experiment or first]


@pytest.mark.parametrize("key", [key for key in claims.KEYS if claims.get(key).source == "abstract"])
def test_a_class_that_rests_on_an_abstract_says_so(key):
    assert "source: abstract" in Entrant(key, catalogue.get(key).entry).load().__doc__


@pytest.mark.parametrize("key", claims.KEYS)
def test_entrants_can_be_made_in_full_and_for_a_quick_look(key):
    for experiment in (experiment for part in parts(key) for experiment in part.experiments):
        if (key, experiment.name) == ("gpt3", "hidden tasks"):
            continue  # its entrants' parameters are the size of the model that the problem trains
        reduced = experiment.reduced()
        for entrant in (*experiment.entrants, *reduced.entrants):
            made = entrant.make(**GIVEN)
            known = made.get_params() if hasattr(made, "get_params") else {}
            assert set(entrant.after) <= set(known)
        unused = set(experiment.quick_params)
        for entrant in reduced.entrants:
            unused -= set(entrant.params)
        assert not unused  # a name that no class has


class Options_(Options):
    """None."""


class Toy(Problem):
    """Entrants whose values depend on their names and on the seed alone."""

    key = "toy"
    title = "Toy"
    metrics = (Metric("accuracy", "Accuracy"),)
    options_class = Options_
    made: ClassVar[list[tuple[str, int]]] = []

    def load(self, source, **options):
        return SimpleNamespace(name="toy", fingerprint="toy", describe=dict, options=Options_())

    def baselines(self, data):
        return ()

    def run(self, entrant, data, seed, progress=None):
        self.made.append((entrant.name, seed))
        return Outcome({"accuracy": {"mean": 0.9, "net": 0.5}[entrant.name] + seed % 10 / 100})


@pytest.fixture(autouse=True)
def in_this_process(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYTASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench, "compare", partial(bench.compare, backend="sequential"))
    Toy.made.clear()


def cheap_claim():
    entrants = (Entrant("mean", "fractions:Fraction"), Entrant("net", "decimal:Decimal", role="baseline"))
    toy = Experiment("toy", Toy(), "toy", entrants, plain="mean")
    check = Beats("mean", ("net",), "accuracy", sentence="the mean beats the net", expected="much")
    real = RealTrial("toy", (toy,), (check,), seeds=2)
    return Claim("tame", "a toy", (toy,), (check,), (check,), real=real, source="abstract", tried="nothing")


def test_evidence_holds_what_other_programs_read(tmp_path):
    found = verify(cheap_claim(), seeds=3, jobs=1)
    assert found["outcome"] == found["headline"][0]["outcome"] == "shown"
    assert {"experiment", "better", "baseline", "metric", "worth", "difference", "outcome", "expected"} <= set(
        found["headline"][0]
    )
    assert {"sentence", "outcome", "difference"} <= set(found["components"][0])
    assert {"experiment", "metric", "role", "name", "seed", "value"} == set(found["rows"][0])
    assert sorted({row["seed"] for row in found["rows"]}) == found["seeds"] == [0, 1, 2]
    assert found["plain"][0]["beats_everybody"] and any("too easy" in sentence for sentence in in_words(found))
    assert any("1 of 1 components matter" in sentence for sentence in in_words(found))
    assert len(evidence_figure(found).layout.annotations) == 2
    json.dumps(found, allow_nan=False)
    assert next_look("tame", tmp_path) == 1
    write_evidence(found, tmp_path)
    assert next_look("tame", tmp_path) == 2 and read_evidence("tame", tmp_path) == found


def test_words_tell_comparisons_apart():
    found = sample()
    first, reference = found["headline"][0], found["plain"][0]
    changed = {
        "headline": [first, {**first, "sentence": "in one pass", "outcome": "contradicted"}],
        "components": [first, {**first, "sentence": "a part", "outcome": "contradicted"}],
        "plain": [reference, {**reference, "beats_everybody": True}],
    }
    words = in_words({**found, **changed})
    assert words[0].endswith("tame beats its rivals: shown; in one pass: contradicted.")
    assert words[1] == "1 of 2 components matter here. What does harm: a part."
    assert [word for word in words if "plain reference" in word] == [
        "The plain reference (nearest mean) reaches 0.550 on digits (accuracy); it beats everybody of this comparison: "
        "in one pass."
    ]


def test_a_quick_look_takes_its_own_parameters_where_a_class_has_them():
    claim = cheap_claim()
    claim = replace(claim, experiments=(replace(claim.experiments[0], quick_params={"numerator": 1}),))
    for quick, params in ((True, [{"numerator": 1}, {}]), (False, [{}, {}])):
        found = verify(claim, quick=quick, seeds=1, jobs=1)
        assert [entrant["params"] for entrant in found["experiments"][0]["entrants"]] == params


def test_looks_take_new_seeds_and_an_interrupted_look_goes_on():
    claim = cheap_claim()
    trial = verify_real(claim, look=2)
    assert Toy.made == [("mean", 110), ("net", 110), ("mean", 111), ("net", 111)]
    assert sorted({row["seed"] for row in trial["rows"]}) == [110, 111]
    assert trial["outcome"] == "measured" and trial["n"] == 2
    *_, drawn = evidence_figure({**sample(), "real": trial}).layout.annotations
    assert drawn.text == "<b>measured</b>  Real trial: the mean beats the net"

    made = list(Toy.made)
    assert verify_real(claim, look=2)["rows"] == trial["rows"]
    assert Toy.made == made  # nothing was made again


def test_a_claim_without_a_real_trial_says_why():
    with pytest.raises(ValueError, match="no trial on real weights or data: no trial is written yet"):
        verify_real(Claim("tame", "s", cheap_claim().experiments, cheap_claim().headline))
