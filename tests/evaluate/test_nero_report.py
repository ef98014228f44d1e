"""Figures and the HTML report."""

import base64
import gzip
import json
import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

from anytask.core.colors import PALETTE
from anytask.evaluate import NERO
from anytask.evaluate.nero.detail import detail_figure, picture
from anytask.evaluate.nero.figures import aggregate_figure, individual_figure, sample_map
from anytask.parts.planar_groups import Dihedral, Rotations, Shifts, TimeReversal, cyclic
from anytask.parts.set_groups import AxisRotations, Permutations
from anytask.parts.transforms import Product

RNG = np.random.default_rng(0)
EVIL = "<script>alert(1)</script>"


def classify(x):
    p = np.full((len(x), 2), 0.5)
    p[:, 1] = np.clip(np.asarray(x, float).reshape(len(x), -1)[:, 0], 0.05, 0.95)
    p[:, 0] = 1 - p[:, 1]
    return p


def uneven(x):
    return classify(np.asarray(x)[:, ::-1])


def field(x):
    down, right = np.gradient(x[:, 0], axis=(1, 2))
    return np.stack([right, -down], axis=1)


def boxes(x):
    return [{"boxes": [[1, 1, 4, 4]], "scores": [0.7], "labels": [EVIL]} for _ in x]


def make(kind):
    X = RNG.uniform(size=(10, 6, 6))
    y = np.arange(10) % 2
    if kind == "polar":
        return NERO(Rotations(step=30)).evaluate({"a": classify, EVIL: uneven}, X, y)
    if kind == "grid":
        truth = [{"boxes": [[1, 1, 4, 4]], "labels": [EVIL]}] * 10
        return NERO(Shifts((-1, 0, 1))).evaluate({"a": boxes}, X, truth)
    if kind == "tiles":
        pairs = np.stack([X, -X], axis=1)
        return NERO(Product(Dihedral(), TimeReversal())).evaluate({"a": field, "b": field}, pairs, field(pairs))
    if kind == "polar-grid":
        return NERO(AxisRotations(("xy", "yz"), axis_step=90, angle_step=90)).evaluate(
            {"a": classify, "b": uneven}, RNG.uniform(size=(10, 8, 3)), y
        )
    return NERO(Permutations(6, 5)).evaluate({"a": lambda x: x.sum(axis=1)}, X[:, 0], X[:, 0].sum(axis=1))


@pytest.fixture(scope="module", params=["polar", "grid", "tiles", "polar-grid", "line"])
def result(request):
    return make(request.param)


def test_aggregate_and_individual_show_the_values_and_name_the_elements(result):
    for figure, curves in (
        (aggregate_figure(result, element=1), result.aggregate()),
        (individual_figure(result, 2, element=1), result.values()[:, :, 2]),
    ):
        marked = [trace for trace in figure.data if trace.customdata is not None]
        assert figure.layout.height and len(marked) >= len(result.models)
        if result.group.layout == "tiles" and figure.data[0].z.shape[0] > 4:  # error maps: each pixel knows its tile
            assert set(np.unique(marked[0].customdata)) == set(range(-1, 16))
            continue
        names = list(result.models)
        per = len(marked) // len(names)
        for place, trace in enumerate(marked):
            j = place % len(names) if trace.type == "barpolar" else place // per
            index = np.asarray(trace.customdata)
            shown = {"scatterpolar": "r", "heatmap": "z", "scatter": "y"}.get(trace.type)
            values = np.asarray(trace[shown] if shown else trace.marker.color, dtype=float)
            np.testing.assert_allclose(values[index >= 0], curves[j][index[index >= 0]], rtol=1e-5)


def test_the_sample_map_shares_colors_and_knows_its_samples(result):
    figure = sample_map(result, selected=3, color_by="variance")
    points = [trace for trace in figure.data if trace.customdata is not None]
    assert len(points) == len(result.models)
    assert all(np.array_equal(trace.customdata, np.arange(10)) for trace in points)
    values = result.intensity("variance")
    assert figure.layout.coloraxis.cmin == pytest.approx(values.min())


def test_details_are_drawn_for_every_task(result):
    figure = detail_figure(result, 3, element=len(result.group) - 1)
    assert len(figure.data) >= 2
    assert escape_free(figure)


def escape_free(figure):
    return EVIL not in figure.to_json().replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u002f", "/")


def test_models_keep_their_colors_when_only_one_is_drawn():
    result = make("polar")
    alone = aggregate_figure(result, models=[EVIL])
    assert alone.data[0].line.color == PALETTE[1]
    with pytest.raises(ValueError, match="there is no model 'c'"):
        aggregate_figure(result, models=["c"])
    with pytest.raises(ValueError, match="kind must be one of"):
        result.plot("pie")
    assert result.plot().data and result.plot("detail", sample=0).data


def test_a_single_orbit_of_few_degrees_is_drawn_open():
    result = NERO(Rotations(10, -20, 20)).evaluate(classify, RNG.uniform(size=(4, 5, 5)), [0, 1, 0, 1])
    assert aggregate_figure(result).data[0].fill is None
    full = NERO(cyclic(6)).evaluate(classify, RNG.uniform(size=(4, 5, 5)), [0, 1, 0, 1])
    assert aggregate_figure(full).data[0].fill == "toself"


