"""Random views of a batch."""

import pytest
import torch

from anytask.parts.views import ViewSettings, flip, jitter, noise, shift


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_shift_moves_every_pixel_alike_and_fills_with_zeros():
    image = torch.zeros(200, 1, 5, 5)
    image[:, 0, 2, 2] = 1.0
    moved = shift(image, generator(), 1)
    places = moved.flatten(1).argmax(1)
    assert (moved.sum((1, 2, 3)) == 1).all()
    assert set(places.tolist()) == {5 * r + c for r in (1, 2, 3) for c in (1, 2, 3)}
    assert torch.equal(shift(image, generator(), 0), image)


def test_flips_mirror_about_half_of_the_images():
    image = torch.arange(4.0).reshape(1, 1, 2, 2).repeat(400, 1, 1, 1)
    flipped = flip(image, generator())
    mirrored = (flipped[:, 0, 0, 0] == 1).float().mean().item()
    assert 0.4 < mirrored < 0.6
    assert torch.equal(flipped.sort(-1).values, image)


def test_noise_has_its_scale_and_jitter_keeps_shape_and_gray_images_gray():
    x = torch.zeros(100, 100)
    assert noise(x, generator(), 0.3).std().item() == pytest.approx(0.3, rel=0.05)
    color = torch.rand(50, 3, 4, 4, generator=generator())
    out = jitter(color, generator())
    assert out.shape == color.shape
    gray = (out == out[:, :1]).flatten(1).all(1).float().mean()
    assert 0.05 < gray < 0.4


@pytest.mark.parametrize(
    ("augment", "input_shape", "image_shape"),
    [
        ("auto", (3, 16, 16), None), ("auto", (8, 8), None), ("auto", (64,), (8, 8)), ("auto", (5,), None),
        ("flip-crop-jitter", (192,), (3, 8, 8)), ("shift-noise", (2, 8, 8), None), ("none", (5,), None),
    ],
)  # fmt: skip
def test_named_views_keep_the_shape_and_repeat_with_the_generator(augment, input_shape, image_shape):
    x = torch.rand(4, *input_shape, generator=generator())
    view = ViewSettings(kind=augment, image_shape=image_shape).maker(input_shape)
    one, two = view(x, generator(1)), view(x, generator(1))
    assert one.shape == x.shape and torch.equal(one, two)
    assert torch.equal(one, x) == (augment == "none")


def test_views_refuse_unknown_names_and_images_that_are_none():
    with pytest.raises(ValueError, match="one of"):
        ViewSettings(kind="blur")
    with pytest.raises(ValueError, match="image_shape="):
        ViewSettings(kind="shift-noise").maker((4,))
    with pytest.raises(ValueError, match="as many values"):
        ViewSettings(image_shape=(8, 9)).maker((64,))
