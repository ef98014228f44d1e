"""One call: seeded draws, a folder of its own, and the verdict on how it ended."""

from __future__ import annotations

import contextlib
import importlib
import linecache
import os
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import hypothesis
import numpy as np
from fingerprints import fingerprint
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers
from sklearn.exceptions import NotFittedError

import anytask
from anytask.core.rng import derive
from fuzz.outcomes import Outcome

SOURCE = str(Path(anytask.__file__).parent)


class Wrong(Exception):
    """An oracle that does not hold."""

    kind = "silent"


class Interrupted(Exception):
    """What a callable of the user raises, in the middle of something."""


class Changed(Wrong):
    """A refused call left a trace."""

    kind = "state"


class Call:
    """What an area has at hand: draws, a folder, and the checks that give a verdict.

    Attributes
    ----------
    draw : callable
        Draws from a hypothesis strategy.
    rng : numpy.random.Generator
        For what is too large to be drawn number by number.
    folder : pathlib.Path
        Empty when the call begins.
    """

    def __init__(self, draw: Callable[[Any], Any], folder: Path, tell: Callable[[str], None]) -> None:
        self.draw, self.folder = draw, folder
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.what = ""
        self._tell = tell

    def doing(self, what: str) -> None:
        """Say what is called, before it is: the watchdog repeats it if it never ends."""
        self.what = what
        self._tell(what)

    def pick(self, options: Any) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def target(self, names: Any) -> str:
        """Pick what to call out of ``names``, of those that ``--target`` leaves where it leaves any."""
        wanted = os.environ.get("FUZZ_TARGET", "")
        return self.pick([name for name in names if name.startswith(wanted)] or names)

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    @contextlib.contextmanager
    def unchanged(self, obj: object, also_after_success: bool = False) -> Iterator[None]:
        """Check that an object is what it was, if the block raises or, for questions, whatever it does."""
        before = fingerprint(obj)
        try:
            yield
        except Wrong:
            raise
        except Exception as error:
            if fingerprint(obj) != before:
                raise Changed(f"{type(error).__name__} left a trace: {error}") from error
            raise
        if also_after_success and fingerprint(obj) != before:
            raise Wrong("a question changed what was asked")

    def must(self, legal: str, function: Callable[[], Any]) -> Any:
        """Return what a legal call gives; a refusal is a defect."""
        try:
            return function()
        except Wrong:
            raise
        except Exception as error:
            raise Wrong(f"{legal} was refused: {type(error).__name__}: {error}") from error


def run(area: str, number: int, seed: int, tell: Callable[[str], None] = lambda what: None) -> Outcome:
    """Make one call and return how it ended."""
    module, found = importlib.import_module(f"fuzz.areas.{area}"), []

    # hypothesis begins with the simplest example, which is the same for every seed: only the second is used.
    @hypothesis.seed(derive(seed, area, number))
    @hypothesis.settings(
        max_examples=2, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck), print_blob=False,
    )  # fmt: skip
    @hypothesis.given(st.data())
    def both(data: Any) -> None:
        data.draw(st.integers(0, 2**64))
        found.append(_one(module, area, number, data.draw, tell) if found or seen else None)
        seen.append(True)

    seen: list[bool] = []
    with _settled():
        both()
    outcomes = [outcome for outcome in found if outcome is not None]
    return outcomes[0] if outcomes else Outcome("ok", area, number, "nothing drawn")


@contextlib.contextmanager
def _settled() -> Iterator[None]:
    """Draw alike whatever modules are imported: hypothesis draws constants out of their source too."""
    nothing = providers.Constants()
    with mock.patch.object(providers, "_get_local_constants", return_value=nothing):
        providers.CONSTANTS_CACHE.cache.clear()
        yield
    providers.CONSTANTS_CACHE.cache.clear()


def _one(module: Any, area: str, number: int, draw: Callable[[Any], Any], tell: Callable[[str], None]) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = Call(draw, Path(folder), tell)
        try:
            with contextlib.chdir(folder):  # where names without a folder are written
                module.run(call)
        except hypothesis.errors.HypothesisException:
            raise
        except Exception as error:
            if os.environ.get("FUZZ_TRACE"):
                traceback.print_exc()
            kind, where = verdict(error)
            said = f"{type(error).__name__}: {error}"
            return Outcome(kind, area, number, call.what, said.replace(folder, "FOLDER")[:600], where)
        return Outcome("ok", area, number, call.what)


#: Errors of Python itself for a wrong signature, which name the parameter.
_SIGNATURE = re.compile(r"unexpected keyword argument|missing \d+ required|positional argument|multiple values for")
#: scikit-learn's own checks of parameters and inputs.
_CHECKS = ("sklearn/utils/validation.py", "sklearn/utils/_param_validation.py", "sklearn/base.py")


def verdict(error: BaseException) -> tuple[str, str]:
    """Return the kind of an error, and where in the library it was last seen.

    Clear is what a ``raise`` statement of the library says in a few words (or an error of the operating system that
    names its file); an error that happens to the library is unclear, whatever its type.
    """
    if isinstance(error, Wrong):
        cause = error.__cause__
        return error.kind, verdict(cause)[1] if cause else ""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(SOURCE)]
    last = frames[-1]
    where = f"{Path(ours[-1].filename).relative_to(SOURCE)}:{ours[-1].name}" if ours else last.name
    text = str(error).strip()
    if isinstance(error, (AssertionError, MemoryError, RecursionError)) or len(text.split()) < 3:
        return "unclear", where
    if isinstance(error, OSError) and error.filename is not None:
        kind = "clear"
    elif not ours or (isinstance(error, TypeError) and _SIGNATURE.search(text) and len(ours) <= 2):
        kind = "clear" if isinstance(error, TypeError) else "unclear"  # the call itself
    elif last.filename.startswith(SOURCE):
        kind = "clear" if linecache.getline(last.filename, last.lineno or 0).lstrip().startswith("raise") else "unclear"
    else:
        kind = "clear" if last.filename.endswith(_CHECKS) and isinstance(error, (ValueError, TypeError)) else "unclear"
    if isinstance(error, (NotFittedError, Interrupted)):
        kind = "clear"
    if kind == "clear" and (len(text) > 4000 or text.count("\n") > 20):
        return "unclear", f"{where} (a message of {len(text)} characters)"
    return kind, where
