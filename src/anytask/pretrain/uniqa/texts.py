"""Phase 1 of UniQA: levels of scores, captions that a chat model writes, and comments that these captions clean."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from anytask.core.checks import check_counts, check_numbers, require_finite_rows
from anytask.core.progress import Progress
from anytask.core.settings import check_number
from anytask.datasets.pairs import plain
from anytask.lm.embeddings import Embedder
from anytask.lm.protocol import ChatModel, ChatRequest, ReplyError, check_texts, require
from anytask.pretrain.parts.crops import pixels, read_crops
from anytask.pretrain.parts.items import words

LEVELS = ("bad", "poor", "fair", "good", "perfect")
#: What a caption is about -> what a chat model is asked to look at.
ASPECTS = {
    "quality": "sharpness, noise, exposure, color accuracy, and artifacts of compression",
    "aesthetics": "content, color harmony, lighting, composition, and mood",
}


def normalized(
    scores: ArrayLike, score_range: tuple[float, float] | None = None, lower_is_better: bool = False
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return mean opinion scores in [0, 1], of which 1 is best, and the range that they were taken from.

    Parameters
    ----------
    scores : array of shape (n,)
    score_range : (low, high), optional
        Ends of the scale; the smallest and the largest score by default.
    lower_is_better : bool, default False
        Whether the scale counts defects, as DMOS does.

    Raises
    ------
    ValueError
        For NaN or infinite scores, scores beyond the range, and a range without any width.

    Examples
    --------
    >>> normalized([1, 2, 5], (1, 5))[0].tolist(), normalized([1, 2, 5], (1, 5), lower_is_better=True)[0].tolist()
    ([0.0, 0.25, 1.0], [1.0, 0.75, 0.0])
    """
    y = check_numbers(scores, "scores").double().cpu()
    if y.ndim != 1 or not len(y):
        raise ValueError(f"scores must have shape (n,), n >= 1, got {tuple(y.shape)}")
    s = require_finite_rows(y, "scores").numpy()
    low, high = (s.min(), s.max()) if score_range is None else (check_number(e, "score_range") for e in score_range)
    low, high = float(low), float(high)
    if not low < high:
        raise ValueError(f"score_range must rise, got ({low:g}, {high:g}): give the ends of the scale")
    if beyond := [row for row, value in enumerate(s.tolist()) if not low <= value <= high]:
        raise ValueError(f"scores[{beyond[0]}] is {s[beyond[0]]:g}, beyond score_range ({low:g}, {high:g})")
    share = (s - low) / (high - low)
    return (1 - share if lower_is_better else share), (low, high)


def quality_levels(
    scores: ArrayLike, *, score_range: tuple[float, float] | None = None, lower_is_better: bool = False
) -> list[str]:
    """Return the level of each score: five of equal width, "bad", "poor", "fair", "good" and "perfect".

    Parameters
    ----------
    scores, score_range, lower_is_better
        See :func:`normalized`; a score between two levels has the better one.

    Examples
    --------
    >>> quality_levels([0, 30, 40, 100], score_range=(0, 100))
    ['bad', 'poor', 'fair', 'perfect']
    """
    s, _ = normalized(scores, score_range, lower_is_better)
    # The product is rounded first: 0.6 * 5 would be a hair below 3 where 0.6 came out of a division.
    return [LEVELS[min(int(np.floor(round(share * 5, 9))), 4)] for share in s.tolist()]