@pytest.mark.parametrize(
    ("group", "shape", "wanted"),
    [
        (Rotations(image_shape=(4, 5)), (20,), (4, 5)),
        (Rotations(image_shape=(3, 4, 5), pad=1), (126,), (6, 7, 3)),
        (Rotations(), (3, 4, 5), (4, 5, 3)),
        (Rotations(channels_last=True), (4, 5, 3), (4, 5, 3)),
        (Rotations(channels_last=True), (4, 5, 1), (4, 5)),
        (Product(Dihedral(), TimeReversal()), (2, 4, 4), (4, 4)),
        (Product(Dihedral(), TimeReversal()), (2, 3, 4, 4), (4, 4, 3)),
        (Permutations(8), (8,), None),
        (Permutations(8), (1, 8, 9), (8, 9)),
    ],
)
def test_pictures_of_inputs(group, shape, wanted):
    image = picture(group, np.zeros(shape))
    assert (None if image is None else image.shape) == wanted


def page_of(result, path, **options):
    result.to_html(path, **options)
    page = path.read_text(encoding="utf-8")
    data = re.search(r'<script type="text/plain" id="data">(.*?)</script>', page, re.S)
    return page, json.loads(gzip.decompress(base64.b64decode(data[1])))


def test_the_report_is_one_file_with_all_views_that_fetches_nothing(result, tmp_path):
    page, data = page_of(result, tmp_path / "report.html", title=f"About {EVIL}")
    assert "default-src 'none'" in page and not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert EVIL not in page  # names of models, classes and the title are data, never markup
    assert "<h2>Summary</h2>" in page and data["title"] == f"About {EVIL}"
    assert all(f'id="{view}"' in page for view in ("aggregate", "map", "individual", "detail", "facts"))
    assert data["models"] == list(result.models) and len(data["samples"]) == 10
    assert list(data["details"]) == [str(i) for i in range(10)]
    assert set(data["values"]) == {f"{r}/{m}" for r in result.references for m in result.metrics}


def test_a_small_room_keeps_fewer_details_and_says_so(tmp_path):
    _, data = page_of(make("polar"), tmp_path / "r.html", max_bytes=2_500, max_samples=6)
    assert len(data["samples"]) == 6 and 1 <= len(data["details"]) < 6
    assert "of 6 samples" in data["why"]


def test_loaded_results_without_outputs_still_have_a_report(tmp_path):
    from anytask.evaluate import NeroResult

    make("polar").save(tmp_path / "r", outputs=False)
    _, data = page_of(NeroResult.load(tmp_path / "r"), tmp_path / "r.html")
    assert data["details"] == {} and "the outputs were not kept" in data["why"]


def test_failures_are_listed_in_the_report(tmp_path):
    def fragile(x):
        if (np.asarray(x) > 5).any():
            raise RuntimeError(EVIL)
        return classify(x)

    X = RNG.uniform(size=(4, 5, 5))
    X[1, 2, 2] = 9
    with pytest.warns(UserWarning, match="on 1 of 4 samples"):
        result = NERO(cyclic(4)).evaluate(fragile, X, [0, 1, 0, 1])
    page, data = page_of(result, tmp_path / "r.html")
    assert data["failures"] == [["model", 1, "0°", f"RuntimeError: {EVIL}"]] and EVIL not in page
    assert data["details"]["1"]["outputs"] == [[None] * 4]


def test_subsets_are_classes_and_what_the_consensus_gets_right(tmp_path):
    _, data = page_of(make("polar"), tmp_path / "r.html")
    rows = dict(zip(data["subsets"], map(set, data["members"])))
    assert rows["class 0"] == set(range(0, 10, 2)) and rows["class 1"] == set(range(1, 10, 2))
    right, wrong = (rows.get(f"consensus of a is {which} class", set()) for which in ("the true", "another"))
    assert right | wrong == rows["all samples"] and not right & wrong
    assert data["counts"] == [len(rows[name]) for name in data["subsets"]]


def test_the_example_of_the_paper_stays_under_5_megabytes(tmp_path):
    digits = load_digits()
    names, shades = digits.target[:300], digits.images[:300] / 16

    def model(x, sharp):  # as spread over the classes as a network that has been trained
        scores = np.asarray(x).reshape(len(x), -1) @ np.random.default_rng(int(sharp)).normal(size=(64, 10))
        p = np.exp(sharp * (scores - scores.max(axis=1, keepdims=True)))
        return p / p.sum(axis=1, keepdims=True)

    result = NERO().evaluate({"a": lambda x: model(x, 1), "b": lambda x: model(x, 2)}, shades, names)
    result.to_html(tmp_path / "r.html")
    assert (tmp_path / "r.html").stat().st_size < 5_000_000


def test_a_report_needs_a_folder(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        make("line").to_html(tmp_path / "nowhere" / "r.html")
    assert list(tmp_path.iterdir()) == []
