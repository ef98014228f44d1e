"""Constructors, presets and ``set_params`` of every public class, with odd values."""

from __future__ import annotations

import numbers
import operator
import re
from typing import Any

import attrs
import numpy as np

from anytask.core.settings import Settings
from fuzz import world
from fuzz.calls import Call, Wrong
from fuzz.values import ODD, shown, spoiled

SHARE = 18


def run(call: Call) -> None:
    classes = {name: cls for name, cls in world.published().items() if isinstance(cls, type)}
    name = call.pick(classes)
    cls, one = classes[name], world.reach(name)
    chosen: dict[str, Any] = {}
    for key in call.draw(_some_of(list(world.parameters(cls)))):
        chosen[key] = _value(call, cls, one, key)
    told = ", ".join(f"{key}={shown(value)}" for key, value in chosen.items())
    if one is not None and hasattr(one.made, "set_params") and call.chance(0.4):
        model = one.ready()
        call.doing(f"{name}.set_params({told})")
        with call.unchanged(model):
            model.set_params(**chosen)
        _kept(model, chosen)
        return
    given = {key: world.VALUES[key][0]() for key in world.required(cls) if key in world.VALUES}
    call.doing(f"{name}({told})")
    made = cls(**{**given, **chosen})
    if isinstance(made, Settings):
        repr(made)
        made.get_params()
    _kept(made, chosen)


def _kept(made: Any, chosen: dict[str, Any]) -> None:
    """A number that was taken is finite, and means what was given."""
    for key, value in chosen.items():
        kept = getattr(made, key, value)
        if isinstance(value, (int, float)) and isinstance(kept, (int, float)):
            if isinstance(made, Settings) and not -1e39 < float(kept) < 1e39:
                raise Wrong(f"{key}={shown(value)} was taken")
            if kept != value:
                raise Wrong(f"{key}={shown(value)} became {shown(kept)}")
        wanted = attrs.fields_dict(type(made))[key].metadata.get("wanted", "") if attrs.has(type(made)) else ""
        if key in vars(made) and not _as_wanted(kept, wanted):
            raise Wrong(f"{key}={shown(value)} was taken, and {wanted} is wanted")


_ENDS = {
    r"above ([-.\d]+)": operator.gt, r"(?:at least|from) ([-.\d]+)": operator.ge,
    r"below ([-.\d]+)": operator.lt, r"(?:at most|from \S+ to) ([-.\d]+)": operator.le,
}  # fmt: skip


def _as_wanted(value: Any, wanted: str) -> bool:
    """Whether a value is what the words of its field say, as far as they are understood here."""
    if wanted.endswith(", or None") and value is None:
        return True
    if isinstance(value, str):
        return f"'{value}'" in wanted or not re.match(r"an? (number|integer)\b|one of|True or False", wanted)
    if re.match(r"an? (number|integer)\b", wanted):
        kind = numbers.Integral if wanted.startswith("an integer") else numbers.Real
        ends = [(holds, float(end)) for words, holds in _ENDS.items() for end in re.findall(words, wanted)]
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        return is_number and all(holds(value, end) for holds, end in ends)
    if wanted.startswith(("True or False", "one of")):
        return isinstance(value, (bool, np.bool_)) and wanted.startswith("True")
    return True


def _some_of(names: list[str]) -> Any:
    from hypothesis import strategies as st

    if not names:
        return st.just([])
    return st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)


def _value(call: Call, cls: Any, one: Any, key: str) -> Any:
    fields = {field.name: field for field in attrs.fields(cls)} if attrs.has(cls) else {}
    default = world.parameters(cls)[key].default
    field = fields.get(key)
    if field is not None and (inner := field.metadata.get("group")):
        names = [f.name for f in attrs.fields(inner)]
        if call.chance(0.8):
            return {name: _value(call, inner, None, name) for name in call.draw(_some_of(names))}
        return call.draw(ODD)
    makers = world.good(one, key) or ([lambda: default] if default is not world.parameters(cls)[key].empty else [])
    if makers and call.chance(0.5):
        value = call.pick(makers)()
        return spoiled(call, value) if call.chance(0.8) else value
    return call.draw(ODD)
