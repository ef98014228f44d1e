"""Small random changes of texts: two words change places, words are left out, or are replaced by synonyms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

WAYS = ("swap", "delete", "synonyms", "none")


def reworded(text: str, way: str, *, rate: float = 0.1, synonyms: Mapping[str, Sequence[str]] | None = None) -> str:
    """Return a text with a share of its words changed, one at least; torch's global generator draws.

    Parameters
    ----------
    text : str
    way : {"swap", "delete", "synonyms", "none"}
        Whether pairs of words change places, words are left out (never all), or words that have synonyms get one.
    rate : float in (0, 1], default 0.1
        Share of the words that are changed.
    synonyms : mapping of str to sequence of str
        By the word in lower case.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> reworded("red kite", "swap"), reworded("a red kite", "synonyms", synonyms={"red": ["crimson"]})
    ('kite red', 'a crimson kite')
    """
    words = text.split()
    at = [i for i, word in enumerate(words) if way != "synonyms" or (synonyms or {}).get(word.casefold())]
    changes = max(1, round(rate * len(at)))
    if not at or way == "none" or (way != "synonyms" and len(words) < 2):
        return text
    chosen = [at[i] for i in torch.randperm(len(at))[:changes].tolist()]
    if way == "delete":
        return " ".join(word for i, word in enumerate(words) if i not in chosen[: len(words) - 1])
    for i in chosen:
        if way == "swap":
            j = (i + int(torch.randint(1, len(words), ()))) % len(words)
            words[i], words[j] = words[j], words[i]
        else:
            meant = (synonyms or {})[words[i].casefold()]
            words[i] = meant[int(torch.randint(len(meant), ()))]
    return " ".join(words)
