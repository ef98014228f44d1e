"""WorkBench: ranking tasks of the labour market in six groups, from files, from the package workrb, or generated."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anytask.core.errors import BadData, shown
from anytask.core.files import require_regular
from anytask.core.rng import derive
from anytask.datasets.pairs import alike
from anytask.datasets.vacancies import CONCEPTS, FILLER, IDLE

#: The groups of tasks, as workrb calls them.
GROUPS = ("job2skill", "skill2job", "job_normalization", "skill_normalization", "skill_extraction", "skillsim")


@dataclass(frozen=True)
class RankedSet:
    """Queries that rank a space of targets.

    Attributes
    ----------
    group, task, name, language : str
    queries, targets : list of str
        Distinct but for case and spaces.
    relevant : bool array of shape (n_queries, n_targets)
    """

    group: str
    task: str
    name: str
    language: str
    queries: list[str]
    targets: list[str]
    relevant: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, group: str, task: str, name: str, language: str, queries: Any, targets: Any, places: Any) -> RankedSet:
        """Return a set of which equal targets are merged, and equal queries with all that is relevant to either.

        Parameters
        ----------
        queries, targets : sequence of str
        places : sequence of sequence of int
            The relevant targets of each query.

        Raises
        ------
        BadData
            For empty texts, a place that there is not, and a set without a relevant target.

        Examples
        --------
        >>> found = RankedSet.of("skillsim", "t", "d", "en", ["a", "b", "A"], ["x", "y", "X "], [[0], [1], [2, 1]])
        >>> found.queries, found.targets, found.relevant.tolist()
        (['a', 'b'], ['x', 'y'], [[True, True], [False, True]])
        """
        where = f"{group}/{task}/{name}"
        if not isinstance(places, Sequence) or len(queries) != len(places):
            raise BadData(f"{where}: there are {len(queries)} queries, and relevant targets of another number")
        for side, texts in (("query", queries), ("target", targets)):
            if bad := [place for place, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]:
                raise BadData(f"{where}: {side} {bad[0]} must be a text, got {shown(texts[bad[0]])}")
        relevant = np.zeros((len(queries), len(targets)), dtype=bool)
        for row, columns in enumerate(places):
            if bad := [c for c in columns if type(c) is not int or not 0 <= c < len(targets)]:
                raise BadData(f"{where}: query {row} names the target {shown(bad[0])} of {len(targets)}")
            relevant[row, list(columns)] = True
        if not relevant.any():
            raise BadData(f"{where}: no query has a relevant target")
        for axis, texts in ((0, queries), (1, targets)):
            kept, place = np.unique(alike(texts), return_inverse=True)
            merged = np.zeros((len(kept), relevant.shape[1]), dtype=bool)
            np.logical_or.at(merged, place, relevant)
            relevant = merged.T
            if axis == 0:
                queries = [texts[row] for row in kept]
            else:
                targets = [texts[row] for row in kept]
        return cls(group, task, name, language, queries, targets, relevant)


def load_workbench(source: Any) -> list[RankedSet]:
    """Return the sets of a suite.

    Parameters
    ----------
    source
        * a folder with a file ``GROUP/TASK/NAME.LANGUAGE.json`` for each set (``NAME.json``: of English), which holds
          ``{"queries": [...], "targets": [...], "relevant": [[places], ...]}``;
        * ranking tasks of the package workrb, which fetches the published data itself.

    Raises
    ------
    BadData
        One line that names the file.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _of_tasks(source)
    path = Path(source).expanduser()
    files = sorted(path.glob("*/*/*.json")) if path.is_dir() else []
    if not files:
        raise BadData(
            f"{path}: wanted is a folder of GROUP/TASK/NAME.LANGUAGE.json, with GROUP as in {', '.join(GROUPS)}"
        )
    found = []
    for file in files:
        name, _, language = file.stem.partition(".")
        require_regular(file)
        try:
            read = json.loads(file.read_text(encoding="utf-8"))
            parts = [read[key] for key in ("queries", "targets", "relevant")]
        except (ValueError, KeyError, TypeError) as error:
            raise BadData(f"{file}: wanted is JSON with queries, targets and relevant") from error
        if not all(isinstance(part, list) for part in parts) or not all(isinstance(row, list) for row in parts[2]):
            raise BadData(f"{file}: queries, targets and relevant must be lists")
        group, task = file.parts[-3], file.parts[-2]
        if group not in GROUPS:
            raise BadData(f"{file}: there is no group {group!r}; groups: {', '.join(GROUPS)}")
        found.append(RankedSet.of(group, task, name, language or "en", *parts))
    return found


