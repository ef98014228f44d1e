"""Images and arrays as cameras, scanners and editors leave them."""

import os
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from anytask.core.errors import BadData
from anytask.datasets.inputs import Inputs
from anytask.datasets.labelled import load_labelled

GREY = np.array([[0.1, 0.2, 0.1, 0.2], [0.7, 0.8, 0.7, 0.8]])  # of the classes dark and light, one value a file


def save(folder, name, image, **options):
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)


def fill(path, suffix, make):
    """Four files per class, of one value each."""
    for label, values in zip(("dark", "light"), GREY):
        for i, value in enumerate(values):
            save(path / label, f"{i}{suffix}", make(np.full((6, 4), value)))


@pytest.mark.parametrize(
    ("suffix", "make"),
    [
        (".png", lambda a: Image.fromarray((65535 * a).astype(np.uint16))),
        (".pgm", lambda a: Image.fromarray((65535 * a).astype(np.uint16))),
        (".tif", lambda a: Image.fromarray((65535 * a).astype(np.uint16))),
        (".tif", lambda a: Image.fromarray(a.astype(np.float32))),
        (".png", lambda a: Image.fromarray((255 * a).astype(np.uint8))),
    ],
)
@pytest.mark.parametrize("size", [None, "3x2"])
def test_one_scaling_per_kind_of_pixel_with_and_without_resizing(tmp_path, suffix, make, size):
    fill(tmp_path, suffix, make)
    data = load_labelled(tmp_path, image_size=size)
    assert data.X.shape == ((8, 1, 3, 2) if size else (8, 1, 6, 4))
    np.testing.assert_allclose(data.X[:].mean((1, 2, 3)), GREY.ravel(), atol=0.003)


def test_kinds_of_pixels_in_one_folder_are_alike(tmp_path):
    fill(tmp_path, ".png", lambda a: Image.fromarray((255 * a).astype(np.uint8)))
    save(tmp_path / "dark", "deep.png", Image.fromarray(np.full((6, 4), 6554, np.uint16)))
    save(tmp_path / "light", "float.tif", Image.fromarray(np.full((6, 4), 0.75, np.float32)))
    save(tmp_path / "light", "color.png", Image.new("RGB", (4, 6), (191, 191, 191)))
    data = load_labelled(tmp_path)
    assert data.X.shape == (11, 3, 6, 4)
    means = dict(zip((p.rpartition("/")[2] for p in data.X.paths), data.X[:].mean((1, 2, 3))))
    assert means["deep.png"] == pytest.approx(0.1, abs=0.003)
    assert means["float.tif"] == pytest.approx(0.75) and means["color.png"] == pytest.approx(0.75, abs=0.003)
    assert any("16-bit from 0 to 65535" in note for note in data.notes)
    assert any("10 grey images" in note for note in data.notes)


def test_floats_beyond_one_are_scaled_by_the_folder_and_new_ones_alike(tmp_path):
    fill(tmp_path / "data", ".tif", lambda a: Image.fromarray((400 * a).astype(np.float32)))
    data = load_labelled(tmp_path / "data")
    np.testing.assert_allclose(data.X[:].mean((1, 2, 3)), GREY.ravel() / 0.8, rtol=1e-5)
    Inputs.of(data).save(tmp_path / "best")
    np.testing.assert_array_equal(Inputs.load(tmp_path / "best")(tmp_path / "data" / "dark"), data.X[:4])
    save(tmp_path / "data" / "dark", "x.tif", Image.fromarray(np.full((6, 4), np.nan, np.float32)))
    with pytest.raises(BadData, match=r"x.tif: the image holds values that are NaN"):
        load_labelled(tmp_path / "data")


def test_images_are_turned_upright(tmp_path):
    pixels = np.zeros((6, 4), np.uint8)
    pixels[0] = 200  # the upper edge is light
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen after a quarter turn to the right
    for label in "ab":
        save(tmp_path / label, "plain.png", Image.fromarray(pixels))
        save(tmp_path / label, "turned.png", Image.fromarray(np.rot90(pixels)), exif=exif)
    data = load_labelled(tmp_path)
    np.testing.assert_array_equal(data.X[1], data.X[0])
    assert "2 images were turned upright" in data.notes[0]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_drawings_in_the_alpha_channel_are_seen(tmp_path, mode):
    for label, shade in (("a", 255), ("b", 51)):
        for i in range(2):
            alpha = Image.new("L", (4, 6), shade)
            image = Image.new("L" if mode == "LA" else "RGB", (4, 6), 0)
            image.putalpha(alpha)
            save(tmp_path / label, f"{i}.png", image)
    data = load_labelled(tmp_path)  # those of a are opaque
    assert data.X.shape[1] == (1 if mode == "LA" else 3)
    np.testing.assert_allclose(data.X[:].mean((1, 2, 3)), [0, 0, 0.8, 0.8], atol=0.003)
    assert data.notes[0] == "2 images have transparent pixels and were laid on white."


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_named_like_an_image_is_refused(tmp_path):
    fill(tmp_path, ".png", lambda a: Image.fromarray((255 * a).astype(np.uint8)))
    os.mkfifo(tmp_path / "dark" / "pipe.png")
    with pytest.raises(BadData, match=r"pipe.png: not a regular file"):
        load_labelled(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(BadData, match=r"pipe.csv: not a regular file"):
        load_labelled(tmp_path / "pipe.csv")


def test_an_array_shorter_than_its_header_does_not_read_its_neighbor(tmp_path):
    np.save(tmp_path / "X.npy", np.ones((4, 2)))
    np.save(tmp_path / "y.npy", np.array([0, 0, 1, 1]))
    X = (tmp_path / "X.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("X.npy", X[: -2 * struct.calcsize("d")])
        archive.write(tmp_path / "y.npy", "y.npy")
    with pytest.raises(BadData, match=r"the array 'X' holds 48 bytes, and its header says float64 of shape \(4, 2\)"):
        load_labelled(tmp_path / "d.npz")
