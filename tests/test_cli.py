"""The command line, as a newcomer meets it: answers, exit codes, and one clear line for a mistake."""

import json
import re
import signal
import subprocess
import sys
import zipfile
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from anytask import catalogue, problems
from anytask.bench import RunStore
from anytask.bench import results as bench_results
from anytask.cli import app
from anytask.core.settings import Settings, group, real, whole
from anytask.problems.base import Entrant

TINY = ["--systems", "tame", "--no-baselines", "--seeds", "1", "--jobs", "1", "--backend", "sequential"]
FAST = ["--set", "epochs=1", "--set", "n_tasks=2", "--set", "max_per_class=12"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("anytask.cli.out.width", 160)  # not COLUMNS, which a console reads when it is made
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(48, 3)).round(3), columns=["a", "b", "c"])
    frame["label"] = np.repeat(["p", "q", "r", "s"], 12)
    frame.to_csv(tmp_path / "mine.csv", index=False)
    return frame


def test_nothing_heavy_is_imported_by_help_list_and_show():
    code = (
        "import sys; from typer.testing import CliRunner; from anytask.cli import app\n"
        "for command in (['--help'], ['list'], ['show', 'ic-lora']):\n"
        "    assert CliRunner().invoke(app, command).exit_code == 0, command\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'sklearn', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_list_prints_the_cards(run):
    cards = json.loads(run("list", "--json").stdout)
    assert [card["number"] for card in cards] == list(range(77))
    assert {card["key"] for card in cards if card["available"]} >= {"tame", "prd", "gkcl"}
    shown = run("list", "--problem", "task-stream").stdout
    assert "tame" in shown and "available" in shown and "gpt3" not in shown


def test_list_names_what_it_does_not_know(run):
    result = run("list", "--family", "continuous")
    assert result.exit_code == 2
    assert "continual" in result.stderr


def test_show_tells_protocol_parameters_and_paper(run):
    shown = run("show", "tame")
    assert shown.exit_code == 0
    for words in (
        "arXiv:2210.03869",
        "from anytask.continual import TAME",
        "partial_fit(X, y, task=None",
        "selector.epochs",
    ):
        assert words in shown.stdout
    assert json.loads(run("show", "tame", "--json").stdout)["key"] == "tame"


def test_show_suggests_the_nearest_key(run):
    result = run("show", "tme")
    assert result.exit_code == 2
    assert "did you mean 'tame'" in result.stderr


def test_compare_help_lists_the_options_of_the_problem_beside_it(run):
    for words in (("few-shot-text", "--help"), ("--help", "few-shot-text")):
        told = " ".join(run("compare", *words).stdout.split())
        assert (
            "search_budget 100 prompts that a search may score; more find better ones (an integer of at least 1)"
            in told
        )
    assert "equivariance, few-demos" in run("compare", "--help").stdout


def test_show_lists_settings_with_range_presets_and_groups(run, monkeypatch):
    class Schedule(Settings):
        warmup: int = whole(0, "steps of rising rate", at_least=0)

    class System(Settings):
        PRESETS: ClassVar = {"small": {"lr": 0.5, "schedule": {"warmup": 7}}}
        lr: float = real(0.1, "learning rate", above=0)
        schedule: Schedule = group(Schedule, "how the rate moves")

    monkeypatch.setattr("anytask.catalogue.load", lambda card: System)
    rows = [" ".join(line.split()) for line in run("show", "tame").stdout.splitlines()]
    assert "lr 0.1 0.5 learning rate (a number above 0)" in rows
    assert "schedule.warmup 0 7 steps of rising rate (an integer of at least 0)" in rows


def test_compare_ranks_keeps_runs_and_reports(run, table, tmp_path):
    first = run("compare", "task-stream", "--data", "mine.csv", *TINY, *FAST, "--report", "out.html")
    assert first.exit_code == 0, first.stderr
    assert "tame" in first.stdout
    assert (tmp_path / "anytask-runs.sqlite").is_file()
    assert "<html" in (tmp_path / "out.html").read_text()[:200].lower()
    again = json.loads(run("compare", "task-stream", "--data", "mine.csv", *TINY, *FAST, "--json").stdout)
    kept = json.loads(run("compare", "task-stream", "--data", "mine.csv", *TINY, *FAST, "--json").stdout)
    assert [r["started"] for r in again["runs"]] == [r["started"] for r in kept["runs"]]
    fresh = json.loads(run("compare", "task-stream", "--data", "mine.csv", *TINY, *FAST, "--json", "--fresh").stdout)
    assert fresh["runs"][0]["started"] != kept["runs"][0]["started"]
    assert fresh["runs"][0]["metrics"]["accuracy"] == kept["runs"][0]["metrics"]["accuracy"]


def test_a_failing_run_is_exit_code_1_and_the_others_are_kept(run, table, monkeypatch):
    def failing(*args):
        raise RuntimeError("out of order")

    monkeypatch.setattr("anytask.continual.prd.PRD._learn", failing)
    arguments = ["--systems", "tame,prd", "--no-baselines", "--seeds", "1", "--backend", "sequential", *FAST]
    result = run("compare", "task-stream", "--data", "mine.csv", *arguments, "--json")
    assert result.exit_code == 1, result.stderr
    assert {r["entrant_name"]: r["status"] for r in json.loads(result.stdout)["runs"]} == {
        "tame": "done",
        "prd": "failed",
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_comparison_also_in_the_background(number):
    """A shell starts processes in the background with SIGINT ignored."""
    code = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from anytask import bench, cli\n"
        "bench.compare = lambda *parts, **settings: print('It goes on.', flush=True) or time.sleep(1000)\n"
        "sys.argv[1:] = ['compare', 'task-stream', '--data', 'digits']\n"
        "cli.main()\n"
    )
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert started.stdout.readline() == "It goes on.\n"
    started.send_signal(number)
    _, told = started.communicate(timeout=200)
    assert started.returncode == 130 and "Stopped. Finished runs are kept" in told


def test_the_printed_lines_load_and_use_the_winner(run, table, tmp_path):
    result = run("compare", "task-stream", "--data", "mine.csv", *TINY, *FAST, "--save-best", "best")
    assert result.exit_code == 0, result.stderr
    assert "tame won" in result.stdout
    lines = result.stdout.partition("from anytask")
    code = lines[1] + lines[2].partition("\n\n")[0]
    assert len(code.splitlines()) == 4 and "TAME.load(" in code and code in (tmp_path / "best/README.txt").read_text()
    used = subprocess.run(
        [sys.executable, "-c", f"X = 'mine.csv'\n{code}\nprint(*labels)"], cwd=tmp_path, capture_output=True, text=True
    )
    problem = problems.get("task-stream")
    data = problem.load("mine.csv", epochs=1, n_tasks=2, max_per_class=12)
    model, inputs = problem.refit(Entrant("tame", "anytask.continual:TAME"), data, seed=0).parts
    assert used.stdout.split() == model.predict(inputs("mine.csv")).tolist(), used.stderr


def test_without_a_finished_run_nothing_is_saved_and_the_exit_code_is_1(run, table, tmp_path):
    none = ["--budget-seconds", "1e-6"]
    result = run("compare", "task-stream", "--data", "mine.csv", *TINY, *FAST, *none, "--save-best", "best")
    assert result.exit_code == 1
    assert "Nothing was saved in best: " in result.stderr
    assert not (tmp_path / "best").exists()


BAD = {
    "unknown problem": (["compare", "task-steam", "--data", "mine.csv"], "did you mean 'task-stream'"),
    "missing file": (["compare", "task-stream", "--data", "yours.csv"], "yours.csv"),
    "missing column": (["compare", "task-stream", "--data", "mine.csv", "--target", "lable"], "'label'"),
    "missing texts": (
        ["compare", "few-shot-text", "--data", "mine.csv", "--lm", "tiny:icl", "--text", "body"],
        "'body'",
    ),
    "unknown system": (["compare", "task-stream", "--data", "mine.csv", "--systems", "tmae"], "'tame'"),
    "planned system": (["compare", "task-stream", "--data", "mine.csv", "--systems", "self-guide"], "planned"),
    "system of another problem": (["compare", "task-stream", "--data", "mine.csv", "--systems", "gpt3"], "gpt3"),
    "identity withheld": (
        ["compare", "task-stream", "--data", "mine.csv", "--systems", "gkcl", "--identity", "none"],
        "gkcl",
    ),
    "option of no problem": (["compare", "equivariance", "--data", "no.csv", "--lm", "tiny:icl"], "no option 'lm'"),
    "unknown option": (["compare", "task-stream", "--data", "mine.csv", "--set", "epoch=3"], "epochs"),
    "malformed option": (["compare", "task-stream", "--data", "mine.csv", "--set", "epochs"], "NAME=VALUE"),
    "option out of range": (["compare", "task-stream", "--data", "mine.csv", "--set", "epochs=0"], "epochs"),
    "store is a folder": (["compare", "task-stream", "--data", "mine.csv", "--store", "."], "folder"),
    "no folder for the report": (
        ["compare", "task-stream", "--data", "mine.csv", "--report", "no/out.html"],
        "does not exist",
    ),
    "winner into a file": (["compare", "task-stream", "--data", "mine.csv", "--save-best", "mine.csv"], "is a file"),
    "winner into a full folder": (["compare", "task-stream", "--data", "mine.csv", "--save-best", "."], "not empty"),
    "no folder for the winner": (["compare", "task-stream", "--data", "mine.csv", "--save-best", "no/a"], "no folder"),
    "nothing to save": (["compare", "equivariance", "--data", "digits", "--save-best", "best"], "nero"),
    "claim of an unknown system": (["verify", "tme"], "'tame'"),
    "no claim": (["verify", "ic-lora"], "no claim"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_gets_one_line_and_exit_code_2_and_writes_nothing(case, run, table, tmp_path):
    arguments, words = BAD[case]
    before = sorted(tmp_path.iterdir())
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_nan_is_named_by_column_and_row(run, table, tmp_path):
    table.loc[7, "b"] = np.nan
    table.to_csv(tmp_path / "mine.csv", index=False)
    result = run("compare", "task-stream", "--data", "mine.csv")
    assert result.exit_code == 2
    for words in ("mine.csv", "'b'", "9"):  # the header is line 1
        assert words in result.stderr


def test_verify_quick_looks_and_records_nothing(run, tmp_path):
    result = run("verify", "prd", "--quick", "--jobs", "1", "--evidence", tmp_path / "evidence")
    assert result.exit_code == 0, result.stderr
    assert "nothing judged" in result.stdout
    assert not (tmp_path / "evidence").exists()


def test_every_card_of_an_available_system_can_be_shown(run):
    for card in catalogue.SYSTEMS:
        if catalogue.state(card) == "available":
            assert run("show", card.key).exit_code == 0, card.key


def _ranked(run, problem, *options):
    result = run("compare", problem, *options, "--seeds", "1", "--jobs", "1", "--backend", "sequential")
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_what_was_made_of_a_table_is_said_below_the_ranking(run, tmp_path):
    garage, doors, severity = ("attached", "NA", "NA"), ("2", "3", "4", "5more"), ("mild", "None")
    rows = [f"{k};{k % 5},{k % 9};{garage[k % 3]};{doors[k % 4]};{severity[k % 2]}" for k in range(48)]
    (tmp_path / "eu.csv").write_text(";price, net;garage;doors;severity\n" + "\n".join(rows) + "\n")
    told = _ranked(
        run, "few-labels", "--data", "eu.csv", "--target", "severity", "--systems", "all", "--set", "per_class=5",
        "--set", "weights=price, net",
    )  # fmt: skip
    assert "linear" in told
    assert "data: Text columns were one-hot encoded: garage (2 values), doors (4 values)." in told
    assert "data: The nameless first column, which numbers the rows, was left out." in told
    assert "data: Most values of doors are numbers" in told
    assert "data: Rows count as price, net says, in every metric" in told
    assert "left out: sla" in told


def test_an_index_column_of_rows_sorted_by_class_helps_nobody(run, tmp_path):
    noise = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 2)).round(3), columns=["a", "b"])
    noise["label"] = np.repeat(["A", "B", "C"], 20)
    noise.to_csv(tmp_path / "with.csv")
    noise.to_csv(tmp_path / "without.csv", index=False)
    few = ["--set", "per_class=8", "--seeds", "2", "--jobs", "1", "--backend", "sequential", "--json", "--fresh"]
    runs = [
        json.loads(run("compare", "few-labels", "--data", name, *few).stdout) for name in ("with.csv", "without.csv")
    ]
    accuracies = [[r["metrics"]["accuracy"] for r in one["runs"]] for one in runs]
    assert accuracies[0] == accuracies[1] and np.mean(accuracies) < 0.6  # chance is 1/3


