"""Small files that unpack to much are refused before they are unpacked, and what is no file is not waited for."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from anytask.core.errors import BadData
from anytask.core.memory import max_bytes
from anytask.datasets.episode_files import load_episodes, save_episodes
from anytask.datasets.episodes import Episode, Episodes
from anytask.datasets.inputs import Inputs
from anytask.datasets.labelled import load_labelled
from anytask.datasets.text import load_text
from anytask.models.loading import load_pretrained

LIMIT = 1_000_000
MANY = 300_000  # float64 values of 2.4 MB


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setenv("ANYTASK_MAX_BYTES", str(LIMIT))


def refused(read, *args, **options):
    with pytest.raises(BadData, match="would be read into memory, and at most 1 MB may be") as caught:
        read(*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert int(re.search(r"set ANYTASK_MAX_BYTES=(\d+)", message)[1]) > LIMIT
    return message


def y(n):
    return np.arange(n) % 2


def parquet(path, columns, **options):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, store_schema=False, **options)
    return path


def repeated(text, n):
    """Return ``text`` n times, as a dictionary that holds it once."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([text]))


@pytest.mark.parametrize("bomb", ["X", "y", "task"])
def test_a_compressed_npz(tmp_path, bomb):
    n = MANY if bomb != "X" else 10
    arrays = {"X": np.zeros((n, 1 if bomb != "X" else MANY), np.float32), "y": y(n), "task": y(n)}
    np.savez_compressed(tmp_path / "a.npz", **{**arrays, bomb: arrays[bomb].astype(np.float64)})
    assert (tmp_path / "a.npz").stat().st_size < LIMIT / 10
    assert refused(load_labelled, tmp_path / "a.npz").startswith(f"{tmp_path / 'a.npz'}: ")


