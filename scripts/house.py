"""Measure the house: code lines, modules that grew too long, imports that point up, circles, seconds of tests.

Code lines are lines with code: docstrings, comments and blank lines are not counted. Nothing is imported.
"""

from __future__ import annotations

import ast
import collections
import io
import json
import statistics
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "anytask"

FAMILIES = (
    *("continual", "multitask", "pretrain", "robust", "incontext", "prompts", "decoding", "synthesis", "agents"),
    *("control", "evaluate", "imagegen"),
)
#: From the top of the house to its ground: a module imports from floors below its own, or from its own folder.
FLOORS = (
    ("cli",),
    ("app",),
    ("claims", "tuning"),
    ("bench",),
    ("problems",),
    FAMILIES,
    ("parts", "datasets"),
    ("lm",),
    ("models",),
    ("catalogue",),
    ("core",),
)
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names}
LONG = 400


def modules(source: Path = SOURCE) -> dict[str, Path]:
    """Return every module below ``source`` by its dotted name, "" for the package itself."""
    return {
        ".".join(f.relative_to(source).with_suffix("").parts).removesuffix("__init__").removesuffix("."): f
        for f in sorted(source.rglob("*.py"))
    }


def code_lines(path: Path) -> int:
    """Count the lines of a module that hold code."""
    text = path.read_text(encoding="utf-8")
    doc: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        first = node.body[0] if isinstance(getattr(node, "body", None), list) and node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            doc.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    blank = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    used: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in blank:
            used.update(range(token.start[0], token.end[0] + 1))
    return len(used - doc)


def imports(path: Path, known: dict[str, Path], *, only_at_import: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line, module) for every module of the package that ``path`` imports, dotted without ``anytask.``.

    Parameters
    ----------
    path : Path
    known : dict
        What :func:`modules` returned.
    only_at_import : bool
        Leave out imports inside functions and under ``TYPE_CHECKING``, which cannot make a circle at import time.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = _executed_at_import(tree) if only_at_import else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "anytask":
            base = (node.module or "").partition(".")[2]
            for alias in node.names:
                inner = f"{base}.{alias.name}" if base else alias.name
                yield node.lineno, inner if inner in known else base
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "anytask":
                    yield node.lineno, alias.name.partition(".")[2]


def _executed_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _executed_at_import(node)


def upward(source: Path = SOURCE) -> list[str]:
    """List the imports that point up the house, or across it from one folder of a floor to another."""
    known = modules(source)
    found = []
    for name, path in known.items():
        room = name.split(".")[0]
        for line, target in imports(path, known):
            other = target.split(".")[0]
            if room in FLOOR and other in FLOOR and other != room and FLOOR[other] <= FLOOR[room]:
                found.append(f"{path.relative_to(source)}:{line} -> {target}")
    return found


def circles(source: Path = SOURCE) -> list[tuple[str, ...]]:
    """List the groups of modules that import each other, in whatever number of steps, inside functions too."""
    known = modules(source)
    graph = {name: {t for _, t in imports(path, known) if t in known and t != name} for name, path in known.items()}
    return [tuple(sorted(group)) for group in _strongly_connected(graph) if len(group) > 1]


def _strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = set()
            while node not in group:
                group.add(stack.pop())
            groups.append(group)

    for node in graph:
        if node not in index:
            visit(node)
    return groups


def systems(known: dict[str, Path], sizes: dict[str, int]) -> dict[str, int]:
    """Return what each available system's own module or folder weighs, by "family/key"."""
    sys.path.insert(0, str(SOURCE.parent))
    from anytask import catalogue

    weights = {}
    for card in catalogue.SYSTEMS:
        own = f"{card.family}.{card.key.replace('-', '_')}"
        parts = [sizes[name] for name in known if name == own or name.startswith(own + ".")]
        if parts:
            weights[f"{card.family}/{card.key}"] = sum(parts)
    return weights


def main() -> None:
    known = modules()
    sizes = {name: code_lines(path) for name, path in known.items()}
    folders: collections.Counter[str] = collections.Counter()
    for name, lines in sizes.items():
        folders[name.split(".")[0] or "(package)"] += lines
    print(f"code lines: {sum(sizes.values()):,}")
    for folder, lines in folders.most_common():
        print(f"  {folder:12} {lines:6,}")
    own = systems(known, sizes)
    print(f"systems, own code lines: median {statistics.median(own.values()):.0f}")
    for name, lines in sorted(own.items(), key=lambda item: -item[1]):
        print(f"  {name:32} {lines:6,}")
    long = sorted(((n, name) for name, n in sizes.items() if n > LONG), reverse=True)
    print(f"modules over {LONG} code lines: {len(long)}")
    for n, name in long:
        print(f"  {name:40} {n:4}")
    for title, found in (("imports that point up", upward()), ("circles", [" ".join(c) for c in circles()])):
        print(f"{title}: {len(found)}")
        for line in found:
            print(f"  {line}")
    record = ROOT / ".pytest_cache" / "cpu_seconds.json"
    if not record.exists():
        print("CPU seconds of tests: not recorded yet, run `make test`")
        return
    seconds: collections.Counter[str] = collections.Counter()
    for file, spent in json.loads(record.read_text()).items():
        seconds["/".join(Path(file).parts[:2])] += spent
    print(f"CPU seconds of tests, last run: {sum(seconds.values()):.0f}")
    for folder, spent in seconds.most_common():
        print(f"  {folder:24} {spent:6.1f}")


if __name__ == "__main__":
    main()
