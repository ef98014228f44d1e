"""Vote-k: the votes of the worked example, the two stages, and prompts that read nothing but what was annotated."""

from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.incontext import VoteK
from anytask.incontext.pool import AnnotatedPrompter, LMConfidence, NearestVote, Pool, Unannotated
from anytask.incontext.votek import Ballot
from anytask.lm.protocol import Capabilities, OptionScore

GRAPH = np.array([[1, 2], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 4]])


def plain_fast_votek(neighbors, m, rho):
    """The definition, word by word, in exact arithmetic."""
    n = len(neighbors)
    degree = [sum(u in row for row in neighbors) for u in range(n)]
    chosen = []
    for _ in range(m):
        best = None
        for u in set(range(n)) - set(chosen):
            score = sum(
                1 / Fraction(rho) ** sum(w in chosen for w in neighbors[v])
                for v in set(range(n)) - set(chosen)
                if u in neighbors[v]
            )
            key = (score, degree[u], -u)
            if best is None or key > best:
                best = key
        chosen.append(-best[2])
    return chosen


def _pool(n=100, d=4, seed=0, **options):
    X = np.random.default_rng(seed).normal(size=(n, d))
    return Pool(X, annotate=lambda indices: [int(X[i, 0] > 0) for i in indices], **options)


def test_worked_example():
    ballot = Ballot(GRAPH, rho=10)
    assert ballot.scores.tolist() == [1, 2, 3, 2, 3, 2, 1]
    assert ballot.elect() == (2, 3.0)  # tie with 4: the smaller index
    np.testing.assert_allclose(ballot.scores[[0, 1, 3, 4, 5, 6]], [0.1, 0.1, 1.0, 2.1, 2.0, 1.0])
    assert ballot.elect()[0] == 4
    np.testing.assert_allclose(ballot.scores[[0, 1, 3, 5, 6]], [0.1, 0.1, 0, 0.1, 0.1], atol=1e-15)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.sampled_from([1, 1.5, 2, 3, 10, 1e6]), st.data())
def test_picks_are_those_of_the_plain_definition(seed, n, rho, data):
    k = data.draw(st.integers(1, n - 1))
    rng = np.random.default_rng(seed)
    graph = np.array([rng.choice(np.delete(np.arange(n), v), k, replace=False) for v in range(n)])
    ballot = Ballot(graph, rho)
    assert [ballot.elect()[0] for _ in range(n)] == plain_fast_votek(graph.tolist(), n, rho)


def test_rounding_does_not_decide_ties():
    # Items 0 and 1 both score exactly 3/10, as 30 votes of 1/100 and as 3 of 1/10; in binary the second is larger.
    ballot = Ballot(np.array([[1], [0]]), rho=10)
    ballot._counts = np.array([[0.0, 0], [0, 3], [30, 0]])
    ballot.scores = np.array([1, 0.1, 0.01]) @ ballot._counts
    assert ballot.scores[1] > ballot.scores[0]
    assert ballot._best(np.arange(2)) == 0


def test_without_discount_scores_count_the_unselected_voters():
    ballot = Ballot(GRAPH, rho=1)
    selected = [ballot.elect()[0] for _ in range(3)]
    left = [v for v in range(7) if v not in selected]
    assert ballot.scores.tolist() == [sum(u in GRAPH[v] for v in left) for u in range(7)]


@pytest.mark.parametrize("rho", [1e12, np.inf])
def test_a_huge_discount_is_greedy_cover_of_uncovered_voters(rho):
    rng = np.random.default_rng(3)
    graph = np.array([rng.choice(np.delete(np.arange(40), v), 4, replace=False) for v in range(40)])
    ballot, chosen = Ballot(graph, rho), []
    for _ in range(8):
        alive = [v for v in range(40) if v not in chosen and not set(graph[v]) & set(chosen)]
        gains = [sum(u in graph[v] for v in alive) if u not in chosen else -1 for u in range(40)]
        u, score = ballot.elect()
        assert gains[u] == max(gains) and score == pytest.approx(max(gains))
        chosen.append(u)


def test_every_vertex_casts_k_votes_and_none_for_itself():
    pool = Pool(np.repeat(np.random.default_rng(0).normal(size=(20, 3)), 5, axis=0))  # five copies of each
    picked = VoteK(k=7, stages="fast").select(pool, 100)
    assert sum(picked.details["in_degrees"]) == 100 * 7
    assert sorted(picked.indices.tolist()) == list(range(100))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 60), st.data(), st.sampled_from(["fast", "full"]))
def test_selections_are_distinct_and_deterministic_for_every_budget(n, data, stages):
    budget = data.draw(st.one_of(st.just(1), st.just(n), st.integers(1, n)))
    once, again = (VoteK(stages=stages).select(_pool(n), budget) for _ in range(2))
    assert len(set(once.indices.tolist())) == budget and once.indices.min() >= 0 and once.indices.max() < n
    np.testing.assert_array_equal(once.indices, again.indices)


