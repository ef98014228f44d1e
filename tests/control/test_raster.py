import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.control.envs.raster import Canvas, Drawing

BLACK = "#000000"


def ink(canvas):
    """Return the painted area of each copy in pixels."""
    return (255 - canvas.pixels()[..., 0].to(torch.float32)).sum((1, 2)) / 255


@given(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(0.1, 0.3))
@settings(max_examples=40, deadline=None)
def test_a_disc_has_its_area_and_its_center_wherever_it_is(x, y, radius):
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


def test_boxes_rings_and_bars_have_their_areas():
    def area(draw):
        canvas = Canvas(1, 64, 1.0)
        draw(canvas)
        return float(ink(canvas))

    assert area(lambda c: c.box((-0.5, 0.0), (0.5, 0.25), BLACK)) == pytest.approx(32 * 8, rel=0.01)
    assert area(lambda c: c.box((-2.0, -2.0), (0.0, 2.0), BLACK)) == pytest.approx(64 * 32, rel=0.01)
    assert area(lambda c: c.ring((0.1, 0.0), 0.5, 0.125, BLACK)) == pytest.approx(2 * math.pi * 16 * 4, rel=0.02)
    assert area(lambda c: c.bar(torch.tensor([0.25]), 2, BLACK)) == 2 * 16


def test_y_points_upwards():
    canvas = Canvas(1, 16, 1.0)
    canvas.box((-1.0, 0.0), (0.0, 1.0), BLACK)  # upper left
    dark = canvas.pixels()[0, ..., 0] < 128
    assert dark[:8, :8].all() and dark.sum() == 64


def test_half_ink_is_half_way_to_the_color():
    canvas = Canvas(1, 8, 1.0, "#c86400")  # (200, 100, 0)
    canvas.disc(torch.zeros(1, 2), 0.5, "#00c864", alpha=0.5)  # (0, 200, 100)
    assert canvas.pixels()[0, 4, 4].tolist() == [100, 150, 50]


def test_a_background_is_copied_and_left_as_it_was():
    ground = Canvas(1, 16, 1.0)
    ground.box((-1, -1), (0, 1), "#0a141e")
    before = ground.pixels()
    canvas = Canvas(4, 16, 1.0, ground)
    canvas.disc(torch.zeros(4, 2), 0.5, BLACK)
    assert torch.equal(ground.pixels(), before) and canvas.pixels().shape == (4, 16, 16, 3)
    with pytest.raises(ValueError, match="background"):
        Canvas(4, 32, 1.0, ground)


@pytest.mark.parametrize("up", [True, False])
def test_drawings_for_people_have_areas_and_places(up):
    def area(draw):
        drawing = Drawing((-1, -1), (1, 1), 64, up=up)
        draw(drawing)
        weight = (255.0 - drawing.pixels()[..., 0]) / 255
        places = np.arange(64) + 0.5
        row, column = (weight.sum(1) @ places) / weight.sum(), (weight.sum(0) @ places) / weight.sum()
        return weight.sum(), column / 32 - 1, (1 - row / 32) * (1 if up else -1)

    assert area(lambda d: d.box((0.25, 0.5), (0.5, 0.125), BLACK)) == pytest.approx((32 * 8, 0.25, 0.5), abs=0.02)
    disc = area(lambda d: d.disc((0.25, 0.5), 0.25, BLACK))
    assert disc == pytest.approx((math.pi * 64, 0.25, 0.5), rel=0.02, abs=0.02)
    ring = area(lambda d: d.disc((0, 0), 0.5, BLACK, ring=0.125))
    assert ring == pytest.approx((2 * math.pi * 16 * 4, 0, 0), rel=0.05, abs=0.02)
    line = area(lambda d: d.line([(-0.5, 0.5), (0.5, 0.5)], 0.125, BLACK))
    assert line == pytest.approx((32 * 4, 0, 0.5), rel=0.05, abs=0.03)
    assert area(lambda d: d.text((0.5, -0.5), "o", BLACK, 12))[1:] == pytest.approx((0.5, -0.5), abs=0.1)
    half = area(lambda d: d.box((0, 0), (0.25, 0.25), BLACK, 0.5))
    assert half[0] == pytest.approx(16 * 16 / 2, rel=0.01)
