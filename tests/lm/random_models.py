"""Randomly initialized Hugging Face models with small tokenizers, for tests."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CORPUS = [
    "The film was good . The film was bad . A fine old film , and a dull one .",
    "Review: it was great\nLabel: positive\n\nReview: it was awful\nLabel: negative\n\n",
    "one two three four five six seven eight nine ten, yes no maybe true false",
]


def bpe_tokenizer(*, bos: bool = False, vocab_size: int = 400, **special: str) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE like GPT-2's; with ``bos`` it puts <s> in front of a text, as Llama's does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ["<pad>", "<s>", "</s>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=names, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", **special
    )


def word_tokenizer(words: str, *, ends: bool = False, **special: str) -> transformers.PreTrainedTokenizerFast:
    """One token per word; with ``ends`` texts become ``[CLS] text [SEP]``."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*names, *dict.fromkeys(words.split())])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        **special,
    )


def random_model(kind: str, tokenizer: Any, *, seed: int = 0, positions: int = 256) -> Any:
    """A small random gpt2, llama, mistral (sliding window 8), t5 or bert; predictions are spread out on purpose."""
    n = len(tokenizer)
    common = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    llama = {
        "vocab_size": n,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": positions,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "gpt2":
            config: Any = transformers.GPT2Config(
                vocab_size=n,
                n_positions=positions,
                n_embd=32,
                n_layer=2,
                n_head=4,
                initializer_range=0.3,
                bos_token_id=tokenizer.bos_token_id,
                **common,
            )
            return transformers.GPT2LMHeadModel(config).eval()
        if kind == "llama":
            return transformers.LlamaForCausalLM(transformers.LlamaConfig(**llama, **common)).eval()
        if kind == "mistral":
            config = transformers.MistralConfig(**llama, **common, sliding_window=8)
            return transformers.MistralForCausalLM(config).eval()
        if kind == "t5":
            config = transformers.T5Config(
                vocab_size=n,
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                decoder_start_token_id=tokenizer.pad_token_id,
                initializer_factor=2.0,
                **common,
            )
            return transformers.T5ForConditionalGeneration(config).eval()
        if kind == "bert":
            config = transformers.BertConfig(
                vocab_size=n,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=64,
                max_position_embeddings=64,
                initializer_range=0.3,
                pad_token_id=tokenizer.pad_token_id,
            )
            return transformers.BertForMaskedLM(config).eval()
    raise ValueError(kind)
