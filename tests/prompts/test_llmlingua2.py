"""LLMLingua-2's compression: thresholds, forced words, word borders, chunks, budgets; and against the released code."""

import copy
import shutil
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.core.persistence import load_tree, save_tree
from anytask.lm import tiny_models
from anytask.lm.tiny_models import TINY_MODELS, load_tiny
from anytask.prompts.baselines import RandomDeletion, SurprisalCompressor, Truncation
from anytask.prompts.llmlingua2 import LLMLingua2
from anytask.prompts.llmlingua2.probe import probe_compressor
from anytask.prompts.llmlingua2.selection_rules import percentile_threshold, select_words
from anytask.prompts.llmlingua2.words import WordReader, Words

KINDS = ("metaspace", "wordpiece", "bytelevel")
TEXT = "Prices rose by 12 percent, and nobody asked the committee's chair. The library closed! Who wanted more time?"


def _compressor(small_classifiers, kind, **settings):
    model, tokenizer = copy.deepcopy(small_classifiers[kind])
    made = LLMLingua2(model, tokenizer=tokenizer, **settings)
    made.reader = made._reader()
    return made


def _is_subsequence(part, whole):
    rest = iter(whole)
    return all(item in rest for item in part)


def test_the_threshold_is_the_percentile_of_the_formula():
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    one = np.ones(10, dtype=int)
    assert percentile_threshold(p, one, 0.5) == pytest.approx(0.459)  # index 0.51 * 9 = 4.59 between .4 and .5
    assert (p > percentile_threshold(p, one, 0.5)).sum() == 5
    assert percentile_threshold(p, one, 0.7) == pytest.approx(0.639)
    assert (p > percentile_threshold(p, one, 0.7)).sum() == 3
    assert percentile_threshold(p, one, 1.0) == 0.9  # 101 is clamped to 100


def test_the_threshold_counts_a_word_once_per_token_it_costs():
    p, cost = np.array([0.9, 0.8, 0.2, 0.1]), np.array([5, 1, 2, 2])
    tau = percentile_threshold(p, cost, 0.5)  # index .51 * 9 = 4.59 of [.1 .1 .2 .2 .8 .9 ...] = .859
    assert tau == pytest.approx(0.859)
    assert (p > tau).tolist() == [True, False, False, False]


@pytest.mark.parametrize("kind", KINDS)
def test_word_borders_come_from_the_tokenizer(small_classifiers, kind):
    compressor = _compressor(small_classifiers, kind)
    words = compressor.compress(TEXT, 0.5).words
    assert "".join(words) == TEXT.replace(" ", "")  # spelling survives lower-casing and unknown tokens
    for word in ("Prices", "library", "12", ",", "!", "?"):
        assert word in words


@pytest.mark.parametrize("kind", KINDS)
def test_rate_1_returns_the_same_text(small_classifiers, kind):
    text = "  odd   spacing,\n\nkept.  "
    result = _compressor(small_classifiers, kind).compress(text, 1.0)
    assert (result.text, result.rate) == (text, 1.0)


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet="ab Tc.,!1\n\u00e9\u4e2d-'", max_size=80), st.floats(0.05, 1.0), st.sampled_from(KINDS))
def test_the_output_is_a_subsequence_of_the_input(small_classifiers, text, rate, kind):
    result = _compressor(small_classifiers, kind).compress(text, rate)
    assert _is_subsequence("".join(result.text.split()), text)
    assert "".join(result.words) == "".join(text.split()) or rate == 1.0
    assert _is_subsequence(result.kept, result.words)
    assert "".join(result.kept) == "".join(result.text.split())
    if not text.strip():
        assert result.text == text


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.sampled_from(KINDS), st.sampled_from(["percentile", "exact"]))
def test_a_larger_rate_keeps_a_superset(small_classifiers, a, b, kind, cut):
    compressor = _compressor(small_classifiers, kind, cut=cut)
    low, high = (np.array(compressor.compress(TEXT, r).labels) for r in sorted((a, b)))
    assert (high | ~low).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.8])
