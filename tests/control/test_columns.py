"""The column grid against a plain reading of what it stands for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.control.envs.rearrangement.obstacles import ColumnGrid, _merged
from anytask.control.envs.rearrangement.scene import Stage

RADII = (0.05, 0.12)
CELL = 0.05


def occupied(grid, points, base):
    """Of points (m, 3)."""
    return grid.occupied(torch.as_tensor(np.asarray(points), dtype=torch.float32).T[None], base)[0]


def random_stage(seed, boxes=6):
    rng = np.random.default_rng(seed)
    centers = rng.uniform((-1, 0.1, -1), (1, 1.2, 1), (boxes, 3))
    halves = rng.uniform(0.03, 0.3, (boxes, 3))
    return Stage(((-1.2, -1.0), (1.1, 1.3)), [(tuple(c), tuple(h)) for c, h in zip(centers.tolist(), halves.tolist())])


def touches(stage, point, radius):
    """Exact: a sphere overlaps a box, the floor, or the outside."""
    x, y, z = point
    (x0, z0), (x1, z1) = stage.bounds
    if y < radius or min(x - x0, x1 - x, z - z0, z1 - z) < radius:
        return True
    return any(np.sum(np.maximum(np.abs(point - np.array(c)) - h, 0) ** 2) < radius**2 for c, h in stage.boxes)


def touches_anywhere_in_the_cell(stage, grid, point, radius):
    """Exact: such a sphere at this height overlaps something from some place in the cell of the point."""
    x, y, z = point
    left = grid.origin[0] + CELL * np.floor((x - grid.origin[0]) / CELL)
    near = grid.origin[1] + CELL * np.floor((z - grid.origin[1]) / CELL)
    (x0, z0), (x1, z1) = stage.bounds
    if y < radius or min(left - x0, x1 - left - CELL, near - z0, z1 - near - CELL) < radius:
        return True
    low, high = np.array([left, y, near]), np.array([left + CELL, y, near + CELL])
    for c, h in stage.boxes:
        gap = np.maximum(np.maximum(low - (np.array(c) + h), (np.array(c) - h) - high), 0)
        if np.sum(gap**2) < radius**2:
            return True
    return False


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), number=st.integers(0, 1))
def test_occupied_is_the_exact_test_of_the_cell_and_never_misses_a_collision(seed, number):
    stage = random_stage(seed)
    grid = ColumnGrid([stage], RADII, CELL)
    rng = np.random.default_rng(seed + 1)
    points = rng.uniform((-1.4, -0.2, -1.2), (1.3, 1.8, 1.5), (150, 3))
    found = occupied(grid, points, grid.base(number)).numpy()
    radius = RADII[number]
    for point, taken in zip(points, found):
        # Within a hair of a border, rounding may decide either way.
        wide = touches_anywhere_in_the_cell(stage, grid, point, radius + 1e-5)
        narrow = touches_anywhere_in_the_cell(stage, grid, point, radius - 1e-5)
        assert taken in (wide, narrow)
        if touches(stage, point, radius - 1e-5):
            assert taken


def test_the_error_is_at_most_the_diagonal_of_a_cell():
    stage = random_stage(3)
    grid = ColumnGrid([stage], RADII, CELL)
    points = np.random.default_rng(0).uniform((-1.2, 0.05, -1), (1.1, 1.6, 1.3), (500, 3))
    found = occupied(grid, points, grid.base(0)).numpy()
    for point in points[found]:
        assert touches(stage, point, RADII[0] + CELL * np.sqrt(2))


def test_a_sphere_that_just_stands_on_a_surface_is_free():
    stage = Stage(((-1, -1), (1, 1)), [((0, 0.25, 0), (0.3, 0.25, 0.3))])
    grid = ColumnGrid([stage], (0.15,), 0.02)
    points = [[0, 0.65, 0], [0, 0.649, 0], [0.7, 0.15, 0.7], [0.7, 0.149, 0.7]]
    assert occupied(grid, points, 0).tolist() == [False, True, False, True]


def test_what_is_outside_the_bounds_is_occupied_however_far():
    grid = ColumnGrid([Stage(((0, 0), (1, 1)))], (0.1,), 0.1)
    points = [[x, 1.0, 0.5] for x in (-1e6, -0.5, 0.5, 1.5, 1e6)]
    assert occupied(grid, points, 0).tolist() == [True, True, False, True, True]


def test_each_stage_has_its_own_cells():
    stages = [Stage(((-1, -1), (1, 1)), [((0, 0.5, 0), (0.1, 0.5, 0.1))]), Stage(((-2, -2), (2, 2)))]
    grid = ColumnGrid(stages, RADII, CELL)
    base = torch.tensor([grid.base(1, 0), grid.base(1, 1)])
    assert occupied(grid, [[0, 0.3, 0]] * 2, base).tolist() == [True, False]
    assert occupied(grid, [[1.5, 0.3, 0]] * 2, base).tolist() == [True, False]


def test_overlapping_intervals_are_merged_in_order():
    infinity = np.inf
    low = np.array([[-infinity, 0.5, infinity, 0.4, 2.0]])
    high = np.array([[0.1, 0.9, infinity, 0.6, 2.5]])
    # Floor to 0.1, then 0.4-0.9, then 2.0-2.5.
    assert _merged(low, high).tolist() == [[0.1, 0.4, 0.9, 2.0, 2.5]]
    assert _merged(np.array([[-infinity, 0.0]]), np.array([[0.1, infinity]])).tolist() == [[infinity]]


def test_slabs_of_a_large_stage_give_the_cells_of_one_piece(monkeypatch):
    stage = random_stage(5, boxes=9)
    whole = ColumnGrid([stage], RADII, CELL).heights
    monkeypatch.setattr("anytask.control.envs.rearrangement.obstacles._MOST", 1000)
    assert torch.equal(ColumnGrid([stage], RADII, CELL).heights, whole)


@pytest.mark.parametrize(("radii", "cell"), [((), 0.1), ((0.0,), 0.1), ((0.1,), 0.0)])
def test_impossible_sizes_are_refused(radii, cell):
    with pytest.raises(ValueError, match="positive lengths"):
        ColumnGrid([Stage(((0, 0), (1, 1)))], radii, cell)
