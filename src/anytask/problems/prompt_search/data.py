"""The data of prompt-search: labelled texts or a simulated model, and what one seed's search sees of them."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from anytask.core.rng import derive
from anytask.core.settings import choice, text, whole
from anytask.datasets.text import BAD_ROWS, TextData
from anytask.problems.language import model_of, readable
from anytask.problems.options import Options
from anytask.problems.training import Builtin, LoadedData


class PromptSearchOptions(Options):
    """What is searched with which model, and on how many examples."""

    read_only: ClassVar[tuple[str, ...]] = ("text", "target", "bad_rows")

    lm: str | None = text(
        None, "language model with log-probabilities: a folder, a Hugging Face name or tiny:NAME", optional=True
    )
    target: str = text("label", "name of the column or key that holds the label")
    prompt: str | None = text(
        None, "the full prompt with the place {text} (none: demonstrations from the data)", optional=True
    )
    format: str = text("Input: {text}\nLabel: {label}", "how a demonstration is written")
    separator: str = text("\n\n", "what stands between demonstrations")
    shots: int = whole(1, "demonstrations per class in the default prompt", at_least=0)
    wrong: int = whole(0, "how many of them get a wrong label, to see whether the search removes them", at_least=0)
    search: int = whole(8, "search examples per class")
    validation: int = whole(200, "validation examples")
    max_test: int = whole(2000, "most test examples")
    budget: int = whole(1000, "prompts that a search may score")
    text: str = text("text", "name of the column or key that holds the input")
    bad_rows: str = choice("refuse", BAD_ROWS, "rows that cannot be used: an error, left out, or cut")

    def _check_settings(self) -> None:
        for name, place in (("prompt", "{text}"), ("format", "{text}"), ("format", "{label}")):
            value = getattr(self, name)
            if value is not None and place not in value:
                raise ValueError(f"{name} must contain the place {place}, got {value!r}")


class Instance(NamedTuple):
    """What one seed's run sees."""

    lm: Any
    prompt: str
    verbalizers: tuple[str, ...]
    search: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    test: list[dict[str, Any]]


@dataclass(frozen=True)
class PromptSearchData(LoadedData):
    """Where the examples come from, and the options."""

    source: TextData | Builtin

    def facts(self) -> dict[str, Any]:
        """Return the facts on the texts."""
        return {} if isinstance(self.source, Builtin) else self.source.describe()

    def instance(self, seed: int, hold_out: bool = True) -> Instance:
        """Return the model, the full prompt and the three sets of examples of one seed; alike for every entrant.

        Without ``hold_out``, what would be tested on is among the validation examples.
        """
        o = self.options
        if isinstance(self.source, Builtin):
            from anytask.datasets.scripted_prompt import ScriptedPromptLM

            scripted = ScriptedPromptLM(seed)
            sizes = (("search", 64), ("validation", o.validation), ("test", o.max_test))
            sets = [scripted.examples(n, part) for part, n in sizes]
            return Instance(scripted, scripted.prompt, (" A", " B"), *[list(map(dict, s)) for s in sets])
        from anytask.lm.placeholders import escape, fill

        data, classes = self.source, self.source.classes
        rng = np.random.default_rng(derive(seed, "prompt-search"))
        labels = np.array([classes.index(label) for label in data.labels])
        by_class = [rng.permutation(np.flatnonzero(labels == c)).tolist() for c in range(len(classes))]
        demos = [rows.pop() for rows in by_class for _ in range(o.shots)]
        search = [rows.pop() for rows in by_class for _ in range(o.search)]
        rest = rng.permutation([i for rows in by_class for i in rows]).tolist()
        n_validation = min(o.validation, len(rest) // 2) if hold_out else o.validation + o.max_test
        shown = {i: int(labels[i]) for i in demos}
        for i in rng.permutation(demos)[: o.wrong].tolist():
            shown[i] = (shown[i] + 1 + int(rng.integers(len(classes) - 1))) % len(classes)
        prompt = o.prompt
        if prompt is None:
            names = ("text", "mask_token")  # what looks like these in a demonstration is text
            rows = ((escape(data.texts[i], names), escape(classes[shown[i]], names)) for i in rng.permutation(demos))
            lines = [fill(o.format, {"text": a, "label": b}, ("text", "label"))[0] for a, b in rows]
            prompt = o.separator.join([*lines, o.format.partition("{label}")[0].rstrip(" ")])
        examples = [{"text": text, "label": int(label)} for text, label in zip(data.texts, labels)]
        test = rest[n_validation : n_validation + o.max_test]
        parts = [[examples[i] for i in rows] for rows in (search, rest[:n_validation], test)]
        return Instance(model_of(o.lm), prompt, tuple(f" {c}" for c in classes), *parts)


def searchable(data: TextData, lm: Any, o: PromptSearchOptions) -> TextData:
    """Return the data with texts that fit into any prompt that a seed may draw, and beside it as a query."""
    from anytask.lm.placeholders import fill

    if not hasattr(lm, "count_tokens"):
        return data
    answer = max((f" {c}" for c in data.classes), key=lm.count_tokens)
    form, shots = (o.format + o.separator, o.shots) if o.prompt is None else (o.prompt, 0)

    def shown(text: str) -> str:
        return "".join(fill(form, {"text": text, "label": answer}, ("text", "label", "mask_token")))

    tokens = np.array([lm.count_tokens(shown(text)) for text in data.texts])
    labels = np.array(data.labels)

    def most(room: int) -> int:
        """Longest that a text may be where the longest of each class are the demonstrations, and the next is asked."""

        def needed(length: int) -> int:
            cut = np.minimum(tokens, length)
            demos = [np.sort(cut[labels == c])[::-1] for c in data.classes]
            rest = np.concatenate([of_class[shots:] for of_class in demos])
            return sum(int(of_class[:shots].sum()) for of_class in demos) + int(rest.max(initial=0))

        longest = int(tokens.max())
        return longest if needed(longest) <= room else bisect(range(longest), room, key=needed) - 1

    return readable(data, lm, shown, most=most, bad_rows=o.bad_rows, reserve=lm.count_tokens(answer))
