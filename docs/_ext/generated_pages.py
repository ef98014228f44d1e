"""Write what no list is kept of, before Sphinx reads the sources.

A page per system (card, claim, evidence, class) with their index, a page per package with its modules, and the
changelog with what is not released yet.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
import sys
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

import anytask
from anytask import catalogue, claims
from anytask.app.catalogue.cards import SEES, costs, snippet
from anytask.claims.evidence import comparison_text, found_in_words, provenance_in_words, read_evidence, reading
from anytask.claims.figure import CAPTION, effect_figure, evidence_figure
from anytask.cli.tables import parameter_rows
from anytask.core import discovery

ROOT = Path(__file__).resolve().parents[2]


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir)))
    app.connect("build-finished", lambda app, error: write_plotly(Path(app.outdir) / "_static"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(docs: Path) -> None:
    ready = [card for card in catalogue.SYSTEMS if catalogue.state(card) == "available"]
    write(docs / "systems", {"index": index_page()} | {card.key: system_page(card) for card in ready})
    write(docs / "api", api_pages())
    sys.path.insert(0, str(ROOT / "scripts"))
    from changelog import assembled

    replace(docs / "changelog.md", assembled(ROOT))


def write_plotly(folder: Path) -> None:
    """Put Plotly's script beside the pages, whose figures then load nothing from a network."""
    folder.mkdir(exist_ok=True)
    replace(folder / "plotly.min.js", get_plotlyjs())


def write(folder: Path, pages: dict[str, str]) -> None:
    """Make the pages of a folder these; one that says the same already is left alone, so that Sphinx skips it."""
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        replace(folder / f"{name}.md", text)


def replace(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def api_pages() -> dict[str, str]:
    """Return a page per package, with every module that has a docstring, and their index."""
    packages = [module.name for module in pkgutil.iter_modules(anytask.__path__) if module.ispkg]
    lines = ["# Reference", "", "The systems have [pages of their own](../systems/index.md); here is all the rest.", ""]
    lines += ["```{toctree}", ":maxdepth: 1", "", *packages, "```", ""]
    return {"index": "\n".join(lines)} | {name: api_page(f"anytask.{name}") for name in packages}


def api_page(package: str) -> str:
    published = discovery.published(package)
    own_pages = {card.entry.partition(":")[2] for card in catalogue.SYSTEMS if card.entry.startswith(f"{package}:")}
    lines = [f"# {package}", "", "```{eval-rst}", f".. automodule:: {package}", "   :no-members:", "```", ""]
    for module, file in discovery.modules(package).items():
        if ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))):
            lines += [f"## {module.removeprefix(package + '.')}", "", "```{eval-rst}", f".. automodule:: {module}"]
            elsewhere = sorted(own_pages & {name for name, place in published.items() if place == module})
            lines += ["   :ignore-module-all:"]
            lines += [f"   :exclude-members: {', '.join(elsewhere)}"] if elsewhere else []
            lines += ["```", ""]
    return "\n".join(lines)


def index_page() -> str:
    ready = [card for card in catalogue.SYSTEMS if catalogue.state(card) == "available"]
    lines = ["# Systems", "", f"{len(catalogue.SYSTEMS)} systems, {len(ready)} available.", ""]
    lines += ["| system | family | what it does for you | claim |", "|---|---|---|---|"]
    for card in ready:
        lines.append(f"| [{card.name}]({card.key}.md) | {card.family} | {_cell(card.use)} | {_outcome(card.key)} |")
    lines += ["", "## Planned", "", "| key | family | what it will do for you |", "|---|---|---|"]
    lines += [f"| {card.key} | {card.family} | {_cell(card.use)} |" for card in catalogue.SYSTEMS if card not in ready]
    lines += ["", "```{toctree}", ":hidden:", "", *(card.key for card in ready), "```", ""]
    return "\n".join(lines)


