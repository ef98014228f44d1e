"""A server per module for all tests that use the pages as a person would."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

sys.path[:0] = [
    str(Path(__file__).parents[1] / "bench"),
    str(Path(__file__).parents[1]),
]  # toy problem, sample evidence


@pytest.fixture(scope="module", autouse=True)
def for_runs(small_heap):
    """Use the small heap in all modules here."""


@pytest.fixture(scope="module")
def server():
    """A factory: serve a store (and other arguments of ``make_app``) from a thread, and return the address."""
    from werkzeug.serving import make_server

    from anytask.app import make_app

    started = []

    def start(store, **settings):
        app = make_app(store, **{"meaning": False} | settings)
        made = make_server("127.0.0.1", 0, app.server, threaded=True)
        made.daemon_threads = True
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        started.append((made, thread))
        return f"http://127.0.0.1:{made.server_port}"

    yield start
    for made, thread in started:
        made.shutdown()
        made.server_close()
        thread.join(timeout=120)
