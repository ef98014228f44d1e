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

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = [
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


class LMError(RuntimeError):
    """A language model could not answer."""


class MissingCapability(LMError):
    """A method needs something that this model does not offer; raised at construction, naming it."""


class BudgetExceeded(LMError):
    """The next call would exceed the budget; what was finished before it is kept in ``partial``."""

    def __init__(self, message: str, partial: Any = None) -> None:
        super().__init__(message)
        self.partial = partial


class ReplyError(LMError):
    """The model answered, but not in the form asked for; ``raw`` is its text."""

    def __init__(self, message: str, raw: str = "") -> None:
        super().__init__(message)
        self.raw = raw


@dataclass(frozen=True)
class Capabilities:
    """What a model offers."""

    chat: bool = True
    logprobs: bool = False  # log-probability of given continuations: ScoringModel.score
    tools: bool = False
    json_schema: bool = False
    seed: bool = False
    images: bool = False
    local_weights: bool = False  # hidden states, gradients
    n: bool = False  # several samples in one request


@dataclass(frozen=True)
class ChatRequest:
    """One request, serialisable to JSON. Sampling parameters are always sent explicitly; temperature 0 is greedy.

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


@dataclass(frozen=True)
class Usage:
    """Tokens of one call; ``estimated`` when the server did not say."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Choice:
    """One sampled answer."""

    message: dict[str, Any]
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "error"] = "stop"
    logprobs: Any = None

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

    @property
    def text(self) -> str:
        return self.choices[0].text


@dataclass(frozen=True)
class OptionScore:
    """Log-probability (natural) of one continuation given its prompt, and its length."""

    logprob: float
    n_tokens: int
    n_bytes: int
    token_logprobs: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Per-token mean."""
        return self.logprob / self.n_tokens


@runtime_checkable
class ChatModel(Protocol):
    """Anything that answers chat requests."""

    name: str
    kind: Kind
    capabilities: Capabilities

    def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request, or raise :class:`LMError`; never an empty reply for a failure."""
        ...

    def chat_many(self, requests: Sequence[ChatRequest], max_concurrency: int = 8) -> list[ChatReply]:
        """Answer many requests; the replies come in the requests' order."""
        ...


@runtime_checkable
class ScoringModel(Protocol):
    """A model with a tokenizer that scores and continues text. ``usage`` counts its calls and tokens by tag."""

    name: str
    kind: Kind
    capabilities: Capabilities
    context_length: int
    usage: Any

    def score(
        self, prompts: Sequence[str], options: Sequence[Sequence[str]], *, tag: str = "score"
    ) -> list[list[OptionScore]]:
        """Score each prompt's continuations; the prompt's tokens are computed once for all of its options.

        ``options[i]`` are continuations of ``prompts[i]``, tokenised jointly with it. One (prompt, options) pair is
        one call in the accounts.
        """
        ...

    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_tokens: int = 32,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        beam_width: int = 1,
        length_penalty: float = 0.0,
        tag: str = "generate",
    ) -> list[str]:
        """Continue each prompt; the text stops before the first stop string. ``length_penalty`` is the exponent alpha
        of ((5 + n) / 6)^alpha that divides a beam's log-probability.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Number of tokens of ``text`` (no special tokens)."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` (no special tokens)."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        ...


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
    missing = [name for name in needed if not getattr(model.capabilities, name)]
    if missing:
        raise MissingCapability(
            f"{method} needs a model with {' and '.join(missing)}, and {model.name!r} does not offer that; "
            "use local weights (a Hugging Face name or folder) or an endpoint that returns log-probabilities"
        )
