"""Text can be read: WCAG AA contrast of the style sheet's colours, on light and on dark screens."""

import re
from importlib.resources import files

import pytest

CSS = (files("anytask.app") / "assets" / "app.css").read_text(encoding="utf-8")


def colors(block):
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})\b", block))


LIGHT, DARK = (colors(block) for block in re.findall(r":root \{(.*?)\}", CSS, flags=re.S)[:2])

TEXT = [
    *((ink, back) for ink in ("ink", "soft", "accent") for back in ("page", "card", "hover", "faint-back")),
    *((name, f"{name}-back") for name in ("good", "warn", "bad", "live")),
    *(("ink", f"{name}-back") for name in ("good", "warn", "bad", "live")),
    ("on-accent", "accent"), ("bad", "card"), ("soft", "live-back"),
]  # fmt: skip
EDGES = [("edge", "card"), ("edge", "page"), ("accent", "page"), ("accent", "card"), ("bad", "page")]


def luminance(color):
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_black_on_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_both_schemes_name_the_same_colors():
    assert set(LIGHT) == set(DARK) and len(LIGHT) >= 15


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "back"), TEXT)
def test_text_has_a_contrast_of_four_and_a_half(scheme, text, back):
    assert contrast(scheme[text], scheme[back]) >= 4.5


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(("edge", "back"), EDGES)
def test_borders_of_controls_and_the_focus_ring_have_a_contrast_of_three(scheme, edge, back):
    assert contrast(scheme[edge], scheme[back]) >= 3