def test_forced_words_and_digits_survive_every_rate(small_classifiers, kind, rate):
    compressor = _compressor(small_classifiers, kind, force_tokens=["\n", "?", "committee"], force_digits=True)
    result = compressor.compress(
        "In 2024 the committee\nmet twice.\nWho asked? The committee did in room b12 once.", rate
    )
    for word in ("2024", "b12", "?"):
        assert word in result.kept
    assert result.kept.count("committee") == 2
    assert result.text.count("\n") == 2


def test_tokens_that_the_tokenizer_splits_get_stand_ins_and_come_back(small_classifiers):
    compressor = _compressor(small_classifiers, "wordpiece", force_tokens=["The answer is"])
    assert list(compressor.reader.stand_in) == ["The answer is"]
    result = compressor.compress("Nobody asked. The answer is 12. The answer was short.", 0.3)
    assert "The answer is" in result.kept
    assert "[NEW" not in result.text
    with pytest.raises(ValueError, match="stands for a forced token"):
        compressor.compress(f"a {compressor.reader.stand_in['The answer is']} b", 0.5)


def test_a_recurring_forced_token_is_dropped_if_nothing_is_kept_in_between(small_classifiers):
    text = "One.\n\n\n\nTwo.\n\n\nThree."
    plain = _compressor(small_classifiers, "wordpiece", force_tokens=["\n"]).compress(text, 0.9)
    single = _compressor(small_classifiers, "wordpiece", force_tokens=["\n"], drop_consecutive=True).compress(text, 0.9)
    assert "\n\n" in plain.text
    assert "\n\n" not in single.text
    assert "\n" in single.text


@pytest.mark.parametrize("text", ["", "   ", "\n \n"])
def test_empty_texts_come_back_unchanged(small_classifiers, text):
    for kind in KINDS:
        assert _compressor(small_classifiers, kind).compress(text, 0.3).text == text


def test_a_text_of_forced_tokens_only_comes_back_unchanged(small_classifiers):
    assert _compressor(small_classifiers, "wordpiece", force_tokens=["?", "!"]).compress("?!?", 0.2).text == "?!?"


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_end_at_sentence_ends_and_fit(small_classifiers, kind):
    compressor = _compressor(small_classifiers, kind, max_length=32)
    text = " ".join([TEXT] * 4)
    chunks = []
    compressor.reader.words([text], lambda found: chunks.extend(found) or [np.zeros(len(chunk)) for chunk in found])
    assert all(0 < len(chunk) <= 30 for chunk in chunks)
    tokens = [compressor.tokenizer_.convert_ids_to_tokens(chunk) for chunk in chunks]
    for i in range(len(chunks) - 1):
        window = [token.strip("\u2581\u0120") == "." for token in [*chain(*tokens[i:])][:30]]
        if any(window[1:]):
            assert window[len(tokens[i]) - 1]
            assert not any(window[len(tokens[i]) :])
    result = compressor.compress(text, 0.5)
    assert "".join(result.words) == text.replace(" ", "")


def test_newlines_end_chunks_though_the_tokenizer_does_not_show_them(small_classifiers):
    compressor = _compressor(small_classifiers, "wordpiece", max_length=24)
    words = compressor.reader.words(["the new library\n" + "the new report the river the chair " * 4])
    assert words.text[words.chunk == words.chunk[0]].tolist() == ["the", "new", "library"]


def test_batches_do_not_change_the_probabilities(small_classifiers):
    texts = [TEXT, TEXT[:30], "The library.", TEXT * 3, "a"]
    one = _compressor(small_classifiers, "wordpiece", batch_size=1).compress_many(texts, 0.5)
    many = _compressor(small_classifiers, "wordpiece").compress_many(texts, 0.5)
    for a, b in zip(one, many):
        assert a.words == b.words
        assert np.allclose(a.probabilities, b.probabilities, atol=1e-6)


