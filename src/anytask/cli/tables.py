"""Tables of settings: the parameters of a system, and the options of a problem."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table


def parameters(cls: type) -> Table:
    """Return a table of the parameters of a class: default, presets, meaning and range."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    head, rows = parameter_rows(cls)
    table.add_column(head[0], no_wrap=True)
    for column in head[1:-1]:
        table.add_column(column, overflow="fold")
    table.add_column(head[-1])
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def parameter_rows(cls: type) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table of a class's parameters."""
    presets = getattr(cls, "PRESETS", {})
    head = ["parameter", "default", *(f"preset {preset}" for preset in presets), "meaning"]
    rows = [
        [one.name, one.default, *(_preset_value(presets[preset], one.name) for preset in presets), _meaning(one)]
        for one in sorted(_settings(cls), key=lambda one: one.name in ("seed", "device"))  # what all have comes last
    ]
    return head, rows


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
