"""Tables of settings: the parameters of a system, and the options of a problem."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table


def parameters(cls: type) -> Table:
    """Return a table of the parameters of a class: default, presets, meaning and range."""
    presets = getattr(cls, "PRESETS", {})
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("parameter", no_wrap=True)
    for column in ("default", *(f"preset {preset}" for preset in presets)):
        table.add_column(column, overflow="fold")
    table.add_column("meaning")
    for setting in _settings(cls):
        values = [_preset_value(presets[preset], setting.name) for preset in presets]
        table.add_row(setting.name, *(escape(value) for value in (setting.default, *values, _meaning(setting))))
    return table


def options(problem: Any) -> Table:
    """Return a table of the options of a problem: default, meaning and range."""
    from anytask.core.settings import settings_of

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("option", no_wrap=True)
    table.add_column("default", overflow="fold", max_width=24)
    table.add_column("meaning")
    for setting in settings_of(problem.options_class):
        table.add_row(setting.name, escape(_value(setting.default)), escape(_meaning(setting)))
    return table


def _settings(cls: Any) -> list[Any]:
    """List the parameters of a class with written defaults: its settings, or else what its signature tells."""
    import inspect

    import attrs

    from anytask.core.settings import Setting, Settings, settings_of

    if issubclass(cls, Settings):
        required = attrs.NOTHING
        return [attrs.evolve(s, default=_written(s.default, required)) for s in settings_of(cls)]
    known = inspect.signature(cls).parameters.values()
    return [Setting(p.name, _written(p.default, p.empty), "", "") for p in known]


def _written(default: Any, required: Any) -> str:
    return "required" if default is required else repr(default)


def _preset_value(preset: Any, name: str) -> str:
    """Return what a preset sets a parameter to, ``group.name`` for one of a group; "" where it leaves the default."""
    for part in name.split("."):
        if part not in preset:
            return ""
        preset = preset[part]
    return repr(preset)


def _value(value: Any) -> str:
    """Write a default: as JSON, which is how a command line gives it."""
    return "none" if value is None else value if isinstance(value, str) and value.isprintable() else repr(value)


def _meaning(setting: Any) -> str:
    return f"{setting.help} ({setting.wanted})" if setting.wanted else setting.help