def test_token_targets_and_probability_thresholds(small_classifiers):
    compressor = _compressor(small_classifiers, "wordpiece", cut="exact", target=lambda text: len(text.split()))
    assert compressor.compress(TEXT, target_tokens=6).origin_tokens == len(TEXT.split())
    exact = _compressor(small_classifiers, "wordpiece", cut="exact")
    result = exact.compress(TEXT, target_tokens=10)
    assert result.compressed_tokens <= 10
    result = exact.compress(TEXT, threshold=0.6)
    assert result.labels == tuple(p >= 0.6 for p in result.probabilities)


def test_the_exact_cut_keeps_its_rate_on_short_texts(small_classifiers):
    exact = _compressor(small_classifiers, "wordpiece", cut="exact")
    for text in ("the new library", TEXT, "who asked the chair"):
        result = exact.compress(text, 0.5)
        assert abs(sum(result.labels) - 0.5 * len(result.words)) <= 3
        assert result.compressed_tokens <= 0.5 * result.origin_tokens + 0.5


def test_the_context_filter_drops_whole_contexts_but_not_forced_ones(small_classifiers):
    compressor = _compressor(small_classifiers, "wordpiece")
    contexts = ["The committee met.", "Prices rose by 12 percent.", "A cafe closed, sadly.", "Nobody did; who asked?"]
    means = [np.mean(compressor.compress(c, 0.999).probabilities) for c in contexts]
    result = compressor.compress(contexts, 0.8, context_filter=True, token_filter=False, n_contexts=2)
    # share 2/4: percentile int(50) of four scores lies between the 2nd and 3rd: two contexts reach it
    assert result.texts == tuple(contexts[i] for i in sorted(np.argsort(means)[-2:]))
    worst = int(np.argmin(means))
    forced = compressor.compress(contexts, 0.5, context_filter=True, n_contexts=1, force_contexts=[worst])
    assert {c for c, label in zip(forced.contexts, forced.labels) if label} >= {worst} or len(forced.texts) == 2
    assert forced.text == "\n\n".join(forced.texts)
    with pytest.raises(ValueError, match="force_contexts"):
        compressor.compress(contexts, context_filter=True, force_contexts=[4])


def test_dynamic_rates_follow_the_mean_probability_and_keep_the_average(small_classifiers):
    compressor = _compressor(small_classifiers, "wordpiece", cut="exact")
    texts = ["The committee met on Monday. It discussed the budget.", "Prices rose, wages by 3.", TEXT]
    plain = compressor.compress_many(texts, 0.5)
    means = np.array([np.mean(r.probabilities) for r in plain])
    dynamic = compressor.compress_many(texts, 0.5, dynamic="mean")
    for result, rate in zip(dynamic, 0.5 * means / means.mean()):
        assert abs(result.compressed_tokens - rate * result.origin_tokens) <= 4
    pooled = compressor.compress_many(texts, 0.5, dynamic="pooled")
    p = np.concatenate([r.probabilities for r in pooled])
    kept = np.concatenate([r.labels for r in pooled])
    assert p[kept].min() >= p[~kept].max()


def test_a_question_favours_its_words(small_classifiers):
    compressor = _compressor(small_classifiers, "wordpiece")
    for word in ("library", "percent", "chair"):
        assert word in compressor.compress(TEXT, 0.2, question=f"What about the {word}?").kept


def test_first_and_mean_differ_only_for_words_of_several_tokens(small_classifiers):
    mean, first = (
        _compressor(small_classifiers, "wordpiece", token_to_word=w).compress(TEXT, 0.5) for w in ("mean", "first")
    )
    tokenizer = small_classifiers["wordpiece"][1]
    for word, a, b in zip(mean.words, mean.probabilities, first.probabilities):
        if len(tokenizer.tokenize(word)) == 1:
            assert a == pytest.approx(b)


