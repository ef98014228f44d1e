"""The NERO report in a browser: every view follows the others."""

import re
import time

import numpy as np
import pytest
from test_nero_report import EVIL, make

from anytask.evaluate import NERO
from anytask.parts.planar_groups import Rotations

READY = "document.documentElement.dataset.ready && document.querySelector('#detail .plot-container')"
WIDE = "document.documentElement.scrollWidth > window.innerWidth"
#: Where a point of a trace is.
POINT = """([view, trace, point]) => {
  const box = document.getElementById(view).querySelectorAll('.scatterlayer .trace')[trace]
    .querySelectorAll('path.point')[point].getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}"""
#: Where the point of the first map is that is farthest from all others.
LONELY = """() => {
  const boxes = [...document.querySelector('#map .scatterlayer .trace').querySelectorAll('path.point')].map(
    e => e.getBoundingClientRect()).map(b => [b.x + b.width / 2, b.y + b.height / 2]);
  const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
  const room = boxes.map((a, i) => Math.min(...boxes.map((b, j) => i === j ? Infinity : apart(a, b))));
  return boxes[room.indexOf(Math.max(...room))];
}"""
#: Where a heat map is clicked, in shares of its width and height.
WITHIN = """([view, across, down]) => {
  const box = document.querySelector('#' + view + ' .nsewdrag').getBoundingClientRect();
  return [box.x + across * box.width, box.y + down * box.height];
}"""


def left(x):
    p = np.clip(x[:, :, :4].mean(axis=(1, 2)), 0.05, 0.95)
    return np.stack([1 - p, p], axis=1)


def total(x):
    p = np.clip(x.mean(axis=(1, 2)), 0.05, 0.95)
    return np.stack([1 - p, p], axis=1)


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    X = rng.uniform(0, 0.6, size=(24, 8, 8))
    X[y == 1, :, :4] += 0.4
    return NERO(Rotations(step=15)).evaluate({"left": left, "total": total}, X, y)


@pytest.fixture
def report(open_page, until, tmp_path):
    """A factory: write the report of a result and open it."""

    def start(result, **size):
        result.to_html(tmp_path / "report.html")
        page = open_page((tmp_path / "report.html").as_uri(), **size)
        until(page, READY)
        return page

    return start


