"""The generated-article test: can readers tell a model's news articles from people's?

The library writes the articles and does the statistics; the readers are yours, as a callable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from anytask.core.rng import derive
from anytask.incontext.contamination import Interval, mean_interval
from anytask.lm.prompting import Demonstration, PromptTemplate
from anytask.lm.protocol import require

ARTICLE_TEMPLATE = PromptTemplate("{input}\nArticle: {output}", separator="\n\n")
SCALE = (
    "very likely written by a human",
    "more likely written by a human",
    "I don't know",
    "more likely written by a machine",
    "very likely written by a machine",
)
"""The five answers, 1 to 5."""


@dataclass(frozen=True)
class Article:
    """A news article; ``machine`` says who wrote it."""

    title: str
    subtitle: str
    text: str
    machine: bool = False

    @property
    def heading(self) -> str:
        return f"Title: {self.title}\nSubtitle: {self.subtitle}"


def write_articles(
    lm: Any,
    headings: Sequence[tuple[str, str]],
    examples: Sequence[Article],
    *,
    k: int = 3,
    top_p: float = 0.9,
    temperature: float = 1.0,
    max_tokens: int = 300,
    stop: Sequence[str] = ("\n\nTitle:",),
    seed: int = 0,
) -> list[Article]:
    """Sample one article for each (title, subtitle), with ``k`` of the example articles in the context.

    Parameters
    ----------
    lm : ScoringModel
        A model that generates.
    headings : sequence of (title, subtitle)
    examples : sequence of Article
        Articles by people; each heading gets its own draw of ``k``, dropped from the far end if they do not fit.
    k : int, default 3
    top_p : float, default 0.9
        Nucleus of the sampling.
    temperature, max_tokens, stop, seed
        Of the sampling.
    """
    require(lm, "completions", method="write_articles")
    if not 0 <= k <= len(examples):
        raise ValueError(f"k={k} articles are wanted in the context and {len(examples)} are given")
    out = []
    for title, subtitle in headings:
        rng = np.random.default_rng(derive(seed, "article", title, subtitle))
        shown = [examples[int(i)] for i in rng.permutation(len(examples))[:k]]
        demos = [Demonstration(a.heading, a.text) for a in shown]
        heading = Article(title, subtitle, "").heading
        prompt = ARTICLE_TEMPLATE.assemble(
            demos, heading, count_tokens=lm.count_tokens, budget=lm.context_length, reserve=max_tokens
        )
        (text,) = lm.generate(
            [prompt.text], max_tokens=max_tokens, stop=stop, temperature=temperature, top_p=top_p,
            seed=derive(seed, "sample", title, subtitle), tag="article",
        )  # fmt: skip
        out.append(Article(title, subtitle, text.strip(), machine=True))
    return out


@dataclass(frozen=True)
class ArticleTest:
    """Outcome of the test.

    Attributes
    ----------
    accuracy, control_accuracy : Interval
        Raters' mean accuracy with 95 % intervals over raters, on the model's and on the control's articles.
    t, p : float
        Two-sample t-test of the raters' accuracies against the control (Welch's, unequal variances), two-sided.
    undecided, control_undecided : float
        Share of "I don't know" answers.
    """

    accuracy: Interval
    control_accuracy: Interval
    t: float
    p: float
    undecided: float
    control_undecided: float


Rater = Callable[[Article], int]


def article_test(
    human: Sequence[Article],
    model: Sequence[Article],
    control: Sequence[Article],
    raters: Sequence[Rater],
    *,
    seed: int = 0,
) -> ArticleTest:
    """Show each rater human and machine articles, half of the raters the model's and half the control's.

    Parameters
    ----------
    human, model, control : sequences of Article
        By people, by the model under test, and by a deliberately bad one.
    raters : sequence of callables Article -> 1..5
        Answers on :data:`SCALE`. What a rater gets has ``machine`` set to False and tells nothing. At least four.
    seed : int, default 0
        Assigns raters to the two groups and orders the articles.

    Notes
    -----
    An answer is right when it lies on the right side of the scale; "I don't know" is not right.

    Examples
    --------
    >>> people = [Article("t", "s", "a long day in the city")] * 5
    >>> good = [Article("t", "s", "a long day in the town", machine=True)] * 5
    >>> bad = [Article("t", "s", "the the the the", machine=True)] * 5
    >>> raters = [lambda a: 5 if "the the" in a.text else 1] * 8
    >>> outcome = article_test(people, good, bad, raters)
    >>> outcome.accuracy.mean, outcome.control_accuracy.mean
    (0.5, 1.0)
    """
    for name, articles in (("human", human), ("model", model), ("control", control)):
        if not articles:
            raise ValueError(f"the test needs articles of all three kinds, and {name} is empty")
    if len(raters) < 4:
        raise ValueError(f"two groups of at least two raters are needed for a t-test, got {len(raters)} raters")
    rng = np.random.default_rng(derive(seed, "article test"))
    groups: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])  # each rater's shares of right and undecided answers
    for place, i in enumerate(rng.permutation(len(raters)).tolist()):
        machines = (model, control)[place % 2]
        shown = [(a, False) for a in human] + [(a, True) for a in machines]
        answers = []
        for j in rng.permutation(len(shown)):
            article, machine = shown[int(j)]
            answer = raters[i](Article(article.title, article.subtitle, article.text))
            if answer not in (1, 2, 3, 4, 5):
                raise ValueError(f"rater {i} answered {answer!r}; an answer is a whole number from 1 to 5")
            answers.append((answer > 3 if machine else answer < 3, answer == 3))
        groups[place % 2].append(np.mean(answers, axis=0))
    (right, undecided), (control_right, control_undecided) = (np.transpose(group) for group in groups)
    if np.ptp(right) == 0 and np.ptp(control_right) == 0:  # no spread at all: the statistic's limit
        sign = np.sign(right[0] - control_right[0])
        t, p = (float(sign * np.inf), 0.0) if sign else (0.0, 1.0)
    else:
        t, p = map(float, stats.ttest_ind(right, control_right, equal_var=False))
    intervals = mean_interval(right), mean_interval(control_right)
    return ArticleTest(*intervals, t, p, float(undecided.mean()), float(control_undecided.mean()))
