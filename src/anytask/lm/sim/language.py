"""Compressing text, reading values from a context, and classifying with examples."""

from __future__ import annotations

import math
import re

from anytask.lm.sim.skill import Ability, Outcomes, logistic, uniform


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


STOP_WORDS = _words(
    """
    a an the of to in on at by for with from as is are was were be been being it its this that these those there and
    or but so then than very really just also quite rather which who whom whose will would can could should may
    might do does did has have had he she they we you i his her their our your my me him them us
    """
)
_POSITIVE = _words(
    """
    good great fine excellent wonderful superb lovely brilliant enjoyable delightful moving charming best love loved
    happy fantastic amazing perfect beautiful funny clever strong
    """
)
_NEGATIVE = _words(
    """
    bad awful terrible dull boring poor weak horrible dreadful worst hate hated sad stupid tedious bland ugly mess
    disappointing annoying slow failed waste
    """
)
_TOPICS = {
    "sports": "game team match player coach season goal league score championship won tournament",
    "business": "market stock company shares profit bank economy trade price investor sales",
    "science": "research scientists study space software computer energy technology planet internet species",
    "world": "government president minister war election country troops peace leaders police court",
}
_PAIR = re.compile(
    r"(?:^|\n)\s*(?:review|text|sentence|input|article|headline):\s*(.+?)\s*\n"
    r"\s*(?:label|sentiment|topic|category|answer|output):[ \t]*([^\n]*)",
    re.IGNORECASE | re.DOTALL,
)


def compress(text: str, ability: Ability, seed: int) -> Outcomes | None:
    """Drop stop-words; a share of the texts comes back rephrased although that was forbidden."""
    if not re.search(r"\bcompress", text, re.IGNORECASE):
        return None
    marked = list(
        re.finditer(r"(?:original text|text to compress|text|passage|the following)[^\n:]*:\s*", text, re.IGNORECASE)
    )
    body = text[marked[-1].end() :] if marked else text.split("\n\n", 1)[-1]
    body = (
        re.split(r"\n\s*(?:compressed text|compressed|output)\s*:", body, flags=re.IGNORECASE)[0]
        .strip()
        .strip("`")
        .strip()
    )
    words = body.split()
    kept = [word for word in words if word.lower().strip(".,;:!?\"'()") not in STOP_WORDS] or words
    if uniform(seed, "rephrase", body) < ability.p_rephrase:
        kept = [_other_form(word) if i % 2 == 0 else word for i, word in enumerate(kept)]
    return [(1.0, " ".join(kept))]


def _other_form(word: str) -> str:
    core = word.rstrip(".,;:!?")
    for ending in ("ing", "ed", "es", "s"):
        if core.endswith(ending) and len(core) > len(ending) + 2:
            return core[: -len(ending)]
    return core + ("s" if core.isalpha() else "")


def read_value(text: str, ability: Ability) -> Outcomes | None:
    """Answer "What is the value of KEY?" from the pairs that the context still holds."""
    asked = list(re.finditer(r"What is the value of [\"'`]?([\w.-]+?)[\"'`]?\s*\?", text, re.IGNORECASE))
    if not asked:
        return None
    key, context = asked[-1].group(1), text[: asked[-1].start()] + text[asked[-1].end() :]
    pairs = re.findall(r"([\w.-]+)[\"'`]?\s*(?::|=|\bis\b)\s*[\"'`]?([\w-]+)", context)
    values = [value for name, value in pairs if name == key]
    others = list(dict.fromkeys(value for name, value in pairs if name != key))[:8]
    if values:
        p = logistic(math.log(ability.read / (1 - ability.read)) + ability.shift)
        wrong = [v for v in others if v != values[-1]] or ["unknown"]
        return [(p, values[-1]), *(((1 - p) / len(wrong), v) for v in wrong)]
    if not others:
        return [(1.0, "unknown")]
    return [(ability.unsure, "unknown"), *(((1 - ability.unsure) / len(others), v) for v in others)]


def classify(text: str, ability: Ability) -> Outcomes | None:
    """Label the last text, helped by similar solved examples before it and misled by wrong ones."""
    found = [(body.strip(), label.strip()) for body, label in _PAIR.findall(text)]
    if not found or found[-1][1]:
        return None
    query, examples = found[-1][0], [(body, label) for body, label in found[:-1] if label]
    listed = re.search(r"(?:labels?|options|one of)\b[^\n:]*:\s*([\w ,/|-]+)", text[: text.find(query)], re.IGNORECASE)
    labels = list(dict.fromkeys(label for _, label in examples))
    if listed:
        labels = list(dict.fromkeys([*labels, *(x for x in re.split(r"[,/| ]+", listed.group(1)) if x and x != "or")]))
    topical = any(label.lower() in _TOPICS for label in labels)
    for default in list(_TOPICS) if topical else ["positive", "negative"]:
        if default not in {label.lower() for label in labels}:
            labels.append(default)
    truth = _truth(query, labels)
    words = _content(query)
    similar = [(len(words & _content(body)), body, label) for body, label in examples if words & _content(body)]
    if truth is None:
        if not similar:
            return [(1 / len(labels), label) for label in labels]
        truth = max(similar, key=lambda item: item[0])[2]
    wrong = sum((own := _truth(body, labels)) is not None and own != label for body, label in examples)
    helpful = sum(_truth(body, labels) in (None, label) for _, body, label in similar)
    a = ability
    p = logistic(a.label + a.shift + a.example_gain * math.log1p(helpful) - a.example_harm * wrong)
    others = [label for label in labels if label != truth]
    return [(p, truth), *(((1 - p) / len(others), label) for label in others)]


def _content(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower())) - STOP_WORDS


def _truth(text: str, labels: list[str]) -> str | None:
    words = _content(text)
    lexicon = {"positive": _POSITIVE, "negative": _NEGATIVE} | {k: frozenset(v.split()) for k, v in _TOPICS.items()}
    counts = [(len(words & lexicon[label.lower()]), label) for label in labels if label.lower() in lexicon]
    best = max(counts, default=(0, ""), key=lambda item: item[0])
    return best[1] if best[0] and [c for c, _ in counts].count(best[0]) == 1 else None
