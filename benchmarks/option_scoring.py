"""Option scoring with shared prefixes against one forward pass per (prompt, option) pair, in CPU seconds. Prints JSON.

A small random model on random words, and SmolLM2-135M on texts of the set ``topics`` (five options), where it was
fetched (``make real``): each with the same demonstrations before every query, and with others before each.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lm"))
from random_models import word_tokenizer

from anytask.datasets.text import load_text
from anytask.incontext import GPT3
from anytask.lm import LocalLM
from anytask.models.real import REAL


def compared(lm: LocalLM, prompts: list[str], options: list[list[str]], repeats: int) -> dict[str, Any]:
    """Score the options in both ways, in turn, and return the best times and their ratio."""
    model, tokenizer = lm.model, lm.tokenizer

    def plain() -> list[float]:
        scores = []
        for prompt, row in zip(prompts, options):
            start = len(tokenizer(prompt)["input_ids"])
            for option in row:
                ids = torch.tensor([tokenizer(prompt + option)["input_ids"]])
                with torch.no_grad():
                    logp = model(ids).logits[0, start - 1 : -1].float().log_softmax(-1)
                scores.append(float(logp.gather(1, ids[0, start:, None]).sum()))
        return scores

    def shared() -> list[float]:
        return [score.logprob for row in lm.score(prompts, options) for score in row]

    seconds: dict[str, list[float]] = {"plain": [], "shared": []}
    results = {}
    for _ in range(repeats):
        for name, run in (("plain", plain), ("shared", shared)):
            began = time.process_time()  # of one thread
            results[name] = run()
            seconds[name].append(time.process_time() - began)
    return {
        "prompts": len(prompts),
        "options": len(options[0]),
        "seconds": {name: round(min(values), 3) for name, values in seconds.items()},
        "ratio": round(min(seconds["plain"]) / min(seconds["shared"]), 2),
        "max_abs_difference": max(abs(a - b) for a, b in zip(results["plain"], results["shared"])),
    }


def on_words(shared: bool, n_prompts: int = 16, n_tokens: int = 400, n_options: int = 4) -> dict[str, Any]:
    """A random model on prompts of random words."""
    words = [f"w{i}" for i in range(500)]
    tokenizer = word_tokenizer(" ".join(words), bos_token="[CLS]", eos_token="[SEP]")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 512, "bos_token_id": 2, "eos_token_id": 3}
        config = transformers.GPT2Config(vocab_size=len(tokenizer), **sizes)
        model = transformers.GPT2LMHeadModel(config).eval()
    rng = random.Random(0)

    def text(n: int) -> str:
        return " ".join(rng.choices(words, k=n))

    demonstrations = text(n_tokens - 20)
    prompts = [f"{demonstrations if shared else text(n_tokens - 20)} {text(20)}" for _ in range(n_prompts)]
    options = [[" " + text(rng.randint(1, 3)) for _ in range(n_options)] for _ in prompts]
    return compared(LocalLM((model, tokenizer)), prompts, options, 3)


def on_topics(shared: bool, n_prompts: int = 12, k: int = 8) -> dict[str, Any]:
    """SmolLM2-135M on real texts, with 8 demonstrations."""
    lm, data = LocalLM("smollm2-135m"), load_text("topics")
    order = random.Random(0).sample(range(len(data.texts)), len(data.texts))
    known, asked = order[n_prompts:], order[:n_prompts]
    learner = GPT3(lm, k, demos="fixed" if shared else "per-item", scoring="sum")
    learner.fit([data.texts[i] for i in known], [data.labels[i] for i in known])
    prompts = [learner.prompt(data.texts[i]).text for i in asked]
    return compared(lm, prompts, [[f" {label}" for label in data.classes]] * n_prompts, 1)


def main() -> None:
    """Print one line for each model."""
    torch.set_num_threads(1)
    for shared in (False, True):
        line = {"benchmark": "option_scoring", "shared_demonstrations": shared}
        print(json.dumps({**line, "model": "random", **on_words(shared)}), flush=True)
        real = {**line, "model": "smollm2-135m"}
        if not REAL["smollm2-135m"].is_here:
            print(json.dumps({**real, "skipped": "smollm2-135m was not fetched: make real"}), flush=True)
            continue
        print(json.dumps({**real, **on_topics(shared)}), flush=True)


if __name__ == "__main__":
    main()
