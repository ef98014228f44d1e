"""How well a language model does on the attribute language: what the tiny models' published accuracies are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.core.rng import derive
from anytask.datasets.attribute_language import ATTRIBUTES, INSTRUCTIONS, AttributeLanguage, Labeling, Sentence
from anytask.lm.tiny_models import TINY_MODELS, load_tiny

if TYPE_CHECKING:
    from anytask.lm.local import LocalLM

PROBE_SHOTS = (0, 1, 2, 4, 8)


def probe(name: str, *, n: int = 400, seed: int = 0) -> dict[str, float]:
    """Measure a shipped language model's accuracy again; compare with ``TINY_MODELS[name].probe``.

    Prompt compressors have a probe of their own, :mod:`anytask.prompts.llmlingua2.probe`.

    Parameters
    ----------
    name : str
    n : int, default 400
        Fresh held-out queries per number.
    seed : int, default 0
        The published numbers are those of seed 0.
    """
    lm = load_tiny(name)
    measure = {"causal": probe_causal, "masked": probe_masked}
    return measure[TINY_MODELS[name].objective](lm, n=n, seed=seed)


def probe_causal(lm: LocalLM, *, n: int = 400, seed: int = 0) -> dict[str, float]:
    """Accuracy of in-context classification at 0, 1, 2, 4 and 8 examples, on sentences that training never shows.

    The keys name the condition and the number of examples. ``natural`` labels say what they mean; the words of a
    ``coded`` task tell its attribute, and only the examples' pairs of input and label tell which word stands for what;
    ``random`` label words are drawn anew for every query. ``+i``: with the instruction that names the attribute.
    ``noisy``: a third of the examples is wrong (as in the corpus). ``nearest``: the examples that share most words with
    the query, out of 40. ``template``: sentence templates kept from training.
    """
    conditions: list[tuple[str, dict[str, Any], Sequence[int]]] = [
        ("natural", {"labeling": "natural"}, PROBE_SHOTS),
        ("natural+i", {"labeling": "natural", "instruction": True}, PROBE_SHOTS),
        ("natural noisy", {"labeling": "natural", "noise": 1 / 3}, (1, 2, 4, 8)),
        ("natural template", {"labeling": "natural", "new_template": True}, (8,)),
        ("coded", {"labeling": "coded"}, PROBE_SHOTS),
        ("coded+i", {"labeling": "coded", "instruction": True}, PROBE_SHOTS),
        ("coded noisy", {"labeling": "coded", "noise": 1 / 3}, (1, 2, 4, 8)),
        ("coded nearest", {"labeling": "coded", "nearest": True}, (1, 2, 4, 8)),
        ("coded nearest noisy", {"labeling": "coded", "nearest": True, "noise": 1 / 3}, (1, 2, 4, 8)),
        ("random", {"labeling": "random"}, PROBE_SHOTS),
    ]
    out = {}
    for condition, setting, shots in conditions:
        for k in shots:
            out[f"{condition} {k}"] = round(icl_accuracy(lm, k, n=n, seed=seed, **setting), 3)
    return out


def icl_accuracy(
    lm: LocalLM,
    k: int,
    *,
    labeling: Labeling = "natural",
    instruction: bool = False,
    nearest: bool = False,
    noise: float = 0.0,
    new_template: bool = False,
    n: int = 400,
    seed: int = 0,
) -> float:
    """Share of ``n`` held-out queries that ``lm`` classifies right after ``k`` worked examples.

    The options are all natural labels of the corpus for ``labeling="natural"`` (the task itself has to be found), else
    the label words of the task. For the other settings see :func:`probe_causal`.
    """
    rng = np.random.default_rng(derive(seed, "probe", k, labeling, instruction, nearest, noise, new_template))
    language = AttributeLanguage(seed=derive(seed, "probe sentences", k, labeling, new_template))
    names = list(ATTRIBUTES)
    prompts, options, answers = [], [], []
    for i in range(n):
        attribute = names[i % len(names)]
        labels = language.labels(attribute, labeling)
        query = language.sentence(held_out=True, new_template=new_template)
        pool = [language.sentence(held_out=True, new_template=new_template) for _ in range(40 if nearest else k)]
        if nearest:
            pool.sort(key=lambda s: _shared_words(s, query))
            pool = pool[len(pool) - k :]
        lines = [INSTRUCTIONS[attribute]] if instruction else []
        for s in pool:
            label = labels[s.attributes[attribute]]
            if rng.random() < noise:
                others = [v for name, v in s.attributes.items() if name != attribute]
                wrong = others if labeling == "natural" else [w for w in labels.values() if w != label]
                label = str(rng.choice(wrong))
            lines.append(f"Input: {s.text}\nLabel: {label}")
        prompts.append("\n\n".join([*lines, f"Input: {query.text}\nLabel:"]))
        words = [v for values in ATTRIBUTES.values() for v in values] if labeling == "natural" else [*labels.values()]
        options.append([f" {word}" for word in words])
        answers.append(words.index(labels[query.attributes[attribute]]))
    scores = lm.score(prompts, options, tag="probe")
    best = [int(np.argmax([o.logprob for o in row])) for row in scores]
    return float(np.mean(np.array(best) == np.array(answers)))


def _shared_words(a: Sentence, b: Sentence) -> int:
    return len(set(a.text.split()) & set(b.text.split()))


def probe_masked(lm: LocalLM, *, n: int = 400, seed: int = 0) -> dict[str, float]:
    """Share of masked attribute words whose most likely filler expresses a right kind of word.

    ``attribute``: one attribute word of a held-out sentence is masked; right is a filler that expresses the same
    attribute. ``chance`` is the share of such words in the vocabulary.
    """
    import torch

    language = AttributeLanguage(seed=derive(seed, "masked probe"))
    rng = np.random.default_rng(derive(seed, "masked places"))
    tokenizer, model = lm.tokenizer, lm.model
    of_attribute = {
        name: {tokenizer.convert_tokens_to_ids(w) for group in values.values() for w in group}
        for name, values in ATTRIBUTES.items()
    }
    right = []
    for _ in range(n):
        sentence = language.sentence(held_out=True)
        name = list(ATTRIBUTES)[int(rng.integers(len(ATTRIBUTES)))]
        masked = [tokenizer.mask_token if w == sentence.words[name] else w for w in sentence.text.split()]
        ids = tokenizer(" ".join(masked), return_tensors="pt")
        with torch.inference_mode():
            logits = model(**ids).logits[0]
        place = int((ids["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0])
        right.append(int(logits[place].argmax()) in of_attribute[name])
    chance = np.mean([len(v) for v in of_attribute.values()]) / len(tokenizer)
    return {"attribute": round(float(np.mean(right)), 3), "chance": round(float(chance), 3)}
