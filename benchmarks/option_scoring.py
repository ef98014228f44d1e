"""Option scoring with a shared prefix against one forward pass per (prompt, option) pair. Prints one JSON line."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "lm"))
from random_models import word_tokenizer

from anytask.lm import LocalLM


def main(n_prompts: int = 16, n_tokens: int = 400, n_options: int = 4, shared_demonstrations: bool = False) -> dict:
    torch.set_num_threads(1)
    words = [f"w{i}" for i in range(500)]
    tokenizer = word_tokenizer(" ".join(words), bos_token="[CLS]", eos_token="[SEP]")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=256, n_layer=4, n_head=4, n_positions=512)
        model = transformers.GPT2LMHeadModel(config).eval()
    rng = random.Random(0)

    def text(n: int) -> str:
        return " ".join(rng.choices(words, k=n))

    demonstrations = text(n_tokens - 20)
    prompts = [
        f"{demonstrations if shared_demonstrations else text(n_tokens - 20)} {text(20)}" for _ in range(n_prompts)
    ]
    options = [[" " + text(rng.randint(1, 3)) for _ in range(n_options)] for _ in prompts]

    def plain() -> list[float]:
        scores = []
        for prompt, row in zip(prompts, options):
            start = len(tokenizer(prompt)["input_ids"])
            for option in row:
                ids = torch.tensor([tokenizer(prompt + option)["input_ids"]])
                with torch.no_grad():
                    logp = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
                scores.append(float(logp.gather(1, ids[0, start:, None]).sum()))
        return scores

    lm = LocalLM((model, tokenizer))

    def shared() -> list[float]:
        return [score.logprob for row in lm.score(prompts, options) for score in row]

    seconds: dict[str, list[float]] = {"plain": [], "shared": []}
    results = {}
    for _ in range(3):
        for name, run in (("plain", plain), ("shared", shared)):
            began = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - began)
    difference = max(abs(a - b) for a, b in zip(results["plain"], results["shared"]))
    return {
        "benchmark": "option_scoring",
        "shared_demonstrations": shared_demonstrations,
        "seconds": {name: round(min(values), 3) for name, values in seconds.items()},
        "ratio": round(min(seconds["plain"]) / min(seconds["shared"]), 2),
        "max_abs_difference": difference,
    }


if __name__ == "__main__":
    print(json.dumps([main(), main(shared_demonstrations=True)]))
