"""Multi-task learners: one model for several targets, or for rows of several tasks, with ``fit(X, y, task)``.

:mod:`anytask.multitask.base` states the protocol.
"""

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
