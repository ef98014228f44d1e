"""Answers in words, from whatever a model has: texts that go on from prompts, and choices where it scores none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from anytask.core.progress import Progress
from anytask.core.settings import taken
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
        See :meth:`anytask.lm.base.LanguageModel.generate`.
    **how
        More for ``generate``, such as ``beam_width``; chats are greedy.

    Raises
    ------
    MissingCapability
        If the model neither continues text nor chats.
    """
    if lm.capabilities.completions:
        told = taken(lm.generate, progress=progress)
        return list(lm.generate(prompts, max_tokens=max_tokens, stop=stop, tag=tag, **how, **told))
    require(lm, "chat", method=tag)
    asked = [_message(prompt, max_tokens=max_tokens, stop=tuple(stop), tag=tag) for prompt in prompts]
    return [reply.text for reply in lm.chat_many(asked, **taken(lm.chat_many, progress=progress))]


def choose(
    lm: Any,
    prompts: Sequence[str],
    options: Sequence[Sequence[str]],
    *,
    tag: str = "choose",
    progress: Progress | None = None,
) -> list[str]:
    """Let a model that gives no log-probabilities write which option it takes.

    A model that continues text goes on from the prompt, one that only chats is told the options. Where that names none
    of them, the model is told once more, if it chats.

    Parameters
    ----------
    lm : ScoringModel or ChatModel
    prompts : sequence of str
    options : sequence of sequence of str
        Of each prompt.
    tag, progress
        See :meth:`anytask.lm.base.LanguageModel.generate`.

    Returns
    -------
    list of str
        An option each, or what the model wrote where that names none of them.
    """
    if len(prompts) != len(options):
        raise ValueError(f"{len(prompts)} prompts and {len(options)} lists of options were given")
    rows = [[option.strip() for option in row] for row in options]
    room = max((len(option.encode()) for row in rows for option in row), default=0) // 2 + 12
    continues, chats = lm.capabilities.completions, lm.capabilities.chat

    def ask(places: Sequence[int], said: Sequence[str] = (), **more: Any) -> list[str]:
        requests = []
        for i, before in zip(places, said or [""] * len(places)):
            text = one_of(prompts[i], rows[i])
            turns = ({"role": "assistant", "content": before}, {"role": "user", "content": text}) if before else ()
            requests.append(_message(text, *turns, max_tokens=room, tag=tag, **_schema(lm, rows[i])))
        return [_answer(reply.text) for reply in lm.chat_many(requests, **taken(lm.chat_many, **more))]

    if continues:
        texts = write(lm, prompts, max_tokens=room, stop=("\n",), tag=tag, progress=progress)
    else:
        require(lm, "chat", method=tag)
        texts = ask(range(len(prompts)), progress=progress)
    found = [named(text, row) for text, row in zip(texts, rows)]
    missing = [i for i, option in enumerate(found) if option is None]
    if missing and chats:
        again = ask(missing, () if continues else [texts[i] or "?" for i in missing])
        for i, text in zip(missing, again):
            found[i] = named(text, rows[i])
    return [text.strip() if option is None else option for option, text in zip(found, texts)]


def one_of(prompt: str, options: Sequence[str]) -> str:
    """Return a prompt that tells a model that only chats what it may answer."""
    return f"{prompt}\n\n(Answer with one of these and nothing else: {', '.join(options)}.)"


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


def _schema(lm: Any, options: Sequence[str]) -> dict[str, Any]:
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
