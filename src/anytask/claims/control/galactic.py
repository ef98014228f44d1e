"""Galactic: plain reinforcement learning picks and rearranges, given shaped rewards and sensors of object and goal."""

from anytask.claims.base import Beats, Claim, Experiment, Size
from anytask.problems.base import Entrant

GALACTIC = "anytask.control:Galactic"
_SMALL = {"preset": "small", "device": "cpu"}
# As many samples per round from twice as many environments: the simulator is faster so.
_WIDE = {**_SMALL, "horizon": 16}
# Columns of the disc robot's sensors that point from base and gripper to the object and to the goal.
_POINTERS = [0, 1, 2, 3, 6, 7, 8, 9]
#: A quick look takes few steps of short episodes.
_QUICK = {"total_steps": 2_048, "num_envs": 64, "episodes": 16, "env_options": {"max_episode_steps": 12}}

CLAIM = Claim(
    system="galactic",
    statement=(
        "One network, trained by PPO in a batched kinematic world, picks up a box in at least 80 % of new episodes "
        "after 300,000 steps, where random actions stay under 15 %, and it needs the sensors that point to object and "
        "goal. In 1.5 million steps it begins to carry the box to its goal; with a reward for success alone it does "
        "not, and without the bonus for picking it is worse."
    ),
    experiments=(
        Experiment(
            "pick",
            "rearrangement",
            "pick",
            (
                Entrant("galactic", GALACTIC, _SMALL, "system", "galactic"),
                Entrant("galactic (object and goal not sensed)", GALACTIC,
                        {**_SMALL, "network": {"blind": _POINTERS}}, "ablation"),
                Entrant("random policy", "anytask.control.baselines:RandomPolicy", {}, "baseline"),
            ),
            {"total_steps": 300_000, "deterministic": False},
            plain="random policy",
            quick=_QUICK,
        ),
        Experiment(
            "pick and place",
            "rearrangement",
            "rearrange",
            (
                Entrant("galactic", GALACTIC, _WIDE, "system", "galactic"),
                Entrant("galactic (no pick bonus)", GALACTIC, {**_WIDE, "reward": {"pick_bonus": 0.0}}, "ablation"),
                Entrant("galactic (success reward alone)", GALACTIC,
                        {**_WIDE, "reward": {"progress": 0.0, "pick_bonus": 0.0}}, "ablation"),
            ),
            {"total_steps": 1_500_000, "num_envs": 1024, "deterministic": False},
            quick=_QUICK,
        ),
    ),
    headline=(
        Beats("galactic", ("galactic (success reward alone)",), "success", "pick and place", worth=0.05),
    ),
    components=(
        Beats("galactic", ("galactic (object and goal not sensed)",), "success", sentence="sensors of object and goal"),
        Beats("galactic", ("galactic (no pick bonus)",), "success", "pick and place", sentence="the bonus for picking"),
    ),
    sizes=(
        Size("galactic", "success", "Success in picking after 300,000 steps", expected=".80 and more"),
        Size("random policy", "success", "Success of random actions in picking", expected=".15 at most"),
    ),
    source="code",
    tried=(
        "Actions are sampled in the test, as in the authors' evaluation; with the best action instead, pick reached "
        ".61 to .70 where sampling reached .74 to .82 (development runs with seed 100 and other episodes, before this "
        "claim was fixed). In these runs other heads, initial spreads, entropy weights and a separate value network "
        "changed the success by at most .02; a rate falling to 0 cost .20, so the preset keeps it constant. The 1.5 "
        "million steps of pick and place were set by the time that five seeds may take: one development run reached "
        ".12 in 1.3 million steps, another .53 in 2.7 million (512 copies). The margins of .05 and .10 were set after "
        "these. The small robot's world lets a drop pass and senses where the object is now, since of three versions "
        "of it (seed 0, 2.7 million steps of PPO) this one alone was learned: .43 against .01 where a drop fails."
    ),
)  # fmt: skip
