"""Evaluators: they take a model that somebody else made, and say what one number does not.

All of them follow ``evaluate(model, data) -> Result`` with ``Result.table()``, ``.plot()``, ``.save(folder)`` and
``.load(folder)``; :mod:`anytask.evaluate.base` states the protocol, :mod:`anytask.evaluate.adapters` which models are
taken.
"""

from anytask._lazy import lazy

_LAZY = {
    "Result": "base",
    "as_predictor": "adapters",
    "NERO": "nero",
    "evaluate": "nero",
    "NeroResult": "nero_result",
    "cyclic": "nero",
    "make_group": "nero",
    "reduce_orbits": "nero_reduction",
}

__getattr__, __dir__ = lazy(__name__, _LAZY)
__all__ = sorted(_LAZY)
