"""Continual systems against what they promise to be as fast as, on the same backbone: ratios in one run.

Both of a pair work in turn, and the ratio is taken within the repeat, so that a change of the machine's speed hits
both. The median of the ratios is reported, with the ratio that is aimed at.

Usage: python benchmarks/continual_pairs.py [--repeats 5] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from anytask.continual import CLR, LAF, MIGU, OVOR, FineTuning, RetrainedModel

Work = Callable[[], object]
rng = np.random.default_rng(0)
IMAGES, LABELS = rng.random((640, 1, 32, 32)).astype(np.float32), np.arange(640) % 4


class Encoder(nn.Module):
    """A small BERT on vectors of words, and the mean over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        size = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
        self.bert = BertModel(BertConfig(vocab_size=10, **size), add_pooling_layer=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (n, length, 128) -> (n, 128)
        return self.bert(inputs_embeds=x).last_hidden_state.mean(1)


def gating() -> tuple[Work, Work]:
    """MIGU and plain fine-tuning of an encoder of sequences."""
    X, settings = rng.normal(size=(320, 24, 128)).astype(np.float32), {"backbone": Encoder(), "batch_size": 16}
    return lambda: MIGU(**settings).partial_fit(X, LABELS[:320]), lambda: FineTuning(**settings).partial_fit(
        X, LABELS[:320]
    )


def prompting() -> tuple[Work, Work]:
    """One set of prompts, and a pool whose prompts are chosen in a pass of their own, on a ViT."""
    size = {"hidden_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 384}
    vit = ViTModel(ViTConfig(image_size=32, patch_size=4, num_channels=1, **size))

    def learn(scheme: str) -> object:
        prompts, outliers = {"scheme": scheme, "general": (0,), "expert": (1, 2)}, {"epochs": 0}
        return OVOR(backbone=vit, prompts=prompts, outliers=outliers, batch_size=32).partial_fit(IMAGES, LABELS)

    return lambda: learn("one"), lambda: learn("pool")


def reprogramming() -> tuple[Work, Work]:
    """CLR and a linear probe that passes through the whole network, on a ResNet-18."""

    def learn(**settings: str) -> object:
        model = CLR(backbone="resnet18", n_features=64, **settings)
        return model.partial_fit(IMAGES[:128].repeat(3, axis=1), LABELS[:128], task=0)

    return lambda: learn(), lambda: learn(placement="none", norm="frozen")


def forgetting() -> tuple[Work, Work]:
    """LAF and training anew, of a perceptron that is to forget a class of 2,560 rows."""
    X, y = torch.randn(2560, 64), torch.arange(2560) % 10
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32), nn.Linear(32, 10))
    F.cross_entropy(model(X), y).backward()
    gone = {"forget": X[y == 0], "retain": X[y > 0]}
    labels = {"forget_labels": y[y == 0], "retain_labels": y[y > 0]}
    anew = RetrainedModel(epochs=40)
    return lambda: LAF.from_preset("small").forget(model, **gone), lambda: anew.forget(model, **gone, **labels)


#: What is timed, against what, and the ratio that is aimed at.
PAIRS = {
    "MIGU / fine-tuning": (gating, 1.15),
    "one prompt / a pool of prompts": (prompting, 0.67),
    "CLR / linear probe": (reprogramming, 1.6),
    "LAF / training anew": (forgetting, 0.3),
}


def seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, (pair, aim) in PAIRS.items():
        ours, theirs = pair()
        ours(), theirs()  # the first use is not the system's cost
        ratios = [seconds(ours) / seconds(theirs) for _ in range(args.repeats)]
        found[name] = {"median_ratio": round(statistics.median(ratios), 3), "aim": aim, "ratios": ratios}
    machine = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    text = json.dumps({"benchmark": "continual: seconds relative to a peer", **machine, "pairs": found}, indent=2)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
