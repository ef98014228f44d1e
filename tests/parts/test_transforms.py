import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import rotate

from anytask.parts.planar_groups import Dihedral, Flips, Rotations, Shifts, TimeReversal, cyclic
from anytask.parts.set_groups import AxisRotations, Permutations, QuaternionRotations, SignFlips
from anytask.parts.transforms import (
    GROUPS,
    CustomGroup,
    Product,
    Transforms,
    group_from_state,
    group_state,
    make_group,
)

IMAGES = arrays(np.float64, (2, 5, 5), elements=st.floats(-1, 1, width=32))
PAIRS = arrays(np.float64, (2, 2, 4, 4), elements=st.floats(-1, 1, width=32))
EXACT = {
    "c4": (cyclic(4), "image"),
    "d4": (Dihedral(), "image"),
    "flips": (Flips(), "image"),
    "wrapped shifts": (Shifts((-2, 0, 1), mode="wrap"), "image"),
}


@pytest.mark.parametrize("name", EXACT)
@given(X=IMAGES)
@settings(max_examples=15, deadline=None)
def test_phi_of_the_inverse_undoes_phi_exactly(name, X):
    group, kind = EXACT[name]
    for g in group.elements:
        np.testing.assert_array_equal(group.phi(group.inverse(g), group.phi(g, X)), X)
        np.testing.assert_array_equal(group.undo(g, group.psi(g, X, kind), kind), X)


@pytest.mark.parametrize(
    "group", [cyclic(4), Dihedral(), TimeReversal(), Product(Dihedral(), TimeReversal())], ids=lambda g: g.name
)
@given(F=PAIRS)
@settings(max_examples=10, deadline=None)
def test_psi_of_the_inverse_undoes_psi_on_fields(group, F):
    for g in group.elements:
        np.testing.assert_allclose(group.undo(g, group.psi(g, F, "field"), "field"), F, atol=1e-12)


@given(boxes=arrays(np.float64, (3, 4), elements=st.floats(0, 6)), angle=st.sampled_from([0.0, 90.0, 180.0, 270.0]))
@settings(deadline=None)
def test_boxes_survive_exact_moves_and_their_inverses(boxes, angle):
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    for group, g in ((cyclic(4), angle), (Shifts((3,), (-2,)), (3, -2)), (Dihedral(), (1, 3))):
        there = group.psi(g, [{"boxes": boxes}], "boxes", (6, 6))
        np.testing.assert_allclose(group.undo(g, there, "boxes", (6, 6))[0]["boxes"], boxes, atol=1e-9)


@given(
    points=arrays(np.float64, (1, 4, 3), elements=st.floats(-5, 5)),
    direction=st.floats(0, 360),
    angle=st.floats(-180, 180),
    plane=st.sampled_from(["xy", "xz", "yz"]),
)
@settings(deadline=None)
def test_rotations_in_space_keep_lengths_and_are_undone_by_the_opposite_angle(points, direction, angle, plane):
    group = AxisRotations()
    g = (plane, direction, angle)
    moved = group.phi(g, points)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=-1), np.linalg.norm(points, axis=-1), atol=1e-9)
    np.testing.assert_allclose(group.phi(group.inverse(g), moved), points, atol=1e-9)


@given(st.data())
@settings(deadline=None)
def test_permutations_and_signs_are_undone_by_their_inverses(data):
    X = data.draw(arrays(np.int64, (2, 5), elements=st.integers(-9, 9)))
    for group in (Permutations(5, 10, seed=3), SignFlips(5, 7, seed=3)):
        g = data.draw(st.sampled_from(group.elements))
        np.testing.assert_array_equal(group.phi(group.inverse(g), group.phi(g, X)), X)
        assert group.phi(g, X).dtype == X.dtype


def test_a_quarter_turn_takes_a_vector_from_the_upper_left_to_the_lower_left_and_turns_it():
    field = np.zeros((1, 2, 2, 2))
    field[0, :, 0, 0] = 1, 2
    for group, g in ((cyclic(4), 90.0), (Dihedral(), (0, 1))):
        moved = group.psi(g, field, "field")
        np.testing.assert_array_equal(moved[0, :, 1, 0], [-2, 1])
        assert np.count_nonzero(moved) == 2
    # With v counted downwards (1, 2) points right and down; a turn to the left makes it (2, -1): right and up.
    np.testing.assert_array_equal(Dihedral(v_axis="down").psi((0, 1), field, "field")[0, :, 1, 0], [2, -1])


