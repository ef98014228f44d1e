"""Tasks that a teacher draws, and texts of which each is labelled for one task."""

import numpy as np
import pandas as pd
import torch
from transformers import LlamaConfig, LlamaModel

from anytask.claims.multitask.mtlora import CLAIM
from anytask.claims.multitask.teacher import Teacher, Tuning
from anytask.claims.multitask.text_targets import LoRAPerTask, TopBlocks, entering
from anytask.multitask import MTLoRA
from anytask.problems.base import Entrant


def unexplained(**options):
    """The largest share of a target's variance that a linear map of the frozen layer's features leaves."""
    data = Teacher().load(None, n_tasks=3, per_task=300, tested=10, **options)
    world, layer = data.instance(2), data.frozen(2)
    z = torch.nn.functional.gelu(layer(torch.from_numpy(world.table.X))).detach().double().numpy()
    Y = world.table.Y.to_numpy()
    rest = Y - z @ np.linalg.lstsq(z, Y, rcond=None)[0]
    return (rest.var(axis=0) / Y.var(axis=0)).max()


def test_the_frozen_layer_lacks_what_tasks_share_and_what_each_has_of_its_own():
    assert unexplained(common_rank=0, own_rank=0) < 1e-9
    assert unexplained(common_rank=2, own_rank=0) > 0.1 and unexplained(common_rank=0, own_rank=1) > 0.1


def test_entrants_get_the_frozen_layer_and_train_what_they_are_to():
    data = Teacher().load(None, n_tasks=3, per_task=60, tested=10)
    W = data.frozen(0).weight
    for full in (False, True):
        entrant = Entrant("x", "anytask.claims.multitask.teacher:Tuning", {"epochs": 1, "full": full}, "baseline")
        model = Teacher().train(entrant, data, 0, None)
        assert isinstance(model, Tuning) and torch.equal(model.trunk_[1][0].weight, W) is not full


def test_rivals_have_as_many_parameters_as_is_said():
    data, counts = Teacher().load(None, per_task=60, tested=10), {}
    for entrant in CLAIM.experiments[0].entrants:
        if "MTLoRA" in entrant.entry:
            one = Entrant(entrant.name, entrant.entry, {**entrant.params, "epochs": 1}, "baseline")
            model = Teacher().train(one, data, 0, None)
            pairs = [(n, w) for n, w in model.trunk_.named_parameters() if "lora_" in n and "scales" not in n]
            unread = {n for n, _ in pairs if model._streams.unread and "task" not in n}  # not trained
            counts[entrant.name] = sum(w.numel() for n, w in pairs if n not in unread)
    wanted = {"mtlora": 256, "shared LoRA, rank 8": 256, "one LoRA per task, rank 2": 384, "mtlora, wide": 576,
              "one LoRA per task, rank 3": 576}  # fmt: skip
    assert wanted.items() <= counts.items()


class Words:
    """A tokenizer: a token for each letter."""

    def __call__(self, text):
        return pd.Series({"input_ids": [ord(c) % 20 for c in text]})


def test_the_last_blocks_go_on_from_what_enters_them():
    config = LlamaConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, vocab_size=20
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaModel(config).eval()
    texts = ("hello", "a longer text", "x")
    X = entering(model, Words(), texts, 2)
    assert X.shape == (3, 13, 16) and not X[0, 5:].any()
    found = TopBlocks(model, 2)(torch.from_numpy(X))
    for text, one in zip(texts, found):
        whole = model(input_ids=torch.tensor([[ord(c) % 20 for c in text]])).last_hidden_state[0, -1]
        assert torch.allclose(one, whole, atol=1e-5)
    assert len(model.layers) == 4 and model.config.num_hidden_layers == 4


def test_one_lora_per_task_learns_from_its_own_rows():
    X = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    Y = pd.DataFrame(
        {"a": np.where(np.arange(40) < 20, X[:, 0], np.nan), "b": np.where(np.arange(40) < 20, np.nan, 1.0)}
    )
    Y.loc[30:, "b"] = X[30:, 1]
    pairs = {"rank": 4, "task_rank": 0}
    apart = LoRAPerTask(low_rank=pairs, epochs=2).fit(X, Y)
    alone = MTLoRA(low_rank=pairs, epochs=2).fit(X[:20], Y[["a"]][:20])
    assert np.array_equal(apart.predict(X, "a"), alone.predict(X, "a")) and len(apart.predict(X, "b")) == 40
