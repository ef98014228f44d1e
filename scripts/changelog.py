"""Move the fragments of ``changelog.d/`` into the topmost section of CHANGELOG.md, grouped by heading and sorted.

``python scripts/changelog.py`` writes CHANGELOG.md and deletes the fragments; changelog.d/README.md tells their form.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ("Added", "Changed", "Removed", "Fixed")


def fragments(root: Path = ROOT) -> list[Path]:
    """Return the files of the fragments, by name."""
    return sorted(file for file in (root / "changelog.d").glob("*.md") if file.name != "README.md")


def entries(text: str, source: str) -> dict[str, list[str]]:
    """Return the bullets under each heading, each in one line; a ``ValueError`` for anything else."""
    found: dict[str, list[str]] = {}
    bullets: list[str] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("### "):
            if line[4:].strip() not in GROUPS:
                raise ValueError(f"{source}, line {number}: {line!r} is none of the headings {', '.join(GROUPS)}")
            bullets = found.setdefault(line[4:].strip(), [])
        elif line.startswith("- ") and bullets is not None:
            bullets.append(line)
        elif line.startswith("  ") and bullets:
            bullets[-1] += " " + line.strip()
        elif line.strip():
            raise ValueError(f"{source}, line {number}: wanted a heading ### ..., or a bullet below one, got {line!r}")
    return found


def assembled(root: Path = ROOT) -> str:
    """Return CHANGELOG.md with all fragments in its topmost section: what stood there first, then the new, sorted."""
    title, top, *older = (root / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")
    heading, _, body = top.partition("\n")
    groups = entries(body, "CHANGELOG.md")
    new = [entries(file.read_text(encoding="utf-8"), file.name) for file in fragments(root)]
    for group in GROUPS:
        groups.setdefault(group, []).extend(sorted(bullet for found in new for bullet in found.get(group, [])))
    lines = [heading, ""]
    for group in GROUPS:
        if groups[group]:
            wrapped = [textwrap.fill(b, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
                       for b in groups[group]]  # fmt: skip
            lines += [f"### {group}", *wrapped, ""]
    return "\n## ".join([title, "\n".join(lines), *older])


if __name__ == "__main__":
    (ROOT / "CHANGELOG.md").write_text(assembled(), encoding="utf-8")
    for file in fragments():
        file.unlink()