def test_a_mapped_npz_may_be_large_and_a_compressed_one_for_a_saved_model_may_not(tmp_path):
    X = np.zeros((MANY, 2), np.float32)
    np.savez(tmp_path / "mapped.npz", X=X[:, :1].repeat(2, 1), y=np.zeros(MANY, np.int8) + (np.arange(MANY) % 2 > 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANYTASK_MAX_BYTES", "2MB")  # enough for the labels, 1.5 MB with a copy, and not for X
        assert load_labelled(tmp_path / "mapped.npz").X.shape == (MANY, 2)
    np.savez_compressed(tmp_path / "new.npz", X=X)
    refused(Inputs((2,)), tmp_path / "new.npz")
    np.save(tmp_path / "new.npy", X)
    refused(Inputs((2,)), tmp_path / "new.npy")


def test_a_header_that_says_more_than_the_archive_holds(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in (("X", np.zeros((4, 2))), ("y", y(4))):
            with archive.open(f"{name}.npy", "w") as file:
                declared = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 2) if name == "X" else (4,)}
                np.lib.format.write_array_header_1_0(file, declared)
                file.write(values.astype(np.float64).tobytes())
    with pytest.raises(BadData, match=r"the array 'X' holds 64 bytes, and its header says float64 of shape \(10000"):
        load_labelled(tmp_path / "a.npz")


@pytest.mark.parametrize("source", [np.zeros(MANY), np.zeros(MANY, np.int64)], ids=["floats", "integers"])
def test_numbers_that_a_parquet_file_repeats(tmp_path, source):
    path = parquet(tmp_path / "a.parquet", {"x": source, "label": y(MANY)})
    assert path.stat().st_size < LIMIT / 10
    refused(load_labelled, path)
    refused(Inputs((1,)), path)


def test_a_text_that_a_parquet_file_repeats(tmp_path):
    n = 2_000
    path = parquet(tmp_path / "a.parquet", {"x": repeated("a" * 1000, n), "label": y(n)})
    assert path.stat().st_size < LIMIT / 50
    refused(load_labelled, path)


def test_texts_that_differ_little_from_the_one_before(tmp_path):
    how = {"use_dictionary": False, "column_encoding": {"x": "DELTA_BYTE_ARRAY"}}
    path = parquet(tmp_path / "a.parquet", {"x": ["a" * 1000] * 2_000, "label": y(2_000)}, **how)
    assert path.stat().st_size < LIMIT / 50
    refused(load_labelled, path)


@pytest.mark.parametrize("encoding", ["RLE_DICTIONARY", "PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_texts_of_a_parquet_file_are_what_they_were(tmp_path, encoding):
    how = {} if encoding == "RLE_DICTIONARY" else {"use_dictionary": False, "column_encoding": {"x": encoding}}
    path = parquet(tmp_path / "a.parquet", {"x": ["red", None, "blue", "red"] * 5, "label": ["a", "b"] * 10}, **how)
    data = load_labelled(path, missing="native")
    assert data.feature_names == ("x=blue", "x=red")
    np.testing.assert_array_equal(data.X[:3], [[0, 1], [np.nan, np.nan], [1, 0]])
    assert set(data.y.tolist()) == {"a", "b"}


def test_an_image_of_many_pixels(tmp_path):
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("L", (8, 8), 3).save(tmp_path / "data" / label / "0.png")
    large = tmp_path / "data" / "b" / "1.png"
    Image.new("L", (400, 400), 3).save(large)
    assert large.stat().st_size < LIMIT / 100
    message = refused(load_labelled, tmp_path / "data", image_size=8)
    assert message.startswith(f"{large}: an image of 400x400 pixels: 2.56 MB")
    refused(Inputs((1, 8, 8), "images", resized=True), tmp_path / "data" / "b")


def test_images_of_one_folder_are_not_read_at_once_where_they_do_not_fit(tmp_path):
    for i in range(20):
        Image.new("L", (120, 120), i).save(tmp_path / f"{i}.png")
    refused(Inputs((1, 120, 120), "images"), tmp_path)


def test_an_image_by_another_format_than_its_name_says_runs_no_program(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(BadData, match=r"0\.png: not a readable image \(cannot identify image file"):
        load_labelled(tmp_path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_text_file_with_a_hole(tmp_path, name):
    with open(tmp_path / name, "wb") as file:
        file.truncate(2 * LIMIT)
    refused(load_labelled if name == "a.csv" else load_text, tmp_path / name)
    refused(load_text, tmp_path / name)


# -- episodes ------------------------------------------------------------------------------------------------------


def episodes():
    return Episodes.from_list([Episode(np.arange(4.0)[:, None] + i, np.ones((3, 2)) * i) for i in range(2)])


def test_episodes_in_a_compressed_npz(tmp_path):
    save_episodes(tmp_path / "a.npz", Episodes.from_list([Episode(np.zeros((MANY, 1)), np.zeros((MANY, 1)))]))
    assert (tmp_path / "a.npz").stat().st_size < LIMIT / 10
    refused(load_episodes, tmp_path / "a.npz")


@pytest.mark.parametrize("format", ["robomimic", "minari"])
@pytest.mark.parametrize("what", ["actions", "chunk", "image"])
def test_what_an_hdf5_file_declares_and_does_not_hold(tmp_path, format, what):
    import h5py

    path = tmp_path / ("a.hdf5" if format == "robomimic" else "a")
    save_episodes(path, episodes(), format)
    file_path = path if path.is_file() else path / "data" / "main_data.hdf5"
    with h5py.File(file_path, "r+") as file:
        demo = file["data/demo_0" if format == "robomimic" else "episode_0"]
        seen = "obs" if format == "robomimic" else "observations"
        rows = 3 if format == "robomimic" else 4
        if what == "actions":
            del demo["actions"]
            demo.create_dataset("actions", (10**12, 2), "f4", chunks=(100, 2))
        else:
            shape = (rows, 20, 20, 3) if what == "chunk" else (rows, 20_000, 20_000, 3)
            del demo[seen]
            chunks = (10_000, 20, 20, 3) if what == "chunk" else (1, 20, 20, 3)
            demo.create_dataset(f"{seen}/eye", shape, "u1", chunks=chunks, maxshape=(None, *shape[1:]))
    assert file_path.stat().st_size < LIMIT / 10
    refused(load_episodes, path)


@pytest.mark.parametrize("kind", ["link", "external", "virtual"])
def test_values_of_an_hdf5_file_in_other_files_are_not_followed(tmp_path, kind):
    import h5py

    save_episodes(tmp_path / "a.hdf5", episodes())
    (tmp_path / "private").write_bytes(b"x" * 24)
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["rewards"] = np.ones(3)
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        demo = file["data/demo_0"]
        del demo["rewards"]
        if kind == "link":
            demo["rewards"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "rewards")
        elif kind == "external":
            demo.create_dataset("rewards", (3,), "f8", external=[(str(tmp_path / "private"), 0, 24)])
        else:
            layout = h5py.VirtualLayout((3,), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "rewards", (3,))
            demo.create_virtual_dataset("rewards", layout)
    with pytest.raises(BadData, match=r"a\.hdf5, data/demo_0/rewards: the values lie in another file"):
        load_episodes(tmp_path / "a.hdf5")


@pytest.mark.parametrize("format", ["robomimic", "minari"])
def test_a_flipped_bit_in_an_hdf5_file_is_found_by_its_checksum(tmp_path, format):
    path = tmp_path / ("a.hdf5" if format == "robomimic" else "a")
    marked = Episodes.from_list([Episode(np.full((4, 1), 1.5), np.full((3, 2), 1234.5))])
    save_episodes(path, marked, format)
    file = path if path.is_file() else path / "data" / "main_data.hdf5"
    content = bytearray(file.read_bytes())
    content[content.index(np.full(6, 1234.5, np.float32).tobytes())] ^= 1
    file.write_bytes(content)
    with pytest.raises(BadData, match=re.escape(str(file))):
        load_episodes(path)


@pytest.mark.parametrize("image", [False, True], ids=["numbers", "images"])
def test_parquet_files_of_episodes(tmp_path, image):
    (tmp_path / "meta").mkdir()
    (tmp_path / "data" / "chunk-000").mkdir(parents=True)
    (tmp_path / "meta" / "info.json").write_text(json.dumps({"features": {}}))
    n = 3 if image else MANY
    seen = np.zeros(n)
    if image:
        Image.new("L", (400, 400)).save(tmp_path / "x.png")
        seen = [{"bytes": (tmp_path / "x.png").read_bytes(), "path": "x.png"}] * n
    columns = {"observation.x": seen, "action": np.zeros(n)}
    parquet(tmp_path / "data" / "chunk-000" / "episode_000000.parquet", columns)
    assert "episode_000000.parquet: " in refused(load_episodes, tmp_path)


# -- what is no file -----------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_named_pipe_is_never_waited_for(tmp_path):
    os.makedirs(tmp_path / "minari" / "data")
    pipes = {
        "t.csv": load_labelled, "t.parquet": load_labelled, "t.npz": load_labelled, "X.npy": load_labelled,
        "t.jsonl": load_text, "new.npz": Inputs((1,)), "e.hdf5": load_episodes, "e.npz": load_episodes,
    }  # fmt: skip
    for name, read in pipes.items():
        os.mkfifo(tmp_path / name)
        with pytest.raises(BadData, match=rf"{re.escape(name)}: not a regular file"):
            read(tmp_path / name)
    os.mkfifo(tmp_path / "minari" / "data" / "main_data.hdf5")
    with pytest.raises(BadData, match="not a regular file"):
        load_episodes(tmp_path / "minari", "minari")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_named_pipe_in_the_folder_of_a_model_is_never_waited_for(tmp_path, name):
    from transformers import AutoModel

    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: not a regular file"):
        load_pretrained(AutoModel, tmp_path)


# -- the limit ------------------------------------------------------------------------------------------------------


def test_the_limit_is_half_of_the_free_memory_unless_it_is_set(monkeypatch):
    import psutil

    monkeypatch.delenv("ANYTASK_MAX_BYTES")
    total = psutil.virtual_memory().total
    assert 0 < max_bytes() <= total // 2
    for text, n in (("10", 10), ("8GB", 8 * 10**9), ("1.5 g", 15 * 10**8), ("2kb", 2000)):
        monkeypatch.setenv("ANYTASK_MAX_BYTES", text)
        assert max_bytes() == n
    monkeypatch.setenv("ANYTASK_MAX_BYTES", "much")
    with pytest.raises(ValueError, match="ANYTASK_MAX_BYTES must be a number of bytes, such as 8000000000 or 8GB"):
        max_bytes()