def click(page, view, place, *where):
    """Click with the real mouse once the figure tells what is there; return what it told."""
    page.evaluate(f"document.getElementById('{view}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
    told, end = page.locator(f"#{view} .hoverlayer .hovertext"), time.monotonic() + 120
    while not told.count():
        assert time.monotonic() < end, f"{view} says nothing under the mouse"
        x, y = page.evaluate(place, [view, *where])  # anew each time: the page may still be moving
        page.mouse.move(x - 12, y - 8)
        page.mouse.move(x, y)
        page.wait_for_timeout(100)
    text = page.text_content(f"#{view} .hoverlayer")
    page.mouse.click(x, y)
    return text


def says(name, words):
    return f"document.getElementById('{name}').textContent.includes({words!r})"


def test_clicks_and_menus_link_the_views(report, result, until):
    page = report(result)
    index = re.search(r"sample (\d+)", click(page, "map", LONELY))[1]
    until(page, says("individual-how", f"The orbit of sample {index}, class"))
    until(page, says("about", f"Sample {index}, class"))
    click(page, "individual", POINT, 0, 6)
    until(page, says("where", "90°, element 7 of 25"))
    until(page, says("detail-how", "under 90°"))
    click(page, "aggregate", POINT, 1, 8)
    until(page, says("where", "120°"))
    assert "ground truth" in page.inner_text("#facts") and "orbit that agrees" in page.inner_text("#facts")
    page.select_option("#metric", "loss")
    until(page, says("headline", "Log loss over 24 samples. left: "))
    until(page, says("individual", "log loss"))
    page.select_option("#reference", "consensus")
    until(page, says("summary", "against consensus"))
    page.select_option("#by", "variance")
    page.select_option("#method", "ica")
    until(page, says("map", "variance of log loss"))
    page.select_option("#subset", label="class 1")
    until(page, says("headline", "12 samples"))
    page.uncheck("#models input >> nth=0")
    until(page, "document.querySelectorAll('#summary tbody tr').length === 3")
    assert "left" not in page.inner_text("#summary") and "left:" not in page.inner_text("#headline")
    page.click("#models input >> nth=1")
    assert page.is_checked("#models input >> nth=1")  # one model is always shown


def test_a_drag_around_the_image_turns_it(report, result, until):
    page = report(result)
    page.evaluate("document.getElementById('detail').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = page.locator("#detail .nsewdrag[data-subplot=xy]").bounding_box()
    x, y, r = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, 0.3 * box["width"]
    page.mouse.move(x + r, y)
    page.mouse.down()
    page.mouse.move(x + 0.7 * r, y - 0.7 * r, steps=3)
    page.mouse.move(x, y - r, steps=3)
    page.mouse.up()
    until(page, says("where", "90°"))


def test_the_keyboard_alone_walks_samples_and_elements(report, result, until):
    page = report(result)
    page.focus("#metric")
    met = []
    while not met or met[-1] != "axis-0":
        page.keyboard.press("Tab")
        met.append(page.evaluate("document.activeElement.id"))
        assert len(met) < 60
    assert met.index("method") < met.index("rank") < met.index("next")
    page.keyboard.press("ArrowRight")
    until(page, says("where", "15°"))
    page.focus("#rank")
    page.keyboard.press("Home")
    until(page, says("about", "Number 1 of 24"))
    page.keyboard.press("ArrowRight")
    until(page, says("about", "Number 2 of 24"))
    page.click("#next")
    until(page, says("about", "Number 3 of 24"))
    page.click("#previous")
    until(page, says("about", "Number 2 of 24"))
    nameless = """() => [...document.querySelectorAll('button, input, select')].filter(e => e.offsetParent
      && !(e.labels && e.labels.length) && !e.textContent.trim()).map(e => e.outerHTML)"""
    assert page.evaluate(nameless) == []


TOLD = {"polar": " %", "grid": EVIL, "tiles": "mean length", "polar-grid": " %", "line": "."}


def same_traces(drawn, figure):
    assert [t["type"] for t in drawn] == [t.type for t in figure.data]
    assert [t.get("name") for t in drawn] == [t.name for t in figure.data]
    for mine, theirs in zip(drawn, figure.data):
        for key in ("x", "y", "z", "r", "theta"):
            wanted = np.array(theirs[key] if key in theirs and theirs[key] is not None else "", copy=None)
            if wanted.dtype.kind not in "fiu":
                continue
            close = {"rtol": 2e-3, "atol": 2e-3}
            if mine["meta"].get("part") == "input" and mine["type"] == "heatmap" and key == "z":  # 64 shades
                wanted = np.clip((wanted - theirs.zmin) / (theirs.zmax - theirs.zmin) * 63, 0, 63)
                close = {"atol": 0.51}
            np.testing.assert_allclose(np.array(mine[key], float), wanted, **close)


@pytest.mark.parametrize("kind", TOLD)
def test_every_task_and_layout_is_drawn_as_in_python(report, until, kind):
    result = make(kind)
    page = report(result)
    assert TOLD[kind] in page.inner_text("#facts tr:has-text('answer')")
    page.evaluate("setSample(3), setElement(1)")
    until(page, says("where", result.group.labels[1]))
    figures = {
        "aggregate": result.plot(element=1), "individual": result.plot("individual", sample=3, element=1),
        "detail": result.plot("detail", sample=3, element=1),
    }  # fmt: skip
    for view, figure in figures.items():
        count = f"(document.getElementById('{view}').data || []).length == {len(figure.data)}"
        until(page, count)
        same_traces(page.evaluate(f"document.getElementById('{view}').data"), figure)


def test_a_click_with_the_mouse_chooses_an_element_of_a_heat_map(report, until):
    page = report(make("grid"))
    click(page, "aggregate", WITHIN, 0.9, 0.1)
    until(page, says("where", "(+1, -1)"))
    click(page, "individual", WITHIN, 0.1, 0.9)
    until(page, says("where", "(-1, +1)"))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_stacks_the_panels(report, result, until, dark):
    page = report(result, width=390, dark=dark)
    assert not page.evaluate(WIDE)
    until(page, "document.getElementById('map').offsetHeight > 600")
    assert not page.evaluate(WIDE)
