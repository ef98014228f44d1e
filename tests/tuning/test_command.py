"""``anytask tune-prompt`` as a newcomer meets it: labels asked for, files written, exit codes."""

import json

import pytest
from scripted import Scripted, pile
from typer.testing import CliRunner

from anytask.cli import app

FEW = ["--labels", "8", "--set", "max_k=1"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anytask.cli.tune.out.width", 160)
    lm = Scripted(lambda shown, described: 1.0 + shown)
    monkeypatch.setattr("anytask.problems.language.model_of", lambda named: lm)
    return lambda *arguments, **how: CliRunner().invoke(app, ["tune-prompt", *map(str, arguments)], **how)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for t, y in zip(*pile())))
    return path


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in pile()[0]))
    return path


def test_the_answer_the_curve_and_the_prompt_are_printed_and_handed_over(run, file, tmp_path):
    done = run(file, "--lm", "some", *FEW, "--report", "r.html", "--save", "found")
    assert done.exit_code == 0, done.output
    for words in ("calls", "logistic regression", "zero-shot", "Nested leave-one-out accuracy", "Label:", "█"):
        assert words in done.output
    assert (tmp_path / "r.html").exists() and (tmp_path / "found" / "prompt.txt").exists()
    told = (tmp_path / "found" / "command.txt").read_text().strip()
    assert told == f"anytask tune-prompt {file} --labels 8 --lm some --set max_k=1"


def test_columns_may_have_any_names_in_the_pile_and_in_the_answers(run, texts, tmp_path, monkeypatch):
    renamed = [{"message": row["text"]} for row in map(json.loads, texts.read_text().splitlines())]
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in renamed))
    call = ("other.jsonl", "--lm", "some", *FEW, "--text", "message", "--target", "intent", "--answers", "said.jsonl")
    assert run(*call).exit_code == 1
    wanted = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [list(row) for row in wanted] == [["message", "intent"]] * 8
    monkeypatch.setattr("anytask.cli.tune.asks", lambda: True)
    assert run(*call, input="cold\nwarm\n" * 4).exit_code == 0
    again = run(*call, "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["labels"] == 8


def test_json_is_all_that_is_printed(run, file):
    done = run(file, "--lm", "some", *FEW, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["labels"] == 8 and found["best"]["k"] == 1


def test_labels_are_asked_one_by_one_and_kept_for_the_next_time(run, texts, tmp_path, monkeypatch):
    monkeypatch.setattr("anytask.cli.tune.asks", lambda: True)
    broken = run(texts, "--lm", "some", *FEW, "--answers", "said.jsonl", "--choices", "cold,warm", input="1\nwarm\n2\n")
    assert broken.exit_code == 130 and "labels in said.jsonl" in broken.output
    assert len((tmp_path / "said.jsonl").read_text().splitlines()) == 3
    said = "\n".join(["2", "1", "warm", "", "cold", "2"]) + "\n"  # an empty line is asked again
    done = run(texts, "--lm", "some", *FEW, "--answers", "said.jsonl", "--choices", "cold,warm", input=said)
    assert done.exit_code == 0, done.output
    assert "5 of 5" in done.output and "6 of 6" not in done.output
    labels = [json.loads(line)["label"] for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert labels == ["cold", "warm", "warm", "warm", "cold", "warm", "cold", "warm"]


def test_where_nobody_can_be_asked_the_texts_wait_in_the_file(run, texts, tmp_path):
    done = run(texts, "--lm", "some", *FEW, "--answers", "wanted.jsonl")
    assert done.exit_code == 1 and "fill in the labels of wanted.jsonl" in done.output
    rows = [json.loads(line) for line in (tmp_path / "wanted.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and {row["label"] for row in rows} == {""}
    by_text = dict(zip(*pile()))
    filled = [{"text": row["text"], "label": by_text[row["text"]]} for row in rows]
    (tmp_path / "wanted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in filled))
    assert run(texts, "--lm", "some", *FEW, "--answers", "wanted.jsonl").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--labels", "400"], "400 labels are wanted of 40 texts"),
        (["--set", "max_k"], "--set takes NAME=VALUE"),
        (["--set", "maxk=3"], "did you mean 'max_k'?"),
        (["--report", "no/where.html"], "does not exist"),
        (["--target", "topic"], "have no label"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, file, tmp_path, arguments, words):
    done = run(file, "--lm", "some", *arguments)
    assert done.exit_code == 2 and words in done.output, done.output
    assert done.output.count("\n") == 1 and sorted(p.name for p in tmp_path.iterdir()) == ["mine.jsonl"]


def test_a_budget_in_which_nothing_can_be_asked_is_exit_code_1(run, file):
    done = run(file, "--lm", "some", *FEW, "--tokens", "1")
    assert done.exit_code == 1 and "nothing could be asked" in done.output
