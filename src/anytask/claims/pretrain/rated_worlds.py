"""UniQA with less than its whole set of texts, or with the texts as people leave them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.core.settings import choice, real
from anytask.pretrain.uniqa import UniQA

#: Comments that say nothing of an image.
_NOISE = ("nice shot lol", "great work thanks", "where was this", "my favorite camera", "love it", "so cool dude")


class Retold(UniQA):
    """UniQA that reads the texts on one score alone, or with comments in place of some on aesthetics.

    Parameters
    ----------
    about : {"both", "quality", "aesthetics"}
        Which texts are read.
    noise : float
        Share of the texts on aesthetics in whose place a comment stands that says nothing.
    """

    about: str = choice("both", ("both", "quality", "aesthetics"), "which texts are read")
    noise: float = real(0.0, "share of the texts on aesthetics that say nothing", at_least=0, at_most=1)

    def fit(self, left: Any, right: Any, *, progress: Progress | None = None) -> Self:
        """Learn from images and what is left of their texts."""
        rng = np.random.default_rng(derive(self.seed, "comments"))
        told = [[text for text in own if self.about == "both" or self.about in text] for own in right]
        for own in told:
            for place, text in enumerate(own):
                if "aesthetics" in text and rng.random() < self.noise:
                    own[place] = _NOISE[rng.integers(len(_NOISE))]
        return super().fit(left, told, progress=progress)


class ZeroShot(UniQA):
    """UniQA that looks at no score."""

    def fit_scores(self, X: Any, scores: Any, **told: Any) -> Self:
        """Learn nothing."""
        return self
