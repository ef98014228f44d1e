"""Load Hugging Face weights without running code that comes with them, and carry them inside a saved model.

Every model, tokenizer and configuration of the package is read here: ``trust_remote_code=False``, and weights from
safetensors alone.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anytask.core.files import as_path, require_regular
from anytask.core.rng import isolated
from anytask.models.real import REAL, fetched


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


def load_pretrained(auto: Any, source: str | os.PathLike[str], *, complete: bool = False, **options: Any) -> Any:
    """Return what a class of transformers makes of a name on the hub or of a folder, running no code that lies there.

    Parameters
    ----------
    auto : type
        ``AutoConfig``, ``AutoTokenizer``, ``AutoModel``, ...
    source : str or path
        A folder, a name on the hub, or one of :data:`~anytask.models.real.REAL`.
    complete : bool, default False
        Refuse weights that lack a part of the model, which transformers would draw at random.
    **options
        For ``auto.from_pretrained``.

    Raises
    ------
    ValueError
        Naming the source: if nothing is there, a file is damaged or missing, weights are pickled, the configuration
        declares far more than the weights hold, or the model wants to run code of its own.
    """
    weights = hasattr(auto, "from_config")
    if not weights:
        return read_pretrained(source, auto.from_pretrained, weights=False, **options)
    options |= {"use_safetensors": True, "output_loading_info": True}

    def make(place: str, **settings: Any) -> Any:
        if Path(place).is_dir():
            _require_held(auto, Path(place))
        return auto.from_pretrained(place, **settings)

    model, info = read_pretrained(source, make, **options)
    if complete and info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"cannot load {source}: its weights lack {len(missing)} tensors, such as {missing[0]}")
    return model


def read_pretrained(
    source: str | os.PathLike[str], make: Callable[..., Any], *, weights: bool = True, **options: Any
) -> Any:
    """Return ``make(source, trust_remote_code=False, **options)`` with the checks of :func:`load_pretrained`.

    Parameters
    ----------
    source : str or path
    make : callable
    weights : bool, default True
        Whether weights are read, which have to be safetensors.
    **options
        For ``make``.
    """
    folder = as_path(source, "the name or folder of a model").expanduser()
    if str(source) in REAL and not folder.is_dir():
        folder = fetched(str(source))
    where = f"the folder {folder}"
    if folder.is_dir():
        _check_folder(folder, weights)
    elif folder.is_absolute() or str(source).startswith((".", "~")):
        raise ValueError(f"no such folder: {source}")
    else:
        where = f"{str(source)!r} (no folder here, and no model that can be had by this name)"
    try:
        with quiet_loading():
            return make(str(folder if folder.is_dir() else source), trust_remote_code=False, **options)
    except ImportError:
        raise
    except Exception as error:  # each library below has its own
        if "trust_remote_code" in str(error):
            raise ValueError(_OWN_CODE.format(where)) from None
        raise ValueError(f"cannot load {where}: {' '.join(str(error).split())[:300]}") from None


_OWN_CODE = "{} holds a model that runs code of its own, which is refused: build it yourself, and pass it as an object"


def _check_folder(folder: Path, weights: bool) -> None:
    for file in folder.rglob("*"):
        if file.exists() and not file.is_dir():
            require_regular(file)
    for file in sorted(folder.glob("*.json")):
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"cannot load the folder {folder}: {file.name} is damaged ({error})") from None
        if isinstance(facts, dict) and "auto_map" in facts:
            raise ValueError(_OWN_CODE.format(f"the folder {folder} (auto_map in {file.name})"))
        modules = [m.get("type") for m in facts if isinstance(m, dict)] if file.name == "modules.json" else []
        if any(not str(module).startswith("sentence_transformers.") for module in modules):
            raise ValueError(_OWN_CODE.format(f"the folder {folder} ({modules} in modules.json)"))
    if not any(folder.glob("*config.json")):
        raise ValueError(f"the folder {folder} holds no Hugging Face model: config.json is missing")
    if weights and not any(folder.glob("*.safetensors")):
        pickled = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth") for file in folder.glob(kind))
        held = f"pickled ones, which can run code ({', '.join(pickled)})" if pickled else "none"
        raise ValueError(f"the folder {folder} must hold weights as safetensors, and it holds {held}")


def _require_held(auto: Any, folder: Path) -> None:
    """Refuse a configuration that declares far more parameters than the weights hold, before memory is taken for it."""
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig

    held = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            held += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    with torch.device("meta"), isolated(0):
        model = auto.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    declared = sum(parameter.numel() for parameter in model.parameters())
    if declared > 2 * held + _HEAD:
        raise ValueError(f"its configuration declares {declared:,} parameters, and its weights hold {held:,}")


#: So many parameters may a new head have, which the weights do not hold.
_HEAD = 10**7


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
        config = load_pretrained(AutoConfig, folder)
        tokenizer = load_pretrained(AutoTokenizer, folder)
    with isolated(0):
        model = auto.from_config(config)
    model.load_state_dict(tree["weights"])
    return model.eval(), tokenizer
