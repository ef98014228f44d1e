import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.control.envs.raster import Canvas

BLACK = (0, 0, 0)


def ink(canvas):
    """Return the painted area of each copy in pixels."""
    return (255 - canvas.pixels()[..., 0].to(torch.float32)).sum((1, 2)) / 255


@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(0.1, 0.3))
@settings(max_examples=40, deadline=None)
def test_a_disc_has_its_area_and_its_centre_wherever_it_is(x, y, radius):
    canvas = Canvas(1, 64, 1.0)
    canvas.disc(torch.tensor([[x, y]]), radius, BLACK)
    assert float(ink(canvas)) == pytest.approx(math.pi * (radius * 32) ** 2, rel=0.03)
    weight = 255 - canvas.pixels()[0, ..., 0].to(torch.float32)
    places = torch.arange(64) + 0.5
    row, column = (weight.sum(1) * places).sum() / weight.sum(), (weight.sum(0) * places).sum() / weight.sum()
    assert float(column) == pytest.approx((x + 1) * 32, abs=0.1) and float(row) == pytest.approx((1 - y) * 32, abs=0.1)


def test_a_disc_at_the_edge_is_cut_and_every_copy_has_its_own():
    canvas = Canvas(3, 32, 1.0, margin=0.3)
    canvas.disc(torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]), 0.25, BLACK)
    whole, half, quarter = ink(canvas).tolist()
    assert half == pytest.approx(whole / 2, rel=0.03) and quarter == pytest.approx(whole / 4, rel=0.05)


def test_boxes_rings_lines_and_bars_have_their_areas():
    def area(draw):
        canvas = Canvas(1, 64, 1.0)
        draw(canvas)
        return float(ink(canvas))

    assert area(lambda c: c.box((-0.5, 0.0), (0.5, 0.25), BLACK)) == pytest.approx(32 * 8, rel=0.01)
    assert area(lambda c: c.box((-2.0, -2.0), (0.0, 2.0), BLACK)) == pytest.approx(64 * 32, rel=0.01)
    assert area(lambda c: c.ring((0.1, 0.0), 0.5, 0.125, BLACK)) == pytest.approx(2 * math.pi * 16 * 4, rel=0.02)
    line = area(lambda c: c.line((-0.5, -0.5), (0.5, 0.5), 0.125, BLACK))
    assert line == pytest.approx(4 * 32 * math.sqrt(2) + math.pi * 4, rel=0.02)
    assert area(lambda c: c.bar(torch.tensor([0.25]), 2, BLACK)) == 2 * 16
    assert area(lambda c: c.line((0.0, 0.0), (0.0, 0.0), 0.25, BLACK)) == pytest.approx(math.pi * 16, rel=0.05)


def test_y_points_upwards():
    canvas = Canvas(1, 16, 1.0)
    canvas.box((-1.0, 0.0), (0.0, 1.0), BLACK)  # upper left
    dark = canvas.pixels()[0, ..., 0] < 128
    assert dark[:8, :8].all() and dark.sum() == 64


def test_half_ink_is_half_way_to_the_color():
    canvas = Canvas(1, 8, 1.0, (200, 100, 0))
    canvas.box((-2, -2), (2, 2), (0, 200, 100), alpha=0.5)
    assert canvas.pixels()[0, 4, 4].tolist() == [100, 150, 50]


def test_a_background_is_copied_and_left_as_it_was():
    ground = Canvas(1, 16, 1.0)
    ground.box((-1, -1), (0, 1), (10, 20, 30))
    before = ground.pixels()
    canvas = Canvas(4, 16, 1.0, ground)
    canvas.disc(torch.zeros(4, 2), 0.5, BLACK)
    assert torch.equal(ground.pixels(), before) and canvas.pixels().shape == (4, 16, 16, 3)
    with pytest.raises(ValueError, match="background"):
        Canvas(4, 32, 1.0, ground)


def test_a_stencil_colors_through_a_mask():
    canvas = Canvas(2, 8, 1.0)
    mask = torch.zeros(8, 8)
    mask[1, 2] = 1.0
    canvas.stencil(mask, (1, 2, 3))
    assert canvas.pixels()[1, 1, 2].tolist() == [1, 2, 3] and float(ink(canvas)[0]) < 1.01
