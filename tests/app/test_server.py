"""What the server of the pages answers, to whom, and what it says of paths and calls that are none."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from anytask.app import make_app
from anytask.app.server import answers_to
from anytask.bench import Run, RunStore


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return make_app(tmp_path_factory.mktemp("none") / "none.sqlite", meaning=False).server.test_client()


HERE = {"Host": "127.0.0.1:8050"}


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "127.0.0.1:8050", "[::1]:8050"])
def test_this_machines_names_are_answered(client, name):
    assert client.get("/", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize("name", [
    "127.evil.example", "127.0.0.1.evil.example", "127.0.0.2", "localhost.evil.example", "evil.example:8050",
    "127.0.0.1@evil.example", "[::1", "[::2]", "0.0.0.0",
])  # fmt: skip
def test_other_names_are_refused_whatever_is_asked(client, name):
    for path in ("/", "/_dash-layout", "/assets/app.css", "/download/x/runs.csv"):
        assert client.get(path, headers={"Host": name}).status_code in (400, 403)


def test_a_chosen_address_answers_to_its_own_name_and_one_for_all_to_every_name():
    assert answers_to("192.168.1.5", "192.168.1.5:8050") and answers_to("192.168.1.5", "localhost")
    assert not answers_to("192.168.1.5", "evil.example") and not answers_to("127.0.0.5", "127.0.0.6")
    assert answers_to("0.0.0.0", "mybox.lan:8050") and answers_to("::", "mybox.lan")


@pytest.mark.parametrize("path", [
    "/_dash-component-suites/foo/bar.js", "/_dash-component-suites/dash/nope.js", "/_dash-component-suites/dash/",
    "/_dash-component-suites/dash/../../etc/passwd", "/_dash-component-suites/numpy/__init__.py", "/_dash-nothing",
    "/_dash-component-suites/%ff/%00", "/assets/%2e%2e/server.py", "/a/page/that/is/none", "/nero/view/%00",
])  # fmt: skip
def test_odd_paths_are_not_found(client, path):
    answer = client.get(path, headers=HERE)
    assert answer.status_code == 404 and b"Traceback" not in answer.data


@pytest.mark.parametrize("body", [
    "{", "[]", "null", "{}", '{"output": []}', '{"output": "x.y", "inputs": []}',
    json.dumps({"output": "..page.children...nav.children..", "outputs": [], "inputs": [], "changedPropIds": []}),
])  # fmt: skip
def test_calls_that_fit_no_callback_are_bad_requests(client, body):
    asked = client.post("/_dash-update-component", data=body, headers=HERE, content_type="application/json")
    assert asked.status_code == 400


# -- a store that cannot be written ---------------------------------------------------------------------------------

LOOK = """
import sys
from pathlib import Path
from anytask.app.results.data import StoreView, check_store
from anytask.app.results.data import Unreadable
path = Path(sys.argv[1])
check_store(path)
view = StoreView(path)
print(view.snapshot().runs)
try:
    view.request_stop("any")
except Unreadable as error:
    print(error)
"""


def filled(path):
    with RunStore(path) as store:
        store.put(Run("k", "toy", "d", "f", "a", "m:A", 0, finished="2026-01-01T00:00:00+00:00"))


def test_a_store_in_a_folder_that_cannot_be_written_is_shown_and_left_alone(tmp_path):
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root writes everywhere, and there is no setpriv to take that away")
    away = "-dac_override,-dac_read_search"
    start = ["setpriv", "--bounding-set", away, "--inh-caps", away] if os.geteuid() == 0 else []
    filled(tmp_path / "s.sqlite")
    tmp_path.chmod(0o555)
    try:
        call = [*start, sys.executable, "-c", LOOK, str(tmp_path / "s.sqlite")]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
    finally:
        tmp_path.chmod(0o755)
    assert done.stdout.splitlines()[0] == "1", done.stderr
    assert "no permission to write there" in done.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["s.sqlite"]


def test_a_log_that_cannot_be_read_is_never_left_out(tmp_path, monkeypatch):
    filled(tmp_path / "s.sqlite")
    real = sqlite3.connect

    def without_a_place(name, **more):
        if "mode=ro" in name and "immutable" not in name:
            raise sqlite3.OperationalError("unable to open database file")
        return real(name, **more)

    monkeypatch.setattr(sqlite3, "connect", without_a_place)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with RunStore(tmp_path / "s.sqlite", read_only=True) as store:
        assert len(store) == 1
    (tmp_path / "s.sqlite-wal").write_bytes(b"not yet in the store")
    with pytest.raises(ValueError, match="unable to open"):
        RunStore(tmp_path / "s.sqlite", read_only=True)
