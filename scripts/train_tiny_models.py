"""Train the tiny models that ship with the package: ``python scripts/train_tiny_models.py {icl,encoder} [--out DIR]``.

Everything is seeded, runs on one CPU thread, and ends with the accuracy probe of
``anytask.datasets.attribute_probes``. A model that misses its probe's floor is not written.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from anytask.core.rng import derive, isolated
from anytask.datasets import attribute_language as corpora

PIECE = Regex(r"Input:|\nLabel:|[A-Za-z]+|[0-9]|\n\n|\n|[^\sA-Za-z0-9]")
RECIPES: dict[str, dict[str, Any]] = {
    "icl": {
        "seed": 0,
        "model_type": "bloom",
        "config": {
            "hidden_size": 80, "n_layer": 3, "n_head": 4, "seq_length": 256,
            "tie_word_embeddings": True, "initializer_range": 0.1,
        },
        # steps, documents per step, tokens per document, kinds of inputs (n = fragments of n attribute words, 0 = whole
        # sentences): single words first, where a code is easiest to discover, whole contexts of sentences last
        "stages": [
            [500, 48, 50, [1]], [500, 40, 64, [1, 2, 0, 0]], [700, 32, 80, [0]], [400, 24, 120, [0]],
            [200, 16, 192, [0]],
        ],
        "p_natural": 0.45, "p_coded": 0.5, "noise": 0.3,
        "lr": 2e-3, "warmup": 100, "betas": [0.9, 0.98], "weight_decay": 0.01, "clip": 1.0,
        "other_tokens_weight": 0.1, "related": 0.3,
    },
    "encoder": {
        "seed": 0,
        "config": {
            "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
            "max_position_embeddings": 256, "type_vocab_size": 1, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0, "initializer_range": 0.1,
        },
        "steps": 700, "batch": 96, "length": 24, "mask_rate": 0.15, "p_spelled": 0.02,
        "lr": 2e-3, "warmup": 100, "betas": [0.9, 0.98], "weight_decay": 0.01, "clip": 1.0,
    },
}  # fmt: skip


def causal_tokenizer() -> PreTrainedTokenizerFast:
    """Word-level; spaces are dropped on the way in and put back before every lower-case word on the way out."""
    specials = ["[PAD]", "[UNK]", "[EOS]", "Input:", "\nLabel:"]
    vocab = {w: i for i, w in enumerate([*specials, *corpora.vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(PIECE, "removed", invert=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(Regex("^(?=[a-z0-9])"), " "), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]",
        clean_up_tokenization_spaces=False, padding_side="right", model_max_length=256,
    )  # fmt: skip


def optimiser(model: torch.nn.Module, recipe: dict[str, Any], steps: int) -> tuple[Any, Any]:
    """AdamW with linear warm-up and a cosine to 5 % of the peak."""
    opt = torch.optim.AdamW(
        model.parameters(), lr=recipe["lr"], betas=tuple(recipe["betas"]), weight_decay=recipe["weight_decay"]
    )
    warm = recipe["warmup"]

    def scale(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return opt, torch.optim.lr_scheduler.LambdaLR(opt, scale)


def icl_batch(
    language: corpora.AttributeLanguage, tokenizer: Any, n: int, length: int, kinds: list[int], recipe: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, shape (n, length), the weight of each token in the loss, and each label token's example index + 1.

    The index is positive in coded documents, negative in documents with natural labels, else 0.
    """
    vocab = tokenizer.get_vocab()
    label_mark, pad = vocab["\nLabel:"], vocab["[PAD]"]
    documents = []
    for i in range(n):
        kind = kinds[i % len(kinds)]
        documents.append(language.document(length // 5, related=recipe["related"], n_attributes=kind or None))
    encoded = tokenizer([d.text for d in documents], add_special_tokens=False)["input_ids"]
    ids = np.full((n, length), pad)
    weight = np.zeros((n, length), dtype=np.float32)
    example = np.zeros((n, length), dtype=np.int64)
    for i, (row, document) in enumerate(zip(encoded, documents)):
        row = np.array(row[:length])
        ids[i, : len(row)] = row
        weight[i, : len(row)] = recipe["other_tokens_weight"]
        places = np.flatnonzero(row[:-1] == label_mark) + 1
        clean = np.array(document.clean[: len(places)], dtype=np.float32)
        weight[i, places] = clean
        example[i, places] = (
            np.arange(1, len(places) + 1) * (clean > 0) * {"natural": -1, "coded": 1, "random": 0}[document.labeling]
        )
    return torch.from_numpy(ids), torch.from_numpy(weight), torch.from_numpy(example)


def train_icl(recipe: dict[str, Any]) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Train the in-context classifier; returns the model, its tokenizer and the log."""
    tokenizer = causal_tokenizer()
    config = AutoConfig.for_model(
        recipe["model_type"], vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=2, bos_token_id=None,
        **recipe["config"],
    )  # fmt: skip
    with isolated(recipe["seed"]):
        model = AutoModelForCausalLM.from_config(config).train()
    steps = sum(s for s, *_ in recipe["stages"])
    opt, schedule = optimiser(model, recipe, steps)
    language = corpora.AttributeLanguage(
        seed=derive(recipe["seed"], "train"),
        p_natural=recipe["p_natural"],
        p_coded=recipe["p_coded"],
        noise=recipe["noise"],
    )
    log: list[dict[str, Any]] = []
    step, start = 0, time.process_time()
    sums = np.zeros((2, 81))  # right, all; by example index + 40
    for stage_steps, n, length, kinds in recipe["stages"]:
        for _ in range(stage_steps):
            ids, weight, example = icl_batch(language, tokenizer, n, length, kinds, recipe)
            logits = model(input_ids=ids).logits[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            w = weight[:, 1:].flatten()
            loss = (loss * w).sum() / w.sum()
            opt.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"])
            opt.step()
            schedule.step()
            e = example[:, 1:].numpy().ravel() + 40
            right = (logits.argmax(-1) == ids[:, 1:]).numpy().ravel()
            sums += np.bincount(e, weights=right, minlength=81), np.bincount(e, minlength=81)
            step += 1
            if step % 100 == 0 or step == steps:
                accuracy = {
                    name: {str(k): round(sums[0, i] / sums[1, i], 3) for k in (0, 1, 2, 4, 8, 12)
                           if sums[1, i := 40 + sign * (k + 1)]}
                    for name, sign in (("coded", 1), ("natural", -1))
                }  # fmt: skip
                entry = {
                    "step": step, "loss": round(loss.item(), 4), "accuracy_at_k": accuracy,
                    "cpu_seconds": round(time.process_time() - start, 1),
                }  # fmt: skip
                log.append(entry)
                print(json.dumps(entry), flush=True)
                sums[:] = 0
    return model.eval(), tokenizer, log


def masked_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece over the corpus's words, with letters and digits as a fallback, so that any English word has tokens."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = [*"abcdefghijklmnopqrstuvwxyz0123456789", *"!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"]
    pieces = [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz0123456789"]
    words = [w.lower() for w in corpora.vocabulary() if w.strip()]
    vocab = {w: i for i, w in enumerate(dict.fromkeys([*specials, *characters, *pieces, *words]))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=256,
    )  # fmt: skip


def spell(text: str, rng: np.random.Generator, p: float) -> str:
    """Replace each word with probability ``p`` by random letters, so that the fallback pieces are trained too."""
    letters = list("abcdefghijklmnopqrstuvwxyz")
    return " ".join(
        "".join(rng.choice(letters, size=rng.integers(3, 8))) if rng.random() < p else w for w in text.split(" ")
    )


def train_encoder(recipe: dict[str, Any]) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Train the masked language model; returns the model, its tokenizer and the log."""
    tokenizer = masked_tokenizer()
    with isolated(recipe["seed"]):
        model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), pad_token_id=0, **recipe["config"])).train()
    opt, schedule = optimiser(model, recipe, recipe["steps"])
    language = corpora.AttributeLanguage(seed=derive(recipe["seed"], "train encoder"))
    rng = np.random.default_rng(derive(recipe["seed"], "masks"))
    generator = torch.Generator().manual_seed(recipe["seed"])
    special = torch.tensor(tokenizer.all_special_ids)
    log: list[dict[str, Any]] = []
    right = total = 0.0
    start = time.process_time()
    for step in range(1, recipe["steps"] + 1):
        texts = []
        for _ in range(recipe["batch"]):
            text = " . ".join(language.sentence().text for _ in range(1 + int(rng.integers(2)))) + " ."
            texts.append(spell(text, rng, recipe["p_spelled"]))
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=recipe["length"], return_tensors="pt")[
            "input_ids"
        ]
        draw = torch.rand(ids.shape, generator=generator)
        chosen = (draw < recipe["mask_rate"]) & ~torch.isin(ids, special)
        kind = torch.rand(ids.shape, generator=generator)
        inputs = ids.clone()
        inputs[chosen & (kind < 0.8)] = tokenizer.mask_token_id
        swap = chosen & (kind >= 0.9)
        inputs[swap] = torch.randint(5, len(tokenizer), (int(swap.sum()),), generator=generator)
        logits = model(input_ids=inputs, attention_mask=(ids != 0).long()).logits[chosen]
        loss = F.cross_entropy(logits, ids[chosen])
        opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["clip"])
        opt.step()
        schedule.step()
        right += (logits.argmax(-1) == ids[chosen]).sum().item()
        total += len(logits)
        if step % 100 == 0:
            entry = {
                "step": step, "loss": round(loss.item(), 4), "masked_accuracy": round(right / total, 3),
                "cpu_seconds": round(time.process_time() - start, 1),
            }  # fmt: skip
            log.append(entry)
            print(json.dumps(entry), flush=True)
            right = total = 0.0
    return model.eval(), tokenizer, log


