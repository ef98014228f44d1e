"""What a prompt is worth on a task: the only thing about the task that a prompt search sees."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from anytask.core.checks import require_finite
from anytask.lm.protocol import require
from anytask.prompts.base import Example
from anytask.prompts.parts.prunable import PLACEHOLDER

_MASK = "{mask_token}"


class Score(NamedTuple):
    """Worth of one prompt on some examples: ``reward`` steers the search, ``accuracy`` decides."""

    reward: float
    accuracy: float


class Evaluator(Protocol):
    """Scores prompts on examples. A plain function that returns one number per prompt will do as well.

    An evaluator may count what it asks of a model in an attribute ``calls``.
    """

    def __call__(self, prompts: Sequence[str], examples: Sequence[Example]) -> Sequence[Score | float]:
        """Return one score per prompt; larger is better."""
        ...


def as_scores(values: Iterable[Score | float]) -> list[Score]:
    """Turn plain numbers into scores whose accuracy is their reward."""
    return [value if isinstance(value, Score) else Score(float(value), float(value)) for value in values]


def fill(prompt: str, example: Example) -> str:
    """Put an example's values into the placeholders of a prompt; ``{mask_token}`` and unknown braces stay.

    Raises
    ------
    ValueError
        If the example lacks a placeholder of the prompt.

    Examples
    --------
    >>> fill("{text} is {mask_token}", {"text": "{odd}", "label": 1})
    '{odd} is {mask_token}'
    """

    def value(match: re.Match[str]) -> str:
        name = match.group()[1:-1]
        if match.group() == _MASK:
            return _MASK
        if name not in example:
            raise ValueError(f"the prompt has the placeholder {{{name}}}, and the example has only {sorted(example)}")
        return str(example[name])

    return PLACEHOLDER.sub(value, prompt)


def margin_reward(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the reward of each example: 200 g for a positive margin g, 180 g for a negative one.

    ``g = p[y] - max_{c != y} p[c]``.

    Parameters
    ----------
    probabilities : (n, C) array
    labels : (n,) array of int

    Examples
    --------
    >>> margin_reward(np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1]]), np.array([0, 0])).round(9).tolist()
    [60.0, -90.0]
    """
    rows = np.arange(len(labels))
    p_y = probabilities[rows, labels]
    rest = probabilities.copy()
    rest[rows, labels] = -np.inf
    g = p_y - rest.max(axis=1)
    return np.where(g > 0, 200 * g, 180 * g)


def check_verbalizers(verbalizers: Any) -> None:
    """Raise a ``ValueError`` unless ``verbalizers`` are None or at least two different texts."""
    if verbalizers is not None and (
        isinstance(verbalizers, str)
        or not isinstance(verbalizers, Sequence)
        or not all(isinstance(word, str) and word for word in verbalizers)
        or len(set(verbalizers)) != len(verbalizers)
        or len(verbalizers) < 2
    ):
        raise ValueError(f"verbalizers must be at least two different texts, one per class, got {verbalizers!r}")


