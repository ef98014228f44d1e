from itertools import islice

import numpy as np
import pytest

from anytask.datasets.attribute_language import ATTRIBUTES, AttributeLanguage, is_held_out, vocabulary
from anytask.datasets.task_web import TaskWeb
from anytask.incontext.corpus import MIXTURE, FuzzyDeduplicator, QualityFilter, keep_probability, mix


@pytest.mark.parametrize(("s", "p"), [(0.0, 0.001953), (0.5, 0.02601), (0.9, 0.42410), (1.0, 1.0)])
def test_pareto_rule_keeps_with_probability_two_minus_s_to_the_minus_nine(s, p):
    assert keep_probability(s) == pytest.approx(p, abs=5e-6)
    drawn = np.random.default_rng(0).pareto(9, size=200_000) > 1 - s
    assert drawn.mean() == pytest.approx(p, abs=0.005)


def test_quality_filter_keeps_as_often_as_its_scores_say():
    rng = np.random.default_rng(0)
    good = [" ".join(rng.choice(["law", "river", "study", "town", "the"], 8)) for _ in range(200)]
    bad = [" ".join(rng.choice(["buy", "click", "cheap", "now", "the"], 8)) for _ in range(200)]
    quality = QualityFilter(n_features=2**12).fit(good, bad)
    mixed = (good + bad) * 10
    expected = keep_probability(quality.score_samples(mixed)).sum()
    assert len(list(quality.filter(mixed, batch=300))) == pytest.approx(expected, rel=0.05)


def test_quality_filter_streams():
    quality = QualityFilter(n_features=2**10).fit(["good text"], ["bad text"])
    endless = iter(lambda: "good text", None)
    assert len(list(islice(quality.filter(endless, batch=50), 10))) == 10


def test_agreement_of_a_minhash_estimates_jaccard_similarity():
    a = " ".join(f"w{i}" for i in range(100))
    b = " ".join(f"w{i}" for i in range(50, 150))  # Jaccard 50 / 150
    signatures = FuzzyDeduplicator(n_hashes=2000, bands=1).signatures([a, b])
    assert (signatures[0] == signatures[1]).mean() == pytest.approx(1 / 3, abs=0.04)


def test_near_duplicates_go_and_others_stay():
    rng = np.random.default_rng(1)
    words = [f"w{i}" for i in range(3000)]
    originals = [" ".join(rng.choice(words, 80, replace=False)) for _ in range(50)]
    copies = [text + " extra" for text in originals]  # Jaccard 80 / 81
    kept = list(FuzzyDeduplicator().filter([*originals, *copies]))
    assert kept[:50] == originals
    assert len(kept) <= 52  # all ten hashes agree with probability 0.88, nine or eight otherwise


def test_mixture_follows_the_weights_and_repeats_small_sources():
    sources = {name: (lambda name=name: iter([f"{name} 0", f"{name} 1"])) for name in MIXTURE}
    drawn = [name for name, _ in islice(mix(sources, MIXTURE, seed=2), 20_000)]
    total = sum(MIXTURE.values())
    for name, weight in MIXTURE.items():
        assert drawn.count(name) / 20_000 == pytest.approx(weight / total, abs=0.012)


def test_mixture_errors():
    with pytest.raises(ValueError, match="same things"):
        next(mix({"a": list}, {"b": 1.0}))
    with pytest.raises(ValueError, match="'a' is empty"):
        next(mix({"a": list}, {"a": 1.0}))
    with pytest.raises(ValueError, match="positive sum"):
        next(mix({"a": list}, {"a": 0.0}))


def test_sentences_carry_their_attributes_and_stay_in_the_vocabulary():
    language, known = AttributeLanguage(seed=5), set(vocabulary())
    for _ in range(100):
        s = language.sentence()
        assert not is_held_out(s.text) and set(s.text.split()) <= known
        for name, value in s.attributes.items():
            assert s.words[name] in ATTRIBUTES[name][value] and s.words[name] in s.text.split()
    assert is_held_out(language.sentence(held_out=True).text)


def test_documents_show_right_labels_where_they_say_so():
    language = AttributeLanguage(seed=6, p_noisy=1.0, noise=0.5)
    word_value = {w: (a, v) for a, values in ATTRIBUTES.items() for v, group in values.items() for w in group}
    right = []
    for _ in range(50):
        d = language.document(6)
        for text, output, clean in zip(d.inputs, d.outputs, d.clean):
            (value,) = [v for a, v in (word_value[w] for w in text.split() if w in word_value) if a == d.attribute]
            assert (d.labels[value] == output) == clean
            right.append(clean)
    assert 0.4 < np.mean(right) < 0.6


def test_unknown_attribute_value_is_refused():
    with pytest.raises(ValueError, match="topic='war'"):
        AttributeLanguage().sentence(topic="war")


def test_web_documents_follow_their_tables():
    web = TaskWeb(n_tasks=5, n_symbols=4, lines=6, seed=1)
    ids, task = web.documents(200, np.random.default_rng(0))
    assert ids.shape == (200, 19) and ids.max() < web.n_tokens == len(web.tokens)
    x, y, sep = ids[:, 1::3], ids[:, 2::3] - 4, ids[:, 3::3]
    assert (y == web.tables[task[:, None], x]).all() and (sep == web.n_tokens - 1).all()
    named = ids[:, 0] != 2 * 4 + 5
    assert (ids[named, 0] == 8 + task[named]).all() and 0.35 < named.mean() < 0.65
