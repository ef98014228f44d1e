"""Few-shot text: every entrant buys the same labels, sees the same pool, and is measured on the same queries."""

import gc
import json
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from anytask import catalogue, problems
from anytask.core.errors import BadData
from anytask.core.progress import silent
from anytask.datasets.attribute_language import AttributeLanguage
from anytask.lm.protocol import Capabilities
from anytask.problems.base import Entrant
from anytask.problems.few_shot_text.rehearsal import foretold
from anytask.problems.few_shot_text.stages import leave_one_out, prepared

FEW = {"lm": "tiny:icl", "labels": 6, "k": 3, "max_test": 8, "search_budget": 8}


@pytest.fixture(scope="module")
def rows():
    language = AttributeLanguage(seed=7)
    return [(s.text, s.attributes["topic"]) for s in (language.sentence(held_out=True) for _ in range(60))]


@pytest.fixture(scope="module")
def file(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "mine.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in rows))
    return path


@pytest.fixture(scope="module")
def problem():
    return problems.get("few-shot-text")


@pytest.fixture(scope="module")
def data(problem, file):
    return problem.load(file, **FEW)


def measured(outcome):
    """The metrics but for the time."""
    return {name: value for name, value in outcome.metrics.items() if name != "query_seconds"}


def test_pool_and_test_are_disjoint_and_depend_on_the_seed(data):
    pool, test = data.split(0)
    assert not set(pool) & set(test) and len(test) == 8
    assert data.split(0)[1].tolist() == test.tolist()
    assert data.split(1)[1].tolist() != test.tolist()


@pytest.mark.parametrize("name", ["zero-shot", "random demonstrations", "BM25 neighbours", "contextual calibration"])
def test_baselines_run_and_buy_no_more_than_allowed(problem, data, name):
    entrant = next(e for e in problem.baselines(data) if e.name == name)
    outcome = problem.run(entrant, data, 0)
    assert 0 <= outcome.metrics["accuracy"] <= 1
    assert outcome.metrics["labels"] == (0 if name == "zero-shot" else 6)
    assert outcome.kind == "tiny"
    assert outcome.metrics["lm_calls"] >= 8
    assert json.dumps(outcome.details)


@pytest.mark.parametrize("key", ["gpt3", "votek", "udr", "promptquine", "llmlingua2"])
def test_each_system_takes_part_as_the_stage_that_it_is(problem, data, key):
    card = catalogue.get(key)
    outcome = problem.run(Entrant(key, card.entry, key=key), data, 0)
    assert outcome.metrics["labels"] == 6
    stages = [stage["stage"] for stage in outcome.details["stages"]]
    wanted = {"votek": "select", "udr": "retrieve", "promptquine": "prune", "llmlingua2": "compress"}.get(key)
    assert wanted is None or wanted in stages


def test_the_same_seed_gives_the_same_outcome(problem, data):
    entrant = Entrant("few-shot", "anytask.incontext:Pipeline")
    assert measured(problem.run(entrant, data, 3)) == measured(problem.run(entrant, data, 3))


def test_buying_too_many_labels_is_an_error(problem, data):
    class Greedy:
        def fit(self, texts, annotate):
            annotate(range(7))

    entrant = Entrant("greedy", f"{__name__}:Greedy")
    object.__setattr__(entrant, "load", lambda: Greedy)
    with pytest.raises(RuntimeError, match="7 labels, and 6 may be bought"):
        problem.run(entrant, data, 0)


def test_rows_with_choices_are_multiple_choice(problem, rows, tmp_path):
    path = tmp_path / "choices.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": y, "choices": [y, "none"]}) + "\n" for t, y in rows))
    data = problem.load(path, **FEW)
    assert data.options.kind == "multiple-choice"
    outcome = problem.run(Entrant("few-shot", "anytask.incontext:Pipeline"), data, 0)
    assert 0 <= outcome.metrics["accuracy"] <= 1
    search = Entrant("promptquine", "anytask.prompts:PromptQuine")
    assert "one set of labels" in problem.refuses(search, data)