def test_a_system_that_cannot_learn_from_shared_classes_is_left_out_and_the_others_are_ranked(run, tmp_path):
    rows = [f"{k % 7},{k % 5 - 2},{'berlin' if k < 24 else 'oslo'},{'xy'[k % 2]}" for k in range(48)]
    (tmp_path / "sites.csv").write_text("f1,f2,site,label\n" + "\n".join(rows) + "\n")
    told = _ranked(
        run, "task-stream", "--data", "sites.csv", "--target", "label", "--task", "site", "--systems", "tame,prd",
        "--no-baselines", "--set", "epochs=1",
    )  # fmt: skip
    assert "left out: prd: " in told and "tame" in told


OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
EVIL = "\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp.\u2066"


def inert(result):
    assert not OBEYED.search(result.output.replace("\r\n", "\n")), repr(result.output)
    assert r"\x1b[2J\x1b]0;title\x07\x9b31m\u202egnp.\u2066" in "".join(result.output.split("\n"))
    return result


@pytest.mark.parametrize(
    "arguments",
    [
        [EVIL],
        ["list", f"--{EVIL}"],
        ["list", "--family", EVIL],
        ["show", EVIL],
        ["compare", EVIL, "--data", "mine.csv"],
        ["compare", "task-stream", "--data", f"{EVIL}.csv"],
        ["compare", "task-stream", "--data", "mine.csv", "--systems", EVIL],
        ["compare", "task-stream", "--data", "mine.csv", "--set", EVIL],
        ["verify", EVIL],
    ],
    ids=lambda arguments: " ".join(arguments).replace(EVIL, "EVIL"),
)
def test_control_characters_in_arguments_are_shown_and_not_obeyed(run, table, arguments):
    result = inert(run(*arguments))
    assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1


