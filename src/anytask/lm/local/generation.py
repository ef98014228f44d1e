"""Continue token sequences: greedy and sampled in a batch, or by beam search with a length penalty.

transformers' ``generate`` draws for a whole batch at once and divides a beam by n^alpha; here a prompt's samples depend
on its seed alone, and the penalty is that of the paper, so both are written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from anytask.core.progress import Progress
from anytask.lm.codec import Codec
from anytask.lm.local.reader import Reader
from anytask.lm.local.runner import State
from anytask.lm.protocol import Sampling


@dataclass
class Generated:
    """Tokens that continue one prompt, without the end token, and why they end."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = "length"
    logprob: float = 0.0


class Endings:
    """Decides when a continuation is over: an end token, a stop string, or no room."""

    def __init__(self, codec: Codec, end_ids: frozenset[int], stop: Sequence[str]) -> None:
        self.codec, self.end_ids, self.stop = codec, end_ids, stop
        # A token may be one byte of a four-byte character, so this many tokens always hold a whole stop string.
        self._window = 4 * max(map(len, stop), default=0) + 8

    def stopped(self, prompt: Sequence[int], ids: Sequence[int]) -> bool:
        if not self.stop:
            return False
        before = [*prompt, *ids[: -self._window]]
        tail = self.codec.continuation(before, ids[-self._window :])
        return any(s in tail for s in self.stop)

    def text(self, prompt: Sequence[int], ids: Sequence[int]) -> str:
        """The continuation's text before the first stop string."""
        text = self.codec.continuation(prompt, ids)
        cuts = [text.index(s) for s in self.stop if s in text]
        return text[: min(cuts)] if cuts else text


def continue_all(
    reader: Reader,
    prompts: Sequence[tuple[int, ...]],
    seeds: Sequence[int],
    end_ids: frozenset[int],
    how: Sampling,
    tell: Progress,
) -> tuple[list[Generated], int]:
    """Continue all prompts in batches that share their beginnings; return them, and the tokens computed."""
    causal = reader.objective == "causal"
    for ids in prompts:
        reader.check_length(len(ids) + causal, reader.codec.decode(ids), "prompt and one token")
    endings = Endings(reader.codec, end_ids, how.stop)
    # Continuations of a sequence-to-sequence model are texts of their own.
    before = list(prompts) if causal else [()] * len(prompts)
    limits = [min(how.max_tokens, reader.context_length - (len(ids) if causal else 1)) for ids in prompts]
    results: dict[int, Generated] = {}
    forward = 0
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for group, prefix_length in reader.groups(prompts) if causal else [(by_length, 0)]:
        prefix = reader.runner.start([prompts[group[0]][:prefix_length]]) if prefix_length else None
        forward += prefix_length
        for batch in reader.batches(group, [how.beam_width * (len(prompts[i]) + how.max_tokens) for i in group]):
            state = reader.runner.start([prompts[i][prefix_length:] for i in batch], prefix)
            forward += sum(len(prompts[i]) - prefix_length for i in batch)
            if how.beam_width == 1:
                texts, most = [before[i] for i in batch], [limits[i] for i in batch]
                out = continue_batch(reader, state, texts, most, endings, how, [seeds[i] for i in batch])
            else:
                rows = [state.select(torch.tensor([row], device=state.logits.device)) for row in range(len(batch))]
                out = [
                    beam_search(reader, row, before[i], limits[i], endings, how.beam_width, how.length_penalty)
                    for row, i in zip(rows, batch)
                ]
            results |= zip(batch, out)
            tell(len(results) / len(prompts))
            forward += how.beam_width * sum(len(one.ids) for one in out)
    return [results[i] for i in range(len(prompts))], forward


