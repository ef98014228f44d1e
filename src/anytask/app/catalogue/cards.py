"""One system as a card in the grid, and as a sheet with all that is known of it."""

from __future__ import annotations

import ast
import doctest
import logging
import math
import re
from functools import lru_cache
from typing import Any

from dash import html

from anytask import catalogue
from anytask.app import layout
from anytask.app.catalogue.search import problem_words
from anytask.catalogue import FAMILIES, Card
from anytask.claims.figure import evidence_figure
from anytask.core.colors import PALETTE
from anytask.core.discovery import docstring, published

logger = logging.getLogger(__name__)

#: Twelve families, twelve colours.
FAMILY_COLORS = dict(zip(FAMILIES, PALETTE, strict=True))

OUTCOMES = {"shown": "good", "not shown": "warn", "contradicted": "bad"}

_OUTCOME_WORDS = {
    "shown": "Shown: every check clears its margin.",
    "not shown": "Not shown: at least one check does not clear its margin, or cannot be told from chance.",
    "contradicted": "Contradicted: at least one check points the other way.",
}

_SEES = {
    "none": "nothing: no one says which task an example is from",
    "boundary": "in training, that a task ends and the next begins",
    "train": "the task of each training example",
    "test": "the task of each training example, and of each query",
}

_KINDS = {
    "http": "an endpoint",
    "local": "local weights",
    "tiny": "a tiny model trained here",
    "sim": "a simulated model",
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
        "Told of the task": _SEES[entry.sees],
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
    return evidence if isinstance(evidence, dict) and {"outcome", "claim", "checks"} <= set(evidence) else None


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
    return "\n".join([*imports, line, "", *rest]).strip()


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
    checks = [check for check in evidence["checks"] if isinstance(check, dict)]
    parts: list[Any] = [
        html.P([_outcome(outcome), f" {_OUTCOME_WORDS.get(outcome, '')}"]),
        html.P(evidence["claim"]),
    ]
    if any(_number(check.get("mean")) for check in checks):
        caption = (
            "Each check has its own scale. The green band is where a value counts; the bar is the 95 % interval over "
            "seeds, the diamond its mean, dots are single seeds. Only a bar wholly inside the band shows the check."
        )
        name, label = f"{entry.key}-evidence", f"Checks of {entry.name}"
        parts.append(layout.figure(evidence_figure(checks), caption, name=name, label=label))
    rows = [
        [
            _outcome(check["outcome"]),
            [check["sentence"], html.Small(f" {check['why']}") if check.get("why") else ""],
            check.get("experiment", ""),
            _interval(check),
        ]
        for check in checks
    ]
    head = ["outcome", "check", "experiment", "mean [95 %]"]
    listed = layout.table(head, rows, numeric=(3,), label="The checks as a table")
    parts.append(layout.fold("The checks in numbers", listed))
    if evidence.get("tried"):
        parts.append(layout.fold("What else was tried", html.P(evidence["tried"])))
    kinds = [kind for kind in str(evidence.get("kind") or "").split(", ") if kind]
    if kinds:
        words = f"Language model: {' and '.join(_KINDS.get(kind, kind) for kind in kinds)}. "
        if {"tiny", "sim"} & set(kinds):
            words += "This is evidence about the algorithm, not about real models."
        parts.append(html.P(words, className="note"))
    cost = layout.section("What it costs", *_cost(evidence), level=3)
    return [layout.section(title, *parts, level=3), cost]


def _cost(evidence: dict[str, Any]) -> list[Any]:
    seconds, peak = evidence.get("seconds", math.nan), evidence.get("peak_bytes", math.nan)
    summary = [row for row in evidence.get("summary", []) if isinstance(row, dict)]
    counted: dict[tuple[Any, Any], int] = {}
    for row in summary:  # each metric of an entrant counts the same runs
        who = row.get("experiment"), row.get("name")
        counted[who] = max(counted.get(who, 0), int(row.get("n") or 0))
    runs = sum(counted.values())
    own = [row for row in summary if row.get("role") == "system" and "parameters" in str(row.get("metric"))]
    tiles = {}
    if _number(seconds) and runs:
        tiles[f"per run, over {runs} runs of the claim, baselines included"] = f"{seconds / runs:.3g} s"
    if _number(peak) and peak:
        tiles["largest memory of one run, with Python and its libraries"] = f"{peak / 2**20:,.0f} MiB"
    if own:
        tiles[str(own[0]["metric"]).replace("_", " ")] = f"{own[0]['mean']:,.0f}"
    else:
        tiles["parameters: not recorded with the claim; a comparison on your data counts them"] = "–"
    when = str(evidence.get("recorded", ""))[:10]
    return [
        html.Dl([html.Div([html.Dt(text), html.Dd(value)]) for text, value in tiles.items()], className="tiles"),
        html.P(f"Recorded {when} on two cores without a GPU." if when else "", className="note"),
    ]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _interval(check: dict[str, Any]) -> str:
    if not _number(check.get("mean")):
        return "failed"
    if not _number(check.get("low")):
        return f"{check['mean']:.3f}"
    return f"{check['mean']:.3f} [{check['low']:.3f}, {check['high']:.3f}]".replace("-", "−")
