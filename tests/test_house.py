"""The shape of the house: imports point down, no circles, no module too long."""

import importlib.util
from pathlib import Path

import pytest

#: Modules that are longer than they should be: this list gets shorter only. The catalogue is data.
LONG_FOR_NOW = {"catalogue", "datasets.episode_files", "control.rl100"}

spec = importlib.util.spec_from_file_location("house", Path(__file__).parents[1] / "scripts" / "house.py")
house = importlib.util.module_from_spec(spec)
spec.loader.exec_module(house)


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_imports_point_down():
    assert house.upward() == []


def test_no_two_modules_import_each_other():
    assert house.circles() == []


def test_no_module_is_longer_than_a_reader_holds():
    sizes = {name: house.code_lines(path) for name, path in house.modules().items()}
    assert [name for name, lines in sizes.items() if lines > house.LONG and name not in LONG_FOR_NOW] == []


def test_no_two_files_of_tests_have_one_name():
    loose = [path for path in Path(__file__).parent.rglob("*.py") if not (path.parent / "__init__.py").exists()]
    names = [path.name for path in loose if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))  # pytest imports them as modules beside each other


def test_every_folder_has_a_floor():
    folders = {name.split(".")[0] for name in house.modules()} - {""}
    assert folders <= set(house.FLOOR)


def test_an_import_that_points_up_or_across_is_found_in_functions_too(tmp_path):
    write(
        tmp_path,
        {
            "core/rng.py": "def f():\n    from anytask.continual.tame import TAME\n",
            "continual/tame.py": "from anytask.core import rng\nimport anytask.control.ppo\n",
            "control/ppo.py": "from anytask.continual import tame\nfrom anytask.control.base import x\n",
            "control/base.py": "",
        },
    )
    assert house.upward(tmp_path) == [
        "continual/tame.py:2 -> control.ppo",
        "control/ppo.py:1 -> continual.tame",
        "core/rng.py:2 -> continual.tame",
    ]


def test_a_circle_of_three_modules_is_found(tmp_path):
    write(
        tmp_path,
        {
            "core/a.py": "from anytask.core.b import x\n",
            "core/b.py": "from anytask.core import c\n",
            "core/c.py": "import anytask.core.a\n",
            "core/d.py": "from anytask.core import a\n",
        },
    )
    assert house.circles(tmp_path) == [("core.a", "core.b", "core.c")]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('"""Doc\n\nstring."""\n\nx = 1  # why\n# comment\n', 1),
        ("def f():\n    '''Doc.'''\n    return [\n        1,\n    ]\n", 4),
        ("", 0),
    ],
)
def test_code_lines_leave_docstrings_comments_and_blanks_out(tmp_path, text, lines):
    (tmp_path / "m.py").write_text(text)
    assert house.code_lines(tmp_path / "m.py") == lines
