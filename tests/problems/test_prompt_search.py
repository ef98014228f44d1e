"""The prompt-search problem: what entrants see, what is measured, and what is refused."""

import json

import pytest

from anytask import problems
from anytask.core.errors import BadData
from anytask.lm import load_lm
from anytask.lm.protocol import Capabilities
from anytask.problems.base import Entrant

P = problems.get("prompt-search")


def test_every_entrant_of_a_seed_sees_the_same_world():
    data = P.load("scripted", validation=20, max_test=50)
    a, b, other = data.instance(1), data.instance(1), data.instance(2)
    assert a[1:] == b[1:]
    assert a.prompt == other.prompt
    assert a.search != other.search
    assert not {e["text"] for e in a.search} & {e["text"] for e in a.test}


def test_runs_report_held_out_accuracy_and_cost():
    data = P.load("scripted", validation=20, max_test=100, budget=120)
    full, *others = P.baselines(data)
    system = Entrant("PromptQuine", "anytask.prompts:PromptQuine", {"reward": "accuracy"})
    for entrant in (full, *others, system):
        assert P.refuses(entrant, data) is None
        outcome = P.run(entrant, data, 0)
        assert set(outcome.metrics) == {m.key for m in P.metrics}
        assert outcome.kind == "sim"
        assert outcome.metrics["evaluations"] <= 120
        json.dumps([outcome.metrics, outcome.details, outcome.cost])
        if entrant is full:
            assert outcome.metrics["gain"] == 0.0
            assert outcome.metrics["prompt_tokens"] == 49


def test_options_change_the_fingerprint():
    assert P.load("scripted").fingerprint == P.load("scripted").fingerprint
    assert P.load("scripted").fingerprint != P.load("scripted", budget=5).fingerprint


def test_user_data_become_a_prompt_with_wrong_demonstrations():
    texts = [f"text {i}" for i in range(40)]
    labels = ["good" if i % 2 else "bad" for i in range(40)]
    data = P.load((texts, labels), lm="tiny:icl", shots=2, wrong=3, search=3, validation=10)
    world = data.instance(0)
    lines = world.prompt.split("\n\n")
    wrong = 0
    for line in lines[:-1]:
        text, label = (part.split(": ")[1] for part in line.split("\n"))
        wrong += labels[texts.index(text)] != label
    assert (len(lines), wrong) == (5, 3)
    assert lines[-1] == "Input: {text}\nLabel:"
    assert world.verbalizers == (" bad", " good")
    groups = [{e["text"] for e in part} for part in (world.search, world.validation, world.test)]
    assert [len(g) for g in groups] == [6, 10, 20]
    assert not (groups[0] & groups[1] or groups[1] & groups[2] or groups[0] & groups[2])


def test_description_and_template_make_the_full_prompt():
    texts, labels = [f"text {i}" for i in range(24)], ["a", "b"] * 12
    how = {"description": "Judge {text}.", "template": "Q {input}\nA: {output}", "search": 2, "validation": 6}
    world = P.load((texts, labels), lm="tiny:icl", **how).instance(0)
    start, *demos, end = world.prompt.split("\n\n")
    assert (start, len(demos), end) == ("Judge {{text}}.", 2, "Q {text}\nA:") and world.verbalizers == (" a", " b")
    with pytest.raises(BadData, match=r"template must name \{output\}"):
        P.load((texts, labels), lm="tiny:icl", template="{input}")


def test_data_that_look_like_placeholders_stay_data_in_the_prompt_and_in_queries():
    texts = [f"use {{text}} or {{other}} {i}" for i in range(24)]
    labels = ["good" if i % 2 else "{mask_token}" for i in range(24)]
    data = P.load((texts, labels), lm="tiny:icl", shots=1, search=2, validation=6, max_test=4, budget=5)
    world = data.instance(0)
    assert world.prompt.count("{{text}}") == 2
    outcome = P.run(Entrant("PromptQuine", "anytask.prompts:PromptQuine"), data, 0)
    assert outcome.metrics["evaluations"] <= 5


