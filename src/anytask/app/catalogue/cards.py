"""One system as a card in the grid, and as a sheet with all that is known of it."""

from __future__ import annotations

import ast
import builtins
import doctest
import logging
import re
from functools import lru_cache
from typing import Any

from dash import html

from anytask import catalogue
from anytask.app import layout
from anytask.app.catalogue.search import problem_words
from anytask.catalogue import FAMILIES, Card
from anytask.claims.evidence import comparison_text, in_words
from anytask.claims.figure import CAPTION, evidence_figure
from anytask.core.colors import PALETTE
from anytask.core.discovery import docstring, published, source

logger = logging.getLogger(__name__)

#: Twelve families, twelve colours.
FAMILY_COLORS = dict(zip(FAMILIES, PALETTE, strict=True))

OUTCOMES = {"shown": "good", "not shown": "warn", "contradicted": "bad"}

_OUTCOME_WORDS = {
    "shown": "Shown: better than the strongest rival, by more than chance and by what is worth having.",
    "not shown": "Not shown: not better than the strongest rival by more than chance, or by less than is worth having.",
    "contradicted": "Contradicted: worse than the strongest rival, by more than chance.",
}

SEES = {
    "none": "nothing: no one says which task an example is from",
    "boundary": "in training, that a task ends and the next begins",
    "train": "the task of each training example",
    "test": "the task of each training example, and of each query",
}


def card(entry: Card) -> html.Li:
    """Return a system as a card; the whole card is one link, and Enter opens it."""
    ready = catalogue.state(entry) == "available"
    evidence = read(entry.key) if ready else None
    marks = [_state(ready), *([_outcome(evidence["outcome"], "claim ")] if evidence else [])]
    lines = [
        _kicker(entry),
        html.Strong(entry.name, className="name"),
        html.Span(entry.use, className="use"),
        html.Span(marks, className="marks"),
    ]
    kind = "card system" if ready else "card system planned"
    return html.Li(html.A(lines, href=f"#{entry.key}", id=f"card-{entry.key}", className=kind))


def sheet(entry: Card) -> list[Any]:
    """Return all that is known of a system, for the dialog."""
    ready = catalogue.state(entry) == "available"
    purpose, when = split_use(entry.use)
    later = [] if ready else [" Not available yet: the card says what it will do."]
    problems = [html.Li([html.Code(problem), f" {problem_words(problem)}"]) for problem in entry.problems]
    facts = {
        "What it is for": purpose,
        "When to pick it": when,
        "Problems": html.Ul(problems, className="plain"),
        "Told of the task": SEES[entry.sees],
        "Install": html.Code(f"pip install 'anytask[{entry.extra}]'" if entry.extra else "pip install anytask"),
    }
    parts: list[Any] = [
        _kicker(entry),
        html.H2(entry.name, id="sheet-title", tabIndex="-1"),
        html.P(entry.title, className="paper"),
        html.P([_state(ready), *later], className="marks"),
        layout.pairs((name, said) for name, said in facts.items() if said),
    ]
    if ready:
        parts.append(layout.section("How to call it", layout.code(snippet(entry)), level=3))
        command = f"anytask compare {entry.problems[0]} --data FILE --systems {entry.key}"
        parts.append(layout.section("On your own data", layout.code(command), level=3))
        parts += _evidence(entry)
    paper: list[Any] = [f"{entry.title}, {entry.year}. "]
    if entry.arxiv:
        paper.append(layout.away(f"arXiv:{entry.arxiv}", f"https://arxiv.org/abs/{entry.arxiv}"))
    else:
        paper.append("No arXiv number is recorded.")
    return [*parts, layout.section("Paper", html.P(paper), level=3)]


def _kicker(entry: Card) -> html.Span:
    dot = layout.dot(FAMILY_COLORS[entry.family])
    return html.Span([dot, f"{entry.family} · {entry.year}"], className="kicker")


def _state(ready: bool) -> html.Span:
    return layout.badge("available", "plain") if ready else layout.badge("planned", "faint")


def _outcome(outcome: str, before: str = "") -> html.Span:
    return layout.badge(f"{before}{outcome}", OUTCOMES.get(outcome, "plain"))


def split_use(use: str) -> tuple[str, str]:
    """Split a card's sentence into what the system does and when to pick it.

    Examples
    --------
    >>> split_use("Finds borders by itself; for streams that nobody announces.")
    ('Finds borders by itself.', 'For streams that nobody announces.')
    """
    purpose, _, when = use.rpartition("; ")
    if not purpose:
        return use, ""
    return f"{purpose.rstrip('.')}.", when[:1].upper() + when[1:]


def read(key: str) -> dict[str, Any] | None:
    """Return a system's recorded evidence; None where there is none, or where the file is damaged."""
    from anytask.claims.evidence import read_evidence

    try:
        evidence = read_evidence(key)
    except (OSError, ValueError) as error:
        logger.warning("the evidence of %s cannot be read: %s", key, error)
        return None
    return evidence if isinstance(evidence, dict) and {"outcome", "claim", "headline"} <= set(evidence) else None


