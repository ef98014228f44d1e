"""Speed of LLMLingua2 against the ``llmlingua`` package: the same weights, settings and kept words, on one CPU thread.

Run ``python benchmarks/llmlingua2.py``. The weights are random, in a BERT-shaped folder made on the spot, with word
pieces learned from generated text; ``llmlingua`` picks its rules by the model's name, so the folder bears one it knows.
It asks tiktoken for an encoding from the network, so a byte-pair encoding without merges takes that place, and both
count with it. Prints one JSON object: tokens per second and their ratio for short, mixed and long texts.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import tiktoken
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from anytask.prompts import LLMLingua2

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def texts_of(rng: np.random.Generator, lengths: list[int]) -> list[str]:
    """Generate texts of Zipf-distributed made-up words in sentences of about 15 words."""
    syllables = [a + b for a in "bcdfglmnprstv" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    lexicon = ["".join(rng.choice(syllables, size=int(rng.integers(1, 5)))) for _ in range(4000)]
    p = 1 / np.arange(1, len(lexicon) + 1)
    out = []
    for n in lengths:
        words = rng.choice(lexicon, size=n, p=p / p.sum()).tolist()
        for i in range(14, n, 15):
            words[i] += "."
        out.append(" ".join(words))
    return out


def write_model(folder: Path, corpus: list[str]) -> None:
    """Train a vocabulary and save a randomly initialised classifier."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(
        corpus, trainers.WordPieceTrainer(vocab_size=2000, special_tokens=SPECIAL, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        num_labels=2,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    BertForTokenClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Measure and print."""
    from llmlingua import PromptCompressor

    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    encoding = tiktoken.Encoding(
        "bytes", pat_str=r"\w+|[^\w\s]+|\s+", mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={}
    )
    tiktoken.encoding_for_model = lambda model: encoding
    rng = np.random.default_rng(0)
    sets = {
        "short (20-60 words)": texts_of(rng, rng.integers(20, 60, size=60).tolist()),
        "mixed (20-600 words)": texts_of(rng, rng.integers(20, 600, size=30).tolist()),
        "long (3000 words)": texts_of(rng, [3000] * 4),
    }
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bert-base-multilingual-cased-random"
        write_model(path, sets["mixed (20-600 words)"] + sets["long (3000 words)"])
        theirs = PromptCompressor(str(path), device_map="cpu", use_llmlingua2=True)
        mine = LLMLingua2(
            str(path), convention="released", target=lambda text: len(encoding.encode_ordinary(text)), device="cpu"
        )
        for name, texts in sets.items():
            tokens = sum(len(mine.tokenizer_.tokenize(text)) for text in texts)
            theirs.compress_prompt_llmlingua2(texts[:1], rate=0.5)
            mine.compress_many(texts[:1], 0.5)
            seconds = {"llmlingua": np.inf, "anytask": np.inf}
            for _ in range(3):
                mine._cost.clear()  # counted words are remembered between calls: every round starts without
                start = time.perf_counter()
                a = theirs.compress_prompt_llmlingua2(texts, rate=0.5, return_word_label=True)
                middle = time.perf_counter()
                b = mine.compress_many(texts, 0.5)
                seconds["llmlingua"] = min(seconds["llmlingua"], middle - start)
                seconds["anytask"] = min(seconds["anytask"], time.perf_counter() - middle)
            labels = [pair.rsplit(" ", 1)[1] == "1" for pair in a["fn_labeled_original_prompt"].split("\t\t|\t\t")]
            own = [label for result in b for label in result.labels]
            same = float(np.mean([x == y for x, y in zip(labels, own)])) if len(labels) == len(own) else 0.0
            report[name] = {
                "tokens_per_second": {who: round(tokens / s) for who, s in seconds.items()},
                "ratio": round(seconds["llmlingua"] / seconds["anytask"], 2),
                "same_words": same,
            }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