def test_free_answers_are_generated(problem, rows, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": f"{y} {i}"}) + "\n" for i, (t, y) in enumerate(rows)))
    data = problem.load(path, **FEW)
    assert data.options.kind == "generation"
    outcome = problem.run(Entrant("few-shot", "anytask.incontext:Pipeline"), data, 0)
    assert "token_f1" in outcome.metrics


def test_few_shot_is_one_entrant_with_the_labels_and_draws_of_a_plain_pipeline(problem, data):
    gpt3, plain = Entrant("gpt3", "anytask.incontext:GPT3"), Entrant("plain", "anytask.incontext:Pipeline")
    assert measured(problem.run(gpt3, data, 1)) == measured(problem.run(plain, data, 1))
    alike = [e.name for e in problem.baselines(data) if (e.entry, e.settings) == (gpt3.entry, gpt3.settings)]
    assert alike == ["random demonstrations"]  # left out where gpt3 takes part: it is the same entrant


def test_few_demonstrations_are_shown_unless_all_that_fit_are_wanted(problem, file):
    gpt3, few = Entrant("gpt3", "anytask.incontext:GPT3"), {**FEW, "labels": 12, "max_test": 2}
    del few["k"]
    examples = [problem.run(gpt3, problem.load(file, **few, **k), 0).details["examples"] for k in ({}, {"k": "max"})]
    assert [one[0]["prompt"].count("Label:") for one in examples] == [8 + 1, 12 + 1]


def test_answers_that_are_all_alike_are_said(problem, data):
    class Same:
        def fit(self, X, y):
            self.answer_ = y[0]

        def predict(self, X):
            return [self.answer_] * len(X)

    entrant = Entrant("same", f"{__name__}:Same")
    object.__setattr__(entrant, "load", lambda: Same)
    runs = [
        SimpleNamespace(entrant_name=e.name, status="done", details=problem.run(e, data, 0).details)
        for e in (entrant, Entrant("gpt3", "anytask.incontext:GPT3"))
    ]
    (warning,) = problem.warnings(data, runs)
    assert warning.startswith("same answers '") and " for 8 of 8 texts, of which " in warning
    titles = [title for title, _, figure in problem.figures(data, runs) if figure.to_json()]
    assert titles == ["What they answer", "What they take for what"]
    classes, shown = data.choices, np.array(runs[0].details["confusion"])
    right = [data.source.labels[i] for i in data.split(0)[1]]
    assert shown.shape == (len(classes), len(classes) + 1) and not shown[:, -1].any()
    assert shown.sum(axis=1).tolist() == [right.count(label) for label in classes]


def shown(problem, file, entrant, **options):
    """The first prompts and what was measured, with these options."""
    outcome = problem.run(entrant, problem.load(file, **FEW | options), 0)
    return [one["prompt"] for one in outcome.details["examples"]], outcome


def test_demonstrations_are_drawn_for_each_query_fixed_or_retrieved(problem, file):
    gpt3 = Entrant("gpt3", "anytask.incontext:GPT3")

    def blocks(**options):
        return [prompt.rpartition("Input:")[0] for prompt in shown(problem, file, gpt3, **options)[0]]

    assert len(set(blocks())) > 1 and len(set(blocks(demos="fixed"))) == 1
    near = Entrant("BM25 neighbours", "anytask.incontext:Pipeline", {"retrieve": "bm25"})
    assert shown(problem, file, gpt3, demos="bm25")[0] == shown(problem, file, near)[0]
    for demos, left in (("auto", "random demonstrations"), ("fixed", "fixed demonstrations"), ("bm25", None)):
        alike = [
            e.name
            for e in problem.baselines(problem.load(file, **FEW, demos=demos))
            if (e.entry, e.params) == (gpt3.entry, {})
        ]
        assert alike == ([left] if left else [])


def test_k_is_chosen_by_leave_one_out_on_the_bought_labels(problem, file):
    for entry in ("anytask.incontext:GPT3", "anytask.incontext:Pipeline"):
        prompts, outcome = shown(problem, file, Entrant("few", entry), k="auto")
        (note,) = outcome.notes
        k = int(note.removeprefix("k=").partition(" ")[0])
        assert k in (0, 1, 2, 4) and [prompt.count("Label:") for prompt in prompts] == [k + 1] * 3
        assert outcome.metrics["labels"] == 6 and outcome.metrics["lm_calls"] <= 4 * 6 + 8


def test_the_learner_keeps_the_k_that_answers_the_others_best():
    class Learner:
        def set_params(self, k):
            self.k = k

        def answer(self, texts, options):
            right = {0: 1, 1: 3, 2: 4, 4: 4}[self.k]
            said = texts[:right] + ["wrong"] * (len(texts) - right)
            return [SimpleNamespace(output=one, scores={}) for one in said]

    learner, texts = Learner(), list("abcdefg")
    learner.k = 8
    assert leave_one_out(learner, texts, texts, None) == learner.k == 2  # as many as with 4, and shorter


def test_description_template_and_calibration_reach_every_prompt(problem, file):
    entrant = Entrant("gpt3", "anytask.incontext:GPT3")
    how = {"description": "Name the topic.", "template": "Q {input}\nA {output}", "calibrate": True}
    prompts, outcome = shown(problem, file, entrant, **how)
    assert all(prompt.startswith("Name the topic.\n\nQ ") and prompt.endswith("\nA") for prompt in prompts)
    assert outcome.metrics["lm_calls"] > 8  # queries without content beside the 8
    assert "contextual calibration" not in [e.name for e in problem.baselines(problem.load(file, **FEW | how))]


@pytest.mark.parametrize("name", ["zero-shot", "random demonstrations", "fixed demonstrations", "promptquine"])
def test_what_a_run_will_ask_of_the_model_is_told_before(problem, file, name):
    data = problem.load(file, **FEW | {"max_test": 30, "search_budget": 20})
    promptquine = Entrant(name, "anytask.prompts:PromptQuine")
    entrant = next((e for e in problem.baselines(data) if e.name == name), promptquine)
    told, used = foretold([entrant, entrant], data), problem.run(entrant, data, 0).metrics
    assert told.seconds > 0 and used["lm_calls"] < told.calls < 4 * used["lm_calls"]
    assert used["lm_tokens"] < told.total_tokens < 4 * used["lm_tokens"]  # two runs, within a factor of two
    assert problem.forecast([entrant], data) == "", "a tiny model costs nothing worth a word"


def test_progress_is_told_inside_every_stage(problem, file):
    data = problem.load(file, **FEW | {"lm": "tiny:icl?batch_tokens=30", "k": "auto", "search_budget": 20})
    udr = Entrant("udr", "anytask.incontext:UDR", {"steps": 2, "rounds": 2})
    few = Entrant("gpt3", "anytask.incontext:GPT3")
    for entrant in (few, udr, Entrant("promptquine", "anytask.prompts:PromptQuine")):
        told = []
        problem.run(entrant, data, 0, progress=told.append)
        assert told == sorted(told) and told[-1] == 1
        inside = [share for share in told if 0 < share < 1]
        assert len({round(share, 3) for share in inside if share < problem.train_share}) >= 3, entrant
        assert len({round(share, 3) for share in inside if share > problem.train_share}) >= 3, entrant


def test_a_model_that_was_read_for_the_checks_is_freed_before_others_read_it(problem, file):
    data = problem.load(file, **FEW)
    read = weakref.ref(data.options.model)
    assert read() is data.options.model, "a process reads it once"
    problem.release(data)
    gc.collect()
    assert read() is None


def test_balanced_demonstrations_are_as_many_of_each_label(problem):
    few = FEW | {"labels": 16, "k": 8}
    data, drawn, own = (problem.load("reviews", **few, balanced=which) for which in (True, False, None))
    entrants = [Entrant("gpt3", "anytask.incontext:GPT3"), Entrant("plain", "anytask.incontext:Pipeline")]
    entrants.append(Entrant("fixed", "anytask.incontext:GPT3", {"demos": "fixed"}))

    def shares(data, entrant):
        prompts = [one["prompt"] for seed in (0, 1) for one in problem.run(entrant, data, seed).details["examples"]]
        return {prompt.count("Label: positive") for prompt in prompts}

    for entrant in entrants:
        assert shares(data, entrant) == {4} != shares(drawn, entrant)
        assert (shares(own, entrant) == {4}) is (entrant.name == "fixed"), "where one set is shown to all"
    pruned = Entrant("promptquine", "anytask.prompts:PromptQuine")
    learner = prepared(pruned, data, data.split(0)[0], 0, silent).system
    assert sum(learner.demos_[i].output == "positive" for i in learner._ranked("?")[:8]) == 4


def test_systems_that_are_stages_take_part_as_one_pipeline(problem, data):
    votek, short, udr = (Entrant(c.key, c.entry, key=c.key) for c in map(catalogue.get, ("votek", "llmlingua2", "udr")))
    stacked = problem.stacked([votek, short])
    assert stacked.name == "votek+llmlingua2" and problem.refuses(stacked, data) is None
    stages = {stage["stage"]: stage["method"] for stage in problem.run(stacked, data, 0).details["stages"]}
    assert (stages["select"], stages["compress"]) == ("VoteK", "LLMLingua2")
    gpt3 = Entrant("gpt3", "anytask.incontext:GPT3")
    for others in ([gpt3], [udr]):
        with pytest.raises(ValueError, match="one system each to select, retrieve, prune, compress; udr is retrieve"):
            problem.stacked([udr, *others])


@pytest.fixture(scope="module", params=["surrogate", "long"])
def one_bad_row(request, rows, tmp_path_factory):
    path, texts = tmp_path_factory.mktemp("bad") / "bad.jsonl", [text for text, _ in rows]
    texts[5] = "cut emoji \ud83d end" if request.param == "surrogate" else "word " * 5000
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, (_, y) in zip(texts, rows)))
    return path


