import numpy as np
import pytest
from PIL import Image

from anytask.control.images import filmstrip, learning_curves, save_film


def test_a_band_is_students_interval_of_the_mean():
    # Values 0.2, 0.4, 0.6: mean 0.4, standard deviation 0.2; t(0.975, 2) = 4.3027, so the half width is 0.4968.
    figure = learning_curves({"a": ([1, 2], [[0.2, 1.0], [0.4, 1.0], [0.6, 1.0]])}, share=False)
    band, line = figure.data
    assert list(line.y) == pytest.approx([0.4, 1.0])
    assert list(band.y) == pytest.approx([0.4 + 0.4968, 1.0, 1.0, 0.4 - 0.4968], abs=1e-4)
    clipped = learning_curves({"a": ([1], [[0.2], [0.4], [0.6]])}).data[0]
    assert list(clipped.y) == pytest.approx([0.8968, 0.0], abs=1e-4)


def test_one_seed_has_no_band_and_gaps_are_left_out():
    assert len(learning_curves({"a": ([1, 2], [0.1, 0.2])}).data) == 1
    figure = learning_curves({"a": ([1, 2, 3], [[0.1, np.nan, 0.3], [0.3, np.nan, np.nan]])})
    assert list(figure.data[-1].x) == [1, 3] and list(figure.data[-1].y) == pytest.approx([0.2, 0.3])


def test_an_entrant_keeps_its_color_among_all():
    alone = learning_curves({"b": ([1], [0.5])}, names=["a", "b"]).data[0].line.color
    both = learning_curves({"a": ([1], [0.1]), "b": ([1], [0.5])}).data[1].line.color
    assert alone == both


@pytest.mark.parametrize("curves", [{}, {"a": ([1, 2], [[0.1]])}, {"a": ([], [])}])
def test_curves_that_do_not_fit_are_refused(curves):
    with pytest.raises(ValueError, match=r"curves|values"):
        learning_curves(curves)


def test_a_filmstrip_shows_the_first_the_last_and_evenly_between():
    frames = [np.full((40, 20, 3), v, np.uint8) for v in range(0, 110, 10)]
    strip = filmstrip(frames, 3, height=40)
    assert strip.size == (3 * 24 + 4, 62)
    assert [strip.getpixel((14 + 24 * i, 20))[0] for i in range(3)] == [0, 50, 100]
    assert filmstrip(frames[:2], 6).width == 2 * 84 + 4  # no image twice


def test_small_images_are_enlarged_without_smoothing():
    frame = np.zeros((8, 8, 3), np.uint8)
    frame[:, 4:] = 255
    strip = np.asarray(filmstrip([frame], height=160))[4:164, 4:164, 0]
    assert set(np.unique(strip)) == {0, 255}


def test_labels_must_fit():
    frames = [np.zeros((8, 8, 3), np.uint8)] * 2
    filmstrip(frames, labels=["start", "end"])
    for bad in ({"labels": ["one"]}, {"images": 0}, {"height": 2}):
        with pytest.raises(ValueError, match=r"label|at least|from 16"):
            filmstrip(frames, **bad)
    with pytest.raises(ValueError, match="no frames"):
        filmstrip([])


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_films_have_every_frame(tmp_path, ending):
    path = tmp_path / f"film.{ending}"
    save_film(path, [np.full((16, 16, 3), v, np.uint8) for v in (0, 80, 160, 240)], fps=4)
    with Image.open(path) as film:
        assert film.n_frames == 4
    with pytest.raises(ValueError, match=r"\.gif"):
        save_film(tmp_path / "film.mp4", [])
    with pytest.raises(ValueError, match="frames"):
        save_film(path, [])
