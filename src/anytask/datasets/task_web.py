"""Questions on the pages of a :class:`~anytask.lm.corpora.TaskWeb`, for models that have to read the page's table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from anytask.lm.corpora import TaskWeb


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
    def draw(cls, web: TaskWeb, n: int, seed: int, *, shuffled: bool = False) -> Self:
        """Draw ``n`` documents; ``shuffled`` gives their lines the outputs of other documents' lines."""
        rng = np.random.default_rng(seed)
        task = rng.integers(web.n_tasks, size=n)
        x = rng.integers(web.n_symbols, size=(n, web.lines))
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
