"""Token classifiers with random weights and tokenizers built on the spot, one per kind of word border."""

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

CORPUS = (
    "The committee met on Monday. It discussed the budget of 2024, and the new library! "
    "Who asked for the report? Nobody did; everybody wanted more time. The chair's answer was short. "
    "Prices rose by 12 percent, wages by 3. A cafe near the river closed, sadly. "
) * 3
TEXT = "Prices rose by 12 percent, and nobody asked the committee's chair. The library closed! Who wanted more time?"


def tokenizer_of(kind, corpus, size):
    names = ("[CLS]", "[PAD]", "[SEP]", "[UNK]") if kind == "wordpiece" else ("<s>", "<pad>", "</s>", "<unk>")
    special = list(names)
    bos, pad, eos, unk = names
    if kind == "metaspace":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token=unk, show_progress=False)
    elif kind == "wordpiece":
        backend = Tokenizer(models.WordPiece(unk_token=unk))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size + 100,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    backend.decoder = {
        "metaspace": decoders.Metaspace(),
        "wordpiece": decoders.WordPiece(),
        "bytelevel": decoders.ByteLevel(),
    }[kind]
    backend.train_from_iterator([corpus], trainer)
    ids = {token: backend.token_to_id(token) for token in special}
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, ids[bos]), (eos, ids[eos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        cls_token=bos,
        sep_token=eos,
        pad_token=pad,
        unk_token=AddedToken(unk, special=True),
    )


def classifier_of(tokenizer, seed=0, width=16, layers=1, positions=512):
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=positions,
        num_labels=2,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForTokenClassification(config)


@pytest.fixture(scope="session")
def small_classifiers():
    """Kind of tokenizer -> (model, tokenizer), with the same random weights in every test."""
    return {kind: make(kind) for kind in ("metaspace", "wordpiece", "bytelevel")}


@pytest.fixture(scope="session")
def classifier_for():
    """(kind of tokenizer, texts) -> (model, tokenizer), whose vocabulary is made for the texts."""
    return lambda kind, corpus: make(kind, CORPUS + corpus, 400)


def make(kind, corpus=CORPUS, size=220):
    tokenizer = tokenizer_of(kind, corpus, size)
    return classifier_of(tokenizer), tokenizer
