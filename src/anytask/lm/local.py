"""A language model with local weights: scoring, generation, hidden states and chat."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from anytask.core.rng import derive
from anytask.lm.accounts import Accounts
from anytask.lm.codec import Codec, Joint, common_prefix
from anytask.lm.generation import Endings, Generated, beam_search, continue_batch
from anytask.lm.protocol import (
    Capabilities,
    ChatReply,
    ChatRequest,
    Choice,
    Kind,
    MissingCapability,
    OptionScore,
    ReplyError,
    Usage,
)
from anytask.lm.runner import Runner, State, decoder_start
from anytask.models.loading import quiet_loading

if TYPE_CHECKING:
    from anytask.lm.cache import ScoreCache

__all__ = ["LocalLM"]

Objective = Literal["causal", "seq2seq", "masked"]


@dataclass(frozen=True)
class TokenLogprobs:
    """Every token of a text with its log-probability given the tokens before it.

    Attributes
    ----------
    ids : tuple of int
    spans : tuple of (int, int)
        Character span of each token in the text.
    logprobs : tuple of float
        The first token's is NaN when nothing comes before it (a tokenizer without a beginning token).
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    logprobs: tuple[float, ...]


class LocalLM:
    """Any Hugging Face language model as a scorer, a generator and a chat model.

    Scoring reads each prompt once for all of its options, and a beginning that several prompts share (the same
    demonstrations before many queries) once for all of them. Results do not depend on what else is in the batch.

    Parameters
    ----------
    model : str, path, or (model, tokenizer)
        A Hugging Face name or folder, or a built pair; causal, sequence-to-sequence or masked. A built model is used
        where it is and as it is, so later training is seen; its training mode is put back after every call.
    tokenizer : transformers tokenizer, str or path, optional
        Where it is not in the model's own folder.
    device : str or torch.device, default "auto"
        "auto" is CUDA if there is one, else CPU. A built model stays on its device.
    dtype : {"float32", "bfloat16"}, default "float32"
        "bfloat16" loads bfloat16 weights and runs under autocast; on CUDA only.
    batch_tokens : int, default 8192
        Tokens held in one forward pass, cached ones and padding included; sets memory and speed, not results.
    kind : {"local", "tiny"}, default "local"
        What results are labelled with.
    name : str, optional
        Default: the model's name or folder name.
    cache : path or ScoreCache, optional
        A file that keeps every score under a digest of weights, tokenizer, prompt and option, so that an interrupted
        run goes on where it stopped.
    accounts : Accounts, optional
        Counters to add to; default new ones.
    context_length : int, optional
        Default: the model's number of positions, or the tokenizer's limit.

    Attributes
    ----------
    usage : Accounts
        Calls, tokens and seconds by tag. ``forward_tokens`` are the tokens really computed.
    objective : {"causal", "seq2seq", "masked"}
    model, tokenizer
        The Hugging Face objects, for training, adapters and gradients.

    Raises
    ------
    ValueError
        If a prompt does not fit into the context (nothing is cut silently; :meth:`fit` cuts on request), or an
        option is empty.

    Notes
    -----
    *Tokens of an option.* Prompt and option are tokenised together. Where a token spans their border, scoring starts
    behind the last token that the prompt alone and the joint text have in common; ``n_bytes`` counts the text that
    was really scored. *Sequence-to-sequence models* encode the prompt once, with the tokenizer's own special tokens,
    and the decoder scores the options, without an end token. *Masked models* score in two ways. A prompt that holds
    the mask token once asks for a verbalizer: the option takes the mask's place, all of its tokens are masked at
    once, and their log-probabilities are added. Otherwise an option follows its prompt and gets its
    pseudo-log-likelihood (Salazar et al. 2020, arXiv:1910.14659): each of its tokens is masked in turn.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> words = Tokenizer(models.WordLevel({"<s>": 0, "red": 1, "green": 2}, unk_token="<s>"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    >>> lm = LocalLM((GPT2LMHeadModel(GPT2Config(vocab_size=3, n_embd=8, n_layer=1, n_head=2)), tokenizer))
    >>> [scores] = lm.score(["red green"], [[" red", " green red"]])
    >>> [score.n_tokens for score in scores], lm.usage["score"].calls
    ([1, 2], 1)
    """

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any = None,
        device: str | torch.device = "auto",
        dtype: Literal["float32", "bfloat16"] = "float32",
        batch_tokens: int = 8192,
        kind: Kind = "local",
        name: str | None = None,
        cache: str | os.PathLike[str] | ScoreCache | None = None,
        accounts: Accounts | None = None,
        context_length: int | None = None,
    ) -> None:
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is 'float32' or 'bfloat16', and {dtype!r} was given")
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens is >= 1, and {batch_tokens} was given")
        if isinstance(model, (str, os.PathLike)):
            place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
            if dtype == "bfloat16" and place.type != "cuda":
                raise ValueError(f"dtype 'bfloat16' is for CUDA, and the device is {place}")
            self.model, self.tokenizer = _load(str(model), tokenizer, place, dtype)
            default_name = Path(str(model)).name
        else:
            self.model, self.tokenizer = _pair(model, tokenizer)
            default_name = type(self.model).__name__
        self.objective: Objective = _objective(self.model)
        self.name, self.kind = name or default_name, kind
        self.batch_tokens = batch_tokens
        self.usage = accounts if accounts is not None else Accounts()
        self.codec = Codec(self.tokenizer)
        device_type = next(self.model.parameters()).device.type
        if dtype == "bfloat16" and device_type != "cuda":
            raise ValueError(f"dtype 'bfloat16' is for CUDA, and the model is on {device_type}")
        self._runner = Runner(self.model, seq2seq=self.objective == "seq2seq", autocast=dtype == "bfloat16")
        self.context_length = context_length or _context_length(self.model, self.tokenizer)
        self._cache = _open_cache(cache)
        self._end_ids = _end_ids(self.model, self.tokenizer)
        writes = self.objective != "masked"
        chats = writes and getattr(self.tokenizer, "chat_template", None) is not None
        self.capabilities = Capabilities(
            chat=chats, logprobs=True, seed=writes, local_weights=True, n=chats, json_schema=False
        )

    def __repr__(self) -> str:
        return f"LocalLM({self.name!r}, kind={self.kind!r}, objective={self.objective!r})"

    # ---- text and tokens

    def count_tokens(self, text: str) -> int:
        """Number of tokens of ``text``, without special tokens."""
        return len(self.codec.encode(text))

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, without special tokens."""
        return self.codec.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        return self.codec.decode(ids)

    def fit(self, text: str, max_tokens: int, *, keep: Literal["start", "end"] = "end") -> str:
        """Cut ``text`` to at most ``max_tokens`` tokens, at a token's border.

        Parameters
        ----------
        text : str
        max_tokens : int
        keep : {"start", "end"}, default "end"
            Which part stays. Prompts are usually cut at the start, because the question is at their end.
        """
        return self.codec.fit(text, max_tokens, keep)

    # ---- scoring

    def score(
        self, prompts: Sequence[str], options: Sequence[Sequence[str]], *, tag: str = "score"
    ) -> list[list[OptionScore]]:
        """Log-probability of every option given its prompt.

        Parameters
        ----------
        prompts : sequence of str
        options : sequence of sequence of str
            ``options[i]`` are continuations of ``prompts[i]``; a leading space belongs to the option.
        tag : str, default "score"
            For the accounts; one (prompt, options) pair is one call.

        Returns
        -------
        list of list of OptionScore
        """
        prompts, options = _strings(prompts, "prompts"), [list(row) for row in options]
        if len(prompts) != len(options):
            raise ValueError(f"{len(prompts)} prompts and {len(options)} lists of options were given")
        for i, row in enumerate(options):
            if not row:
                raise ValueError(f"prompt {i} has no options")
            if any(not option for option in row):
                raise ValueError(f"prompt {i} has an empty option: there is nothing to score")
        began = time.perf_counter()
        found: dict[tuple[str, str], OptionScore] = {}
        wanted = dict.fromkeys((p, o) for p, row in zip(prompts, options) for o in row)
        stamp = self.fingerprint() if self._cache is not None else ""
        if self._cache is not None:
            found = self._cache.get_many(stamp, list(wanted))
        todo: dict[str, list[str]] = {}
        for prompt, option in wanted:
            if (prompt, option) not in found:
                todo.setdefault(prompt, []).append(option)
        score = {"causal": self._score_causal, "seq2seq": self._score_seq2seq, "masked": self._score_masked}
        forward = 0
        if todo:
            with self._runner.inference():
                new, forward = score[self.objective](list(todo), list(todo.values()))
            if self._cache is not None:
                self._cache.put_many(stamp, new)
            found |= new
        results = [[found[prompt, option] for option in row] for prompt, row in zip(prompts, options)]
        hits = sum(prompt not in todo for prompt in prompts)
        read = [self.count_tokens(prompt) for prompt in prompts if prompt in todo]
        self.usage.record(
            tag,
            calls=len(read),
            prompt_tokens=sum(read),
            completion_tokens=sum(s.n_tokens for p, row in zip(prompts, results) if p in todo for s in row),
            forward_tokens=forward,
            seconds=time.perf_counter() - began,
            cache_hits=hits,
        )
        return results

    def _score_causal(self, prompts: list[str], options: list[list[str]]) -> tuple[dict, int]:
        # One item is a prompt with options that go on from the same tokens.
        items: list[tuple[str, list[str], list[Joint]]] = []
        for prompt, row in zip(prompts, options):
            ids = self.codec.encode(prompt)
            joined = [(option, self.codec.joint(prompt, ids, option)) for option in row]
            bare = [(option, self._with_context(joint)) for option, joint in joined if joint.start == 0]
            after = [(option, joint) for option, joint in joined if joint.start > 0]
            for part in (bare, after):
                if part:
                    items.append((prompt, [option for option, _ in part], [joint for _, joint in part]))
                    self._check_length(max(len(joint.ids) for _, joint in part), prompt, "prompt and option")
        joints = [row for _, _, row in items]
        # Up to here a prompt's tokens are the same whatever the option.
        heads = [row[0].ids[: min(joint.start for joint in row)] for row in joints]
        scores: dict[tuple[str, str], OptionScore] = {}
        forward = 0
        for group, prefix_length in self._groups(heads):
            prefix = None
            if prefix_length:
                prefix = self._runner.start([heads[group[0]][:prefix_length]])
                forward += prefix_length
            for batch in self._batches(group, [len(heads[i]) for i in group]):
                state = self._runner.start([heads[i][prefix_length:] for i in batch], prefix)
                forward += sum(len(heads[i]) - prefix_length for i in batch)
                rows = [(place, joint.ids[len(heads[i]) :]) for place, i in enumerate(batch) for joint in joints[i]]
                logprobs, more = self._score_tails(state, rows)
                forward += more
                flat = iter(logprobs)
                for i in batch:
                    for option, joint in zip(items[i][1], joints[i]):
                        tokens = next(flat)[joint.start - len(heads[i]) :]
                        scores[items[i][0], option] = _option_score(tokens, joint.n_bytes)
        return scores, forward

    def _score_tails(self, state: State, rows: Sequence[tuple[int, Sequence[int]]]) -> tuple[list[list[float]], int]:
        """Log-probabilities of each row's tokens, which follow the sequence of ``state`` that the row names."""
        device = state.logits.device
        places = torch.tensor([place for place, _ in rows], device=device)
        first = torch.tensor([tokens[0] for _, tokens in rows], device=device)
        results = [[value] for value in _logprob(state.logits[places], first).tolist()]
        longer = sorted((r for r, (_, tokens) in enumerate(rows) if len(tokens) > 1), key=lambda r: len(rows[r][1]))
        forward = 0
        while longer:
            take = longer[: max(1, self.batch_tokens // (state.mask.shape[1] + len(rows[longer[-1]][1])))]
            longer = longer[len(take) :]
            tokens = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(rows[r][1]) for r in take], batch_first=True)
            tokens = tokens.to(device)
            lengths = torch.tensor([len(rows[r][1]) - 1 for r in take], device=device)
            _, logits = self._runner.extend(state.select(places[take]), tokens[:, :-1], lengths)
            values = _logprob(logits, tokens[:, 1:]).tolist()
            forward += int(lengths.sum())
            for r, row, length in zip(take, values, lengths.tolist()):
                results[r] += row[:length]
        return results, forward

    def _score_seq2seq(self, prompts: list[str], options: list[list[str]]) -> tuple[dict, int]:
        sources = [self.codec.encode(prompt, special=True) for prompt in prompts]
        for prompt, source in zip(prompts, sources):
            self._check_length(len(source), prompt, "prompt")
            if not source:
                raise ValueError("a prompt is empty, and the tokenizer adds nothing that an encoder could read")
        scores: dict[tuple[str, str], OptionScore] = {}
        forward = 0
        order = sorted(range(len(prompts)), key=lambda i: len(sources[i]))
        for batch in self._batches(order, [len(sources[i]) for i in order]):
            state = self._runner.start([sources[i] for i in batch])
            rows = [(place, self._option_ids(option)) for place, i in enumerate(batch) for option in options[i]]
            logprobs, more = self._score_tails(state, rows)
            forward += more + sum(len(sources[i]) + 1 for i in batch)
            flat = iter(logprobs)
            for i in batch:
                for option in options[i]:
                    scores[prompts[i], option] = _option_score(next(flat), len(option.encode()))
        return scores, forward

    def _option_ids(self, option: str) -> list[int]:
        ids = self.codec.encode(option)
        if not ids:
            raise ValueError(f"the option {option!r} has no tokens")
        return ids

    def _score_masked(self, prompts: list[str], options: list[list[str]]) -> tuple[dict, int]:
        mask_token, mask_id = self.tokenizer.mask_token, self.tokenizer.mask_token_id
        if mask_id is None:
            raise ValueError(f"{self.name!r} is a masked model whose tokenizer has no mask token")
        inputs: dict[tuple[int, ...], int] = {}  # distinct masked sequences
        plans: list[tuple[str, str, list[tuple[int, int, int]], int]] = []
        for prompt, row in zip(prompts, options):
            verbalizer = mask_token in prompt
            if verbalizer and prompt.count(mask_token) > 1:
                raise ValueError(f"a prompt holds {mask_token} {prompt.count(mask_token)} times, and once is wanted")
            for option in row:
                at = prompt.index(mask_token) if verbalizer else len(prompt)
                text = prompt[:at] + option + (prompt[at + len(mask_token) :] if verbalizer else "")
                ids, spans = self.codec.encode_with_spans(text, special=True)
                self._check_length(len(ids), prompt, "prompt and option")
                inside = [t for t, (a, b) in enumerate(spans) if a < at + len(option) and b > at]
                if not inside:
                    raise ValueError(f"the option {option!r} has no tokens")
                n_bytes = len(text[min(spans[inside[0]][0], at) : at + len(option)].encode())
                plan = []
                for hidden in [inside] if verbalizer else [[t] for t in inside]:
                    masked = tuple(mask_id if t in hidden else token for t, token in enumerate(ids))
                    place = inputs.setdefault(masked, len(inputs))
                    plan += [(place, t, ids[t]) for t in hidden]
                plans.append((prompt, option, plan, n_bytes))
        asked: dict[int, list[tuple[int, int]]] = {}
        for _, _, plan, _ in plans:
            for place, t, token in plan:
                asked.setdefault(place, []).append((t, token))
        sequences = list(inputs)
        values: dict[tuple[int, int, int], float] = {}
        order = sorted(range(len(sequences)), key=lambda r: len(sequences[r]))
        for batch in self._batches(order, [len(sequences[r]) for r in order]):
            logits = self._masked_logits([sequences[r] for r in batch])
            for n, r in enumerate(batch):
                for t, token in asked[r]:
                    values[r, t, token] = float(_logprob(logits[n, t], torch.tensor(token, device=logits.device)))
        scores = {
            (prompt, option): _option_score([values[key] for key in plan], n_bytes)
            for prompt, option, plan, n_bytes in plans
        }
        return scores, sum(map(len, sequences))

    def _masked_logits(self, sequences: Sequence[Sequence[int]], **options: Any) -> Any:
        pad = self.tokenizer.pad_token_id or 0
        tensors = [torch.as_tensor(sequence) for sequence in sequences]
        ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(t) for t in tensors], batch_first=True)
        out = self.model(input_ids=ids.to(self._runner.device), attention_mask=mask.to(self._runner.device), **options)
        return out if options else out.logits.float()

    def token_logprobs(self, texts: Sequence[str], *, tag: str = "token_logprobs") -> list[TokenLogprobs]:
        """Log-probability of every token of every text given the tokens before it (causal models).

        What prompt compressors call self-information is the negative of these.
        """
        self._needs("causal", "token_logprobs")
        texts = _strings(texts, "texts")
        began = time.perf_counter()
        encoded = [self.codec.encode_with_spans(text) for text in texts]
        head = self.codec.head
        for text, (ids, _) in zip(texts, encoded):
            self._check_length(len(head) + len(ids), text, "text")
            if not ids:
                raise ValueError("a text is empty: there is nothing to score")
        results: list[TokenLogprobs | None] = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i][0]))
        with self._runner.inference():
            for batch in self._batches(order, [len(head) + len(encoded[i][0]) for i in order]):
                tokens = torch.nn.utils.rnn.pad_sequence(
                    [torch.as_tensor([*head, *encoded[i][0]]) for i in batch], batch_first=True
                ).to(self._runner.device)
                lengths = torch.tensor([len(head) + len(encoded[i][0]) for i in batch])
                mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long().to(tokens.device)
                logits = self.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits.float()
                values = _logprob(logits[:, :-1], tokens[:, 1:]).tolist()
                for i, row in zip(batch, values):
                    ids, spans = encoded[i]
                    known = [float("nan"), *row][len(head) : len(head) + len(ids)]
                    results[i] = TokenLogprobs(tuple(ids), tuple(spans), tuple(known))
        n = sum(len(head) + len(ids) for ids, _ in encoded)
        self.usage.record(
            tag,
            calls=len(texts),
            prompt_tokens=n,
            forward_tokens=n,
            seconds=time.perf_counter() - began,
        )
        return [result for result in results if result is not None]

    # ---- generation

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
            Each prompt has its own random numbers, made from ``seed``, its text, and which occurrence of that text it
            is; so its samples do not depend on the rest of the batch.
        beam_width : int, default 1
            More than 1 searches with a beam; temperature must be 0.
        length_penalty : float, default 0.0
            Exponent alpha of ((5 + n) / 6)^alpha, which divides a beam's log-probability.
        tag : str, default "generate"
        """
        prompts = _strings(prompts, "prompts")
        return [
            out.text
            for out in self._generate(
                [self._prompt_ids(prompt) for prompt in prompts],
                _seeds(seed, prompts),
                max_tokens=max_tokens,
                stop=stop,
                temperature=temperature,
                top_p=top_p,
                beam_width=beam_width,
                length_penalty=length_penalty,
                tag=tag,
            )
        ]

    def _prompt_ids(self, prompt: str) -> tuple[int, ...]:
        if self.objective == "seq2seq":
            return tuple(self.codec.encode(prompt, special=True))
        return self._context((*self.codec.head, *self.codec.encode(prompt)))

    def _generate(
        self,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        *,
        max_tokens: int,
        stop: Sequence[str],
        temperature: float,
        top_p: float,
        tag: str,
        beam_width: int = 1,
        length_penalty: float = 0.0,
    ) -> list[Generated]:
        if self.objective == "masked":
            raise MissingCapability(f"{self.name!r} is a masked model and cannot continue text; use a causal one")
        if max_tokens < 1 or temperature < 0 or not 0 < top_p <= 1 or beam_width < 1:
            raise ValueError(
                f"max_tokens >= 1, temperature >= 0, 0 < top_p <= 1 and beam_width >= 1 are wanted, and {max_tokens}, "
                f"{temperature}, {top_p} and {beam_width} were given"
            )
        if beam_width > 1 and temperature > 0:
            raise ValueError(f"beam search is greedy, and temperature={temperature} was given with {beam_width} beams")
        if isinstance(stop, str):
            raise TypeError("stop is a sequence of strings, and one string was given")
        began = time.perf_counter()
        endings = Endings(self.codec, self._end_ids, stop, max_tokens)
        for ids in prompts:
            self._check_length(len(ids) + (self.objective == "causal"), self.codec.decode(ids), "prompt and one token")
        room = [self.context_length - (len(ids) if self.objective == "causal" else 1) for ids in prompts]
        # Continuations of a sequence-to-sequence model are texts of their own.
        before = list(prompts) if self.objective == "causal" else [()] * len(prompts)
        results: list[Generated | None] = [None] * len(prompts)
        forward = 0
        causal = self.objective == "causal"
        groups = self._groups(prompts) if causal else [(sorted(range(len(prompts)), key=lambda i: len(prompts[i])), 0)]
        with self._runner.inference():
            for group, prefix_length in groups:
                prefix = self._runner.start([prompts[group[0]][:prefix_length]]) if prefix_length else None
                forward += prefix_length
                for batch in self._batches(group, [beam_width * (len(prompts[i]) + max_tokens) for i in group]):
                    state = self._runner.start([prompts[i][prefix_length:] for i in batch], prefix)
                    forward += sum(len(prompts[i]) - prefix_length for i in batch)
                    if beam_width == 1:
                        out = continue_batch(
                            self._runner.extend,
                            state,
                            [before[i] for i in batch],
                            [room[i] for i in batch],
                            endings,
                            temperature=temperature,
                            top_p=top_p,
                            seeds=[seeds[i] for i in batch],
                        )
                    else:
                        out = [
                            beam_search(
                                self._runner.extend,
                                state.select(torch.tensor([row], device=state.logits.device)),
                                before[i],
                                room[i],
                                endings,
                                beam_width=beam_width,
                                length_penalty=length_penalty,
                            )
                            for row, i in enumerate(batch)
                        ]
                    for i, one in zip(batch, out):
                        results[i] = one
                        forward += beam_width * len(one.ids)
        done = [result for result in results if result is not None]
        self.usage.record(
            tag,
            calls=len(prompts),
            prompt_tokens=sum(map(len, prompts)),
            completion_tokens=sum(len(out.ids) for out in done),
            forward_tokens=forward,
            seconds=time.perf_counter() - began,
        )
        return done

    # ---- chat

    def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request through the tokenizer's chat template."""
        return self.chat_many([request])[0]

    def chat_many(self, requests: Sequence[ChatRequest], max_concurrency: int = 8) -> list[ChatReply]:
        """Answer many requests in batches (``max_concurrency`` is for endpoints and has no effect here)."""
        from anytask.lm.structured import parse_reply

        if not self.capabilities.chat:
            raise MissingCapability(
                f"{self.name!r} has no chat template, so it cannot chat; use generate(), or set tokenizer.chat_template"
            )
        by_settings: dict[tuple[Any, ...], list[int]] = {}
        for i, request in enumerate(requests):
            if request.tools or request.logprobs:
                raise MissingCapability(f"{self.name!r} offers no {'tools' if request.tools else 'logprobs'} in chats")
            if request.n < 1:
                raise ValueError(f"n is >= 1, and {request.n} was given")
            key = (request.max_tokens, request.stop, request.temperature, request.top_p, request.tag)
            by_settings.setdefault(key, []).append(i)
        replies: dict[int, ChatReply] = {}
        for (max_tokens, stop, temperature, top_p, tag), members in by_settings.items():
            began = time.perf_counter()
            texts = [self._render(requests[i].messages) for i in members for _ in range(requests[i].n)]
            seeds = []
            for i in members:
                text = self._render(requests[i].messages)
                seeds += [derive(requests[i].seed or 0, text, sample) for sample in range(requests[i].n)]
            ids = [tuple(self.codec.encode(text)) for text in texts]
            out = iter(
                self._generate(
                    ids,
                    seeds,
                    max_tokens=max_tokens,
                    stop=stop,
                    temperature=temperature,
                    top_p=top_p,
                    tag=tag or "chat",
                )
            )
            seconds = time.perf_counter() - began
            lengths = iter(map(len, ids))
            for i in members:
                done = [next(out) for _ in range(requests[i].n)]
                n_prompt = max(next(lengths) for _ in done)  # the samples share one prompt
                choices = tuple(
                    Choice(
                        {"role": "assistant", "content": one.text},
                        "stop" if one.finish_reason == "stop" else "length",
                    )
                    for one in done
                )
                for choice in choices:
                    if requests[i].response_format is not None:
                        try:
                            parse_reply(choice.text, requests[i].response_format)
                        except ValueError as error:
                            raise ReplyError(str(error), choice.text) from error
                replies[i] = ChatReply(
                    choices,
                    Usage(n_prompt, sum(len(one.ids) for one in done)),
                    self.name,
                    self.kind,
                    seconds,
                )
        return [replies[i] for i in range(len(requests))]

    def _render(self, messages: Sequence[dict[str, Any]]) -> str:
        text = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        return str(text)

    # ---- tensors

    def logits(self, prompts: Sequence[str], *, tag: str = "logits") -> Tensor:
        """Logits of the next token after each prompt.

        Returns
        -------
        Tensor (n, vocabulary), float32
            On the model's device. Of a sequence-to-sequence model: of the first token that the decoder writes.
        """
        if self.objective == "masked":
            raise MissingCapability(f"{self.name!r} is a masked model and has no next token; use a causal one")
        prompts = _strings(prompts, "prompts")
        began = time.perf_counter()
        ids = [self._prompt_ids(prompt) for prompt in prompts]
        for one, prompt in zip(ids, prompts):
            self._check_length(len(one), prompt, "prompt")
        rows: list[Tensor | None] = [None] * len(ids)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        with self._runner.inference():
            for batch in self._batches(order, [len(ids[i]) for i in order]):
                for i, row in zip(batch, self._runner.start([ids[i] for i in batch]).logits):
                    rows[i] = row
        n = sum(map(len, ids))
        self.usage.record(tag, calls=len(ids), prompt_tokens=n, forward_tokens=n, seconds=time.perf_counter() - began)
        return torch.stack([row for row in rows if row is not None])

    def hidden_states(
        self, text: str, spans: Sequence[tuple[int, int]], *, layer: int = -1, tag: str = "hidden_states"
    ) -> Tensor:
        """Mean hidden state over the tokens of each character span of ``text``.

        Parameters
        ----------
        text : str
        spans : sequence of (int, int)
            Half-open character ranges. A token belongs to a span if they share a character.
        layer : int, default -1
            Index into the model's hidden states: 0 are the embeddings, -1 is the last layer (the encoder's last layer
            in a sequence-to-sequence model).
        tag : str, default "hidden_states"

        Returns
        -------
        Tensor (n_spans, d), float32
            On the model's device, without gradients.
        """
        began = time.perf_counter()
        ids, places = self.codec.encode_with_spans(text, special=True)
        self._check_length(len(ids), text, "text")
        for a, b in spans:
            if not 0 <= a < b <= len(text):
                raise ValueError(f"span ({a}, {b}) is not inside the text of {len(text)} characters")
        module = self.model.get_encoder() if self.objective == "seq2seq" else self.model
        device = self._runner.device
        with self._runner.inference():
            ids_tensor = torch.tensor([ids], device=device)
            out = module(
                input_ids=ids_tensor, attention_mask=torch.ones_like(ids_tensor), output_hidden_states=True
            ).hidden_states
            if not -len(out) <= layer < len(out):
                raise ValueError(f"layer is from {-len(out)} to {len(out) - 1}, and {layer} was given")
            states = out[layer][0].float()  # (tokens, d)
        rows = []
        for a, b in spans:
            inside = [t for t, (x, y) in enumerate(places) if x < b and y > a]
            if not inside:
                raise ValueError(f"no token of the text lies in the span ({a}, {b}): {text[a:b]!r}")
            rows.append(states[inside].mean(0))
        self.usage.record(
            tag, calls=1, prompt_tokens=len(ids), forward_tokens=len(ids), seconds=time.perf_counter() - began
        )
        return torch.stack(rows)

    def fingerprint(self) -> str:
        """A digest of configuration, weights (64 values of every tensor) and tokenizer, for stored scores."""
        digest = hashlib.sha256(json.dumps(self.model.config.to_dict(), sort_keys=True, default=str).encode())
        digest.update(self.codec.fingerprint().encode())
        for name, tensor in self.model.state_dict().items():
            flat = tensor.detach().reshape(-1)
            step = max(1, flat.numel() // 64)
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(flat[::step].double().cpu().numpy().tobytes())
        return digest.hexdigest()

    # ---- batches

    def _groups(self, sequences: Sequence[Sequence[int]]) -> list[tuple[list[int], int]]:
        """Sort sequences into groups with a beginning worth computing once, and its length.

        A group is a run, in lexicographic order, whose common beginning is at least half of its first sequence. What
        shares nothing is one group with length 0. Inside a group sequences are sorted by length.
        """
        if not self._runner.can_pad_inside:
            return [(sorted(range(len(sequences)), key=lambda i: len(sequences[i])), 0)]
        order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
        groups: list[tuple[list[int], int]] = []
        alone: list[int] = []
        start = 0
        while start < len(order):
            first = sequences[order[start]]
            stop, shared = start + 1, len(first)
            while stop < len(order):
                common = common_prefix(first, sequences[order[stop]])
                if common < max(8, len(first) / 2):
                    break
                stop, shared = stop + 1, min(shared, common)
            members = order[start:stop]
            if len(members) == 1:
                alone += members
            else:  # every member keeps one token of its own, whose logits are wanted
                shared = min([shared, *(len(sequences[i]) - 1 for i in members)])
                groups.append((sorted(members, key=lambda i: len(sequences[i])), shared))
            start = stop
        if alone:
            groups.append((sorted(alone, key=lambda i: len(sequences[i])), 0))
        return groups

    def _batches(self, items: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """Cut ``items``, whose lengths go up, into batches of at most ``batch_tokens`` padded tokens."""
        batches: list[list[int]] = []
        for item, length in zip(items, lengths):
            if batches and (len(batches[-1]) + 1) * length <= self.batch_tokens:
                batches[-1].append(item)
            else:
                batches.append([item])
        return batches

    def _with_context(self, joint: Joint) -> Joint:
        ids = self._context(())
        return Joint((*ids, *joint.ids), len(ids), joint.n_bytes)

    def _context(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """``ids``, or where there are none a token that a text may begin after."""
        if ids:
            return ids
        for special in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if special is not None:
                return (int(special),)
        raise ValueError(f"a prompt is empty, and the tokenizer of {self.name!r} has no beginning token to start from")

    def _check_length(self, n: int, text: str, what: str) -> None:
        if n > self.context_length:
            raise ValueError(
                f"{what} have {n} tokens, and {self.name!r} reads {self.context_length} at most; shorten the text that "
                f"begins with {text[:40]!r} (fit() cuts to a number of tokens)"
            )

    def _needs(self, objective: Objective, method: str) -> None:
        if self.objective != objective:
            raise MissingCapability(f"{method} needs a {objective} model, and {self.name!r} is {self.objective}")


def _load(name: str, tokenizer: Any, device: torch.device, dtype: str) -> tuple[Any, Any]:
    import transformers

    folder = Path(name)
    if (folder.is_absolute() or name.startswith((".", "~"))) and not folder.expanduser().is_dir():
        raise ValueError(f"no such folder: {name}")
    source = str(folder.expanduser()) if folder.expanduser().is_dir() else name
    try:
        config = transformers.AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        where = "no such folder, and not a model name that can be had here (offline?)"
        if folder.expanduser().is_dir():
            where = "the folder holds no Hugging Face model"
        raise ValueError(f"cannot load the language model {name!r}: {where}") from error
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if getattr(config, "is_encoder_decoder", False):
        auto: Any = transformers.AutoModelForSeq2SeqLM
    elif architecture.endswith("ForMaskedLM"):
        auto = transformers.AutoModelForMaskedLM
    else:
        auto = transformers.AutoModelForCausalLM
    with quiet_loading():
        model = auto.from_pretrained(source, dtype=getattr(torch, dtype)).to(device).eval()
    if tokenizer is None or isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(tokenizer or source))
    return model, tokenizer


def _pair(model: Any, tokenizer: Any) -> tuple[Any, Any]:
    if isinstance(model, tuple) and len(model) == 2 and tokenizer is None:
        model, tokenizer = model
    if not isinstance(model, torch.nn.Module) or not callable(getattr(tokenizer, "decode", None)):
        raise TypeError(
            "a language model is a Hugging Face name or folder, or a (model, tokenizer) pair, and "
            f"({type(model).__name__}, {type(tokenizer).__name__}) was given"
        )
    return model, tokenizer


def _objective(model: Any) -> Objective:
    if getattr(model.config, "is_encoder_decoder", False):
        decoder_start(model)
        return "seq2seq"
    inner = getattr(model, "get_base_model", lambda: model)()
    return "masked" if type(inner).__name__.endswith("ForMaskedLM") else "causal"


def _context_length(model: Any, tokenizer: Any) -> int:
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            # RoBERTa's positions start behind the padding position.
            offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
            return value - offset
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < 10**9 else 10**9


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    ids: set[int] = set()
    generation = getattr(model, "generation_config", None)  # masked models have none
    for value in (getattr(generation, "eos_token_id", None), tokenizer.eos_token_id):
        ids.update(value if isinstance(value, (list, tuple)) else [] if value is None else [value])
    return frozenset(int(i) for i in ids)


def _open_cache(cache: Any) -> ScoreCache | None:
    from anytask.lm.cache import ScoreCache

    return cache if cache is None or isinstance(cache, ScoreCache) else ScoreCache(cache)


def _logprob(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-softmax of ``logits`` (..., V) at ``tokens`` (...)."""
    return logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)


def _option_score(logprobs: Sequence[float], n_bytes: int) -> OptionScore:
    return OptionScore(float(sum(logprobs)), len(logprobs), n_bytes, tuple(map(float, logprobs)))


def _strings(texts: Sequence[str], what: str) -> list[str]:
    if isinstance(texts, str):
        raise TypeError(f"{what} is a sequence of strings, and one string was given")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{what}[{i}] is a {type(text).__name__}, and a string is wanted")
    return texts


def _seeds(seed: int, prompts: Sequence[str]) -> list[int]:
    seen: Counter[str] = Counter()
    seeds = []
    for prompt in prompts:
        seeds.append(derive(seed, prompt, seen[prompt]))
        seen[prompt] += 1
    return seeds
