"""The NERO page: the results it offers, what it serves, and how a person uses it."""

import json
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from anytask.app import make_app
from anytask.app.nero import example as nero_example
from anytask.app.nero import page as nero_page
from anytask.app.nero.data import EXAMPLE, Job, NeroLibrary, NotShown, result_csv
from anytask.evaluate import NERO
from anytask.parts.planar_groups import Rotations, Shifts
from anytask.parts.set_groups import Permutations

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
    with pytest.warns(UserWarning, match="sum could not be evaluated on 1 of 20 samples"):
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
    with pytest.raises(NotShown, match=r"cannot be read: the saved state in .* is damaged"):
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


def test_damage_is_said_and_the_example_waits(library):
    assert "damaged" in str(nero_page.body(library, "result-3", "/nero"))
    assert "nero-compute" in str(nero_page.body(library, EXAMPLE, "/nero"))
    assert "/nero/view/result-1" in str(nero_page.body(library, "result-1", "/nero"))


def test_csv_tables(result):
    assert result_csv(result, "summary").startswith("model,reference,metric,identity")
    samples = result_csv(result, "samples").splitlines()
    assert samples[0].startswith("reference,metric,model,sample,label,mean") and len(samples) == 1 + 6 * 2 * 24
    orbit = result_csv(result, "orbit").splitlines()
    assert len(orbit) == 1 + 6 * 13 and orbit[1].startswith("truth,confidence,0°,")
    with pytest.raises(ValueError, match="which must be"):
        result_csv(result, "nothing")


def test_a_job_that_fails_says_why(library):
    library.example = Job(lambda progress: 1 / 0)
    library.example.join()
    shown, working = nero_page.progress_of(library)
    assert "ZeroDivisionError" in str(shown) and not working


def test_a_job_tells_its_share(library):
    go = threading.Event()
    library.example = Job(lambda progress: (progress(0.25), go.wait(60)))
    while library.example.share == 0:
        pass
    shown, working = nero_page.progress_of(library)
    assert "25 %" in str(shown) and working
    go.set()
    library.example.join()
    assert nero_page.progress_of(library) == (None, False)


@pytest.fixture(scope="module")
def client(tmp_path_factory, result, folders):
    app = make_app(
        tmp_path_factory.mktemp("none") / "none.sqlite", meaning=False, nero=[folders], results={"patches": result}
    )
    return partial(app.server.test_client().get, headers={"Host": "127.0.0.1"})


def test_views_may_be_framed_by_this_application_alone(client):
    answer = client("/nero/view/result-1")
    assert answer.status_code == 200 and b"/nero/more/result-1" not in answer.data  # names and data are packed
    policy = answer.headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policy and "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert client("/nero/view/nobody").status_code == 404
    assert client("/nero/view/example").status_code == 503


def test_what_the_views_do_not_hold_is_served(client, result):
    maps = json.loads(client("/nero/more/result-1?method=ica").data)
    assert set(maps["points"]) == {f"{r}/{m}/ica" for r in result.references for m in result.metrics}
    one = json.loads(client("/nero/more/result-1?sample=3").data)["3"]
    assert len(one["input"]) == 12 and len(one["outputs"]) == 2  # 0 and 360 degrees are one
    assert json.loads(client("/nero/more/result-1?sample=99").data) == {}
    assert client("/nero/more/result-1?method=lda").status_code == 400


def test_downloads(client):
    for what, begins in (("summary.csv", b"model,"), ("report.html", b"<!doctype html>")):
        answer = client(f"/nero/download/result-1/{what}")
        assert answer.data.startswith(begins)
        assert answer.headers["Content-Disposition"] == f'attachment; filename="nero-result-1-{what}"'
    assert client("/nero/download/result-1/else").status_code == 404


# -- in the browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(server, tmp_path_factory, result, folders):
    shifts = NERO(Shifts([-1, 0, 1])).evaluate(MODELS, *patches())
    results = {"patches": result, "shifts": shifts}
    return server(tmp_path_factory.mktemp("store") / "none.sqlite", nero=[folders], results=results)


