"""A simulated chat model with graded competence: it really solves what it reads, then errs by a published model."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sklearn.base import clone

from anytask.core.errors import instance_of
from anytask.core.progress import Progress
from anytask.lm.accounts import Accounts
from anytask.lm.base import LanguageModel
from anytask.lm.protocol import Capabilities, ChatReply, ChatRequest, Choice, Kind, Usage, check_text
from anytask.lm.sim.language import classify, compress, read_value
from anytask.lm.sim.reasoning import STEPS, Arithmetic, check, facts
from anytask.lm.sim.skill import Ability, Outcomes, uniform

__all__ = ["SimulatedChat"]

LEVELS = {"weak": -1.0, "medium": 0.0, "strong": 1.0}


class SimulatedChat(LanguageModel):
    """Answers chat requests without weights, for experiments about algorithms around language models.

    It sees the rendered messages alone, parses the task in them, solves it, and replaces the solution by a plausible
    wrong one with a probability that depends on what real models react to: number of operations, distractors, asked
    steps, tools, examples. Results are labeled ``sim``: they are evidence about an algorithm (its order among
    others, its calls, its ablations), never about real models' accuracy. Sweep the levels before concluding.

    Parameters
    ----------
    level : {"weak", "medium", "strong"}, default "medium"
        Shifts every logit of being right by -1, 0 or +1.
    seed : int, default 0
        Replies come from a digest of seed, messages and sample index, so they repeat exactly. Temperature 0 gives the
        likeliest reply, temperature 1 the published distribution.
    knowledge : mapping of (relation, entity) to entity, optional
        Facts of which a share is remembered.
    ability : Ability, optional
        Another error model; ``level`` then sets its shift.
    accounts : Accounts, optional

    Notes
    -----
    Skills: integer expressions and word problems (directly, step by step, with a calculator tool, checking or judging
    a proposed answer), chains of facts ("What is the R of the S of X?" over "The S of X is Y."), compressing by
    removing words, values of keys, sentiment and topics with examples. Anything else gets a polite refusal.

    Examples
    --------
    >>> lm = SimulatedChat("strong")
    >>> lm.chat(ChatRequest(({"role": "user", "content": "What is 17 + 5?"},))).text
    'The answer is 22.'
    >>> lm.error_model()["stepwise"]
    2.6
    """

    kind: Kind = "sim"
    context_length = 10**9
    capabilities = Capabilities(tools=True, seed=True, n=True)

    def __init__(
        self,
        level: Literal["weak", "medium", "strong"] = "medium",
        *,
        seed: int = 0,
        knowledge: Mapping[tuple[str, str], str] | None = None,
        ability: Ability | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        if not isinstance(level, str) or level not in LEVELS:
            raise ValueError(f"level is one of {', '.join(LEVELS)}, and {level!r} was given")
        instance_of("seed", int, optional=False)(seed)
        instance_of("knowledge", Mapping)(knowledge)
        instance_of("ability", Ability)(ability)
        instance_of("accounts", Accounts)(accounts)
        self.level, self.seed, self.name = level, seed, f"sim-{level}"
        self.ability = clone(ability or Ability()).set_params(shift=LEVELS[level])
        self.knowledge = dict(knowledge or {})
        self.usage = accounts if accounts is not None else Accounts()

    def __repr__(self) -> str:
        return f"SimulatedChat({self.level!r}, seed={self.seed})"

    def error_model(self) -> dict[str, Any]:
        """The parameters of the error model, to be reported with every result."""
        return {"level": self.level, "seed": self.seed} | self.ability.get_params()

    def count_tokens(self, text: str) -> int:
        """Words and punctuation marks."""
        return len(re.findall(r"\w+|[^\w\s]", check_text(text, "text")))

    def chat(self, request: ChatRequest) -> ChatReply:
        """Answer one request."""
        instance_of("request", ChatRequest, optional=False)(request)
        began = time.perf_counter()
        rendered = [(m.get("role"), _text(m.get("content")), m.get("tool_calls")) for m in request.messages]
        key = json.dumps([rendered, request.tools], sort_keys=True, default=str)
        outcomes = self._outcomes(request, rendered)
        messages = []
        for sample in range(request.n):
            draw = uniform(self.seed, request.seed, key, sample)
            messages.append(_message(pick(outcomes, request.temperature, draw), sample))
        prompt = sum(self.count_tokens(text) for _, text, _ in rendered)
        completion = sum(self.count_tokens(str(m.get("content") or m.get("tool_calls"))) for m in messages)
        seconds = time.perf_counter() - began
        self.usage.record(
            request.tag or "chat", calls=1, prompt_tokens=prompt, completion_tokens=completion, seconds=seconds
        )
        choices = tuple(Choice(m, "tool_calls" if m.get("tool_calls") else "stop") for m in messages)
        return ChatReply(choices, Usage(prompt, completion, estimated=True), self.name, self.kind, seconds)

    def _chat(self, requests: list[ChatRequest], most: int, tell: Progress) -> Sequence[ChatReply]:
        return [self.chat(request) for request in requests]

    def _outcomes(self, request: ChatRequest, rendered: list[tuple[Any, str, Any]]) -> Outcomes:
        everything = "\n".join(text for role, text, _ in rendered if role != "tool")
        asked = next((text for role, text, _ in reversed(rendered) if role == "user"), everything)
        if rendered[-1][0] == "tool":
            return [(1.0, f"The answer is {rendered[-1][1].strip()}.")]
        verdict = re.search(
            r"\b(judge|grade|evaluate whether)\b|\b(check|verify|is (?:this|the) .*answer correct)\b", asked, re.I
        )
        if verdict:
            judged = check(everything, self.ability, judge=verdict.group(1) is not None)
            if judged is not None:
                return judged
        found = (
            compress(asked, self.ability, self.seed)
            or read_value(everything, self.ability)
            or facts(everything, self.ability, self.knowledge, self.seed)
            or classify(everything, self.ability)
        )
        if found:
            return found
        task = Arithmetic.parse(asked)
        if task is None:
            return [(1.0, "I'm sorry, but I can't help with that request.")]
        names = [(tool.get("function") or tool).get("name", "") for tool in request.tools]
        calculator = next((name for name in names if "calc" in name.lower()), None)
        if calculator and request.tool_choice != "none":
            slip = f"{task.expression}+1"
            right, wrong = (f"{_CALL}{json.dumps([calculator, e])}" for e in (task.expression, slip))
            return [(self.ability.tool, right), (1 - self.ability.tool, wrong)]
        return task.outcomes(self.ability, stepwise=STEPS.search(everything) is not None)


_CALL = "\x00call"


def pick(outcomes: Outcomes, temperature: float, draw: float) -> str:
    """The likeliest reply at temperature 0, else a sample from probabilities^(1 / temperature)."""
    merged: dict[str, float] = {}
    for p, text in outcomes:
        merged[text] = merged.get(text, 0.0) + p
    if temperature == 0:
        return max(merged, key=lambda text: merged[text])
    top = max(merged.values())
    weights = {text: (p / top) ** (1 / temperature) if p > 0 else 0.0 for text, p in merged.items()}
    at = draw * sum(weights.values())
    for text, weight in weights.items():
        at -= weight
        if at < 0:
            return text
    return max(merged, key=lambda text: merged[text])


def _message(text: str, sample: int) -> dict[str, Any]:
    if not text.startswith(_CALL):
        return {"role": "assistant", "content": text}
    name, expression = json.loads(text.removeprefix(_CALL))
    function = {"name": name, "arguments": json.dumps({"expression": expression})}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": f"call_{sample}", "type": "function", "function": function}],
    }


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")