def test_scaling_the_vectors_changes_nothing():
    X = np.random.default_rng(1).normal(size=(80, 5)) + 2
    picks = [VoteK(stages="fast").select(c * X, 10).indices.tolist() for c in (1.0, 4.0, 0.25)]
    assert picks[0] == picks[1] == picks[2]


def test_one_pick_per_band_of_confidence():
    # N = 100, m = 20: 2 first, 18 buckets of floor(90/18) = 5, so 90 of the 98 others are covered.
    pool = _pool()
    asked = []

    def confidence(pool, queries):
        asked.append((sorted(pool.labels), len(queries)))
        return queries.astype(float)  # sure of large indices

    chosen = VoteK().select(pool, 20, confidence=confidence)
    first = chosen.indices[:2].tolist()
    assert asked == [(sorted(first), 98)]
    assert sorted(pool.labels) == sorted(first)  # labels of stage two are not bought
    ranked = [i for i in range(100) if i not in first]
    for j, u in enumerate(chosen.indices[2:]):
        assert u in ranked[5 * j : 5 * (j + 1)]
    assert chosen.stage.tolist() == [1] * 2 + [2] * 18
    assert not set(chosen.indices.tolist()) & set(ranked[90:])
    assert np.isnan(chosen.confidences[first]).all() and chosen.confidences[ranked].tolist() == ranked


def test_stage_two_takes_the_highest_score_of_its_bucket_given_everything_before():
    pool = _pool(60)
    chosen = VoteK(k=5).select(pool, 10, confidence=lambda pool, queries: -queries.astype(float))
    graph_votes = VoteK(k=5, stages="fast").select(_pool(60), 60)
    assert chosen.indices[0] == graph_votes.indices[0]
    from anytask.lm.search import knn_graph

    graph = knn_graph(pool.vectors, 5)
    ranked = [i for i in range(59, -1, -1) if i != chosen.indices[0]]
    done = [int(chosen.indices[0])]
    for j, u in enumerate(chosen.indices[1:].tolist()):
        score = {
            w: sum(
                Fraction(1, 10) ** len(set(graph[v].tolist()) & set(done))
                for v in range(60)
                if v not in done and w in graph[v]
            )
            for w in ranked[6 * j : 6 * (j + 1)]
        }
        assert score[u] == max(score.values())
        assert chosen.scores[j + 1] == pytest.approx(float(score[u]))
        done.append(u)


def test_empty_buckets_are_filled_at_random():
    chosen = VoteK(seed=1).select(_pool(20), 20)  # 18 left for 18 picks: buckets of floor(18/18) = 1 cover 18 of 18
    assert set(chosen.stage.tolist()) == {1, 2}
    chosen = VoteK(first_share=0.05).select(_pool(20), 20)  # r = 19 > 18: buckets hold nothing
    assert chosen.stage.tolist() == [1] + [0] * 19
    assert sorted(chosen.indices.tolist()) == list(range(20)) and np.isnan(chosen.scores[1:]).all()


def test_released_code_forgets_to_discount_in_stage_two():
    X = np.random.default_rng(2).normal(size=(200, 3))
    ask = lambda indices: [int(X[i, 0] > 0) for i in indices]  # noqa: E731
    ours, theirs = (VoteK(k=20, official_compat=c).select(X, 30, annotate=ask) for c in (False, True))
    assert ours.indices[:3].tolist() == theirs.indices[:3].tolist()  # distinct vectors: the graphs agree
    assert ours.indices.tolist() != theirs.indices.tolist()
    assert theirs.scores[3:].sum() > ours.scores[3:].sum()


def test_default_k_is_five_percent_of_the_pool_within_bounds():
    assert [VoteK()._k(n) for n in (2, 40, 100, 1000, 3000, 100_000)] == [1, 5, 5, 50, 150, 150]


def test_stages_follow_what_the_pool_offers():
    X = np.random.default_rng(0).normal(size=(30, 2))
    assert VoteK().select(X, 5).method == "fast vote-k"
    assert VoteK().select(X, 5, annotate=lambda indices: [0] * len(indices)).method == "vote-k"
    assert VoteK(stages="fast").select(X, 5, annotate=pytest.fail).method == "fast vote-k"
    with pytest.raises(ValueError, match="needs labels for its first stage"):
        VoteK(stages="full").select(X, 5)