FLOORS = {"icl": {"natural 8": 0.85, "natural+i 0": 0.8, "coded 8": 0.6}, "encoder": {"attribute": 0.8}}
"""Least accuracy of a model that may be written, by probe entry."""

USES = {
    "icl": ("in-context classification of short sentences", "causal"),
    "encoder": ("bidirectional features of short sentences; a start for token classifiers", "masked"),
}

CARD = """# {name}: a tiny {objective} language model

Use: {use}.

It exists so that methods for language models can be exercised, tested and shown without a download. What it shows is
evidence about an algorithm, never about the accuracy of large models.

* Architecture: {architecture}, {parameters:,} parameters, float32, context of {context} tokens.
* Data: the miniature attribute language of `anytask.datasets.attribute_language` (seed {seed}); a third of its
  sentences and two sentence templates are held out. No text by people.
* Tokens: {tokens} of them, {tokenizer}
* Training: `python scripts/train_tiny_models.py {name}`; {seconds:.0f} CPU seconds on one thread; see `recipe.json` and
  `training-log.json`.
* Limits: it knows {words} words and nothing of the world; prompts in another format than the corpus's are foreign
  to it.

## Accuracy on held-out sentences (`anytask.datasets.attribute_probes.probe("{name}")`, {n} queries per number)

{table}
"""
TOKENIZERS = {
    "icl": "whole words; words outside of the vocabulary become [UNK], spaces are put back on decoding.",
    "encoder": "whole words, and letters for every other word.",
}