class VerbalizerEvaluator:
    """Score classification prompts by the probabilities that a frozen model gives to one word per class.

    The model sees the prompt up to ``{mask_token}`` (or all of it), and each class' word, followed by what the prompt
    has after the mask, is scored as its continuation; probabilities are normalised over the classes.

    Parameters
    ----------
    lm : ScoringModel
        Must offer log-probabilities.
    verbalizers : sequence of str
        One continuation per class, leading space included where the tokenizer wants one.
    reward : {"margin", "accuracy"}, default "margin"
        What steers the search: the mean of :func:`margin_reward`, or the accuracy.
    batch_size : int, default 256
        Filled prompts per call of ``lm.score``.
    tag : str, default "prompt-search"
        Name in the model's accounts.

    Attributes
    ----------
    calls : int
        Filled prompts that were put to the model. A filled prompt that was scored before costs nothing.

    Examples
    --------
    >>> from anytask.lm.protocol import Capabilities, OptionScore
    >>> class Fixed:
    ...     name, kind, capabilities = "fixed", "sim", Capabilities(logprobs=True)
    ...     def score(self, prompts, options, *, tag="score"):
    ...         return [[OptionScore(float(np.log(p)), 1, 1) for p in (0.6, 0.3, 0.1)] for _ in prompts]
    >>> evaluate = VerbalizerEvaluator(Fixed(), [" a", " b", " c"])
    >>> [Score(*(round(x, 6) for x in s)) for s in evaluate(["{text} ->"], [{"text": "x", "label": 0}])]
    [Score(reward=60.0, accuracy=1.0)]
    """

    def __init__(
        self,
        lm: Any,
        verbalizers: Sequence[str],
        reward: str = "margin",
        batch_size: int = 256,
        tag: str = "prompt-search",
    ) -> None:
        if reward not in ("margin", "accuracy"):
            raise ValueError(f"reward must be 'margin' or 'accuracy', got {reward!r}")
        check_verbalizers(verbalizers)
        require(lm, "logprobs", method="VerbalizerEvaluator")
        self.lm, self.verbalizers, self.reward = lm, tuple(verbalizers), reward
        self.batch_size, self.tag = batch_size, tag
        self.calls = 0
        self._cache: dict[bytes, np.ndarray] = {}

    def __call__(self, prompts: Sequence[str], examples: Sequence[Example]) -> list[Score]:
        """Score each prompt on the examples, whose ``label`` is a class index."""
        labels = np.array([self._label(example, i) for i, example in enumerate(examples)])
        p = self.probabilities(prompts, examples)  # (prompts, examples, C)
        out = []
        for rows in p:
            accuracy = float((rows.argmax(axis=1) == labels).mean())
            reward = float(margin_reward(rows, labels).mean()) if self.reward == "margin" else accuracy
            out.append(Score(reward, accuracy))
        return out

    def _label(self, example: Example, i: int) -> int:
        label = example.get("label")
        if isinstance(label, (bool, str)) or label is None or not 0 <= int(label) < len(self.verbalizers):
            raise ValueError(f"example {i}: label must be a class index in [0, {len(self.verbalizers)}), got {label!r}")
        return int(label)

    def probabilities(self, prompts: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
        """Return class probabilities of shape (prompts, examples, classes)."""
        if not examples:
            raise ValueError("there must be at least one example")
        filled = [fill(prompt, example) for prompt in prompts for example in examples]
        keys = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in filled]
        new = {key: text for key, text in zip(keys, filled) if key not in self._cache}
        todo = list(new.items())
        for start in range(0, len(todo), self.batch_size):
            batch = todo[start : start + self.batch_size]
            cut = [text.partition(_MASK) for _, text in batch]
            options = [[word + after for word in self.verbalizers] for _, _, after in cut]
            scores = self.lm.score([before for before, _, _ in cut], options, tag=self.tag)
            self.calls += len(batch)
            logits = np.array([[option.logprob for option in row] for row in scores], dtype=float)  # (batch, C)
            top = logits.max(axis=1, keepdims=True)
            require_finite(top, "the best log-probability of a filled prompt")
            p = np.exp(logits - top)
            self._cache.update(zip((key for key, _ in batch), p / p.sum(axis=1, keepdims=True)))
        return np.stack([self._cache[key] for key in keys]).reshape(len(prompts), len(examples), -1)


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(text: str) -> float | None:
    """Return the last number in a text, thousands separators removed, or None.

    Examples
    --------
    >>> last_number("So 3 boxes cost $1,250."), last_number("none")
    (1250.0, None)
    """
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


