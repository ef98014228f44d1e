"""The prompt-compression problem: languages with known answers, metrics, and users' files."""

import io
import json
import math

import pandas as pd
import pytest
from rich.console import Console

from anytask import problems
from anytask.core.errors import BadData
from anytask.datasets.compression_languages import KeyValue, Modifiers
from anytask.lm.protocol import ChatRequest, OptionScore
from anytask.problems.base import Entrant
from anytask.problems.prompt_compression.data import CompressionOptions, Reader

P = problems.get("prompt-compression")
RANDOM = Entrant("random deletion", "anytask.prompts.baselines:RandomDeletion", role="baseline")


def test_the_modifiers_language_has_the_published_rate_and_noise():
    language = Modifiers(0)
    texts, labels = language.labelled(400)
    truth = [language.gold(text) for text in texts]
    flat = [flag for row in truth for flag in row]
    assert len({word for text in texts for word in text}) == 40
    assert sum(flat) / len(flat) == pytest.approx(0.39, abs=0.015)
    wrong = [a != b for t, y in zip(truth, labels) for a, b in zip(t, y)]
    assert sum(wrong) / len(wrong) == pytest.approx(0.05, abs=0.006)


def test_the_reader_and_the_chat_model_use_the_text_alone():
    world = KeyValue(0)
    (item,) = world.items(1)
    text, key, value = item.text, item.question, item.answer
    assert world.read(text, key) == value
    assert world.read(text.replace(value, "value99"), key) == "value99"
    assert world.read("key1 key2 value3", "key1") == "unknown"
    reply = world.chat(ChatRequest(({"role": "user", "content": "Text:\nthe key1 of value2 ."},)))
    assert reply.text == "key1 value2" or world.rephrases("the key1 of value2 .")


def test_baselines_are_judged_on_both_languages():
    for name, options in (("modifiers", {}), ("key-value", {})):
        data = P.load(name, train=50, test=50, **options)
        for entrant in P.baselines(data):
            outcome = P.run(entrant, data, 0)
            if entrant.name == "uncompressed":
                assert (outcome.metrics["rate"], outcome.metrics.get("exact_match", 1.0)) == (1.0, 1.0)
                continue
            assert outcome.metrics["rate_error"] < 0.05
            json.dumps([outcome.metrics, outcome.details])
        truncation = P.run(P.baselines(data)[0], data, 0).metrics
        if name == "key-value":  # the first half of the facts survives truncation
            assert truncation["exact_match"] == pytest.approx(0.5, abs=0.2)
        else:
            assert truncation["f1"] == pytest.approx(0.39, abs=0.06)


def test_the_system_learns_from_labels_and_from_a_chat_model():
    small = {"training": {"batch_size": 16, "epochs": 4}}
    data = P.load("modifiers", train=300, test=30)
    outcome, chance = (P.run(e, data, 0) for e in (Entrant("x", "anytask.prompts:LLMLingua2", small), RANDOM))
    assert outcome.metrics["f1"] > chance.metrics["f1"] + 0.15
    assert {"f1_pooled", "tokens_per_second", "quality"} <= set(outcome.metrics)
    assert outcome.kind == "tiny"
    data = P.load("key-value", train=400, test=30)
    outcome, chance = (P.run(e, data, 0) for e in (Entrant("x", "anytask.prompts:LLMLingua2", small), RANDOM))
    assert outcome.metrics["exact_match"] > chance.metrics["exact_match"] + 0.2
    assert outcome.cost["lm_calls"] == 400
    assert outcome.metrics["rephrased_kept"] <= 0.25


def test_files_are_read_and_checked(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"text": "a b c d", "question": "q", "answer": 1}) + "\n" + json.dumps({"text": "e f"}))
    data = P.load(path)
    outcome = P.run(P.baselines(data)[0], data, 0)
    assert outcome.metrics["rate"] == 0.5
    assert "exact_match" not in outcome.metrics
    system = Entrant("x", "anytask.prompts:LLMLingua2")
    assert P.refuses(system, data) is None
    shipped = P.run(system, data, 0)
    assert shipped.kind == "tiny"
    assert 0 < shipped.metrics["rate"] < 1
    assert "no compress" in P.refuses(Entrant("x", "anytask.prompts:PromptQuine"), data)
    for content, message in (
        ("{", "line 1, character 2: not JSON"),
        ('{"text": ""}', "line 1, column 'text': a text is wanted"),
        ('{"text": "a", "question": "q"}', "must come together"),
        ("", "there is no text"),
        ('{"text": "cut \\ud83d"}', "line 1, column 'text': NUL or half of a surrogate pair"),
    ):
        path.write_text(content)
        with pytest.raises(BadData, match=message):
            P.load(path)
    with pytest.raises(BadData, match="no such file"):
        P.load(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="rate"):
        P.load("modifiers", rate=0)
    with pytest.raises(BadData, match="row 1"):
        P.load(["a", 3])


