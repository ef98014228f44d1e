"""Log-probabilities of options given prompts, for causal, sequence-to-sequence and masked models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from anytask.lm.codec import Joint
from anytask.lm.local.reader import Reader
from anytask.lm.local.runner import State, padded
from anytask.lm.protocol import OptionScore

#: Scores of (prompt, option), batch by batch, and the tokens computed for them.
Scores = Iterator[tuple[dict[tuple[str, str], OptionScore], int]]


def score_causal(reader: Reader, prompts: list[str], options: list[list[str]]) -> Scores:
    """Score continuations by a causal model."""
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
    for group, prefix_length in reader.groups(heads):
        prefix = reader.runner.start([heads[group[0]][:prefix_length]]) if prefix_length else None
        forward = prefix_length
        for batch in reader.batches(group, [len(heads[i]) for i in group]):
            state = reader.runner.start([heads[i][prefix_length:] for i in batch], prefix)
            forward += sum(len(heads[i]) - prefix_length for i in batch)
            rows = [(place, joint.ids[len(heads[i]) :]) for place, i in enumerate(batch) for joint in joints[i]]
            logprobs, more = _score_tails(reader, state, rows)
            flat = iter(logprobs)
            scores = {}
            for i in batch:
                for option, joint in zip(items[i][1], joints[i]):
                    tokens = next(flat)[joint.start - len(heads[i]) :]
                    scores[items[i][0], option] = _option_score(tokens, joint.n_bytes)
            yield scores, forward + more
            forward = 0


def _score_tails(
    reader: Reader, state: State, rows: Sequence[tuple[int, Sequence[int]]]
) -> tuple[list[list[float]], int]:
    """Log-probabilities of each row's tokens, which follow the sequence of ``state`` that the row names."""
    device = state.logits.device
    places = torch.tensor([place for place, _ in rows], device=device)
    first = torch.tensor([tokens[0] for _, tokens in rows], device=device)
    results = [[value] for value in reader.logprob(state.logits[places], first).tolist()]
    longer = sorted((r for r, (_, tokens) in enumerate(rows) if len(tokens) > 1), key=lambda r: len(rows[r][1]))
    forward = 0
    while longer:
        take = longer[: max(1, reader.batch_tokens // (state.mask.shape[1] + len(rows[longer[-1]][1])))]
        longer = longer[len(take) :]
        tokens, mask = padded([rows[r][1] for r in take], device)
        lengths = mask.sum(1) - 1
        _, logits = reader.runner.extend(state.select(places[take]), tokens[:, :-1], lengths)
        values = reader.logprob(logits, tokens[:, 1:]).tolist()
        forward += int(lengths.sum())
        for r, row, length in zip(take, values, lengths.tolist()):
            results[r] += row[:length]
    return results, forward


def score_seq2seq(reader: Reader, prompts: list[str], options: list[list[str]]) -> Scores:
    """Score what the decoder writes after the encoder has read the prompt."""
    sources = [reader.codec.encode(prompt, special=True) for prompt in prompts]
    for prompt, source in zip(prompts, sources):
        reader.check_length(len(source), prompt, "prompt")
        if not source:
            raise ValueError("a prompt is empty, and the tokenizer adds nothing that an encoder could read")
    order = sorted(range(len(prompts)), key=lambda i: len(sources[i]))
    for batch in reader.batches(order, [len(sources[i]) for i in order]):
        state = reader.runner.start([sources[i] for i in batch])
        rows = [(place, _option_ids(reader, option)) for place, i in enumerate(batch) for option in options[i]]
        logprobs, more = _score_tails(reader, state, rows)
        flat = iter(logprobs)
        pairs = [(prompts[i], option) for i in batch for option in options[i]]
        scores = {(prompt, option): _option_score(next(flat), len(option.encode())) for prompt, option in pairs}
        yield scores, more + sum(len(sources[i]) + 1 for i in batch)


def _option_ids(reader: Reader, option: str) -> list[int]:
    ids = reader.codec.encode(option)
    if not ids:
        raise ValueError(f"the option {option!r} has no tokens")
    return ids


def score_masked(reader: Reader, prompts: list[str], options: list[list[str]]) -> Scores:
    """Score options in the place of the mask, or behind the prompt by their pseudo-log-likelihood."""
    mask_token, mask_id = reader.tokenizer.mask_token, reader.tokenizer.mask_token_id
    if mask_id is None:
        raise ValueError(f"{reader.name!r} is a masked model whose tokenizer has no mask token")
    asked: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # masked sequence -> places and their tokens
    plans: dict[tuple[str, str], tuple[list[Any], int]] = {}
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
                asked.setdefault(masked, []).extend((t, ids[t]) for t in hidden)
                plan += [(masked, t, ids[t]) for t in hidden]
            plans[prompt, option] = plan, n_bytes
    values: dict[Any, float] = {}
    order = sorted(asked, key=len)
    for batch in reader.batches(range(len(order)), [len(sequence) for sequence in order]):
        logits = reader.masked_logits([order[r] for r in batch])
        for r, row_logits in zip(batch, logits):
            places, tokens = zip(*asked[order[r]])
            found = reader.logprob(row_logits[list(places)], torch.tensor(tokens, device=logits.device))
            values.update(zip(((order[r], t, token) for t, token in asked[order[r]]), found.tolist()))
    scores = {pair: _option_score([values[key] for key in plan], n_bytes) for pair, (plan, n_bytes) in plans.items()}
    yield scores, sum(map(len, order))


def _option_score(logprobs: Sequence[float], n_bytes: int) -> OptionScore:
    return OptionScore(float(sum(logprobs)), len(logprobs), n_bytes, tuple(map(float, logprobs)))
