"""A report is one file that stands alone, tells everything, and is never half written."""

import os
import re
from html import escape
from html.parser import HTMLParser

import pytest
from toy_problem import Toy, time_for_one_run

from anytask.bench import compare, write_report
from anytask.bench.report import render
from anytask.problems.base import Entrant

ENTRY = "toy_problem:Guess"
NASTY = "</script><script>alert('x')</script> & <img src=http://example.org/x.png>"


class Drawn(Toy):
    """A toy with a figure of its own."""

    def figures(self, data, runs):
        import plotly.graph_objects as go

        return [("Levels <1>", "What each entrant gave & kept.", go.Figure(go.Bar(x=[1.0], y=[runs[-3].entrant_name])))]


class Clumsy(Toy):
    def figures(self, data, runs):
        raise RuntimeError("no <ink>")


class Picky(Toy):
    def refuses(self, entrant, data):
        return "it needs <images>" if entrant.name == "replay" else None


class Lower(Toy):
    metrics = (Toy.metrics[2], Toy.metrics[0])


class Talking(Toy):
    def run(self, entrant, data, seed, progress=None):
        outcome = super().run(entrant, data, seed, progress)
        outcome.kind, outcome.notes = "tiny", ["scaled & clipped"]
        return outcome


def run(systems=None, problem=None, **settings):
    settings = {"seeds": 2, "backend": "sequential"} | settings
    return compare(problem or Toy(), "toy", systems or [Entrant("tame", ENTRY, {"level": 0.8})], **settings)


class Page(HTMLParser):
    """The page as a browser takes it apart: tags with attributes, text outside of scripts, scripts, styles."""

    def __init__(self, html):
        super().__init__()
        self.tags: list = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._inside: list[str] = []
        self.feed(html)
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img", "link"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data):
        where = self._inside[-1] if self._inside else ""
        {"script": self.scripts, "style": self.styles}.get(where, self.text).append(data)

    def section(self, title):
        return self.words.partition(title)[2]


@pytest.fixture(scope="module")
def page():
    systems = [
        Entrant("tame", ENTRY, {"level": 0.8}),
        Entrant(f"bad {NASTY}", ENTRY, {"do": "fail"}),
        Entrant(f"odd {NASTY}", ENTRY, {"level": 0.4}, role="ablation"),
    ]
    return Page(render(run(systems, Drawn())))


