"""What goes over the wire: requests, choices and echoed log-probabilities in OpenAI's protocol."""

from __future__ import annotations

from typing import Any, cast

from anytask.lm.endpoint.transport import Options, Unusable
from anytask.lm.protocol import ChatRequest, Choice, LMError, OptionScore, Usage, check_logprobs, shown
from anytask.lm.structured import schema_of

_FINISH = ("stop", "length", "tool_calls", "content_filter")


def body_of(request: ChatRequest, model: str, offers: Options) -> dict[str, Any]:
    """Return a request as OpenAI's protocol writes it, without what the server does not offer."""
    body: dict[str, Any] = {
        "model": model,
        "messages": list(request.messages),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_tokens": request.max_tokens,
        "n": request.n,
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if request.seed is not None and offers.seed:
        body["seed"] = request.seed
    if request.tools:
        body["tools"] = [
            tool if "function" in tool else {"type": "function", "function": tool} for tool in request.tools
        ]
        named = request.tool_choice not in ("auto", "none", "required")
        body["tool_choice"] = (
            {"type": "function", "function": {"name": request.tool_choice}} if named else request.tool_choice
        )
    if request.logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = request.top_logprobs
    if offers.json_schema and request.response_format is not None:
        if request.response_format == "json":
            body["response_format"] = {"type": "json_object"}
        else:
            assert isinstance(request.response_format, dict)
            schema = {"name": "reply", "schema": schema_of(request.response_format)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def choices_of(raw: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """Return the ``n`` choices of a reply."""
    choices = raw.get("choices")
    if not choices:
        raise Unusable("a reply without choices")
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Unusable(f"choices is {shown(choices)}, and a list of objects is wanted")
    if len(choices) != n:
        raise Unusable(f"{len(choices)} choices, and {n} were asked for")
    return choices


def choice_of(raw: dict[str, Any]) -> Choice:
    """Return one choice of a reply, or say why it holds no answer."""
    message = raw.get("message")
    finish = raw.get("finish_reason") or "stop"
    if not isinstance(message, dict) or not (message.get("content") or message.get("tool_calls")):
        if finish in ("length", "content_filter"):
            raise LMError(f"the reply is empty because of {finish}; raise max_tokens or change the prompt")
        raise Unusable("a reply without content")
    kept = {k: v for k, v in message.items() if k in ("role", "content", "tool_calls") and v is not None}
    calls = kept.get("tool_calls", [])
    if not isinstance(kept.get("content", ""), str) or not isinstance(calls, list):
        raise Unusable("a message whose content is no string, or whose tool_calls are no list")
    if not all(isinstance(call, dict) for call in calls):
        raise Unusable("a message with a tool call that is no object")
    return Choice({"role": "assistant"} | kept, cast(Any, finish if finish in _FINISH else "stop"), raw.get("logprobs"))


def usage_of(raw: dict[str, Any], prompt_tokens: int, completion_tokens: int) -> Usage:
    """Return what a reply says it used, or the estimates where it does not say."""
    given = raw.get("usage") or {}
    if given.get("prompt_tokens") is None or given.get("completion_tokens") is None:
        return Usage(prompt_tokens, completion_tokens, estimated=True)
    return Usage(given["prompt_tokens"], given["completion_tokens"])


def echoed(logprobs: dict[str, Any], prompt: str, option: str) -> OptionScore:
    """The option's part of an echoed text; the one token generated behind it is left out."""
    tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
    offsets = logprobs.get("text_offset")
    if not tokens or len(values) != len(tokens) or (offsets and len(offsets) != len(tokens)):
        raise ValueError("echoed tokens, log-probabilities and offsets must be of one length, and not empty")
    if not offsets:
        offsets, at = [], 0
        for token in tokens:
            offsets.append(at)
            at += len(token)
    end = len(prompt) + len(option)
    ends = [*offsets[1:], end]
    inside = [t for t, (a, b) in enumerate(zip(offsets, ends)) if a < end and min(b, end) > len(prompt)]
    chosen = [values[t] for t in inside]
    if not chosen or any(value is None for value in chosen):
        raise LMError("the server sent no log-probability for a token of the option (is the prompt empty?)")
    first = min(offsets[inside[0]], len(prompt))
    n_bytes = len((prompt + option)[first:].encode())
    check_logprobs(chosen, "the log-probability of a token")
    return OptionScore(float(sum(chosen)), len(chosen), n_bytes, tuple(map(float, chosen)))
