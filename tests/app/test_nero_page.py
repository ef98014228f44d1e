"""The NERO page: its callbacks as functions, and its four linked views as a person uses them."""

import json
import re
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from anytask.app.nero import example as nero_example
from anytask.app.nero import page as nero_page
from anytask.app.nero import views as nero_views
from anytask.app.nero.data import EXAMPLE, NeroLibrary, NotShown, consensus_facts, result_csv
from anytask.app.nero.views import Axes, Drawer, Question
from anytask.evaluate import NERO
from anytask.evaluate.parts.planar_groups import Dihedral, Rotations, Shifts
from anytask.evaluate.parts.set_groups import AxisRotations, Permutations
from anytask.evaluate.parts.transforms import Product

EVIL = "<img src=x onerror=alert(1)>"


def bright_half(where):
    """A model that answers 1 where the given half of an image is brighter than 8, and is sure of it by how much."""

    def model(X):
        total = where(np.asarray(X)).sum(axis=(1, 2))
        p = 1 / (1 + np.exp(8 - total))
        return np.stack([1 - p, p], axis=1)

    return model


def patches(n=24, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    X = rng.uniform(0, 0.1, size=(n, 8, 8))
    X[y == 1, 2:6, 0:4] += 1
    return X, y


MODELS = {"total": bright_half(lambda X: X), EVIL: bright_half(lambda X: X[:, :, :4])}


@pytest.fixture(scope="module")
def result():
    return NERO(Rotations(step=30)).evaluate(MODELS, *patches())


@pytest.fixture(scope="module")
def unlabelled():
    seq = np.random.default_rng(1).normal(size=(20, 3))

    def failing(X):
        if any(np.array_equal(np.sort(row), np.sort(seq[7])) for row in np.asarray(X)):
            raise RuntimeError("<b>cannot</b> read this one")
        return np.eye(2)[(np.asarray(X).sum(axis=1) > 0).astype(int)]

    first = lambda X: np.eye(2)[(X[:, 0] > 0).astype(int)]  # noqa: E731
    return NERO(Permutations(3)).evaluate({"first": first, "sum": failing}, seq)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, unlabelled):
    root = tmp_path_factory.mktemp("nero")
    unlabelled.save(root / "unlabelled")
    bare = NERO(Rotations(step=90)).evaluate({"total": MODELS["total"]}, *patches())
    bare.save(root / "bare", inputs=False, outputs=False)
    (root / "damaged").mkdir()
    (root / "damaged" / "state.json").write_text('{"class": "anytask.evaluate.nero.result:NeroResult", "tree": ')
    return root


@pytest.fixture
def library(result, folders):
    return NeroLibrary([folders], {"patches": result})


def test_the_library_lists_results_then_folders_then_the_example(library):
    assert [source.name for source in library.sources] == [
        "patches", "bare", "damaged", "unlabelled", "digits: plain against augmented network",
    ]  # fmt: skip
    assert library.get("result-1").models == ("total", EVIL)
    assert library.get("result-4").failures[0].sample == 7
    with pytest.raises(NotShown, match=r"The saved state in .* is damaged"):
        library.get("result-3")
    with pytest.raises(NotShown, match="has not been computed"):
        library.get(EXAMPLE)


