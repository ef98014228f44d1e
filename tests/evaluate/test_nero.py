import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.dummy import DummyClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import LinearSVC

from anytask.evaluate import NERO, NeroResult, evaluate
from anytask.evaluate.baselines import AugmentedMLP, C4AveragedMLP, Chosen, PlainMLP
from anytask.evaluate.nero.adapters import as_predictor
from anytask.parts.planar_groups import Dihedral, Rotations, Shifts, TimeReversal, cyclic
from anytask.parts.set_groups import AxisRotations, Permutations
from anytask.parts.transforms import CustomGroup, Product, Transforms

#: Moves pixels without interpolation.
CONTRACT = {"group": "d4"}
RNG = np.random.default_rng(0)
X = RNG.uniform(size=(12, 6, 6))
Y = np.arange(12) % 3


def constant(x):
    return np.tile([0.2, 0.5, 0.3], (len(x), 1))


def linear(x):
    """Three classes from fixed weights that favour no symmetry."""
    weights = np.random.default_rng(1).normal(size=(36, 3))
    scores = np.exp(np.asarray(x).reshape(len(x), -1) @ weights)
    return scores / scores.sum(axis=1, keepdims=True)


def gradient(x):
    down, right = np.gradient(np.asarray(x), axis=(1, 2))
    return np.stack([right, -down], axis=1)


