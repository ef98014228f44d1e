"""A language model with local weights: scoring, generation, hidden states and chat."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from anytask.core.checks import check_counts, require_finite
from anytask.core.devices import resolve_device
from anytask.core.errors import check_each, check_word, instance_of, shown
from anytask.core.progress import Progress
from anytask.core.rng import derive
from anytask.lm.accounts import Accounts, Budget, Tally
from anytask.lm.base import LanguageModel
from anytask.lm.cache import ScoreCache
from anytask.lm.local.generation import Generated, continue_all
from anytask.lm.local.reader import Reader
from anytask.lm.local.scoring import score_causal, score_masked, score_seq2seq
from anytask.lm.local.weights import as_pair, end_ids_of, load_pair, number_type
from anytask.lm.protocol import (
    Capabilities,
    ChatReply,
    ChatRequest,
    Choice,
    Kind,
    MissingCapability,
    OptionScore,
    ReplyError,
    Sampling,
    Usage,
    check_text,
    check_texts,
)
from anytask.lm.structured import misfit

__all__ = ["LocalLM"]


class LocalLM(LanguageModel):
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
    dtype : {"float32", "bfloat16", "auto"}, default "float32"
        "bfloat16" loads bfloat16 weights (a built model runs under autocast), on CUDA and on processors that have such
        numbers: two to three times as fast there, with scores that differ in the third digit. "auto", which is what
        :func:`~anytask.lm.load_lm` takes unless told otherwise: where there is hardware for it.
    batch_tokens : int or "auto", default "auto"
        Tokens held in one forward pass, cached ones and padding included; sets memory, speed and how often progress is
        told, not results. "auto" is 8192 on a GPU, and 2048 on a processor, which more make no faster.
    kind : {"local", "tiny"}, default "local"
        What results are labeled with.
    name : str, optional
        Default: the model's name or folder name.
    cache : path or ScoreCache, optional
        A file that keeps every score under a digest of weights, tokenizer, prompt and option, so that an interrupted
        run goes on where it stopped.
    accounts : Accounts, optional
        Counters to add to; default new ones.
    context_length : int, optional
        Default: the model's number of positions, or the tokenizer's limit.
    chat_template : bool, default False
        Let :meth:`score` and :meth:`generate` put each prompt into the tokenizer's chat template, as a user's message
        whose answer begins: for models that were trained to answer instructions. Spaces before an option then go.
    budget : Budget or mapping of its limits, optional
        Checked before every batch of questions, for which it has to hold all calls and tokens.

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
    *Tokens of an option.* Prompt and option are tokenized together. Where a token spans their border, scoring starts
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
        dtype: Literal["float32", "bfloat16", "auto"] = "float32",
        batch_tokens: int | Literal["auto"] = "auto",
        kind: Kind = "local",
        name: str | None = None,
        cache: str | os.PathLike[str] | ScoreCache | None = None,
        accounts: Accounts | None = None,
        context_length: int | None = None,
        chat_template: bool = False,
        budget: Budget | Mapping[str, float] | None = None,
    ) -> None:
        check_word(dtype, ("float32", "bfloat16", "auto"), "dtype")
        instance_of("chat_template", bool, optional=False)(chat_template)
        if not (isinstance(batch_tokens, str) and batch_tokens == "auto"):
            check_counts(batch_tokens=batch_tokens)
        if context_length is not None:
            check_counts(context_length=context_length)
        check_word(kind, ("local", "tiny"), "kind")
        instance_of("name", str)(name)
        instance_of("cache", str, os.PathLike, ScoreCache)(cache)
        instance_of("accounts", Accounts)(accounts)
        instance_of("budget", Budget, Mapping)(budget)
        self._budget = Budget.of(budget)
        place = resolve_device(device)
        if isinstance(model, (str, os.PathLike)):
            numbers = number_type(dtype, place)
            self.model, self.tokenizer = load_pair(str(model), tokenizer, place, numbers)
            default_name = Path(str(model)).name
        else:
            self.model, self.tokenizer = as_pair(model, tokenizer)
            place = next(self.model.parameters()).device
            numbers = number_type(dtype, place)
            default_name = type(self.model).__name__
        self.name, self.kind = name or default_name, kind
        self.usage = accounts if accounts is not None else Accounts()
        self._reader = Reader(
            self.model,
            self.tokenizer,
            self.name,
            batch_tokens=batch_tokens if batch_tokens != "auto" else 2048 if place.type == "cpu" else 8192,
            context_length=context_length,
            autocast=numbers == "bfloat16",
        )
        self.codec, self.objective = self._reader.codec, self._reader.objective
        self.context_length = self._reader.context_length
        self._cache = cache if cache is None or isinstance(cache, ScoreCache) else ScoreCache(cache)
        self._end_ids = end_ids_of(self.model, self.tokenizer)
        writes = self.objective != "masked"
        chats = writes and getattr(self.tokenizer, "chat_template", None) is not None
        if chat_template and not chats:
            raise MissingCapability(
                f"chat_template=True needs a model with a chat template, and {self.name!r} has none"
            )
        self.chat_template = chat_template
        if chat_template:  # what the template takes beside a prompt
            self.context_length -= self.count_tokens(self._framed("", "x")[0])
        self._offers = Capabilities(
            chat=chats, logprobs=True, completions=writes, seed=writes, local_weights=True, n=chats, json_schema=False
        )

    @property
    def capabilities(self) -> Capabilities:
        """What the model offers."""
        return self._offers

    @property
    def settings(self) -> str:
        """The settings that speed and memory depend on, in words."""
        template = "its chat template" if self.chat_template else "no chat template"
        kept = f"scores kept in {self._cache.path}" if self._cache is not None else "no score cache"
        numbers = str(self.model.dtype).removeprefix("torch.")
        return f"{self.name}: {numbers}, batches of {self._reader.batch_tokens:,} tokens, {template}, {kept}"

    def in_chat_template(self, wanted: bool = True) -> LocalLM:
        """Return a model on the same weights, accounts, cache and budget that puts prompts into its chat template.

        Raises
        ------
        MissingCapability
            If the tokenizer has no chat template.
        """
        reader = self._reader
        return LocalLM(
            (self.model, self.tokenizer), dtype="bfloat16" if reader.runner.autocast else "float32", kind=self.kind,
            batch_tokens=reader.batch_tokens, name=self.name, cache=self._cache, accounts=self.usage,
            context_length=reader.context_length, chat_template=wanted, budget=self._budget,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"LocalLM({self.name!r}, kind={self.kind!r}, objective={self.objective!r})"

    # ---- text and tokens

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

    def _expense(self, asked: Mapping[str, Sequence[str]], tokens: Usage, *, continued: bool) -> Tally:
        forward = self._reader.shared([self._reader.prompt_ids(prompt) for prompt in asked]) + tokens.completion_tokens
        read, wrote = self._reader.speed
        extra = tokens.completion_tokens * (wrote - read) if continued else 0.0
        return Tally(forward_tokens=forward, seconds=forward * read + extra)

    # ---- scoring

    def _score(self, asked: dict[str, list[str]], tag: str, tell: Progress) -> Sequence[dict[str, OptionScore]]:
        pairs = {(p, option): self._framed(p, option) for p, row in asked.items() for option in row}
        wanted = list(dict.fromkeys(pairs.values()))
        stamp = self.fingerprint() if self._cache is not None else ""
        found = self._cache.get_many(stamp, wanted) if self._cache is not None else {}
        todo: dict[str, list[str]] = {}
        for prompt, option in wanted:
            if (prompt, option) not in found:
                todo.setdefault(prompt, []).append(option)
        score = {"causal": score_causal, "seq2seq": score_seq2seq, "masked": score_masked}[self.objective]
        forward = 0
        read, written = sum(map(self.count_tokens, todo)), [option for row in todo.values() for option in row]
        most = read + sum(map(self.count_tokens, written))
        with self._budget.reserve(most, calls=len(todo)) as settle, self.usage.timed(tag) as used:
            with self._reader.runner.inference():
                for new, tokens in score(self._reader, list(todo), list(todo.values())):
                    if self._cache is not None:
                        self._cache.put_many(stamp, new)
                    found |= new
                    forward += tokens
                    tell(len(found) / len(wanted))
            scored = sum(found[prompt, option].n_tokens for prompt in todo for option in todo[prompt])
            settle(read + scored)
            used.update(
                calls=len(todo),
                prompt_tokens=read,
                completion_tokens=scored,
                forward_tokens=forward,
                cache_hits=len(asked) - len(todo),
            )
        tell(1.0)
        return [{option: found[pairs[prompt, option]] for option in row} for prompt, row in asked.items()]

    def _framed(self, prompt: str, option: str) -> tuple[str, str]:
        """Return what the model reads for a prompt and an option: both in the chat template, where that is wanted."""
        if not self.chat_template:
            return prompt, option
        if not option.lstrip(" "):
            raise ValueError("an option is blank: in a chat template there is nothing to score")
        return self._render([{"role": "user", "content": prompt}]), option.lstrip(" ")

    # ---- generation

    def _write(self, asked: list[tuple[str, int]], seed: int, how: Sampling, tag: str, tell: Progress) -> Sequence[str]:
        texts = [self._framed(prompt, "x")[0] for prompt, _ in asked]
        ids = [self._reader.prompt_ids(text) for text in texts]
        seeds = [derive(seed, text, occurrence) for text, (_, occurrence) in zip(texts, asked)]
        return [out.text for out in self._generate(ids, seeds, how, tag, tell)]

    def _generate(
        self,
        prompts: Sequence[tuple[int, ...]],
        seeds: Sequence[int],
        how: Sampling,
        tag: str,
        tell: Progress,
    ) -> list[Generated]:
        read = sum(map(len, prompts))
        budgeted = self._budget.reserve(read + how.max_tokens * len(prompts), calls=len(prompts))
        with budgeted as settle, self.usage.timed(tag) as used, self._reader.runner.inference():
            done, forward = continue_all(self._reader, prompts, seeds, self._end_ids, how, tell)
            written = sum(len(out.ids) for out in done)
            settle(read + written)
            used.update(calls=len(prompts), prompt_tokens=read, completion_tokens=written, forward_tokens=forward)
        return done

    # ---- chat

    def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request through the tokenizer's chat template."""
        return self.chat_many([request])[0]

    def _chat(self, requests: list[ChatRequest], most: int, tell: Progress) -> Sequence[ChatReply]:
        if not self.capabilities.chat:
            raise MissingCapability(
                f"{self.name!r} has no chat template, so it cannot chat; use generate(), or set tokenizer.chat_template"
            )
        groups: dict[tuple[Sampling, str], list[int]] = {}
        for i, request in enumerate(requests):
            if request.tools or request.logprobs:
                raise MissingCapability(f"{self.name!r} offers no {'tools' if request.tools else 'logprobs'} in chats")
            how = Sampling(request.max_tokens, tuple(request.stop), request.temperature, request.top_p)
            groups.setdefault((how, request.tag or "chat"), []).append(i)
        replies: list[ChatReply | None] = [None] * len(requests)
        for (how, tag), members in groups.items():
            began = time.perf_counter()
            texts = [(i, self._render(requests[i].messages)) for i in members]
            ids = {i: tuple(self.codec.encode(text)) for i, text in texts}
            samples = [(i, text, sample) for i, text in texts for sample in range(requests[i].n)]
            seeds = [derive(requests[i].seed or 0, text, sample) for i, text, sample in samples]
            out = iter(self._generate([ids[i] for i, _, _ in samples], seeds, how, tag, tell))
            seconds = time.perf_counter() - began
            for i in members:
                done = [next(out) for _ in range(requests[i].n)]
                choices = tuple(
                    Choice(
                        {"role": "assistant", "content": one.text}, "stop" if one.finish_reason == "stop" else "length"
                    )
                    for one in done
                )
                usage = Usage(len(ids[i]), sum(len(one.ids) for one in done))
                replies[i] = ChatReply(choices, usage, self.name, self.kind, seconds)
        return _in_form(requests, replies)

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
        ids = [self._reader.prompt_ids(prompt) for prompt in check_texts(prompts, "prompts")]
        for one, prompt in zip(ids, prompts):
            self._reader.check_length(len(one), prompt, "prompt")
        rows: dict[int, Tensor] = {}
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        n = sum(map(len, ids))
        with self.usage.timed(tag) as used, self._reader.runner.inference():
            for batch in self._reader.batches(order, [len(ids[i]) for i in order]):
                rows |= zip(batch, self._reader.runner.start([ids[i] for i in batch]).logits)
            logits = torch.stack([rows[i] for i in range(len(ids))])
            self._reader.log_normalizer(logits)
            used.update(calls=len(ids), prompt_tokens=n, forward_tokens=n)
        return logits

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
        instance_of("layer", int, optional=False)(layer)
        instance_of("spans", Iterable, optional=False, wanted="pairs of character places")(spans)
        ids, places = self.codec.encode_with_spans(check_text(text, "text"), special=True)
        self._reader.check_length(len(ids), text, "text")
        inside: list[list[int]] = []
        for span in spans:
            if len(check_each(span, int, "a span")) != 2:
                raise ValueError(f"a span must be a pair of character places, got {shown(span)}")
            a, b = span
            if not 0 <= a < b <= len(text):
                raise ValueError(f"span ({a}, {b}) is not inside the text of {len(text)} characters")
            inside.append([t for t, (x, y) in enumerate(places) if x < b and y > a])
            if not inside[-1]:
                raise ValueError(f"no token of the text lies in the span ({a}, {b}): {text[a:b]!r}")
        module = self.model.get_encoder() if self.objective == "seq2seq" else self.model
        with self.usage.timed(tag) as used, self._reader.runner.inference():
            tokens = torch.tensor([ids], device=self._reader.runner.device)
            out = module(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), output_hidden_states=True
            ).hidden_states
            used.update(calls=1, prompt_tokens=len(ids), forward_tokens=len(ids))
        if not -len(out) <= layer < len(out):
            raise ValueError(f"layer is from {-len(out)} to {len(out) - 1}, and {layer} was given")
        states = require_finite(out[layer][0].float(), f"a hidden state of {self.name!r}")  # (tokens, d)
        return torch.stack([states[rows].mean(0) for rows in inside])

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


def _in_form(requests: Sequence[ChatRequest], replies: list[Any]) -> list[ChatReply]:
    for request, reply in zip(requests, replies):
        for choice in reply.choices:
            problem = misfit(choice.text, request.response_format)
            if problem is not None:
                error = ReplyError(problem, choice.text)
                error.finished = replies
                raise error
    return replies
