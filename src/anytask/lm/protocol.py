"""The language-model protocol: one chat request and reply, one scoring call, whatever answers them.

Two small protocols. Every model chats (:class:`ChatModel`); models whose log-probabilities can be had also score
continuations (:class:`ScoringModel`). Every result carries the ``kind`` of model that made it:

* ``http``: a user's endpoint,
* ``local``: weights given by name or folder,
* ``tiny``: a small model trained in this repository,
* ``sim``: a graded simulator.

A ``tiny`` or ``sim`` result is evidence about an algorithm, never about real models' accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from anytask.core.errors import NotFinite, instance_of
from anytask.core.progress import Progress

__all__ = [
    "BadNumber",
    "BudgetExceeded",
    "Capabilities",
    "ChatModel",
    "ChatReply",
    "ChatRequest",
    "LMError",
    "MissingCapability",
    "OptionScore",
    "ReplyError",
    "ScoringModel",
]

Kind = Literal["http", "local", "tiny", "sim"]
T = TypeVar("T")
R = TypeVar("R")


class LMError(RuntimeError):
    """A language model could not answer.

    Attributes
    ----------
    finished : list
        What was answered before the failure, in the form of the result, with None where an answer is missing. Empty
        where one answer was asked for.
    """

    def __init__(self, message: str, finished: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.finished = list(finished)


class MissingCapability(LMError):
    """A method needs something that this model does not offer; raised at construction, naming it."""


class BudgetExceeded(LMError):
    """The next call would exceed the budget."""


class ReplyError(LMError):
    """The model answered, but not in the form asked for; ``raw`` is its text."""

    def __init__(self, message: str, raw: str = "") -> None:
        super().__init__(message)
        self.raw = raw


class BadNumber(LMError, NotFinite):
    """A number that no model can mean: NaN, an infinity, a positive log-probability, a negative count."""


def check_texts(values: Iterable[str], name: str) -> list[str]:
    """Return texts of any kind of sequence or iterator as a list of plain strings, or say which is none."""
    texts = list(check_sequence(values, name))
    for i, text in enumerate(texts):
        check_text(text, f"{name}[{i}]")
    return [str.__str__(text) for text in texts]


def check_text(value: Any, name: str) -> str:
    """Return a string as a plain one, or say that it is none."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {type(value).__name__}")
    return str.__str__(value)


def check_sequence(values: Any, name: str) -> Any:
    """Return what gives strings one by one, or say why it does not: a table would give the names of its columns.

    Examples
    --------
    >>> check_sequence("a text", "texts")
    Traceback (most recent call last):
        ...
    TypeError: texts must be a sequence of strings, got one string: wrap it in a list
    """
    if isinstance(values, str):
        raise TypeError(f"{name} must be a sequence of strings, got one string: wrap it in a list")
    shape = getattr(values, "shape", (0,))
    if len(shape) != 1:
        raise ValueError(f"{name} must be a sequence of strings, got a {type(values).__name__} of shape {tuple(shape)}")
    if not isinstance(values, Iterable) or isinstance(values, (bytes, Mapping, Set)):
        raise TypeError(f"{name} must be a sequence of strings, got {type(values).__name__}")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        raise ValueError(f"{name} is a masked array with masked values: fill them first, {name}.filled(...)")
    return values


