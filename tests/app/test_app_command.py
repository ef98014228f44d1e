"""`anytask app` from the command line: where it listens, how it ends, and what it refuses."""

import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from typer.testing import CliRunner

from anytask.cli import app

COMMAND = [sys.executable, "-m", "anytask.cli", "app", "--no-browser"]
#: Starts a command with SIGINT ignored, as a shell does in the background.
DEAF = ["sh", "-c", 'trap "" INT && exec "$@"', "sh"]


@pytest.mark.parametrize(
    ("start", "number"),
    [([], signal.SIGINT), (DEAF, signal.SIGINT), (DEAF, signal.SIGTERM)],
    ids=["SIGINT", "SIGINT in the background", "SIGTERM"],
)
def test_it_says_where_it_is_answers_there_and_ends_on_a_signal(tmp_path, start, number):
    command = [*start, *COMMAND, "--port", "0", "--store", str(tmp_path / "s.sqlite")]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = started.stdout.readline()
        assert "http://127.0.0.1:" in line and "Ctrl-C" in line
        with urllib.request.urlopen(line.split()[3]) as answer:
            assert b"anytask" in answer.read()
        started.send_signal(number)
        assert started.wait(timeout=120) == 0
        assert "Stopped." in started.stdout.read()
    finally:
        started.kill()
        started.stdout.close()


def test_a_busy_port_names_a_free_one(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, ["app", "--port", str(port), "--no-browser", "--store", str(tmp_path / "s")])
    assert result.exit_code == 2
    free = int(result.stderr.split("--port ")[1])
    assert str(port) in result.stderr and free != port
    with socket.socket() as free_one:
        free_one.bind(("127.0.0.1", free))


def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("these are notes, and no store of runs at all")
    result = CliRunner().invoke(app, ["app", "--no-browser", "--store", str(path)])
    assert result.exit_code == 2 and "cannot be used as a store" in result.stderr
    assert path.read_text().startswith("these are notes")


def test_another_host_is_warned_about(tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr("anytask.app.server.serve", lambda store, **settings: told.update(settings))
    result = CliRunner().invoke(app, ["app", "--no-browser", "--host", "0.0.0.0", "--store", str(tmp_path / "s")])
    assert result.exit_code == 0 and told["host"] == "0.0.0.0"
    assert "warning" in result.stderr and "stop its comparisons" in result.stderr
    assert "warning" not in CliRunner().invoke(app, ["app", "--no-browser", "--store", str(tmp_path / "s")]).stderr