def write(name: str, model: Any, tokenizer: Any, log: list[dict[str, Any]], recipe: dict[str, Any], out: Path) -> None:
    """Probe the model and write its folder; raises if it misses its floor."""
    from anytask.datasets.attribute_probes import probe_causal, probe_masked
    from anytask.lm.local import LocalLM
    from anytask.lm.tiny_models import checksum

    use, objective = USES[name]
    lm = LocalLM((model, tokenizer), kind="tiny", name=name)
    n = 400
    found = {"causal": probe_causal, "masked": probe_masked}[objective](lm, n=n)
    print(json.dumps(found, indent=1))
    for key, floor in FLOORS[name].items():
        if found[key] < floor:
            raise SystemExit(f"{name}: {key} reaches {found[key]}, and at least {floor} is wanted; nothing is written")
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    dump = {"recipe.json": recipe, "training-log.json": log}
    for file, content in dump.items():
        (folder / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    facts = {"use": use, "objective": objective, "sha256": checksum(folder), "probe": found}
    (folder / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    table = "\n".join(["| condition | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in found.items())])
    card = CARD.format(
        name=name, objective=objective, use=use, architecture=type(model).__name__, n=n, table=table,
        parameters=sum(p.numel() for p in model.parameters()), context=lm.context_length, seed=recipe["seed"],
        tokens=len(tokenizer), tokenizer=TOKENIZERS[name], seconds=log[-1]["cpu_seconds"],
        words=len(corpora.vocabulary()),
    )  # fmt: skip
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    default = Path(__file__).resolve().parents[1] / "src" / "anytask" / "lm" / "tiny"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = {"icl": train_icl, "encoder": train_encoder}[options.name]
    recipe = RECIPES[options.name]
    write(options.name, *train(recipe), recipe, options.out)


if __name__ == "__main__":
    main()