def check_options(prompts: Sequence[str], options: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the options of each prompt, or say which are none that could be scored."""
    instance_of("options", Iterable, optional=False, wanted="a sequence of sequences of strings")(options)
    rows = [check_texts(row, f"options[{i}]") for i, row in enumerate(options)]
    if len(prompts) != len(rows):
        raise ValueError(f"{len(prompts)} prompts and {len(rows)} lists of options were given")
    for i, row in enumerate(rows):
        if not row or not all(row):
            raise ValueError(f"prompt {i} has no options or an empty option: there is nothing to score")
    return rows


def options_of(prompts: Sequence[str], options: Sequence[Sequence[str]]) -> dict[str, list[str]]:
    """Return the distinct options of each distinct prompt: what a model has to score.

    Examples
    --------
    >>> options_of(["a", "b", "a"], [["x", "y"], ["x"], ["y", "z"]])
    {'a': ['x', 'y', 'z'], 'b': ['x']}
    """
    rows: dict[str, dict[str, None]] = {}
    for prompt, row in zip(prompts, options):
        rows.setdefault(prompt, {}).update(dict.fromkeys(row))
    return {prompt: list(row) for prompt, row in rows.items()}


def each_once(items: Sequence[T], ask: Callable[[list[T]], Sequence[R]], keys: Sequence[Any] | None = None) -> list[R]:
    """Return each item's answer, where equal items (by their keys) are asked for once.

    Examples
    --------
    >>> each_once(["a", "b", "a"], lambda distinct: [item + str(len(distinct)) for item in distinct])
    ['a2', 'b2', 'a2']
    """
    keys = items if keys is None else keys
    distinct: dict[Any, T] = {}
    for key, item in zip(keys, items):
        distinct.setdefault(key, item)
    try:
        answers = dict(zip(distinct, ask(list(distinct.values()))))
    except LMError as error:
        finished = dict(zip(distinct, error.finished))
        error.finished = [finished.get(key) for key in keys]
        raise
    return [answers[key] for key in keys]


#: Rounding may lift the log-probability of a certain token above 0 by so much.
ROUNDING = 1e-3


def check_logprobs(values: Iterable[Any], what: str) -> None:
    """Refuse log-probabilities that are NaN, positive, or no numbers; minus infinity is the log of 0.

    Examples
    --------
    >>> check_logprobs([-1.0, float("-inf")], "a score")
    >>> check_logprobs([-1.0, 0.5], "a score")
    Traceback (most recent call last):
        ...
    anytask.lm.protocol.BadNumber: a score is 0.5, and a log-probability is a number of at most 0
    """
    for value in values:
        if not isinstance(value, Real) or isinstance(value, bool) or not value <= ROUNDING:
            raise BadNumber(f"{what} is {shown(value)}, and a log-probability is a number of at most 0")


def shown(value: Any) -> str:
    """Return a number as messages show it, and of anything else, which a server may fill with secrets, the type.

    Examples
    --------
    >>> shown(-5), shown(float("nan")), shown("sk-secret")
    ('-5', 'NaN', 'a str')
    """
    if not isinstance(value, Real):
        return f"a {type(value).__name__}"
    return "NaN" if value != value else f"{value!r:.40}"


def check_sampling(max_tokens: int, temperature: float, top_p: float, **counts: int) -> None:
    """Refuse sampling parameters without a meaning, whatever model they are for."""
    for name, count in {"max_tokens": max_tokens, **counts}.items():
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {count!r}")
    if not isinstance(temperature, Real) or isinstance(temperature, bool) or not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a number of at least 0, got {temperature!r}")
    if not isinstance(top_p, Real) or isinstance(top_p, bool) or not 0 < top_p <= 1:
        raise ValueError(f"top_p must be a number above 0 and of at most 1, got {top_p!r}")


@dataclass(frozen=True)
class Sampling:
    """How texts are continued; see :meth:`anytask.lm.base.LanguageModel.generate`."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    beam_width: int = 1
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        check_sampling(self.max_tokens, self.temperature, self.top_p, beam_width=self.beam_width)
        if not isinstance(self.length_penalty, Real) or not math.isfinite(self.length_penalty):
            raise ValueError(f"length_penalty must be a finite number, got {self.length_penalty!r}")
        if self.beam_width > 1 and self.temperature > 0:
            raise ValueError(
                f"beam search is greedy, and temperature={self.temperature} was given with {self.beam_width} beams"
            )
        if not all(self.stop):
            raise ValueError("a stop string is empty")


@dataclass(frozen=True)
class Capabilities:
    """What a model offers."""

    chat: bool = True
    logprobs: bool = False  # log-probability of given continuations: score
    completions: bool = False  # text that goes on from a prompt: generate
    tools: bool = False
    json_schema: bool = False
    seed: bool = False
    images: bool = False
    local_weights: bool = False  # hidden states, gradients
    n: bool = False  # several samples in one request


@dataclass(frozen=True)
class ChatRequest:
    """One request, serializable to JSON. Sampling parameters are always sent explicitly; temperature 0 is greedy.

    ``messages`` are OpenAI-style dicts (role, content, tool_calls, tool_call_id). ``tag`` names the calling component
    for the accounts ("planner", "distil"); it is never rendered into the prompt.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: str = "auto"
    response_format: Literal["json"] | dict[str, Any] | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    n: int = 1
    seed: int | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    tag: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("messages", "tools"):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or not all(isinstance(item, dict) for item in value):
                raise TypeError(f"{name} must be a tuple of mappings, got {shown(value)}")
        if not self.messages:
            raise ValueError("a request has no messages")
        check_texts(self.stop, "stop")
        instance_of("seed", int)(self.seed)
        for name, kind in (("tag", str), ("metadata", dict), ("tool_choice", str), ("logprobs", bool)):
            instance_of(name, kind, optional=False)(getattr(self, name))
        instance_of("response_format", str, dict, wanted="None, 'json' or a schema")(self.response_format)
        if isinstance(self.response_format, str) and self.response_format != "json":
            raise ValueError(f"response_format must be None, 'json' or a schema, got {self.response_format!r}")
        instance_of("top_logprobs", int, optional=False)(self.top_logprobs)
        if self.top_logprobs < 0:
            raise ValueError(f"top_logprobs must be at least 0, got {self.top_logprobs}")
        check_sampling(self.max_tokens, self.temperature, self.top_p, n=self.n)

    def identity(self, place: int) -> Any:
        """Return what equal requests have in common that need one answer; samples without a seed are all different."""
        if self.temperature > 0 and self.seed is None:
            return place
        return repr(replace(self, metadata={}))


@dataclass(frozen=True)
class Usage:
    """Tokens of one call; ``estimated`` when the server did not say."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    def __post_init__(self) -> None:
        for name in ("prompt_tokens", "completion_tokens"):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= int(value) <= 2**53:
                raise BadNumber(f"{name} is {shown(value)}, and a count of tokens is an integer of at least 0")

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
        )

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Choice:
    """One sampled answer."""

    message: dict[str, Any]
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "error"] = "stop"
    logprobs: Any = None

    def __post_init__(self) -> None:
        listed = self.logprobs.get("content") if isinstance(self.logprobs, dict) else None
        tokens = [one for token in listed or () for one in (token, *(token.get("top_logprobs") or ()))]
        check_logprobs((token.get("logprob") for token in tokens), "the log-probability of a token")

    @property
    def text(self) -> str:
        return self.message.get("content") or ""


