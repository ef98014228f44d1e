"""A fixed accuracy probe for English prompt compressors: sentences whose function words and facts are known."""

from __future__ import annotations

import re
from typing import Any

#: Sentences, and the names and numbers in them that no compression should lose.
SENTENCES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("On the 14th of March, Helena Brandt paid 2350 euros for a boat.", ("14th", "March", "Helena", "Brandt", "2350")),
    ("The train to Oslo will leave at 8 in the morning from the platform near the bridge.", ("Oslo", "8")),
    ("It was Mr Okafor who had asked for the 37 new chairs in the library.", ("Okafor", "37")),
    ("In 1969 the crew of Apollo 11 walked on the surface of the Moon.", ("1969", "Apollo", "11", "Moon")),
    ("She told us that the price of the bread at Miller had risen by 12 percent.", ("Miller", "12")),
    ("There is a bus from Lisbon to Porto which takes about 3 hours and stops at Coimbra.", ("Lisbon", "Porto", "3")),
    ("Please send the report about the budget to Anna Keller before the end of June.", ("Anna", "Keller", "June")),
    ("Because of the storm, the harbour of Bergen was closed for 2 days.", ("Bergen", "2")),
)


def probe_compressor(compressor: Any) -> dict[str, float]:
    """Measure a compressor on eight fixed sentences, keeping the words with a probability of at least one half.

    ``agreement``: share of the words that are kept if and only if they are no function words. ``stop words dropped``
    and ``names and numbers kept``: the two kinds of errors, the second for listed facts only.

    Parameters
    ----------
    compressor : LLMLingua2
    """
    from anytask.lm.sim.language import STOP_WORDS

    right, dropped, kept = [], [], []
    for text, facts in SENTENCES:
        result = compressor.compress(text, threshold=0.5)
        for word, label in zip(result.words, result.labels):
            if not re.match(r"\w", word):
                continue
            stop = word.lower() in STOP_WORDS
            right.append(label != stop)
            if stop:
                dropped.append(not label)
            if word in facts:
                kept.append(label)
    measures = (("agreement", right), ("stop words dropped", dropped), ("names and numbers kept", kept))
    return {name: round(sum(values) / len(values), 3) for name, values in measures}
