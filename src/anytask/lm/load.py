"""One string for any language model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

__all__ = ["load_lm"]


def load_lm(spec: str | os.PathLike[str], **options: Any) -> Any:
    """Make a language model from a short description.

    Parameters
    ----------
    spec : str or path
        ``http(s)://host:port/v1#MODEL``: an :class:`~anytask.lm.Endpoint` (or give ``model=``).
        ``tiny:NAME``: a small model trained in this repository.
        ``sim:weak``, ``sim:medium`` or ``sim:strong``: the graded simulator.
        Anything else: a Hugging Face folder or name, for :class:`~anytask.lm.LocalLM`, with ``dtype="auto"``.
        Options may follow a question mark, joined by ``&``: ``FOLDER?dtype=float32&chat_template=true``,
        ``URL#MODEL?logprobs=echo``.
    **options
        For the class that the description names.

    Raises
    ------
    ValueError
        When the description names nothing that can be had here.

    Examples
    --------
    >>> load_lm("sim:medium").kind
    'sim'
    >>> load_lm("http://localhost:8000/v1#small?logprobs=echo").capabilities.logprobs
    True
    """
    text, options = _described(os.fspath(spec), options)
    if text.startswith(("http://", "https://")):
        from anytask.lm.endpoint import Endpoint

        url, _, fragment = text.partition("#")
        model = options.pop("model", None) or fragment
        if not model:
            raise ValueError(f"{url} names a server but no model: add #MODEL to it, or give model=")
        return Endpoint(url, model, **options)
    if text.startswith("tiny:"):
        from anytask.lm.tiny_models import load_tiny

        return load_tiny(text.removeprefix("tiny:"), **options)
    if text.startswith("sim:"):
        from anytask.lm.sim import SimulatedChat

        level: Any = text.removeprefix("sim:")
        return SimulatedChat(level, **options)
    if not text.strip():
        raise ValueError("the description of a language model is empty")
    from anytask.lm.local import LocalLM

    return LocalLM(Path(text) if Path(text).is_dir() else text, **{"dtype": "auto", **options})


def described(spec: str, **options: Any) -> str:
    """Return a description with more options.

    Examples
    --------
    >>> described("folder?batch_tokens=512", chat_template=True)
    'folder?batch_tokens=512&chat_template=true'
    """
    mark = "&" if _described(spec, {})[1] else "?"
    return (
        spec
        + mark
        + "&".join(
            f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()
        )
    )


def settled(spec: str) -> str:
    """Return a description that says which numbers local weights have on this machine, where they are not float32."""
    text, said = _described(spec, {})
    if text.startswith(("http://", "https://", "tiny:", "sim:")) or said.get("dtype", "auto") != "auto":
        return spec
    from anytask.core.devices import resolve_device
    from anytask.lm.local.weights import number_type

    numbers = number_type("auto", resolve_device(said.get("device", "auto")))
    return spec if numbers == "float32" else described(spec, dtype=numbers)


def _described(text: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Take the options behind the question mark out of a description; values are JSON, or words as they are."""
    name, mark, query = text.rpartition("?")
    if not mark or Path(text).exists():
        return text, options
    said: dict[str, Any] = {}
    for key, value in parse_qsl(query):
        try:
            said[key] = json.loads(value)
        except ValueError:
            said[key] = value
    if not said or "api_key" in said:
        raise ValueError(f"{name} is followed by options of the form name=value; a key is read from the environment")
    return name, said | options
