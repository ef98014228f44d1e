"""Every setting of every public class and of every problem's options, given values that people pass by mistake."""

import math

import attrs
import numpy as np
import pytest

from anytask import problems
from anytask.core import discovery
from anytask.core.settings import Settings

FAMILIES = ("continual", "control", "evaluate", "incontext", "multitask", "pretrain", "prompts", "robust")
HARD = [math.nan, math.inf, -math.inf, 10**400, 1e300, -1, 0, "x", "", None, True, [], {}, object(), np.zeros(3), b"x"]
#: Nothing computes with these, and no setting means them.
NEVER = [math.nan, math.inf, -math.inf, 10**400, 1e300, object(), b"x"]


def public():
    for family in FAMILIES:
        for name, module in discovery.published(f"anytask.{family}").items():
            yield discovery.load(f"{module}:{name}")
    yield from (type(problems.get(key)).options_class for key in problems.KEYS)


def fields(cls, path=()):
    for field in attrs.fields(cls):
        if inner := field.metadata.get("group"):
            yield from fields(inner, (*path, field.name))
        else:
            yield (*path, field.name), field


CLASSES = list(dict.fromkeys(cls for cls in public() if isinstance(cls, type) and issubclass(cls, Settings)))


def refusal(field, value):
    """Return what a field says of a value, or None where it takes it."""
    try:
        if field.converter:
            whole = getattr(field.converter, "takes_field", False)
            value = field.converter(value, None, field) if whole else field.converter(value)
        if field.validator:
            field.validator(None, field, value)
    except (ValueError, TypeError, ImportError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_hard_value_is_refused_by_the_setting_s_name_or_taken_as_it_is_meant(cls):
    for path, field in fields(cls):
        name = ".".join(path)
        assert field.metadata.get("help"), f"{name} has no help"
        for value in HARD:
            said = refusal(field, value)
            assert said is None or field.name in said, f"{name}={value!r} is refused with: {said}"
            assert said or not any(value is one for one in NEVER), f"{name} takes {value!r}"
