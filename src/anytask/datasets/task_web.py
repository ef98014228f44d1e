"""A synthetic "web" whose pages belong to hidden tables, and questions that only a page's own lines answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np


@dataclass
class TaskWeb:
    """A synthetic "web": every document belongs to one of ``n_tasks`` hidden tables from symbols to symbols.

    A document is an instruction token (which names its table) or, with probability one half, the "no instruction"
    token, and then ``lines`` lines ``x y SEP``. A language model of this web finds the table of a page without an
    instruction only by reading the lines above.

    Parameters
    ----------
    n_tasks : int, default 64
        Number of hidden tables.
    n_symbols : int, default 8
        Input symbols, and output symbols.
    lines : int, default 16
        Lines of a document.
    seed : int, default 0
        Fixes the tables.

    Attributes
    ----------
    tables : ndarray of int, shape (n_tasks, n_symbols)
        ``tables[t, x]`` is the output symbol of input symbol ``x`` in task ``t``.
    n_tokens : int
        Size of the vocabulary: inputs, outputs, instructions, "no instruction", separator.

    Examples
    --------
    >>> web = TaskWeb(n_tasks=4, n_symbols=3, lines=2, seed=0)
    >>> ids, task = web.documents(5, np.random.default_rng(0))
    >>> ids.shape, web.text(ids[0][:4]).split()[1:]  # an input, its output, the separator
    ((5, 7), ['x0', 'y2', ';'])
    """

    n_tasks: int = 64
    n_symbols: int = 8
    lines: int = 16
    seed: int = 0
    tables: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.tables = rng.integers(self.n_symbols, size=(self.n_tasks, self.n_symbols))

    @property
    def tokens(self) -> list[str]:
        """The vocabulary in the order of its ids."""
        s = range(self.n_symbols)
        return [*(f"x{i}" for i in s), *(f"y{i}" for i in s), *(f"task{t}" for t in range(self.n_tasks)), "task?", ";"]

    @property
    def n_tokens(self) -> int:
        return 2 * self.n_symbols + self.n_tasks + 2

    def documents(
        self, n: int, rng: np.random.Generator, *, p_instruction: float = 0.5
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of ``n`` fresh documents, shape (n, 1 + 3 * lines), and the task of each, shape (n,)."""
        s, t = self.n_symbols, self.n_tasks
        task = rng.integers(t, size=n)
        x = rng.integers(s, size=(n, self.lines))
        y = self.tables[task[:, None], x]
        head = np.where(rng.random(n) < p_instruction, 2 * s + task, 2 * s + t)
        body = np.stack([x, s + y, np.full_like(x, 2 * s + t + 1)], axis=-1).reshape(n, -1)
        return np.concatenate([head[:, None], body], axis=1), task

    def text(self, ids: Sequence[int]) -> str:
        """Write ids as text, tokens set apart by one space."""
        tokens = self.tokens
        return " ".join(tokens[int(i)] for i in ids)

    def stream(self, seed: int) -> Iterator[list[int]]:
        """Yield the ids of fresh documents without end."""
        rng = np.random.default_rng(seed)
        while True:
            yield from self.documents(64, rng)[0].tolist()


def web_tokenizer(web: TaskWeb) -> Any:
    """One token per symbol of the web, and an end-of-text token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*web.tokens, "[EOT]", "[UNK]"]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[EOT]", pad_token="[EOT]", unk_token="[UNK]")


@dataclass(frozen=True)
class Questions:
    """Fresh documents, each with its last output left to be answered.

    Attributes
    ----------
    instructions : list of n str
        The token that names each document's table.
    inputs, outputs : list of n lists of str
        The document's lines but the last.
    queries : list of n str
        The last line's input.
    answers : ndarray of shape (n,)
        Place of the right output in ``options``.
    options : list of str
        All output symbols.

    Examples
    --------
    >>> questions = Questions.draw(TaskWeb(n_tasks=4, n_symbols=3, lines=3, seed=0), 2, seed=0)
    >>> len(questions.inputs[0]), questions.options
    (2, ['y0', 'y1', 'y2'])
    """

    instructions: list[str]
    inputs: list[list[str]]
    outputs: list[list[str]]
    queries: list[str]
    answers: np.ndarray
    options: list[str]

    @classmethod
    def draw(cls, web: TaskWeb, n: int, seed: int, *, shuffled: bool = False, novel: bool = False) -> Self:
        """Draw ``n`` documents.

        ``shuffled`` gives their lines the outputs of other documents' lines; with ``novel`` no line has the query's
        input, so that nobody answers by looking it up.
        """
        rng = np.random.default_rng(seed)
        task = rng.integers(web.n_tasks, size=n)
        x = rng.integers(web.n_symbols, size=(n, web.lines))
        if novel:
            x[:, :-1] = (x[:, -1:] + rng.integers(1, web.n_symbols, size=(n, web.lines - 1))) % web.n_symbols
        y = web.tables[task[:, None], x]
        shown = rng.permutation(y[:, :-1].ravel()).reshape(n, -1) if shuffled else y[:, :-1]
        options = [f"y{j}" for j in range(web.n_symbols)]
        return cls(
            [f"task{t}" for t in task],
            [[f"x{j}" for j in row] for row in x[:, :-1]],
            [[options[j] for j in row] for row in shown],
            [f"x{j}" for j in x[:, -1]],
            y[:, -1],
            options,
        )
