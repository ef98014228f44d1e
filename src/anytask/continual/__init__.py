"""Continual learners: classifiers that learn from a stream whose distribution changes.

All of them are scikit-learn estimators with ``partial_fit(X, y, task=None)``, ``predict(X)`` and ``predict_proba(X)``
around a :class:`torch.nn.Module` backbone; :mod:`anytask.continual.base` states the protocol.
"""

from anytask.core.lazy import lazy

_LAZY = {
    "ContinualClassifier": "base",
    "TAME": "tame",
    "PRD": "prd",
    "GKCL": "gkcl",
    "FineTuning": "baselines",
    "JointTraining": "baselines",
    "ExperienceReplay": "baselines",
    "LwF": "baselines",
    "NearestClassMean": "baselines",
    "CosineFineTuning": "cosine",
}

__getattr__, __dir__ = lazy(__name__, _LAZY)
__all__ = sorted(_LAZY)
