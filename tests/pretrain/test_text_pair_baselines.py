"""Matchers of texts: fine-tuning batches hold no text twice, and every pair is seen."""

import pytest
import torch

from anytask.pretrain.text_pair_baselines import BM25Pairs, SentenceEncoder


def test_batches_hold_no_text_twice():
    edges = torch.tensor([[a, b] for a in range(6) for b in range(4) if (a + b) % 2])
    batches = SentenceEncoder(batch_size=3)._batches(edges)
    for batch in batches:
        assert len(batch) <= 3 and all(len(set(side)) == len(batch) for side in batch.T.tolist())
    seen = {tuple(edge) for batch in batches for edge in batch.tolist()}
    assert len(seen) >= len(edges) - 2  # a batch of one teaches nothing


def test_matchers_take_texts_alone():
    for cls in (BM25Pairs, SentenceEncoder):
        with pytest.raises((TypeError, ValueError), match="left"):
            cls(**({"epochs": 0} if cls is SentenceEncoder else {})).fit([1.0], ["a"])


@pytest.mark.slow
def test_what_was_learned_is_saved_and_fine_tuning_learns(tmp_path):
    left = ["a zorp at sea", "a blick in the sky", "a zorp on land", "a blick at night"]
    right = ["green", "purple", "green", "purple"]
    model = SentenceEncoder(epochs=12, lr=1e-4, batch_size=4, seed=1).fit(left, right)
    S = model.scores(["the zorp", "the blick"], ["green", "purple"])
    assert (S.argmax(1) == [0, 1]).all()
    model.save(tmp_path)
    assert (SentenceEncoder.load(tmp_path).scores(["the zorp", "the blick"], ["green", "purple"]) == S).all()
    BM25Pairs().fit(left, right).save(tmp_path / "words")
    assert BM25Pairs.load(tmp_path / "words").rank(["green sea"], ["purple", "green"])[0].tolist() == [[1, 0]]
