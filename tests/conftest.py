"""One thread per test process: the tests run side by side, and small tensors gain nothing from more."""

import collections
import gc
import json
import os
import shutil
import time
from pathlib import Path

import hypothesis
import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# How long an example takes, or takes to be drawn, says more about the machine than about the code.
hypothesis.settings.register_profile("anytask", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("anytask")


@pytest.fixture(scope="module")
def small_heap():
    """Each run of a comparison collects garbage twice: what other tests have imported is left out of that."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


_seconds: collections.Counter[str] = collections.Counter()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Measure the processor time of each test; `make house` shows it by folder."""
    begin = time.process_time()
    item.user_properties.append(("cpu_begin", begin))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":
        begin = dict(item.user_properties)["cpu_begin"]
        report.user_properties = [("cpu_seconds", time.process_time() - begin)]
    return report


def pytest_runtest_logreport(report):
    _seconds[report.location[0]] += dict(report.user_properties).get("cpu_seconds", 0.0)


def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput") and len(_seconds) > 50:  # the whole suite, not a selection
        record = session.config.rootpath / ".pytest_cache" / "cpu_seconds.json"
        record.parent.mkdir(exist_ok=True)
        record.write_text(json.dumps(_seconds, indent=1))


# -- the browser ------------------------------------------------------------------------------------------------------

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
        page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
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
    drawn_in_software = ("GL Driver Message", "willReadFrequently")  # Chromium on what Plotly does for points in space
    assert [text for text in wrong if not any(words in text for words in drawn_in_software)] == []


@pytest.fixture
def until():
    """Wait until JavaScript holds on a page, or in a frame of one.

    The pages' policy forbids the ``eval`` of Playwright's own way to wait.
    """

    def wait(page, condition):
        deadline = time.monotonic() + PATIENCE
        while not page.evaluate(condition):
            assert time.monotonic() < deadline, f"never came true: {condition}"
            page.wait_for_timeout(100)

    return wait
