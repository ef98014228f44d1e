"""The data of prompt-search: labelled texts or a simulated model, and what one seed's search sees of them."""

from __future__ import annotations

from bisect import bisect
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from anytask.core.rng import derive
from anytask.core.settings import text, whole
from anytask.datasets.text import TextData
from anytask.lm.prompting import Demonstration
from anytask.problems.language import TextOptions, readable
from anytask.problems.training import Builtin, LoadedData


class PromptSearchOptions(TextOptions):
    """What is searched, and on how many examples; the language model must give log-probabilities."""

    prompt: str | None = text(
        None,
        "the full prompt with the place {text} (none: description and demonstrations from the data)",
        optional=True,
    )
    shots: int = whole(1, "demonstrations per class in the default prompt", at_least=0)
    wrong: int = whole(0, "how many of them get a wrong label, to see whether the search removes them", at_least=0)
    search: int = whole(8, "search examples per class")
    validation: int = whole(200, "validation examples")
    max_test: int = whole(2000, "most test examples")
    budget: int = whole(1000, "prompts that a search may score")

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.prompt is not None and "{text}" not in self.prompt:
            raise ValueError(f"prompt must contain the place {{text}}, got {self.prompt!r}")


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
        from anytask.lm.placeholders import escape

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
            rows = [Demonstration(data.texts[i], classes[shown[i]], i) for i in rng.permutation(demos).tolist()]
            written = o.prompts.assemble(rows, "")
            (query,) = [span for span in written.spans if span.role == "query" and span.part == "input"]
            around = written.text[: query.start], written.text[query.end :]
            prompt = "{text}".join(escape(part, ("text", "mask_token")) for part in around)  # what looks alike is text
        examples = [{"text": text, "label": int(label)} for text, label in zip(data.texts, labels)]
        test = rest[n_validation : n_validation + o.max_test]
        parts = [[examples[i] for i in rows] for rows in (search, rest[:n_validation], test)]
        return Instance(o.model, prompt, tuple(map(o.prompts.completion, classes)), *parts)


def searchable(data: TextData, lm: Any, o: PromptSearchOptions) -> TextData:
    """Return the data with texts that fit into any prompt that a seed may draw, and beside it as a query."""
    from anytask.lm.placeholders import fill

    if not hasattr(lm, "count_tokens"):
        return data
    answer = max(map(o.prompts.completion, data.classes), key=lm.count_tokens)
    written, shots = replace(o.prompts, description=None), o.shots if o.prompt is None else 0

    def shown(text: str) -> str:
        if o.prompt is not None:
            return "".join(fill(o.prompt, {"text": text}, ("text", "mask_token")))
        return written.assemble([], text).text + answer + written.separator

    tokens = np.array([lm.count_tokens(shown(text)) for text in data.texts])
    labels = np.array(data.labels)

    def most(room: int) -> int:
        """Longest that a text may be where the longest of each class are the demonstrations, and the next is asked."""

        def needed(length: int) -> int:
            cut = np.minimum(tokens, length)
            demos = [np.sort(cut[labels == c])[::-1] for c in data.classes]
            rest = np.concatenate([of_class[shots:] for of_class in demos])
            return sum(int(of_class[:shots].sum()) for of_class in demos) + int(rest.max(initial=0))

        room -= lm.count_tokens(f"{o.description or ''}{written.separator}")
        longest = int(tokens.max())
        return longest if needed(longest) <= room else bisect(range(longest), room, key=needed) - 1

    return readable(data, lm, shown, most=most, bad_rows=o.bad_rows, reserve=lm.count_tokens(answer))
