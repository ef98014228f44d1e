"""Metrics, consensus and the sample map."""

import builtins

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from anytask.evaluate.nero.consensus import (
    consensus_of_arrays,
    consensus_of_boxes,
    consensus_of_classes,
    orbit_consensus,
)
from anytask.evaluate.nero.metrics import (
    Classification,
    Detection,
    Fields,
    NeroMetric,
    Regression,
    clean_detections,
    error_maps,
    iou,
    map_of,
    matched,
    mean_average_precision,
    pack_detections,
    unpack_detections,
)
from anytask.evaluate.nero.reduction import reduce_orbits, same_scale
from anytask.parts.planar_groups import Shifts


def found(boxes, scores=None, labels=None):
    boxes = np.array(boxes, dtype=float).reshape(-1, 4)
    scores = np.ones(len(boxes)) if scores is None else np.array(scores)
    return {"boxes": boxes, "scores": scores, "labels": np.array(labels or [0] * len(boxes))}


# -- consensus ----------------------------------------------------------------------------------------------------


def test_class_consensus_is_the_mean_probability_vector():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
    agreed = consensus_of_classes(p[:, None])
    np.testing.assert_allclose(agreed.value[0], [0.4, 0.4, 0.2])
    np.testing.assert_allclose(agreed.residual[0], np.linalg.norm(p - [0.4, 0.4, 0.2], axis=1).mean())


def test_box_consensus_undoes_the_shifts_and_is_shifted_back_for_the_overlap():
    group = Shifts([0])
    shifts = [(0, 0), (2, 0), (0, -3)]
    boxes = [(1, 1, 5, 6), (4, 1, 8, 6), (1, -1, 5, 4)]
    outputs = [[found([box])] for box in boxes]
    back = [group.undo(g, row, "boxes", (9, 9))[0]["boxes"][0].tolist() for g, row in zip(shifts, outputs)]
    assert back == [[1, 1, 5, 6], [2, 1, 6, 6], [1, 2, 5, 7]]
    agreed = orbit_consensus(group, shifts, outputs, "boxes", "detection", (9, 9))
    (value,) = agreed.value
    np.testing.assert_allclose(value["boxes"][0], [4 / 3, 4 / 3, 16 / 3, 19 / 3])
    moved = [group.psi(g, [value], "boxes", (9, 9))[0]["boxes"] for g in shifts]
    overlaps = [iou(np.array([box]), m)[0, 0] for box, m in zip(boxes, moved)]
    np.testing.assert_allclose(overlaps, [0.747573, 0.636364, 0.658986], atol=1e-6)


def test_the_label_of_a_box_consensus_is_voted_on_and_never_an_average():
    rows = [
        [found([[0, 0, 2, 2]], [0.5], [1])],
        [found([[0, 0, 2, 2]], [0.5], [9])],
        [found([[0, 0, 2, 2]], [0.5], [9])],
    ]
    agreed = consensus_of_boxes(rows)
    assert agreed.value[0]["labels"].tolist() == [9] and agreed.agreement[0] == pytest.approx(2 / 3)
    tie = consensus_of_boxes([[found([[0, 0, 2, 2]], [0.9], [1])], [found([[0, 0, 2, 2]], [0.5], [9])]])
    assert tie.value[0]["labels"].tolist() == [1]


def test_only_the_most_confident_box_of_an_element_takes_part():
    agreed = consensus_of_boxes([[found([[0, 0, 2, 2], [5, 5, 6, 6]], [0.4, 0.8], [1, 2])]])
    np.testing.assert_array_equal(agreed.value[0]["boxes"], [[5, 5, 6, 6]])


@given(arrays(np.float64, (4, 2, 3), elements=st.floats(-10, 10)))
@settings(deadline=None)
def test_the_agreement_of_arrays_lies_between_0_and_1_and_is_1_when_all_are_alike(outputs):
    agreed = consensus_of_arrays(outputs)
    assert ((agreed.agreement >= 0) & (agreed.agreement <= 1)).all()
    alike = consensus_of_arrays(np.broadcast_to(outputs[:1], outputs.shape))
    np.testing.assert_allclose(alike.agreement, 1)
    np.testing.assert_allclose(alike.residual, 0, atol=1e-12)


# -- metrics --------------------------------------------------------------------------------------------------------


def test_classification_metrics_of_fixed_probabilities():
    values = Classification("invariant").measure(np.array([[0.7, 0.3], [0.2, 0.8]]), np.array([0, 0]))
    np.testing.assert_allclose(values["confidence"], [0.7, 0.2])
    np.testing.assert_allclose(values["correctness"], [1, 0])
    np.testing.assert_allclose(values["loss"], -np.log([0.7, 0.2]))


