"""Files of episodes: what is written comes back, other programs' layouts are read, and damage is named."""

import json
import os
import pickle
import sys
import zipfile
from contextlib import chdir

import numpy as np
import pytest

from anytask.core import files
from anytask.core.errors import BadData
from anytask.datasets.episode_files import hdf5, load_episodes, save_episodes
from anytask.datasets.episode_files.hdf5 import StoredRows
from anytask.datasets.episodes import Episode, Episodes

h5py = pytest.importorskip("h5py")


def make(seed=0, image=False, lengths=(4, 2)):
    rng = np.random.default_rng(seed)
    parts = []
    for i, n in enumerate(lengths):
        obs = {"arm/place": rng.normal(size=(n + 1, 3)), "arm/speed": rng.normal(size=(n + 1, 2))}
        if image:
            obs["camera"] = rng.integers(0, 256, (n + 1, 6, 5, 3), dtype=np.uint8)
        facts = {"success": i == 0, "task": f"t{i}", "seed": i}
        parts.append(Episode(obs, rng.normal(size=(n, 2)), rng.normal(size=n), i == 0, i != 0, facts))
    return Episodes.from_list(parts, {"env_id": "World-v0", "note": [1, "two"]})


def same(a, b, facts=("success", "task", "seed", "env_id", "note")):
    assert set(a.keys) == set(b.keys)
    for key in a.keys:
        np.testing.assert_array_equal(a.observations[key][:], b.observations[key][:])
        np.testing.assert_array_equal(a.final_observations[key], b.final_observations[key])
    for name in ("actions", "rewards", "terminated", "truncated", "lengths"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in facts:
        np.testing.assert_array_equal(a.attributes[name], b.attributes[name])


@pytest.mark.parametrize("name", ["data.npz", "data.hdf5", "data.h5", "folder"])
@pytest.mark.parametrize("image", [False, True])
def test_what_was_saved_comes_back(tmp_path, name, image):
    episodes = make(image=image)
    save_episodes(tmp_path / name, episodes)
    back = load_episodes(tmp_path / name)
    same(episodes, back)
    save_episodes(tmp_path / name, make(1))  # replaces
    same(load_episodes(tmp_path / name), make(1))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def robomimic_file(path, change=None):
    """A file as robomimic's own tools write it: no final observations but next_obs, dones, masks, env_args."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = 14
        data.attrs["env_args"] = json.dumps({"env_name": "NutAssemblySquare", "type": 1, "env_kwargs": {}})
        for i, n in enumerate([3] * 9 + [1, 2]):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"], demo.attrs["model_file"] = n, "<mujoco/>"
            demo["obs/eef_pos"] = np.full((n, 3), i, float)
            demo["obs/object"] = np.arange(n, dtype=float)[:, None]
            demo["next_obs/eef_pos"], demo["next_obs/object"] = demo["obs/eef_pos"][()], np.arange(1.0, n + 1)[:, None]
            demo["actions"] = np.zeros((n, 7))
            demo["rewards"] = np.eye(n)[-1] * (i % 2)
            demo["dones"] = (np.eye(n)[-1] * (i % 2)).astype(int)
            demo["states"] = np.zeros((n, 20))
        file["mask/train"] = np.array([b"demo_0", b"demo_10"])
        if change:
            change(file)


def test_a_robomimic_file_is_read_in_the_order_of_its_numbers(tmp_path):
    robomimic_file(tmp_path / "low_dim.hdf5")
    e = load_episodes(tmp_path / "low_dim.hdf5", mask="all")
    assert e.lengths.tolist() == [3] * 9 + [1, 2] and set(e.keys) == {"eef_pos", "object"}
    assert e.observations["eef_pos"][e.starts, 0].tolist() == list(range(11))
    assert e.final_observations["object"].ravel().tolist() == [3.0] * 9 + [1.0, 2.0]
    assert e.terminated[e.ends].tolist() == [i % 2 == 1 for i in range(11)]
    assert (e.terminated ^ e.truncated)[e.ends].all()
    assert np.flatnonzero(e.attributes["mask/train"]).tolist() == [0, 10]
    assert e.attributes["env_args"]["env_name"] == "NutAssemblySquare" and "model_file" not in e.attributes
    save_episodes(tmp_path / "again.hdf5", e)
    with h5py.File(tmp_path / "again.hdf5") as file:
        assert file["mask/train"][()].tolist() == [b"demo_0", b"demo_10"]
        assert file["data"].attrs["total"] == 30 and file["data/demo_10"].attrs["num_samples"] == 2
        assert set(file["data/demo_0"]) >= {"obs", "next_obs", "actions", "rewards", "dones"}
    same(load_episodes(tmp_path / "again.hdf5", mask="all"), e, ("mask/train", "env_args"))


def test_only_what_robomimic_trains_on_is_read_unless_asked_otherwise(tmp_path):
    path = tmp_path / "low_dim.hdf5"
    robomimic_file(path)  # of eleven demonstrations, train names 0 and 10
    assert load_episodes(path).observations["eef_pos"][:, 0].tolist() == [0, 0, 0, 10, 10]

    def validated(file):
        del file["mask/train"]
        file["mask/valid"] = np.array([b"demo_3"])

    robomimic_file(path, validated)
    held_out = load_episodes(path, mask="valid")
    assert held_out.lengths.tolist() == [3] and (held_out.observations["eef_pos"] == 3).all()
    rest = load_episodes(path)
    assert len(rest) == 10 and not (rest.observations["eef_pos"] == 3).any()
    assert len(load_episodes(path, mask="all")) == 11
    with pytest.raises(BadData, match=r"low_dim\.hdf5: there is no mask 'test'; its masks: valid"):
        load_episodes(path, mask="test")
    save_episodes(tmp_path / "a.npz", rest)
    with pytest.raises(ValueError, match="mask='valid' names a mask of a robomimic file, and this is npz"):
        load_episodes(tmp_path / "a.npz", mask="valid")


def test_obs_and_actions_are_enough(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["data/demo_0/obs/x"], file["data/demo_0/actions"] = [[1.0], [2.0]], [[0.0], [0.0]]
    e = load_episodes(tmp_path / "a.hdf5")
    assert e.final_observations["x"].tolist() == [[2.0]] and e.truncated.tolist() == [False, True]


def _nan(file):
    file["data/demo_4/obs/eef_pos"][1, 2] = np.nan


def _short(file):
    del file["data/demo_4/obs/object"]
    file["data/demo_4/obs/object"] = np.zeros((2, 1))


def _wide(file):
    del file["data/demo_4/actions"]
    file["data/demo_4/actions"] = np.zeros((3, 6))


def _no_actions(file):
    del file["data/demo_4/actions"]


def _no_steps(file):
    for name in ("obs/object", "obs/eef_pos", "actions", "rewards", "dones"):
        rows = file[f"data/demo_4/{name}"][:0]
        del file[f"data/demo_4/{name}"]
        file[f"data/demo_4/{name}"] = rows


def _no_group(file):
    del file["data/demo_4"]
    file["data/demo_4"] = 3.0


def _no_data(file):
    del file["data"]
    file["other"] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_nan, r"bad\.hdf5: data/demo_4: observations 'eef_pos' must be finite numbers, and step 1 is not"),
        (_short, r"bad\.hdf5: data/demo_4: 2 rows of obs/object and 3 actions"),
        (_wide, r"bad\.hdf5: data/demo_4 has the action dimension 6 instead of 7 in data/demo_0"),
        (_no_actions, r"bad\.hdf5: data/demo_4: actions is missing"),
        (_no_steps, r"bad\.hdf5: data/demo_4: there are no steps"),
        (_no_group, r"bad\.hdf5: data/demo_4: "),
    ],
)
def test_damage_is_named_by_file_episode_and_row(tmp_path, change, message):
    robomimic_file(tmp_path / "bad.hdf5", change)
    with pytest.raises(BadData, match=message):
        load_episodes(tmp_path / "bad.hdf5", mask="all")


def test_files_of_another_kind_are_refused(tmp_path):
    robomimic_file(tmp_path / "bad.hdf5", _no_data)
    with pytest.raises(ValueError, match=r"bad\.hdf5: there is no data/demo_0.*it holds mask, other"):
        load_episodes(tmp_path / "bad.hdf5", "robomimic")
    with pytest.raises(FileNotFoundError, match="no episodes at"):
        load_episodes(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.npz: not a readable \.npz file"):
        load_episodes(tmp_path / "text.npz")
    (tmp_path / "text.hdf5").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.hdf5: not a readable HDF5"):
        load_episodes(tmp_path / "text.hdf5")
    np.savez(tmp_path / "poor.npz", actions=np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"poor\.npz: lengths, observations/\* missing"):
        load_episodes(tmp_path / "poor.npz")
    with pytest.raises(ValueError, match="neither"):
        load_episodes(tmp_path)
    with pytest.raises(ValueError, match=r"written as npz, robomimic or minari"):
        save_episodes(tmp_path / "data.csv", make())
    with pytest.raises(ValueError, match="format"):
        load_episodes(tmp_path / "poor.npz", "zarr")


def test_pickled_content_is_not_executed(tmp_path):
    np.savez(tmp_path / "evil.npz", actions=np.array([{"a": 1}], dtype=object), lengths=np.array([1]))
    with pytest.raises(ValueError, match=r"evil\.npz: not a readable \.npz file"):
        load_episodes(tmp_path / "evil.npz")


@pytest.mark.parametrize("name", ["data.npz", "data.hdf5", "folder"])
def test_a_failed_save_leaves_what_was_there(tmp_path, name, monkeypatch):
    save_episodes(tmp_path / name, make())
    bad = make(1)
    bad.attributes["what"] = object()
    with pytest.raises(TypeError, match="'what' cannot be saved"):
        save_episodes(tmp_path / name, bad)
    monkeypatch.setattr(files, "_exchanged", lambda *a: False)
    monkeypatch.setattr(files.os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        save_episodes(tmp_path / name, make(1))
    monkeypatch.undo()
    same(load_episodes(tmp_path / name), make())
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["data.npz", "data.hdf5", "folder"])
def test_others_may_read_what_was_saved_as_the_umask_says(tmp_path, name):
    save_episodes(tmp_path / name, make())
    (tmp_path / "plain").touch()
    assert (tmp_path / name).stat().st_mode & 0o044 == (tmp_path / "plain").stat().st_mode & 0o044


@pytest.mark.parametrize("name", ["data.npz", "data.hdf5", "folder/data/main_data.hdf5", "so100/data"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_half_a_file_is_named(tmp_path, name, share):
    data = tmp_path / name.split("/")[0]
    if data.name == "so100":
        lerobot(data)
        file = data / "data" / "chunk-000" / "episode_000001.parquet"
    else:
        save_episodes(data, make(image=True))
        file = tmp_path / name
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(BadData, match=file.name):
        load_episodes(data)


def test_arrays_that_are_not_what_their_header_says_are_refused(tmp_path):
    save_episodes(tmp_path / "a.npz", make())
    with zipfile.ZipFile(tmp_path / "a.npz") as whole, zipfile.ZipFile(tmp_path / "short.npz", "w") as short:
        for member in whole.namelist():
            content = whole.read(member)
            short.writestr(member, content[:-8] if member == "actions.npy" else content)
    with pytest.raises(BadData, match=r"short\.npz: the array 'actions' holds 40 bytes"):
        load_episodes(tmp_path / "short.npz")
    with np.load(tmp_path / "a.npz") as file:
        np.savez(tmp_path / "stored.npz", **file)
    content = bytearray((tmp_path / "stored.npz").read_bytes())
    place = content.index(b"rewards.npy") + 150
    content[place] ^= 1
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(BadData, match=r"flipped\.npz: not a readable"):
        load_episodes(tmp_path / "flipped.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths": np.array([4.5, 1.5])}, "lengths must be whole numbers"),
        ({"lengths": np.array([7, -1])}, "episode 1 has no steps"),
        ({"lengths": np.array([4, 3])}, "lengths add up to 7, and there are 6 actions"),
        ({"actions": np.full((6, 2), np.inf)}, "actions must be finite numbers, and step 0 of episode 0 is not"),
        ({"rewards": np.array([0, 0, 0, 0, 0, 1e300])}, "rewards must be finite numbers, and step 1 of episode 1"),
        ({"final_observations/arm/place": np.full((2, 3), np.nan)}, "what was seen after episode 0 is not"),
        ({"attributes": np.array("{")}, "Expecting property name"),
    ],
)
def test_wrong_content_of_an_npz_file_is_named(tmp_path, change, message):
    save_episodes(tmp_path / "a.npz", make())
    with np.load(tmp_path / "a.npz") as file:
        np.savez(tmp_path / "bad.npz", **{**file, **change})
    with pytest.raises(BadData, match=rf"bad\.npz: .*{message}"):
        load_episodes(tmp_path / "bad.npz")


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    lerobot(tmp_path / "so100")
    parquet = tmp_path / "so100" / "data" / "chunk-000" / "episode_000001.parquet"
    parquet.unlink()
    for pipe in ("pipe.npz", "pipe.hdf5", parquet.relative_to(tmp_path)):
        os.mkfifo(tmp_path / pipe)
    for name in ("pipe.npz", "pipe.hdf5", "so100"):
        with pytest.raises(BadData, match="not a regular file"):
            load_episodes(tmp_path / name)
    (tmp_path / "folder.npz").mkdir()
    for format in (None, "npz", "robomimic", "minari", "lerobot"):
        with pytest.raises(BadData, match=r"folder\.npz"):
            load_episodes(tmp_path / "folder.npz", format)


def test_a_folder_with_something_else_in_it_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="left as it is"):
        save_episodes(tmp_path / "mine", make())


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"anytask\[control\]"):
        save_episodes(tmp_path / "a.hdf5", make())


@pytest.mark.parametrize("name", ["data.hdf5", "folder"])
def test_pictures_left_in_the_file_are_those_that_are_read(tmp_path, name):
    episodes = make(image=True, lengths=(5, 3, 4))
    save_episodes(tmp_path / name, episodes)
    lazy = load_episodes(tmp_path / name, lazy=True)
    stored, whole = lazy.observations["camera"], episodes.observations["camera"]
    assert isinstance(stored, StoredRows) and stored.shape == whole.shape
    for rows in (np.array([11, 0, 0, 7]), slice(2, 9), np.array([[1, 2], [3, 4]]), 5, np.arange(12) % 3 == 0):
        np.testing.assert_array_equal(stored[rows], whole[rows])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stored))[3:5], whole[3:5])
    same(lazy, episodes)
    same(lazy.select([2, 0]), episodes.select([2, 0]))
    assert lazy.fingerprint == load_episodes(tmp_path / name).fingerprint
    with pytest.raises(TypeError, match="whole rows"):
        stored[0, 1]


def test_images_stay_in_the_file_by_their_size_together_and_through_joining(tmp_path, monkeypatch):
    episodes = make(image=True, lengths=(5, 1))  # 6 images of 90 bytes
    save_episodes(tmp_path / "a.hdf5", episodes)
    for least, kind in ((540, StoredRows), (541, np.ndarray)):
        monkeypatch.setattr(hdf5, "LAZY_BYTES", least)
        assert isinstance(load_episodes(tmp_path / "a.hdf5").observations["camera"], kind)
    save_episodes(tmp_path / "b.hdf5", make(1, image=True))
    parts = [load_episodes(tmp_path / name, lazy=True) for name in ("a.hdf5", "b.hdf5")]
    both = Episodes.concatenate(parts)
    assert isinstance(both.observations["camera"], StoredRows)
    whole = [load_episodes(tmp_path / name, lazy=False) for name in ("a.hdf5", "b.hdf5")]
    assert both.fingerprint == Episodes.concatenate(whole).fingerprint
    (tmp_path / "b.hdf5").write_bytes(b"")
    with pytest.raises(BadData, match=r"b\.hdf5, /data/demo_0/obs/camera"):
        StoredRows(both.observations["camera"].pieces, (6, 5, 3))[:]


def test_minari_itself_reads_what_was_written(tmp_path):
    minari = pytest.importorskip("minari")
    episodes = make(image=True)
    save_episodes(tmp_path / "few-v0", episodes)
    peer = minari.MinariDataset(tmp_path / "few-v0" / "data")
    assert (peer.total_episodes, peer.total_steps, peer.id) == (2, 6, "few-v0")
    for ours, theirs in zip(episodes, peer.iterate_episodes()):
        for part, key in (("arm", "place"), ("arm", "speed")):
            np.testing.assert_array_equal(theirs.observations[part][key], ours.observations[f"{part}/{key}"])
        np.testing.assert_array_equal(theirs.observations["camera"], ours.observations["camera"])
        np.testing.assert_array_equal(theirs.actions, ours.actions)
        np.testing.assert_array_equal(theirs.rewards, ours.rewards)
        assert theirs.terminations[-1] == ours.terminated and theirs.truncations[-1] == ours.truncated


@pytest.mark.parametrize("jpeg", [False, True])
def test_what_minari_wrote_is_read(tmp_path, monkeypatch, jpeg):
    minari = pytest.importorskip("minari")
    import gymnasium
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    rng = np.random.default_rng(0)
    space = gymnasium.spaces.Dict({
        "x": gymnasium.spaces.Box(-np.inf, np.inf, (2,)), "camera": gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8),
    })  # fmt: skip
    action = gymnasium.spaces.Box(-1, 1, (2,))
    folder = tmp_path / "w" / "data"
    folder.mkdir(parents=True)
    storage = MinariStorage.new(folder, space, action, jpeg_encoding=jpeg)
    x, camera = rng.normal(size=(4, 2)).astype(np.float32), np.full((4, 32, 32, 3), 90, np.uint8)
    storage.update_episodes([
        EpisodeBuffer(
            id=0, seed=3, observations={"x": list(x), "camera": list(camera)}, actions=list(x[:3] / 9),
            rewards=[1.0, 2.0, 3.0], terminations=[False] * 3, truncations=[False, False, True], infos={},
        )
    ])  # fmt: skip
    storage.update_metadata({"dataset_id": "w", "minari_version": minari.__version__})
    e = load_episodes(tmp_path / "w")
    np.testing.assert_array_equal(e.observations["x"], x[:3])
    np.testing.assert_array_equal(e.final_observations["x"], x[3:])
    assert np.abs(e.observations["camera"].astype(int) - 90).max() <= 2  # JPEG of one colour
    assert e.rewards.tolist() == [1, 2, 3] and e.truncated.tolist() == [False, False, True]
    assert e.attributes["name"] == "w" and e.attributes["seed"].tolist() == [3]


def lerobot(folder, rows=3, missing=False):
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    info = {"fps": 10, "robot_type": "so100", "features": {"observation.video": {"dtype": "video"}}}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    (folder / "meta" / "tasks.jsonl").write_text('{"task_index": 0, "task": "pick the cube"}\n')
    for i in range(2):
        pictures = []
        for t in range(rows):
            file = io.BytesIO()
            Image.fromarray(np.full((4, 4, 3), 10 * t, np.uint8)).save(file, format="PNG")
            pictures.append({"bytes": file.getvalue(), "path": f"frame_{t}.png"})
        action = [[0.1 * t, float(i)] for t in range(rows)]
        if missing and i == 1:
            action[2] = None
        table = pa.table({
            "observation.state": [[float(t), 1.0] for t in range(rows)], "observation.images.top": pictures,
            "action": action, "task_index": [0] * rows, "episode_index": [i] * rows,
            "next.reward": [0.0] * (rows - 1) + [1.0], "next.done": [False] * (rows - 1) + [True],
        })  # fmt: skip
        pq.write_table(table, folder / "data" / "chunk-000" / f"episode_{i:06d}.parquet")


def test_a_lerobot_folder_is_read(tmp_path):
    lerobot(tmp_path / "so100")
    e = load_episodes(tmp_path / "so100")
    assert set(e.keys) == {"state", "images.top"} and e.lengths.tolist() == [3, 3]
    assert e.observations["images.top"][:, 0, 0, 0].tolist() == [0, 10, 20] * 2
    assert e.attributes["task"].tolist() == ["pick the cube"] * 2 and e.attributes["fps"] == 10
    np.testing.assert_allclose(e.actions[3:], [[0.0, 1.0], [0.1, 1.0], [0.2, 1.0]], rtol=1e-6)
    assert e.terminated[e.ends].all() and e.returns.tolist() == [1.0, 1.0]


def test_a_missing_value_in_parquet_is_named_by_file_and_row(tmp_path):
    lerobot(tmp_path / "so100", missing=True)
    with pytest.raises(ValueError, match=r"episode_000001\.parquet: action is missing in row 2"):
        load_episodes(tmp_path / "so100")


def test_a_task_may_hold_any_separator_of_lines(tmp_path):
    lerobot(tmp_path / "so100")
    tasks = tmp_path / "so100" / "meta" / "tasks.jsonl"
    name = "pick\u2028the\u2029cube\x85now"
    tasks.write_text(json.dumps({"task_index": 0, "task": name}, ensure_ascii=False) + "\r\n\n", encoding="utf-8")
    assert load_episodes(tmp_path / "so100").attributes["task"].tolist() == [name] * 2


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta/tasks.jsonl", b'{"task_index": 0, "task": "a"}\n{"task_index": 1', r"tasks\.jsonl, line 2: Expecting"),
        ("meta/tasks.jsonl", b'{"task": "a"}', r"tasks\.jsonl, line 1: 'task_index' is missing"),
        ("meta/tasks.jsonl", b"\xff", r"tasks\.jsonl: 'utf-8' codec"),
        ("meta/info.json", b"{", r"info\.json: Expecting"),
        ("meta/info.json", b"[]", r"info\.json: a JSON object is wanted, it holds a list"),
        ("data/chunk-000/episode_000001.parquet", b"PAR1", r"episode_000001\.parquet: "),
    ],
)
def test_damage_in_a_lerobot_folder_is_named_by_file_and_line(tmp_path, file, content, message):
    lerobot(tmp_path / "so100")
    (tmp_path / "so100" / file).write_bytes(content)
    with pytest.raises(BadData, match=message):
        load_episodes(tmp_path / "so100")


def test_damage_in_a_minari_folder_is_named(tmp_path):
    save_episodes(tmp_path / "folder", make())
    with h5py.File(tmp_path / "folder" / "data" / "main_data.hdf5", "a") as file:
        kept = file["episode_1/observations/arm/place"][:-1]
        del file["episode_1/observations/arm/place"]
        file["episode_1/observations/arm/place"] = kept
    with pytest.raises(BadData, match=r"main_data\.hdf5: episode_1: 2 rows of observations/arm/place and 2 actions: 3"):
        load_episodes(tmp_path / "folder")
    (tmp_path / "folder" / "data" / "metadata.json").write_text("{")
    with pytest.raises(BadData, match=r"metadata\.json: Expecting"):
        load_episodes(tmp_path / "folder")


def test_paths_may_be_relative(tmp_path):
    with chdir(tmp_path):
        save_episodes("a.hdf5", make())
        same(load_episodes("a.hdf5"), make())