def test_settings_may_change_between_calls(small_classifiers):
    compressor = _compressor(small_classifiers, "wordpiece")
    model = compressor.model_
    assert "The answer is" not in compressor.compress("Nobody asked. The answer is 12.", 0.1).kept
    compressor.set_params(force_tokens=["The answer is"])
    assert "The answer is" in compressor.compress("Nobody asked. The answer is 12.", 0.1).kept
    assert compressor.model_ is model
    assert compressor.set_params(model=None, tokenizer=None).compress(TEXT).weights == "compressor"


def test_folders_saved_when_none_stood_for_values_by_the_encoder_still_load(small_classifiers, tmp_path):
    compressor = _compressor(small_classifiers, "wordpiece", rate=0.4)
    compressor.save(tmp_path)
    state = load_tree(tmp_path)
    state["params"]["training"]["group"] |= {key: {"value": None} for key in ("epochs", "lr", "batch_size")}
    save_tree(tmp_path, state)
    loaded = LLMLingua2.load(tmp_path)
    assert loaded.training.epochs == 15
    assert loaded.compress(TEXT) == compressor.compress(TEXT)


def test_the_fresh_encoders_step_size_is_warned_of_for_a_given_one(small_classifiers):
    words, labels = [["the", "cat"], ["a", "library"]], [[False, True]] * 2
    with pytest.warns(UserWarning, match="ruins a pretrained one"):
        _compressor(small_classifiers, "wordpiece", training={"epochs": 1}).fit(words, labels)
    model, tokenizer = copy.deepcopy(small_classifiers["wordpiece"])
    compressor = LLMLingua2.from_preset("paper", model=model, tokenizer=tokenizer, training={"epochs": 1})
    assert (compressor.training.lr, compressor.training.batch_size) == (1e-5, 10)
    assert compressor.fit(words, labels).accuracies_
    with pytest.raises(ValueError, match="keep every word"):
        compressor.fit(words, [[True, True]] * 2)


def test_save_and_load_compress_alike(small_classifiers, tmp_path):
    compressor = _compressor(small_classifiers, "metaspace", force_tokens=["\n"], rate=0.4)
    compressor.save(tmp_path / "m")
    loaded = LLMLingua2.load(tmp_path / "m")
    assert loaded.kind == "local"
    assert loaded.rate == 0.4
    assert loaded.compress(TEXT + "\n" + TEXT) == compressor.compress(TEXT + "\n" + TEXT)


def test_a_trained_compressor_is_loaded_with_what_it_learned(tmp_path):
    compressor = LLMLingua2(training={"epochs": 2}).fit([["the", "cat"], ["a", "library"]], [[False, True]] * 2)
    compressor.distilled_ = object()  # what distill learned from stays behind
    compressor.save(tmp_path)
    loaded = LLMLingua2.load(tmp_path)
    assert loaded.accuracies_ == compressor.accuracies_
    assert loaded.compress("the cat in a library", 0.5) == compressor.compress("the cat in a library", 0.5)


def test_wrong_input_is_named(small_classifiers):
    compressor = _compressor(small_classifiers, "wordpiece")
    with pytest.raises(TypeError, match=r"contexts\[1\]"):
        compressor.compress(["a", 3])
    with pytest.raises(ValueError, match="not both"):
        compressor.compress("a", target_tokens=1, threshold=0.5)


def test_without_weights_the_shipped_ones_compress_english():
    compressor = LLMLingua2()
    assert not hasattr(compressor, "model_")  # nothing is read before it is needed
    sentence = "It was Mr Okafor who had asked for the 37 new chairs in the library."
    result = compressor.compress(sentence, threshold=0.5)
    assert (result.kind, result.weights) == ("tiny", "compressor")
    assert result.text == "Mr Okafor asked 37 new chairs library."
    half = compressor.compress(sentence, 0.5)
    assert not {"It", "was", "who", "had", "for", "the", "in"} & set(half.kept)
    many = compressor.compress_many(["The report on the Zwyntraal of \u4e2d\u6587 is late.", ""], threshold=0.5)
    assert {"report", "Zwyntraal", "late"} <= set(many[0].kept)
    assert many[1].text == ""


