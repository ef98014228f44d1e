"""The winner of a comparison in a folder: who may be saved, where, and what is left when something goes wrong."""

import json

import pytest
from toy_problem import Guess, Toy

from anytask.bench import compare
from anytask.bench.saving import check_folder
from anytask.problems.base import Entrant, Trained


class Keeper(Guess):
    """A guess that can be saved."""

    def save(self, folder):
        if self.do == "spoil":
            (folder / "half").touch()
            raise OSError("the disk is full")
        (folder / "level").write_text(str(self.level))

    @classmethod
    def load(cls, folder):
        return cls()


class Keeping(Toy):
    """A toy whose winner can be saved; its baseline wins over systems below 0.6."""

    def baselines(self, data):
        return (
            Entrant("chance", "toy_problem:Guess", {"level": 0.1}, "baseline"),
            Entrant("replay", "test_saving:Keeper", {"level": 0.6}, "baseline"),
        )

    def refit(self, entrant, data, seed, progress=None):
        model = entrant.load()(**entrant.params)
        return Trained(
            (model,), (entrant.import_line, f'model = {entrant.class_name}.load("{{folder}}")'), ("A note.",)
        )


def run(folder, problem=None, seeds=2, systems=None, **params):
    systems = systems or [Entrant("tame", "test_saving:Keeper", {"level": 0.8} | params)]
    problem = problem or Keeping()
    return compare(problem, "toy", systems, seeds=seeds, backend="sequential", save_best=folder)


def test_the_winner_is_saved_with_what_it_is_and_how_it_is_used(tmp_path):
    saved = run(tmp_path / "best", seeds=[7, 3]).saved
    assert saved.error is None and (saved.name, saved.role) == ("tame", "system")
    assert saved.usage == f'from test_saving import Keeper\nmodel = Keeper.load("{tmp_path}/best")'
    assert (tmp_path / "best" / "level").read_text() == "0.8"
    facts = json.loads((tmp_path / "best" / "anytask.json").read_text())
    assert facts["entrant"]["settings"] == {"level": 0.8} and facts["seed"] == 7
    readme = (tmp_path / "best" / "README.txt").read_text()
    assert saved.usage in readme and "A note." in readme
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_baseline_that_wins_is_saved_and_called_one(tmp_path):
    saved = run(tmp_path / "best", level=0.3).saved
    assert saved.sentence.startswith("replay, a baseline, won")
    assert (tmp_path / "best" / "level").read_text() == "0.6"


def test_an_earlier_winner_is_replaced(tmp_path):
    run(tmp_path / "best")
    (tmp_path / "best" / "old").touch()
    assert run(tmp_path / "best", level=0.9).saved.error is None
    assert (tmp_path / "best" / "level").read_text() == "0.9"
    assert not (tmp_path / "best" / "old").exists()


def test_what_cannot_be_written_leaves_the_earlier_winner_as_it_was(tmp_path):
    run(tmp_path / "best")
    saved = run(tmp_path / "best", level=0.9, do="spoil").saved
    assert saved.error == "the disk is full" and saved.usage is None
    assert "Nothing was saved" in saved.sentence
    assert (tmp_path / "best" / "level").read_text() == "0.8"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_without_a_finished_run_nothing_is_saved(tmp_path):
    failing = [Entrant("tame", "test_saving:Keeper", {"do": "fail"})]
    comparison = compare(
        Keeping(), "toy", failing, seeds=1, backend="sequential", baselines=False, save_best=tmp_path / "best"
    )
    assert comparison.best is None and "finished a run" in comparison.saved.error
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize(
    ("problem", "systems", "words"),
    [
        (Keeping(), [Entrant("guess", "toy_problem:Guess")], "guess: Guess has no save and no load"),
        (Toy(), None, "tame, replay: toy trains nothing"),
    ],
)
def test_who_cannot_be_saved_is_refused_by_name_before_any_run(problem, systems, words, tmp_path):
    problem.log = str(tmp_path / "runs")
    with pytest.raises(ValueError, match=words) as refused:
        run(tmp_path / "best", problem, systems=systems)
    assert "chance" not in str(refused.value)  # a lower bound never wins
    assert not any(tmp_path.iterdir())


def test_a_folder_that_holds_anything_else_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder, words in (("file", "is a file"), ("no/best", "there is no folder"), (".", "is not empty")):
        with pytest.raises(ValueError, match=words):
            check_folder(tmp_path / folder)
    (tmp_path / "empty").mkdir()
    assert check_folder(tmp_path / "empty") == tmp_path / "empty"
    assert run(tmp_path / "empty").saved.error is None
