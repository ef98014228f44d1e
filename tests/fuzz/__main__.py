"""``python -m fuzz --seed 0 --calls 2000``: fuzz everything public, on two cores, and count how the calls ended."""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import time
from pathlib import Path

from fuzz.outcomes import DEFECTS, Outcome, planned
from fuzz.pool import fuzz


def main() -> None:
    parser = argparse.ArgumentParser(prog="fuzz", description=sys.modules["fuzz"].__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--only", action="append", default=[], metavar="AREA", help="repeatable")
    parser.add_argument(
        "--target", default="", help="only what is called by a name that begins so, such as robust.SLA.fit"
    )
    parser.add_argument("--call", type=int, help="make this one call of the area, here, and show its traceback")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=30, help="seconds of computing after which a call hangs")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no call after so many")
    parser.add_argument("--json", type=Path, help="write all outcomes to this file")
    given = parser.parse_args()
    if given.call is not None:
        os.environ |= {"FUZZ_TARGET": given.target, "FUZZ_TRACE": "yes"}
        from fuzz.calls import run

        print(json.dumps(run(given.only[0], given.call, given.seed).as_dict(), indent=1))
        return
    outcomes: list[Outcome] = []
    begin = time.monotonic()

    def ended(outcome: Outcome) -> bool:
        """Take an outcome; return whether the time is up."""
        outcomes.append(outcome)
        if outcome.kind in DEFECTS:
            print(f"{outcome.kind:8} --seed {given.seed} --only {outcome.area} --call {outcome.number}: {outcome.what}")
            print(f"         {outcome.said[:300]} [{outcome.where}]", flush=True)
        return time.monotonic() - begin > given.seconds

    jobs = planned(given.calls, given.only)
    fuzz(jobs, ended, seed=given.seed, workers=given.jobs, limit=given.limit, target=given.target)
    counts = collections.Counter(outcome.kind for outcome in outcomes)
    by_area: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for outcome in outcomes:
        by_area[outcome.area][outcome.kind] += 1
    kinds = ("ok", "clear", *DEFECTS)
    print(f"\n{'':12}" + "".join(f"{kind:>9}" for kind in kinds))
    for area, found in [*sorted(by_area.items()), ("all", counts)]:
        print(f"{area:12}" + "".join(f"{found[kind]:9}" for kind in kinds))
    distinct = len({outcome.signature for outcome in outcomes if outcome.kind in DEFECTS})
    print(f"{len(outcomes)} calls in {time.monotonic() - begin:.0f} s, {distinct} different defects")
    if given.json:
        given.json.write_text(json.dumps([outcome.as_dict() for outcome in outcomes], indent=0))
    sys.exit(1 if distinct else 0)


if __name__ == "__main__":
    main()
