"""The whole road on a scripted model: labels, search, budgets, resumption, result, files."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scripted import LABELS, Scripted, Vectors, pile, uniform

import anytask
from anytask.core.errors import BadData
from anytask.incontext import Pipeline
from anytask.lm.protocol import BudgetExceeded, OptionScore
from anytask.tuning import prepare_tuning
from anytask.tuning.grid import Judged, Point
from anytask.tuning.labels import Unanswered, append_answer, bought, load_pile, read_answers, worth_labelling
from anytask.tuning.plan import tidied
from anytask.tuning.prune import prunable, prune
from anytask.tuning.race import smoothed_hits
from anytask.tuning.record import tunings_of

FEW = {"labels": 16, "max_k": 2, "embedder": Vectors()}


def few_shown_are_best(shown, described):
    return {0: 0.2, 1: 0.9, 2: 1.8, 4: 0.6}.get(shown, 0.5) + 0.6 * described


def tuned(lm=None, **changes):
    return anytask.tune_prompt(pile(), lm=lm or Scripted(few_shown_are_best), **{**FEW, **changes})


@pytest.fixture(scope="module")
def found():
    return tuned()


def test_the_prompt_that_is_best_is_found_with_few_of_the_calls(found):
    assert (found.chosen.k, found.chosen.description) == (2, "labels")
    assert found.best.accuracy == 1.0 > found.zero_shot.accuracy
    assert any(0 < row.asked < 16 for row in found.rows)  # losers were dropped
    assert found.nested > found.zero_shot.accuracy


def test_no_more_labels_are_bought_than_allowed():
    texts, labels = pile()
    asked = []

    def annotate(places):
        asked.extend(places)
        return [labels[i] for i in places]

    found = anytask.tune_prompt(texts, lm=Scripted(few_shown_are_best), annotate=annotate, **FEW)
    assert len(asked) == len(set(asked)) == 16
    assert list(found.task.labels) == [labels[i] for i in asked]


def test_a_budget_holds_and_is_said():
    lm = Scripted(few_shown_are_best)
    found = tuned(lm, budget={"calls": 60})
    assert lm.usage.total.calls <= 60
    assert "of the budget's 60 are left" in found.warnings[-1]
    with pytest.raises(BudgetExceeded, match="nothing could be asked"):
        tuned(budget={"tokens": 1})


def test_a_search_that_was_interrupted_goes_on_and_asks_nothing_twice(tmp_path, found):
    broken, whole = Scripted(few_shown_are_best, fails_after=150), Scripted(few_shown_are_best)
    with pytest.raises(KeyboardInterrupt):
        tuned(broken, store=tmp_path / "answers.sqlite")
    again = tuned(whole, store=tmp_path / "answers.sqlite")
    assert again.chosen == found.chosen and again.table().equals(found.table())
    asked = broken.usage.total.calls
    assert asked > 100 and whole.usage.total.calls == found.usage.calls - asked
    assert again.to_json()["calls"] == found.to_json()["calls"] == found.usage.calls


def test_a_budget_ends_a_resumed_search_where_it_ended_the_first(tmp_path):
    first = tuned(store=tmp_path / "answers.sqlite", budget={"calls": 200})
    lm = Scripted(few_shown_are_best)
    again = tuned(lm, store=tmp_path / "answers.sqlite", budget={"calls": 200})
    assert lm.usage.total.calls == 0 and again.table().equals(first.table())


def test_the_forecast_is_what_a_search_that_drops_nothing_asks():
    lm = Scripted(lambda shown, described: 1.0)
    plan = prepare_tuning(pile(), lm=lm, **FEW)
    told = plan.forecast.calls
    assert lm.usage.total.calls == 0
    found = plan.run()
    assert found.usage.calls <= told <= 1.01 * sum(cost.calls for cost in plan.costs.values())


def test_the_finished_share_only_grows(found):
    told = []
    tuned_again = prepare_tuning(pile(), lm=Scripted(few_shown_are_best), **FEW).run(told.append)
    assert told == sorted(told) and told[-1] == 1.0 and len(told) > 10
    assert tuned_again.chosen == found.chosen


def test_the_table_holds_all_prompts_and_the_plain_ways(found):
    table = found.table()
    assert list(table.columns) == ["prompt", "accuracy", "smoothed", "logprob", "tokens", "asked", "role"]
    assert (table.role == "best").sum() == 1 and (table.role == "plain").sum() == 3
    assert table.smoothed.dropna().is_monotonic_decreasing
    assert len(found.plot().data) == 3
    lengths = [row.tokens for row in found.front]
    assert lengths == sorted(lengths) and found.front[-1].smoothed == found.rows[0].smoothed


def test_a_prompt_that_says_one_thing_and_a_classifier_that_does_as_well_are_said():
    class Stubborn(Scripted):
        def _one(self, prompt, row):
            return super()._one("Input: sun", row)

    words = " ".join(tuned(Stubborn(lambda shown, described: 2.0)).warnings)
    assert "best answers 'warm' for 16 of 16 texts" in words


def test_what_is_handed_over_answers_as_the_search_did(found, tmp_path):
    found.save(tmp_path)
    texts, _ = pile()
    lm = Scripted(few_shown_are_best)
    loaded = Pipeline.load(tmp_path / "pipeline", lm=lm, embedder=Vectors())
    fresh = [text for text in texts if text not in found.task.texts]
    assert loaded.predict(fresh) == found.pipeline.predict(fresh)
    body = json.loads((tmp_path / "request.json").read_text())
    assert body["prompt"] == (tmp_path / "prompt.txt").read_text().rstrip("\n") and body["temperature"] == 0
    told = json.loads((tmp_path / "tuning.json").read_text())
    assert told["best"]["k"] == 2 and told["nested_leave_one_out"] == found.nested
    page = (tmp_path / "report.html").read_text()
    assert "Nested leave-one-out accuracy" in page and "Accuracy" in page
    assert "tune_prompt(" in (tmp_path / "command.txt").read_text()


def test_a_model_that_only_chats_is_asked_too(tmp_path):
    texts = [f"a {'fine' if i % 2 else 'bad'} film, number {i}" for i in range(40)]
    labels = ["positive" if i % 2 else "negative" for i in range(40)]
    found = anytask.tune_prompt((texts, labels), lm="sim:strong", **FEW)
    assert not any(row.point.calibrate or row.point.chat for row in found.rows)
    assert np.isnan(found.best.logprob) and found.best.smoothed == found.best.accuracy
    found.save(tmp_path)
    (message,) = json.loads((tmp_path / "request.json").read_text())["messages"]
    assert message["content"].endswith("(Answer with one of these and nothing else: negative, positive.)")


def test_inputs_are_shortened_at_last_where_that_is_wanted(found):
    shorter = tuned(compress=True)
    (rate,) = {row.point.rate for row in shorter.rows} - {1.0, 0.5}
    same = {row.point: row for row in found.rows}
    assert rate == 0.75 and {row.point for row in shorter.rows if row.point.rate == 1} == set(same)
    cut = [row for row in shorter.rows if row.point.rate < 1]
    assert all(row.tokens < same[replace(row.point, rate=1.0)].tokens for row in cut)


class Wordless(Scripted):
    """Surer with more labels in its prompt, and with fewer other words."""

    def _one(self, prompt, row):
        right = "warm" if "sun" in prompt.split("day")[-1] else "cold"
        worse = -4.0 - prompt.count("Label") + 0.05 * len(prompt.split()) + 2 * uniform(prompt)
        return {o: OptionScore(v, 1, 4, (v,)) for o in row for v in [-4.0 if o.strip() == right else worse]}


def test_a_pruned_prompt_is_judged_on_texts_that_steered_no_search():
    task, whole = prepare_tuning(pile(), lm=Wordless(few_shown_are_best), **FEW).task, Point(2, "fixed", "labels")
    before = Judged.blank(16)
    task.judge(whole, range(16), before)
    point, judged = prune(task, whole, 60)
    assert point == replace(whole, pruned=True) and judged.n == 14  # but for the two that the prompt shows
    asked = np.isfinite(judged.correct)
    assert np.nanmean(judged.tokens) < before.tokens[asked].mean() - 3
    assert smoothed_hits(judged.correct, judged.margin)[asked].mean() > 0.5
    assert task.prompts[point].count("{text}") == 1


def test_the_best_prompt_is_pruned_at_last_where_that_is_wanted(found, tmp_path):
    assert prunable(found.finalists)
    shorter = tuned(prune=30)
    (pruned,) = [row for row in shorter.rows if row.point.pruned]
    assert replace(pruned.point, pruned=False) in found.finalists
    assert shorter.chosen in (pruned.point, found.chosen)
    again = replace(shorter, finalists=[pruned.point])  # hand it over, whether it won or not
    again.save(tmp_path)
    loaded = Pipeline.load(tmp_path / "pipeline", lm=Scripted(few_shown_are_best), embedder=Vectors())
    assert loaded.prompt_ == again.pipeline.prompt_ == shorter.task.prompts[pruned.point]
    assert "{input}" in (tmp_path / "prompt.txt").read_text()


def test_labels_that_are_no_words_are_tried_as_words():
    assert tidied(["good", "bad"]) is None
    assert tidied(["a_b", "a-b"]) is None  # two would become one
    texts, labels = pile()
    found = anytask.tune_prompt(
        (texts, [f"IS_{one}".upper() for one in labels]), lm=Scripted(few_shown_are_best), **FEW
    )
    assert {row.point.words for row in found.rows} == {"", "tidied labels"}


# -- labels -----------------------------------------------------------------------------------------------------------


def test_labels_come_from_the_column_then_from_answers_then_from_who_is_asked(tmp_path):
    data = load_pile([*"abcd"])
    append_answer(tmp_path / "said.jsonl", {"text": "b", "label": "B"})
    append_answer(tmp_path / "said.jsonl", {"text": "c", "label": ""})  # wanted, and not given yet
    answers = read_answers(tmp_path / "said.jsonl")
    assert answers == {"b": "B"}
    with pytest.raises(Unanswered, match="2 of 3 texts") as error:
        bought(data, [1, 2, 3], answers, None)
    assert error.value.texts == ["c", "d"]
    assert bought(data, [1, 2, 3], answers, lambda places: [f"asked {i}" for i in places]) == {
        1: "B",
        2: "asked 2",
        3: "asked 3",
    }


def test_where_nobody_can_be_asked_only_labelled_texts_are_chosen(tmp_path):
    texts, labels = pile()
    rows = [{"text": t, "label": y if i < 20 else None} for i, (t, y) in enumerate(zip(texts, labels))]
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = prepare_tuning(path, lm=Scripted(few_shown_are_best), **FEW)
    assert set(plan.task.texts) <= set(texts[:20])


def test_in_a_small_pile_texts_are_drawn():
    data, vectors = load_pile(pile(20)[0]), np.ones((20, 2))
    drawn = worth_labelling(data, 16, vectors, 0)
    assert len(set(drawn)) == 16 and drawn != worth_labelling(data, 16, vectors, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": 41}, "41 labels are wanted of 40 texts"),
        ({"labels": 3}, "labels must be"),
        ({"label": 16}, "tune-prompt has no option 'label'; did you mean 'labels'?"),
        ({"choices": "warm,mild"}, "the label 'cold' is not one of the choices: warm, mild"),
        ({"verbalizer": {"warm": "hot"}}, "verbalizer must name all labels"),
        ({"prune": 40, "lm": "sim:strong"}, "gives no log-probabilities"),
        ({"chat_template": True}, "scripted has no chat template"),
        ({"budget": {"calls": -1}}, "a budget of calls is a number >= 0"),
    ],
)
def test_bad_input_is_one_line_before_the_model_is_asked(changes, words):
    lm = Scripted(few_shown_are_best)
    with pytest.raises(ValueError, match=words) as error:
        tuned(**{"lm": lm, **changes})
    assert "\n" not in str(error.value) and lm.usage.total.calls == 0


def test_one_label_for_all_is_refused():
    with pytest.raises(BadData, match="all 16 labels that were bought are 'cold'"):
        anytask.tune_prompt((pile()[0], ["cold"] * 40), lm=Scripted(few_shown_are_best), **FEW)


def test_the_untuned_default_and_zero_shot_stand_beside(found):
    assert found.references.keys() == {"zero-shot", "untuned default"}
    assert found.zero_shot.asked == found.untuned.asked == 16
    assert {row.point for row in found.rows} >= {Point()}
    assert found.task.choices == sorted(LABELS)


# -- as others see it -------------------------------------------------------------------------------------------------


def test_a_tuning_that_runs_is_seen_in_its_store_and_one_that_ended_with_its_answer(tmp_path, monkeypatch):
    assert tunings_of(tmp_path / "none.sqlite") == []
    monkeypatch.setattr("anytask.tuning.plan.RECORD_EVERY", 0)
    with pytest.raises(KeyboardInterrupt):
        tuned(Scripted(few_shown_are_best, fails_after=150), store=tmp_path / "answers.sqlite")
    (running,) = tunings_of(tmp_path / "answers.sqlite")
    assert 0 < running["share"] < 1 and not running["sentences"] and len(running["prompts"]) > 3
    found = tuned(store=tmp_path / "answers.sqlite")
    (ended,) = tunings_of(tmp_path / "answers.sqlite")
    assert ended["share"] == 1.0 and ended["sentences"] == found.sentences()
    assert [row["prompt"] for row in ended["prompts"] if row["role"] == "best"] == [found.best.name]
    assert all("Label:" in row["example"] for row in ended["prompts"])
