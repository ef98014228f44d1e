"""What a prompt is worth on a task: the only thing about the task that a prompt search sees."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.special import softmax

from anytask.core.settings import Settings, choice, free, numbers, positional, real, text, texts, whole
from anytask.lm.placeholders import fill, names_of
from anytask.lm.protocol import require
from anytask.prompts.base import Example, check_examples


class Score(NamedTuple):
    """Worth of one prompt on some examples: ``reward`` steers the search, ``accuracy`` decides.

    Both are NaN where the model, or a judge, gave a number that is not finite.
    """

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
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"the evaluator must give one score for each prompt, got {values!r}")
    values = list(values)
    if wrong := [value for value in values if not isinstance(value, (Score, Real))]:
        raise TypeError(f"the evaluator must give numbers, or Score(reward, accuracy), got {wrong[0]!r}")
    return [value if isinstance(value, Score) else Score(float(value), float(value)) for value in values]


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


WORDS = "one continuation per class"


class ModelEvaluator(Settings):
    """Base of the evaluators that ask a language model: fills the prompts, and puts each filled one once.

    Parameters
    ----------
    lm : ScoringModel
    batch_size : int, default 256
        Filled prompts per call of the model.
    tag : str, default "prompt-search"
        Name in the model's accounts.

    Attributes
    ----------
    calls : int
        Questions put to the model. A filled prompt that was put before costs nothing.
    """

    lm: Any = positional(free, "the frozen language model", kw_only=False)
    batch_size: int = whole(256, "filled prompts per call of the model")
    tag: str = text("prompt-search", "name in the model's accounts")

    #: Questions that one filled prompt costs.
    _questions = 1

    def _check_settings(self) -> None:
        self.calls = 0
        self._known: dict[bytes, Any] = {}

    def _ask(self, filled: Sequence[tuple[str, str]]) -> Sequence[Any]:
        """Return what the model says to filled prompts, given as the texts before and after the answer."""
        raise NotImplementedError

    def answers(self, prompts: Sequence[str], examples: Sequence[Example]) -> list[list[Any]]:
        """Return what the model says to each prompt, filled with each example."""
        if not (examples := check_examples(examples, "examples")):
            raise ValueError("there must be at least one example")
        names = names_of(examples)
        filled = [fill(prompt, example, names) for prompt in prompts for example in examples]
        keys = [hashlib.blake2b(repr(pair).encode(), digest_size=16).digest() for pair in filled]
        new = [(key, pair) for key, pair in dict(zip(keys, filled)).items() if key not in self._known]
        for start in range(0, len(new), self.batch_size):
            asked, pairs = zip(*new[start : start + self.batch_size])
            self._known.update(zip(asked, self._ask(pairs), strict=True))
            self.calls += len(pairs) * self._questions
        n = len(examples)
        return [[self._known[key] for key in keys[i * n : (i + 1) * n]] for i in range(len(prompts))]


class VerbalizerEvaluator(ModelEvaluator):
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
    batch_size, tag
        As in :class:`ModelEvaluator`.

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

    verbalizers: Sequence[str] = positional(texts, WORDS, at_least=2, distinct=True, kw_only=False)
    reward: str = choice("margin", ("margin", "accuracy"), "what steers the search")

    def _check_settings(self) -> None:
        super()._check_settings()
        require(self.lm, "logprobs", method="VerbalizerEvaluator")

    def __call__(self, prompts: Sequence[str], examples: Sequence[Example]) -> list[Score]:
        """Score each prompt on the examples, whose ``label`` is a class index."""
        labels = np.array([self._label(example, i) for i, example in enumerate(examples)])
        out = []
        for p in self.probabilities(prompts, examples):  # (examples, C)
            accuracy = float((p.argmax(axis=1) == labels).mean()) if np.isfinite(p).all() else np.nan
            out.append(Score(float(margin_reward(p, labels).mean()) if self.reward == "margin" else accuracy, accuracy))
        return out

    def _label(self, example: Example, i: int) -> int:
        label = example.get("label")
        whole = isinstance(label, Real) and not isinstance(label, (bool, np.bool_)) and float(label).is_integer()
        if not whole or not 0 <= label < len(self.verbalizers):  # type: ignore[operator]
            raise ValueError(f"example {i}: label must be a class index in [0, {len(self.verbalizers)}), got {label!r}")
        return int(label)  # type: ignore[arg-type]

    def probabilities(self, prompts: Sequence[str], examples: Sequence[Example]) -> np.ndarray:
        """Return class probabilities of shape (prompts, examples, classes)."""
        return np.array(self.answers(prompts, examples))

    def _ask(self, filled: Sequence[tuple[str, str]]) -> Sequence[Any]:
        options = [[word + after for word in self.verbalizers] for _, after in filled]
        rows = self.lm.score([before for before, _ in filled], options, tag=self.tag)
        with np.errstate(invalid="ignore"):  # NaN stays NaN, for the caller to see
            return list(softmax([[option.logprob for option in row] for row in rows], axis=1))


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


class GenerationEvaluator(ModelEvaluator):
    """Base of the evaluators that let the model write.

    Parameters
    ----------
    lm : ScoringModel
        ``generate`` is used.
    max_tokens, stop : int and sequence of str
        Of an output.
    batch_size, tag
        As in :class:`ModelEvaluator`.
    """

    max_tokens: int = whole(256, "most tokens of an output")
    stop: Sequence[str] = texts((), "texts that end an output")

    def _check_settings(self) -> None:
        super()._check_settings()
        require(self.lm, "completions", method="an evaluator of written answers")

    def _write(self, filled: Sequence[tuple[str, str]], temperature: float = 0.0, seed: int = 0) -> list[str]:
        settings: dict[str, Any] = {"max_tokens": self.max_tokens, "stop": tuple(self.stop), "tag": self.tag}
        return self.lm.generate([before for before, _ in filled], temperature=temperature, seed=seed, **settings)

    def _ask(self, filled: Sequence[tuple[str, str]]) -> Sequence[Any]:
        return self._write(filled)


class ReasoningEvaluator(GenerationEvaluator):
    """Score prompts by the share of questions whose last number in the model's output is the labelled one.

    Parameters
    ----------
    lm, max_tokens, stop, batch_size, tag
        As in :class:`GenerationEvaluator`; ``max_tokens`` is 256 by default.
    samples : int, default 1
        One greedy output, or a majority vote over this many sampled outputs.
    temperature : float, default 0.7
        Only matters for more than one sample.
    extract : callable, default :func:`last_number`
        Output -> answer, or None for no answer.
    """

    samples: int = whole(1, "outputs that vote")
    temperature: float = real(0.7, "of more than one sample", at_least=0)
    extract: Callable[[str], Any] = free(last_number, "output -> answer, or None for no answer")

    @property
    def _questions(self) -> int:  # type: ignore[override]
        return self.samples

    def _ask(self, filled: Sequence[tuple[str, str]]) -> Sequence[Any]:
        if self.samples == 1:
            return [[output] for output in self._write(filled)]
        return list(zip(*(self._write(filled, self.temperature, seed) for seed in range(self.samples)), strict=True))

    def __call__(self, prompts: Sequence[str], examples: Sequence[Example]) -> list[Score]:
        """Score each prompt; an example's ``label`` is the right number (or what ``extract`` returns)."""
        if unlabelled := [i for i, example in enumerate(examples) if "label" not in example]:
            raise ValueError(f"example {unlabelled[0]} has no label, and the right answer is wanted there")
        labels = [example["label"] for example in examples]
        if self.extract is last_number:
            labels = [last_number(label) if isinstance(label, str) else label for label in labels]
        shares = []
        for row in self.answers(prompts, examples):
            votes = [Counter(a for a in map(self.extract, outputs) if a is not None) for outputs in row]
            shares.append(np.mean([bool(v) and v.most_common(1)[0][0] == y for v, y in zip(votes, labels)]))
        return as_scores(shares)


class StyleEvaluator(GenerationEvaluator):
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
    max_tokens, stop, batch_size, tag
        As in :class:`GenerationEvaluator`; 64 tokens, to the end of the line, by default.
    """

    content: Callable[..., Sequence[float]] = positional(free, "(outputs, examples) -> numbers", kw_only=False)
    style: Callable[..., Sequence[float]] = positional(free, "(outputs, examples) -> numbers", kw_only=False)
    weights: Sequence[float] = numbers((1.0, 1.0), "of content and style in the reward", at_least=0, length=2)
    max_tokens: int = whole(64, "most tokens of an output")
    stop: Sequence[str] = texts(("\n",), "texts that end an output")

    def __call__(self, prompts: Sequence[str], examples: Sequence[Example]) -> list[Score]:
        """Score each prompt by the mean weighted sum over the examples."""
        means = []
        for outputs in self.answers(prompts, examples):
            parts = [np.mean(judge(outputs, examples)) for judge in (self.content, self.style)]
            means.append(float(np.dot(self.weights, parts)))
        return as_scores(means)
