"""GPT-3's effect in miniature: a model of a synthetic web learns tasks from its context, and only from there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from anytask.incontext.gpt3 import GPT3
from anytask.incontext.gpt3_model import build_gpt3, gpt3_config
from anytask.incontext.gpt3_training import Pretraining, Recipe, pack
from anytask.lm.corpora import TaskWeb
from anytask.lm.local import LocalLM
from anytask.parts.option_scoring import score_options
from anytask.parts.prompting import PromptTemplate
from anytask.parts.rng import derive

SHOTS = (0, 1, 2, 4, 8, 15)
# Peak learning rates: the lowest training loss on another web after 300 steps, of 1, 2, 4e-3 and of 2, 4, 8e-3.
LARGE: dict[str, Any] = {"d": 64, "L": 2, "heads": 4, "lr": 4e-3}
SMALL: dict[str, Any] = {"d": 16, "L": 1, "heads": 2, "lr": 8e-3}
TEMPLATE = PromptTemplate("{input} {output} ;", separator=" ", query_format="{input}")


def web_tokenizer(web: TaskWeb) -> Any:
    """One token per symbol of the web, and an end-of-text token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*web.tokens, "[EOT]", "[UNK]"]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[EOT]", pad_token="[EOT]", unk_token="[UNK]")


def train_web_model(
    web: TaskWeb, *, d: int, L: int, heads: int, lr: float, steps: int = 450, batch: int = 64, seed: int = 0
) -> LocalLM:
    """Train a decoder on the web with GPT-3's recipe; every packed sequence holds one document.

    The documents are shorter than a band would need to be of use, so the bands are as wide as the context; and the
    initial weights are as large for the width as the published ones are for width 768.
    """
    n_ctx = 3 * web.lines + 2
    tokenizer = web_tokenizer(web)
    config = gpt3_config(
        L=L, d=d, heads=heads, n_ctx=n_ctx, vocab_size=len(tokenizer), window=n_ctx,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.02 * (768 / d) ** 0.5,
    )  # fmt: skip
    model = build_gpt3(config, seed=derive(seed, "weights"))
    sequences = pack(web.stream(derive(seed, "documents")), n_ctx, tokenizer.eos_token_id)
    recipe = Recipe.scaled(steps * batch * n_ctx, lr=lr, batch_tokens=batch * n_ctx, warmup_tokens=20 * batch * n_ctx)
    Pretraining(model, recipe).run(sequences)
    return LocalLM((model.eval(), tokenizer), kind="tiny", name=f"web-d{d}-L{L}")


def web_accuracy(
    lm: LocalLM, web: TaskWeb, k: int, *, instruction: bool, shuffled: bool = False, n: int = 300, seed: int = 0
) -> float:
    """Share of ``n`` fresh documents whose next output symbol GPT-3's prompts and scores get right.

    ``shuffled`` gives the demonstrations the outputs of other documents' lines.
    """
    rng = np.random.default_rng(derive(seed, "test documents"))
    task = rng.integers(web.n_tasks, size=n)
    x = rng.integers(web.n_symbols, size=(n, web.lines))
    y = web.tables[task[:, None], x]
    shown = rng.permutation(y[:, :-1].ravel()).reshape(n, -1) if shuffled else y[:, :-1]
    outputs = [f"y{j}" for j in range(web.n_symbols)]
    prompts = []
    for i in range(n):
        learner = GPT3(
            lm, k=k, template=TEMPLATE, description=f"task{task[i]}" if instruction else "task?", leak="allow",
            seed=derive(seed, "document", i),
        )  # fmt: skip
        learner.fit([f"x{j}" for j in x[i, :-1]], [outputs[j] for j in shown[i]], options=outputs)
        prompts.append(learner.prompt(f"x{x[i, -1]}", reserve=1).text)
    options = [TEMPLATE.completion(o) for o in outputs]
    scores = score_options(lm, prompts, [options] * n, tag="gpt3")
    return float(np.mean(np.array(scores).argmax(axis=1) == y[:, -1]))


def weights_checksum(lm: LocalLM) -> str:
    """SHA-256 of the model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in lm.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class WebResult:
    """Accuracies of one seed: ``plain[k]`` and ``instructed[k]`` of each model, and the ablation's.

    ``frozen`` says that the large model's weights were the same after all of its evaluations as before.
    """

    plain: dict[int, float]
    instructed: dict[int, float]
    small_plain: dict[int, float]
    small_instructed: dict[int, float]
    shuffled: dict[int, float]
    frozen: bool


def run_web(seed: int = 0, *, steps: int = 450, n: int = 300, shots: tuple[int, ...] = SHOTS) -> WebResult:
    """Train the large and the small model on one web and measure both at every number of demonstrations."""
    web = TaskWeb(seed=derive(seed, "tables"))
    large = train_web_model(web, **LARGE, steps=steps, seed=seed)
    small = train_web_model(web, **SMALL, steps=steps, seed=seed)
    before = weights_checksum(large)

    def curve(lm: LocalLM, **how: bool) -> dict[int, float]:
        return {k: web_accuracy(lm, web, k, n=n, seed=seed, **{"instruction": False, **how}) for k in shots}

    return WebResult(
        plain=curve(large),
        instructed=curve(large, instruction=True),
        small_plain=curve(small),
        small_instructed=curve(small, instruction=True),
        shuffled=curve(large, shuffled=True),
        frozen=weights_checksum(large) == before,
    )
