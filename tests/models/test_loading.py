"""Models from folders that are damaged, pickled, or bring code of their own."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from anytask.lm import Embedder, LocalLM
from anytask.models.loading import load_pretrained, pack_pretrained, unpack_pretrained


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    from tokenizers import Tokenizer, models

    folder = tmp_path_factory.mktemp("model")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2}, unk_token="<s>")), bos_token="<s>"
    )
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=3, n_embd=8, n_layer=1, n_head=2))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def code_in(folder, name):
    """Name code of the folder's own in a file; loading that ran it would leave a mark."""
    facts = json.loads((folder / name).read_text())
    facts["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": "own.T"}
    (folder / name).write_text(json.dumps(facts))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_beside_the_weights_never_runs_and_nobody_is_asked(folder, name, monkeypatch):
    code_in(folder, name)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))
    with pytest.raises(ValueError, match="code of its own") as caught:
        LocalLM(folder)
    assert str(folder) in str(caught.value) and name in str(caught.value) and not (folder / "ran").exists()


def test_a_saved_model_with_code_of_its_own_is_refused(saved):
    tree = pack_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(saved), transformers.AutoTokenizer.from_pretrained(saved)
    )
    facts = json.loads(tree["files"]["config.json"]) | {"auto_map": {"AutoConfig": "own.Config"}}
    tree["files"]["config.json"] = json.dumps(facts)
    with pytest.raises(ValueError, match="code of its own"):
        unpack_pretrained(tree, transformers.AutoModelForCausalLM)


def test_a_sentence_embedder_with_modules_of_its_own_is_refused(folder):
    (folder / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "own.Model"}]')
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    with pytest.raises(ValueError, match=r"own\.Model"):
        Embedder(folder)
    assert not (folder / "ran").exists()


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle ran",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=f"can run code \\({name}\\)") as caught:
        LocalLM(folder)
    assert str(folder) in str(caught.value) and "weights_only" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "flipped"])
def test_damaged_folders_are_named(folder, name, damage):
    file = folder / name
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        cut = {"truncated": data[: len(data) // 2], "empty": b"", "flipped": bytes([data[0] ^ 0x80]) + data[1:]}
        file.write_bytes(cut[damage])
    if (name, damage) == ("tokenizer_config.json", "missing"):
        return  # tokenizer.json alone makes a tokenizer
    with pytest.raises(ValueError) as caught:
        LocalLM(folder)
    assert str(folder) in str(caught.value) and "weights_only" not in str(caught.value)


def test_weights_that_lack_a_tensor_are_refused_where_the_model_has_to_be_whole(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.ln_f.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lack 1 tensors, such as transformer\.ln_f\.weight"):
        LocalLM(folder)
    assert torch.is_tensor(load_pretrained(transformers.AutoModelForCausalLM, folder).transformer.ln_f.weight)


def test_a_configuration_that_declares_far_more_than_the_weights_hold_takes_no_memory(folder):
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(facts | {"vocab_size": 10**12}))  # 32 TB of embeddings
    with pytest.raises(
        ValueError, match=r"its configuration declares 8,\d{3},.* parameters, and its weights hold"
    ) as told:
        LocalLM(folder)
    assert str(folder) in str(told.value) and "\n" not in str(told.value)


def test_a_name_that_cannot_be_had_is_one_line():
    with pytest.raises(ValueError, match="no folder here"):
        load_pretrained(transformers.AutoModel, "nobody/no-such-model")
    with pytest.raises(ValueError, match="no such folder"):
        load_pretrained(transformers.AutoModel, "/no/such/folder")
