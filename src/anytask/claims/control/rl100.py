"""RL-100: offline, then short online reinforcement learning takes a diffusion policy from demonstrations to success."""

from typing import Any

from anytask.claims.base import Beats, Claim, Experiment, Size
from anytask.core.settings import merged
from anytask.problems.base import Entrant

RL100 = "anytask.control:RL100"
_OFFLINE = ["imitation", "offline"]
_WALLED: dict[str, Any] = {"stages": _OFFLINE, "offline": {"lr": 1e-4, "clip": 0.25}}
#: A quick look shortens every stage, and the episodes.
_QUICK = {
    "demos": 10, "rollouts": 5, "online_episodes": 8, "eval_episodes": 10, "num_envs": 10,
    "env_options": {"max_episode_steps": 10},
    "params": {
        "imitation": {"epochs": 5}, "critics": {"epochs": 2}, "dynamics": {"steps": 5}, "student": {"steps": 5},
        "offline": {"steps": 10, "gate_states": 8, "rollout_length": 5}, "online": {"epochs": 1, "value_warmup": 1},
    },
}  # fmt: skip

CLAIM = Claim(
    system="rl100",
    statement=(
        "In a reach task with 80 demonstrations of mixed speed, of which three in four come in time, the offline stage "
        "lifts the imitating diffusion policy's success by a quarter, at most 256 online episodes take it to 0.97, and "
        "a student with a fifth of the network calls stays within 0.03 of its teacher. Shuffled advantages, and online "
        "learning without the offline stage, do worse. Where critics are poor (two gaps in a wall) the gate does no "
        "worse than no gate."
    ),
    experiments=(
        Experiment(
            "reach",
            "visuomotor",
            "reach",
            (
                Entrant("rl100", RL100, {}, "system", "rl100"),
                Entrant("rl100 (no offline stage)", RL100, {"stages": ["imitation", "online"]}, "ablation"),
                Entrant(
                    "rl100 (shuffled advantages)",
                    RL100,
                    {"stages": _OFFLINE, "offline": {"shuffle_advantages": True}},
                    "ablation",
                ),
                Entrant("diffusion policy", RL100, {"stages": ["imitation"]}, "baseline"),
                Entrant("Gaussian cloning + PPO", "anytask.control.rl100.baselines:GaussianBC", {}, "baseline"),
            ),
            {"eval_episodes": 200},
            plain="diffusion policy",
            quick=_QUICK,
        ),
        Experiment(
            "walled reach",
            "visuomotor",
            "walled-reach",
            (
                Entrant("rl100 (gate)", RL100, _WALLED, "system", "rl100"),
                Entrant("rl100 (no gate)", RL100, merged(_WALLED, {"offline": {"gate": False}}), "ablation"),
            ),
            {"eval_episodes": 200, "online_episodes": 0},
            quick=_QUICK,
        ),
    ),
    headline=(
        Beats("rl100", ("diffusion policy", "Gaussian cloning + PPO"), "success", expected="+.25 over imitation"),
    ),
    components=(
        Beats(
            "rl100",
            ("rl100 (no offline stage)",),
            "success_online",
            sentence="the offline stage, before online learning",
        ),
        Beats("rl100", ("rl100 (shuffled advantages)",), "success_offline", sentence="the advantages"),
        Beats("rl100 (gate)", ("rl100 (no gate)",), "success_offline", "walled reach", sentence="the gate"),
    ),
    sizes=(
        Size("rl100", "offline_gain", "What the offline stage adds", expected="+.25"),
        Size("rl100", "success_online", "Success after the online stage", expected=".97"),
        Size("rl100", "student_gap", "What the one-step student loses", expected=".03 at most"),
        Size("rl100", "call_share", "The student's share of network calls", expected=".2"),
    ),
    source="code",
    tried=(
        "Settings of the small preset were looked for on seeds 100 to 102, which are not among those reported: with "
        "success of those seeds in sight, three larger offline learning rates or clip ranges and a larger batch were "
        "tried and left out. A first full run of this claim had faster targets for the critics (0.05, by the agreement "
        "of V with recorded returns), half as many updates, and time-outs as failures; it was contradicted: offline "
        "gain 0.034 [-0.051, 0.119], online 0.931 [0.894, 0.968], 0.958 without the offline stage, 1.00 for Gaussian "
        "cloning and PPO; gated minus ungated 0.212 [-0.023, 0.447]. The critics were then put back to the paper's "
        "target rate and bootstrapping and to 2,000 updates, which had done better on the development seeds, and "
        "nothing else was changed."
    ),
)