def test_nothing_is_loaded_from_elsewhere(page):
    """No tag refers to anything, styles import nothing, and a browser is forbidden to fetch what scripts might ask."""
    for tag, attributes in page.tags:
        assert tag not in ("img", "link", "iframe", "object", "embed", "audio", "video", "base", "form")
        assert not {"src", "srcset", "href", "action", "data", "poster", "background"} & set(attributes), (
            tag,
            attributes,
        )
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\(", "".join(page.styles))
    policy = next(
        a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and "http" not in policy


def test_names_and_messages_are_text_and_never_markup(page):
    assert f"bad {NASTY}" in page.words and f"odd {NASTY}" in page.words
    assert "RuntimeError: <b>broken</b> at seed 1" in page.words
    named = [script for script in page.scripts if "alert(" in script]
    assert named and not any("<script" in script or "</script" in script for script in named)
    assert sum(tag == "script" for tag, _ in page.tags) == 5  # Plotly itself and four figures
    assert "Levels <1>" in page.words and "What each entrant gave & kept." in page.words


def test_the_answer_comes_first_and_every_section_is_there(page):
    titles = [
        *("tame ranks first on toy", "Who does best", "A closer look", "Which differences count"),
        *("What was compared", "What it costs", "What failed", "Do it again"),
    ]
    places = [page.words.index(title) for title in titles]
    assert places == sorted(places)


def test_failures_show_their_traceback_and_stay_in_the_table(page):
    failed = page.section("What failed")
    assert "Traceback (most recent call last)" in failed and 'raise RuntimeError(f"<b>broken</b>' in failed
    assert "Of 8 runs" not in page.words and "Of 12 runs, 2 failed." in page.words


def test_figures_are_drawn_in_the_page(page):
    drawings = [attributes for tag, attributes in page.tags if attributes.get("class") == "plotly-graph-div"]
    assert len(drawings) == 4  # ranking, the problem's own, ranks, costs
    assert sum("Plotly.newPlot(" in script for script in page.scripts) >= 4


def test_left_out_entrants_and_their_reason_are_shown():
    text = Page(render(run(problem=Picky(), seeds=1))).section("Who was left out")
    assert "replay" in text and "it needs <images>" in text


class Announced(Toy):
    """A toy whose setting is told, with a baseline that was told as much as an oracle."""

    def setting(self, data):
        return f"Guess {data.name} <well>. Nobody helps."

    def baselines(self, data):
        return (*super().baselines(data), Entrant("helped", "toy_problem:Oracle", {"level": 0.7}, "baseline"))


def test_the_setting_comes_before_the_answer_and_who_was_told_more_stands_apart():
    html = render(run([Entrant("tame", ENTRY, {"level": 0.8}), Entrant("told", "toy_problem:Oracle", {})], Announced()))
    words = Page(html).words
    said = ["Guess toy <well>. Nobody helps.", "Of those told nothing of the task, tame ranks first on toy"]
    heads = ["Told nothing of the task1tame", "Told more: the task in training and at test1helped"]
    heads += ["2told", "For reference, not ranked: given all the data–joint"]
    places = [words.index(text) for text in said + heads]
    assert places == sorted(places)
    table = html.partition("Told nothing of the task</span>")[2].partition("</table>")[0]
    assert re.findall(r"<tbody.*?>", table) == ['<tbody class="apart">'] * 2
    assert "only those told the same are ranked against each other" in words


def test_where_all_were_told_the_same_no_block_says_so():
    words = Page(render(run())).words
    assert "Told" not in words and "For reference, not ranked: given all the data" in words


def test_runs_without_time_are_shown(monkeypatch):
    found = run(**time_for_one_run(monkeypatch))
    assert "Not started, for want of time: chance (seed 0), replay (seed 0)" in Page(render(found)).words


def test_a_figure_that_fails_costs_no_report(caplog):
    words = Page(render(run(problem=Clumsy(), seeds=1))).words
    assert "These figures could not be drawn: no <ink>" in words and "Who does best" in words
    assert "could not be drawn" in caplog.text


def test_a_comparison_without_a_finished_run_has_a_report():
    found = run([Entrant("bad", ENTRY, {"do": "fail"})], baselines=False)
    page = Page(render(found))
    assert "nothing to rank (2 failed)" in page.words and "What failed" in page.words
    assert not any(attributes.get("class") == "plotly-graph-div" for _, attributes in page.tags)


def test_lower_is_better_is_said():
    words = Page(render(run(problem=Lower()))).words
    assert "tokens over the seeds (lower is better)" in words and "accuracy ↑" in words
    assert "Down and to the left is best: low tokens for little time." in words


def test_the_kind_of_language_model_is_said_beside_the_answer():
    words = Page(render(run(problem=Talking()))).words
    assert "Language model: tiny model trained here: evidence about the algorithm only." in words
    assert "tame: scaled & clipped" in words and "tame (tiny LM)" in words


def test_values_that_are_not_numbers_are_dashes():
    class Odd(Toy):
        def run(self, entrant, data, seed, progress=None):
            outcome = super().run(entrant, data, seed, progress)
            outcome.metrics["tokens"] = float("nan")
            if entrant.name == "tame":
                outcome.metrics["forgetting"] = float("nan")
            return outcome

    words = Page(render(run(problem=Odd()))).words
    assert "nan" not in words.lower().split()
    assert "forgetting ↓" in words and "tokens ↓" not in words  # nobody has tokens, some have forgetting


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("the old one")
    found = run(seeds=1)

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("anytask.bench.report.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(found, path)
    assert path.read_text() == "the old one" and list(tmp_path.iterdir()) == [path]


def test_rendering_that_fails_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("the old one")
    found = run(seeds=1)
    monkeypatch.setattr("anytask.bench.report._cost", lambda comparison: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        found.report(path)
    assert path.read_text() == "the old one" and list(tmp_path.iterdir()) == [path]


def test_compare_writes_the_report_with_ordinary_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        found = run(seeds=1, report=tmp_path / "report.html")
    finally:
        os.umask(before)
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o644
    html = (tmp_path / "report.html").read_text()
    assert html.startswith("<!doctype html>") and escape(found.headline().split(". ")[0]) in html


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        write_report(run(seeds=1), tmp_path / "nowhere" / "report.html")