def test_a_probability_of_0_has_a_large_and_finite_loss():
    loss = Classification("invariant").measure(np.array([[0.0, 1.0]]), np.array([0]))["loss"][0]
    assert 80 < loss < 100


def test_field_errors_of_a_difference_of_3_and_4():
    out, target = np.zeros((1, 2, 2, 2)), np.zeros((1, 2, 2, 2))
    out[0, :, 0, 0] = 3, 4  # in one of four pixels
    values = Fields("field").measure(out, target)
    # squared error (9 + 16) / 2, absolute (3 + 4) / 2, endpoint 5; all over 4 pixels
    assert values["mse"][0] == 12.5 / 4 and values["mae"][0] == 3.5 / 4 and values["aee"][0] == 5 / 4
    assert values["rmse"][0] == np.sqrt(12.5 / 4)
    assert error_maps(out, target)["aee"][0].tolist() == [[5, 0], [0, 0]]


def test_regression_errors():
    values = Regression("invariant").measure(np.array([[1.0, 3.0]]), np.array([[0.0, 0.0]]))
    assert values["mae"][0] == 2 and values["mse"][0] == 5 and values["rmse"][0] == np.sqrt(5)


def test_iou_with_and_without_the_extra_pixel():
    a, b = np.array([[0, 0, 4, 4]]), np.array([[2, 0, 6, 4]])
    assert iou(a, b)[0, 0] == pytest.approx(8 / 24)
    assert iou(a, b, 1)[0, 0] == pytest.approx(15 / 35)  # sides 5 x 5, shared 3 x 5
    assert iou(a, np.zeros((0, 4))).shape == (1, 0)


@given(
    boxes=arrays(np.float64, (2, 4), elements=st.floats(0, 10)), offset=st.sampled_from([0, 1]),
    shift=arrays(np.float64, (2,), elements=st.floats(-5, 5)),
)  # fmt: skip
@settings(deadline=None)
def test_iou_is_symmetric_bounded_and_blind_to_shifts(boxes, offset, shift):
    boxes = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:]) + 0.5], axis=1
    )
    a, b = boxes[:1], boxes[1:]
    value = iou(a, b, offset)[0, 0]
    assert 0 <= value <= 1 and value == iou(b, a, offset)[0, 0]
    moved = iou(a + np.tile(shift, 2), b + np.tile(shift, 2), offset)[0, 0]
    assert moved == pytest.approx(value, abs=1e-9)
    assert iou(a, a, offset)[0, 0] == pytest.approx(1)


def test_precision_recall_and_f_of_two_true_boxes_and_three_predictions():
    truth = found([[0, 0, 4, 4], [10, 10, 14, 14]], labels=[1, 1])
    output = found([[0, 0, 4, 4], [0, 0, 4, 4], [10, 10, 14, 15]], [0.9, 0.8, 0.7], [1, 1, 1])
    values = {k: v[0] for k, v in Detection("boxes").measure([output], [truth]).items()}
    assert values["precision"] == pytest.approx(2 / 3)  # the second finds a box that is taken
    assert values["recall"] == 1 and values["f1"] == pytest.approx(0.8)
    assert values["iou"] == pytest.approx((1 + 16 / 20) / 2)
    assert values["confidence"] == pytest.approx((0.9 + 0.7) / 2)
    assert values["conf_iou"] == pytest.approx((0.9 + 0.7 * 0.8) / 2)
    # precisions 1, 1/2, 2/3; the envelope at the two hits: 1 and 2/3
    assert values["map"] == pytest.approx((1 + 2 / 3) / 2)


def test_other_labels_and_low_scores_do_not_count():
    truth = found([[0, 0, 4, 4]], labels=[1])
    values = {k: v[0] for k, v in Detection("boxes").measure([found([[0, 0, 4, 4]], [0.9], [2])], [truth]).items()}
    assert values["iou"] == values["recall"] == values["precision"] == values["confidence"] == 0
    faint = Detection("boxes").measure([found([[0, 0, 4, 4]], [0.4], [1])], [truth])
    assert faint["recall"][0] == 0 and faint["iou"][0] == 1 and faint["map"][0] == 1
    assert (
        Detection("boxes", score_threshold=0.3).measure([found([[0, 0, 4, 4]], [0.4], [1])], [truth])["recall"][0] == 1
    )


def test_an_image_without_true_boxes_is_undefined_unless_something_is_detected():
    values = Detection("boxes").measure([found([]), found([[0, 0, 1, 1]])], [found([]), found([])])
    assert np.isnan(values["recall"]).all() and np.isnan(values["precision"][0]) and values["precision"][1] == 0


