"""A server per module and one headless browser for all tests that use the pages as a person would."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))  # the toy problem

#: Seconds that a page may take for what it takes a fraction of one for: the machine may be busy with something else.
PATIENCE = 120

QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


def chromium() -> str | None:
    """Where a Chromium is: $CHROMIUM, on PATH, or where Debian puts it."""
    places = (os.environ.get("CHROMIUM"), *map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    return next((place for place in (*places, "/usr/bin/chromium") if place and Path(place).exists()), None)


@pytest.fixture(scope="module", autouse=True)
def for_runs(small_heap):
    """Use the small heap in all modules here."""


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, or a skip that says what is missing; all its pages share what they have loaded once."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install 'anytask[test]'"
    )
    path = chromium()
    if path is None:
        pytest.skip("there is no Chromium: `make browser` installs Debian's, or name yours in $CHROMIUM")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=QUIET)
        context = opened.new_context()
        context.set_default_timeout(1000 * PATIENCE)
        yield context
        opened.close()


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
        thread.join(timeout=PATIENCE)


@pytest.fixture
def open_page(browser):
    """A factory: open an address; at the end, no error was logged and no request left this machine."""
    pages, wrong = [], []

    def start(address, width=1280, height=900, dark=False, wait="main h1"):
        origin = "/".join(address.split("/")[:3])
        page = browser.new_page()
        pages.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda box: (wrong.append(f"dialog: {box.message}"), box.dismiss()))
        page.on(
            "request",
            lambda sent: (
                None if sent.url.startswith((origin, "data:", "blob:")) else wrong.append(f"outside: {sent.url}")
            ),
        )
        page.goto(address)
        page.wait_for_selector(wait)
        return page

    yield start
    for page in pages:
        page.close()
    assert wrong == []


@pytest.fixture
def until():
    """Wait until JavaScript holds on a page. The pages' policy forbids the ``eval`` of Playwright's own way to wait."""

    def wait(page, condition):
        deadline = time.monotonic() + PATIENCE
        while not page.evaluate(condition):
            assert time.monotonic() < deadline, f"never came true: {condition}"
            page.wait_for_timeout(100)

    return wait
