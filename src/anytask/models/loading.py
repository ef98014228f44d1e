"""Load Hugging Face weights without progress bars on the user's terminal, and carry them inside a saved model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anytask.core.rng import isolated


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Switch transformers' progress bars off inside the block, and back on if they were on.

    Examples
    --------
    >>> from transformers.utils import logging
    >>> with quiet_loading():
    ...     logging.is_progress_bar_enabled()
    False
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def pack_pretrained(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Return a transformers model and its tokenizer as a tree that :func:`anytask.core.persistence.save_tree` takes.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    tokenizer : transformers.PreTrainedTokenizerFast
    """
    with TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files = {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).iterdir())}
    return {"files": files, "weights": dict(model.state_dict())}


def unpack_pretrained(tree: Mapping[str, Any], auto: Any) -> tuple[Any, Any]:
    """Return the model, in evaluation mode, and the tokenizer of what :func:`pack_pretrained` returned.

    Parameters
    ----------
    tree : mapping
    auto : type
        Transformers' class that makes the model of its configuration, such as ``AutoModel``.
    """
    from transformers import AutoConfig, AutoTokenizer

    with TemporaryDirectory() as folder:
        for name, text in tree["files"].items():
            Path(folder, Path(name).name).write_text(text, encoding="utf-8")
        config = AutoConfig.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    with isolated(0):
        model = auto.from_config(config)
    model.load_state_dict(tree["weights"])
    return model.eval(), tokenizer