def test_bad_calls_are_named():
    X = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(ValueError, match=r"k must be an integer in \[1, 29\] for a pool of 30, got 30"):
        VoteK(k=30).select(X, 3)
    with pytest.raises(ValueError, match="numbers without NaN"):
        VoteK().select(_pool(), 20, confidence=lambda pool, queries: np.full(len(queries), np.nan))
    with pytest.raises(ValueError, match="asked for 1 labels and returned 0"):
        VoteK().select(X, 3, annotate=lambda indices: [])
    with pytest.raises(ValueError, match="at least 2 items"):
        VoteK().select(X[:1], 1)


# -- the pool --------------------------------------------------------------------------------------------------------


def test_labels_that_were_not_bought_are_unreachable():
    asked = []
    pool = Pool(np.eye(4), annotate=lambda indices: asked.extend(indices) or [f"y{i}" for i in indices])
    assert pool.annotate([2, 0]) == ["y2", "y0"]
    assert pool.annotate([0, 3]) == ["y0", "y3"] and asked == [2, 0, 3]  # nothing is paid for twice
    with pytest.raises(Unannotated, match="item 1 of the pool has no label: only 3 items"):
        pool.labels[1]
    with pytest.raises(IndexError, match="outside the pool of 4"):
        pool.annotate([4])
    assert list(pool.labels) == [2, 0, 3]
    with pytest.raises(Unannotated, match="no annotate callback"):
        Pool(np.eye(2)).annotate([0])
    with pytest.raises(Unannotated, match="nobody to vote"):
        NearestVote().predict(Pool(np.eye(2)), np.eye(2))


def test_queries_use_the_mean_of_the_pool():
    pool = Pool([[1.0, 3], [3, 1]])
    np.testing.assert_allclose(pool.vectors, np.array([[-1, 1], [1, -1]]) / np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(pool.place([[2.0, 5]]), [[0, 1]], atol=1e-6)


def test_nearest_vote_weighs_by_similarity():
    # cosines .8 (a), .6 (b), .6 (b) at temperature .1: exp(8) against 2 exp(6), so a has 1/(1+2e^-2) = .787.
    pool = Pool([[0.8, 0.6], [0.6, 0.8], [0.6, -0.8], [0, 1]], center=False, annotate=lambda indices: list("abb"))
    pool.annotate([0, 1, 2])
    classes, shares = NearestVote(n_neighbors=3, temperature=0.1).shares(pool, pool.place([[1.0, 0]]))
    assert classes.tolist() == ["a", "b"]
    assert shares[0, 0] == pytest.approx(1 / (1 + 2 * np.exp(-2)), rel=1e-5)


# -- prompts ---------------------------------------------------------------------------------------------------------


class WordLM:
    """Scores ' good' and ' bad' by how often the words stand in the prompt, and writes the last label it read."""

    name, kind, context_length, usage = "word", "sim", 10_000, None
    capabilities = Capabilities(logprobs=True, completions=True)

    def count_tokens(self, text):
        return len(text.split())

    def score(self, prompts, options, *, tag="score"):
        self.prompts = list(prompts)
        return [[OptionScore(p.count(o.strip()) - 10.0, 1, 4) for o in row] for p, row in zip(prompts, options)]

    def generate(self, prompts, **options):
        return [prompt.split("Label: ")[-1].split("\n")[0] for prompt in prompts]


def _texts():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 6))
    texts = [f"text {i} " + "long " * (300 if i == 7 else 2) for i in range(30)]
    asked = SimpleNamespace(indices=[])
    pool = Pool(
        X, texts=texts, annotate=lambda idx: asked.indices.extend(idx) or ["good" if i % 2 else "bad" for i in idx]
    )
    return X, pool, asked


def test_prompts_hold_annotated_examples_in_ascending_similarity():
    X, pool, asked = _texts()
    bought = [3, 7, 10, 11, 20, 25]
    pool.annotate(bought)
    found = AnnotatedPrompter(pool, WordLM(), choices=["good", "bad"]).retrieve(["query"], X[:1] + 0.01)[0]
    assert set(found.indices.tolist()) == set(bought) - {7}  # 7 is longer than 250 tokens
    assert (np.diff(found.similarities) >= 0).all()
    np.testing.assert_allclose(found.similarities, pool.vectors[found.indices] @ pool.place(X[:1] + 0.01)[0], atol=1e-6)
    positions = [found.prompt.text.index(f"text {i} ") for i in found.indices]
    assert positions == sorted(positions) and found.prompt.text.endswith("Input: query\nLabel:")
    assert asked.indices == bought


