"""The NERO report in a browser: every view follows the others. Needs playwright and a Chromium."""

import shutil
import time

import numpy as np
import pytest

from anytask.evaluate import NERO
from anytask.evaluate.parts.planar_groups import Rotations

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium")]

_PLACE = """([view, trace, point]) => {
  const box = document.getElementById(view).querySelectorAll('.scatterlayer .trace')[trace]
    .querySelectorAll('path.point')[point].getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""


def left(x):
    p = np.clip(x[:, :, :4].mean(axis=(1, 2)), 0.05, 0.95)
    return np.stack([1 - p, p], axis=1)


def total(x):
    p = np.clip(x.mean(axis=(1, 2)), 0.05, 0.95)
    return np.stack([1 - p, p], axis=1)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    X = rng.uniform(0, 0.6, size=(24, 8, 8))
    X[y == 1, :, :4] += 0.4
    path = tmp_path_factory.mktemp("nero") / "report.html"
    NERO(Rotations(step=15)).evaluate({"left": left, "total": total}, X, y).to_html(path)
    with sync_api.sync_playwright() as play:
        flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
        browser = play.chromium.launch(executable_path=BROWSER, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(120_000)
        page.faults, page.asked = [], []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url.split(":")[0]))
        page.goto(path.as_uri())
        page.wait_for_selector("#answers .plot-container")
        yield page
        browser.close()


def click(page, view, trace, point):
    told, end = page.locator(f"#{view} .hoverlayer .hovertext"), time.monotonic() + 120
    while not told.count():
        assert time.monotonic() < end, f"{view} says nothing under the mouse"
        x, y = page.evaluate(_PLACE, [view, trace, point])  # anew each time: the page may still be moving
        page.mouse.move(x - 12, y - 8)
        page.mouse.move(x, y)
        page.wait_for_timeout(100)
    page.mouse.click(x, y)


def says(page, place, words):
    sync_api.expect(page.locator(f"#{place}")).to_contain_text(words, timeout=120_000)


def test_a_click_in_the_map_shows_the_sample_and_one_in_its_orbit_the_element(page):
    click(page, "map", 0, 5)
    says(page, "individual-how", "The orbit of sample 5, class 1")
    says(page, "detail-how", "sample 5, class 1")
    click(page, "individual", 0, 6)
    says(page, "element-text", "90°")
    says(page, "detail-how", "under 90°")


def test_a_drag_around_the_picture_turns_it(page):
    page.evaluate("setElement(0)")
    box = page.locator("#input").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x + 80, y)
    page.mouse.down()
    page.mouse.move(x + 57, y - 57, steps=3)
    page.mouse.move(x, y - 80, steps=3)
    page.mouse.up()
    says(page, "element-text", "90°")


def test_menus_and_sliders_change_the_views(page):
    for menu, value in (("metric", "loss"), ("reference", "consensus"), ("class", "2"), ("colour", "variance")):
        page.select_option(f"#{menu}", value)
    page.select_option("#method", "ica")
    assert page.inner_text("#aggregate-how").startswith("Mean over class 1.")
    page.evaluate("setSample(ranked()[0])")
    first = page.inner_text("#sample-text")
    page.evaluate("setSample(ranked()[23])")
    assert page.inner_text("#sample-text") != first


def test_nothing_fails_and_nothing_is_fetched(page):
    assert page.faults == [] and set(page.asked) <= {"file", "data", "blob"}


def test_narrow_pages_stack_their_views(page):
    page.set_viewport_size({"width": 400, "height": 900})
    end = time.monotonic() + 120
    while page.evaluate("document.documentElement.scrollWidth") > 400:
        assert time.monotonic() < end, "the page stays wider than its window"
        page.wait_for_timeout(100)
