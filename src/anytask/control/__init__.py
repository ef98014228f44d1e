"""Control: environments, policies and the systems that learn one from the other.

Environments are :class:`gymnasium.Env` and batched :class:`gymnasium.vector.VectorEnv` in tensors, policies have
``act(obs)``; :mod:`anytask.control.base` states the protocol, and :func:`make` brings any Gymnasium environment into
it. Importing this package registers the ``anytask/...`` ids with Gymnasium.
"""

from anytask.control import envs as envs  # registers the ids
from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
