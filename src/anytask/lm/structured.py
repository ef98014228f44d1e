"""Replies in a form asked for: JSON, or JSON that fits a schema."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from anytask.lm.protocol import ChatRequest


def parse_reply(text: str, response_format: str | dict[str, Any] | None) -> Any:
    """Read a reply as JSON and check it.

    Parameters
    ----------
    text : str
        A fence of back-ticks around the JSON is allowed.
    response_format : "json", JSON schema, or None
        A schema may come bare or in OpenAI's wrapping (``{"type": "json_schema", "json_schema": {"schema": ...}}``).

    Raises
    ------
    ValueError
        Saying where the text is not JSON, or which part does not fit the schema.

    Examples
    --------
    >>> parse_reply('{"answer": 4}', {"type": "object", "required": ["answer"]})
    {'answer': 4}
    >>> parse_reply('{"anwser": 4}', {"type": "object", "required": ["answer"]})
    Traceback (most recent call last):
        ...
    ValueError: the reply does not fit the schema at the top: 'answer' is a required property
    """
    if response_format is None:
        return text
    body = text.strip()
    if body.startswith("```") and body.endswith("```"):
        body = body.removeprefix("```").removeprefix("json").removesuffix("```")
    try:
        value = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the reply is not JSON: {error}") from error
    if isinstance(response_format, dict):
        try:
            from jsonschema import Draft202012Validator
        except ImportError as error:
            raise ImportError("JSON schemas need jsonschema: pip install 'anytask[text]'") from error
        problem = next(iter(Draft202012Validator(schema_of(response_format)).iter_errors(value)), None)
        if problem is not None:
            place = "/".join(map(str, problem.absolute_path)) or "the top"
            raise ValueError(f"the reply does not fit the schema at {place}: {problem.message}")
    return value


def misfit(text: str, response_format: str | dict[str, Any] | None) -> str | None:
    """Return what keeps a reply from the form asked for, None: nothing."""
    try:
        parse_reply(text, response_format)
    except ValueError as problem:
        return str(problem)
    return None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def schema_of(response_format: dict[str, Any]) -> dict[str, Any]:
    """The bare JSON schema of a response format."""
    if response_format.get("type") == "json_schema" and "json_schema" in response_format:
        return dict(response_format["json_schema"].get("schema", {}))
    return response_format


def repair_request(request: ChatRequest, text: str, problem: str) -> ChatRequest:
    """The same request with the unfit reply and what is wrong with it, asking for a corrected one."""
    return replace(
        request,
        n=1,
        messages=(
            *request.messages,
            {"role": "assistant", "content": text},
            {
                "role": "user",
                "content": f"That reply cannot be used: {problem}. "
                "Answer again with the corrected JSON and nothing else.",
            },
        ),
    )