def describe_images(
    images: Any,
    levels: Sequence[str],
    lm: ChatModel,
    *,
    aspect: str = "quality",
    n: int = 2,
    max_tokens: int = 120,
    temperature: float = 0.7,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[list[str]]:
    """Let a chat model that sees images write captions of them, guided by the level of each.

    Captions tell the level on purpose. Describe training images alone: a test image would be labelled by its own score.

    Parameters
    ----------
    images : sequence of arrays of shape (channels, height, width) in [0, 1], of paths, or of Pillow's images
    levels : sequence of str
        Of :func:`quality_levels`.
    lm : ChatModel
        With the capability ``images``, such as ``Endpoint(url, name, images=True)``.
    aspect : {"quality", "aesthetics"}
    n : int, default 2
        Captions of each image.
    max_tokens, temperature, seed
        Of the requests.
    progress : callable, optional

    Returns
    -------
    list of n_images lists of n str

    Raises
    ------
    MissingCapability, ReplyError
        If the model sees no images, or a caption is empty.
    """
    if aspect not in ASPECTS:
        raise ValueError(f"aspect must be one of {', '.join(map(repr, ASPECTS))}, got {aspect!r}")
    check_counts(n=n)
    require(lm, "images", method="describe_images")
    given = read_crops(images, "images", 1).values
    if len(given) != len(check_texts(levels, "levels")):
        raise ValueError(f"{len(given)} images and {len(levels)} levels were given")
    requests = [
        ChatRequest(
            ({"role": "user", "content": [{"type": "text", "text": _instruction(aspect, level)}, _shown(image)]},),
            n=n, max_tokens=max_tokens, temperature=temperature, seed=seed, tag="describe",
        )
        for image, level in zip(given, levels)
    ]  # fmt: skip
    found = []
    for row, reply in enumerate(lm.chat_many(requests, progress=progress)):
        found.append([choice.text.strip() for choice in reply.choices])
        if not all(found[-1]):
            raise ReplyError(f"the model wrote an empty caption of images[{row}]")
    return found


def _instruction(aspect: str, level: str) -> str:
    return (
        f"Describe the {aspect} of this image in one or two sentences. Look at {ASPECTS[aspect]}. "
        f"People rated its {aspect} as {level}; your description has to agree with that."
    )


def _shown(image: Any) -> dict[str, Any]:
    rows = np.clip(np.rint(pixels(image).numpy() * 255), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    file = io.BytesIO()
    Image.fromarray(rows[..., 0] if rows.shape[2] == 1 else rows).save(file, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"},
    }


def purify(
    comments: Sequence[Sequence[str]],
    references: Sequence[str | Sequence[str]],
    *,
    keep: int = 4,
    weight: float = 1.0,
    cap: int | None = None,
    embedder: Any = None,
) -> list[list[str]]:
    """Keep of each image's comments those that are relevant and say much: the highest AR + weight * IR.

    AR is the cosine of a comment's vector with those of the image's generated captions, IR its number of words. Both
    are brought to [0, 1] within the image. Captions of any set that has some texts to trust can be cleaned so.

    Parameters
    ----------
    comments : sequence of sequences of str
        What people wrote about each image; a comment that was made twice counts once.
    references : sequence of str or of sequences of str
        Captions of each image that are on its topic, such as those of :func:`describe_images`.
    keep : int, default 4
        K: comments of an image that are kept; all of those of an image that has no more.
    weight : float of at least 0, default 1.0
        Of informativeness beside relevance.
    cap : int, optional
        Words beyond these count nothing: without it rambling pays.
    embedder : object with ``embed(texts)``, optional
        :class:`~anytask.lm.embeddings.Embedder` by default, which needs the extra ``text``.

    Returns
    -------
    list of lists of str
        Best first; what is kept depends neither on the order of comments nor on repeated ones.

    Examples
    --------
    >>> told = ["the evening light is warm and soft", "nice", "I bought my phone last week in the shop by the station"]
    >>> purify([told], ["warm, soft light of the evening"], keep=1)
    [['the evening light is warm and soft']]
    """
    check_counts(keep=keep, **({} if cap is None else {"cap": cap}))
    check_number(weight, "weight", at_least=0)
    if len(comments) != len(references):
        raise ValueError(f"comments of {len(comments)} images and references of {len(references)} were given")
    said = [_distinct(check_texts(own, f"comments[{i}]")) for i, own in enumerate(comments)]
    meant = [check_texts([r] if isinstance(r, str) else r, f"references[{i}]") for i, r in enumerate(references)]
    if bare := [i for i, own in enumerate(meant) if not own]:
        raise ValueError(f"references[{bare[0]}] is empty: relevance is measured against it")
    texts = sorted({text for own in (*said, *meant) for text in own})
    place = {text: i for i, text in enumerate(texts)}
    E = np.asarray((embedder or Embedder()).embed(texts), dtype=np.float64)
    E /= np.maximum(np.linalg.norm(E, axis=1, keepdims=True), 1e-12)
    kept = []
    for own, refs in zip(said, meant):
        C, R = E[[place[text] for text in own]], E[[place[text] for text in refs]]
        length = np.array([min(len(words(text)), cap or 2**31) for text in own], dtype=float)
        score = _to_unit((C @ R.T).mean(1)) + weight * _to_unit(length)
        kept.append([own[i] for i in np.argsort(-score, kind="stable")[:keep]])
    return kept


def _distinct(texts: Sequence[str]) -> list[str]:
    """Return texts that are not empty, each once, in an order that theirs has no part in."""
    found: dict[str, str] = {}
    for text in sorted(texts):
        found.setdefault(plain(text), text)
    return [text for key, text in sorted(found.items()) if key]


def _to_unit(values: np.ndarray) -> np.ndarray:
    """Return values brought to [0, 1]; 0 where all are equal."""
    if not len(values):
        return values
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
