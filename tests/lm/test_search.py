"""Search: exact results against brute force, exclusion by position, BM25 against its closed formula."""

import math

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError

from anytask.lm.bm25 import BM25Index
from anytask.lm.search import VectorIndex, knn_graph


def _clustered(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return (4 * rng.normal(size=(20, d))[rng.integers(20, size=n)] + rng.normal(size=(n, d))).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "inner"])
def test_exact_search_is_brute_force(metric):
    X, Q = _clustered(300, 7), _clustered(20, 7, seed=1)
    similarities, indices = VectorIndex(metric=metric).fit(X).search(Q, k=10)
    if metric == "cosine":
        X, Q = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (X, Q))
    brute = Q @ X.T
    np.testing.assert_array_equal(indices, np.argsort(-brute, axis=1)[:, :10])
    np.testing.assert_allclose(similarities, -np.sort(-brute, axis=1)[:, :10], rtol=1e-4, atol=1e-5)


def test_exclusion_is_by_position_so_duplicates_stay():
    X = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], dtype=float)
    _, indices = VectorIndex().fit(X).search(X, k=2, exclude=range(4))
    assert [set(row) for row in indices[:3]] == [{1, 2}, {0, 2}, {0, 1}]
    assert 3 not in indices[3]


def test_exclusion_of_something_not_among_the_nearest_drops_nothing():
    X = np.array([[1, 0], [0.9, 0.1], [0, 1]])
    assert VectorIndex().fit(X).search([[1, 0]], k=2, exclude=[2])[1].tolist() == [[0, 1]]


@pytest.mark.parametrize("method", ["exact", "cells", "hnsw"])
def test_graph_finds_the_neighbors_without_self_loops(method):
    X = _clustered(500, 8)
    graph = knn_graph(X, 6, method=method, threads=1)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    brute = unit @ unit.T
    np.fill_diagonal(brute, -np.inf)
    wanted = np.argsort(-brute, axis=1)[:, :6]
    assert not (graph == np.arange(500)[:, None]).any()
    if method == "exact":
        np.testing.assert_array_equal(graph, wanted)
    else:
        assert np.mean([len(set(a) & set(b)) / 6 for a, b in zip(graph, wanted)]) > 0.8


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 25), st.floats(0.01, 100), st.data())
def test_graph_ignores_scale_and_never_loops_even_with_duplicates(seed, n, scale, data):
    k = data.draw(st.integers(1, n - 1))
    X = np.random.default_rng(seed).integers(-2, 3, size=(n, 2)).astype(float) + 0.0
    X[(X == 0).all(axis=1)] = [1, 1]
    graph = knn_graph(X, k)
    assert not (graph == np.arange(n)[:, None]).any()
    assert all(len(set(row)) == k for row in graph.tolist())
    similar = lambda A, g: np.take_along_axis((A @ A.T) / np.outer(*[np.linalg.norm(A, axis=1)] * 2), g, axis=1)  # noqa: E731
    np.testing.assert_allclose(similar(X, graph), similar(X, knn_graph(scale * X, k)), atol=1e-5)


def test_isolated_cells_still_give_k_neighbors():
    # Two far vectors fill a cell of their own: their other neighbors lie in cells that are not looked at first.
    X = np.concatenate([_clustered(400, 4), 1e3 * np.array([[-1, -1, -1, -1], [-1, -1, -1, -1.1]])])
    graph = knn_graph(X, 30, method="cells")
    assert graph.min() >= 0 and all(len(set(row)) == 30 for row in graph.tolist())


def test_cells_are_deterministic():
    X = _clustered(600, 8)
    np.testing.assert_array_equal(knn_graph(X, 5, method="cells", seed=3), knn_graph(X, 5, method="cells", seed=3))


