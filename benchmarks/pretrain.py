"""Time and memory of the pretraining systems against what they replace, as ratios in one run.

Every repeat times both sides one after the other, and the ratio is taken within the repeat, so that a change of the
machine's speed hits both. Medians are reported beside what is aimed at. That both sides give equal results is asserted.

* ``isocvgae``: an epoch on a graph of 2,000 nodes against the same epoch with the means around nodes taken node by
  node, as in the released code, and these means alone with their gradients. What a loop costs for each node is left
  out; what the networks cost, of which the decoder has 23 linear layers, both sides pay, and the more of an epoch the
  wider they are. And against PyTorch Geometric's ``VGAE`` with the same encoder, which rebuilds edges without layers.
* ``contrastive``: the symmetric loss of 4,096 pairs and its gradients, in chunks of lazy matrices against whole ones:
  seconds, and the peak of memory, each in a process of its own.
* ``madeleine``: vectors of bags in padded batches against one bag at a time. What is gained is what a call costs:
  short bags gain, and long ones fill the processor alone.
* ``autodistil``: the search among all members of two SuperLMs, which trains nothing, against the distillation of a
  single one by itself, for as many passes; and all of AutoDistil against the distillation of each member by itself, of
  which the largest and the smallest of each sub-space are timed and the others are taken to lie between.

Usage: python benchmarks/pretrain.py [--repeats 3] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple
from functools import cached_property
from pathlib import Path

import networkx as nx
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from anytask.bench.measuring import Meter
from anytask.parts.contrastive import LazyMatrix, contrastive_loss
from anytask.pretrain import MADELEINE, AutoDistil, IsoCVGAE
from anytask.pretrain.parts.bags import read_bags
from anytask.pretrain.parts.graphs import GraphBatch, read_graphs
from anytask.pretrain.parts.slices import shape_of, smallest_first

Work = Callable[[], object]
NODES, PAIRS, WIDTH, CHUNK = 2_000, 4_096, 128, 512


def seconds(work: Work) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(slow: Work, fast: Work, repeats: int) -> list[float]:
    """Return how often the fast one fits into the slow one, in each repeat."""
    slow(), fast()  # first uses are nobody's cost
    return [seconds(slow) / seconds(fast) for _ in range(repeats)]


# -- IsoC-VGAE --------------------------------------------------------------------------------------------------------


class NodeByNode(GraphBatch):
    """Graphs whose means around nodes are filled in one row after another."""

    @cached_property
    def neighbors(self) -> list[list[int]]:
        """The neighbors of each node."""
        return [near.tolist() for near in self.edges[1].split(self.degree.long().tolist())]

    def neighborhood_mean(self, h: Tensor) -> Tensor:
        """Return the mean of ``h`` (n, d) over each node and its neighbors."""
        mean = torch.zeros_like(h)
        for node, near in enumerate(self.neighbors):
            mean[node] = torch.cat([h[node : node + 1], h[near]]).mean(0)
        return mean


class Gaussians(nn.Module):
    """An encoder of nodes under PyTorch Geometric's VGAE."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.log_sigma = encoder, nn.Linear(width, width)

    def forward(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        mu = self.encoder(batch)[-1]
        return mu, self.log_sigma(mu)


def epoch(net: nn.Module, loss: Callable[[], Tensor]) -> Work:
    """Return a step of Adam on the whole graph."""
    adam = torch.optim.Adam(net.requires_grad_(True).train().parameters(), 1e-3)

    def step() -> None:
        adam.zero_grad()
        loss().backward()
        adam.step()

    return step


def graph_epochs(kind: str, hidden: tuple[int, ...], repeats: int) -> Iterator[tuple[str, str, list[float]]]:
    """Yield what is compared, what is aimed at, and the ratios."""
    from torch_geometric.nn import VGAE

    edges = torch.tensor(list(nx.barabasi_albert_graph(NODES, 5, seed=0).edges)).T
    graph = read_graphs((torch.cat([edges, edges.flip(0)], 1), torch.randn(NODES, 32)))
    loops = NodeByNode(graph.x, graph.edges, graph.sizes)
    model = IsoCVGAE(encoder=kind, hidden=hidden, epochs=1, device="cpu").fit((graph.edges, graph.x))
    draws = {width: torch.randn(NODES, width) for width in (32, *hidden)}
    h = draws[hidden[0]].clone().requires_grad_()

    def value(batch: GraphBatch) -> float:
        return model._node_losses(batch, lambda mu: draws[mu.shape[1]]).mean().item()

    assert abs(value(graph) - value(loops)) <= 1e-5 * abs(value(graph))
    named = f"isocvgae, {kind.upper()}, widths {'-'.join(map(str, hidden))}"
    one, other = (lambda b=b: torch.autograd.grad(b.neighborhood_mean(h).square().sum(), h) for b in (graph, loops))
    torch.testing.assert_close(one(), other())
    yield f"{named}: means of a layer node by node / isocvgae", ">= 20", ratio(other, one, repeats)
    ours, looped = (epoch(model._modules(), lambda b=b: model._loss(b)) for b in (graph, loops))
    yield f"{named}: an epoch node by node / isocvgae", ">= 20", ratio(looped, ours, repeats)
    vgae = VGAE(Gaussians(model.encoder_, hidden[-1]))
    theirs = epoch(vgae, lambda: vgae.recon_loss(vgae.encode(graph), graph.edges) + vgae.kl_loss() / NODES)
    yield f"{named}: an epoch of isocvgae / PyG's VGAE", "<= 2", ratio(ours, theirs, repeats)


# -- the contrastive loss ---------------------------------------------------------------------------------------------


def contrast(how: str, n: int) -> Callable[[], list[Tensor]]:
    """Return what gives the loss of n pairs and its gradients."""
    generator = torch.Generator().manual_seed(0)
    u, v = (F.normalize(torch.randn(n, WIDTH, generator=generator), dim=1).requires_grad_() for _ in range(2))
    every = torch.arange(n)

    def values() -> list[Tensor]:
        S = LazyMatrix((n, n), lambda i, j: u[i] @ v[j].T / 0.07)
        T = LazyMatrix((n, n), lambda i, j: every[i, None] == every[j])
        loss = contrastive_loss(S, T, symmetric=True, chunk=CHUNK if how == "chunks" else None)
        return [loss.detach(), *torch.autograd.grad(loss, (u, v))]

    return values


def peak(how: str, n: int) -> float:
    """Return the MiB by which a process of its own grows at most that computes the loss once.

    What is freed goes back to the system at once, so that what counts is what is held, and not what glibc keeps.
    """
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, __file__, "--peak", how, str(n)], env=env, capture_output=True, check=True)
    return float(ran.stdout)