def continue_batch(
    reader: Reader,
    state: State,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    endings: Endings,
    how: Sampling,
    seeds: Sequence[int],
) -> list[Generated]:
    """Continue every prompt of the batch, each with its own random numbers.

    Parameters
    ----------
    reader : Reader
    state : State
        The prompts, read.
    prompts : sequence of token ids
        For the spaces between prompt and continuation.
    limits : sequence of int
        Most tokens behind each prompt.
    endings, how
        When a text is over, and how tokens are chosen.
    seeds : sequence of int
        One per prompt: what is sampled for it does not depend on its neighbors.
    """
    rngs = [np.random.default_rng(seed) for seed in seeds]
    done = [Generated() for _ in prompts]
    active = list(range(len(prompts)))
    while active:
        normalizer = reader.log_normalizer(state.logits)
        if how.temperature == 0:
            tokens = state.logits.argmax(-1)
        else:
            uniform = torch.tensor([rngs[i].random() for i in active], dtype=torch.float64)
            tokens = draw(state.logits / how.temperature, how.top_p, uniform.to(state.logits.device))
        chosen = (state.logits.gather(1, tokens[:, None])[:, 0] - normalizer).tolist()
        going = []
        for row, (i, token) in enumerate(zip(active, tokens.tolist())):
            out = done[i]
            out.logprob += chosen[row]
            if token in endings.end_ids:
                out.finish_reason = "stop"
                continue
            out.ids.append(token)
            if endings.stopped(prompts[i], out.ids):
                out.finish_reason = "stop"
            elif len(out.ids) < limits[i]:
                going.append(row)
        if not going:
            break
        if len(going) < len(active):
            index = torch.tensor(going, device=tokens.device)
            state, tokens = state.select(index), tokens[index]
            active = [active[row] for row in going]
        state, _ = reader.runner.extend(state, tokens[:, None])
    for out, prompt in zip(done, prompts):
        out.text = endings.text(prompt, out.ids)
    return done


def draw(logits: Tensor, top_p: float, uniform: Tensor) -> Tensor:
    """Sample one token per row of ``logits`` (n, V) by inverting the distribution at ``uniform`` (n,).

    With ``top_p`` < 1 only the smallest set of likeliest tokens with that much probability takes part.
    """
    p, order = logits.double().softmax(-1).sort(dim=-1, descending=True, stable=True)
    before = p.cumsum(-1) - p
    p = p.masked_fill(before >= top_p, 0.0)
    cumulative = p.cumsum(-1)
    pick = (cumulative < uniform[:, None] * cumulative[:, -1:]).sum(-1)
    pick = torch.minimum(pick, (p > 0).sum(-1) - 1)
    return order.gather(1, pick[:, None])[:, 0]


def beam_search(
    reader: Reader,
    state: State,
    prompt: Sequence[int],
    limit: int,
    endings: Endings,
    beam_width: int,
    length_penalty: float,
) -> Generated:
    """The continuation with the best log-probability divided by ((5 + n) / 6)^alpha that the beam finds.

    ``n`` counts the continuation's tokens, its end token included, and alpha is ``length_penalty``. The search ends
    when no open hypothesis can overtake the best finished one.

    References
    ----------
    Wu et al. (2016), Google's neural machine translation system, arXiv:1609.08144, equation 14.
    """
    hypotheses: list[Generated] = [Generated()]
    best: tuple[float, Generated] | None = None
    for n in range(1, limit + 1):
        scores = torch.tensor([h.logprob for h in hypotheses], dtype=torch.float64, device=state.logits.device)
        reader.log_normalizer(state.logits)
        total = scores[:, None] + state.logits.double().log_softmax(-1)  # (open, V)
        k = min(2 * beam_width + len(endings.end_ids), total.numel())
        values, flat = total.flatten().topk(k)
        parents: list[int] = []
        tokens: list[int] = []
        following: list[Generated] = []
        for value, place in zip(values.tolist(), flat.tolist()):
            parent, token = divmod(place, total.shape[1])
            ended = token in endings.end_ids
            ids = hypotheses[parent].ids if ended else [*hypotheses[parent].ids, token]
            hypothesis = Generated(list(ids), "", "stop", value)
            if ended or endings.stopped(prompt, ids):
                score = value / penalty(n, length_penalty)
                if best is None or score > best[0]:
                    best = (score, hypothesis)
            elif len(following) < beam_width:
                following.append(hypothesis)
                parents.append(parent)
                tokens.append(token)
        hypotheses = following
        if not hypotheses or n == limit:
            break
        # A log-probability only falls; what it may be divided by is largest at the limit (alpha > 0) or now.
        reach = hypotheses[0].logprob / max(penalty(limit, length_penalty), penalty(n + 1, length_penalty))
        if best is not None and best[0] >= reach:
            break
        index = torch.tensor(parents, device=state.logits.device)
        state, _ = reader.runner.extend(state.select(index), torch.tensor(tokens, device=state.logits.device)[:, None])
    for hypothesis in hypotheses:
        hypothesis.finish_reason = "length"
        score = hypothesis.logprob / penalty(max(len(hypothesis.ids), 1), length_penalty)
        if best is None or score > best[0]:
            best = (score, hypothesis)
    assert best is not None
    best[1].text = endings.text(prompt, best[1].ids)
    return best[1]


def penalty(n: int, alpha: float) -> float:
    """((5 + n) / 6)^alpha."""
    return float(((5 + n) / 6) ** alpha)
