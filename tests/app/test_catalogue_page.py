"""The cards say what is known, and no more."""

import dataclasses
import json
import math

import pytest

from anytask import catalogue, claims
from anytask.app.catalogue import cards as catalogue_cards
from anytask.app.catalogue import page as catalogue_page
from anytask.app.catalogue.cards import FAMILY_COLORS, read, snippet, split_use
from anytask.catalogue import FAMILIES, SYSTEMS
from anytask.claims.figure import bounds_of, evidence_figure

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
def test_the_code_of_an_available_system_imports_it_and_is_python(card):
    package, name = card.entry.split(":")
    code = snippet(card)
    assert f"from {package} import {name}" in code
    compile(code, card.key, "exec")


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


def test_the_outcome_of_a_claim_is_told_as_it_is_recorded():
    for card in READY:
        evidence = read(card.key)
        if evidence is None:
            assert "Nothing is recorded yet" in text_of(catalogue_cards.sheet(card))
            continue
        told = text_of(catalogue_cards.sheet(card))
        assert evidence["claim"] in told and evidence["outcome"].capitalize() in told
        for check in evidence["checks"]:
            assert check["sentence"] in told


def test_damaged_evidence_counts_as_none(tmp_path, monkeypatch):
    for content in ("{", "[]", '{"outcome": "shown"}', "\xff"):
        (tmp_path / "tame.json").write_text(content, encoding="latin-1")
        monkeypatch.setattr("anytask.claims.evidence.evidence_folder", lambda: tmp_path)
        assert read("tame") is None


def test_a_failed_check_is_listed_and_not_drawn(monkeypatch):
    evidence = json.loads(json.dumps(read("tame")))
    evidence["outcome"] = "contradicted"
    evidence["checks"][0] |= {"mean": None, "low": None, "high": None, "outcome": "not shown"}
    monkeypatch.setattr(catalogue_cards, "read", lambda key: evidence)
    told = text_of(catalogue_cards.sheet(TAME))
    assert "Contradicted" in told and "failed" in told
    assert len(evidence_figure(evidence["checks"]).layout.annotations) == len(evidence["checks"]) - 1


def test_the_margins_that_are_drawn_are_those_that_are_judged():
    judged = 0
    for key in claims.KEYS:
        for check in claims.get(key).checks:
            low, high = check.bounds()
            found = bounds_of({"sentence": check.sentence()})
            assert found == pytest.approx((low, high)), check.sentence()
            judged += 1
    assert judged > 20


def test_recorded_bounds_come_before_what_the_sentence_says():
    sentence = "a has a ratio >= 1 and <= 2"
    assert bounds_of({"sentence": sentence, "bounds": [None, 3.5]}) == (-math.inf, 3.5)
    assert bounds_of({"sentence": sentence, "bounds": None}) == (1.0, 2.0)


def test_the_band_of_the_figure_is_where_a_check_holds():
    check = {
        "sentence": "a beats b by >= 0.1 on accuracy", "outcome": "shown", "mean": 0.3, "low": 0.2, "high": 0.4,
        "values": [0.25, 0.35],
    }  # fmt: skip
    figure = evidence_figure([check])
    band, edge = figure.layout.shapes
    left, right = figure.layout.xaxis.range
    assert (band.x0, band.x1, edge.x0) == (0.1, right, 0.1) and left < 0 < 0.4 < right
    interval = next(trace for trace in figure.data if trace.mode == "lines")
    assert list(interval.x) == [0.2, 0.4]
    assert math.isclose(figure.data[-1].x[0], 0.3)
