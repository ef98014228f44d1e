"""Evaluators: they take a model that somebody else made, and say what one number does not.

All of them follow ``evaluate(model, data) -> Result`` with ``Result.table()``, ``.plot()``, ``.save(folder)`` and
``.load(folder)``; :mod:`anytask.evaluate.base` states the protocol, :mod:`anytask.evaluate.nero.adapters`
which models are taken.
"""

from anytask.core.lazy import lazy

_LAZY = {
    "Result": "base",
    "as_predictor": "nero.adapters",
    "NERO": "nero",
    "evaluate": "nero",
    "NeroResult": "nero.result",
    "cyclic": "nero",
    "make_group": "nero",
    "reduce_orbits": "nero.reduction",
}

__getattr__, __dir__ = lazy(__name__, _LAZY)
__all__ = sorted(_LAZY)
