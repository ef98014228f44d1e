"""The prompt object: worked examples and a query put together under a token budget, with the origin of every character.

Selection happens before it (which demonstrations, in which order), compression and pruning after it (which tokens):
all of them read the same :class:`Prompt`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from anytask.core.errors import shown

Role = Literal["description", "demonstration", "query", "separator"]
Part = Literal["text", "format", "input", "output"]


@dataclass(frozen=True)
class Demonstration:
    """One worked example. ``id`` names it in reports; two demonstrations may share their text, never their id."""

    input: str
    output: str
    id: int | str | None = None


@dataclass(frozen=True)
class Span:
    """Characters ``start:end`` of a prompt and where they come from.

    ``index`` is the demonstration's place in the sequence that was given to :meth:`PromptTemplate.assemble` (None for
    the other roles), ``id`` its id; ``part`` says whether the characters are a demonstration's (or query's) input, its
    output, or the words of the format around them.
    """

    start: int
    end: int
    role: Role
    part: Part
    index: int | None = None
    id: int | str | None = None


@dataclass(frozen=True)
class Prompt:
    """An assembled prompt.

    Attributes
    ----------
    text : str
        What the model reads.
    spans : tuple of Span
        The text's pieces in order, without gaps: ``"".join(text[s.start:s.end] for s in spans) == text``.
    demos_used : tuple of int
        Places, in the sequence that was given, of the demonstrations that fitted, in the order of the prompt.
    n_tokens : int or None
        Length of ``text`` by the counter that was given (None without a counter).
    """

    text: str
    spans: tuple[Span, ...]
    demos_used: tuple[int, ...] = ()
    n_tokens: int | None = None


@dataclass(frozen=True)
class PromptTemplate:
    """How demonstrations and queries are written.

    Parameters
    ----------
    demo_format : str, default "Input: {input}\\nLabel: {output}"
        Text of a worked example; names ``{input}`` and ``{output}`` once each, in this order.
    query_format : str or None
        Text of a query; must be the beginning of ``demo_format`` up to somewhere before ``{output}``, so that a query
        followed by its completion reads exactly like a demonstration. Default: ``demo_format`` up to ``{output}``
        without the white space before it (tokenizers join that space to the answer).
    separator : str, default two newlines
        Stands between the description, the demonstrations and the query.
    description : str or None
        Task description that opens the prompt.

    Examples
    --------
    The budget drops demonstrations from the far end, never the description or the query:

    >>> template = PromptTemplate("{input} => {output}", separator="\\n", description="Say the opposite.")
    >>> demos = [Demonstration("hot", "cold"), Demonstration("up", "down")]
    >>> prompt = template.assemble(demos, "wet", count_tokens=lambda t: len(t.split()), budget=9, reserve=1)
    >>> print(prompt.text)
    Say the opposite.
    up => down
    wet =>
    >>> prompt.demos_used, prompt.n_tokens, template.completion("dry")
    ((1,), 8, ' dry')
    """

    demo_format: str = "Input: {input}\nLabel: {output}"
    query_format: str | None = None
    separator: str = "\n\n"
    description: str | None = None
    _query: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for field_name in ("demo_format", "query_format", "separator", "description"):
            value = getattr(self, field_name)
            if not isinstance(value, str) and not (value is None and field_name in ("query_format", "description")):
                raise TypeError(f"{field_name} must be a string, got {value!r}")
        for name in ("{input}", "{output}"):
            if self.demo_format.count(name) != 1:
                raise ValueError(f"demo_format must name {name} exactly once, got {self.demo_format!r}")
        head, _ = self.demo_format.split("{output}")
        if "{input}" not in head:
            raise ValueError(f"demo_format must name {{input}} before {{output}}, got {self.demo_format!r}")
        query = head.rstrip(" \t\n") if self.query_format is None else self.query_format
        if not head.startswith(query) or "{input}" not in query:
            raise ValueError(
                f"query_format must be a beginning of demo_format that holds {{input}} and ends before {{output}}: "
                f"got {query!r} for {self.demo_format!r}"
            )
        object.__setattr__(self, "_query", query)

    @property
    def answer_context(self) -> str:
        """What stands between a query and its answer ("Label:"): the context of unconditional scores."""
        return self._query[self._query.index("{input}") + len("{input}") :].lstrip()

    def completion(self, output: str) -> str:
        """Return what follows the query when the answer is ``output``, in the demonstrations' format.

        Only what stands between query and answer is added; what ``demo_format`` writes after ``{output}`` is not.
        """
        return self.demo_format.split("{output}")[0][len(self._query) :] + output

    def assemble(
        self,
        demos: Sequence[Demonstration],
        query: str,
        *,
        count_tokens: Callable[[str], int] | None = None,
        budget: int | None = None,
        reserve: int = 0,
    ) -> Prompt:
        """Write description, demonstrations (first = farthest from the query) and query.

        Parameters
        ----------
        demos : sequence of Demonstration
            In the order of the prompt.
        query : str
            Input of the item to be answered.
        count_tokens : callable str -> int, optional
            Such as ``lm.count_tokens``; needed with a budget.
        budget : int, optional
            Most tokens of prompt and completion together, such as ``lm.context_length``.
        reserve : int, default 0
            Tokens to leave free for the completion.

        Raises
        ------
        ValueError
            If description and query alone exceed the budget: they are never cut.
        """
        if budget is None:
            return self._write(demos, query, 0, count_tokens)
        if count_tokens is None:
            raise ValueError("a token budget needs count_tokens, such as lm.count_tokens")
        for name, value in (("budget", budget), ("reserve", reserve)):
            if not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} must be an integer of at least 0, got {shown(value)}")
        room = budget - reserve
        whole = self._write(demos, query, 0, count_tokens)
        if (whole.n_tokens or 0) <= room:
            return whole
        shortest = self._write(demos, query, len(demos), count_tokens)
        if (shortest.n_tokens or 0) > room:
            raise ValueError(
                f"description and query take {shortest.n_tokens} tokens, and only {room} fit "
                f"(budget {budget}, {reserve} of them kept free for the completion); they are never cut"
            )
        # Bisection for the fewest demonstrations to drop: `fits` always fits, everything up to `too_few` does not.
        too_few, fits, best = 0, len(demos), shortest
        while fits - too_few > 1:
            drop = (too_few + fits) // 2
            prompt = self._write(demos, query, drop, count_tokens)
            if (prompt.n_tokens or 0) <= room:
                fits, best = drop, prompt
            else:
                too_few = drop
        return best

    def _write(
        self, demos: Sequence[Demonstration], query: str, drop: int, count_tokens: Callable[[str], int] | None
    ) -> Prompt:
        pieces: list[str] = []
        spans: list[Span] = []
        at = 0

        def add(text: str, role: Role, part: Part, index: int | None = None, id: Any = None) -> None:
            nonlocal at
            if text or (role, part) == ("query", "input"):  # an empty query still has its place
                pieces.append(text)
                spans.append(Span(at, at + len(text), role, part, index, id))
                at += len(text)

        def add_format(form: str, values: dict[str, str], role: Role, index: int | None = None, id: Any = None) -> None:
            for piece in re.split(r"(\{input\}|\{output\})", form):
                if piece in ("{input}", "{output}"):
                    part: Part = "input" if piece == "{input}" else "output"
                    add(values[part], role, part, index, id)
                else:
                    add(piece, role, "format", index, id)

        if self.description is not None:
            add(self.description, "description", "text")
            add(self.separator, "separator", "format")
        used = tuple(range(drop, len(demos)))
        for i in used:
            demo = demos[i]
            add_format(self.demo_format, {"input": demo.input, "output": demo.output}, "demonstration", i, demo.id)
            add(self.separator, "separator", "format")
        add_format(self._query, {"input": query}, "query")
        text = "".join(pieces)
        return Prompt(text, tuple(spans), used, None if count_tokens is None else count_tokens(text))