def test_bad_folders_and_results_are_refused_at_the_door(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        NeroLibrary([tmp_path / "nowhere"])
    with pytest.raises(TypeError, match="NeroResult"):
        NeroLibrary(results=[3])
    empty = NeroLibrary([tmp_path])
    with pytest.raises(NotShown, match="There is no saved result in"):
        empty.get(empty.sources[0].id)


def test_a_question_is_one_that_the_result_can_answer(result, unlabelled):
    asked = nero_views.ask(result, "r", "nobody", EVIL, "no metric", "no reference", "class-9")
    assert asked == Question("r", ("total", EVIL), "confidence", "truth", "all", False)
    assert Question.from_json(json.loads(json.dumps(asked.as_json()))) == asked
    assert nero_views.ask(result, "r", "total", "total").models == ("total",)
    assert nero_views.ask(unlabelled, "r", reference="truth").reference == "consensus"


def test_subsets_are_classes_and_what_the_consensus_gets_right(result):
    named = dict(nero_views.subsets(result))
    assert list(named) == ["all", "class-0", "class-1", "consensus-right", "consensus-wrong"]
    rows = {key: set(nero_views.rows(result, nero_views.ask(result, "r", EVIL, subset=key)).tolist()) for key in named}
    assert rows["class-0"] == set(range(0, 24, 2)) and rows["class-1"] == set(range(1, 24, 2))
    assert rows["consensus-right"] | rows["consensus-wrong"] == rows["all"]
    assert not rows["consensus-right"] & rows["consensus-wrong"]


def test_samples_are_in_the_order_of_their_intensity(result):
    asked = nero_views.ask(result, "r", EVIL)
    for by in ("mean", "variance"):
        order = nero_views.order(result, asked, by)
        values = result.intensity(by, "confidence", "truth")[1][order]
        assert sorted(order) == list(range(24)) and (np.diff(values) >= 0).all()
    assert nero_views.most_varied(result, asked) == result.top(1, "variance", model=EVIL)[0]


@pytest.mark.parametrize(
    "group",
    [
        Rotations(step=30),
        Shifts([-1, 0, 1]),
        Product(Dihedral(), Dihedral()),
        AxisRotations(axis_step=90),
        Permutations(3),
    ],
    ids=lambda group: type(group).__name__,
)
def test_sliders_reach_every_element(group):
    axes = Axes.of(group)
    assert len(axes.names) <= 3
    assert [axes.element(axes.positions(k)) for k in range(len(group))] == list(range(len(group)))
    assert axes.element([10**6] * len(axes.names)) == axes.table.flat[-1]


def test_a_click_the_slider_and_the_buttons_choose_a_sample(library):
    asked = nero_views.ask(library.get("result-1"), "result-1")
    order = nero_views.order(library.get("result-1"), asked, "mean").tolist()

    def choose(trigger, click=None, rank=None, before=None):
        return nero_page.chosen_sample(library, asked, "mean", trigger, click, rank, before)

    first = choose("nero-question")
    assert first[0] == {"source": "result-1", "at": nero_views.most_varied(library.get("result-1"), asked)}
    assert first[2:4] == (24, 1)
    clicked = choose("nero-samples", click={"points": [{"customdata": 5}]}, before=first[0])
    assert clicked[0]["at"] == 5 and clicked[1] == order.index(5) + 1
    assert "Sample 5, class 1." in clicked[4]
    assert choose("nero-rank", rank=3)[0]["at"] == order[2]
    here = {"source": "result-1", "at": order[2]}
    assert choose("nero-next", before=here)[0]["at"] == order[3]
    assert choose("nero-previous", before=here)[0]["at"] == order[1]
    end = {"source": "result-1", "at": order[-1]}
    assert choose("nero-next", before=end)[0] is nero_page.no_update
    assert choose("nero-samples", click={"points": [{"customdata": 99}]}, before=end)[0] is nero_page.no_update


def test_a_click_and_the_slider_choose_an_element(library):
    asked = nero_views.ask(library.get("result-1"), "result-1")

    def choose(trigger, click=None, positions=(0, 0, 0), before=None):
        return nero_page.chosen_element(library, asked, trigger, click, positions, before)

    first = choose("nero-question")
    assert first[0] == {"source": "result-1", "at": 0} and first[1:3] == (0, 12)
    clicked = choose("nero-aggregate", {"points": [{"customdata": 4}]}, before=first[0])
    assert clicked[:2] == ({"source": "result-1", "at": 4}, 4)
    assert choose("nero-individual", {"points": [{"customdata": -1}]}, before=first[0])[0] is nero_page.no_update
    assert choose("nero-axis-0", positions=("7", 0, 0), before=first[0])[0]["at"] == 7


def test_only_the_marker_is_sent_when_the_element_moves(library):
    drawer = Drawer(library.get)
    asked = nero_views.ask(library.get("result-1"), "result-1", second=EVIL)
    whole = nero_page.drawn(lambda: drawer.aggregate(asked, 0), "key", None, library, asked)
    moved = nero_page.drawn(lambda: drawer.aggregate(asked, 3), "key", "key", library, asked)
    assert whole[3] == "key" and len(whole[0]["data"]) == 3
    sent = moved[0].to_plotly_json()["operations"]
    assert [step["location"] for step in sent] == [["data", 2]]
    assert sent[0]["params"]["value"]["theta"] == [90.0, 90.0]
    assert len(json.dumps(sent)) < len(json.dumps(whole[0])) / 4


def test_clicked_points_carry_plain_numbers(library):
    drawer = Drawer(library.get)
    asked = nero_views.ask(library.get("result-1"), "result-1")
    for drawn in (drawer.aggregate(asked, 0), drawer.samples(asked, "pca", "mean", 0), drawer.individual(asked, 0, 0)):
        assert drawn["data"][0]["customdata"][:3] == [0, 1, 2]


def test_a_figure_is_drawn_once(library):
    drawer = Drawer(library.get, most=2)
    asked = nero_views.ask(library.get("result-1"), "result-1")
    one = drawer.aggregate(asked, 0)
    assert drawer.aggregate(asked, 0) is one
    drawer.aggregate(asked, 1), drawer.aggregate(asked, 2)
    assert drawer.aggregate(asked, 0) is not one


def test_panels_are_stacked_on_phones(library):
    drawer = Drawer(library.get)
    result = library.get("result-1")
    wide = drawer.samples(nero_views.ask(result, "result-1", second=EVIL), "pca", "mean", 0)["layout"]
    tall = drawer.samples(nero_views.ask(result, "result-1", second=EVIL, narrow=True), "pca", "mean", 0)["layout"]
    assert wide["xaxis"]["domain"][1] < wide["xaxis2"]["domain"][0]
    assert tall["xaxis"]["domain"] == tall["xaxis2"]["domain"] == [0, 1]
    assert tall["yaxis"]["domain"][0] > tall["yaxis2"]["domain"][1] and tall["height"] > 600


def test_damage_and_failures_are_said_and_the_rest_goes_on(library):
    closed = nero_page.opened(library, "result-3", [None] * 5)
    assert "damaged" in str(closed[15]) and closed[17] is True
    bare = nero_views.ask(library.get("result-2"), "result-2")
    drawer = Drawer(library.get)
    assert "inputs, and they were not saved" in str(
        nero_page.drawn(lambda: drawer.detail(bare, 0, 0), None, None, library, bare)[2]
    )
    assert nero_page.facts(library, bare, 0, 0)[0] is None
    assert drawer.aggregate(bare, 0)["data"]
    asked = nero_views.ask(library.get("result-4"), "result-4", second="sum")
    assert "<b>cannot</b> read this one" in str(nero_page.opened(library, "result-4", [None] * 5)[15])
    table, failed = nero_page.facts(library, asked, 7, 0)
    assert len(failed) == 1 and table is not None
    assert drawer.individual(asked, 7, 0)["data"] and drawer.detail(asked, 7, 0)["data"]


def test_consensus_comes_with_agreement_and_its_error_against_real_labels(result):
    rows = np.arange(24)
    total, half = (consensus_facts(result, name, rows) for name in result.models)
    assert total["correct"] == 1.0 and total["agreement"] == pytest.approx(result.consensus["total"].agreement.mean())
    assert half["agreement"] < total["agreement"]
    truth = NERO(Shifts([-1, 0, 1])).evaluate(
        lambda X: [{"boxes": [[2, 2, 5, 5]], "scores": [0.9], "labels": ["a"]}] * len(X),
        np.zeros((2, 9, 9)), [{"boxes": [[2, 2, 5, 5]], "labels": ["a"]}] * 2,
    )  # fmt: skip
    facts = consensus_facts(truth, "model", np.arange(2))
    assert facts["error_name"] == "IoU" and facts["error"] == pytest.approx(1.0)  # shifts cancel in the mean


def test_csv_tables(result):
    assert result_csv(result, "summary").startswith("model,reference,metric,identity")
    samples = result_csv(result, "samples").splitlines()
    assert samples[0].startswith("model,sample,label,mean") and len(samples) == 1 + 2 * 24
    orbit = result_csv(result, "orbit").splitlines()
    assert len(orbit) == 1 + 13 and orbit[1].startswith("0°,")
    with pytest.raises(ValueError, match="which must be"):
        result_csv(result, "nothing")


def test_a_job_that_fails_says_why():
    library = NeroLibrary()
    job = library._start(EXAMPLE, lambda progress: 1 / 0)
    job.thread.join()
    shown = nero_page.background(library, EXAMPLE, "/link")
    assert "ZeroDivisionError" in str(shown[0]) and shown[1] is False and shown[4] is True


# -- in the browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(server, tmp_path_factory, result, folders):
    shifts = NERO(Shifts([-1, 0, 1])).evaluate(MODELS, *patches())
    results = {"patches": result, "shifts": shifts}
    return server(tmp_path_factory.mktemp("store") / "none.sqlite", nero=[folders], results=results)


ORBIT = "document.querySelector('#nero-individual .js-plotly-plot')"
SHOWN = """document.querySelectorAll('#nero-samples .points path').length >= 48
  && document.querySelector('#nero-individual .scatterlayer .trace') && document.querySelector('#nero-detail .bars')"""
#: Where the point of the first map is that is farthest from all others.
LONELY = """() => {
  const boxes = [...document.querySelector('#nero-samples .scatterlayer .trace').querySelectorAll('.points path')].map(
    e => e.getBoundingClientRect()).map(b => [b.x + b.width / 2, b.y + b.height / 2]);
  const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
  const room = boxes.map((a, i) => Math.min(...boxes.map((b, j) => i === j ? Infinity : apart(a, b))));
  const i = room.indexOf(Math.max(...room));
  return boxes[i];
}"""
WIDE = "document.documentElement.scrollWidth > window.innerWidth"


def click(page, view, point, curve=0):
    """Click on a point of a figure, as Plotly reports clicks to the page."""
    page.evaluate(
        f"document.querySelector('#{view} .js-plotly-plot').emit('plotly_click', "
        f"{{points: [{{curveNumber: {curve}, pointNumber: {point}, customdata: {point}, x: 0, y: 0}}]}})"
    )


def choose(page, menu, option):
    page.click(f"#{menu}")
    page.locator(".dash-dropdown-option", has_text=option).first.click()


def hover(page, view, place):
    """Move the real mouse over a view to where JavaScript says, until the figure tells what is there; return where."""
    page.evaluate(f"document.getElementById('{view}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
    told, end = page.locator(f"#{view} .hoverlayer .hovertext"), time.monotonic() + 120
    while not told.count():
        assert time.monotonic() < end, f"{view} says nothing under the mouse"
        x, y = page.evaluate(place)  # anew each time: the page may still be moving
        page.mouse.move(x - 12, y - 8)
        page.mouse.move(x, y)
        page.wait_for_timeout(100)
    return x, y


def test_clicks_link_the_views(open_page, address, until):
    page = open_page(f"{address}/nero", wait="#nero-detail .main-svg")
    until(page, SHOWN)
    x, y = hover(page, "nero-samples", LONELY)
    index = int(re.search(r"sample (\d+)", page.text_content("#nero-samples .hoverlayer"))[1])
    page.mouse.click(x, y)
    until(page, f"document.getElementById('nero-about').textContent.startsWith('Sample {index}, class')")
    click(page, "nero-samples", 5)
    until(page, "/^Sample 5, class 1/.test(document.getElementById('nero-about').textContent)")
    click(page, "nero-individual", 3)
    until(page, "document.getElementById('nero-where').textContent.startsWith('90°')")
    until(page, "document.querySelector('#nero-detail').textContent.includes('at 90°')")
    assert "ground truth" in page.inner_text("#nero-facts") and EVIL in page.inner_text("#nero-facts")
    choose(page, "nero-metric", "log loss")
    until(page, "document.getElementById('nero-headline').textContent.startsWith('Log loss')")
    until(page, "document.querySelector('#nero-individual').textContent.includes('log loss')")
    choose(page, "nero-reference", "consensus")
    until(page, "document.querySelector('#nero-summary').textContent.includes('against consensus')")
    choose(page, "nero-second", "none")
    until(page, "document.querySelectorAll('#nero-summary tbody tr').length === 3")
    choose(page, "nero-first", EVIL)
    until(page, "document.querySelector('#nero-summary tbody').textContent.includes('<img')")
    choose(page, "nero-subset", "class 1")
    until(page, "document.getElementById('nero-headline').textContent.includes('12 samples')")
    assert page.locator("main img").count() == 0


def mouse_at(page, view, place):
    """Move the real mouse to where JavaScript says, over a view, and click there."""
    page.mouse.click(*hover(page, view, place))


def test_a_click_with_the_mouse_chooses_an_element_on_circles_and_maps(open_page, address, until):
    page = open_page(f"{address}/nero", wait="#nero-detail .main-svg")
    until(page, SHOWN)
    for view, k in (("nero-individual", 5), ("nero-aggregate", 8)):
        point = f"""() => {{
          const points = document.querySelectorAll('#{view} .scatterlayer .trace .points path');
          const box = points[{k}].getBoundingClientRect();
          return [box.x + box.width / 2, box.y + box.height / 2];
        }}"""
        mouse_at(page, view, point)
        until(page, f"document.getElementById('nero-where').textContent.startsWith('{30 * k}°')")
    choose(page, "nero-source", "shifts")
    until(page, "document.getElementById('nero-where').textContent.startsWith('(0, 0) px')")
    until(page, "document.querySelectorAll('#nero-individual .heatmaplayer image').length > 0")
    for view, across, down, label in (
        ("nero-aggregate", 0.9, 0.1, "(+1, -1)"),
        ("nero-individual", 0.1, 0.9, "(-1, +1)"),
    ):
        corner = f"""() => {{
          const box = document.querySelector('#{view} .nsewdrag').getBoundingClientRect();
          return [box.x + {across} * box.width, box.y + {down} * box.height];
        }}"""
        mouse_at(page, view, corner)
        until(page, f"document.getElementById('nero-where').textContent.startsWith('{label}')")


def test_the_example_is_computed_on_a_click(open_page, server, tmp_path, until, monkeypatch):
    small = partial(nero_example.digits_example, samples=20, step=90, turns=1)
    monkeypatch.setattr(nero_example, "digits_example", small)
    page = open_page(f"{server(tmp_path / 'none.sqlite')}/nero", wait="#nero-compute")
    page.click("#nero-compute")
    until(page, "document.getElementById('nero-headline').textContent.includes('over 20 samples. plain: ')")
    assert page.is_visible("#nero-views") and not page.is_visible("#nero-compute")
    assert "augmented" in page.inner_text("#nero-summary")


def test_the_keyboard_alone_walks_samples_and_elements(open_page, address, until):
    page = open_page(f"{address}/nero", wait="#nero-detail .main-svg")
    until(page, SHOWN)
    page.focus("#nero-source")
    met = []
    for _ in range(60):
        page.keyboard.press("Tab")
        met.append(page.evaluate("document.activeElement.id"))
        if met[-1] == "nero-axis-0":
            break
    assert met.index("nero-metric") < met.index("nero-rank") < met.index("nero-axis-0")
    page.keyboard.press("ArrowRight")
    until(page, "document.getElementById('nero-where').textContent.startsWith('30°')")
    page.focus("#nero-rank")
    before = page.inner_text("#nero-about")
    page.keyboard.press("Home")
    until(page, "document.getElementById('nero-about').textContent.includes('Number 1 of 24')")
    page.keyboard.press("ArrowRight")
    until(page, "document.getElementById('nero-about').textContent.includes('Number 2 of 24')")
    assert page.inner_text("#nero-about") != before
    nameless = """() => [...document.querySelectorAll('main button, main input, main a')].filter(e => e.offsetParent
      && !e.closest('[aria-hidden=true]') && !(e.labels && e.labels.length)
      && !e.getAttribute('aria-label') && !e.textContent.trim()).map(e => e.outerHTML)"""
    assert page.evaluate(nameless) == []


def test_results_without_labels_damaged_or_bare(open_page, address, until):
    page = open_page(f"{address}/nero", wait="#nero-detail .main-svg")
    choose(page, "nero-source", "damaged")
    until(page, "document.getElementById('nero-message').textContent.includes('damaged')")
    assert not page.is_visible("#nero-views")
    choose(page, "nero-source", "unlabelled")
    until(page, "document.getElementById('nero-message').textContent.includes('own consensus')")
    assert "1 sample could not be evaluated" in page.inner_text("#nero-message")
    assert "own consensus" in page.inner_text("#nero-message") and page.is_visible("#nero-views")
    until(page, "document.querySelector('#nero-detail .main-svg') !== null")
    choose(page, "nero-source", "bare")
    until(page, "document.getElementById('nero-detail-notice').textContent.includes('were not saved')")
    until(page, "document.getElementById('nero-headline').textContent.includes('24 samples')")
    choose(page, "nero-source", "digits")
    until(page, "document.getElementById('nero-compute').offsetParent !== null")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_stacks_the_panels(open_page, address, until, dark):
    page = open_page(f"{address}/nero", width=390, dark=dark, wait="#nero-detail .main-svg")
    until(page, SHOWN)
    assert not page.evaluate(WIDE)
    until(page, "document.querySelector('#nero-samples').offsetHeight > 600")
    assert not page.evaluate(WIDE)


def test_downloads(open_page, address, until):
    page = open_page(f"{address}/nero", wait="#nero-detail .main-svg")
    until(page, "(document.getElementById('nero-samples-csv').href || '').includes('metric=confidence')")
    with page.expect_download() as saved:
        page.click("#nero-samples-csv")
    assert saved.value.suggested_filename == "nero-result-1-samples.csv"
    page.click("#nero-report")
    page.wait_for_selector("#nero-report-state a")
    with page.expect_download() as saved:
        page.click("#nero-report-state a")
    text = Path(saved.value.path()).read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "<img src=x" not in text
