"""anytask: published task-agnostic learning systems on one set of shared parts.

``import anytask`` is cheap: it loads neither torch nor transformers. The four jobs of the package are reached by

* :mod:`anytask.catalogue`: which systems exist for a problem,
* :func:`anytask.bench.compare`: which of them works best on your own data,
* the families (:mod:`anytask.continual`, :mod:`anytask.incontext`, :mod:`anytask.prompts`, ...): the systems,
* :mod:`anytask.claims`: whether a system does what its paper says.

:func:`anytask.tune_prompt` takes one road through all of it: from a pile of text to a cheap prompt.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "tune_prompt":
        return import_module("anytask.tuning").tune_prompt
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