def test_a_model_without_log_probabilities_leaves_every_search_out_with_the_reason(monkeypatch):
    class ChatOnly:
        name, kind, capabilities = "chat", "sim", Capabilities()

    monkeypatch.setattr("anytask.problems.language.model_of", lambda spec: ChatOnly())
    data = P.load(([f"text {i}" for i in range(24)], ["a", "b"] * 12), lm="tiny:chat", search=2)
    for entrant in (*P.baselines(data), Entrant("PromptQuine", "anytask.prompts:PromptQuine")):
        assert "logprobs" in P.refuses(entrant, data)


def test_texts_that_no_prompt_can_hold_are_named_left_out_or_cut(tmp_path):
    rows = [{"text": f"text {i} is short", "label": "ab"[i % 2]} for i in range(24)]
    rows[7]["text"] = "word " * 5000
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = {"lm": "tiny:icl", "search": 2, "validation": 6, "max_test": 8, "budget": 3}
    with pytest.raises(BadData, match=r"long\.jsonl, line 8: a text of 5000 words does not fit .*bad_rows=skip leaves"):
        P.load(path, **few)
    with pytest.raises(BadData, match=r"line 8: a text of 5000 words does not fit"):
        P.load(path, **few, prompt="Judge: {text}")
    for prompt in (None, "Judge: {text}"):
        for bad_rows, n, word in (("skip", 23, "left out"), ("cut", 24, "cut")):
            data = P.load(path, **few, bad_rows=bad_rows, prompt=prompt)
            assert len(data.source) == n
            (note,) = data.describe()["notes"]
            assert note.startswith(f"1 row was {word} (bad_rows={bad_rows}), the first: long.jsonl, line 8")
            for seed in range(4):  # the cut one is a demonstration, is searched on, and is asked about
                P.run(P.baselines(data)[0], data, seed)
    with pytest.raises(BadData, match="tokens without its text"):
        P.load(path, **few, prompt="word " * 5000 + "{text}")


def test_texts_may_be_as_long_as_any_draw_of_demonstrations_allows():
    lm = load_lm("tiny:icl")
    texts, labels = [f"text {i}" for i in range(24)], ["a", "b"] * 12
    how = {"lm": "tiny:icl", "search": 2, "validation": 6, "max_test": 8, "budget": 3}

    def tokens(text):
        return lm.count_tokens(f"Input: {text}\nLabel:  a\n\n")

    others = tokens(texts[-1]) * 2
    word = next(n for n in range(lm.context_length) if tokens("x " * n) + others + 4 > lm.context_length)
    longest = P.load((["x " * (word - 8), *texts[1:]], labels), **how)
    assert longest.source.notes == () and len(longest.source) == 24
    with pytest.raises(BadData, match="row 0: a text"):
        P.load((["x " * (word + 8), *texts[1:]], labels), **how)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="no option"):
        P.load("scripted", color=1)
    with pytest.raises(ValueError, match="budget must be an integer of at least 1"):
        P.load("scripted", budget=0)
    with pytest.raises(ValueError, match="language model"):
        P.load((["a"], ["b"]))
    with pytest.raises(BadData, match="at least two classes"):
        P.load((list("abcdef"), ["x"] * 6), lm="tiny:icl")
    with pytest.raises(BadData, match="at least 10 are needed"):
        P.load((list("abcdef"), ["x", "y"] * 3), lm="tiny:icl")
    half = ([*(f"text {i}" for i in range(40)), "half \ud83d"], [*"xy" * 20, "x"])
    with pytest.raises(BadData, match=r"row 40, column 'text'.*bad_rows=skip"):
        P.load(half, lm="tiny:icl")
    assert len(P.load(half, lm="tiny:icl", bad_rows="skip").source) == 40
    entrant = Entrant("truncation", "anytask.prompts.baselines:Truncation")
    assert "no search(lm, examples)" in P.refuses(entrant, P.load("scripted"))