def test_time_reversal_swaps_frames_negates_fields_and_is_its_own_inverse():
    pair = np.arange(16.0).reshape(1, 2, 2, 4)
    group = TimeReversal()
    np.testing.assert_array_equal(group.phi(1, pair), pair[:, ::-1])
    np.testing.assert_array_equal(group.phi(1, group.phi(1, pair)), pair)
    np.testing.assert_array_equal(group.psi(1, pair, "field"), -pair)
    with pytest.raises(ValueError, match="2 frames of a pair"):
        group.phi(0, np.zeros((1, 3, 4, 4)))


def test_0_and_360_degrees_coincide_and_count_once():
    group = Rotations(step=5)
    assert len(group) == 73 and len(group.distinct) == 72
    assert group.representative[72] == 0 and group.identity == 0
    assert group.weights[0] == group.weights[72] == pytest.approx(1 / 144)
    assert group.weights.sum() == pytest.approx(1)
    X = np.random.default_rng(0).normal(size=(1, 8, 8))
    np.testing.assert_array_equal(group.phi(360.0, X), group.phi(0.0, X))
    assert len(cyclic(6)) == len(cyclic(6).distinct) == 6


def test_same_turns_in_space_count_once():
    group = AxisRotations("xy", axis_step=90, angle_step=90)
    # 4 axes x (0, 90, 180): one identity, four quarter turns, and half turns about x and y only.
    assert len(group) == 12 and len(group.distinct) == 1 + 4 + 2
    assert group.weights.sum() == pytest.approx(1)
    # The x axis lies in xy and in xz: its turns are shared by the two planes.
    both = AxisRotations(("xy", "xz"), axis_step=90, angle_step=90)
    assert len(both.distinct) == 1 + (4 + 4 - 2) + (2 + 2 - 1)


def test_multiples_of_90_are_exact_and_bilinear_rotation_agrees_with_scipy():
    X = np.random.default_rng(0).normal(size=(2, 3, 9, 9))
    group = Rotations(step=30)
    np.testing.assert_array_equal(group.phi(90.0, X), np.rot90(X, 1, (-2, -1)))
    np.testing.assert_array_equal(group.phi(0.0, X), X)
    ours = group.phi(30.0, X)
    theirs = rotate(X, 30, axes=(-1, -2), reshape=False, order=1, mode="grid-constant", cval=0.0)
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_bilinear_rotation_at_the_identity_is_the_image_itself():
    X = np.random.default_rng(1).normal(size=(1, 6, 8))  # not square: quarter turns interpolate as well
    turned = Rotations(step=90)._interpolate(X, [0.0])[0]
    np.testing.assert_allclose(turned, X, atol=1e-12)


def test_what_comes_in_from_outside_is_the_fill_value_and_padding_keeps_the_corners():
    X = np.full((1, 4, 4), 3.0)
    turned = Rotations(step=45, fill=-1.0).phi(45.0, X)
    outside = 1.5 * math.sqrt(2) - 1.5  # how far the corner's source lies beyond the last pixel centre
    assert turned[0, 0, 0] == pytest.approx(3 - 4 * outside, abs=1e-6)
    constant = Rotations(step=45, fill=3.0).phi(45.0, X)
    np.testing.assert_allclose(constant, X)
    padded = Rotations(step=45, pad=2).phi(45.0, X)
    assert padded.shape == (1, 8, 8)
    assert padded.sum() > 0.98 * X.sum()  # unpadded, the corners of the square are lost: an octagon is left
    assert Rotations(step=45).phi(45.0, X).sum() < 0.9 * X.sum()
    assert Rotations(step=45, pad=2).canvas((4, 4)) == ((8, 8), (-2, -2))


@pytest.mark.parametrize("shape", [(3, 5, 5), (3, 2, 5, 5), (3, 25)])
@pytest.mark.parametrize(
    "kind", [Rotations(step=40, image_shape=(5, 5)), Shifts((-1, 1), image_shape=(5, 5))], ids=lambda g: g.name
)
def test_orbit_is_phi_under_every_element_for_arrays_and_tensors(shape, kind):
    X = np.random.default_rng(0).normal(size=shape)
    orbit = kind.orbit(X)
    assert orbit.shape == (len(kind), *shape)
    for k, g in enumerate(kind.elements):
        np.testing.assert_allclose(orbit[k], kind.phi(g, X), atol=1e-12)
        np.testing.assert_allclose(kind.phi(g, torch.from_numpy(X)).numpy(), orbit[k], atol=1e-12)
    assert torch.is_tensor(kind.orbit(torch.from_numpy(X)))


