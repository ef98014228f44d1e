"""The bench: plan a comparison, run it in parallel, keep every run, and report.

Examples
--------
>>> from anytask.bench import compare  # doctest: +SKIP
>>> compare("task-stream", data="digits", systems=["tame", "prd"], seeds=5).table()  # doctest: +SKIP
"""

from anytask.core.discovery import publish

__getattr__, __dir__ = publish(__name__)