def test_labels_may_be_texts():
    truth = {"boxes": np.array([[0.0, 0, 4, 4]]), "scores": np.ones(1), "labels": np.array(["cat"])}
    values = Detection("boxes").measure([truth, found([])], [truth, truth])
    assert values["f1"].tolist() == [1, 0]
    both = matched(Detection("boxes"), [truth, found([])], [truth, truth], [0, 1])
    assert map_of(both, [0, 1]) == 0.5 and map_of(both, [0]) == 1


def test_map_averages_over_classes_that_have_true_boxes():
    scores, hits, labels = np.array([0.9, 0.8]), np.array([True, True]), np.array([0, 2])
    assert mean_average_precision(scores, hits, labels, {0: 1, 1: 1}) == 0.5
    assert np.isnan(mean_average_precision(scores, hits, labels, {}))


def test_detections_survive_packing():
    rows = [found([[0, 0, 1, 1], [1, 1, 2, 2]], [0.1, 0.2], [3, 4]), found([])]
    for a, b in zip(rows, unpack_detections(pack_detections(rows))):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ([1, 2], "dicts with 'boxes'"),
        ({"boxes": [[0, 0, 1, 1]], "scores": [0.1, 0.2]}, "1 boxes, 2 scores"),
        ({"boxes": [[0, 0, 1, np.nan]]}, "NaN or infinite"),
    ],
)
def test_bad_detections_are_refused(one, message):
    with pytest.raises(ValueError, match=message):
        clean_detections(one, "here")


def test_metrics_need_a_function_or_a_known_name():
    with pytest.raises(ValueError, match="needs a function"):
        Classification("invariant", [NeroMetric("mine", "mine")])
    with pytest.raises(ValueError, match="no metric was chosen"):
        Classification("invariant", [])


# -- the sample map ---------------------------------------------------------------------------------------------------


@given(arrays(np.float64, (5, 2), elements=st.floats(-100, 100)))
@settings(deadline=None)
def test_both_axes_are_mapped_by_one_affine_map_into_the_square(points):
    scaled = same_scale(points)
    assert np.abs(scaled).max() <= 1 + 1e-9
    span = points.max() - points.min()
    if span > 1e-3:
        before, after = points[:, None] - points[None], scaled[:, None] - scaled[None]
        np.testing.assert_allclose(after, before * 2 / span, atol=1e-9)  # the same factor on both axes


@pytest.mark.parametrize("method", ["pca", "ica", "isomap", "tsne"])
def test_methods_place_samples_reproducibly(method):
    X = np.random.default_rng(0).normal(size=(95, 12))
    first, second = reduce_orbits(X, method), reduce_orbits(X, method)
    assert first.method == method and first.notice == ""
    np.testing.assert_array_equal(first.points, second.points)
    assert first.points.shape == (95, 2) and np.abs(first.points).max() == pytest.approx(1)


@pytest.mark.parametrize(("method", "n"), [("tsne", 90), ("isomap", 5), ("ica", 2)])
def test_too_few_samples_fall_back_to_pca_with_a_notice(method, n):
    reduction = reduce_orbits(np.random.default_rng(0).normal(size=(n, 6)), method)
    assert reduction.method == "pca" and f"there are {n}: PCA instead" in reduction.notice
    assert np.isfinite(reduction.points).all()


def test_degenerate_orbits_still_give_points():
    assert reduce_orbits(np.ones((4, 5))).points.tolist() == [[0, 0]] * 4
    assert reduce_orbits(np.arange(3.0)[:, None]).points.shape == (3, 2)
    assert reduce_orbits(np.ones((1, 5))).points.tolist() == [[0, 0]]
    holed = np.random.default_rng(0).normal(size=(6, 4))
    holed[2] = np.nan
    points = reduce_orbits(holed).points
    assert np.isnan(points[2]).all() and np.isfinite(np.delete(points, 2, axis=0)).all()
    assert np.isnan(reduce_orbits(np.full((3, 4), np.nan)).points).all()


def test_umap_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def no_umap(name, *args, **kwargs):
        if name == "umap":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_umap)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        reduce_orbits(np.random.default_rng(0).normal(size=(20, 6)), "umap")


def test_bad_reductions_are_refused():
    with pytest.raises(ValueError, match="method must be one of"):
        reduce_orbits(np.ones((3, 3)), "lda")
    with pytest.raises(ValueError, match="must be a matrix"):
        reduce_orbits(np.ones(3))