def test_channels_last_moves_the_same_pixels():
    X = np.random.default_rng(0).normal(size=(2, 3, 6, 6))
    last = Rotations(step=30, channels_last=True).orbit(np.moveaxis(X, 1, -1))
    np.testing.assert_allclose(np.moveaxis(last, -1, 2), Rotations(step=30).orbit(X))


def test_integer_images_stay_integers():
    X = np.random.default_rng(0).integers(0, 255, (2, 6, 6)).astype(np.uint8)
    assert Rotations(step=30).phi(30.0, X).dtype == np.uint8
    assert Shifts((1,)).phi((1, 1), X).dtype == np.uint8


def test_inputs_are_not_changed_in_place():
    X = np.random.default_rng(0).normal(size=(2, 2, 4, 4))
    before = X.copy()
    for group in (Rotations(step=45), Shifts((1, 2)), Dihedral(), TimeReversal(), Permutations(2)):
        group.orbit(X)[:] += 1
    np.testing.assert_array_equal(X, before)


def test_a_window_shows_real_surroundings():
    X = np.arange(36.0).reshape(1, 6, 6)
    group = Shifts((-1, 0, 1), window=(2, 2))
    np.testing.assert_array_equal(group.phi((0, 0), X)[0], X[0, 2:4, 2:4])
    np.testing.assert_array_equal(
        group.phi((1, 0), X)[0], X[0, 2:4, 1:3]
    )  # content goes right, so we see what was left
    assert group.canvas((6, 6)) == ((2, 2), (2, 2))
    with pytest.raises(ValueError, match="larger than the images"):
        group.phi((0, 0), np.zeros((1, 1, 1)))


def test_rotations_move_boxes_with_the_pixels():
    X = np.zeros((1, 8, 8))
    X[0, 1:3, 4:7] = 1  # x 4..7, y 1..3
    for group in (cyclic(4), Dihedral()):
        for g in group.elements:
            moved = group.phi(g, X)[0]
            rows, columns = np.flatnonzero(moved.any(1)), np.flatnonzero(moved.any(0))
            box = group.psi(g, [{"boxes": [[4, 1, 7, 3]]}], "boxes", (8, 8))[0]["boxes"][0]
            np.testing.assert_allclose(box, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=1e-9)


def test_positions_turn_about_the_center_of_the_image():
    angle = math.radians(30)
    moved = Rotations(step=30).psi(30.0, np.array([[[5.0, 2.0]]]), "positions", (4, 4))
    # 3 to the right of the centre (2, 2); y grows downwards, so a turn to the left goes up.
    np.testing.assert_allclose(moved[0, 0], [2 + 3 * math.cos(angle), 2 - 3 * math.sin(angle)])


@pytest.mark.parametrize(
    "group",
    [
        *(make_group(name) for name in GROUPS if name not in ("permutations", "sign-flips", "quaternions")),
        QuaternionRotations([[0, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]]),
        make_group("permutations", n_items=4),
        make_group("sign-flips", n_features=3),
        Product(Dihedral(), TimeReversal()),
    ],
    ids=lambda group: group.name,
)
def test_every_group_states_coordinates_an_identity_and_comes_back_from_its_state(group):
    assert group.coords.shape == (len(group), len(group.axes)) and len(group.labels) == len(group)
    assert group.identity is not None and group.nearest(group.coords[group.identity]) == group.identity
    again = group_from_state(group_state(group))
    assert type(again) is type(group) and again.elements == group.elements and again.labels == group.labels


def test_a_custom_group_keeps_its_elements_in_its_state_but_not_its_actions():
    group = CustomGroup([(lambda X: X, None, 0), (lambda X: -X, lambda y: -y, 1), (lambda X: X + 0, None, 0)])
    assert group.undo(1, np.array([2.0]), "custom").tolist() == [-2.0]
    again = group_from_state(group_state(group))
    assert again.labels == group.labels
    with pytest.raises(ValueError, match="give the group when loading"):
        again.phi(0, np.zeros((1, 2)))
    mixed = Product(group, TimeReversal())
    assert group_state(mixed)["name"] == "listed"


