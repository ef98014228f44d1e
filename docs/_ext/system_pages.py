"""Write a page per system (card, claim, evidence, class) and their index, before Sphinx reads the sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anytask import catalogue, claims
from anytask.claims.evidence import read_evidence


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir) / "systems"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    wanted = {"index.md": index_page()}
    for card in catalogue.SYSTEMS:
        if catalogue.state(card) == "available":
            wanted[f"{card.key}.md"] = system_page(card)
    for old in folder.glob("*.md"):
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


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
    paper = f"{card.title}, {card.year}" + (
        f", [arXiv:{card.arxiv}](https://arxiv.org/abs/{card.arxiv})" if card.arxiv else ""
    )
    lines = [f"# {card.name}", "", f"{card.use}", "", f"*{paper}*", ""]
    lines += [
        f"- **Family**: {card.family}",
        f"- **Problems**: {', '.join(f'`{p}`' for p in card.problems)}",
        f"- **Sees of the task**: {card.sees}",
        f"- **Install**: `pip install 'anytask[{card.extra}]'`" if card.extra else "- **Install**: the core is enough",
        f"- **On your data**: `anytask compare {card.problems[0]} --data FILE --systems {card.key}`",
        "",
    ]
    lines += evidence_section(card.key)
    module, name = card.entry.split(":")
    cls = catalogue.load(card)
    lines += ["## Reference", "", f"`from {module} import {name}`", ""]
    lines += [
        "```{eval-rst}",
        f".. autoclass:: {cls.__module__}.{name}",
        "   :members:",
        "   :inherited-members: BaseEstimator, ClassifierMixin, object",
        "```",
        "",
    ]
    return "\n".join(lines)


def evidence_section(key: str) -> list[str]:
    if key not in claims.KEYS:
        return ["## Claim", "", "No claim is written for it yet.", ""]
    evidence = read_evidence(key)
    lines = ["## Claim and evidence", ""]
    if evidence is None:
        return [*lines, claims.get(key).statement, "", f"Not recorded yet: `anytask verify {key}` runs it.", ""]
    lines += [evidence["claim"], "", f"Outcome: **{evidence['outcome']}**", ""]
    lines += ["| check | experiment | outcome | mean and 95 % interval |", "|---|---|---|---|"]
    for check in evidence["checks"]:
        band = "failed" if check["mean"] is None else f"{check['mean']:.3f}"
        if check["low"] is not None:
            band += f" [{check['low']:.3f}, {check['high']:.3f}]"
        lines.append(f"| {_cell(check['sentence'])} | {check['experiment']} | {check['outcome']} | {band} |")
    lines += ["", "The entrants, mean over seeds:", ""]
    lines += ["| experiment | entrant | role | metric | mean | seeds |", "|---|---|---|---|---|---|"]
    for row in evidence["summary"]:
        cells = [row["experiment"], _cell(row["name"]), row["role"], row["metric"], f"{row['mean']:.3f}", str(row["n"])]
        lines.append("| " + " | ".join(cells) + " |")
    if evidence["tried"]:
        lines += ["", f"What else was tried: {evidence['tried']}"]
    kind = f" Language model: `{evidence['kind']}`." if evidence.get("kind") else ""
    lines += [
        "",
        f"Recorded {evidence['recorded'][:10]}, {evidence['seconds']:.0f} s of runs, peak memory of a run "
        f"{evidence['peak_bytes'] / 2**20:.0f} MiB.{kind} Repeat it with `anytask verify {key}`.",
        "",
    ]
    return lines


def _outcome(key: str) -> str:
    evidence = read_evidence(key) if key in claims.KEYS else None
    return evidence["outcome"] if evidence else "not recorded"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