def test_one_bad_row_is_named_at_once_or_left_out_or_cut(problem, one_bad_row):
    with pytest.raises(BadData, match=r"bad\.jsonl, line 6.*bad_rows=skip"):
        problem.load(one_bad_row, **FEW)
    for bad_rows, n, word in (("skip", 59, "left out"), ("cut", 60, "cut")):
        data = problem.load(one_bad_row, **FEW, bad_rows=bad_rows)
        assert len(data.source) == n
        (note,) = data.describe()["notes"]
        assert note.startswith(f"1 row was {word} (bad_rows={bad_rows}), the first: bad.jsonl, line 6")
        for seed in range(3):
            assert problem.run(Entrant("gpt3", "anytask.incontext:GPT3"), data, seed).metrics["lm_calls"] == 8


def test_separators_of_texts_are_told_from_the_rows(problem, rows, tmp_path):
    path = tmp_path / "semi.csv"
    path.write_text("text;label\n" + "".join(f"{t}, yes;{y}\n" for t, y in rows), encoding="utf-8-sig")
    assert problem.load(path, **FEW).source.texts == tuple(f"{t}, yes" for t, _ in rows)


def test_labels_are_called_by_their_words(problem, rows, tmp_path):
    words = {label: f"word {i}" for i, label in enumerate(sorted({label for _, label in rows}))}
    texts, labels = zip(*rows)
    data = problem.load((texts, labels), **FEW, verbalizer=words)
    assert data.choices == sorted(words.values()) and data.source.labels[0] == words[labels[0]]
    with pytest.raises(BadData, match="verbalizer must name all labels and no other, and these differ"):
        problem.load((texts, labels), **FEW, verbalizer=dict(list(words.items())[1:]))
    with pytest.raises(ValueError, match="verbalizer must be a mapping of labels to different words"):
        problem.load((texts, labels), **FEW, verbalizer=dict.fromkeys(words, "same"))


