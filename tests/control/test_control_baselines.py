"""The baselines that learn from recorded episodes: what each is trained on, and for how long."""

import dataclasses

import numpy as np
import pytest
import torch

from anytask.control.baselines import (
    ExpertOnly,
    GoalConditioned,
    MixedData,
    OracleSelection,
    PretrainFinetune,
    PriorOnly,
    RandomSubset,
    with_goals,
)
from anytask.core.settings import merged
from anytask.datasets.episodes import Episode, Episodes

EXEMPT = {
    "GoalConditioned": {"test_a_copy_that_was_reset_acts_as_one_that_has_just_begun": "draws a goal at every reset"},
}

torch.set_num_threads(1)
FAST = {"cloning": {"hidden": (16,), "batch_size": 16, "steps": 40}, "device": "cpu"}


def small(cls, **params):
    return cls.from_preset("small", **merged(FAST, params))


def walk(way, n=10, seed=0, **facts):
    rng = np.random.default_rng(seed)
    x = np.cumsum(np.vstack([rng.uniform(-1, 1, (1, 2)), np.full((n, 2), 0.1 * way)]), 0)
    return Episode(x, np.full((n, 2), way) + 0.1 * rng.normal(size=(n, 2)), attributes={"way": way, **facts})


def worlds():
    expert = Episodes.from_list([walk(1.0, seed=i) for i in range(2)])
    prior = Episodes.from_list([walk((1.0, -1.0)[i % 2], seed=10 + i, relevant=i % 2 == 0) for i in range(12)])
    return expert, prior


@pytest.mark.parametrize("cls", [ExpertOnly, MixedData, PriorOnly, RandomSubset, OracleSelection, PretrainFinetune,
                                 GoalConditioned])  # fmt: skip
def test_every_baseline_takes_as_many_steps(cls):
    expert, prior = worlds()
    model = small(cls).fit(expert, prior)
    assert model.policy_.steps_ == 40
    assert model.predict(expert).shape == expert.actions.shape and model.log_prob(expert).shape == (expert.steps,)
    if cls is not ExpertOnly:
        with pytest.raises(ValueError, match="needs prior data"):
            small(cls).fit(expert)


def test_every_batch_has_as_many_windows_whatever_the_sources():
    expert, prior = worlds()
    sizes = {cls: small(cls).fit(expert, prior).policy_.batch_size for cls in (ExpertOnly, MixedData, RandomSubset)}
    assert sizes == {ExpertOnly: 32, MixedData: 16, RandomSubset: 16}


def test_selections_of_the_baselines():
    expert, prior = worlds()
    assert small(RandomSubset, share=0.1).fit(expert, prior).selected_.sum() == 12
    oracle = small(OracleSelection).fit(expert, prior)
    np.testing.assert_array_equal(oracle.selected_, prior.attributes["way"][prior.episode_of] > 0)
    per_step = dataclasses.replace(prior, attributes={"relevant": np.arange(prior.steps) < 7})
    assert small(OracleSelection).fit(expert, per_step).selected_.sum() == 7
    with pytest.raises(ValueError, match="relevant"):
        small(OracleSelection).fit(expert, dataclasses.replace(prior, attributes={}))
    for cls, params in ((RandomSubset, {"share": 0}), (PretrainFinetune, {"finetune_share": 1.0}),
                        (GoalConditioned, {"finetune_share": -0.1})):  # fmt: skip
        with pytest.raises(ValueError, match="share"):
            cls(**params)


def test_goals_are_the_ends_of_the_episodes():
    expert, _ = worlds()
    seen = with_goals(expert).observations["goal/observation"]
    np.testing.assert_array_equal(seen, expert.final_observations["observation"][expert.episode_of])
    picture = Episodes.from_list([Episode(np.random.default_rng(0).integers(0, 9, (3, 8, 8, 3), dtype=np.uint8),
                                          np.zeros((2, 2)))])  # fmt: skip
    lazy = with_goals(picture)
    assert lazy.observations["goal/observation"][np.array([0, 1])].shape == (2, 8, 8, 3)


def test_a_goal_conditioned_policy_goes_where_it_is_asked_to():
    prior = Episodes.from_list([walk((1.0, -1.0)[i % 2], n=20, seed=i) for i in range(30)])
    went = []
    for way in (1.0, -1.0):
        expert = Episodes.from_list([walk(way, n=20, seed=50)])
        model = small(GoalConditioned, cloning={"steps": 120, "lr": 3e-3}).fit(expert, prior)
        went.append(model.act(np.zeros(2, np.float32)))
    assert went[0].shape == (2,) and (went[0] > went[1] + 1).all()