@lru_cache(maxsize=128)
def snippet(entry: Card) -> str:
    """Return code that imports a system and uses it: the example of its docstring, read without importing anything."""
    package, _, name = entry.entry.partition(":")
    line = f"from {package} import {name}"
    example = _example(package, name)
    if not example:
        return line
    example = re.sub(rf"^from {re.escape(package)}(\.\w+)* import {name}\n", "", example, flags=re.M)
    imports = [row for row in example.splitlines() if row.startswith(("import ", "from "))]
    rest = [row for row in example.splitlines() if row not in imports]
    imports += imports_of(published(package)[name], unbound("\n".join([*imports, line, *rest])))
    return "\n".join([*imports, line, "", *rest]).strip()


def unbound(code: str) -> set[str]:
    """Return the names that code uses, and neither makes, imports nor finds among Python's own.

    Examples
    --------
    >>> unbound("x = np.ones(3); print([y for y in x])")
    {'np'}
    """
    nodes = list(ast.walk(ast.parse(code)))
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    bound |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
    return used - bound - set(dir(builtins))


def imports_of(module: str, names: set[str]) -> list[str]:
    """Return the lines that import names as a module does, or from that module, which is not imported."""
    lines = []
    for node in ast.parse(source(module)).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            kept = [alias for alias in node.names if (alias.asname or alias.name).split(".")[0] in names]
            node.names = kept
            lines += [ast.unparse(node)] if kept else []
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names:
            lines.append(f"from {module} import {node.name}")
    return lines


def _example(package: str, name: str) -> str:
    module = published(package).get(name)
    text = docstring(f"{module}:{name}") if module else ""
    if not text:
        return ""
    try:
        examples = doctest.DocTestParser().get_examples(text)
    except ValueError:
        return ""
    return "".join(_as_script(example.source.split("  # doctest:")[0].rstrip(), example.want) for example in examples)


def _as_script(source: str, wanted: str) -> str:
    """A line of a docstring's example as a script has it: what the prompt would have echoed is printed."""
    body = ast.parse(source).body
    echoed = wanted and len(body) == 1 and isinstance(body[0], ast.Expr) and not source.startswith("print(")
    # A comment behind the expression would swallow the closing bracket.
    return f"print({ast.unparse(body[0]) if '#' in source else source})\n" if echoed else f"{source}\n"


def _evidence(entry: Card) -> list[Any]:
    evidence, title = read(entry.key), "Does it do what its paper says?"
    if evidence is None:
        verify = html.Code(f"anytask verify {entry.key}")
        text = html.P(["Nothing is recorded yet. ", verify, " runs the claim where there is one."])
        return [layout.section(title, text, level=3)]
    outcome = evidence["outcome"]
    compared = [*evidence["headline"], *evidence["components"]]
    parts: list[Any] = [
        html.P([_outcome(outcome), f" {_OUTCOME_WORDS.get(outcome, '')}"]),
        html.P(evidence["claim"]),
        html.Ul([html.Li(sentence) for sentence in in_words(evidence)]),
    ]
    if any(one["difference"]["mean"] is not None for one in compared):
        name, label = f"{entry.key}-evidence", f"Comparisons of {entry.name}"
        parts.append(layout.figure(evidence_figure(evidence), CAPTION, name=name, label=label))
    rows = [[_outcome(one["outcome"]), one["experiment"], comparison_text(one)] for one in compared]
    listed = layout.table(["outcome", "experiment", "comparison"], rows, label="The comparisons as a table")
    parts.append(layout.fold("The comparisons in numbers", listed))
    if evidence["tried"]:
        parts.append(layout.fold("What else was tried", html.P(evidence["tried"])))
    cost = layout.section("What it costs", *_cost(evidence), level=3)
    return [layout.section(title, *parts, level=3), cost]


def costs(evidence: dict[str, Any]) -> dict[str, str]:
    """Return what a run of the system itself took, over the experiments of its claim: words -> amount."""
    own = [
        evidence["costs"][experiment["name"]].get(entrant["name"], {})
        for experiment in evidence["experiments"]
        for entrant in experiment["entrants"][:1]
    ]
    said = {
        "wall_seconds": "seconds of a run",
        "trainable_parameters": "trainable parameters",
        "lm_calls": "calls of a language model",
    }
    found = {}
    for key, words in said.items():
        if values := [cost[key] for cost in own if key in cost]:
            low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (min(values), max(values)))
            found[words] = low if low == high else f"{low} to {high}"
    found["MiB of memory at most, with Python and its libraries"] = f"{evidence['peak_bytes'] / 2**20:,.0f}"
    return found


def _cost(evidence: dict[str, Any]) -> list[Any]:
    tiles = [html.Div([html.Dt(text), html.Dd(value)]) for text, value in costs(evidence).items()]
    when = html.P(f"Recorded {evidence['recorded'][:10]} on two cores without a GPU.", className="note")
    return [html.Dl(tiles, className="tiles"), when]