class ReasoningEvaluator:
    """Score prompts by the share of questions whose last number in the model's output is the labelled one.

    Parameters
    ----------
    lm : ScoringModel
        ``generate`` is used.
    samples : int, default 1
        One greedy output, or a majority vote over this many sampled outputs.
    max_tokens, stop, temperature
        Passed to ``generate``; ``temperature`` (default 0.7) only matters for more than one sample.
    extract : callable, default :func:`last_number`
        Output -> answer, or None for no answer.

    Attributes
    ----------
    calls : int
        Outputs asked of the model; a filled prompt that was answered before costs nothing.
    """

    def __init__(
        self,
        lm: Any,
        samples: int = 1,
        max_tokens: int = 256,
        stop: Sequence[str] = (),
        temperature: float = 0.7,
        extract: Callable[[str], Any] = last_number,
        tag: str = "prompt-search",
    ) -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        require(lm, "completions", method="an evaluator of written answers")
        self.lm, self.samples, self.max_tokens, self.stop = lm, samples, max_tokens, tuple(stop)
        self.temperature, self.extract, self.tag = temperature, extract, tag
        self.calls = 0
        self._cache: dict[str, list[str]] = {}

    def outputs(self, filled: Sequence[str]) -> list[list[str]]:
        """Return the model's outputs, ``samples`` for each filled prompt."""
        new = [text for text in dict.fromkeys(filled) if text not in self._cache]
        drawn: list[list[str]] = [[] for _ in new]
        for sample in range(self.samples if new else 0):
            temperature = self.temperature if self.samples > 1 else 0.0
            replies = self.lm.generate(
                new, max_tokens=self.max_tokens, stop=self.stop, temperature=temperature, seed=sample, tag=self.tag
            )
            self.calls += len(new)
            for row, reply in zip(drawn, replies, strict=True):
                row.append(reply)
        self._cache.update(zip(new, drawn))
        return [self._cache[text] for text in filled]

    def __call__(self, prompts: Sequence[str], examples: Sequence[Example]) -> list[Score]:
        """Score each prompt; an example's ``label`` is the right number (or what ``extract`` returns)."""
        outputs = self.outputs([fill(prompt, example) for prompt in prompts for example in examples])
        right = []
        for texts, example in zip(outputs, [example for _ in prompts for example in examples]):
            votes = Counter(answer for answer in map(self.extract, texts) if answer is not None)
            label = example["label"]
            wanted = last_number(label) if isinstance(label, str) and self.extract is last_number else label
            right.append(bool(votes) and votes.most_common(1)[0][0] == wanted)
        shares = np.array(right, dtype=float).reshape(len(prompts), len(examples)).mean(axis=1)
        return [Score(float(share), float(share)) for share in shares]


class StyleEvaluator:
    """Score text-rewriting prompts by content preservation plus style strength.

    Parameters
    ----------
    lm : ScoringModel
        ``generate`` is used, greedily.
    content : callable
        (outputs, examples) -> numbers in [0, 1]: how much of the example's meaning the output has.
    style : callable
        (outputs, examples) -> numbers in [0, 1]: probability of the wanted style.
    weights : pair of float, default (1, 1)
        Of content and style in the reward.

    Attributes
    ----------
    calls : int
        Outputs asked of the model.
    """

    def __init__(
        self,
        lm: Any,
        content: Callable[[Sequence[str], Sequence[Example]], Sequence[float]],
        style: Callable[[Sequence[str], Sequence[Example]], Sequence[float]],
        weights: tuple[float, float] = (1.0, 1.0),
        max_tokens: int = 64,
        stop: Sequence[str] = ("\n",),
        tag: str = "prompt-search",
    ) -> None:
        self.content, self.style, self.weights = content, style, weights
        self._generation = ReasoningEvaluator(lm, 1, max_tokens, stop, tag=tag)

    @property
    def calls(self) -> int:
        return self._generation.calls

    def __call__(self, prompts: Sequence[str], examples: Sequence[Example]) -> list[Score]:
        """Score each prompt by the mean weighted sum over the examples."""
        pairs = [(prompt, example) for prompt in prompts for example in examples]
        outputs = [texts[0] for texts in self._generation.outputs([fill(p, e) for p, e in pairs])]
        shown = [example for _, example in pairs]
        parts = [np.asarray(judge(outputs, shown), dtype=float) for judge in (self.content, self.style)]
        total = self.weights[0] * parts[0] + self.weights[1] * parts[1]
        means = total.reshape(len(prompts), len(examples)).mean(axis=1)
        return [Score(float(mean), float(mean)) for mean in means]


def example_fingerprint(examples: Sequence[Mapping[str, Any]]) -> str:
    """Return a hash of examples: field names, values and order."""
    content = repr([sorted((str(k), repr(v)) for k, v in example.items()) for example in examples])
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
