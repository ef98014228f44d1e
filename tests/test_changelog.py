"""Changelog fragments: those that are there can be read, and a release puts each bullet where it belongs."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "changelog.py"
spec = importlib.util.spec_from_file_location("changelog", SCRIPT)
changelog = importlib.util.module_from_spec(spec)
spec.loader.exec_module(changelog)


@pytest.fixture
def project(tmp_path):
    def write(**fragments):
        (tmp_path / "changelog.d").mkdir()
        (tmp_path / "changelog.d" / "README.md").write_text("# How to write them")
        for name, text in fragments.items():
            (tmp_path / "changelog.d" / f"{name}.md").write_text(text)
        (tmp_path / "CHANGELOG.md").write_text(
            "# Changelog\n\n## 0.2.0 (unreleased)\n\n### Added\n- Old.\n\n## 0.1.0\n\n### Added\n- First.\n"
        )
        return tmp_path

    return write


def test_bullets_come_under_their_headings_sorted_after_what_stood_there(project):
    root = project(
        otter="### Fixed\n- Otters sink.\n\n### Added\n- Otters,\n  which swim.\n", badger="### Added\n- Badgers.\n"
    )
    assert changelog.assembled(root) == (
        "# Changelog\n\n## 0.2.0 (unreleased)\n\n### Added\n- Old.\n- Badgers.\n- Otters, which swim.\n\n"
        "### Fixed\n- Otters sink.\n\n## 0.1.0\n\n### Added\n- First.\n"
    )


def test_long_bullets_are_wrapped(project):
    text = changelog.assembled(project(otter="### Added\n- " + 40 * "otter " + "\n"))
    assert max(map(len, text.splitlines())) <= 120 and text.count("\n  otter") == 2


@pytest.mark.parametrize("text", ["### News\n- Otters.", "- Otters.", "### Added\nOtters."])
def test_another_form_is_refused_with_file_and_line(project, text):
    with pytest.raises(ValueError, match=r"otter\.md, line [12]: "):
        changelog.assembled(project(otter=text))


def test_the_fragments_of_this_project_can_be_read():
    assert changelog.assembled().startswith("# Changelog\n\n## ")