def test_hnsw_finds_nearly_what_exact_search_finds():
    X, Q = _clustered(2000, 16), _clustered(50, 16, seed=2)
    exact = VectorIndex().fit(X).search(Q, 10)[1]

    def recall(index):
        return np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(index.search(Q, 10)[1], exact)])

    assert recall(VectorIndex(kind="hnsw", M=16).fit(X)) > recall(VectorIndex().fit(X[::-1].copy())) + 0.5


@pytest.mark.parametrize("kind", ["exact", "hnsw", "cells"])
def test_save_and_load_give_the_same_answers(tmp_path, kind):
    X = _clustered(200, 5)
    index = VectorIndex(metric="inner", kind=kind).fit(X)
    index.save(tmp_path / "index")
    again = VectorIndex.load(tmp_path / "index")
    np.testing.assert_array_equal(index.search(X[:9], 4)[1], again.search(X[:9], 4)[1])
    assert (again.metric, again.kind, len(again)) == ("inner", kind, 200)
    with pytest.raises(FileNotFoundError, match=r"state\.json is missing"):
        VectorIndex.load(tmp_path)
    file = next((tmp_path / "index").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged") as caught:
        VectorIndex.load(tmp_path / "index")
    assert str(tmp_path / "index") in str(caught.value)


def test_add_continues_the_numbering():
    index = VectorIndex().fit([[1, 0]]).add([[0, 1]])
    assert index.search([[0, 1]], 1)[1].item() == 1


def test_the_global_thread_count_is_put_back():
    before = faiss.omp_get_max_threads()
    VectorIndex(threads=before + 3).fit(_clustered(50, 4)).search(_clustered(3, 4), 2)
    knn_graph(_clustered(50, 4), 3, threads=before + 3)
    assert faiss.omp_get_max_threads() == before


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"k must be an integer in \[1, 2\]"):
        knn_graph(np.eye(3), 3)
    with pytest.raises(ValueError, match="NaN or infinity in row 1"):
        VectorIndex().fit([[1.0, 0], [np.nan, 0]])
    with pytest.raises(ValueError, match="3 dimensions, and the index holds vectors of 2"):
        VectorIndex().fit([[1, 0]]).search([[1, 0, 0]], 1)
    with pytest.raises(ValueError, match="metric must be"):
        VectorIndex(metric="l2")
    with pytest.raises(NotFittedError):
        VectorIndex().search([[1]], 1)


DOCUMENTS = ["the cat sat on the mat", "a dog and a cat", "dog dog dog", "", "completely different words here"]


@pytest.mark.parametrize("query", ["cat", "the dog", "dog dog", "mat unknown"])
def test_bm25_is_the_closed_formula(query):
    words = [d.split() for d in DOCUMENTS]
    mean = sum(map(len, words)) / len(words)
    wanted = []
    for document in words:
        score = 0.0
        for q in query.split():
            df = sum(q in d for d in words)
            tf = document.count(q)
            idf = math.log(1 + (len(words) - df + 0.5) / (df + 0.5))
            score += idf * tf / (tf + 1.2 * (1 - 0.6 + 0.6 * len(document) / mean))
        wanted.append(score)
    np.testing.assert_allclose(BM25Index(DOCUMENTS, k1=1.2, b=0.6).scores(query), wanted, rtol=1e-5)


def test_bm25_search_excludes_by_position_and_breaks_ties_by_index_or_at_random():
    index = BM25Index(["yes", "no", "yes", "yes"])
    assert index.search(["yes"], 3, exclude=[0])[1].tolist() == [[2, 3, 1]]
    orders = {tuple(index.search(["yes"], 2, shuffle=np.random.default_rng(s))[1][0]) for s in range(20)}
    assert orders == {(a, b) for a in (0, 2, 3) for b in (0, 2, 3) if a != b}


def test_bm25_without_words_scores_zero():
    assert BM25Index(["?", "!"]).scores("cat").tolist() == [0, 0]
    assert BM25Index(["cat"]).scores("?").tolist() == [0]
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string"):
        BM25Index(["a", 3])
    with pytest.raises(ValueError, match="at least one text"):
        BM25Index([])
