"""Entrants: how a row of a comparison becomes an object, and what distinguishes it."""

from anytask.problems.base import Entrant


class Plain:
    def __init__(self, steps=1, seed=0):
        self.steps, self.seed = steps, seed


class WithPresets(Plain):
    PRESETS = {"small": {"steps": 7}, "paper": {"steps": 70}}  # noqa: RUF012

    @classmethod
    def from_preset(cls, preset, **params):
        return cls(**{**cls.PRESETS[preset], **params})


def entrant(cls, params=(), **more):
    return Entrant("x", f"{__name__}:{cls.__name__}", dict(params), **more)


def test_what_the_problem_settles_is_overridden_and_left_aside_where_unknown():
    made = entrant(Plain, {"steps": 3}).make(seed=5, steps=9, batch_size=4)
    assert (made.steps, made.seed) == (3, 5)


def test_the_problems_preset_is_used_unless_another_is_named():
    assert entrant(WithPresets).make("small").steps == 7
    assert entrant(WithPresets, preset="paper").make("small").steps == 70
    assert entrant(WithPresets, {"preset": "paper"}).make("small").steps == 70
    assert entrant(WithPresets, {"steps": 2}).make("small").steps == 2
    assert entrant(WithPresets).make("large").steps == 1
    assert entrant(Plain).make("small").steps == 1


def test_settings_hold_preset_and_after_and_give_the_entrant_back():
    one = entrant(Plain, {"steps": 3}, preset="small", after={"mode": "fast"})
    assert one.settings == {"steps": 3, "preset": "small", "after": {"mode": "fast"}}
    assert Entrant.of(one.name, one.entry, one.settings, one.role, one.key) == one
    assert entrant(Plain, {"steps": 3}).settings == {"steps": 3}
