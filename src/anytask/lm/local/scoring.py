"""Log-probabilities of options given prompts, for causal, sequence-to-sequence and masked models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anytask.lm.local.codec import Joint
from anytask.lm.local.reader import Reader
from anytask.lm.local.runner import State
from anytask.lm.protocol import OptionScore


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


def score_causal(reader: Reader, prompts: list[str], options: list[list[str]]) -> tuple[dict, int]:
    """Score continuations by a causal model: (prompt, option) -> score, and the tokens computed."""
    # One item is a prompt with options that go on from the same tokens.
    items: list[tuple[str, list[str], list[Joint]]] = []
    for prompt, row in zip(prompts, options):
        ids = reader.codec.encode(prompt)
        joined = [(option, reader.codec.joint(prompt, ids, option)) for option in row]
        bare = [(option, reader.with_context(joint)) for option, joint in joined if joint.start == 0]
        after = [(option, joint) for option, joint in joined if joint.start > 0]
        for part in (bare, after):
            if part:
                items.append((prompt, [option for option, _ in part], [joint for _, joint in part]))
                reader.check_length(max(len(joint.ids) for _, joint in part), prompt, "prompt and option")
    joints = [row for _, _, row in items]
    # Up to here a prompt's tokens are the same whatever the option.
    heads = [row[0].ids[: min(joint.start for joint in row)] for row in joints]
    scores: dict[tuple[str, str], OptionScore] = {}
    forward = 0
    for group, prefix_length in reader.groups(heads):
        prefix = None
        if prefix_length:
            prefix = reader.runner.start([heads[group[0]][:prefix_length]])
            forward += prefix_length
        for batch in reader.batches(group, [len(heads[i]) for i in group]):
            state = reader.runner.start([heads[i][prefix_length:] for i in batch], prefix)
            forward += sum(len(heads[i]) - prefix_length for i in batch)
            rows = [(place, joint.ids[len(heads[i]) :]) for place, i in enumerate(batch) for joint in joints[i]]
            logprobs, more = _score_tails(reader, state, rows)
            forward += more
            flat = iter(logprobs)
            for i in batch:
                for option, joint in zip(items[i][1], joints[i]):
                    tokens = next(flat)[joint.start - len(heads[i]) :]
                    scores[items[i][0], option] = _option_score(tokens, joint.n_bytes)
    return scores, forward


def _score_tails(
    reader: Reader, state: State, rows: Sequence[tuple[int, Sequence[int]]]
) -> tuple[list[list[float]], int]:
    """Log-probabilities of each row's tokens, which follow the sequence of ``state`` that the row names."""
    device = state.logits.device
    places = torch.tensor([place for place, _ in rows], device=device)
    first = torch.tensor([tokens[0] for _, tokens in rows], device=device)
    results = [[value] for value in logprob(state.logits[places], first).tolist()]
    longer = sorted((r for r, (_, tokens) in enumerate(rows) if len(tokens) > 1), key=lambda r: len(rows[r][1]))
    forward = 0
    while longer:
        take = longer[: max(1, reader.batch_tokens // (state.mask.shape[1] + len(rows[longer[-1]][1])))]
        longer = longer[len(take) :]
        tokens = torch.nn.utils.rnn.pad_sequence([torch.as_tensor(rows[r][1]) for r in take], batch_first=True)
        tokens = tokens.to(device)
        lengths = torch.tensor([len(rows[r][1]) - 1 for r in take], device=device)
        _, logits = reader.runner.extend(state.select(places[take]), tokens[:, :-1], lengths)
        values = logprob(logits, tokens[:, 1:]).tolist()
        forward += int(lengths.sum())
        for r, row, length in zip(take, values, lengths.tolist()):
            results[r] += row[:length]
    return results, forward


def score_seq2seq(reader: Reader, prompts: list[str], options: list[list[str]]) -> tuple[dict, int]:
    """Score what the decoder writes after the encoder has read the prompt."""
    sources = [reader.codec.encode(prompt, special=True) for prompt in prompts]
    for prompt, source in zip(prompts, sources):
        reader.check_length(len(source), prompt, "prompt")
        if not source:
            raise ValueError("a prompt is empty, and the tokenizer adds nothing that an encoder could read")
    scores: dict[tuple[str, str], OptionScore] = {}
    forward = 0
    order = sorted(range(len(prompts)), key=lambda i: len(sources[i]))
    for batch in reader.batches(order, [len(sources[i]) for i in order]):
        state = reader.runner.start([sources[i] for i in batch])
        rows = [(place, _option_ids(reader, option)) for place, i in enumerate(batch) for option in options[i]]
        logprobs, more = _score_tails(reader, state, rows)
        forward += more + sum(len(sources[i]) + 1 for i in batch)
        flat = iter(logprobs)
        for i in batch:
            for option in options[i]:
                scores[prompts[i], option] = _option_score(next(flat), len(option.encode()))
    return scores, forward


def _option_ids(reader: Reader, option: str) -> list[int]:
    ids = reader.codec.encode(option)
    if not ids:
        raise ValueError(f"the option {option!r} has no tokens")
    return ids


def score_masked(reader: Reader, prompts: list[str], options: list[list[str]]) -> tuple[dict, int]:
    """Score options in the place of the mask, or behind the prompt by their pseudo-log-likelihood."""
    mask_token, mask_id = reader.tokenizer.mask_token, reader.tokenizer.mask_token_id
    if mask_id is None:
        raise ValueError(f"{reader.name!r} is a masked model whose tokenizer has no mask token")
    inputs: dict[tuple[int, ...], int] = {}  # distinct masked sequences
    plans: list[tuple[str, str, list[tuple[int, int, int]], int]] = []
    for prompt, row in zip(prompts, options):
        verbalizer = mask_token in prompt
        if verbalizer and prompt.count(mask_token) > 1:
            raise ValueError(f"a prompt holds {mask_token} {prompt.count(mask_token)} times, and once is wanted")
        for option in row:
            at = prompt.index(mask_token) if verbalizer else len(prompt)
            text = prompt[:at] + option + (prompt[at + len(mask_token) :] if verbalizer else "")
            ids, spans = reader.codec.encode_with_spans(text, special=True)
            reader.check_length(len(ids), prompt, "prompt and option")
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
    for batch in reader.batches(order, [len(sequences[r]) for r in order]):
        logits = reader.masked_logits([sequences[r] for r in batch])
        for n, r in enumerate(batch):
            for t, token in asked[r]:
                values[r, t, token] = float(logprob(logits[n, t], torch.tensor(token, device=logits.device)))
    scores = {
        (prompt, option): _option_score([values[key] for key in plan], n_bytes)
        for prompt, option, plan, n_bytes in plans
    }
    return scores, sum(map(len, sequences))


def token_logprobs(reader: Reader, texts: Sequence[str]) -> tuple[list[TokenLogprobs], int]:
    """Return every token of every text with its log-probability, and the tokens computed."""
    encoded = [reader.codec.encode_with_spans(text) for text in texts]
    head = reader.codec.head
    for text, (ids, _) in zip(texts, encoded):
        reader.check_length(len(head) + len(ids), text, "text")
        if not ids:
            raise ValueError("a text is empty: there is nothing to score")
    results: list[TokenLogprobs | None] = [None] * len(texts)
    order = sorted(range(len(texts)), key=lambda i: len(encoded[i][0]))
    for batch in reader.batches(order, [len(head) + len(encoded[i][0]) for i in order]):
        tokens = torch.nn.utils.rnn.pad_sequence(
            [torch.as_tensor([*head, *encoded[i][0]]) for i in batch], batch_first=True
        ).to(reader.runner.device)
        lengths = torch.tensor([len(head) + len(encoded[i][0]) for i in batch])
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long().to(tokens.device)
        logits = reader.model(input_ids=tokens, attention_mask=mask, use_cache=False).logits.float()
        values = logprob(logits[:, :-1], tokens[:, 1:]).tolist()
        for i, row in zip(batch, values):
            ids, spans = encoded[i]
            known = [float("nan"), *row][len(head) : len(head) + len(ids)]
            results[i] = TokenLogprobs(tuple(ids), tuple(spans), tuple(known))
    n = sum(len(head) + len(ids) for ids, _ in encoded)
    return [result for result in results if result is not None], n


def logprob(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-softmax of ``logits`` (..., V) at ``tokens`` (...)."""
    return logits.gather(-1, tokens[..., None])[..., 0] - logits.logsumexp(-1)


def _option_score(logprobs: Sequence[float], n_bytes: int) -> OptionScore:
    return OptionScore(float(sum(logprobs)), len(logprobs), n_bytes, tuple(map(float, logprobs)))