def find_box(x):
    out = []
    for image in np.asarray(x):
        rows, columns = np.flatnonzero(image.max(1) > 0.5), np.flatnonzero(image.max(0) > 0.5)
        if not len(rows):
            out.append({"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, int)})
            continue
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        out.append({"boxes": np.array([box], float), "scores": np.array([0.9]), "labels": np.array([4])})
    return out


def bright_boxes(n=4, side=16):
    images, truth = np.zeros((n, side, side)), []
    for i in range(n):
        images[i, 5 + i % 2 : 9, 6 : 10 + i % 3] = 1
        truth.append({"boxes": [[6, 5 + i % 2, 10 + i % 3, 9]], "labels": [4]})
    return images, truth


def named_boxes(label):
    images, truth = bright_boxes()
    return images, [{**one, "labels": [label]} for one in truth]


# -- exactness ----------------------------------------------------------------------------------------------------


def test_a_constant_model_has_a_constant_orbit_no_gap_no_variance_and_no_residual():
    result = NERO("rotations").evaluate(constant, X, Y)
    E = result.values("confidence")
    assert E.shape == (1, 73, 12) and np.ptp(E, axis=1).max() == 0
    table = result.table()
    assert table[["gap", "sample_std", "sample_gap"]].abs().to_numpy().max() == 0
    assert table["residual"].max() < 1e-12 and table["agreement"].min() == 1


@given(weights=arrays(np.float64, (36, 2), elements=st.floats(-3, 3)))
@settings(max_examples=15, deadline=None)
def test_a_model_averaged_over_c4_is_alike_at_all_quarter_turns(weights):
    def model(x):
        scores = [np.exp(part.reshape(len(x), -1) @ weights) for part in cyclic(4).orbit(x)]
        return np.mean([s / s.sum(axis=1, keepdims=True) for s in scores], axis=0)

    result = NERO(Rotations(step=15), task="classification").evaluate(model, X, Y % 2)
    E = result.values("confidence")[0]
    for k in range(6):  # 0, 15, ..., 75 degrees and their quarter turns
        np.testing.assert_allclose(E[k:72:6], np.broadcast_to(E[k], E[k:72:6].shape), atol=1e-6)


@pytest.mark.parametrize(
    "group", [cyclic(4), Dihedral(), Product(Dihedral(), TimeReversal())], ids=["c4", "d4", "d4 x t"]
)
def test_an_equivariant_model_is_its_own_consensus_with_no_error_against_it(group):
    pictures = RNG.normal(size=(5, 8, 8))
    inputs = np.stack([pictures, -pictures], axis=1) if isinstance(group, Product) else pictures

    def model(x):
        return gradient(x[:, 0] - x[:, 1]) if x.ndim == 4 else gradient(x)

    result = NERO(group).evaluate(model, inputs)
    np.testing.assert_allclose(result.consensus["model"].value, model(inputs), atol=1e-6)
    assert result.values("aee", "consensus").max() < 1e-6
    assert result.consensus["model"].residual.max() < 1e-6
    wrong = NERO(group, undo=False).evaluate(model, inputs)  # without psi^-1 turned fields cancel one another
    assert wrong.values("aee", "consensus").mean() > 0.3 * np.hypot(*np.moveaxis(model(inputs), 1, 0)).mean()


def test_an_equivariant_detector_is_its_own_consensus_and_keeps_to_the_image():
    images, truth = bright_boxes()
    group = Shifts(range(-3, 4, 3))
    result = NERO(group).evaluate(find_box, images, truth)
    for i, one in enumerate(result.consensus["model"].value):
        np.testing.assert_allclose(one["boxes"], truth[i]["boxes"])
        assert one["labels"].tolist() == [4]
    for reference in ("truth", "consensus"):
        for metric in ("iou", "precision", "recall", "f1", "map"):
            np.testing.assert_allclose(result.values(metric, reference), 1)
    assert result.aggregate("map").min() == 1
    wrong = NERO(Shifts(range(0, 7, 3)), undo=False).evaluate(find_box, images)
    assert wrong.values("iou", "consensus").mean() < 0.6


def test_recall_is_not_capped_at_a_quarter_and_boxes_are_clipped_at_the_border():
    images, truth = bright_boxes(1)
    result = NERO(Shifts([0, -8])).evaluate(find_box, images, truth)
    assert result.values("recall").max() == 1
    detail = result.detail(0, -8, 0)
    np.testing.assert_allclose(detail.truth["boxes"], [[0, 5, 2, 9]])  # 6..10 shifted by 8 leaves the image
    np.testing.assert_allclose(detail.outputs["model"]["boxes"], [[0, 5, 2, 9]])


def test_nothing_detected_gives_zero_takes_no_part_and_is_said_by_the_coverage():
    images, truth = bright_boxes(2)

    def half_blind(x):
        found = find_box(x)
        return [f if f["boxes"].size and f["boxes"][0, 0] < 8 else find_box(np.zeros((1, 4, 4)))[0] for f in found]

    result = NERO(Shifts([0, 4])).evaluate(half_blind, images, truth)  # 2 x 2 shifts, those to the right are not seen
    np.testing.assert_allclose(result.values("conf_iou")[0], [[0.9, 0.9], [0, 0], [0.9, 0.9], [0, 0]], rtol=1e-6)
    agreed = result.consensus["model"]
    np.testing.assert_allclose(agreed.coverage, 0.5)
    np.testing.assert_allclose(agreed.agreement, 0.5)
    np.testing.assert_allclose(agreed.value[0]["boxes"], truth[0]["boxes"])
    blind = NERO(Shifts([0, 4])).evaluate(lambda x: find_box(np.zeros((len(x), 4, 4))), images, truth)
    assert blind.values("recall").max() == 0 and blind.consensus["model"].coverage.max() == 0
    assert np.isnan(blind.consensus["model"].residual).all()


def test_labels_of_boxes_may_be_whole_numbers_of_any_type():
    images, truth = named_boxes(4.0)
    assert NERO(Shifts([0])).evaluate(find_box, images, truth).values("iou").min() == 1


def test_a_window_leaves_the_truth_in_image_coordinates():
    images, truth = np.zeros((1, 32, 32)), [{"boxes": [[14, 15, 18, 17]], "labels": [4]}]
    images[0, 15:17, 14:18] = 1
    result = NERO(Shifts((-2, 0, 2), window=(12, 12))).evaluate(find_box, images, truth)
    assert result.values("iou").min() == 1
    np.testing.assert_allclose(result.detail(0).truth["boxes"], [[4, 5, 8, 7]])


def test_padding_leaves_the_truth_in_image_coordinates():
    images, truth = bright_boxes(2)
    result = NERO(Rotations(step=90, pad=3)).evaluate(find_box, images, truth)
    assert result.values("iou").min() > 1 - 1e-6


def test_the_identity_goes_through_the_same_path():
    result = NERO(Rotations(step=30)).evaluate(linear, X, Y)
    np.testing.assert_allclose(
        result.values("confidence")[0, 0], linear(X)[np.arange(12), Y], rtol=1e-6
    )  # bilinear interpolation leaves an unrotated image alone


def test_identical_elements_are_evaluated_once_and_count_once():
    seen = []

    def model(x):
        seen.append(len(x))
        return linear(x)

    result = NERO(Rotations(step=90)).evaluate(model, X, Y)
    assert sum(seen) == 4 * 12 and result.values().shape == (1, 5, 12)
    E = result.values()[0]
    np.testing.assert_array_equal(E[0], E[4])
    mean = result.table().query("metric == 'confidence' and reference == 'truth'")["mean"].item()
    assert mean == pytest.approx(E[:4].mean(), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_values_do_not_depend_on_the_batch_size(batch_size):
    full = NERO(cyclic(5)).evaluate(linear, X, Y)
    parts = NERO(cyclic(5), batch_size=batch_size).evaluate(linear, X, Y)
    np.testing.assert_allclose(parts.values(), full.values(), rtol=1e-6)
    np.testing.assert_allclose(parts.consensus["model"].value, full.consensus["model"].value)


def test_batches_stay_within_their_size():
    seen = []

    def model(x):
        seen.append(len(x))
        return linear(x)

    NERO(cyclic(5), batch_size=7).evaluate(model, X, Y)
    assert max(seen) <= 7 and sum(seen) == 60


# -- models --------------------------------------------------------------------------------------------------------


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(36, 3))

    def forward(self, x):
        assert not torch.is_grad_enabled()
        return self.layers(x)


def test_torch_modules_run_in_evaluation_mode_without_gradients_and_get_their_mode_back():
    torch.manual_seed(0)
    net = Net().train()
    result = NERO("rotations").evaluate(net, X, Y)
    again = NERO("rotations").evaluate(net, torch.from_numpy(X), Y)
    np.testing.assert_array_equal(result.values(), again.values())  # no dropout
    assert net.training
    p = torch.softmax(net.eval().layers(torch.from_numpy(X).float()), dim=1)  # logits were recognised
    np.testing.assert_allclose(result.values()[0, 0], p.detach().numpy()[np.arange(12), Y], rtol=1e-5)


def test_estimators_with_and_without_probabilities_and_their_own_labels():
    names = np.array(["a", "b", "c"])[Y]
    flat = X.reshape(12, -1)
    knn, svm = KNeighborsClassifier(1).fit(flat, names), LinearSVC().fit(flat, names)
    result = NERO(cyclic(4)).evaluate([knn, svm], X, names)
    assert result.models == ("model 1", "model 2") and result.class_names() == ["a", "b", "c"]
    assert result.values("correctness")[:, 0].min() == 1
    assert result.aggregate("correctness", class_="b").shape == (2, 4)
    with pytest.raises(ValueError, match="no sample has class 'z'"):
        result.aggregate(class_="z")


def test_plain_callables_get_tensors_when_they_were_given_tensors():
    def model(x):
        assert torch.is_tensor(x)
        return torch.softmax(x.flatten(1)[:, :3], dim=1)

    NERO(cyclic(4)).evaluate(model, torch.from_numpy(X), Y)


def test_pipelines_are_taken():
    class Pipeline:
        task = "image-classification"
        model = type("M", (), {"config": type("C", (), {"id2label": {0: "dark", 1: "bright"}})})

        def __call__(self, images, top_k, function_to_apply):
            light = [np.asarray(image).mean() / 255 for image in images]
            return [[{"label": "bright", "score": v}, {"label": "dark", "score": 1 - v}] for v in light]

    Pipeline.__module__ = "transformers.pipelines.image_classification"
    predictor = as_predictor(Pipeline())
    p = predictor(np.stack([np.zeros((4, 4)), np.ones((4, 4))]))
    np.testing.assert_allclose(p, [[1, 0], [0, 1]])
    assert predictor.classes.tolist() == ["dark", "bright"]

    class Detector:
        task = "object-detection"

        def __call__(self, images):
            return [
                [{"label": "cat", "score": 0.8, "box": {"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4}}] for _ in images
            ]

    Detector.__module__ = "transformers.pipelines.object_detection"
    found = as_predictor(Detector())(np.zeros((1, 3, 8, 8)))[0]
    assert found["boxes"].tolist() == [[1, 2, 3, 4]] and found["labels"].tolist() == ["cat"]


def test_a_model_that_is_none_of_these_is_refused():
    with pytest.raises(TypeError, match="a model must be"):
        NERO(cyclic(4)).evaluate(3, X, Y)


def test_regression_of_one_number_is_invariant_and_vectors_need_psi():
    total = X.sum(axis=(1, 2))
    result = NERO(cyclic(4)).evaluate(lambda x: x.sum(axis=(1, 2)), X, total)
    assert result.task == "regression" and result.values("mae").max() < 1e-6

    def center(x):  # the centre of mass as (x, y), one point per image
        places = np.arange(6) + 0.5
        mass = x.sum(axis=(1, 2))
        return np.stack([x.sum(axis=1) @ places / mass, x.sum(axis=2) @ places / mass], axis=1)[:, None]

    with pytest.raises(ValueError, match="psi is missing"):
        NERO(cyclic(4)).evaluate(center, X, center(X))
    with pytest.raises(ValueError, match="psi is missing"):
        NERO(Permutations(6), psi="positions").evaluate(center, X, center(X))
    moved = NERO(cyclic(4), psi="positions").evaluate(center, X, center(X))
    assert moved.values("mae").max() < 1e-6 and moved.values("mae", "consensus").max() < 1e-6


def test_point_clouds_and_permutations():
    points = RNG.normal(size=(6, 20, 3))
    group = AxisRotations("xy", axis_step=90, angle_step=90)
    result = NERO(group, psi="vectors").evaluate(lambda x: x.mean(axis=1), points, points.mean(axis=1))
    assert result.values("mae").max() < 1e-6
    shuffled = NERO(Permutations(20, 5), psi="items").evaluate(lambda x: x[..., :1] * 2, points, points[..., :1] * 2)
    assert shuffled.values("mae").max() < 1e-6


def test_metrics_of_ones_own():
    def margin(outputs, targets):
        return outputs[np.arange(len(targets)), targets] - np.sort(outputs, axis=1)[:, -2]

    result = NERO(cyclic(4), metrics={"margin": margin}).evaluate(linear, X, Y)
    p = linear(X)
    np.testing.assert_allclose(result.values("margin")[0, 0], margin(p, Y), rtol=1e-5)
    with pytest.raises(ValueError, match="must give 48 values"):
        NERO(cyclic(4), metrics={"bad": lambda o, t: 1.0}).evaluate(linear, X, Y)


# -- failures and bad calls -----------------------------------------------------------------------------------------


def test_a_model_that_raises_on_one_sample_loses_that_sample_only():
    marked = X.copy()
    marked[7, 0, 5] = 99

    def model(x):
        if (x[:, 0, 0] > 50).any():
            raise RuntimeError("the corner is too bright")
        return linear(x)

    with pytest.warns(UserWarning, match="fragile could not be evaluated on 1 of 12 samples.*sample 7 at 90°"):
        result = NERO(cyclic(4)).evaluate({"fragile": model, "sound": linear}, marked, Y)
    (failure,) = result.failures
    assert (failure.model, failure.sample, failure.element) == ("fragile", 7, "90°")
    assert "too bright" in failure.error
    E = result.values()
    assert np.isnan(E[0, :, 7]).all() and np.isfinite(np.delete(E[0], 7, axis=1)).all()
    np.testing.assert_allclose(np.delete(E[0], 7, axis=1), np.delete(E[1], 7, axis=1))
    assert np.isfinite(result.aggregate()).all() and 7 not in result.top(12)
    assert result.table().query("model == 'fragile'")["failed"].unique().tolist() == [1.0]
    assert list(result.detail(7).outputs) == ["sound"]


def test_nan_outputs_are_failures_that_name_the_element_and_end_it_when_they_are_all():
    def model(x):
        p = linear(x)
        p[x[:, 0, 0] > 0.9] = np.nan
        return p

    marked = np.minimum(X, 0.8)
    marked[3, 5, 5] = 1.0  # at the upper left under the half turn
    with pytest.warns(UserWarning, match="sample 3 at 180°: the output holds NaN"):
        result = NERO(cyclic(4)).evaluate(model, marked, Y)
    assert [(f.sample, f.element) for f in result.failures] == [(3, "180°")]
    assert np.isnan(result.values()[0, :, 3]).all()  # the whole orbit, not the one element alone
    assert "NaN" in result.failures[0].error
    with pytest.raises(ValueError, match=r"fails on every sample.*0°.*NaN"):
        NERO(cyclic(4)).evaluate(lambda x: np.full((len(x), 3), np.nan), X, Y)
    with pytest.raises(ValueError, match=r"fails on every sample.*ZeroDivisionError"):
        NERO(cyclic(4)).evaluate(lambda x: 1 / 0, X, Y)


def test_an_error_too_large_to_be_told_is_a_failure_and_not_averaged_away():
    marked = X.copy()
    marked[5] *= 1e30
    total = lambda x: np.asarray(x, dtype=float).sum(axis=(1, 2))  # noqa: E731
    with pytest.warns(UserWarning, match="sample 5 at 0°: mse against the truth is infinite"):
        result = NERO(cyclic(4)).evaluate(total, marked, np.zeros(12))
    assert [f.sample for f in result.failures] == [5]
    for metric in result.metrics:
        assert np.isnan(result.values(metric)[0, :, 5]).all() and np.isfinite(result.aggregate(metric)).all()
    assert np.isnan(result.consensus["model"].agreement[5])


@pytest.mark.parametrize("answer", [np.nan, 7.0])
def test_a_label_that_is_no_class_is_a_failure_and_not_a_row_of_zeros(answer):
    class Estimator:
        classes_ = np.arange(3.0)

        def predict(self, rows):
            found = linear(rows).argmax(axis=1).astype(float)
            found[rows[:, 0] > 50] = answer
            return found

    marked = X.copy()
    marked[4, 0, 0] = 99
    with pytest.warns(UserWarning, match=f"sample 4 at 0°: the answer .*{answer}.* is none of the classes"):
        result = NERO(cyclic(4)).evaluate(Estimator(), marked, Y)
    assert [f.sample for f in result.failures] == [4] and np.isnan(result.values()[0, :, 4]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NERO(cyclic(4), consensus=False).evaluate(linear, X), "labels and consensus are both absent"),
        (lambda: NERO(cyclic(4)).evaluate(linear, X, Y[:5]), "12 rows and y has 5"),
        (lambda: NERO(cyclic(4)).evaluate(linear, X[:0], Y[:0]), "0 sample"),
        (lambda: NERO(cyclic(4)).evaluate(linear, X, Y + 5), "label 5 in y is none of the classes"),
        (lambda: NERO(cyclic(4)).evaluate(lambda x: linear(x)[:2], X, Y), "returned 2 outputs for"),
        (lambda: NERO(cyclic(4)).evaluate({}, X, Y), "no model"),
        (lambda: NERO(cyclic(4), task="sorting").evaluate(linear, X, Y), "task must be"),
        (lambda: NERO(cyclic(4), metrics=["f1"]).evaluate(linear, X, Y), "has no metric 'f1'"),
        (lambda: NERO(cyclic(4), classes=[0, 1]).evaluate(linear, X, Y), "2 classes are named"),
        (lambda: NERO(cyclic(4), batch_size=0).evaluate(linear, X, Y), "batch_size"),
        (lambda: NERO("rotations").evaluate(linear, np.zeros((2, 36)), [0, 1]), "pass image_shape"),
        (lambda: NERO(CustomGroup([])).evaluate(linear, X, Y), "no elements"),
        (lambda: NERO(TimeReversal()).evaluate(find_box, np.zeros((1, 2, 4, 4)), [{"boxes": []}]), "psi is missing"),
        (lambda: NERO(cyclic(4)).evaluate(gradient, X, np.zeros((12, 2, 3, 3))), r"y has shape \(2, 3, 3\)"),
        (lambda: NERO(cyclic(4)).evaluate([linear, gradient], X), "different kinds of tasks"),
        (lambda: NERO(Shifts([0])).evaluate(find_box, X, [{"boxes": [[0, 0, 1, np.nan]]}] * 12), "true boxes hold NaN"),
        (lambda: NERO(Shifts([0])).evaluate(find_box, *named_boxes("4")), "labels of boxes are numbers and texts"),
        (lambda: NERO(Shifts([0])).evaluate(find_box, *named_boxes(4.5)), r"y\[0\]: labels.*not whole"),
    ],
)
def test_bad_calls_end_at_the_door(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_transforms_without_inverse_serve_with_labels_and_give_a_consensus_of_classes():
    class Darker(Transforms):
        def phi(self, g, x):
            return x * g

    family = Darker([1.0, 0.5, 0.0], [[0], [1], [2]], ["severity"], ["0", "1", "2"], identity=1.0)
    result = evaluate(linear, (X, Y), family)
    assert result.values().shape == (1, 3, 12) and result.references == ("truth", "consensus")
    with pytest.raises(ValueError, match="psi is missing"):
        evaluate(gradient, X, family)


# -- the result -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result():
    return NERO(cyclic(8)).evaluate({"linear": linear, "constant": constant}, X, Y)


def test_select_at_top_and_detail_agree_with_the_tensor(result):
    E = result.values("confidence")
    orbit = result.select(3)
    np.testing.assert_array_equal(orbit.values["confidence"], E[:, :, 3])
    assert orbit.label == Y[3] and list(orbit.summary.index) == ["linear", "constant"]
    np.testing.assert_array_equal(result.at(93.0).values["confidence"], E[:, 2])
    assert result.at(93.0).label == "90°"
    assert result.top(2, "variance") == np.argsort(-E[0].astype(float).var(axis=0), kind="stable")[:2].tolist()
    assert result.top(1, "mean", largest=False) == [int(E[0].mean(axis=0).argmin())]
    detail = result.detail(3, 90.0)
    np.testing.assert_allclose(detail.input, np.rot90(X[3]))
    assert detail.truth == 0 and detail.outputs["linear"][detail.truth] == pytest.approx(E[0, 2, 3])


def test_summary_is_the_mathematics_of_the_tensor(result):
    E = result.values("loss")[0].astype(float)
    row = result.table().query("model == 'linear' and metric == 'loss' and reference == 'truth'").iloc[0]
    curve = E.mean(axis=1)
    assert row["identity"] == pytest.approx(curve[0]) and row["worst"] == pytest.approx(curve.max())
    assert row["gap"] == pytest.approx(np.ptp(curve)) and row["mean"] == pytest.approx(E.mean())
    assert row["sample_std"] == pytest.approx(E.std(axis=0).mean()) and row["sample_worst"] == pytest.approx(
        E.max(0).mean()
    )
    outputs = np.stack([linear(part) for part in cyclic(8).orbit(X)])
    c = outputs.mean(axis=0)
    assert row["residual"] == pytest.approx(np.linalg.norm(outputs - c, axis=2).mean(), rel=1e-5)
    assert row["agreement"] == pytest.approx((outputs.argmax(2) == c.argmax(1)).mean())
    assert row["consensus_correct"] == pytest.approx((c.argmax(1) == Y).mean())


def test_saving_keeps_everything_but_the_models(result, tmp_path):
    result.save(tmp_path)
    again = NeroResult.load(tmp_path)
    for reference in result.references:
        np.testing.assert_array_equal(again.values("loss", reference), result.values("loss", reference))
    assert again.table().equals(result.table())
    np.testing.assert_array_equal(again.detail(2, 45.0).outputs["linear"], result.detail(2, 45.0).outputs["linear"])
    result.save(tmp_path, outputs=False)
    bare = NeroResult.load(tmp_path)
    with pytest.raises(ValueError, match="loaded without its models"):
        bare.detail(2)
    given_back = NeroResult.load(tmp_path, models={"linear": linear, "constant": constant})
    np.testing.assert_allclose(given_back.detail(2, 45.0).outputs["linear"], result.detail(2, 45.0).outputs["linear"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'model'"):
        NeroResult.load(tmp_path, model=linear)


def test_detections_with_failures_are_saved_too(tmp_path):
    images, truth = bright_boxes(4)
    images[2, 0, 0] = 7

    def model(x):
        if (x > 5).any():
            raise RuntimeError("too bright")
        return find_box(x)

    with pytest.warns(UserWarning, match="on 1 of 4 samples"):
        result = NERO(Shifts([0, 2])).evaluate(model, images, truth)
    result.save(tmp_path)
    again = NeroResult.load(tmp_path)
    np.testing.assert_array_equal(again.aggregate("map"), result.aggregate("map"))
    np.testing.assert_array_equal(
        again.detail(3, 2, 2).outputs["model"]["boxes"], result.detail(3, 2, 2).outputs["model"]["boxes"]
    )
    assert again.failures == result.failures and again.detail(2).outputs == {}


def test_outputs_that_are_not_kept_are_computed_again():
    kept = NERO(cyclic(4)).evaluate(linear, X, Y)
    lazy = NERO(cyclic(4), keep_outputs=False).evaluate(linear, X, Y)
    np.testing.assert_allclose(
        lazy.detail(1, 180.0).outputs["model"], kept.detail(1, 180.0).outputs["model"], rtol=1e-6
    )


def test_without_labels_the_consensus_is_the_reference():
    result = NERO(cyclic(8)).evaluate(linear, X)
    assert result.references == ("consensus",)
    agreed = result.consensus["model"]
    p = np.stack([linear(part) for part in cyclic(8).orbit(X)])
    np.testing.assert_allclose(agreed.value, p.mean(axis=0), rtol=1e-6)
    c = agreed.labels()
    np.testing.assert_allclose(result.values("confidence")[0], p[:, np.arange(12), c], rtol=1e-5)
    with pytest.raises(ValueError, match="without labels there is no truth"):
        result.values(reference="truth")


def test_progress_reaches_one_and_never_falls():
    shares = []
    NERO(cyclic(4), batch_size=8).evaluate(linear, X, Y, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) == 6


def test_map_is_computed_over_the_set_and_not_averaged_over_images():
    images, truth = bright_boxes(4)
    scores = iter(np.linspace(0.9, 0.3, 1000))

    def model(x):
        found = find_box(x)
        for i, one in enumerate(found):
            one["scores"] = np.array([next(scores)])
            if i % 4 == 0:  # the surest prediction of each round is wrong
                one["boxes"] = one["boxes"] + 8
        return found

    result = NERO(Shifts([0])).evaluate(model, images, truth)
    # In the order of scores: wrong, right, right, right; 4 boxes. The envelope is 3/4 throughout: area 3/4 * 3/4.
    assert result.aggregate("map")[0, 0] == pytest.approx(9 / 16)
    assert result.values("map")[0, 0].tolist() == [0, 1, 1, 1]


# -- the classifiers that the problem compares ----------------------------------------------------------------------


def test_the_averaged_perceptron_is_flat_on_c4_and_the_plain_one_is_not():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(80, 6, 6))
    labels = (images[:, 0].sum(axis=1) > 0).astype(int)
    models = {
        "plain": PlainMLP(epochs=40).fit(images, labels),
        "averaged": C4AveragedMLP(epochs=40).fit(images, labels),
    }
    gaps = NERO(cyclic(4)).evaluate(models, images, labels).per_sample()["gap"].groupby("model").max()
    assert gaps["averaged"] < 1e-5 < gaps["plain"]


def test_choosing_by_the_orbit_takes_another_model_than_choosing_by_accuracy():
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.3, size=(160, 6, 6))
    labels = np.arange(160) % 2
    images[labels == 1, :2, :2] += 0.5  # a corner tells the classes apart, and turns away
    images[:, 2, 2] += labels * 0.25  # the middle does so too, less clearly
    by_accuracy = Chosen(by="accuracy").fit(images, labels, cyclic(4))
    by_orbit = Chosen(by="orbit").fit(images, labels, cyclic(4))
    on_orbit, upright = by_orbit.scores_, by_accuracy.scores_
    assert by_orbit.chosen_ != "plain MLP"
    assert min(on_orbit["augmented MLP"], upright["plain MLP"]) > on_orbit["plain MLP"] + 0.2
    with pytest.raises(ValueError, match="needs the group"):
        AugmentedMLP().fit(images, labels)


def test_dummy_estimators_are_flat():
    model = DummyClassifier().fit(X.reshape(12, -1), Y)
    assert evaluate(model, (X, Y), "d4").table()["gap"].max() == 0
