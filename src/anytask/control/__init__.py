"""Control: environments, policies and the systems that learn one from the other.

Environments are :class:`gymnasium.Env` and batched :class:`gymnasium.vector.VectorEnv` in tensors, policies have
``act(obs)``; :mod:`anytask.control.base` states the protocol, and :func:`make` brings any Gymnasium environment into
it. Importing this package registers the ``anytask/...`` ids with Gymnasium.
"""

from anytask.control import envs as envs  # registers the ids
from anytask.core.lazy import lazy

_LAZY = {
    "BatchedEnv": "base",
    "SingleEnv": "base",
    "Policy": "base",
    "make": "adapters",
    "evaluate": "rollout",
    "collect": "rollout",
    "record": "rollout",
    "EpisodeResults": "rollout",
    "demonstrations": "envs.experts",
    "ScriptedReach": "envs.experts",
    "Rearrangement": "envs.rearrangement",
    "FetchRearrangement": "envs.rearrangement",
    "play_all": "envs.rearrangement",
    "OverlappedStepper": "stepping",
    "filmstrip": "pictures",
    "learning_curves": "pictures",
    "PPO": "ppo",
    "Galactic": "galactic",
    "BehaviorRetrieval": "behavior_retrieval",
    "RL100": "rl100",
}

__getattr__, __dir__ = lazy(__name__, _LAZY)
__all__ = sorted(_LAZY)
