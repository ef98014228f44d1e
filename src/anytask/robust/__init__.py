"""Robust learners: classifiers for few, imbalanced or shifting data, with ``fit(X, y)`` and ``predict(X)``.

All of them are scikit-learn estimators around a :class:`torch.nn.Module` backbone; :mod:`anytask.robust.base` states
the protocol.
"""

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
