"""The browser side: the catalogue as a page, and every comparison of a store, also while it runs.

``anytask app`` opens it. It is served from this machine to this machine, and loads nothing from a network.

Examples
--------
>>> from anytask.app import make_app  # doctest: +SKIP
>>> make_app("anytask-runs.sqlite").server  # a WSGI application for a server of your own  # doctest: +SKIP
"""

try:
    import dash  # noqa: F401
except ImportError as error:
    raise ImportError("the browser application needs Dash: pip install 'anytask[app]'") from error

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