def test_what_cannot_work_is_refused_with_its_reason_before_a_label_is_bought(problem, data, rows, file):
    class Chat:
        name, kind, capabilities = "chat", "http", Capabilities()

    chat = Entrant("gpt3", "anytask.incontext:GPT3", {"lm": Chat()})
    assert problem.refuses(chat, data) is None, "it is asked to choose"
    assert "logprobs" in problem.refuses(chat, problem.load(file, **FEW, scoring="mean"))
    assert "calibrate" in problem.refuses(Entrant("c", chat.entry, {**chat.params, "calibrate": True}), data)
    two = problem.load(file, **{**FEW, "labels": 2})
    assert "labels must be at least 3" in problem.refuses(Entrant("quine", "anytask.prompts:PromptQuine"), two)
    assert "labelled examples, and gets 2" in problem.refuses(Entrant("udr", "anytask.incontext:UDR"), two)
    stacked = {"select": "anytask.incontext:VoteK", "retrieve": "similar", "compress": "anytask.prompts:LLMLingua2"}
    assert problem.refuses(Entrant("stacked", "anytask.incontext:Pipeline", stacked), two) is None


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"lm": None}, ValueError, "needs a language model"),
        ({"lm": "/no/such/folder"}, ValueError, "no such folder"),
        ({"lm": "http://127.0.0.1:9/v1#m?timeout=1"}, ValueError, "'m' gave no reply in 2 attempts"),
        ({"labels": 1000}, BadData, "from a pool of 42"),
        ({"labels": -1}, ValueError, "labels must be"),
        ({"k": "many"}, ValueError, "k must be an integer of at least 0 or 'max'"),
        ({"context": 2}, BadData, "tokens without its text, and .* more for its answer"),
        ({"kind": "regression"}, ValueError, "kind must be"),
        ({"kind": "multiple-choice"}, BadData, "rows with choices"),
        ({"test_size": 2}, ValueError, "test_size"),
        ({"target": "lable"}, BadData, "label"),
        ({"shots": 3}, ValueError, "no option 'shots'"),
        ({"template": "{input}"}, BadData, "template must name {output}"),
        ({"demos": "nearest"}, BadData, "demos must be one of"),
        ({"kind": "generation", "calibrate": True}, BadData, "answers are written"),
        ({"chat_template": True}, ValueError, "chat template"),
    ],
)
def test_wrong_options_are_refused(problem, file, changes, error, words):
    with pytest.raises(error, match=words):
        problem.load(file, **{**FEW, **changes})
