"""Texts written for this project: reviews, customer intents, topics, and a graph of skills and jobs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_ASSETS = Path(__file__).parent / "assets"
#: Names of the text sets that can be named instead of a file, with what they are.
TEXT_SETS = {
    "reviews": "320 reviews, positive or negative",
    "customer-intents": "336 messages to an online shop, 14 intents",
    "topics": "320 news-like items, 5 topics",
}


def text_set(name: str) -> Path:
    """Return the JSONL file of one of :data:`TEXT_SETS`."""
    return _ASSETS / f"{name}.jsonl"


@dataclass(frozen=True)
class SkillGraph:
    """Skills and jobs, with what is known of them as edges.

    Attributes
    ----------
    jobs, skills : tuple of str
        The nodes that texts are ranked against.
    relations : dict of str to tuple of (str, str)
        ``job_skill``: a job and a skill that it needs; ``title_job``: another title of a job; ``name_skill``: another
        name of a skill; ``sentence_skill``: a sentence of an advertisement and a skill that it asks for.
    """

    jobs: tuple[str, ...]
    skills: tuple[str, ...]
    relations: dict[str, tuple[tuple[str, str], ...]]


def skills_jobs() -> SkillGraph:
    """Return the graph of 50 jobs and 114 skills.

    Examples
    --------
    >>> graph = skills_jobs()
    >>> {name: len(edges) for name, edges in graph.relations.items()}
    {'job_skill': 195, 'title_job': 87, 'name_skill': 132, 'sentence_skill': 70}
    >>> [skill for job, skill in graph.relations["job_skill"] if job == "crane operator"]
    ['load rigging', 'work safety', 'heavy machinery operation']
    """
    read = json.loads((_ASSETS / "skills-jobs.json").read_text(encoding="utf-8"))
    relations = {name: tuple((a, b) for a, b in edges) for name, edges in read["relations"].items()}
    return SkillGraph(tuple(read["jobs"]), tuple(read["skills"]), relations)
