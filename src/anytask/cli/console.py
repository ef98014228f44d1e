"""How the command line speaks: two consoles, one line for whatever is wrong, and its exit code."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import typer
from rich.markup import escape
from typer.core import TyperGroup

from anytask.core.errors import ComparisonFailed
from anytask.core.terminal import SafeConsole

logger = logging.getLogger(__name__)

out = SafeConsole(highlight=False)
err = SafeConsole(stderr=True, highlight=False)


def fail(message: object, code: int = 2) -> NoReturn:
    """One line to the user, exit code 2: the input was bad, and nothing was written."""
    text = "; ".join(filter(None, map(str.strip, str(message).splitlines()))) or type(message).__name__
    err.print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def one_line(source: object = "") -> Iterator[None]:
    """Turn whatever comes of bad input into one line and exit code 2, and into exit code 1 once runs had begun."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except ComparisonFailed as error:
        fail(error, 1)
    except (ValueError, TypeError, KeyError, OSError, ImportError) as error:
        fail(error)
    except Exception as error:  # a reader's own: of a damaged archive, say, which says too little by itself
        logger.debug("unexpected", exc_info=True)
        fail(f"{source}: {type(error).__name__}: {error}".removeprefix(": "))


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))  # in ASCII: nothing in it is obeyed by a terminal


def show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    err.print(f"[yellow]warning:[/] {escape(' '.join(str(message).split()))}", soft_wrap=True)


class Commands(TyperGroup):
    """The commands; what is wrong with their arguments is one line too."""

    def main(self, *args: Any, **settings: Any) -> Any:
        """Run a command, and end the process with its exit code."""
        standalone, settings["standalone_mode"] = settings.get("standalone_mode", True), False
        try:
            code = super().main(*args, **settings)
        except typer.Abort:
            if not standalone:
                raise
            code = 1
        except Exception as error:
            if not standalone or not hasattr(error, "format_message"):
                raise
            code = error.exit_code  # type: ignore[attr-defined]
            if message := error.format_message():  # none where the help was printed
                context = getattr(error, "ctx", None)
                help = f" (`{context.command_path} --help` tells more)" if context else ""
                with contextlib.suppress(typer.Exit):
                    fail(message + help)
        return sys.exit(code) if standalone else code
