"""What local models, servers and simulators do alike: check questions, ask equal ones once, count and estimate them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from anytask.core.checks import check_counts
from anytask.core.errors import check_each, shown
from anytask.core.progress import Progress, heard
from anytask.lm.accounts import Tally
from anytask.lm.protocol import (
    Capabilities,
    ChatReply,
    ChatRequest,
    Kind,
    LMError,
    MissingCapability,
    OptionScore,
    Sampling,
    Usage,
    check_options,
    check_text,
    check_texts,
    each_once,
    options_of,
    require,
)


class LanguageModel:
    """Base of the language models: questions in, each distinct one to :meth:`_score`, :meth:`_write` or :meth:`_chat`.

    Attributes
    ----------
    name : str
    kind : {"http", "local", "tiny", "sim"}
    codec
        Encodes and decodes text.
    usage : Accounts
    """

    name: str
    kind: Kind
    codec: Any
    usage: Any

    @property
    def capabilities(self) -> Capabilities:
        """What the model offers."""
        raise NotImplementedError

    # ---- text and tokens

    @property
    def _own_codec(self) -> Any:
        if not hasattr(self, "codec"):
            raise MissingCapability(f"{self.name} has no tokenizer: it counts tokens, and makes none")
        return self.codec

    def count_tokens(self, text: str) -> int:
        """Number of tokens of ``text``, without special tokens."""
        return len(self.encode(text))

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, without special tokens."""
        return list(self._own_codec.encode(check_text(text, "text")))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        ids = check_each(ids.tolist() if hasattr(ids, "tolist") else ids, Integral, "ids")
        if wrong := [i for i in ids if not 0 <= i < 2**31]:
            raise ValueError(f"ids must be numbers of tokens, got {shown(wrong[0])}")
        return str(self._own_codec.decode(ids))

    def estimate(self, prompts: Sequence[str], options: Sequence[Sequence[str]] = (), *, max_tokens: int = 32) -> Tally:
        """Return what scoring the prompts' options, or continuing the prompts, will use at most, and how long it takes.

        A local model is timed on short batches, once; of an endpoint, the requests so far say how long one takes, and
        before the first the seconds are 0.
        """
        check_counts(max_tokens=max_tokens)
        prompts = check_texts(prompts, "prompts")
        options = () if isinstance(options, (tuple, list)) and not options else check_options(prompts, options)
        asked = options_of(prompts, options or [[""]] * len(prompts))
        read = sum(map(self.count_tokens, asked))
        scored = sum(self.count_tokens(option) for row in asked.values() for option in row)
        tokens = Usage(read, scored if options else max_tokens * len(asked))
        known = Tally(calls=len(asked), prompt_tokens=read, completion_tokens=tokens.completion_tokens)
        return known + self._expense(asked, tokens, continued=not options)

    def _expense(self, asked: Mapping[str, Sequence[str]], tokens: Usage, *, continued: bool) -> Tally:
        """Return the rest of an estimate: computed tokens, seconds, money."""
        return Tally()

    # ---- questions

    def score(
        self,
        prompts: Sequence[str],
        options: Sequence[Sequence[str]],
        *,
        tag: str = "score",
        progress: Progress | None = None,
    ) -> list[list[OptionScore]]:
        """Log-probability of every option given its prompt.

        Parameters
        ----------
        prompts : sequence of str
        options : sequence of sequence of str
            ``options[i]`` are continuations of ``prompts[i]``; a leading space belongs to the option.
        tag : str, default "score"
            For the accounts; a prompt with all of its options is one call, equal prompts are one.
        progress : callable, optional
            Told the finished share.

        Returns
        -------
        list of list of OptionScore
        """
        require(self, "logprobs", method="score")
        prompts, options = check_texts(prompts, "prompts"), check_options(prompts, options)
        asked = options_of(prompts, options)

        def rows(answers: Sequence[dict[str, OptionScore] | None]) -> list[Any]:
            found = dict(zip(asked, answers))
            of = [found.get(prompt) for prompt in prompts]
            return [scores and [scores[option] for option in row] for scores, row in zip(of, options)]

        try:
            return rows(self._score(asked, tag, heard(progress)))
        except LMError as error:
            error.finished = rows(error.finished)
            raise

    def _score(self, asked: dict[str, list[str]], tag: str, tell: Progress) -> Sequence[dict[str, OptionScore]]:
        """Score the distinct options of distinct prompts."""
        raise NotImplementedError

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
        progress: Progress | None = None,
    ) -> list[str]:
        """Continue each prompt until an end token, a stop string, ``max_tokens``, or the end of the context.

        Parameters
        ----------
        prompts : sequence of str
        max_tokens : int, default 32
        stop : sequence of str
            The text ends before the first of them.
        temperature : float >= 0, default 0.0
            0 is greedy.
        top_p : float in (0, 1], default 1.0
            Sample among the likeliest tokens with this much probability.
        seed : int, default 0
            A local model makes each prompt's random numbers from ``seed``, its text, and which occurrence of that text
            it is, so that samples do not depend on the rest of the batch; a server gets ``seed`` for the first
            occurrence, ``seed + 1`` for the second, ...
        beam_width : int, default 1
            More than 1 searches with a beam; temperature must be 0. Local weights only.
        length_penalty : float, default 0.0
            Exponent alpha of ((5 + n) / 6)^alpha, which divides a beam's log-probability.
        tag : str, default "generate"
            At temperature 0 equal prompts are one call.
        progress : callable, optional
            Told the finished share.
        """
        require(self, "completions", method="generate")
        how = Sampling(max_tokens, tuple(check_texts(stop, "stop")), temperature, top_p, beam_width, length_penalty)
        seen: Counter[str] = Counter()
        asked = []
        for prompt in check_texts(prompts, "prompts"):
            asked.append((prompt, seen[prompt]))
            seen[prompt] += temperature > 0
        return each_once(asked, lambda distinct: self._write(distinct, seed, how, tag, heard(progress)))

    def _write(self, asked: list[tuple[str, int]], seed: int, how: Sampling, tag: str, tell: Progress) -> Sequence[str]:
        """Continue distinct prompts, each with the number of its occurrence."""
        raise NotImplementedError

    def chat_many(
        self, requests: Sequence[ChatRequest], max_concurrency: int = 8, progress: Progress | None = None
    ) -> list[ChatReply]:
        """Answer many requests, in their order; equal ones that have one answer are asked once.

        Parameters
        ----------
        requests : sequence of ChatRequest
        max_concurrency : int, default 8
            Most requests side by side, of an endpoint.
        progress : callable, optional
            Told the finished share (of a local model: of each group of requests that are sampled alike).

        Raises
        ------
        LMError
            At the first failure, which stops requests that have not started; ``finished`` is a list like the result,
            with None where there is no reply.
        """
        requests = check_each(requests, ChatRequest, "requests")
        keys = [request.identity(place) for place, request in enumerate(requests)]
        return each_once(list(requests), lambda distinct: self._chat(distinct, max_concurrency, heard(progress)), keys)

    def _chat(self, requests: list[ChatRequest], most: int, tell: Progress) -> Sequence[ChatReply]:
        """Answer distinct requests."""
        raise NotImplementedError
