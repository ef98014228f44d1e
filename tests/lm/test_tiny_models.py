import shutil

import pytest
import torch

from anytask.datasets.attribute_language import INSTRUCTIONS, AttributeLanguage
from anytask.datasets.attribute_probes import icl_accuracy, probe_masked
from anytask.incontext.gpt3 import GPT3
from anytask.lm import tiny_models
from anytask.lm.tiny_models import TINY_MODELS, load_tiny


@pytest.fixture(scope="module")
def icl():
    return load_tiny("icl")


@pytest.mark.parametrize("name", sorted(TINY_MODELS))
def test_models_are_small_and_documented(name):
    facts = TINY_MODELS[name]
    files = {p.name: p for p in facts.folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "recipe.json", "training-log.json"} <= set(files)
    assert files["model.safetensors"].stat().st_size <= 2 * 2**20
    card = files["MODEL_CARD.md"].read_text()
    assert all(f"| {key} | {value} |" in card for key, value in facts.probe.items())


def test_kind_is_tiny(icl):
    assert icl.kind == "tiny" and icl.context_length == 256


def test_changed_files_are_refused(tmp_path, monkeypatch):
    shutil.copytree(TINY_MODELS["icl"].folder, tmp_path / "icl")
    monkeypatch.setattr(tiny_models, "FOLDER", tmp_path)
    load_tiny("icl")
    weights = tmp_path / "icl" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match="damaged or were changed"):
        load_tiny("icl")
    weights.unlink()
    with pytest.raises(ValueError, match="damaged or were changed") as caught:
        load_tiny("icl")
    assert str(tmp_path) in str(caught.value)


def test_unknown_name_is_refused():
    with pytest.raises(ValueError, match="shipped: compressor, encoder, icl"):
        load_tiny("gpt2")


def test_text_survives_the_tokenizer(icl):
    language = AttributeLanguage(seed=3)
    for _ in range(20):
        text = language.document(3).text
        assert icl.decode(icl.encode(text)) == text


@pytest.mark.parametrize(
    ("condition", "settings"),
    [
        ("natural 8", {"k": 8}),
        ("natural+i 0", {"k": 0, "instruction": True}),
        ("coded 0", {"k": 0, "labeling": "coded"}),
        ("coded 8", {"k": 8, "labeling": "coded"}),
    ],
)
def test_probe_repeats_the_published_accuracy(icl, condition, settings):
    published = TINY_MODELS["icl"].probe[condition]
    # fresh items: three standard errors of a difference between 400 and 200 of them
    margin = 3 * (0.25 * (1 / 400 + 1 / 200)) ** 0.5
    assert icl_accuracy(icl, n=200, seed=1, **settings) == pytest.approx(published, abs=margin)


def test_examples_and_instruction_each_name_the_task(icl):
    bare = icl_accuracy(icl, 0, n=200)
    assert icl_accuracy(icl, 4, n=200) > bare + 0.3
    assert icl_accuracy(icl, 0, n=200, instruction=True) > bare + 0.3


def test_a_code_is_read_from_the_examples(icl):
    assert icl_accuracy(icl, 8, n=200, labeling="coded") > icl_accuracy(icl, 0, n=200, labeling="coded") + 0.15


def test_more_examples_make_up_for_wrong_ones(icl):
    assert icl_accuracy(icl, 8, n=200, noise=1 / 3) > icl_accuracy(icl, 1, n=200, noise=1 / 3) + 0.1


def test_gpt3_solves_a_task_with_the_tiny_model(icl):
    language = AttributeLanguage(seed=11)
    sentences = [language.sentence(held_out=True) for _ in range(90)]
    X, y = [s.text for s in sentences], [s.attributes["topic"] for s in sentences]
    few = GPT3(icl, k=4).fit(X[:40], y[:40])
    zero = GPT3(icl, k=0, description=INSTRUCTIONS["topic"]).fit([], [], options=sorted(set(y)))
    chance = max(map(y[40:].count, set(y))) / 50
    assert min(few.score(X[40:], y[40:]), zero.score(X[40:], y[40:])) > chance + 0.3
    written = GPT3(icl, k=4, scoring="generate", max_tokens=3).fit(X[:40], y[:40]).predict(X[40:50])
    assert set(written) <= set(y)


def test_encoder_fills_masks_and_reads_any_word():
    lm = load_tiny("encoder")
    found = probe_masked(lm, n=150, seed=1)
    assert found["attribute"] > 10 * found["chance"]
    ids = lm.tokenizer("unheard zyx words, (even 42)!")["input_ids"]
    assert lm.tokenizer.unk_token_id not in ids
    out = lm.model.bert(torch.tensor([ids])).last_hidden_state
    assert out.shape == (1, len(ids), lm.model.config.hidden_size)