def test_a_custom_element_without_inverse_says_so():
    group = CustomGroup([(lambda X: X, None, 0), (lambda X: X, lambda y: 2 * y, None)])
    with pytest.raises(ValueError, match="element 1 has no inverse"):
        group.undo(1, np.ones(1), "custom")
    with pytest.raises(TypeError, match="element 0 must be a triple"):
        CustomGroup([lambda X: X])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotations(step=0), "step > 0"),
        (lambda: Rotations(pad=-1), "pad must be"),
        (lambda: Shifts([]), "no elements"),
        (lambda: Shifts([0.5]), "whole numbers"),
        (lambda: Shifts([0], mode="mirror"), "'fill' or 'wrap'"),
        (lambda: Flips("diagonal"), "'both', 'horizontal' or 'vertical'"),
        (lambda: Dihedral(v_axis="left"), "'up' or 'down'"),
        (lambda: Permutations(0), "at least 1"),
        (lambda: AxisRotations("zx"), "must be among xy, xz, yz"),
        (lambda: make_group("rotation"), "did you mean 'rotations'"),
        (lambda: make_group("rotations", stride=3), "has no option 'stride'"),
        (lambda: Dihedral().phi((0, 1), np.zeros((1, 3, 4))), "square images"),
        (lambda: Rotations().phi(5.0, np.zeros((2, 16))), "pass image_shape"),
        (lambda: Rotations(image_shape=(3, 3)).phi(5.0, np.zeros((2, 16))), "does not hold the 16 values"),
        (lambda: Permutations(3).phi((0, 1, 2), np.zeros((2, 4))), "must hold 3 items"),
        (lambda: Permutations(3).psi((0, 1, 2), [], "boxes"), "psi is missing"),
        (lambda: Rotations().psi(5.0, [{"boxes": []}], "boxes"), "needs the shape"),
        (lambda: Transforms([1], [[0, 0]], ["x"], ["one"]), "need coordinates of shape"),
        (lambda: Rotations().nearest([1, 2]), "1 finite coordinates"),
    ],
)
def test_bad_calls_say_what_is_wanted(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_permutations_list_all_orders_when_there_are_few_and_different_ones_when_there_are_many():
    assert len(Permutations(3)) == 6
    many = Permutations(10, 24, seed=1)
    assert len(set(many.elements)) == 24 and many.elements[0] == tuple(range(10))
    assert many.elements == Permutations(10, 24, seed=1).elements != Permutations(10, 24, seed=2).elements
    outputs = np.arange(6).reshape(1, 3, 2)
    np.testing.assert_array_equal(Permutations(3).psi((2, 0, 1), outputs, "items")[0], outputs[0, [2, 0, 1]])


def test_quaternions_turn_as_their_axis_and_angle_do_and_are_undone():
    half = np.sqrt(0.5)
    group = QuaternionRotations([[half, 0, 0, half], [0, 0, 0, 2], [-half, 0, 0, -half]])  # a quarter about x, twice
    axis = AxisRotations("xy", axis_step=90, angle_step=90)
    points = np.random.default_rng(0).normal(size=(2, 5, 3))
    moved = group.phi(group.elements[0], points)
    np.testing.assert_allclose(moved, axis.phi(("xy", 0.0, 90.0), points), atol=1e-12)
    np.testing.assert_allclose(group.undo(group.elements[0], moved, "points"), points, atol=1e-12)
    assert group.identity == 1 and len(group.distinct) == 2 and group.labels[0] == "rotation 0 (90°)"
    first = QuaternionRotations([[half, half, 0, 0]], scalar_first=True)
    np.testing.assert_allclose(first.phi(first.elements[0], points), moved)
    again = group_from_state(group_state(group))
    np.testing.assert_array_equal(again.orbit(points), group.orbit(points))


@pytest.mark.parametrize(("wrong", "says"), [
    ([[0, 0, 0, 1], [0, 0, 0, 0]], "quaternion 1 is no rotation"), ([[np.nan, 0, 0, 1]], "quaternion 0 is no rotation"),
    ([0, 0, 0, 1], r"shape \(m, 4\)"), ([[1, 0, 0]], r"got \(1, 3\)"), (np.zeros((0, 4)), "at least 1"),
])  # fmt: skip
def test_quaternions_that_are_no_rotations_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        QuaternionRotations(wrong)