def grown(how: str, n: int) -> float:
    """Return the MiB by which this process grows at most."""
    contrast("chunks", CHUNK)()  # loads what the first use loads
    work = contrast(how, n)
    with Meter() as meter:
        work()
    return meter.cost["peak_increase_bytes"] / 2**20


# -- MADELEINE --------------------------------------------------------------------------------------------------------


def bags(n: int, longest: int) -> tuple[Work, Work]:
    """Return what encodes n bags of up to ``longest`` vectors in padded batches, and one by one."""
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=(k, 64)).astype(np.float32) for k in rng.integers(longest // 4, longest + 1, n)]
    model = MADELEINE(epochs=0, device="cpu").fit({"a": drawn[:8], "b": drawn[:8]})
    every, each = read_bags(drawn), [read_bags([bag]) for bag in drawn]
    together = torch.no_grad()(lambda: model._features_of(every, 0))
    alone = torch.no_grad()(lambda: torch.cat([model._features_of(bag, 0) for bag in each]))
    torch.testing.assert_close(together(), alone(), rtol=1e-4, atol=1e-5)
    return together, alone


# -- AutoDistil -------------------------------------------------------------------------------------------------------


def searches(repeats: int) -> Iterator[tuple[str, str | None, list[float]]]:
    """Yield what is compared, and the ratios; nothing is aimed at but that no training is needed."""
    X, passes = load_digits().images[:300], 2
    model = AutoDistil.from_preset("small", epochs=passes, small={"steps": 50}, device="cpu")
    everything = [seconds(lambda: model.fit(X)) for _ in range(repeats + 1)][1:]
    sequences = model._sequences(model._read(X), model._positions)
    members = model.table()
    before = {name: weight.clone() for name, weight in model.supers_.state_dict().items()}
    scoring = [seconds(lambda: model._losses(sequences)) for _ in range(repeats)]
    scores = model._losses(sequences)
    students = [model.student(budget) for budget in members["parameters"].quantile([0, 0.5, 1])]
    assert all(torch.equal(weight, before[name]) for name, weight in model.supers_.state_dict().items())
    for student in students:  # what is cut out is what was scored: as a SuperLM of one member it has the same loss
        shape = shape_of(student)
        row = members[(members[["layers", "heads", "width", "ratio"]] == list(astuple(shape))).all(axis=1)]
        alone = copy.copy(model).set_params(spaces=[{"name": "one", **{k: [v] for k, v in asdict(shape).items()}}])
        alone.supers_ = nn.ModuleList([student])
        assert np.allclose(alone._losses(sequences)[0], scores[row.index[0]], rtol=1e-4)
    ends = [
        model._pattern.extract(net, shape)
        for net, space in zip(model.supers_, model._spaces.values())
        for shape in (space.largest, smallest_first(space.members, model._pattern.sizes)[0])
    ]
    single = [[seconds(lambda one=one: model.refine(one, X, epochs=passes)) for one in ends] for _ in range(repeats)]
    n = len(members)
    yield (
        f"autodistil: distilling one of {n} members alone / scoring one",
        None,
        [statistics.mean(one) / (all_ / n) for one, all_ in zip(single, scoring)],
    )
    yield (
        f"autodistil: distilling each of {n} members alone / distilling all and searching",
        None,
        [n * statistics.mean(one) / all_ for one, all_ in zip(single, everything)],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak", nargs=2, metavar=("HOW", "PAIRS"), help="print the peak of memory of one loss")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.peak:
        print(grown(args.peak[0], int(args.peak[1])))
        return
    found = {}
    for kind, hidden in (("gin", (32, 32, 8)), ("gin", (256, 256)), ("gcn", (256, 256))):
        found.update({name: (aim, ratios) for name, aim, ratios in graph_epochs(kind, hidden, args.repeats)})
    chunked, whole = (contrast(how, PAIRS) for how in ("chunks", "whole"))
    for a, b in zip(chunked(), whole()):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()
    found["contrastive, 4,096 pairs: seconds in chunks / whole"] = "<= 1.5", ratio(chunked, whole, args.repeats)
    for n, longest in ((512, 8), (256, 32), (64, 512)):
        together, alone = bags(n, longest)
        name = f"madeleine, bags of up to {longest}: one by one / padded batches"
        found[name] = ">= 5", ratio(alone, together, args.repeats)
    found.update({name: (aim, ratios) for name, aim, ratios in searches(args.repeats)})
    result = {
        "benchmark": "pretrain: time and memory against what is replaced",
        "repeats": args.repeats,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "median_ratio": {
            name: {"found": round(statistics.median(ratios), 3), "aim": aim} for name, (aim, ratios) in found.items()
        },
        "contrastive_peak_mib": {
            f"{how}, {n} pairs": round(peak(how, n))
            for how, n in (("whole", PAIRS // 2), ("whole", PAIRS), ("chunks", PAIRS // 2), ("chunks", PAIRS))
        },
        "ratios": {name: ratios for name, (_, ratios) in found.items()},
    }
    text = json.dumps(result, indent=2)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