THAI = "โปรดทราบว่ารถไฟไปเชียงใหม่จะออกเวลาสิบนาฬิกาสี่สิบห้านาทีจากชานชาลาที่สี่"
CHINESE = "请注意,开往上海的列车将于上午十点四十五分从四号站台出发。"


@pytest.mark.parametrize("text", ["hello", "yes", "A" * 300, THAI, CHINESE, "Please note the 4th."])
@pytest.mark.parametrize("cut", ["percentile", "exact"])
def test_a_cut_by_rate_leaves_something_of_every_text(text, cut):
    compressor = LLMLingua2(cut=cut)
    for rate in (0.01, 0.5, 0.9):
        assert compressor.compress(text, rate).kept
    assert compressor.compress(text, target_tokens=1).kept


def test_scripts_without_spaces_are_cut_word_by_word_and_get_no_spaces(classifier_for):
    model, tokenizer = classifier_for("metaspace", (THAI + CHINESE) * 3)
    compressor = LLMLingua2(model, tokenizer=tokenizer)
    for text in (THAI, CHINESE):
        result = compressor.compress(text, 0.5)
        assert 0 < len(result.text) < len(text)
        assert " " not in result.text
        assert _is_subsequence(result.text, text)
    assert " " not in LLMLingua2().compress(CHINESE, 0.5).text
    mixed = LLMLingua2().compress("The report of Zwyntraal is late.", threshold=0.5)
    assert mixed.text == " ".join(mixed.kept).replace(" .", ".")


JAPANESE = "会議は三月二日に、ビルの四階で行われます。ｶﾞ"
LAO = "ສະບາຍດີ"


@pytest.mark.parametrize("text", [JAPANESE, LAO, THAI, CHINESE])
@pytest.mark.parametrize("cls", [Truncation, RandomDeletion])
def test_plain_compressors_cut_scripts_without_spaces_and_put_none_in(text, cls):
    result = cls(rate=0.5).compress(text)
    assert 0 < len(result.text) < len(text)
    assert " " not in result.text
    assert "".join(result.words) == text
    assert _is_subsequence(result.text, text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_within_unspaced_script_is_a_word(classifier_for, kind):
    text = "\u5217\u8f66\u4e0a\u534810:45\u51fa\u53d1\uff0c\u7968\u4ef71,234.56\u5143\u3002"
    model, tokenizer = classifier_for(kind, " ".join(text) * 3)
    result = LLMLingua2(model, tokenizer=tokenizer, force_digits=True).compress(text, 0.2)
    assert {"10:45", "1,234.56"} <= set(result.kept)
    assert len(result.kept) < len(result.words)  # the numbers are words of their own


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "numbers",
    [
        ("1,234.56", "2024-03-01", "10:45"),
        ("-5", "3.5e-7", "1'234.50"),
        ("192.168.0.1", "3/4", "10\u201312"),
        (".5", "1_000", "+49-30-1234"),
    ],
)
def test_forced_numbers_keep_their_inner_marks(small_classifiers, kind, numbers):
    text = "The invoice of {} is due on {} at {}, they said.".format(*numbers)
    for rate in (0.1, 0.5):
        result = _compressor(small_classifiers, kind, force_digits=True).compress(text, rate)
        assert set(numbers) <= set(result.kept)
        assert all(number in result.text for number in numbers)


def test_what_the_tokenizer_does_not_know_counts_for_what_it_is():
    blob = "data:image/png;base64," + "iVBORw0KGgo" * 300
    result = LLMLingua2().compress(blob, 0.5)
    assert result.origin_tokens > len(blob) / 5  # one unknown token for 3,300 letters before
    assert result.compressed_tokens == LLMLingua2().count_tokens(result.text)


