"""Speed of the control family. Prints JSON.

python benchmarks/control.py [--seconds 1.0] [--figure FILE.html]

Simulation: the rearrangement simulator against the same task as plain Gymnasium environments in a SyncVectorEnv (equal
observations and rewards; tests/control/test_rearrangement.py compares them number by number), from 1 to 8,192 copies.
Deployment: RL-100's one-step student against its policy of ten denoising steps.
PPO: our learner against Stable-Baselines3 (a peer that has to be installed), with the same settings; takes minutes.
Times are processor time of one thread, so that other programs disturb the ratio less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from anytask.control.envs.rearrangement import Rearrangement
from anytask.control.throughput import throughput
from control_ppo import ppo_against_sb3
from rearrangement_plain import PlainRearrangement

COPIES = (1, 8, 64, 512, 1024, 4096, 8192)
PLAIN = (1, 8, 64, 512)


def plain_rate(n: int, seconds: float) -> float:
    """Steps per second of n plain environments in a SyncVectorEnv."""
    model = Rearrangement(1, task="rearrange", episodes=200)
    create: list[Callable[[], gymnasium.Env]] = [lambda: PlainRearrangement(model)] * n
    env = SyncVectorEnv(create, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    drawn = [env.action_space.sample() for _ in range(16)]
    steps, start = 0, time.process_time()
    while time.process_time() - start < seconds or steps < 8:
        env.step(drawn[steps % 16])
        steps += 1
    return n * steps / (time.process_time() - start)


def loop_rate(seconds: float) -> float:
    """Steps per second of one plain environment in a bare Python loop."""
    env = PlainRearrangement(task="rearrange", episodes=200)
    env.reset(seed=0)
    drawn = [env.action_space.sample() for _ in range(64)]
    steps, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        if env.step(drawn[steps % 64])[2]:
            env.reset()
        steps += 1
    return steps / (time.process_time() - start)


def simulation(seconds: float, figure: str | None) -> dict[str, Any]:
    """Time both, copies by copies."""
    loop = loop_rate(seconds)
    plain = [plain_rate(n, seconds) for n in PLAIN]
    report = throughput(Rearrangement, None, COPIES, seconds=seconds, clock=time.process_time, task="rearrange")
    batched = report.rates["simulation"]
    if figure is not None:
        drawing = report.figure({"plain environments in a SyncVectorEnv": (PLAIN, plain)})
        drawing.write_html(figure, include_plotlyjs=True)
    by_copies = dict(zip(COPIES, batched))
    return {
        "plain_loop_steps_per_second": round(loop),
        "plain_steps_per_second": dict(zip(PLAIN, map(round, plain))),
        "batched_steps_per_second": {n: round(rate) for n, rate in by_copies.items()},
        "ratio_at_1024_to_plain_loop": round(by_copies[1024] / loop, 1),
        "ratio_at_512": round(by_copies[512] / plain[PLAIN.index(512)], 1),
        "ratio_at_1024_to_best_plain": round(by_copies[1024] / max(plain), 1),
        "ratio_at_8192_to_best_plain": round(by_copies[8192] / max(plain), 1),
    }


def deployment(seconds: float) -> dict[str, Any]:
    """Actions per second of RL-100's multi-step policy and of its one-step student, in one copy of a world.

    Both are the released configuration but for the chunk: ten denoising steps against one, single actions, so that
    every action is a decision. Weights do not matter for the speed; the networks are hardly trained.
    """
    from anytask.control import demonstrations
    from anytask.control.rl100 import RL100

    demos = demonstrations("anytask/Reach-v0", 4, seed=0)
    policy = RL100(horizon=1, n_obs=1, n_executed=1, imitation={"epochs": 1}, student={"steps": 1}, device="cpu")
    policy.fit(demos).distil(demos)
    obs = torch.zeros(1, 3)
    blocks: dict[str, list[float]] = {"teacher": [], "student": []}
    began = time.process_time()
    # In turns, so that what else the machine does disturbs both alike; the first block is warm-up.
    while time.process_time() - began < 2 * seconds or len(blocks["student"]) < 4:
        for use, taken in blocks.items():
            policy.use, start = use, time.process_time()
            for _ in range(20):
                policy.act(obs)
            taken.append(time.process_time() - start)
    teacher, student = (20 / statistics.median(taken[1:]) for taken in blocks.values())
    return {
        "multi_step_actions_per_second": round(teacher, 1),
        "one_step_actions_per_second": round(student, 1),
        "ratio": round(student / teacher, 2),
    }


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="least time of each measurement")
    parser.add_argument("--figure", default=None, help="write the figure to this HTML file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = {"simulation": simulation(args.seconds, args.figure), "deployment": deployment(args.seconds)}
    report["ppo"] = ppo_against_sb3()
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
