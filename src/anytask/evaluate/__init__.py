"""Evaluators: they take a model that somebody else made, and say what one number does not.

All of them follow ``evaluate(model, data) -> Result`` with ``Result.table()``, ``.plot()``, ``.save(folder)`` and
``.load(folder)``; :mod:`anytask.evaluate.base` states the protocol, :mod:`anytask.evaluate.nero.adapters`
which models are taken.
"""

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
