"""The tiny models that ship with the package: real competence on a miniature language, for tests and examples.

What they show is evidence about algorithms (kind ``tiny``), never about large models' accuracy. They were made by
``scripts/train_tiny_models.py`` from the attribute language of :mod:`anytask.datasets.attribute_language`; each folder
holds its recipe, training log and card.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anytask.core.errors import shown

if TYPE_CHECKING:
    from anytask.lm.local import LocalLM

__all__ = ["TINY_MODELS", "load_tiny"]

FOLDER = Path(__file__).parent / "tiny"


@dataclass(frozen=True)
class TinyModel:
    """Facts about a tiny model.

    Attributes
    ----------
    use : str
        What it is for.
    objective : {"causal", "masked", "keep-labels"}
    sha256 : str
        Checksum of its weights and tokenizer; :func:`load_tiny` compares it.
    probe : dict
        The published accuracies of :func:`anytask.datasets.attribute_probes.probe`, or of the compressor's own probe.
    """

    name: str
    use: str
    objective: str
    sha256: str
    probe: dict[str, float]

    @property
    def folder(self) -> Path:
        return FOLDER / self.name


def checksum(folder: Path) -> str:
    """SHA-256 of a model folder's configuration, weights and tokenizer."""
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        digest.update(name.encode())
        digest.update((folder / name).read_bytes() if (folder / name).is_file() else b"")
    return digest.hexdigest()


def _registry() -> dict[str, TinyModel]:
    registry = {}
    for facts in sorted(FOLDER.glob("*/facts.json")):
        registry[facts.parent.name] = TinyModel(facts.parent.name, **json.loads(facts.read_text(encoding="utf-8")))
    return registry


TINY_MODELS: dict[str, TinyModel] = _registry()
"""Name -> facts of every shipped model."""


def load_tiny(name: str, **options: Any) -> LocalLM:
    """Load a shipped model.

    Parameters
    ----------
    name : str
        A key of :data:`TINY_MODELS`.
    **options
        Passed on to :class:`~anytask.lm.local.LocalLM`.

    Raises
    ------
    ValueError
        For an unknown name, or files whose checksum is not the published one.

    Examples
    --------
    >>> lm = load_tiny("icl")
    >>> prompt = "Classify the topic of the input.\\n\\nInput: a good storm soon\\nLabel:"
    >>> [[weather, music]] = lm.score([prompt], [[" weather", " music"]])
    >>> lm.kind, weather.logprob > music.logprob + 2
    ('tiny', True)
    """
    from anytask.lm.local import LocalLM

    folder = verified_folder(name)
    if TINY_MODELS[name].objective == "keep-labels":
        raise ValueError(f"tiny model {name!r} is a prompt compressor, no language model: anytask.prompts.LLMLingua2()")
    return LocalLM(str(folder), kind="tiny", name=name, **options)


def verified_folder(name: str) -> Path:
    """Return a shipped model's folder, after comparing its checksum.

    Raises
    ------
    ValueError
        For an unknown name, or files whose checksum is not the published one.
    """
    if not isinstance(name, str) or name not in TINY_MODELS:
        raise ValueError(f"unknown tiny model {shown(name)}; shipped: {', '.join(TINY_MODELS)}")
    facts = TINY_MODELS[name]
    found = checksum(facts.folder)
    if found != facts.sha256:
        raise ValueError(
            f"the files of tiny model {name!r} in {facts.folder} are damaged or were changed: "
            f"checksum {found[:12]}, published {facts.sha256[:12]}"
        )
    return facts.folder
