"""Answers in words, from whatever a model has: texts that go on from prompts, and choices where it scores none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from anytask.core.progress import Progress
from anytask.lm.protocol import ChatRequest, require
from anytask.lm.structured import parse_reply


def write(
    lm: Any,
    prompts: Sequence[str],
    *,
    max_tokens: int = 32,
    stop: Sequence[str] = (),
    tag: str = "write",
    progress: Progress | None = None,
    **how: Any,
) -> list[str]:
    """Continue each prompt, as text where the model does that, and as the answer to a chat message where it only chats.

    Parameters
    ----------
    lm : ScoringModel or ChatModel
    prompts : sequence of str
    max_tokens, stop, tag, progress
        See :meth:`ScoringModel.generate`.
    **how
        More for ``generate``, such as ``beam_width``; chats are greedy.

    Raises
    ------
    MissingCapability
        If the model neither continues text nor chats.
    """
    told: dict[str, Any] = {} if progress is None else {"progress": progress}
    if lm.capabilities.completions:
        return list(lm.generate(prompts, max_tokens=max_tokens, stop=stop, tag=tag, **how, **told))
    require(lm, "chat", method=tag)
    asked = [_message(prompt, max_tokens=max_tokens, stop=tuple(stop), tag=tag) for prompt in prompts]
    return [reply.text for reply in lm.chat_many(asked, **told)]


def choose(
    lm: Any,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    tag: str = "choose",
    progress: Progress | None = None,
) -> list[str]:
    """Let a model that gives no log-probabilities write which option it takes; a reply that names none is asked again.

    Parameters
    ----------
    lm : ScoringModel or ChatModel
    prompts : sequence of str
    options : sequence of sequence of str
        Of each prompt.
    tag, progress
        See :meth:`ScoringModel.generate`.

    Returns
    -------
    list of str
        An option each, or what the model wrote where that names none of them twice.
    """
    if len(prompts) != len(options):
        raise ValueError(f"{len(prompts)} prompts and {len(options)} lists of options were given")
    rows = [[option.strip() for option in row] for row in options]
    room = max((len(option.encode()) for row in rows for option in row), default=0) // 2 + 12
    asked = [f"{prompt}\n\n(Answer with one of: {', '.join(row)}.)" for prompt, row in zip(prompts, rows)]
    told: dict[str, Any] = {} if progress is None else {"progress": progress}
    if not lm.capabilities.chat:
        texts = write(lm, prompts, max_tokens=room, stop=("\n",), tag=tag, **told)
        return [named(text, row) or text.strip() for text, row in zip(texts, rows)]
    requests = [_message(text, max_tokens=room, tag=tag, **_one_of(lm, row)) for text, row in zip(asked, rows)]
    texts = [_answer(reply.text) for reply in lm.chat_many(requests, **told)]
    found = [named(text, row) for text, row in zip(texts, rows)]
    missing = [i for i, option in enumerate(found) if option is None]
    again = [
        _message(
            asked[i],
            {"role": "assistant", "content": texts[i]},
            {"role": "user", "content": f"Answer with exactly one of these and nothing else: {', '.join(rows[i])}."},
            max_tokens=room,
            tag=tag,
        )
        for i in missing
    ]
    for i, reply in zip(missing, lm.chat_many(again) if again else []):
        found[i] = named(reply.text, rows[i])
    return [text if option is None else option for option, text in zip(found, texts)]


def named(text: str, options: Sequence[str]) -> str | None:
    """Return the option that a text is, begins with, or alone mentions; None if there is no such option.

    Examples
    --------
    >>> named("Positive.", ["positive", "negative"]), named("It is a refund, clearly", ["refund", "card lost"])
    ('positive', 'refund')
    >>> named("positive or negative", ["good", "bad"]) is None
    True
    """
    said = _plain(text)
    for option in options:
        if said == _plain(option):
            return option
    begun = [option for option in options if re.match(rf"{re.escape(_plain(option))}(?!\w)", said)]
    if begun:
        return max(begun, key=len)
    mentioned = [option for option in options if re.search(rf"(?<!\w){re.escape(_plain(option))}(?!\w)", said)]
    return mentioned[0] if len(mentioned) == 1 else None


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,:;!?\"'`*")


def _message(text: str, *more: dict[str, Any], **how: Any) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text}, *more), **how)


def _one_of(lm: Any, options: Sequence[str]) -> dict[str, Any]:
    if not lm.capabilities.json_schema:
        return {}
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": list(options)}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    return {"response_format": schema}


def _answer(text: str) -> str:
    try:
        return str(parse_reply(text, "json")["answer"])
    except (ValueError, TypeError, KeyError):
        return text
