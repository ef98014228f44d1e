"""The command line: every command with good and odd arguments ends in an answer or in one line and exit code 2."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer
from hypothesis import strategies as st
from typer.testing import CliRunner

from anytask import catalogue, cli, problems
from fuzz.calls import Call, Wrong
from fuzz.values import WORDS

SHARE = 10
#: A word that a terminal library takes for a color.
MARKED = "[red]"

#: What a command is given for its parameters, by their names; others get words and numbers.
GOOD = {
    "key": ["tame", "prd", "nero", "sla", "migu", "all"],
    "family": [*catalogue.FAMILIES], "problem": [*problems.KEYS], "search": ["task", "stream boundary"],
    "data": ["DATA", "digits", "modifiers", "pick"], "systems": ["tame", "prd,gkcl", "all", ",", "tame,tame"],
    "target": ["label", "size"], "task": ["label", "color"], "identity": ["none", "train", "train+test", "boundary"],
    "lm": ["tiny:icl", "sim:weak"], "options": ["n_tasks=2", "epochs=1", "n_tasks=[", "=", "lr=-1", "a=b"],
    "store": ["runs.sqlite", ".", "no/such/place"], "report": ["report.html", "."], "save_best": ["best"],
    "host": ["127.0.0.1", "localhost", "::1"], "port": ["0", "65536", "1"], "nero": ["."], "evidence": ["evidence"],
    "seeds": ["1", "2"], "budget_seconds": ["0", "nan", "1"], "jobs": ["1"], "backend": ["sequential", "threading"],
}  # fmt: skip
#: Commands whose work is the subject of other areas, or would not end: only what comes before it is run.
TOO_LONG = {
    "verify": ("anytask.claims.verify.verify", "anytask.claims.verify.verify_real"),
    "app": ("werkzeug.serving.BaseWSGIServer.serve_forever",),
}


@functools.cache
def _commands() -> dict[str, Any]:
    return dict(typer.main.get_command(cli.app).commands)


class Told(Wrong):
    """A traceback, or more than one line for bad input."""

    kind = "unclear"


def run(call: Call) -> None:
    name = call.pick([*_commands(), "compare", "compare"])
    command = _commands()[name]
    words = [name]
    for parameter in command.params:
        required = parameter.required or (name == "compare" and parameter.name in ("problem", "data"))
        if not call.chance(0.95 if required else 0.15):
            continue
        option = next((o for o in parameter.opts if o.startswith("--")), None)
        if getattr(parameter, "is_flag", False):
            words.append(call.pick([*parameter.opts, *parameter.secondary_opts]))
            continue
        value = _value(call, parameter.name)
        words += [option, value] if option else [value]
    if call.chance(0.05):
        words.insert(call.draw(st.integers(0, len(words))), call.pick(WORDS))
    if name == "compare":
        words += ["--seeds", "1", "--jobs", "1", "--backend", "sequential", "--budget-seconds", "1"] * call.chance(0.9)
    if any("\x00" in word or "\ud800" in word for word in words):
        words = [word.replace("\x00", "").replace("\ud800", "") for word in words]  # which no shell can pass on
    call.doing(f"anytask {name}({' '.join(map(ascii, words[1:]))[:300]})")
    before = set(call.folder.iterdir())
    code, out, err = _outside(call, words) if name not in TOO_LONG and call.chance(0.02) else _inside(call, words)
    if code not in (0, 1, 2):
        raise Told(f"exit code {code}: {err[-200:]}")
    if "Traceback" in err or "Traceback" in out:
        raise Told(err[-300:])
    if code == 2:
        _refused(err + out, sorted(path.name for path in set(call.folder.iterdir()) - before))
    if code == 2 and MARKED in words and name not in TOO_LONG:
        plain = "".join(_inside(call, [word.replace(MARKED, "zzz") for word in words])[1:])
        if plain.count("zzz") != (err + out).count(MARKED):
            raise Wrong(f"{MARKED} of an argument was read as markup")
    if code == 0 and "--json" in words and "--help" not in words and "-h" not in words:
        json.loads(out)
    control = {c for word in words for c in word if ord(c) < 32 and c not in "\n\r\t"} | {"\u202e"}
    if told := control & set(out + err):
        raise Wrong(f"the control character {told.pop()!a} of an argument reached the terminal")


def _value(call: Call, name: str) -> str:
    value = call.pick(GOOD.get(name, ["1", "x"])) if call.chance(0.6) else call.pick([*WORDS, "3", "-5", "x,y", "1.5"])
    if call.chance(0.1):
        value = call.draw(st.text(max_size=10))
    if value == "DATA":
        path = call.folder / "mine.csv"
        path.write_text("size,color,label\n" + "".join(f"{i}.5,red,{'ab'[i % 2]}\n" for i in range(24)))
        return str(path)
    return value


def _refused(text: str, written: list[str]) -> None:
    if not re.search(r"error|usage|missing|invalid|no such", text, re.IGNORECASE):
        raise Told(f"exit code 2 without a reason: {text[-200:]!r}")
    if inside := re.search(r"(Index|Attribute|Assertion|UnboundLocal|ZeroDivision|Recursion|Memory|Name)Error", text):
        raise Told(f"{inside[0]} for bad input: {text[:200]!r}")
    if text.lstrip().startswith("error:") and len(text.strip().splitlines()) > 1:
        raise Told(f"more than one line for bad input: {text[:200]!r}")
    if written := [name for name in written if name != "mine.csv"]:
        raise Wrong(f"bad input, and {', '.join(written)} was written")


def _inside(call: Call, words: list[str]) -> tuple[int, str, str]:
    import webbrowser
    from unittest import mock

    def stopped(*args: Any, **kwargs: Any) -> Any:
        raise ValueError("the harness ends here")

    here = Path.cwd()
    os.chdir(call.folder)
    try:
        with (
            mock.patch(TOO_LONG["verify"][0], stopped),
            mock.patch(TOO_LONG["verify"][1], stopped),
            mock.patch(TOO_LONG["app"][0], return_value=None),
            mock.patch.object(webbrowser, "open", return_value=True),
        ):
            result = CliRunner().invoke(cli.app, words)
    finally:
        os.chdir(here)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def _outside(call: Call, words: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "anytask.cli", *words],
        capture_output=True, text=True, check=False, timeout=120, cwd=call.folder,
        env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr
