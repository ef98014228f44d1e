"""LLMLingua-2's data and training: chunks, alignment, filters, and a trainer that resumes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anytask.core.persistence import load_tree
from anytask.datasets.compression_languages import KeyValue, Modifiers
from anytask.prompts.llmlingua2.classifier import Training, accuracy, encode, model_inputs, small_encoder
from anytask.prompts.llmlingua2.distillation import (
    Alignment,
    Distillation,
    annotate,
    chunk_text,
    quality_filter,
)

ORIGINAL = ["the", "cat", "sat", "on", "the", "mat", "the", "end"]


def _places(alignment):
    return [i for i, label in enumerate(alignment.labels) if label]


def test_alignment_of_a_faithful_compression():
    a = annotate(ORIGINAL, ["cat", "on", "mat", "end"], window=4)
    assert _places(a) == [1, 3, 5, 7]
    assert (a.variation_rate, a.hitting_rate, a.matching_rate, a.alignment_gap) == (0.0, 0.5, 0.5, 0.0)


def test_alignment_of_an_invented_word_and_of_one_outside_the_window():
    a = annotate(ORIGINAL, ["cat", "dog", "mat"], window=4)
    assert _places(a) == [1]
    assert a.variation_rate == pytest.approx(1 / 3)
    assert (a.hitting_rate, a.matching_rate, a.alignment_gap) == (2 / 8, 1 / 8, 1 / 8)
    wide = annotate(ORIGINAL, ["cat", "dog", "mat"], window=8)
    assert _places(wide) == [1, 5]
    assert wide.alignment_gap == 0.0


def test_repeated_words_hit_different_places():
    assert _places(annotate(["a", "b", "a", "b"], ["a", "a"], window=4)) == [0, 2]


@given(
    st.lists(st.sampled_from("abc"), max_size=15), st.lists(st.sampled_from("abcd"), max_size=15), st.integers(1, 20)
)
def test_alignment_rates_are_consistent(original, compressed, window):
    a = annotate(original, compressed, window)
    assert len(a.labels) == len(original)
    assert sum(a.labels) <= sum(word in original for word in compressed)
    assert 0 <= a.variation_rate <= 1
    assert a.alignment_gap >= 0


def test_filters_drop_the_worst_of_each_kind_but_not_perfect_ties():
    fine = [Alignment((True,), 0.0, 0.5, 0.5)] * 18
    invented, lost = Alignment((True,), 0.9, 0.1, 0.1), Alignment((True,), 0.0, 0.9, 0.1)
    assert quality_filter([*fine, invented, lost]) == list(range(18))
    assert quality_filter([*fine, invented, lost], variation=100, gap=100) == list(range(20))


@given(st.text(alphabet="ab .\n", max_size=120), st.integers(1, 10))
def test_chunks_join_to_the_text_and_fit(text, size):
    chunks = chunk_text(text, str.split, size)
    assert text.startswith("".join(chunks))
    assert not text[len("".join(chunks)) :].strip()
    assert all(len(chunk.split()) <= size for chunk in chunks)


def test_pairs_become_labels_and_commas_are_dropped():
    data = Distillation().label(["The cities, walked by cats."], ["city walk cat."])
    assert data.words == [["The", "cities", ",", "walked", "by", "cats", "."]]
    assert data.labels == [[False, True, False, True, False, True, True]]


def test_distillation_sends_the_paper_s_request_and_filters_rephrased_texts():
    world = KeyValue(seed=1)
    texts = world.documents(200, "train")
    requests = []

    class Recorder(KeyValue):
        def chat(self, request):
            requests.append(request)
            return super().chat(request)

    data = Distillation().distill(Recorder(seed=1), texts, seed=3)
    assert {(r.temperature, r.top_p, r.tag) for r in requests} == {(0.3, 1.0, "distil")}
    assert len({r.seed for r in requests}) == len(texts)
    rephrased = {i for i, text in enumerate(texts) if world.rephrases(text)}
    assert len(rephrased) > 10
    assert len(rephrased & set(data.kept)) <= len(rephrased) // 4
    assert data.kind == "sim"
    with pytest.raises(ValueError, match="place"):
        Distillation(instruction="Shorten this.")


def test_padding_is_masked_and_not_judged():
    inputs = model_inputs([[5, 6, 7], [8]], 9, torch.device("cpu"))
    assert inputs["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert model_inputs([[5], [8]], 9, torch.device("cpu"))["attention_mask"] is None
    model, _ = small_encoder([list("abcdefgh")])
    model.classifier.weight.data.zero_()
    model.classifier.bias.data = torch.tensor([0.0, 1.0])  # keeps every token
    assert accuracy(model, [([5, 6, 7], [0, 1, 0]), ([8], [1])]) == 0.5  # 2 of 4 tokens


def test_labels_go_to_all_tokens_of_a_word_and_specials_get_0(small_classifiers):
    tokenizer = small_classifiers["wordpiece"][1]
    ids, y = encode(tokenizer, [["everybodynear", "met"]], [[True, False]])[0]
    n = len(tokenizer.tokenize("everybodynear"))
    assert n > 1
    assert y[: n + 1] == [0] + [1] * n
    assert set(y[n + 1 :]) == {0}
    assert len(ids) == len(y)


def _data(n=60):
    language = Modifiers(0, length=12)
    return language.labelled(n)


def test_training_resumes_to_the_same_weights(tmp_path):
    words, labels = _data()

    def train(epochs, folder):
        model, tokenizer = small_encoder(words, seed=1)
        training = Training(epochs=epochs, lr=3e-3, batch_size=16)
        return training.train(model, tokenizer, words, labels, seed=1, folder=folder), model.state_dict()

    a, whole = train(4, None)
    train(2, tmp_path)
    b, resumed = train(4, tmp_path)
    assert a == b
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_the_best_epoch_by_validation_is_kept_and_a_failure_leaves_the_model_alone(tmp_path):
    words, labels = _data()
    model, tokenizer = small_encoder(words)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    training = Training(epochs=5, lr=3e-3, batch_size=16)

    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(model, tokenizer, words, labels, progress=stop)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    accuracies = training.train(model, tokenizer, words, labels, folder=tmp_path)
    best, last = load_tree(tmp_path)["best"], load_tree(tmp_path)["model"]
    assert all(torch.equal(v, best[k]) for k, v in model.state_dict().items())
    same = all(torch.equal(best[k], last[k]) for k in best)
    assert same is (accuracies[-1] == max(accuracies))


def test_the_causal_encoder_does_not_see_what_follows():
    words, _ = _data()
    for causal in (True, False):
        model, tokenizer = small_encoder(words, causal=causal)
        ids = torch.tensor(tokenizer([" ".join(words[0])])["input_ids"])
        other = ids.clone()
        other[0, -2] = other[0, 1]
        assert ids[0, -2] != ids[0, 1]
        with torch.no_grad():
            same = torch.equal(model.eval()(ids).logits[0, 3], model(other).logits[0, 3])
        assert same is causal
