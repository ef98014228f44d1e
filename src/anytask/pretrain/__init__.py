"""Encoders that learn without labels: ``fit(X)`` and ``transform(X)``, and features for whatever comes after.

All of them are scikit-learn transformers; :mod:`anytask.pretrain.base` states the protocol.
"""

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
