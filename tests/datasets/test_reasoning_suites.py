import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anytask.datasets import reasoning_suites as suites


@pytest.mark.parametrize("task", suites.ARITHMETIC)
def test_answers_are_what_the_question_computes(task):
    for item in suites.arithmetic(task, 50, seed=3):
        asked = item.input.removeprefix("What is ").removesuffix("?")
        for word, sign in (("plus", "+"), ("minus", "-"), ("times", "*")):
            asked = asked.replace(word, sign)
        assert re.fullmatch(r"[\d+\-*() ]+", asked)
        first, sign, rest = re.fullmatch(r"(\d+) ?([+\-*]) ?(.+)", asked).groups()
        inner = re.fullmatch(r"\((\d)([+\-*])(\d)\)", rest)
        compute = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
        right = compute[inner[2]](int(inner[1]), int(inner[3])) if inner else int(rest)
        assert item.output == str(compute[sign](int(first), right))


def test_operands_are_uniform_below_ten_to_the_d_and_differences_may_be_negative():
    items = suites.arithmetic("3D-", 2000)
    operands = [int(v) for item in items for v in re.findall(r"\d+", item.input)]
    assert 0 <= min(operands) < 10 and 990 < max(operands) < 1000
    assert abs(sum(operands) / len(operands) - 499.5) < 15  # standard error 4.6
    negative = sum(item.output.startswith("-") for item in items)
    assert 0.45 < negative / 2000 < 0.55


def test_same_seed_same_items_other_seed_others():
    assert suites.arithmetic("2D+", 5) == suites.arithmetic("2D+", 5)
    assert suites.arithmetic("2D+", 5) != suites.arithmetic("2D+", 5, seed=1)


@given(st.text(alphabet="abcdefg", min_size=6, max_size=12), st.integers(0, 5))
def test_scrambles_keep_letters_and_places(word, seed):
    for kind in ("CL", "A1", "A2", "RW"):
        assert Counter(suites.scramble(word, kind, seed=seed)) == Counter(word)
    assert suites.scramble(word, "RW") == word[::-1]
    cycled = suites.scramble(word, "CL", seed=seed)
    assert cycled in word + word and len(cycled) == len(word)
    for kind, keep in (("A1", 1), ("A2", 2)):
        mixed = suites.scramble(word, kind, seed=seed)
        assert mixed[:keep] == word[:keep] and mixed[-keep:] == word[-keep:]
        if len(set(word[keep:-keep])) > 1:
            assert mixed != word
    inserted = suites.scramble(word, "RI", seed=seed)
    assert inserted[::2] == word and not any(c.isalnum() for c in inserted[1::2])


def test_too_short_words_are_refused_or_left_out():
    with pytest.raises(ValueError, match="at least 6 letters"):
        suites.scramble("house", "A2")
    assert [i.output for i in suites.unscrambling("A2", ["house", "houses"])] == ["houses"]


def test_novel_words_are_used_and_differ():
    items = suites.novel_words(30)
    for item in items:
        assert suites.uses_word(item.output, item.input.split('"')[1])
    assert len({i.input for i in items}) == 30
    assert not suites.uses_word("a whole bag", "ba")


def test_analogy_has_one_option_of_the_stem_s_relation():
    relation = {pair: name for name, pairs in suites.RELATIONS.items() for pair in pairs}
    places = Counter()
    for item in suites.analogies(200):
        a, b = item.input.removesuffix(" as").split(" is to ")
        same = [o for o in item.options if relation[tuple(o.split(" is to "))] == relation[a, b]]
        assert same == [item.output] and f"{a} is to {b}" not in item.options
        places[item.options.index(item.output)] += 1
    assert min(places.values()) > 25  # 50 expected at each place


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="2D\\+"):
        suites.arithmetic("6D+", 1)
    with pytest.raises(ValueError, match="RW"):
        suites.scramble("house", "XX")
