"""Train the prompt compressor that ships with the package: ``python scripts/train_tiny_compressor.py [--out DIR]``.

It takes the library's own road: a simulated chat model compresses English prose, its answers are aligned and filtered,
and a small encoder learns the labels. The prose is read from what any machine with the library has: the docstrings of
Python's standard library and the descriptions of scikit-learn's data sets. None of it is written anywhere. Everything
is seeded and runs on one CPU thread; a model that misses the probe's floor is not written.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import re
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from anytask.core.rng import derive, isolated
from anytask.lm.sim import SimulatedChat
from anytask.lm.tiny_models import checksum
from anytask.prompts import LLMLingua2
from anytask.prompts.llmlingua2.classifier import Training, accuracy, encode
from anytask.prompts.llmlingua2.distillation import Distillation
from anytask.prompts.llmlingua2.probe import probe_compressor

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "ensurepip"}
RECIPE: dict[str, Any] = {
    "seed": 0,
    "vocabulary": 4000,
    "config": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 512, "type_vocab_size": 1, "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
    },
    # documents of a random length in words, so that every position is trained
    "document_words": [8, 400],
    # passes over the corpus, each cut into other documents and with other made-up words
    "passes": 2,
    "held_out": 0.1,
    # share of the words replaced by made-up names, numbers and words in other scripts, which the prose hardly has
    "made_up": 0.06,
    "teacher": "medium", "variation": 90, "gap": 90, "window": 150,
    "epochs": 4, "learning_rate": 2e-3, "batch_size": 16, "max_length": 512,
}  # fmt: skip
FLOOR = {"agreement": 0.9, "stop words dropped": 0.9, "names and numbers kept": 0.9}


def prose() -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each source file and its paragraphs of plain English."""
    import sklearn.datasets

    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if SKIPPED & set(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docs = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)]
        yield str(path.relative_to(root)), paragraphs("\n\n".join(docs))
    for path in sorted((Path(sklearn.datasets.__file__).parent / "descr").glob("*.rst")):
        yield path.name, paragraphs(path.read_text(encoding="utf-8"))


def paragraphs(text: str) -> list[str]:
    """Keep what reads like sentences: no code, no lists, nothing that introduces them."""
    joined = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    kept = [p for p in joined if re.fullmatch(r"[A-Z][\w ,.;'()\"-]+[.]", p) and "_" not in p and len(p.split()) >= 6]
    return list(dict.fromkeys(kept))


def made_up(rng: np.random.Generator) -> str:
    """Return a name, a number, or a word in another script."""
    parts = ["ba", "den", "ko", "lu", "mar", "ni", "or", "pes", "quin", "ra", "sal", "tov", "ul", "vik", "wen", "zy"]
    match int(rng.integers(4)):
        case 0:
            return "".join(rng.choice(parts, size=int(rng.integers(2, 5)))).capitalize()
        case 1:
            return str(int(10 ** rng.uniform(0, 6)))
        case 2:
            return f"{rng.choice(parts).upper()}-{int(rng.integers(1, 1000))}"
        case _:
            return "".join(chr(int(c)) for c in rng.integers(0x400, 0x450, size=int(rng.integers(2, 7))))


def documents(sources: list[list[str]], recipe: dict[str, Any], rng: np.random.Generator) -> list[str]:
    """Join the paragraphs of each source to documents of random lengths, with a share of made-up words."""
    low, high = recipe["document_words"]
    out = []
    for source in sources:
        words: list[str] = []
        want = int(np.exp(rng.uniform(np.log(low), np.log(high))))
        for i in rng.permutation(len(source)):
            words += [made_up(rng) if rng.random() < recipe["made_up"] else word for word in source[i].split()]
            if len(words) >= want:
                out.append(" ".join(words))
                words, want = [], int(np.exp(rng.uniform(np.log(low), np.log(high))))
        if len(words) >= low:
            out.append(" ".join(words))
    return out


def word_pieces(texts: list[str], recipe: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Learn a vocabulary of lower-cased word pieces."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    letters = [chr(c) for c in range(33, 127)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=recipe["vocabulary"], special_tokens=SPECIAL, initial_alphabet=letters, limit_alphabet=120,
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=recipe["max_length"], **names)


