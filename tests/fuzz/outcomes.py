"""How calls end, and which calls there are: all that the process that watches has to import."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anytask.core import discovery

DEFECTS = ("silent", "state", "hang", "unclear")


@dataclass(frozen=True)
class Outcome:
    """How a call ended; ``signature`` is the same for the same defect found again."""

    kind: str
    area: str
    number: int
    what: str = ""
    said: str = ""
    where: str = ""

    @property
    def signature(self) -> tuple[str, str, str]:
        target = self.what.split("(")[0]
        return self.kind, target, self.where or re.sub(r"[\d'\"].*", "", self.said)[:60]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def shares() -> dict[str, int]:
    """Return the areas, which are the modules of ``fuzz/areas``, with their shares of the calls."""
    files = sorted((Path(__file__).parent / "areas").glob("[!_]*.py"))
    return {file.stem: discovery.literal(file, "SHARE") for file in files}


def planned(calls: int, only: list[str]) -> list[tuple[str, int]]:
    """Return (area, number) of each call, the areas mixed by their shares."""
    known = shares()
    if unknown := set(only) - set(known):
        raise SystemExit(f"no area {', '.join(unknown)}; areas: {', '.join(known)}")
    chosen = {name: share for name, share in known.items() if not only or name in only}
    total = sum(chosen.values())
    due = [(k * total / share, name, k) for name, share in chosen.items() for k in range(calls)]
    return [(name, k) for _, name, k in sorted(due)[:calls]]