def system_page(card: catalogue.Card) -> str:
    """A page for whoever decides whether to use a system: its use, a call, its cost, its evidence, its parameters."""
    module, name = card.entry.split(":")
    cls = catalogue.load(card)
    evidence = read_evidence(card.key) if card.key in claims.KEYS else None
    lines = [f"# {card.name}", "", card.use, "", *when_to_pick(cls)]
    lines += _block(effect_figure(evidence)) if evidence else []
    lines += ["## In code", "", "```python", snippet(card), "```", ""]
    lines += [f"On your own data, beside what it has to beat: `anytask compare {card.problems[0]} --data FILE`.", ""]
    lines += ["## What it needs and costs", ""]
    lines += [f"- {text}" for text in _needs(card, evidence)] + [""]
    lines += ["## Does it do what its paper says?", "", *_evidence(card.key, evidence)]
    head, rows = parameter_rows(cls)
    lines += ["## Parameters", "", *_table(head, [[f"`{row[0]}`", *map(_code, row[1:-1]), row[-1]] for row in rows])]
    lines += [f"*{card.title}*, {card.year}" + (
        f", [arXiv:{card.arxiv}](https://arxiv.org/abs/{card.arxiv})." if card.arxiv else "."
    ), ""]  # fmt: skip
    lines += ["## Reference", "", f"`from {module} import {name}`", "", "```{eval-rst}"]
    lines += [f".. automodule:: {cls.__module__}", "   :no-members:", "   :no-index:", ""]
    lines += [f".. autoclass:: {cls.__module__}.{name}", "   :members:"]
    lines += ["   :inherited-members: BaseEstimator, ClassifierMixin, object", "```", ""]
    return "\n".join(lines)


def when_to_pick(cls: type) -> list[str]:
    """Return what a class's docstring says of its use: from behind its first line to "Pick it ..."."""
    paragraphs = (inspect.getdoc(cls) or "").split("\n\n")
    told = [n for n, paragraph in enumerate(paragraphs) if "Pick it" in paragraph]
    return ["```{eval-rst}", *"\n\n".join(paragraphs[1 : told[-1] + 1]).splitlines(), "```", ""] if told else []


def _needs(card: catalogue.Card, evidence: dict[str, Any] | None) -> list[str]:
    install = f"`pip install 'anytask[{card.extra}]'`" if card.extra else "the core, with no extra"
    found = [f"Install: {install}.", f"It sees of the task: {SEES[card.sees]}."]
    spent = costs(evidence).items() if evidence else ()
    return found + [f"{words[0].upper()}{words[1:]}: {value}." for words, value in spent]


def _evidence(key: str, evidence: dict[str, Any] | None) -> list[str]:
    if key not in claims.KEYS:
        return ["No claim is written for it yet.", ""]
    if evidence is None:
        claim = claims.get(key)
        return [claim.statement, "", f"{reading(claim.source)} Not recorded yet: `anytask verify {key}` runs it.", ""]
    lines = [f"**{evidence['outcome'].capitalize()}.** {evidence['claim']}", ""]
    lines += [f"- {_cell(sentence)}" for sentence in found_in_words(evidence)] + [""]
    lines += [*_block(evidence_figure(evidence)), CAPTION, ""]
    compared = [*evidence["headline"], *evidence["components"]]
    rows = [[one["outcome"], one["experiment"], comparison_text(one)] for one in compared]
    tried = ["What else was tried: " + evidence["tried"], ""] if evidence["tried"] else []
    details = [f"- {_cell(sentence)}" for sentence in provenance_in_words(evidence)] + [""]
    numbers = _table(["outcome", "experiment", "comparison"], rows)
    lines += _fold("In numbers, and how it was found", [*numbers, *details, *tried])
    return [*lines, f"Repeat it, on seeds that nobody has seen, with `anytask verify {key}`.", ""]


def _block(figure: Any) -> list[str]:
    """Return a figure as raw HTML."""
    figure.update_layout(paper_bgcolor="white", plot_bgcolor="white")
    config = {"displayModeBar": False, "responsive": True}
    html = figure.to_html(full_html=False, include_plotlyjs="../_static/plotly.min.js", config=config)
    return ["```{raw} html", *html.splitlines(), "```", ""]


def _fold(title: str, lines: list[str]) -> list[str]:
    opened = ["```{raw} html", f"<details><summary>{title}</summary>", "```", ""]
    return [*opened, *lines, "```{raw} html", "</details>", "```", ""]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(map(_cell, row)) + " |" for row in rows), ""]


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _outcome(key: str) -> str:
    evidence = read_evidence(key) if key in claims.KEYS else None
    return evidence["outcome"] if evidence else "not recorded"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