def train(recipe: dict[str, Any]) -> tuple[LLMLingua2, dict[str, Any]]:
    """Distil, train, and measure on files that training never sees."""
    begun = time.process_time()
    seed = recipe["seed"]
    sources = [found for _, found in prose() if found]
    rng = np.random.default_rng(derive(seed, "files"))
    order = rng.permutation(len(sources))
    n_held = max(1, round(recipe["held_out"] * len(sources)))
    held, used = ([sources[i] for i in part] for part in (order[:n_held], order[n_held:]))
    texts = [text for _ in range(recipe["passes"]) for text in documents(used, recipe, rng)]
    teacher = SimulatedChat(recipe["teacher"], seed=seed)
    options = {name: recipe[name] for name in ("variation", "gap", "window")}
    distilled = Distillation(**options).distill(teacher, texts, seed=seed)
    tokenizer = word_pieces([p for source in used for p in source], recipe)
    with isolated(seed):
        config = BertConfig(vocab_size=len(tokenizer), use_cache=False, **recipe["config"])
        config.num_labels = 2
        model = BertForTokenClassification(config)
    training = Training(epochs=recipe["epochs"], lr=recipe["learning_rate"], batch_size=recipe["batch_size"])
    place = {"max_length": recipe["max_length"], "seed": seed}
    accuracies = training.train(model, tokenizer, distilled.words, distilled.labels, **place)
    other = SimulatedChat(recipe["teacher"], seed=derive(seed, "held out") % 2**31)
    unfiltered = Distillation(**{**options, "variation": 90, "gap": 100})
    test = unfiltered.distill(other, documents(held, recipe, rng), seed=seed)
    examples = encode(tokenizer, test.words, test.labels, recipe["max_length"])
    labels = np.concatenate(test.labels)
    log = {
        "files": {"training": len(used), "held out": len(held)},
        "paragraphs": sum(map(len, used)),
        "words": sum(len(p.split()) for source in used for p in source),
        "chunks": len(distilled.chunks),
        "chunks that passed the filters": len(distilled.kept),
        "validation_accuracy": [round(a, 4) for a in accuracies],
        "best_epoch": max(range(len(accuracies)), key=lambda i: (accuracies[i], i)),
        "held_out_accuracy": round(accuracy(model, examples, tokenizer.pad_token_id), 4),
        "held_out_majority": round(float(max(labels.mean(), 1 - labels.mean())), 4),
        "cpu_seconds": round(time.process_time() - begun),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "scikit-learn")}
        | {"python": platform.python_version()},
        "teacher": {"kind": teacher.kind, "level": teacher.level, "ability": asdict(teacher.ability)},
    }
    return LLMLingua2(model, tokenizer=tokenizer, device="cpu"), log


CARD = """# compressor: a tiny prompt compressor

A token classifier for `anytask.prompts.LLMLingua2` (label 1 = keep): a BERT of width {hidden_size} with
{num_hidden_layers} layers, {parameters} parameters, {vocabulary} lower-cased word pieces, 512 positions. It is the
default of `LLMLingua2()`, so that compression works without any download. Kind: **tiny**, its teacher was **sim**.

## How it was made
`scripts/train_tiny_compressor.py`, seed {seed}, {cpu_seconds} s on one CPU thread. A simulated chat model, which drops
function words and rephrases a tenth of its texts, compressed {chunks} chunks of English prose (docstrings of the Python
standard library, descriptions of scikit-learn's data sets; {words} words before {passes} different cuts). Its answers
were aligned with the originals, {passed} chunks passed the filters on variation rate and alignment gap, and the
encoder was trained on their word labels. A share of {made_up} of the words was replaced by made-up names, numbers and
words in other scripts. None of the prose is part of this folder.

## What it can do
Tell dispensable words from the rest in ordinary English, names, numbers and unknown words included. On {files} source
files that training never saw it gives {held_out_accuracy:.1%} of the tokens the teacher's label ({majority:.1%} of the
words have the commoner one). On the package's own probe (`probe_compressor(LLMLingua2())` of
`anytask.prompts.llmlingua2.probe`):

| measure | value |
|---|---|
{probe}

## What it cannot do
It has learned to imitate a rule, not to judge what matters: among content words its ranking means little, so at rates
below the share of content words (about one half) it drops needed ones. It knows English alone. Numbers obtained with
it are evidence about the algorithm, never about the paper's models; use
`microsoft/llmlingua-2-xlm-roberta-large-meetingbank` where compression has to be good.
"""


def write(compressor: LLMLingua2, log: dict[str, Any], recipe: dict[str, Any], folder: Path) -> None:
    """Write weights, tokenizer, facts, recipe, log and card, if the probe reaches its floor."""
    probe = probe_compressor(compressor)
    missed = {name: probe[name] for name, floor in FLOOR.items() if probe[name] < floor}
    if missed:
        raise SystemExit(f"not written, below the floor: {missed}; log: {log}")
    folder.mkdir(parents=True, exist_ok=True)
    compressor.model_.save_pretrained(folder)
    compressor.tokenizer_.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    facts = {
        "use": "Compressing English prompts without downloads: the default of LLMLingua2",
        "objective": "keep-labels",
        "sha256": checksum(folder),
        "probe": probe,
    }
    for name, content in (("facts", facts), ("recipe", recipe), ("training-log", log)):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    card = CARD.format(
        **recipe["config"], parameters=log["parameters"], vocabulary=len(compressor.tokenizer_), seed=recipe["seed"],
        cpu_seconds=log["cpu_seconds"], chunks=log["chunks"], words=log["words"], passes=recipe["passes"],
        passed=log["chunks that passed the filters"], made_up=recipe["made_up"], files=log["files"]["held out"],
        held_out_accuracy=log["held_out_accuracy"], majority=log["held_out_majority"],
        probe="\n".join(f"| {name} | {value} |" for name, value in probe.items()),
    )  # fmt: skip
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[1] / "src" / "anytask" / "lm" / "tiny" / "compressor"
    parser.add_argument("--out", type=Path, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    compressor, log = train(RECIPE)
    write(compressor, log, RECIPE, options.out)


if __name__ == "__main__":
    main()
