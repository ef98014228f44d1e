"""A console writes control characters out, whatever is printed."""

import io

import pytest
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from anytask.core.terminal import SafeConsole, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]8;;http://x\x07link\x1b]8;;\x07", r"\x1b]8;;http://x\x07link\x1b]8;;\x07"),
        ("a\rb\x08\x7f\x00", r"a\rb\x08\x7f\x00"),
        ("\x85\x9b31m", r"\x85\x9b31m"),
        ("\u202e\u2066\u2028\udc80", r"\u202e\u2066\u2028\udc80"),
        ("naïve – ✓ \u05d0\u200f\n\tb", "naïve – ✓ \u05d0\u200f\n\tb"),
    ],
)
def test_what_is_obeyed_is_written_out_and_the_rest_stays(text, shown):
    assert visible(text) == shown and visible(shown) == shown


def cell(text):
    table = Table(box=None)
    table.add_column(escape(text))
    table.add_row(Text(text))
    return table


CELLS = [escape, Text, lambda text: Panel(escape(text)), cell]


@pytest.mark.parametrize("make", CELLS, ids=["markup", "text", "panel", "cell"])
def test_nothing_that_is_printed_is_obeyed(make):
    file = io.StringIO()
    console = SafeConsole(file=file, force_terminal=True, color_system="truecolor", width=60, highlight=False)
    console.print(make("[red]\x1b[2J\x9b\u202e[/red]"))
    written = file.getvalue()
    assert r"[red]\x1b[2J\x9b\u202e[/red]" in written
    assert "\x1b[2J" not in written and "\x9b" not in written and "\u202e" not in written


def test_the_console_keeps_its_own_styles():
    file = io.StringIO()
    SafeConsole(file=file, force_terminal=True, color_system="standard").print("[red]no[/]")
    assert file.getvalue() == "\x1b[31mno\x1b[0m\n"
