"""WorkBench: its sets from files and from workrb's tasks, merged duplicates, macro averages, and going on."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from anytask.core.errors import BadData
from anytask.datasets.workbench import GROUPS, RankedSet, load_workbench, work_world
from anytask.pretrain import UWE, BM25Pairs, WorkBench

SET = {"queries": ["nurse", "Nurse", "baker"], "targets": ["care", "dough", "CARE "], "relevant": [[0], [1], [2, 1]]}


class Fixed:
    """Ranks the first target first."""

    def scores(self, queries, targets):
        self.calls = getattr(self, "calls", 0) + 1
        return np.tile(-np.arange(len(targets), dtype=float), (len(queries), 1))


def written(folder, group="job2skill", task="esco", name="a.en", content=None):
    (folder / group / task).mkdir(parents=True, exist_ok=True)
    (folder / group / task / f"{name}.json").write_text(json.dumps(SET if content is None else content))
    return folder


def test_sets_of_a_folder_and_of_workrb_are_the_same(tmp_path):
    (read,) = load_workbench(written(tmp_path))
    data = SimpleNamespace(query_texts=SET["queries"], target_space=SET["targets"], target_indices=SET["relevant"])
    group = SimpleNamespace(value="rank_job2skill")
    (given,) = load_workbench([SimpleNamespace(task_group=group, name="esco", datasets={"en": data})])
    for one in (read, given):
        assert (one.group, one.task, one.language) == ("job2skill", "esco", "en")
        assert one.queries == ["nurse", "baker"] and one.targets == ["care", "dough"]
        assert one.relevant.tolist() == [[True, True], [True, True]]


def test_means_are_over_sets_then_languages_then_tasks_then_groups():
    def one(group, task, name, language, place):
        return RankedSet.of(group, task, name, language, ["q"], ["a", "b", "c", "d"], [[place]])

    # Average precisions of 1, 1/2 and 1/4 of the first, second and fourth place.
    suite = WorkBench([
        one("job2skill", "x", "1", "en", 0), one("job2skill", "x", "2", "en", 1), one("job2skill", "x", "1", "de", 3),
        one("job2skill", "y", "1", "en", 1), one("skillsim", "z", "1", "en", 3),
    ])  # fmt: skip
    result = suite.evaluate(Fixed())
    assert result.groups()["map"].tolist() == [((0.75 + 0.25) / 2 + 0.5) / 2, 0.25]
    assert result.map == 0.375 and result.rp10 == 1.0 and len(result.table()) == 5 and len(result.plot().data) == 2


def test_an_interrupted_evaluation_goes_on(tmp_path):
    world, file = work_world(1), tmp_path / "results.json"
    model = Fixed()
    expected = WorkBench(world.suite).evaluate(Fixed()).table()
    WorkBench(world.suite[:2]).evaluate(model, results=file)
    found = WorkBench(world.suite).evaluate(model, results=file)
    assert model.calls == 6 and found.table().equals(expected)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"queries": ["a"], "targets": ["b"]}, "wanted is JSON with queries, targets and relevant"),
        ({**SET, "relevant": [[0], [1]]}, "3 queries"),
        ({**SET, "relevant": [[0], [1], [7]]}, "query 2 names the target 7 of 3"),
        ({**SET, "relevant": [[], [], []]}, "no query has a relevant target"),
        ({**SET, "queries": ["a", " ", "b"]}, "query 1 must be a text"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, says):
    with pytest.raises(BadData, match=says):
        load_workbench(written(tmp_path, content=content))


def test_other_groups_and_other_things_are_refused(tmp_path):
    with pytest.raises(BadData, match=r"no group 'jobs'; groups: job2skill"):
        load_workbench(written(tmp_path, group="jobs"))
    for source in (tmp_path / "nothing", [3], 3):
        with pytest.raises(BadData, match="folder"):
            load_workbench(source)


def test_an_encoder_of_the_graphs_ranks_the_generated_suite_better_than_shared_words():
    world = work_world(0)
    assert {one.group for one in world.suite} == set(GROUPS)
    suite = WorkBench(world.suite)
    model = UWE.from_preset("small", epochs=20, lr=0.03).fit(world.graphs)
    words = BM25Pairs().fit(["a"], ["b"])
    assert suite.evaluate(model).map > suite.evaluate(words).map + 0.1
