"""Behavior Retrieval: keeping what looks like the expert beats imitating the expert alone, and everything."""

from anytask.claims.base import Beats, Claim, Experiment, Size
from anytask.problems.base import Entrant

RETRIEVAL = "anytask.control:BehaviorRetrieval"
_SMALL = {"preset": "small", "device": "cpu"}


def _baseline(name: str, cls: str, **params: object) -> Entrant:
    return Entrant(name, f"anytask.control.baselines:{cls}", {**_SMALL, **params}, "baseline")


CLAIM = Claim(
    system="behavior-retrieval",
    statement=(
        "With three demonstrations from nearly one place and 160 noisy episodes of four tasks, of which one is the "
        "demonstrated one and one shares a part of its way, imitating the demonstrations and what retrieval keeps "
        "succeeds at least 25 points more often than imitating the demonstrations alone, and than imitating "
        "everything. It needs the raw action in the embedding, the right scores, and a threshold. Policies start "
        "anywhere and are pushed about."
    ),
    experiments=(
        Experiment(
            "waypoints",
            "few-demos",
            "waypoints",
            (
                Entrant("behavior-retrieval", RETRIEVAL, _SMALL, "system", "behavior-retrieval"),
                Entrant("behavior-retrieval (no raw action)", RETRIEVAL,
                        {**_SMALL, "action_in_embedding": False}, "ablation"),
                Entrant("behavior-retrieval (scrambled scores)", RETRIEVAL, {**_SMALL, "scramble": True}, "ablation"),
                # Everything is kept whatever the embedder, so the one that needs no training will do.
                Entrant("behavior-retrieval (delta=0)", RETRIEVAL,
                        {**_SMALL, "delta": 0.0, "embedding": {"embedder": "raw"}}, "ablation"),
                _baseline("expert only", "ExpertOnly"),
                _baseline("everything", "MixedData"),
                _baseline("prior only", "PriorOnly"),
                _baseline("random subset", "RandomSubset", share=0.25),
                _baseline("pre-train, fine-tune", "PretrainFinetune"),
                _baseline("goal-conditioned", "GoalConditioned"),
                _baseline("goal-conditioned, fine-tuned", "GoalConditioned", finetune_share=0.25),
                _baseline("oracle selection", "OracleSelection"),
            ),
            {"episodes": 200},
            plain="expert only",
            quick={"episodes": 40, "prior_episodes": 10, "steps": 60, "embedder_steps": 60},
        ),
    ),
    headline=(
        Beats(
            "behavior-retrieval", ("everything", "expert only", "random subset", "pre-train, fine-tune"), "success",
            expected="+.25",
        ),
    ),
    components=(
        Beats("behavior-retrieval", ("behavior-retrieval (no raw action)",), "success", sentence="the raw action"),
        Beats("behavior-retrieval", ("behavior-retrieval (scrambled scores)",), "success", sentence="the scores"),
        Beats("behavior-retrieval", ("behavior-retrieval (delta=0)",), "success", sentence="the threshold"),
    ),
    sizes=(
        Size("behavior-retrieval", "precision", "Share of what is kept that helps", expected=".9"),
        Size("oracle selection", "success", "Success when what helps is known"),
    ),
    source="code",
    tried=(
        "Nothing was tuned: threshold 0.8, latent size 8, 1500 steps and the world's noise were fixed beforehand; the "
        "policy is the mixture of the preset. Demonstrations alone go further in this world than was expected (0.43 to "
        "0.99, depending on the seed), which leaves less than 25 points to win on most seeds; goal-conditioned "
        "imitation, which needs no choice where goals tell the tasks apart, succeeds always. Without the raw action "
        "the latent of eight numbers still holds the four of a transition, and nothing is lost."
    ),
)  # fmt: skip