def test_the_context_that_alone_names_the_asked_word_survives():
    contexts = ["The library opens at nine.", "The pool opens at ten and closes at six.", "The parking is free."]
    for asked, place in (("pool", 1), ("parking", 2), ("library", 0)):
        question = f"the {asked}?"
        result = LLMLingua2().compress(contexts, 0.7, question=question, context_filter=True, n_contexts=1)
        assert any(label for label, context in zip(result.labels, result.contexts) if context == place)
        assert asked in result.kept


def test_repeats_of_forced_tokens_are_judged_by_the_cut_itself():
    # Costs make the cut higher than the plain percentile of the words: b falls, and the second "?" follows the first.
    p = np.array([1.0, 0.6, 1.0, 0.9, 0.1])
    one = np.zeros(5, dtype=int)
    text = np.array(["?", "b", "?", "c", "d"], dtype=object)
    words = Words(text, one == 0, one, one, np.array([1, 1, 1, 20, 1]), p, p)
    kept = select_words(words, one, 0.8, single=("?",))
    # tau = percentile 20 (0.8 -> int(20 + 1) = 21) of .1 .6 .9*20 1 1 is .9: b goes, and with it the second "?";
    # its probability then is 0, tau stays .9
    assert kept.tolist() == [True, False, False, False, False]
    plain = select_words(words, one, 0.8)
    assert plain.tolist() == [True, False, True, False, False]


def test_a_question_in_an_unspaced_script_favours_its_words():
    library, pool = "\u56fe\u4e66\u9986\u4e5d\u70b9\u5f00\u95e8\u3002", "\u6cf3\u6c60\u516d\u70b9\u5173\u95e8\u3002"
    result = LLMLingua2().compress([library, pool], 0.5, question="\u6cf3\u6c60?", context_filter=True, n_contexts=1)
    assert {"\u6cf3", "\u6c60"} <= set(result.kept)


def test_a_threshold_that_no_word_reaches_keeps_one_and_says_so(small_classifiers):
    compressor = _compressor(small_classifiers, "wordpiece")
    with pytest.warns(UserWarning, match="no word of 1 prompts reaches threshold=1"):
        assert len(compressor.compress(TEXT, threshold=1.0).kept) == 1


def test_different_texts_that_become_one_are_said():
    compressor = LLMLingua2(force_tokens=["boat"])
    with pytest.warns(UserWarning, match="all 2 different texts became 'boat'"):
        compressor.compress_many(["the boat", "a boat"], 0.1)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"n_contexts": 1}, "n_contexts .* needs context_filter"),
        ({"force_contexts": [0]}, "force_contexts .* needs context_filter"),
        ({"token_filter": False}, "token_filter=False .* needs context_filter"),
        ({"context_filter": True, "n_contexts": 1, "context_rate": 0.5}, "one of context_rate and n_contexts"),
        ({"target_tokens": 5, "threshold": 0.5}, "not both"),
        ({"context_filter": True, "context_rate": 0}, "context_rate"),
        ({"threshold": "x"}, "threshold"),
    ],
)
def test_budgets_that_contradict_themselves_are_refused(budget, message):
    with pytest.raises(ValueError, match=message):
        LLMLingua2().compress([TEXT, TEXT], **budget)
    with pytest.raises(ValueError, match="no context"):
        LLMLingua2().compress([])


def test_a_forced_token_makes_its_word_certain_but_not_in_the_released_convention(small_classifiers):
    tokenizer = small_classifiers["wordpiece"][1]
    word = "everybodynear"
    first = tokenizer.tokenize(word)[0]
    assert first != word
    paper, released = (
        _compressor(small_classifiers, "wordpiece", force_tokens=[first], convention=convention).compress(word, 0.999)
        for convention in ("paper", "released")
    )
    assert paper.probabilities == (1.0,)
    assert released.probabilities[0] < 1.0


