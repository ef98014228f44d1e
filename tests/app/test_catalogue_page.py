"""The cards say what is known, and no more."""

import dataclasses
import math

import pytest

from anytask import catalogue
from anytask.app.catalogue import cards as catalogue_cards
from anytask.app.catalogue import page as catalogue_page
from anytask.app.catalogue.cards import FAMILY_COLORS, read, snippet, split_use, unbound
from anytask.catalogue import FAMILIES, SYSTEMS
from anytask.claims.figure import effect_figure, evidence_figure
from sample_evidence import sample

READY = [card for card in SYSTEMS if catalogue.state(card) == "available"]
TAME = catalogue.get("tame")


def text_of(component):
    """All text of a component tree."""
    if component is None:
        return ""
    if isinstance(component, (list, tuple)):
        return " ".join(text_of(item) for item in component)
    if isinstance(component, (str, int, float)):
        return str(component)
    return text_of(getattr(component, "children", None))


def test_filters_meet_all_conditions():
    fits = catalogue_page.fits
    assert fits(TAME, None, None, "all") and fits(TAME, "continual", "task-stream", "available")
    assert not fits(TAME, "prompts", None, "all") and not fits(TAME, None, "tool-use", "all")
    assert not fits(TAME, None, None, "planned")


def test_orders():
    newest = catalogue_page.ordered(SYSTEMS, "new")
    assert [catalogue_page.appeared(card) for card in newest] == sorted(
        (catalogue_page.appeared(card) for card in SYSTEMS), reverse=True
    )
    names = [card.name.lower() for card in catalogue_page.ordered(SYSTEMS, "name")]
    assert names == sorted(names)
    states = [catalogue.state(card) for card in catalogue_page.ordered(SYSTEMS, "fit")]
    assert states == sorted(states), "available ones come first where nothing is searched"
    assert catalogue_page.ordered(SYSTEMS[::-1], "fit", searched=True) == list(SYSTEMS[::-1])


def test_the_time_line_counts_every_paper_once():
    columns = catalogue_page.timeline(SYSTEMS, [2022])
    assert sum(int(text_of(column.children[2])) for column in columns) == len(SYSTEMS)
    assert [getattr(c, "aria-pressed") for c in columns].count("true") == 1
    pale = catalogue_page.timeline([TAME], [])
    assert [text_of(c.children[2]) for c in pale] == ["1" if y == 2022 else "0" for y in catalogue_page.YEARS]


def test_each_family_has_a_color_of_its_own():
    assert len(set(FAMILY_COLORS.values())) == len(FAMILIES)


@pytest.mark.parametrize("card", READY, ids=lambda card: card.key)
def test_the_code_of_an_available_system_imports_all_that_it_uses(card):
    package, name = card.entry.split(":")
    code = snippet(card)
    assert f"from {package} import {name}" in code
    assert not unbound(code)


@pytest.mark.parametrize("card", SYSTEMS, ids=lambda card: card.key)
def test_every_system_has_a_card_and_a_sheet(card):
    shown = text_of(catalogue_cards.card(card))
    assert card.name in shown and card.use in shown
    told = text_of(catalogue_cards.sheet(card))
    purpose, when = split_use(card.use)
    assert card.title in told and purpose in told and when in told
    assert ("How to call it" in told) == (catalogue.state(card) == "available")
    if card.arxiv:
        assert f"arXiv:{card.arxiv}" in told


def test_a_planned_system_shows_no_code():
    planned = dataclasses.replace(TAME, entry="anytask.continual:NotWrittenYet", key="later")
    assert "How to call it" not in text_of(catalogue_cards.sheet(planned))
    assert "planned" in text_of(catalogue_cards.card(planned))


def test_what_is_recorded_is_told(monkeypatch):
    evidence = sample()
    monkeypatch.setattr(catalogue_cards, "read", lambda key: evidence)
    told = text_of(catalogue_cards.sheet(TAME))
    assert evidence["claim"] in told and "Shown" in told and "1 of 2 components matter here." in told
    for words in (
        "tame beats its rivals",
        "+0.300 [+0.200, +0.400]",
        "the strongest of 2 rivals",
        "nearest mean",
        "5,000",
    ):
        assert words in told


def test_every_record_can_be_shown():
    for card in READY:
        evidence, told = read(card.key), text_of(catalogue_cards.sheet(card))
        assert "Nothing is recorded yet" in told if evidence is None else evidence["claim"] in told


def test_damaged_evidence_counts_as_none(tmp_path, monkeypatch):
    for content in ("{", "[]", '{"outcome": "shown"}', "\xff"):
        (tmp_path / "tame.json").write_text(content, encoding="latin-1")
        monkeypatch.setattr("anytask.claims.evidence.evidence_folder", lambda: tmp_path)
        assert read("tame") is None


def test_a_comparison_that_failed_is_listed_and_not_drawn(monkeypatch):
    evidence = sample() | {"outcome": "contradicted"}
    evidence["headline"][0] |= {"difference": {"mean": None, "low": None, "high": None}, "outcome": "not shown"}
    monkeypatch.setattr(catalogue_cards, "read", lambda key: evidence)
    told = text_of(catalogue_cards.sheet(TAME))
    assert "Contradicted" in told and "failed" in told
    assert len(evidence_figure(evidence).layout.annotations) == 2


def test_the_figure_draws_the_interval_the_good_side_and_what_is_worth_having():
    figure = evidence_figure(sample() | {"components": []})
    good, worth = figure.layout.shapes
    left, right = figure.layout.xaxis.range
    assert (good.x0, good.x1, worth.x0) == (0.0, right, 0.01) and left < 0 < 0.4 < right
    interval = next(trace for trace in figure.data if trace.mode == "lines")
    assert list(interval.x) == [0.2, 0.4]
    assert math.isclose(figure.data[-1].x[0], 0.3)


def test_the_effect_is_drawn_with_the_best_at_the_top():
    evidence = sample()
    rows = [("system", "tame", 0.9), ("baseline", "replay", 0.6), ("baseline", "fine-tuning", 0.3)]
    evidence["rows"] = [
        {
            "experiment": "digits",
            "metric": "accuracy",
            "role": role,
            "name": name,
            "seed": seed,
            "value": value + seed / 100,
        }
        for role, name, value in rows
        for seed in range(3)
    ]
    assert effect_figure(evidence).layout.yaxis.categoryarray == ("fine-tuning", "replay", "tame")
    errors = sample()  # lower is better: the difference is positive though the mean is smaller
    errors["rows"] = [row | {"value": 1 - row["value"]} for row in evidence["rows"]]
    assert effect_figure(errors).layout.yaxis.categoryarray == ("fine-tuning", "replay", "tame")
