"""Speed of LLMLingua2 against the ``llmlingua`` package: the same weights, settings and kept words, on a CPU.

Run ``python benchmarks/llmlingua2.py``. The weights are random, in BERT-shaped folders made on the spot, with word
pieces learned from generated text; ``llmlingua`` picks its rules by the model's name, so the folders bear one it knows.
It asks tiktoken for an encoding from the network, so a byte-pair encoding without merges takes that place, and both
count with it. Prints one JSON object: for two sizes of model, and short, mixed and long texts, the tokens per second,
their ratio, the share of our time that is the model's forward pass, and the ratio that would be left if all else were
free: the pass of texts that fill the model's window costs both libraries the same.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from anytask.prompts import LLMLingua2
from anytask.prompts.llmlingua2.words import counter_of

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


SIZES = {"width 128, 2 layers": (128, 2), "width 256, 4 layers": (256, 4)}


def write_model(folder: Path, corpus: list[str], width: int, layers: int) -> None:
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
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        num_labels=2,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    BertForTokenClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def compare(theirs: Any, mine: LLMLingua2, texts: list[str], rounds: int) -> dict[str, Any]:
    """Compress with both in turns, and return the best times' figures."""
    theirs.compress_prompt_llmlingua2(texts[:1], rate=0.5)
    mine.compress_many(texts[:1], 0.5)  # reads the model
    tokens = sum(len(mine.tokenizer_.tokenize(text)) for text in texts)
    forward = [0.0]
    run = mine.model_.forward

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        out = run(*args, **kwargs)
        forward[0] += time.perf_counter() - start
        return out

    mine.model_.forward = timed
    rows = []
    for _ in range(rounds):
        counter_of.cache_clear()  # counted words are remembered between calls: every round starts without
        forward[0] = 0.0
        start = time.perf_counter()
        a = theirs.compress_prompt_llmlingua2(texts, rate=0.5, return_word_label=True)
        middle = time.perf_counter()
        b = mine.compress_many(texts, 0.5)
        rows.append((middle - start, time.perf_counter() - middle, forward[0]))
    mine.model_.forward = run
    other, own, passes = (min(column) for column in zip(*rows))
    labels = [pair.rsplit(" ", 1)[1] == "1" for pair in a["fn_labeled_original_prompt"].split("\t\t|\t\t")]
    kept = [label for result in b for label in result.labels]
    same = float(np.mean([x == y for x, y in zip(labels, kept)])) if len(labels) == len(kept) else 0.0
    return {
        "tokens_per_second": {"llmlingua": round(tokens / other), "anytask": round(tokens / own)},
        "ratio": round(other / own, 2),
        "forward_share": round(passes / own, 2),
        "ratio_if_all_but_the_forward_were_free": round(other / passes, 2),
        "same_words": same,
    }


def main() -> None:
    """Measure and print."""
    from llmlingua import PromptCompressor

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
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
    report: dict[str, Any] = {"threads": options.threads}
    for size, (width, layers) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "bert-base-multilingual-cased-random"
            write_model(path, sets["mixed (20-600 words)"] + sets["long (3000 words)"], width, layers)
            theirs = PromptCompressor(str(path), device_map="cpu", use_llmlingua2=True)
            mine = LLMLingua2(
                str(path), convention="released", target=lambda text: len(encoding.encode_ordinary(text)), device="cpu"
            )
            report[size] = {name: compare(theirs, mine, texts, options.rounds) for name, texts in sets.items()}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