def _of_tasks(tasks: Any) -> list[RankedSet]:
    """Return the sets of workrb's ranking tasks, by what they call their parts."""
    listed = list(tasks) if isinstance(tasks, Iterable) else [tasks]
    if not listed:
        raise BadData("a suite is a folder or tasks of workrb, got none")
    found = []
    for task in listed:
        if isinstance(task, RankedSet):
            found.append(task)
            continue
        if not all(hasattr(task, part) for part in ("task_group", "name", "datasets")):
            raise BadData(f"a suite is a folder or tasks of workrb, got {shown(task)}")
        group = str(getattr(task.task_group, "value", task.task_group)).removeprefix("rank_")
        for key, data in task.datasets.items():
            name = str(getattr(key, "value", key))
            parts = data.query_texts, data.target_space, [list(map(int, row)) for row in data.target_indices]
            found.append(RankedSet.of(group, str(task.name), name, name.partition("_")[0], *parts))
    return found


@dataclass(frozen=True)
class WorkWorld:
    """A generated labour market: graphs to learn from, and a suite of the same shape as the published one.

    Attributes
    ----------
    graphs : dict of str to list of (str, str)
        ``job``: titles of jobs and skills; ``sentence``: sentences and skills; ``alias``: names of skills and skills.
    suite : list of RankedSet
        Of other jobs, sentences and names.
    """

    graphs: dict[str, list[tuple[str, str]]]
    suite: list[RankedSet]


def work_world(seed: int, *, n_skills: int = 60, n_jobs: int = 60, sentences: int = 400) -> WorkWorld:
    """Draw a labour market in which it is known which words mean the same.

    A skill is two of 160 concepts, each of which has two words, and a job asks for three skills and is called by a
    concept of each. Half of the jobs and of the sentences, and the third name of each skill, are in the suite alone.

    Parameters
    ----------
    seed : int
    n_skills, n_jobs, sentences : int

    Examples
    --------
    >>> world = work_world(0)
    >>> sorted({one.group for one in world.suite}) == sorted(GROUPS), list(world.graphs)
    (True, ['job', 'sentence', 'alias'])
    """
    rng = np.random.default_rng(derive(seed, "work-world"))
    concepts = np.stack([rng.choice(CONCEPTS, 2, replace=False) for _ in range(n_skills)])
    needs = np.stack([rng.choice(n_skills, 3, replace=False) for _ in range(n_jobs)])

    def named(pair: Any, forms: str) -> str:
        return " ".join(f"c{c}{form}" for c, form in zip(pair, forms))

    def title(job: int, forms: str) -> str:
        return "job " + named(concepts[needs[job], 0], forms)

    def sentence(skill: int) -> str:
        words = [f"c{c}{'ab'[rng.integers(2)]}" for c in concepts[skill]]
        return " ".join(rng.permutation([*words, *(f"n{w}" for w in rng.integers(IDLE, size=FILLER))]))

    skills, jobs = [named(pair, "aa") for pair in concepts], [title(job, "aaa") for job in range(n_jobs)]
    half, asked = n_jobs // 2, rng.integers(n_skills, size=sentences)
    said = [sentence(skill) for skill in asked]
    learned = slice(sentences // 2)
    graphs = {
        "job": [(jobs[job], skills[s]) for job in range(half) for s in needs[job]],
        "sentence": [(text, skills[s]) for text, s in zip(said[learned], asked[learned])],
        "alias": [(named(concepts[s], forms), skills[s]) for s in range(n_skills) for forms in ("ab", "ba")],
    }
    new = range(half, n_jobs)
    backwards = [[job - half for job in new if s in needs[job]] for s in range(n_skills)]
    rows = {
        "job2skill": ([jobs[job] for job in new], skills, needs[half:].tolist()),
        "skill2job": (skills, [jobs[job] for job in new], backwards),
        "job_normalization": ([title(job, "bab") for job in new], jobs, [[job] for job in new]),
        "skill_normalization": ([named(pair, "bb") for pair in concepts], skills, [[s] for s in range(n_skills)]),
        "skill_extraction": (said[sentences // 2 :], skills, [[int(s)] for s in asked[sentences // 2 :]]),
        "skillsim": (
            [named(pair, "bb") for pair in concepts], [named(pair, "ab") for pair in concepts],
            [[s] for s in range(n_skills)],
        ),
    }  # fmt: skip
    return WorkWorld(graphs, [RankedSet.of(g, g, "generated", "en", *parts) for g, parts in rows.items()])
