"""Recorded outcomes of claims: ``evidence/<key>.json``."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import anytask
from anytask.core.files import write_whole


def evidence_folder() -> Path:
    """The folder of recorded evidence: that of the source tree this package runs from, else ``./evidence``."""
    root = Path(anytask.__file__).resolve().parents[2]
    return root / "evidence" if (root / "pyproject.toml").is_file() else Path("evidence")


@lru_cache
def installed_evidence() -> Path | None:
    """The folder of the evidence that came with an installed package, or None: a source tree has it at its root."""
    try:
        files = importlib.metadata.files("anytask") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [file for file in files if file.parts[-4:-1] == ("share", "anytask", "evidence")]
    beside = Path(anytask.__file__).resolve().parents[1] / "share" / "anytask" / "evidence"  # pip install --target
    places = [*(Path(str(file.locate())).resolve().parent for file in found[:1]), beside]
    return next((place for place in places if place.is_dir()), None)


def read_evidence(key: str, folder: Path | None = None) -> dict[str, Any] | None:
    """Return the recorded evidence of a system, or None if there is none.

    Without a ``folder``, what ``anytask verify`` has recorded here comes first, then what came with the package.
    """
    folders = [folder] if folder is not None else [evidence_folder(), installed_evidence()]
    paths = [place / f"{key}.json" for place in folders if place is not None]
    path = next((path for path in paths if path.is_file()), None)
    return json.loads(path.read_text(encoding="utf-8")) if path is not None else None


def write_evidence(found: dict[str, Any], folder: Path | None = None) -> Path:
    """Write what :func:`anytask.claims.verify.verify` returned, replacing an earlier record in one step."""
    folder = folder or evidence_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found['system']}.json"
    write_whole(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return path


def next_look(key: str, folder: Path | None = None) -> int:
    """Return the number of the next look at a claim: one more than its evidence counts."""
    found = read_evidence(key, folder)
    return 1 + (found["looks"] if found else 0)


def interval_text(difference: Mapping[str, Any]) -> str:
    """Return a mean with its interval in words.

    Examples
    --------
    >>> interval_text({"mean": 0.1234, "low": 0.05, "high": 0.2})
    '+0.123 [+0.050, +0.200]'
    >>> interval_text({"mean": None, "low": None, "high": None})
    'failed'
    """
    if difference["mean"] is None:
        return "failed"
    if difference["low"] is None:
        return f"{difference['mean']:+.3f}"
    return f"{difference['mean']:+.3f} [{difference['low']:+.3f}, {difference['high']:+.3f}]"


def metric_text(one: Mapping[str, Any]) -> str:
    """Return what an entry of evidence measures, as words within a sentence.

    Examples
    --------
    >>> metric_text({"metric": "covered", "label": "Share of classes"}), metric_text({"metric": "f1", "label": "F1"})
    ('share of classes', 'F1')
    """
    label = str(one["label"])
    return label if not label[1:2].islower() else label[0].lower() + label[1:]


def comparison_text(one: Mapping[str, Any]) -> str:
    """Return an entry of the headline or of the components as one line."""
    rivals = [name for name in one["means"] if name != one["better"]]
    strongest = f", the strongest of {len(rivals)} rivals" if len(rivals) > 1 else ""
    who = "" if one["baseline"] == one["better"] else f" ({one['better']} against {one['baseline']}{strongest})"
    expected = f"; expected: {one['expected']}" if one["expected"] else ""
    return f"{one['sentence']}{who}: {interval_text(one['difference'])}, {metric_text(one)}{expected}"


def in_words(evidence: Mapping[str, Any]) -> list[str]:
    """Return what evidence says beside its comparisons, a sentence each."""
    return [*found_in_words(evidence), *provenance_in_words(evidence)]


def found_in_words(evidence: Mapping[str, Any]) -> list[str]:
    """Return what was found beside the headline (components, plain references, the trial), and on what reading."""
    words = []
    if len({one["outcome"] for one in evidence["headline"]}) > 1:
        told = "; ".join(f"{one['sentence']}: {one['outcome']}" for one in evidence["headline"])
        words.append(f"One comparison decides for both: {told}.")
    if components := evidence["components"]:
        matter = sum(one["outcome"] == "shown" for one in components)
        worse = "; ".join(one["sentence"] for one in components if one["outcome"] == "contradicted")
        hurts = f" What does harm: {worse}." if worse else ""
        words.append(f"{matter} of {len(components)} components matter here.{hurts}")
    words += _references(evidence)
    real = evidence["real"]
    if "none" in real:
        return [*words, f"No trial on real models or data: {real['none']}.", reading(evidence["source"])]
    outcome = f"{real['outcome']}, {real['n']} seeds"
    each = [f"{one['sentence']} {interval_text(one['difference'])}, {one['outcome']}" for one in real["headline"]]
    found = "; ".join(each) + "; in all" if len(each) > 1 else interval_text(real["difference"])
    return [*words, f"On {real['model_or_data']}: {found} ({outcome}).", reading(evidence["source"])]


def provenance_in_words(evidence: Mapping[str, Any]) -> list[str]:
    """Return sizes, and how the evidence was made."""
    words = []
    for size in evidence["sizes"]:
        expected = f" (expected: {size['expected']})" if size["expected"] else ""
        words.append(f"{size['sentence']}: {_level(size)}{expected}.")
    kinds = str(evidence["kind"] or "").split(", ")
    if {"tiny", "sim"} & set(kinds):
        words.append("Its language models are tiny or simulated: evidence about the algorithm, not about real models.")
    look = f"look {evidence['looks']}" if evidence["looks"] > 1 else "first look"
    seeds = f"seeds {evidence['seeds'][0]} to {evidence['seeds'][-1]}"
    cost = f"{evidence['seconds']:.0f} s of runs, {evidence['peak_bytes'] / 2**20:,.0f} MiB at most"
    words.append(f"Recorded {evidence['recorded'][:10]}: {look}, {seeds}, {cost}.")
    return words


def reading(source: str) -> str:
    """Say what the reading of a paper rests on, which is a :data:`~anytask.claims.base.Source`."""
    basis = {
        "code": "the authors' code",
        "paper": "the paper",
        "abstract": "the abstract alone: it is a reconstruction",
    }
    return f"Our reading rests on {basis[source]} (source: {source})."


def _references(evidence: Mapping[str, Any]) -> list[str]:
    """Say once for each experiment and metric how the plain reference does, and what it is above."""
    referenced = {one["experiment"] for one in evidence["plain"]}
    compared = [one for one in evidence["headline"] if one["experiment"] in referenced]
    found: dict[tuple[str, str, str], list[tuple[Any, Any]]] = {}
    for reference, one in zip(evidence["plain"], compared):
        key = (reference["name"], metric_text(reference), reference["experiment"])
        found.setdefault(key, []).append((reference, one))
    words = []
    for (name, metric, experiment), pairs in found.items():
        mean = pairs[0][0]["mean"]
        beaten = [one["sentence"] for reference, one in pairs if reference["beats_everybody"]]
        if not beaten:
            easy = ""
        elif len(beaten) == len(pairs):
            easy = "; it beats everybody, so this experiment is too easy to tell"
        else:
            easy = f"; it beats everybody of this comparison: {', '.join(beaten)}"
        level = "failed" if mean is None else f"reaches {mean:.3f}"
        words.append(f"The plain reference ({name}) {level} on {experiment} ({metric}){easy}.")
    return words


def _level(size: Mapping[str, Any]) -> str:
    if size["mean"] is None:
        return "failed"
    return f"{size['mean']:.3f}" + ("" if size["low"] is None else f" [{size['low']:.3f}, {size['high']:.3f}]")