def test_rows_that_cannot_be_used_are_left_out_or_cut(tmp_path):
    path = tmp_path / "d.jsonl"
    door = "the key {0} opens door {0}", "what opens door {0}?", "key {0}"
    rows = [dict(zip(("text", "question", "answer"), (part.format(i) for part in door))) for i in range(8)]
    rows[2]["text"], rows[5]["text"] = "half \ud83d of it", "word " * 5000
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(BadData, match="line 3, column 'text': NUL or half of a surrogate pair"):
        P.load(path)
    for bad_rows, n, word in (("skip", 6, "left out"), ("cut", 8, "cut")):
        data = P.load(path, lm="tiny:icl", bad_rows=bad_rows)
        assert len(data.items) == n
        strange, long = data.describe()["notes"]
        assert strange.startswith(f"1 row was {word} (bad_rows={bad_rows}), the first: d.jsonl, line 3, column 'text'")
        assert long.startswith(
            f"1 row was {word} (bad_rows={bad_rows}), the first: d.jsonl, line 6: a text of 5000 words"
        )
        whole = P.baselines(data)[-1]
        assert whole.name == "uncompressed" and "exact_match" in P.run(whole, data, 0).metrics
    rows[2]["text"] = "whole"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(P.load(path).items) == 8  # without a reader no prompt is too long
    with pytest.raises(
        BadData, match=r"line 6: a text of 5000 words does not fit into a prompt of \d+ tokens with its an"
    ):
        P.load(path, lm="tiny:icl")
    frame = pd.DataFrame(rows).set_axis([0] * 8)
    frame.loc[:, "question"] = [None, *frame["question"][1:]]
    with pytest.raises(BadData, match="the table, row 0: 'question' and 'answer' must come together"):
        P.load(frame)
    assert [item.text for item in P.load(frame[["text"]]).items] == [row["text"] for row in rows]


@pytest.mark.parametrize("asks", [True, False])
def test_without_a_model_embeddings_are_compared_and_what_would_tell_more_is_said(tmp_path, asks):
    from anytask.bench import compare

    texts = ["\u8bf7\u6ce8\u610f\uff0c\u5217\u8f66\u5c06\u51fa\u53d1\u3002", "the library opens at nine"]
    row = {"question": "when?", "answer": "nine"} if asks else {}
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, **row}) for text in texts))
    result = compare(P, path, ["llmlingua2"], seeds=1, jobs=1, store=tmp_path / "s.sqlite", progress=False)
    (note,) = result.data.describe()["notes"]
    wanted = "that answers the questions" if asks else "or questions with answers"
    assert note.startswith("To measure more than the closeness of embeddings, give a language model") and wanted in note
    assert not result.failed
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result.rich_table())
    shown = console.export_text()
    assert "Quality: the cosine of the embeddings" in shown and "nan" not in shown
    for run in result.runs:
        assert 0 < run.metrics["rate"] <= 1 and -1 <= run.metrics["quality"] <= 1 + 1e-6


def test_a_model_that_only_chats_can_be_the_reader():
    reader = Reader(CompressionOptions(lm="sim:strong", max_answer=8))
    assert reader.answer(["alpha: 17\nbeta: 23\n"], ["What is the value of beta?"]) == ["23"]


def test_texts_without_questions_are_judged_by_what_the_model_knows_of_the_whole():
    texts = [f"the {a} {b} of the {c} was {d}" for a, b, c, d in zip("abcdefgh", "ijklmnop", "qrstuvwx", "abababab")]
    data = P.load(texts, lm="tiny:icl", rate=0.5)
    assert "what the language model" not in P.setting(data) and "the whole text itself: 1" in P.setting(data)
    *others, whole = (P.run(entrant, data, 0) for entrant in P.baselines(data))
    assert whole.metrics["information"] == whole.metrics["quality"] == pytest.approx(1) and whole.kind == "tiny"
    assert all(one.metrics["information"] < 1 > one.metrics["closeness"] for one in others)


def test_information_is_the_share_of_what_the_whole_texts_tell():
    class Copier:
        """Half as sure of a text when its words were not in the notes."""

        def score(self, prompts, options, tag):
            logs = [
                0.0 if set(o[0].split()) <= set(p.split()) else -2.0 if "q" in p else -4.0
                for p, o in zip(prompts, options)
            ]
            return [[OptionScore(log, 1, 1)] for log in logs]

    reader = Reader(CompressionOptions())
    reader.lm = Copier()
    assert reader.information(["q", "a b"], ["a b", "a b"]) == (2 + 4) / 8
    reader.lm.score = lambda prompts, options, tag: [[OptionScore(-1.0, 1, 1)]] * len(prompts)
    assert math.isnan(reader.information(["x"], ["a b"]))


def test_answers_in_words_are_worth_the_words_that_are_right(monkeypatch):
    rows = {"passage": ["harold fell at hastings"], "asked": ["who fell?"], "said": ["King Harold"]}
    names = {"text": "passage", "question": "asked", "target": "said"}
    data = P.load(
        pd.DataFrame(rows), lm="tiny:icl", description="Answer in a word.", template="{input} | {question} ->", **names
    )
    prompts = []

    def write(lm, asked, **how):
        prompts.extend(asked)
        return ["Harold."]

    monkeypatch.setattr("anytask.problems.prompt_compression.data.write", write)
    outcome = P.run(P.baselines(data)[-1], data, 0)
    assert prompts == ["Answer in a word.\n\nharold fell at hastings | who fell? ->"]
    assert outcome.metrics["token_f1"] == outcome.metrics["quality"] == pytest.approx(2 / 3)
    assert outcome.metrics["exact_match"] == 0
    with pytest.raises(BadData, match="no row has both columns 'question' and 'said'"):
        P.load(pd.DataFrame({"text": ["a"]}), target="said")
    with pytest.raises(BadData, match=r"template must name \{question\}"):
        P.load(pd.DataFrame(rows), template="{input}")
