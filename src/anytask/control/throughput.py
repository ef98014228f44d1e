"""How many environment steps per second: simulation alone, with a policy, and with learning, by ``num_envs``."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from anytask.control.adapters import make
from anytask.core.colors import PALETTE

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LABELS = {"simulation": "simulation", "policy": "simulation and policy", "training": "simulation and learning"}


@dataclass(frozen=True)
class Throughput:
    """Environment steps per second by number of parallel environments.

    Attributes
    ----------
    num_envs : tuple of int
        Parallel environments.
    rates : dict of str to tuple of float
        ``"simulation"``, and ``"policy"`` and ``"training"`` where they were asked for: steps per second, of all
        together.
    name, device : str

    Examples
    --------
    >>> print(Throughput((1, 8), {"simulation": (500.0, 3900.0)}, "Reach", "cpu").table())
    num_envs  simulation
           1         500
           8       3,900
    """

    num_envs: tuple[int, ...]
    rates: dict[str, tuple[float, ...]]
    name: str
    device: str

    def table(self) -> str:
        """Return the report as lines of text."""
        heads = ["num_envs", *(_LABELS[kind] for kind in self.rates)]
        rows = [[f"{n:,}", *(f"{rate[k]:,.0f}" for rate in self.rates.values())] for k, n in enumerate(self.num_envs)]
        wide = [max(len(row[c]) for row in [heads, *rows]) for c in range(len(heads))]
        return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, wide)) for row in [heads, *rows])

    def figure(self, more: dict[str, tuple[Sequence[int], Sequence[float]]] | None = None) -> go.Figure:
        """Return a log-log figure; ``more`` adds lines, name -> (num_envs, steps per second)."""
        import plotly.graph_objects as go

        from anytask.control.images import framed

        lines: dict[str, tuple[Sequence[int], Sequence[float]]] = {
            _LABELS[kind]: (self.num_envs, rate) for kind, rate in self.rates.items()
        }
        figure = go.Figure()
        for (name, (counts, rate)), color in zip((lines | (more or {})).items(), PALETTE):
            figure.add_scatter(
                x=list(counts), y=list(rate), name=name, mode="lines+markers", line={"color": color, "width": 2.5},
                hovertemplate="%{x:,} environments: %{y:,.0f} steps/s<extra>" + name + "</extra>",
            )  # fmt: skip
        framed(figure, "parallel environments", f"environment steps per second ({self.device})")
        figure.update_xaxes(type="log", tickvals=self.num_envs, ticktext=[f"{n:,}" for n in self.num_envs])
        figure.update_yaxes(type="log", dtick=1)
        return figure


def throughput(
    env: Any = "anytask/Rearrangement-v0",
    policy: Any = None,
    num_envs: Sequence[int] = (1, 16, 128, 1024, 8192),
    *,
    learner: Callable[[int], Any] | None = None,
    seconds: float = 1.0,
    device: str | torch.device = "cpu",
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[float], None] | None = None,
    **options: Any,
) -> Throughput:
    """Measure how fast an environment steps, and how fast something learns in it, by number of parallel environments.

    What counts is environment steps, of all together, and not calls of ``step``; the first calls (or a learner's first
    round) are warm-up and left out.

    Parameters
    ----------
    env : str or callable
        What :func:`anytask.control.make` takes, with ``num_envs`` and ``options``.
    policy : Policy, optional
        Also time steps with ``policy.act`` before each.
    num_envs : sequence of int
        Numbers of parallel environments.
    learner : callable, optional
        Also time learning: ``learner(n)`` returns what ``train(env, total_steps)`` trains in n environments, such as
        ``lambda n: PPO(horizon=32)``.
    seconds : float, default 1.0
        Least time of each measurement.
    device, seed, options
        Of the environment.
    clock : callable, default ``time.perf_counter``
        ``time.process_time`` for processor time, which other programs on the machine disturb less.
    progress : callable, optional
        Called with the finished share in [0, 1].

    Examples
    --------
    >>> report = throughput("anytask/Reach-v0", num_envs=(1, 64), seconds=0.05)
    >>> report.rates["simulation"][1] > report.rates["simulation"][0]
    True
    """
    sizes = tuple(int(n) for n in num_envs)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"num_envs must be whole numbers of at least 1, got {list(num_envs)!r}")
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds!r}")
    rates: dict[str, list[float]] = {"simulation": []}
    rates |= {kind: [] for kind, asked in (("policy", policy), ("training", learner)) if asked is not None}
    for done, n in enumerate(sizes):
        world: Any = make(env, n, seed=seed, device=device, **options)
        rates["simulation"].append(_rate(world, None, seconds, seed, clock))
        if policy is not None:
            rates["policy"].append(_rate(world, policy, seconds, seed, clock))
        if learner is not None:
            rates["training"].append(_learning(world, learner(n), seconds, clock))
        world.close()
        if progress is not None:
            progress((done + 1) / len(sizes))
    name = env if isinstance(env, str) else getattr(env, "__name__", type(env).__name__)
    return Throughput(sizes, {kind: tuple(values) for kind, values in rates.items()}, name, str(device))


def _rate(world: Any, policy: Any, seconds: float, seed: int, clock: Callable[[], float]) -> float:
    """Steps per second with a policy, or with random actions that were drawn beforehand."""
    world.action_space.seed(seed)
    drawn = [torch.as_tensor(world.action_space.sample(), device=getattr(world, "device", "cpu")) for _ in range(16)]
    obs, _ = world.reset(seed=seed)
    if policy is not None and hasattr(policy, "reset"):
        policy.reset()

    def play(calls: int) -> float:
        nonlocal obs
        _settled()
        start = clock()
        with torch.no_grad():
            for k in range(calls):
                obs, *_ = world.step(drawn[k % 16] if policy is None else policy.act(obs))
        _settled()
        return clock() - start

    calls = 4
    play(8)
    while (spent := play(calls)) < seconds:
        calls = min(8 * calls, int(1.3 * calls * seconds / max(spent, 1e-9)) + 1)
    return calls * world.num_envs / spent


def _learning(world: Any, learner: Any, seconds: float, clock: Callable[[], float]) -> float:
    horizon = int(getattr(learner, "horizon", 64)) * world.num_envs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # there is little to learn from so few rounds
        learner.train(world, horizon)  # warm-up, and an estimate
        start = clock()
        learner.train(world, horizon)
        rounds = max(1, min(100, int(seconds / max(clock() - start, 1e-9))))
        _settled()
        start, before = clock(), int(getattr(learner, "steps_", 0))
        learner.train(world, rounds * horizon)
        _settled()
    steps = int(getattr(learner, "steps_", 0)) - before or rounds * horizon
    return steps / (clock() - start)


def _settled() -> None:
    """Wait for kernels that are still running."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
