"""Continual learners: classifiers that learn from a stream whose distribution changes.

All of them are scikit-learn estimators with ``partial_fit(X, y, task=None)``, ``predict(X)`` and ``predict_proba(X)``
around a :class:`torch.nn.Module` backbone; :mod:`anytask.continual.base` states the protocol.
"""

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
