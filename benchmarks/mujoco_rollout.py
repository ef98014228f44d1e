"""Physics steps per second of MuJoCo's native threads and of a Python loop over ``mj_step``. Prints JSON.

python benchmarks/mujoco_rollout.py [--model Hopper-v5] [--n 64] [--steps 100]
"""

from __future__ import annotations

import argparse
import json
import time

import mujoco
import numpy as np

from anytask.control.envs.mujoco_batch import MujocoRollout


def main() -> None:
    """Time both on the same controls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="Hopper-v5")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    with MujocoRollout(given.model, frame_skip=1) as world:
        controls = np.random.default_rng(0).uniform(-1, 1, (given.n, given.steps, world.control_size))
        states = np.tile(world.initial_state(), (given.n, 1))
        world.rollout(states, controls)  # the first call starts the threads
        start = time.perf_counter()
        world.rollout(states, controls)
        native = time.perf_counter() - start
        start = time.perf_counter()
        for sequence in controls:
            data = mujoco.MjData(world.model)
            for control in sequence:
                data.ctrl[:] = control
                mujoco.mj_step(world.model, data)
        python = time.perf_counter() - start
    steps = given.n * given.steps
    print(json.dumps({"native": steps / native, "python": steps / python, "ratio": python / native}))


if __name__ == "__main__":
    main()
