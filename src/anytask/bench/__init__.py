"""The bench: plan a comparison, run it in parallel, keep every run, and report.

Examples
--------
>>> from anytask.bench import compare  # doctest: +SKIP
>>> compare("task-stream", data="digits", systems=["tame", "prd"], seeds=5).table()  # doctest: +SKIP
"""

from anytask.core.lazy import lazy

_LAZY = {
    # A submodule must not carry the name of a published function: importing it would put the module in its place.
    "compare": "comparison",
    "Comparison": "comparison",
    "Run": "store",
    "RunStore": "store",
    "Plan": "planning",
    "plan": "planning",
    "execute": "run",
    "write_report": "report",
}

__getattr__, __dir__ = lazy(__name__, _LAZY)
__all__ = sorted(_LAZY)