VIEWS = "document.getElementById('nero-frame')?.contentDocument"
READY = f"{VIEWS}?.documentElement?.dataset.ready && {VIEWS}.querySelector('#individual .main-svg')"
WIDE = "document.documentElement.scrollWidth > window.innerWidth"


def frame_of(page, until):
    """The frame of the views, once they are drawn."""
    until(page, READY)
    return page.query_selector("#nero-frame").content_frame()


def choose(page, menu, option):
    page.click(f"#{menu}")
    page.locator(".dash-dropdown-option", has_text=option).first.click()


def says(name, words):
    return f"(document.getElementById('{name}') || {{}}).textContent.includes({words!r})"


def test_the_views_are_shown_and_linked(open_page, address, until):
    page = open_page(f"{address}/nero", wait="#nero-frame")
    frame = frame_of(page, until)
    until(frame, says("headline", "over 24 samples. total: "))
    frame.evaluate("document.getElementById('map').emit('plotly_click', {points: [{customdata: 5, data: {}}]})")
    until(frame, says("about", "Sample 5, class 1"))
    frame.evaluate("document.getElementById('individual').emit('plotly_click', {points: [{customdata: 3, data: {}}]})")
    until(frame, says("where", "90°"))
    assert EVIL in frame.inner_text("#facts") and frame.locator("img").count() == 0
    frame.select_option("#method", "isomap")  # the page does not hold it, and asks for it
    until(frame, "document.querySelectorAll('#map path.point').length >= 48 && !!D.points['truth/confidence/isomap']")
    until(page, "document.getElementById('nero-frame').offsetHeight > 1500")
    choose(page, "nero-source", "shifts")
    until(page, "document.getElementById('nero-frame').src.endsWith('result-2')")
    until(frame_of(page, until), "document.querySelectorAll('#individual .heatmaplayer image').length > 0")


def test_the_example_is_computed_on_a_click(open_page, server, tmp_path, until, monkeypatch):
    small = partial(nero_example.digits_example, samples=20, step=90, turns=1)
    monkeypatch.setattr(nero_example, "digits_example", small)
    page = open_page(f"{server(tmp_path / 'none.sqlite')}/nero", wait="#nero-compute")
    page.click("#nero-compute")
    until(page, "document.getElementById('nero-frame')?.src.endsWith('example')")
    until(frame_of(page, until), says("headline", "over 20 samples. plain: "))
    assert page.is_visible("#nero-views") and not page.query_selector("#nero-compute")


def test_results_without_labels_damaged_or_bare(open_page, address, until):
    page = open_page(f"{address}/nero", wait="#nero-frame")
    until(page, READY)
    choose(page, "nero-source", "damaged")
    until(page, says("nero-body", "damaged"))
    assert not page.query_selector("#nero-views")
    choose(page, "nero-source", "unlabelled")
    until(page, "document.getElementById('nero-frame')?.src.endsWith('result-5')")
    frame = frame_of(page, until)
    until(frame, says("notices", "own consensus"))
    assert "1 sample could not be evaluated" in frame.inner_text("#notices")
    frame.evaluate("setSample(7)")
    until(frame, says("failed", "<b>cannot</b> read this one"))
    choose(page, "nero-source", "bare")
    until(page, "document.getElementById('nero-frame').src.endsWith('result-3')")
    frame = frame_of(page, until)
    until(frame, says("detail-note", "inputs were not saved"))
    until(frame, says("headline", "24 samples"))
    choose(page, "nero-source", "digits")
    until(page, "!!document.getElementById('nero-compute')")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_stacks_the_panels(open_page, address, until, dark):
    page = open_page(f"{address}/nero", width=390, dark=dark, wait="#nero-frame")
    frame = frame_of(page, until)
    until(frame, "document.getElementById('map').offsetHeight > 600")
    assert not page.evaluate(WIDE) and not frame.evaluate(WIDE)


def test_the_report_is_downloaded(open_page, address, until):
    page = open_page(f"{address}/nero", wait="#nero-frame")
    until(page, "(document.getElementById('nero-report')?.href || '').endsWith('report.html')")
    with page.expect_download() as saved:
        page.click("#nero-report")
    assert saved.value.suggested_filename == "nero-result-1-report.html"
    assert Path(saved.value.path()).read_text(encoding="utf-8").startswith("<!doctype html>")