@dataclass(frozen=True)
class ChatReply:
    """The answer to a :class:`ChatRequest`."""

    choices: tuple[Choice, ...]
    usage: Usage = Usage()
    model: str = ""
    kind: Kind = "http"
    latency_s: float = 0.0
    cached: bool = False
    attempts: int = 1
    raw: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        instance_of("usage", Usage, optional=False)(self.usage)
        instance_of("raw", dict)(self.raw)
        if not isinstance(self.latency_s, Real) or not 0 <= self.latency_s < math.inf:
            raise BadNumber(f"latency_s is {shown(self.latency_s)}, and a time is a number of at least 0")

    @property
    def text(self) -> str:
        return self.choices[0].text


@dataclass(frozen=True)
class OptionScore:
    """Log-probability (natural) of one continuation given its prompt, and its length.

    Raises
    ------
    BadNumber
        For a log-probability that is NaN or positive: whichever model gave it, it never becomes an answer.
    """

    logprob: float
    n_tokens: int
    n_bytes: int
    token_logprobs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        instance_of("token_logprobs", tuple, optional=False)(self.token_logprobs)
        instance_of("n_tokens", Integral, optional=False, wanted="an integer")(self.n_tokens)
        check_logprobs((self.logprob, *self.token_logprobs), "the log-probability of an option")
        if self.n_tokens < 1:
            raise ValueError("an empty completion has no score: it has 0 tokens")

    @property
    def mean(self) -> float:
        """Per-token mean."""
        return self.logprob / self.n_tokens


@runtime_checkable
class ChatModel(Protocol):
    """Anything that answers chat requests."""

    name: str
    kind: Kind

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request, or raise :class:`LMError`; never an empty reply for a failure."""
        ...

    def chat_many(
        self, requests: Sequence[ChatRequest], max_concurrency: int = 8, progress: Progress | None = None
    ) -> list[ChatReply]:
        """Answer many requests; the replies come in the requests' order. ``progress`` is told the finished share."""
        ...


@runtime_checkable
class ScoringModel(Protocol):
    """A model that scores texts. ``usage`` counts its calls and tokens by tag.

    Methods that need more ask for ``generate``, ``count_tokens``, ``encode`` and ``decode``, as
    :class:`anytask.lm.base.LanguageModel` has them, from which a model of your own may derive.
    """

    name: str
    kind: Kind
    context_length: int
    usage: Any

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    def score(
        self,
        prompts: Sequence[str],
        options: Sequence[Sequence[str]],
        *,
        tag: str = "score",
        progress: Progress | None = None,
    ) -> list[list[OptionScore]]:
        """Score each prompt's continuations; the prompt's tokens are computed once for all of its options.

        ``options[i]`` are continuations of ``prompts[i]``, tokenized jointly with it. A prompt with all of its options
        is one call in the accounts, and equal prompts are asked for once. ``progress`` is told the finished share.
        """
        ...


def check_lm(lm: Any) -> None:
    """Raise a ``TypeError`` unless ``lm`` scores, generates or chats."""
    if not any(hasattr(lm, name) for name in ("capabilities", "score", "generate", "chat")):
        raise TypeError(f"lm must be a language model, such as anytask.lm.load(...) returns, got {lm!r}")


def require(model: Any, *needed: str, method: str) -> None:
    """Raise :class:`MissingCapability` if ``model`` lacks one of the ``needed`` capabilities of :class:`Capabilities`.

    Examples
    --------
    >>> class Endpoint:
    ...     name, capabilities = "gpt", Capabilities()
    >>> require(Endpoint(), "logprobs", method="VoteK")
    Traceback (most recent call last):
        ...
    anytask.lm.protocol.MissingCapability: VoteK needs a model with logprobs, and 'gpt' does not offer that; ...
    """
    offers = getattr(model, "capabilities", None)
    if not isinstance(offers, Capabilities):
        raise TypeError(f"{method} needs a language model, with Capabilities, and {type(model).__name__} is none")
    missing = [name for name in needed if not getattr(offers, name)]
    if missing:
        raise MissingCapability(
            f"{method} needs a model with {' and '.join(missing)}, and {model.name!r} does not offer that; "
            "use local weights (a Hugging Face name or folder), or an endpoint that is set up with it: "
            f"Endpoint({', '.join(_SETTING.get(name, name + '=True') for name in missing)})"
        )


_SETTING = {"logprobs": "logprobs='echo'"}
