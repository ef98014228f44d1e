"""What evidence says, in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from anytask.claims.evidence import comparison_text, in_words, interval_text, metric_text

_COLORS = {"shown": "green", "not shown": "yellow", "contradicted": "red", "measured": "cyan"}


def colored(outcome: str) -> Text:
    """Return an outcome in its color."""
    return Text(outcome, style=_COLORS.get(outcome, ""))


def evidence_lines(evidence: Mapping[str, Any], quick: bool = False) -> Iterator[Text]:
    """Yield what evidence says, a line each; after a quick look the numbers alone, which mean nothing."""
    title = Text("quick look, one seed, nothing judged") if quick else colored(evidence["outcome"])
    yield Text.assemble((evidence["system"], "bold"), " ", title, ": ", evidence["claim"])
    for kind in ("headline", "components"):
        for one in evidence[kind]:
            outcome = Text() if quick else colored(one["outcome"])
            yield Text.assemble("  ", outcome, " " if outcome else "", f"{kind.rstrip('s')}: ", comparison_text(one))
    if not quick:
        for sentence in in_words(evidence):
            yield Text(f"  {sentence}", style="dim")


def real_lines(key: str, real: Mapping[str, Any], quick: bool = False) -> Iterator[Text]:
    """Yield what a trial on real weights or data says, a line each."""
    outcome = Text("quick look, one seed, nothing judged") if quick else colored(real["outcome"])
    yield Text.assemble((key, "bold"), " on ", real["model_or_data"], ": ", outcome, f", {real['n']} seeds")
    for one in real["headline"]:
        yield Text(f"  {comparison_text(one)}")


def outcomes(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return one row per claim: outcome, headline, components that matter, trial on real models or data."""
    table = Table("claim", "outcome", "headline", "components", "real")
    for one in found:
        matter = sum(component["outcome"] == "shown" for component in one["components"])
        headline = "\n".join(f"{interval_text(x['difference'])} {metric_text(x)}" for x in one["headline"])
        real = "" if "none" in one["real"] else f"{one['real']['outcome']} {interval_text(one['real']['difference'])}"
        cells = (one["system"], colored(one["outcome"]), headline, f"{matter} of {len(one['components'])}", real)
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    return table
