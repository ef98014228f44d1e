"""Generated requests to a voice assistant: six intents with unequal frequencies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from anytask.core.rng import derive
from anytask.datasets.text import TextData, load_text


def intents(n: int = 900, seed: int = 0) -> TextData:
    """Return generated requests of six intents whose frequencies halve from one to the next.

    Examples
    --------
    >>> data = intents(200)
    >>> len(data), len(data.classes)
    (200, 6)
    """
    rng = np.random.default_rng(derive(seed, "intents"))
    names = list(_INTENTS)
    share = 0.5 ** np.arange(len(names))
    texts, labels = [], []
    for code in rng.choice(len(names), n, p=share / share.sum()):
        patterns, things = _INTENTS[names[code]]
        sentence = str(rng.choice(patterns)).replace("*", str(rng.choice(things)))
        sentence = f"{rng.choice(_OPENINGS)}{sentence}{rng.choice(_ENDINGS)}"
        texts.append(sentence.strip())
        labels.append(names[code])
    return replace(load_text((texts, labels)), name="intents")


_OPENINGS = ("", "", "hi, ", "please, ", "hey, ", "quick question: ", "excuse me, ", "if you can, ")
_ENDINGS = ("", "", " thanks", " please", " today", " as soon as possible", " if possible", " for my sister")
_INTENTS = {
    "weather": (
        ("what is the weather in *", "will it rain in *", "how hot does it get in *", "do I need an umbrella in *"),
        ("Paris", "Oslo", "Lima", "Cairo", "Tokyo", "Dublin", "Madrid", "Denver", "the mountains", "our village"),
    ),
    "music": (
        ("play some *", "put on *", "I want to listen to *", "add * to my playlist", "turn up the *"),
        ("jazz", "piano music", "the new album", "rock songs", "a quiet ballad", "opera", "my favourite band", "folk"),
    ),
    "restaurant": (
        ("book a table at *", "is there a free table at *", "find me a good *", "reserve dinner in a *"),
        ("pizza place", "noodle bar", "steak house", "vegan restaurant", "seafood restaurant", "bistro", "curry house"),
    ),
    "alarm": (
        ("wake me up at *", "set an alarm for *", "cancel the alarm at *", "remind me to get up at *"),
        ("six", "half past seven", "noon", "eight in the morning", "five thirty", "midnight", "quarter to nine"),
    ),
    "transfer": (
        ("send * to my landlord", "transfer * to the savings account", "pay * to the electric company"),
        ("fifty euros", "two hundred dollars", "the rent", "ninety pounds", "half of my salary", "a thousand"),
    ),
    "flight": (
        ("find a flight to *", "when does the plane to * leave", "change my seat on the flight to *"),
        ("Berlin", "Rome", "New York", "Sydney", "Nairobi", "Toronto", "Lisbon", "Seoul"),
    ),
}
