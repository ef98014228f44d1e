"""What the problems about texts share: their options, the model by its name, and texts that it can read."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from anytask.core import settings
from anytask.core.errors import BadData
from anytask.core.memory import give_back
from anytask.datasets.text import BAD_ROWS, TextData
from anytask.lm.load import described, settled
from anytask.lm.prompting import PromptTemplate
from anytask.lm.protocol import LMError, MissingCapability, check_lm
from anytask.problems.options import Options


def _check_lm(lm: Any) -> None:
    named = isinstance(lm, (str, Path)) and str(lm) != ""
    if lm is not None and not named:
        check_lm(lm)


class TextOptions(Options):
    """What all problems about texts ask: how rows are read, which model is asked, and how its prompts are written."""

    read_only: ClassVar[tuple[str, ...]] = ("text", "target", "bad_rows")

    text: str = settings.text("text", "name of the column or key that holds the input")
    target: str = settings.text("label", "name of the column or key that holds the label or the answer")
    bad_rows: str = settings.choice("refuse", BAD_ROWS, "rows that cannot be used: an error, left out, or cut")
    lm: Any = settings.free(
        None, "language model: a folder, a Hugging Face name, a URL, tiny:NAME or sim:LEVEL", _check_lm
    )
    chat_template: bool | None = settings.flag(
        None, "ask an instruct model in its chat template, or as plain text (none: as lm says)", optional=True
    )
    description: str | None = settings.text(None, "sentence that opens every prompt", optional=True)
    template: str = settings.text(
        "Input: {input}\nLabel: {output}", "how an example is written, with the places {input} and {output}"
    )

    def _check_settings(self) -> None:
        self.prompts  # noqa: B018 - what it refuses is refused now

    @property
    def prompts(self) -> PromptTemplate:
        """How examples and queries are written."""
        try:
            return PromptTemplate(self.template, description=self.description)
        except ValueError as error:
            raise ValueError(str(error).replace("demo_format", "template")) from None

    @property
    def lm_name(self) -> str | None:
        """Kind and name of the language model, with what its answers depend on."""
        if self.lm is None or isinstance(self.lm, (str, Path)):
            return None if self.lm is None else settled(str(self.lm))
        return f"{self.lm.kind}:{self.lm.name}"

    def of_a_run(self) -> dict[str, Any]:
        """Return the values that change what a run sees, the language model by its name."""
        return super().of_a_run() | {"lm": self.lm_name}

    @property
    def seeds(self) -> int:
        """With how many seeds entrants run where nobody says it: 3 where a real model answers, which takes minutes."""
        return 3 if self.is_real else 5

    @property
    def is_real(self) -> bool:
        """Whether a real language model answers."""
        return self.lm is not None and self.model.kind in ("local", "http")

    @property
    def foretells(self) -> bool:
        """Whether a real model answers that says what questions will cost."""
        return self.is_real and hasattr(self.model, "estimate")

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of a real model before it is asked: the settings that time and memory depend on."""
        return (f"{self.model.settings}.",) if self.is_real and hasattr(self.model, "settings") else ()

    def release(self) -> None:
        """Free the language models that were read by their names; whoever asks for one reads it anew."""
        _read.cache_clear()
        give_back()

    @property
    def model(self) -> Any:
        """The language model, None if none was named."""
        if self.lm is None or self.chat_template is None:
            return self.lm and model_of(self.lm)
        spec = str(self.lm)
        if not isinstance(self.lm, (str, Path)):
            raise BadData(f"chat_template is set where {self.lm_name} is made: it is an object already")
        try:
            return model_of(described(spec, chat_template=self.chat_template))
        except (TypeError, MissingCapability) as error:
            raise BadData(f"{spec} has no chat template that could be set: {error}") from error


def model_of(lm: Any) -> Any:
    """Return a language model given as an object or by its name; a process keeps the last two that it read."""
    return _read(str(lm)) if isinstance(lm, (str, Path)) else lm


@lru_cache(maxsize=2)
def _read(spec: str) -> Any:
    from anytask.lm import load_lm

    model = load_lm(spec)
    try:
        model.capabilities  # noqa: B018 - a server is asked what it offers
    except LMError as error:
        raise BadData(f"{spec}: {error}") from None
    return model


def readable(
    data: Any,
    lm: Any,
    question: Callable[[str], str],
    *,
    bad_rows: str,
    reserve: int = 1,
    budget: int | None = None,
    most: Callable[[int], int] | None = None,
) -> Any:
    """Return the data with texts about which the model can be asked, see :func:`anytask.datasets.text.fitting_rows`.

    Parameters
    ----------
    data : TextData or CompressionTexts
    lm : anytask.lm.ScoringModel or ChatModel
    question : callable str -> str
        Writes the prompt about a text.
    bad_rows : {"refuse", "skip", "cut"}
    reserve : int
        Tokens that the answer needs.
    budget : int, optional
        Most tokens of a prompt with its answer, at most the model's context.
    most : callable int -> int, optional
        Makes of these tokens those that one text may have.
    """
    limits = [n for n in (budget, getattr(lm, "context_length", None)) if n is not None]
    if not limits or not hasattr(lm, "count_tokens"):
        return data
    room = min(limits)
    left = room - reserve
    left = left if most is None else most(left)
    if (alone := lm.count_tokens(question(""))) > left:
        needed = f"a prompt takes {alone} tokens without its text, and {reserve} more for its answer"
        raise BadData(f"{data.name}: {needed}: that is more than {room} allow")
    return data.fitting(
        lambda text: lm.count_tokens(question(text)) <= left, f"a prompt of {room} tokens with its answer", bad_rows
    )


def answerable(
    data: TextData, lm: Any, template: PromptTemplate, *, budget: int | None, written: bool, bad_rows: str
) -> TextData:
    """Return the data with texts about which the model can be asked by a template, see :func:`readable`.

    ``written`` says whether answers are written (in at most 32 tokens) and not chosen among the labels.
    """
    outputs = () if written else {*data.labels, *(one for row in data.choices or () for one in row)}
    count = getattr(lm, "count_tokens", len)
    longest = max((count(template.completion(one)) for one in outputs), default=31) + 1

    def question(text: str) -> str:
        return template.assemble([], text).text

    return readable(data, lm, question, bad_rows=bad_rows, reserve=longest, budget=budget)
