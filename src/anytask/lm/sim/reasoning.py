"""Arithmetic, word problems, checking and judging, and chains of facts."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Mapping

from anytask.lm.sim.skill import Ability, Outcomes, logistic, spread, uniform

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
_EXPRESSION = re.compile(r"\(*-?\d+(?:\s*[-+*]\s*\(*-?\d+\)*)+")
_GAINS = "buys|buy|gets|finds|receives|earns|collects|picks|wins|bakes|adds"
_LOSSES = "gives|loses|eats|sells|spends|drops|uses|breaks|throws"
_FACT = re.compile(r"\bThe ([a-z][\w-]*) of ([A-Z][\w-]*) is ([A-Z][\w-]*)")
_CHAIN = re.compile(r"(?:What|Who) is ((?:the [a-z][\w-]* of )+)([A-Z][\w-]*)\s*\?")
STEPS = re.compile(r"step by step|step-by-step|show your (?:steps|work)|think through", re.IGNORECASE)


def evaluate(text: str) -> int | None:
    """Value of an integer expression with ``+``, ``-`` and ``*``, or None."""
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _value(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return int(_OPERATORS[type(node.op)](_value(node.left), _value(node.right)))
    raise ValueError("not an integer expression")


class Arithmetic:
    """Integer expressions, and word problems about what somebody has."""

    def __init__(self, expression: str, answer: int, n: int, d: float, last: int) -> None:
        self.expression, self.answer, self.n, self.d, self.last = expression, answer, n, d, last

    @classmethod
    def parse(cls, text: str) -> Arithmetic | None:
        """The last expression in ``text``, or its word problem."""
        asked = re.search(r"How many ([a-z]+) does ([A-Z][a-z]+) have", text)
        if asked:
            return cls._parse_words(text[: asked.start()], asked.group(1), asked.group(2))
        found = [m.group() for m in _EXPRESSION.finditer(text)]
        for expression in reversed(found):
            extra = expression.count("(") - expression.count(")")
            cleaned = expression[extra:] if extra > 0 else expression
            answer = evaluate(cleaned)
            if answer is not None:
                n = len(re.findall(r"(?<=[\d)])\s*[-+*]", cleaned))
                sentences = [s for s in re.split(r"[.!?\n]+\s*", text) if re.search(r"\d", s) and cleaned not in s]
                d = sum(_EXPRESSION.search(s) is None for s in sentences) / 4
                last = int(re.findall(r"\d+", cleaned)[-1])
                return cls(cleaned, answer, n, d, last)
        return None

    @classmethod
    def _parse_words(cls, text: str, thing: str, name: str) -> Arithmetic | None:
        expression, n, irrelevant, last, subject = "", 0, 0, 1, ""
        for sentence in re.split(r"(?<=[.!?])\s+", text.strip()):
            words = sentence.split()
            if not words:
                continue
            if words[0] not in ("He", "She", "They", "Then"):
                subject = words[0]
            number = re.search(rf"(\d+)(?: more)?(?: {thing})?\b", sentence)
            other = re.search(r"\d+(?: more)? ([a-z]+)", sentence)
            about = other is None or other.group(1) in (thing, "more", "away", "of")
            verb = re.search(rf"\b(has|{_GAINS}|{_LOSSES}|doubles|triples)\b", sentence)
            if subject != name or verb is None or not about:
                irrelevant += 1
                continue
            kind = verb.group(1)
            if kind in ("doubles", "triples"):
                last = 2 if kind == "doubles" else 3
                expression, n = f"({expression})*{last}", n + 1
            elif number and kind == "has" and not expression:
                expression = last_text = number.group(1)
                last = int(last_text)
            elif number:
                sign = "-" if kind in _LOSSES.split("|") else "+"
                last = int(number.group(1))
                expression, n = f"{expression or 0}{sign}{last}", n + 1
        answer = evaluate(expression) if expression else None
        return None if answer is None else cls(expression, answer, max(n, 1), irrelevant / 4, last)

    def p_right(self, ability: Ability, *, stepwise: bool) -> float:
        """Chance that the final answer is right."""
        a = ability
        if not stepwise:
            return logistic(a.direct + a.shift - a.direct_step * (self.n - 1) - a.distractor * self.d)
        return math.prod(
            logistic(a.stepwise + a.shift - a.stepwise_step * i - a.distractor * self.d) for i in range(self.n)
        )

    def wrong(self) -> tuple[int, list[int]]:
        """The common mistake (the last number left out), and eight near values."""
        slip = self.answer - self.last if self.last else self.answer + 10
        near = [self.answer + k for k in (1, -1, 2, -2, 10, -10, 3, -3, 9, -9) if self.answer + k != slip]
        return slip, near[:8]

    def outcomes(self, ability: Ability, *, stepwise: bool) -> Outcomes:
        slip, near = self.wrong()
        p = self.p_right(ability, stepwise=stepwise)

        def say(value: int) -> str:
            if stepwise:
                return f"Step by step: {self.expression} = {value}.\nThe answer is {value}."
            return f"The answer is {value}."

        return spread(p, say(self.answer), say(slip), [say(v) for v in near], ability.common)


def check(text: str, ability: Ability, *, judge: bool) -> Outcomes | None:
    """Say whether a proposed answer is right, by solving the task and then erring."""
    proposed = list(
        re.finditer(r"(?:proposed answer|candidate answer|your answer|answer is|answer):?\s*(-?\d+)", text, re.I)
    )
    task = Arithmetic.parse(text[: proposed[-1].start()]) if proposed else None
    if task is None:
        return None
    right = int(proposed[-1].group(1)) == task.answer
    if judge:
        approve = min(1.0, (1 - ability.judge_noise if right else ability.judge_noise) + ability.judge_bias)
    else:
        approve = 1 - ability.check_alarms if right else 1 - ability.check_finds
    return [(approve, "The answer is correct."), (1 - approve, "The answer is incorrect.")]


def facts(text: str, ability: Ability, knowledge: Mapping[tuple[str, str], str], seed: int) -> Outcomes | None:
    """Follow a chain of relations through facts in the prompt, and through memory where the prompt has none."""
    asked = list(_CHAIN.finditer(text))
    if not asked:
        return None
    relations = re.findall(r"the ([a-z][\w-]*) of ", asked[-1].group(1))[::-1]
    entity = asked[-1].group(2)
    given = {(relation, subject): value for relation, subject, value in _FACT.findall(text)}
    surplus = max(0, len(given) - len(relations))
    p_read = logistic(math.log(ability.read / (1 - ability.read)) + ability.shift) * math.exp(
        -ability.read_decay * surplus
    )
    p, known = 1.0, True
    for relation in relations:
        if (relation, entity) in given:
            p, entity = p * p_read, given[relation, entity]
        elif (relation, entity) in knowledge and uniform(seed, "memory", relation, entity) < ability.known:
            entity = knowledge[relation, entity]
        else:
            known = False
            break
    last = relations[-1]
    values = dict.fromkeys([v for (r, _), v in {**knowledge, **given}.items() if r == last])
    others = [v for v in values if v != entity or not known] or ["Nobody"]
    wrong = [f"The answer is {v}." for v in others[:8]]
    unsure = (1 - p if known else 1.0) * ability.unsure
    rest = (1 - p if known else 1.0) - unsure
    outcomes = [(p, f"The answer is {entity}.")] if known else []
    return [*outcomes, (unsure, "I am not sure."), *((rest / len(wrong), w) for w in wrong)]
