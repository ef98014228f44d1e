import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.lm.prompting import Demonstration, PromptTemplate

#: Texts that hold what templates hold, whole and in pieces.
text = st.lists(st.sampled_from(["{input}", "{output}", "{text}", "{", "}", "{{", "input", "a", " ", "\n", "%s"])).map(
    "".join
)
demos = st.lists(st.builds(Demonstration, text, text), max_size=6)


def words(t: str) -> int:
    return len(t.split())


@given(demos, text, st.one_of(st.none(), text))
def test_spans_cover_the_text_without_gaps_and_hold_what_they_claim(shown, query, description):
    prompt = PromptTemplate("Q: {input}\nA: {output}", description=description).assemble(shown, query)
    assert "".join(prompt.text[s.start : s.end] for s in prompt.spans) == prompt.text
    assert all(a.end == b.start for a, b in zip(prompt.spans, prompt.spans[1:]))
    for span in prompt.spans:
        piece = prompt.text[span.start : span.end]
        if span.role == "demonstration" and span.part in ("input", "output"):
            assert piece == getattr(shown[span.index], span.part)
        if span.role == "query" and span.part == "input":
            assert piece == query


@given(demos, text)
def test_placeholders_are_positions_and_data_is_never_read_as_one(shown, query):
    template = PromptTemplate("Q {input} A {output}.", separator="|", description="{input} {output} {other}")
    prompt = template.assemble(shown, query)
    lines = [f"Q {demo.input} A {demo.output}." for demo in shown]
    assert prompt.text == "|".join(["{input} {output} {other}", *lines, f"Q {query} A"])
    assert template.completion(query) == f" {query}"


def test_query_followed_by_its_completion_reads_like_a_demonstration():
    template = PromptTemplate("Input: {input}\nLabel: {output}")
    asked = template.assemble([], "storm").text + template.completion("red")
    assert template.assemble([Demonstration("storm", "red")], "x").text.startswith(asked)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 5), max_size=8), st.integers(4, 40), st.integers(0, 3))
def test_budget_keeps_the_longest_run_of_demonstrations_next_to_the_query(lengths, budget, reserve):
    template = PromptTemplate("{input} => {output}", separator="\n", description="Do it now")
    shown = [Demonstration(" ".join("w" * n), "y") for n in lengths]
    least = 3 + 2  # the description, "q", "=>"
    if budget - reserve < least:
        with pytest.raises(ValueError, match="never cut"):
            template.assemble(shown, "q", count_tokens=words, budget=budget, reserve=reserve)
        return
    prompt = template.assemble(shown, "q", count_tokens=words, budget=budget, reserve=reserve)
    room, keep = budget - reserve - least, 0
    for n in reversed(lengths):
        if n + 2 > room:
            break
        room, keep = room - n - 2, keep + 1
    assert prompt.demos_used == tuple(range(len(lengths) - keep, len(lengths)))
    assert prompt.n_tokens == words(prompt.text) <= budget - reserve
    assert prompt.text.startswith("Do it now\n") and prompt.text.endswith("q =>")


def test_empty_query_still_has_a_place():
    prompt = PromptTemplate().assemble([], "")
    (span,) = [s for s in prompt.spans if s.part == "input"]
    assert span.start == span.end == len("Input: ")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"demo_format": "{input}"}, "{output} exactly once"),
        ({"demo_format": "no placeholder"}, "{input} exactly once"),
        ({"demo_format": "{input} {input} {output}"}, "{input} exactly once"),
        ({"demo_format": "{output} {input}"}, "before {output}"),
        ({"demo_format": "Q {input} A {output}", "query_format": "X {input}"}, "beginning of demo_format"),
        ({"demo_format": "Q {input} A {output}", "query_format": "Q"}, "holds {input}"),
    ],
)
def test_bad_formats_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PromptTemplate(**kwargs)


@pytest.mark.parametrize("name", ["demo_format", "query_format", "separator", "description"])
def test_a_format_that_is_no_string_is_refused(name):
    with pytest.raises(TypeError, match=f"{name} must be a string, got 3"):
        PromptTemplate(**{name: 3})


def test_budget_without_a_counter_is_refused():
    with pytest.raises(ValueError, match="count_tokens"):
        PromptTemplate().assemble([], "x", budget=10)
