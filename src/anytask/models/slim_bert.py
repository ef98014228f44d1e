"""BERT whose head size is a number of its own, and which may read vectors in the place of token ids.

Transformers' BERT has heads of ``hidden_size / num_attention_heads``, which a student that was cut out of a larger
model does not have. :class:`SlimBertConfig` frees that number; everything else, the names of the weights included, is
BERT's own code. The classes are registered with transformers: once this module is imported, ``AutoModel`` and
``AutoModelForSequenceClassification`` load what ``save_pretrained`` wrote.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, BertConfig
from transformers.models.bert.modeling_bert import (
    BertEmbeddings,
    BertForSequenceClassification,
    BertLayer,
    BertModel,
    BertSelfAttention,
)

__all__ = ["SlimBertConfig", "SlimBertForSequenceClassification", "SlimBertModel", "encoder_of"]


class SlimBertConfig(BertConfig):
    """BERT's configuration, with the size of a head, and of a token that is a vector.

    Parameters
    ----------
    head_size : int
        Width of a head, whatever ``hidden_size`` and ``num_attention_heads`` are.
    input_size : int, optional
        Numbers of a token where tokens are vectors, which ``inputs_embeds`` takes; None for token ids.
    input_mean, input_scale : float
        What is taken off a vector's numbers, and what they are divided by.
    """

    model_type = "anytask_slim_bert"

    head_size: int = 64
    input_size: int | None = None
    input_mean: float = 0.0
    input_scale: float = 1.0
    embedding_size: int | None = None  # transformers' BERT wants whole heads of the width unless there is one


class _Vectors(BertEmbeddings):
    """Embeddings of tokens that are vectors: a linear layer stands for the table of words."""

    def __init__(self, config: SlimBertConfig) -> None:
        super().__init__(config)
        self.word_embeddings: Any = nn.Linear(config.input_size, config.hidden_size)  # type: ignore[arg-type]
        self.mean, self.scale = config.input_mean, config.input_scale

    def forward(self, *, inputs_embeds: Tensor | None = None, **kwargs: Any) -> Tensor:  # type: ignore[override]
        if inputs_embeds is None:
            raise ValueError("this model reads vectors: pass inputs_embeds, of shape (n, tokens, input_size)")
        x = self.word_embeddings((inputs_embeds - self.mean) / self.scale)
        return super().forward(inputs_embeds=x, **kwargs)


def _resize(bert: BertModel, config: SlimBertConfig) -> None:
    """Give the attention of each layer heads of the configured size, and vectors their embeddings."""
    width = config.num_attention_heads * config.head_size
    layers: Any = bert.encoder.layer
    for layer in layers:
        own, out = layer.attention.self, layer.attention.output
        own.attention_head_size, own.all_head_size, own.scaling = config.head_size, width, config.head_size**-0.5
        own.query, own.key, own.value = (nn.Linear(config.hidden_size, width) for _ in range(3))
        out.dense = nn.Linear(width, config.hidden_size)
    if config.input_size is not None:
        bert.embeddings = _Vectors(config)


class SlimBertModel(BertModel):
    """BERT with heads of any size.

    Parameters
    ----------
    config : SlimBertConfig
    add_pooling_layer : bool

    Examples
    --------
    >>> config = SlimBertConfig(vocab_size=50, hidden_size=20, num_attention_heads=3, head_size=8,
    ...                         num_hidden_layers=1, intermediate_size=40)
    >>> model = SlimBertModel(config)
    >>> model.encoder.layer[0].attention.self.query.weight.shape, model.num_parameters()
    (torch.Size([24, 20]), 15492)
    """

    config_class = SlimBertConfig
    config: SlimBertConfig
    _can_record_outputs = {"hidden_states": BertLayer, "attentions": BertSelfAttention}  # noqa: RUF012

    def __init__(self, config: SlimBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer)
        _resize(self, config)
        self.post_init()


class SlimBertForSequenceClassification(BertForSequenceClassification):
    """A classifier on :class:`SlimBertModel`; its weights have the names of BERT's.

    Parameters
    ----------
    config : SlimBertConfig
    """

    config_class = SlimBertConfig
    config: SlimBertConfig

    def __init__(self, config: SlimBertConfig) -> None:
        super().__init__(config)
        _resize(self.bert, config)
        self.post_init()


def encoder_of(config: Any) -> Any:
    """Return a model of a configuration with random weights: a plain BERT where heads have the size of BERT's own.

    Parameters
    ----------
    config : SlimBertConfig

    Examples
    --------
    >>> small = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8}
    >>> for heads in (2, 3):
    ...     type(encoder_of(SlimBertConfig(num_attention_heads=heads, head_size=4, **small))).__name__
    'BertModel'
    'SlimBertModel'
    """
    if config.input_size is not None or config.num_attention_heads * config.head_size != config.hidden_size:
        return SlimBertModel(config)
    known = {name: value for name, value in config.to_dict().items() if hasattr(BertConfig(), name)}
    return BertModel(BertConfig(**{name: value for name, value in known.items() if name != "model_type"}))


AutoConfig.register(SlimBertConfig.model_type, SlimBertConfig)
AutoModel.register(SlimBertConfig, SlimBertModel)
AutoModelForSequenceClassification.register(SlimBertConfig, SlimBertForSequenceClassification)
