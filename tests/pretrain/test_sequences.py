"""Segments, small changes of texts, metrics of retrieval, and even thinning."""

from collections import Counter

import numpy as np
import pytest
import torch

from anytask.pretrain.parts.retrieval import retrieval_metrics
from anytask.pretrain.parts.rewording import WAYS, reworded
from anytask.pretrain.parts.segments import mine_segments
from anytask.pretrain.parts.sequence_towers import Thinned, spread

MINING = {"threshold": 0.6, "merge": 3, "suppress": 24}


def test_windows_join_the_segment_they_are_near_or_are_dropped():
    found = mine_segments([60, 12, 30, 10, 58, 90], [0] * 6, [0.65, 0.8, 0.7, 0.9, 0.61, 0.6], **MINING)
    assert [(one.start, one.first, one.last) for one in found] == [(10, 10, 12), (60, 58, 60)]  # 90 is not above
    both = mine_segments([10, 12], [0, 1], [0.9, 0.8], **MINING)
    assert [(one.label, one.start) for one in both] == [(0, 10), (1, 12)]  # classes do not see each other
    assert mine_segments([], [], [], **MINING) == []


def test_changed_texts_keep_their_words_but_for_what_was_asked():
    torch.manual_seed(0)
    text = "the quick brown fox jumps over the lazy dog today"
    for _ in range(20):
        swapped, shorter = reworded(text, "swap"), reworded(text, "delete", rate=0.3)
        assert swapped != text or "the" in swapped
        assert Counter(swapped.split()) == Counter(text.split()) and len(shorter.split()) == 7
        assert reworded(text, "synonyms", rate=1.0, synonyms={"quick": ["fast"]}) == text.replace("quick", "fast")
    assert reworded(text, "none") == text and reworded("one two", "delete", rate=1.0) in ("one", "two")
    assert all(reworded("alone", way, synonyms={}) == "alone" for way in WAYS)


def test_ranks_are_those_of_the_best_right_answer_and_ties_count_against_it():
    S = np.arange(20.0)[None].repeat(2, 0)
    right = np.zeros((2, 20), dtype=bool)
    right[0, [3, 15]] = right[1, 19] = True
    assert retrieval_metrics(S, right) == {"R@1": 0.5, "R@5": 1.0, "R@10": 1.0, "MedR": 3.0, "MeanR": 3.0}
    assert retrieval_metrics(np.zeros((4, 4)), np.eye(4, dtype=bool))["MeanR"] == 4.0
    with pytest.raises(ValueError, match="a right answer in each row"):
        retrieval_metrics(S, np.zeros((2, 20), dtype=bool))


def test_long_sequences_are_thinned_evenly_and_short_ones_stay():
    assert spread(torch.tensor([2, 10]), 4).tolist() == [[0, 1, 2, 3], [0, 3, 6, 9]]
    x = torch.arange(10.0)[None, :, None].repeat(2, 1, 1)
    mask = torch.arange(10) < torch.tensor([[2], [10]])
    tokens, seen = Thinned(torch.nn.Identity(), 4)((x, mask))
    assert tokens[0, :2, 0].tolist() == [0, 1] and tokens[1, :, 0].tolist() == [0, 3, 6, 9]
    assert seen.tolist() == [[True, True, False, False], [True] * 4]
    assert Thinned(torch.nn.Identity(), 3).shortened("a b c d e") == "a c e"
