"""Vote-k: choosing what to label by votes on a graph, with a discount for what is near a chosen item, beats chance."""

from anytask.claims.base import Beats, Claim, Experiment, Size
from anytask.problems.base import Entrant

VOTEK = "anytask.incontext:VoteK"
SELECTION = "anytask.incontext.selection"

_votek = Entrant("vote-k", VOTEK, {}, "system", "votek")
_no_discount = Entrant("vote-k (rho=1)", VOTEK, {"rho": 1}, "ablation")
_fast = Entrant("vote-k (graph only)", VOTEK, {"stages": "fast"}, "ablation")
_random = Entrant("random", f"{SELECTION}:RandomSelection", role="baseline")
_others = (
    Entrant("diversity", f"{SELECTION}:Diversity", role="baseline"),
    Entrant("facility location", f"{SELECTION}:FacilityLocation", role="baseline"),
    Entrant("least confidence", f"{SELECTION}:LeastConfidence", role="baseline"),
)

CLAIM = Claim(
    system="votek",
    statement=(
        "With 18 labels out of 1000 digits, the labels that vote-k chooses make a nearest-neighbour vote far "
        "more accurate than random ones, and steadier; without its discount they are no better than random. On "
        "sentences of unevenly frequent intents it covers more intents than chance."
    ),
    experiments=(
        Experiment(
            "digits",
            "demonstration-selection",
            "digits",
            (_votek, _fast, _no_discount, _random, *_others),
            {"budget": 18, "pool": 1000},
            plain="random",
            quick={"pool": 200},
        ),
        Experiment(
            "intents",
            "demonstration-selection",
            "intents",
            (_votek, _no_discount, _random, *_others),
            {"budget": 18},
            plain="random",
        ),
    ),
    headline=(
        Beats(
            "vote-k",
            ("random", "diversity", "facility location", "least confidence"),
            "accuracy",
            expected="+.12 over random",
        ),
    ),
    components=(
        Beats("vote-k", ("vote-k (rho=1)",), "accuracy", sentence="the discount", expected="+.15"),
        Beats("vote-k", ("vote-k (graph only)",), "accuracy", sentence="the second stage, by confidence"),
    ),
    sizes=(
        Size("vote-k", "covered", "Share of classes that get a label", expected=".95"),
        Size("vote-k", "covered", "Share of unevenly frequent intents that get a label", "intents"),
        Size("random", "covered", "The same of random labels", "intents"),
    ),
    source="code",
    tried=(
        "Facility location, a baseline here, is about as good or better on digits. With 100 labels the gain "
        "over random labels is gone. Confidence is the share of a nearest-neighbour vote, no language model "
        "takes part."
    ),
)
