"""Late interaction of kept tokens against a plain loop and sentence-transformers, its memory, and steps of training.

Prints JSON. The loop is timed on a part of the pairs, and extrapolated.

python benchmarks/paired.py [--queries 1000] [--targets 10000] [--width 384] [--threads 1] [--no-training]
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch
from torch.nn import functional as F

from anytask.pretrain import UWE
from anytask.pretrain.parts.bags import Bags
from anytask.pretrain.parts.items import Tokens

TEXTS = [
    f"{verb} {noun}" for verb in ("weld", "paint", "repair", "sell") for noun in ("pipes", "boats", "doors", "cars")
]


def drawn(n: int, longest: int, width: int, seed: int) -> Bags:
    """Return bags of 2 to ``longest`` random tokens."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (n,), generator=rng)
    return Bags(torch.randn(int(lengths.sum()), width, generator=rng), lengths)


def seconds(call: Callable[[], Any]) -> float:
    """Return the processor's time that a call takes, divided by the threads: others may use the machine."""
    start = time.process_time()
    call()
    return (time.process_time() - start) / torch.get_num_threads()


def plain_loop(a: list[torch.Tensor], b: list[torch.Tensor], tau: float) -> torch.Tensor:
    """Score pair after pair as the formula says it, in both directions."""
    S = torch.empty(len(a), len(b))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            D, C = x @ y.T, F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
            rows, columns = (D / tau).softmax(1) * C, (D / tau).softmax(0) * C
            S[i, j] = 0.5 * (rows.sum(1).mean() + columns.sum(0).mean())
    return S


def interaction(o: argparse.Namespace, model: UWE) -> dict[str, Any]:
    """Compare all scores with the loop, and one query's time with MaxSim and with sentence-transformers."""
    a, b = drawn(o.queries, 16, o.width, 0), drawn(o.targets, 8, o.width, 1)
    left, right = Tokens(a, "left"), Tokens(b, "right")
    model.scores(Tokens(Bags(a.tokens[: int(a.lengths[0])], a.lengths[:1]), "left"), right)  # norms are kept now
    ours = seconds(lambda: model.scores(left, right))
    part_a, part_b = a.tokens.split(a.lengths.tolist())[:20], b.tokens.split(b.lengths.tolist())[:50]
    tau = model.tau_a * o.width**0.5  # scale_dot
    plain = seconds(lambda: plain_loop(list(part_a), list(part_b), tau))
    first = Tokens(Bags(a.tokens[: int(a.lengths[:2].sum())], a.lengths[:2]), "left")
    off = torch.from_numpy(model.scores(first, right)[:, :3]) - plain_loop(list(part_a[:2]), list(part_b[:3]), tau)
    looped = plain * (o.queries * o.targets) / (20 * 50)
    singles = [Tokens(Bags(tokens, torch.tensor([len(tokens)])), "left") for tokens in part_a]
    times: dict[str, float] = {}
    for scorer in ("both", "maxsim"):
        model.set_params(scorer=scorer)
        model.scores(singles[0], right)
        times[scorer] = 1000 * statistics.median(seconds(functools.partial(model.scores, q, right)) for q in singles)
    model.set_params(scorer="both")
    out = {
        "seconds": ours, "loop_seconds": looped, "times_faster_than_the_loop": looped / ours,
        "query_ms_soft": times["both"], "query_ms_maxsim": times["maxsim"],
        "soft_over_maxsim": times["both"] / times["maxsim"],
        "largest_difference": float(off.abs().max()),
    }  # fmt: skip
    try:
        from sentence_transformers.util import maxsim
    except ImportError:
        return {**out, "sentence_transformers": "it scores no token vectors, or is not here"}
    padded, mask = b.padded(torch.arange(len(b)))
    padded = F.normalize(padded, dim=-1)
    queries = [F.normalize(tokens, dim=-1)[None] for tokens in part_a]
    maxsim(queries[0], padded, b_mask=mask)
    peer = 1000 * statistics.median(seconds(functools.partial(maxsim, q, padded, b_mask=mask)) for q in queries)
    return {**out, "query_ms_sentence_transformers_maxsim": peer, "soft_over_peer": times["both"] / peer}


def memory(o: argparse.Namespace) -> dict[str, Any]:
    """Return megabytes that scoring adds at its peak beside tokens and scores, in a process for each size."""
    found = {}
    for targets in (o.targets // 4, o.targets, 4 * o.targets):
        call = [sys.executable, __file__, "--peak", str(targets), "--width", str(o.width)]
        found[str(targets)] = float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
    return found


def peak(o: argparse.Namespace, model: UWE) -> float:
    """Return the megabytes that are held at the most beside what is held before and what comes out."""
    left, right = Tokens(drawn(64, 16, o.width, 0), "left"), Tokens(drawn(o.peak, 8, o.width, 1), "right")
    model.scores(Tokens(drawn(2, 16, o.width, 0), "left"), Tokens(drawn(50, 8, o.width, 1), "right"))
    process, found, done = psutil.Process(), [], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            found.append(process.memory_info().rss)

    before, watcher = process.memory_info().rss, threading.Thread(target=watch)
    watcher.start()
    S = model.scores(left, right)
    done.set()
    watcher.join()
    return (max(found) - before - 3 * S.nbytes) / 2**20  # as they are gathered, in double precision, and in order


def training() -> dict[str, Any]:
    """Compare steps a second with sentence-transformers' own loss, on MiniLM, with 16 pairs in a step."""
    from anytask.pretrain.text_pair_baselines import SentenceEncoder

    left, right = [f"we look for someone to {text}" for text in TEXTS] * 4, TEXTS * 4
    left = [f"{text}, lot {i}" for i, text in enumerate(left)]
    out = {}
    for name, make in (
        ("uwe", lambda epochs: UWE(encoder="minilm", epochs=epochs, batch_size=16, lr=2e-5)),
        ("multiple_negatives_ranking", lambda epochs: SentenceEncoder(epochs=epochs, batch_size=16)),
    ):
        make(1).fit(left, right)
        spent = [seconds(functools.partial(make(epochs).fit, left, right)) for epochs in (1, 6)]
        out[f"steps_a_second_{name}"] = 5 * 4 / (spent[1] - spent[0])
    return {**out, "uwe_over_peer": out["steps_a_second_uwe"] / out["steps_a_second_multiple_negatives_ranking"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--targets", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--peak", type=int, default=0, help="print the memory of so many targets and nothing else")
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    model = UWE(epochs=0, scale_dot=True).fit(["a"], ["b"])
    if o.peak:
        print(peak(o, model))
        return
    out = {"queries": o.queries, "targets": o.targets, "width": o.width, "threads": o.threads}
    out |= {"interaction": interaction(o, model), "megabytes_beside_tokens_and_scores": memory(o)}
    print(json.dumps(out if o.no_training else {**out, "training": training()}, indent=2))


if __name__ == "__main__":
    main()