def test_control_characters_in_files_are_shown_and_not_obeyed(run, tmp_path):
    (tmp_path / "mine.csv").write_text(f"a,{EVIL},label\n" + "1,2,x\n1,,y\n" * 9)
    assert inert(run("compare", "task-stream", "--data", "mine.csv", *TINY, *FAST)).exit_code == 2


def test_control_characters_in_errors_of_runs_and_in_names_are_shown_and_not_obeyed(run, table, monkeypatch):
    def failing(*args):
        raise RuntimeError(EVIL)

    monkeypatch.setattr("anytask.continual.prd.PRD._learn", failing)
    arguments = ["--systems", "prd", "--no-baselines", "--seeds", "1", "--backend", "sequential", *FAST]
    result = inert(run("compare", "task-stream", "--data", "mine.csv", *arguments))
    assert result.exit_code == 1 and result.output.count(r"\x1b[2J") == 2  # as it happens, and at the end
    for part in (bench_results.Row, bench_results.Results):
        monkeypatch.setattr(part, "name", EVIL, raising=False)
    inert(run("compare", "task-stream", "--data", "mine.csv", *TINY, *FAST))


def test_an_error_that_nobody_foresaw_in_reading_input_is_one_line(run, table, monkeypatch):
    def damaged(*args, **options):
        raise zipfile.BadZipFile("File is not\na zip file")

    monkeypatch.setattr("anytask.problems.task_stream.TaskStream.load", damaged)
    result = run("compare", "task-stream", "--data", "mine.csv")
    assert (result.exit_code, result.stderr) == (2, "error: mine.csv: BadZipFile: File is not; a zip file\n")


def test_a_store_that_fails_once_runs_have_begun_is_one_line_and_exit_code_1(run, table, tmp_path, monkeypatch):
    put = RunStore.put

    def lost(store, made):
        put(store, made)
        (tmp_path / "anytask-runs.sqlite").unlink()

    monkeypatch.setattr(RunStore, "put", lost)
    result = run("compare", "task-stream", "--data", "mine.csv", *TINY, *FAST, "--json")
    assert result.exit_code == 1 and len(result.stderr.strip().splitlines()) == 1
    assert "anytask-runs.sqlite was deleted or replaced while it was in use" in result.stderr


def test_warnings_are_one_line_each(tmp_path):
    code = (
        "import warnings, logging\n"
        "from anytask import cli\n"
        "cli.app = lambda: (warnings.warn('odd\x1b[2J column'), logging.getLogger('anytask').warning('\x1b[2J'))\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line.split() for line in done.stderr.splitlines()] == [
        ["warning:", r"odd\x1b[2J", "column"],
        ["WARNING", r"\x1b[2J"],
    ]