@pytest.mark.parametrize("value", [0, -3, 1.5, True])
@pytest.mark.parametrize("name", ["target_tokens", "n_contexts", "context_tokens"])
def test_budgets_below_one_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
        LLMLingua2().compress([TEXT, TEXT], context_filter=True, **{name: value})


def test_half_a_character_is_named_with_its_place():
    with pytest.raises(ValueError, match="context 1 has half a character"):
        LLMLingua2().compress(["fine", "cut \ud83d here"], 0.5)


def test_the_shipped_weights_reach_their_published_probe():
    facts = TINY_MODELS["compressor"]
    measured = probe_compressor(LLMLingua2())
    assert measured == pytest.approx(facts.probe, abs=0.05)  # one word of the smallest group counts 0.04
    assert sum(path.stat().st_size for path in facts.folder.iterdir()) < 1.6e6


def test_damaged_shipped_weights_are_refused(monkeypatch, tmp_path):
    folder = tmp_path / "compressor"
    shutil.copytree(TINY_MODELS["compressor"].folder, folder)
    monkeypatch.setattr(tiny_models, "FOLDER", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="damaged or were changed"):
        LLMLingua2().compress("text")
    with pytest.raises(ValueError, match="prompt compressor"):
        monkeypatch.undo()
        load_tiny("compressor")


def test_slow_tokenizers_are_refused():
    with pytest.raises(ValueError, match="fast tokenizer"):
        WordReader(object(), LLMLingua2())


@pytest.mark.parametrize("cls", [Truncation, RandomDeletion, SurprisalCompressor])
def test_baselines_keep_the_rate_and_the_order(cls):
    compressor = cls(rate=0.5)
    if cls is SurprisalCompressor:
        compressor.fit([TEXT])
    result = compressor.compress(TEXT)
    assert sum(result.labels) == np.ceil(0.5 * len(TEXT.split()))
    assert _is_subsequence(result.text.split(), TEXT.split())
    assert compressor.compress(TEXT) == result
    assert compressor.compress(TEXT, 1.0).text == TEXT


def test_surprisal_by_a_model_gives_words_their_tokens_mean():
    from anytask.lm.protocol import OptionScore

    class Letters:
        def encode(self, text):
            return [ord(c) for c in text]

        def decode(self, ids):
            return "".join(map(chr, ids))

        def score(self, prompts, options, *, tag="score"):
            logs = tuple(-5.0 if c == "z" else -1.0 for c in options[0][0])
            return [[OptionScore(sum(logs), len(logs), len(logs), logs)]]

    assert SurprisalCompressor(Letters()).compress("aa bb zz cc", 0.25).text == "zz"


@pytest.mark.parametrize("name", ["xlm-roberta-large-small", "bert-base-multilingual-cased-small"])
@pytest.mark.parametrize("rate", [0.3, 0.6])
def test_the_same_words_as_the_released_library(small_classifiers, tmp_path, monkeypatch, name, rate):
    released = pytest.importorskip("llmlingua")
    tiktoken = pytest.importorskip("tiktoken")
    encoding = tiktoken.Encoding(
        "bytes", pat_str=r"\w+|[^\w\s]+|\s+", mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={}
    )
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda model: encoding)
    kind = "metaspace" if "roberta" in name else "wordpiece"
    model, tokenizer = copy.deepcopy(small_classifiers[kind])
    folder = tmp_path / name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    theirs = released.PromptCompressor(str(folder), device_map="cpu", use_llmlingua2=True)
    out = theirs.compress_prompt_llmlingua2([TEXT], rate=rate, return_word_label=True, force_tokens=["?"])
    pairs = [item.rsplit(" ", 1) for item in out["fn_labeled_original_prompt"].split("\t\t|\t\t")]
    mine = LLMLingua2(
        str(folder), convention="released", force_tokens=["?"], target=lambda text: len(encoding.encode_ordinary(text))
    ).compress(TEXT, rate)
    assert [label == "1" for _, label in pairs] == list(mine.labels)
    assert mine.origin_tokens == out["origin_tokens"]
