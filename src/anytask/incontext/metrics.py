"""Metrics of generated text: exact match, token F1 and BLEU."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower-case, drop punctuation and English articles, and join the words by one space.

    Examples
    --------
    >>> normalize_answer("The  Battle, of Hastings!")
    'battle of hastings'
    """
    bare = re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION))
    return " ".join(bare.split())


def exact_match(prediction: str, references: str | Sequence[str]) -> float:
    """Return 1.0 if the normalised prediction equals any normalised reference, else 0.0."""
    return float(normalize_answer(prediction) in {normalize_answer(r) for r in _several(references)})


def token_f1(prediction: str, references: str | Sequence[str]) -> float:
    """Return the best F1 of the bags of normalised words over the references.

    Examples
    --------
    One of two words is right (precision 1/2), and it is all of the reference (recall 1): F1 = 2/3.

    >>> round(token_f1("king harold", "Harold"), 4)
    0.6667
    """
    words = normalize_answer(prediction).split()
    return max(_f1(words, normalize_answer(r).split()) for r in _several(references))


def _f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    common = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * common / (len(prediction) + len(reference))


def bleu(predictions: Sequence[str], references: Sequence[str | Sequence[str]], *, max_n: int = 4) -> float:
    """Return corpus BLEU in [0, 1] on white-space tokens, without smoothing.

    The geometric mean of the clipped n-gram precisions up to ``max_n``, summed over the corpus, times the brevity
    penalty exp(1 - r / c) where the predictions' length c is below that of the closest references r.

    Parameters
    ----------
    predictions : sequence of str
    references : sequence of str or of sequences of str
        One or more right texts for each prediction.
    max_n : int, default 4

    References
    ----------
    Papineni et al. (2002). Tokenise the texts before as your comparison does; scores depend on it.

    Examples
    --------
    >>> bleu(["the cat sat on the mat"], [["the cat sat on the mat"]])
    1.0
    """
    if len(predictions) != len(references) or not predictions:
        raise ValueError(f"as many lists of references as predictions are needed, got {len(references)} for "
                         f"{len(predictions)}")  # fmt: skip
    matched, possible = [0] * max_n, [0] * max_n
    length = closest = 0
    for prediction, given in zip(predictions, references):
        p, rs = prediction.split(), [r.split() for r in _several(given)]
        length += len(p)
        closest += min((abs(len(r) - len(p)), len(r)) for r in rs)[1]
        for n in range(1, max_n + 1):
            grams = _grams(p, n)
            most: Counter[tuple[str, ...]] = Counter()
            for r in rs:
                most |= _grams(r, n)
            matched[n - 1] += sum((grams & most).values())
            possible[n - 1] += sum(grams.values())
    if min(matched) == 0:
        return 0.0
    mean_log = sum(math.log(m / t) for m, t in zip(matched, possible)) / max_n
    return math.exp(min(0.0, 1 - closest / length) + mean_log)


def _grams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _several(references: str | Sequence[str]) -> list[str]:
    several = [references] if isinstance(references, str) else list(references)
    if not several:
        raise ValueError("at least one reference is needed")
    return several