def test_the_budget_drops_the_least_similar_first():
    X, pool, _ = _texts()
    pool.annotate([3, 10, 11, 20, 25])
    lm = WordLM()
    whole = AnnotatedPrompter(pool, lm, choices=["good", "bad"]).retrieve(["query"], X[:1])[0]
    cut = AnnotatedPrompter(pool, lm, choices=["good", "bad"], budget=20).retrieve(["query"], X[:1])[0]
    assert 0 < len(cut.indices) < 5 and cut.prompt.n_tokens <= 19
    assert cut.indices.tolist() == whole.indices.tolist()[-len(cut.indices) :]
    assert (
        AnnotatedPrompter(pool, lm, k=2).retrieve(["query"], X[:1])[0].indices.tolist() == whole.indices.tolist()[-2:]
    )


def test_an_example_identical_to_the_query_is_skipped_in_similarity_mode_only():
    X, pool, _ = _texts()
    pool.annotate([3, 10])
    assert AnnotatedPrompter(pool, WordLM()).retrieve(["query"], X[3:4])[0].indices.tolist() == [10]
    kept = AnnotatedPrompter(pool, WordLM(), skip_identical=False).retrieve(["query"], X[3:4])[0]
    assert kept.indices.tolist() == [10, 3]
    random = AnnotatedPrompter(pool, WordLM(), order="random").retrieve(["query"], X[3:4])[0]
    assert sorted(random.indices.tolist()) == [3, 10] and np.isnan(random.similarities).all()


def test_random_demonstrations_of_a_query_do_not_depend_on_its_batch():
    X, pool, _ = _texts()
    pool.annotate(range(12))
    prompter = AnnotatedPrompter(pool, WordLM(), order="random", k=4)
    queries = [f"query {i}" for i in range(5)]
    together = [found.indices.tolist() for found in prompter.retrieve(queries, X[:5])]
    assert together[::-1] == [found.indices.tolist() for found in prompter.retrieve(queries[::-1], X[:5])]
    assert len(set(map(tuple, together))) > 1


def test_predictions_by_choice_and_by_writing():
    X, pool, _ = _texts()
    pool.annotate([3, 5, 9, 10])  # good, good, good, bad
    assert AnnotatedPrompter(pool, WordLM(), choices=["bad", "good"]).predict(["a", "b"], X[:2]) == ["good", "good"]
    written = AnnotatedPrompter(pool, WordLM())  # this model copies the label of the last, nearest, demonstration
    nearest = [found.indices[-1] for found in written.retrieve(["a", "b"], X[:2])]
    assert written.predict(["a", "b"], X[:2]) == [pool.labels[i] for i in nearest]


def test_confidence_of_a_language_model_leaves_the_item_itself_out():
    _, pool, _ = _texts()
    pool.annotate([3, 5])
    lm = WordLM()
    values = LMConfidence(lm, choices=["good", "bad"])(pool, np.array([3, 8]))
    # Item 3 reads only item 5, item 8 reads both; both answers are 'good', which stands once and twice.
    assert values.tolist() == [1 - 10.0, 2 - 10.0]
    assert "text 3 " in lm.prompts[0] and lm.prompts[0].count("text 3 ") == 1
    chosen = VoteK().select(pool, 20, confidence=LMConfidence(lm, choices=["good", "bad"]))
    assert len(set(chosen.indices.tolist())) == 20


def test_prompts_need_texts():
    with pytest.raises(ValueError, match="need the pool's texts"):
        AnnotatedPrompter(Pool(np.eye(3)), WordLM())


# -- labels that are there already, and copies -------------------------------------------------------------------------


def test_annotated_items_count_as_chosen_before():
    pool = _pool()
    before = VoteK(stages="fast", k=8).select(_pool(), 8).indices
    pool.annotate(before[:3])
    assert VoteK(stages="fast", k=8).select(pool, 5).indices.tolist() == before[3:].tolist()


def test_tied_copies_do_not_fill_the_bands_of_confidence():
    # 60 of 100 texts are one and the same, and the model is unsure of them: half of the bands hold nothing else.
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(40, 4)), np.repeat(rng.normal(size=(1, 4)), 60, axis=0)])
    pool = Pool(X, annotate=lambda indices: [0] * len(indices))
    chosen = VoteK(k=5).select(pool, 10, confidence=lambda pool, queries: np.where(queries < 40, queries / 40.0, 0.0))
    assert (chosen.indices >= 40).sum() <= 1
    assert set(chosen.stage.tolist()) == {1, 2}
    # 41 distinct items, 9 bands of floor(.9 * 41 / 9) = 4: the picks go through the confidences.
    assert np.nanmax(chosen.confidences[chosen.indices]) > 0.7


def test_copies_are_chosen_when_nothing_else_is_left():
    pool = Pool(np.repeat(np.eye(4), 3, axis=0), annotate=lambda indices: [0] * len(indices))
    for stages in ("fast", "full"):
        chosen = VoteK(k=3, stages=stages).select(pool, 4 if stages == "fast" else 5).indices
        assert len(set(chosen.tolist())) == len(chosen)
        assert len({i // 3 for i in chosen}) == 4
