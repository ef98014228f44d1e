"""The contrastive loss, its targets and scorers: fixed values, brute force, invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from anytask.parts.contrastive import (
    LazyMatrix,
    contrastive_loss,
    cosine_scores,
    dot_scores,
    info_nce,
    label_target,
    late_interaction_scores,
    maxsim_scores,
    one_hot_target,
    pairwise_scores,
    pooled_attention_scores,
    presence_target,
    soft_target,
    supcon,
)

SEEDS = st.integers(0, 2**31 - 1)
FEATURES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.2], [0.0, 1.0]])
LABELS = torch.tensor([0, 1, 0, 1])


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_supcon_fixed_values_with_and_without_base_temperature():
    assert supcon(FEATURES, LABELS, 0.5).item() == pytest.approx(0.293756, abs=1e-6)
    assert supcon(FEATURES, LABELS, 0.1, base_temperature=0.07).item() == pytest.approx(0.00058202, rel=1e-4)


def test_supcon_of_n_equal_views_is_log_n_minus_1():
    assert supcon(torch.ones(6, 3), torch.zeros(6), 0.3).item() == pytest.approx(math.log(5), abs=1e-6)


@settings(deadline=None)
@given(SEEDS)
def test_supcon_equals_the_double_loop(seed):
    features, tau = draw(seed, 8, 3), 0.2
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
    u = F.normalize(features, dim=1)
    total = 0.0
    for i in range(8):
        others = [a for a in range(8) if a != i]
        log_denominator = math.log(sum(math.exp(float(u[i] @ u[a]) / tau) for a in others))
        positives = [a for a in others if labels[a] == labels[i]]
        total -= sum(float(u[i] @ u[p]) / tau - log_denominator for p in positives) / len(positives)
    assert supcon(features, labels, tau).item() == pytest.approx(total / 8, rel=1e-9)


@settings(deadline=None)
@given(SEEDS, st.floats(0.1, 10.0))
def test_supcon_ignores_order_label_names_and_feature_norms(seed, factor):
    features, labels = draw(seed, 6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    loss = supcon(features, labels).item()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    assert supcon(features[order], labels[order]).item() == pytest.approx(loss, rel=1e-9)
    assert supcon(factor * features, 7 - labels).item() == pytest.approx(loss, rel=1e-9)


def test_supcon_refuses_an_anchor_without_positive_or_skips_it():
    lonely = torch.tensor([0, 1, 0, 2])
    with pytest.raises(ValueError, match="anchor 1 has no positive"):
        supcon(FEATURES, lonely)
    rows = supcon(FEATURES, lonely, missing="skip", reduction="none")
    assert rows[1] == 0 and rows[3] == 0 and rows[0] > 0
    assert supcon(FEATURES, lonely, missing="skip").item() == pytest.approx(rows.sum().item() / 2, rel=1e-6)


def test_many_to_many_loss_of_both_directions():
    S = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    T = torch.tensor([[1, 1, 0], [0, 0, 1]])
    assert contrastive_loss(S, T, reduction="none").tolist() == pytest.approx([0.907606, 0.407606], abs=1e-6)
    columns = contrastive_loss(S.T, T.T, reduction="none").tolist()
    assert columns == pytest.approx([0.126928, 0.693147, 0.126928], abs=1e-6)
    assert contrastive_loss(S, T).item() == pytest.approx(0.657606, abs=1e-6)
    assert contrastive_loss(S.T, T.T).item() == pytest.approx(0.315668, abs=1e-6)
    assert 2 * contrastive_loss(S, T, symmetric=True).item() == pytest.approx(0.973274, abs=1e-6)


def test_soft_targets_fixed_values():
    S = torch.tensor([[0.9, 0.7, 0.1], [0.6, 0.8, 0.2], [0.0, 0.3, 0.7]]) / 0.5
    same = label_target(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1])).log()
    for alpha, loss in ((0.0, 0.611278), (0.4, 0.664612), (1.0, 0.744612)):
        assert contrastive_loss(S, soft_target(same, alpha), symmetric=True).item() == pytest.approx(loss, abs=1e-6)
    smoothed = soft_target(same, 0.4)
    assert smoothed[0].tolist() == pytest.approx([0.8, 0.2, 0.0])
    assert contrastive_loss(S, smoothed).item() == pytest.approx(0.664718, abs=1e-6)
    assert contrastive_loss(S.T, smoothed).item() == pytest.approx(0.664505, abs=1e-6)
    uniform = soft_target(torch.zeros(3, 3), 0.3)
    assert contrastive_loss(S, uniform, symmetric=True).item() == pytest.approx(0.804612, abs=1e-6)
    K = torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, 0.2], [0.1, 0.2, 1.0]])
    assert soft_target(K, 1.0, 0.1)[0].tolist() == pytest.approx([0.880701, 0.119190, 0.000109], abs=1e-6)
    T = soft_target(K, 0.4, 0.1)
    # Both directions use targets whose rows sum to 1, so the column direction gets the transpose of T itself.
    assert contrastive_loss(S, T, target_columns=T.T, symmetric=True).item() == pytest.approx(0.624121, abs=1e-6)


@settings(deadline=None)
@given(SEEDS)
def test_loss_is_at_least_the_entropy_of_the_target_and_reaches_it(seed):
    T = draw(seed, 5, 5).softmax(1)
    entropy = -(T * T.log()).sum(1).mean().item()
    assert contrastive_loss(draw(seed + 1, 5, 5), T).item() >= entropy - 1e-12
    assert contrastive_loss(T.log() + 3.0, T).item() == pytest.approx(entropy, rel=1e-9)


@settings(deadline=None)
@given(SEEDS, st.floats(0.0, 1.0))
def test_targets_of_each_direction_have_rows_that_sum_to_1_and_no_gradient(seed, alpha):
    S, K = draw(seed, 5, 5).requires_grad_(), draw(seed + 1, 5, 5).requires_grad_()
    T, back = soft_target(K, alpha, 0.5), soft_target(K.T, alpha, 0.5)  # K is not symmetric, so neither is the other's
    torch.testing.assert_close(T.sum(1), torch.ones(5, dtype=T.dtype))
    loss = contrastive_loss(S, T, target_columns=back.T, symmetric=True)
    directions = -0.5 * ((T * S.log_softmax(1)).sum(1).mean() + (back * S.T.log_softmax(1)).sum(1).mean())
    assert loss.item() == pytest.approx(directions.item(), rel=1e-12)
    loss.backward()
    assert S.grad is not None and K.grad is None
    # and given with a gradient of its own, a target still gets none
    own = K.detach().softmax(1).requires_grad_()
    contrastive_loss(S, own, symmetric=True).backward()
    assert own.grad is None


def test_concepts_that_all_differ_are_hard_targets_and_that_all_agree_are_smoothed_ones():
    every = torch.arange(4)
    assert torch.equal(soft_target(label_target(every, every).log(), 0.7), one_hot_target(4))
    same = soft_target(label_target(0 * every, 0 * every).log(), 0.7)
    torch.testing.assert_close(same, 0.3 * torch.eye(4) + 0.7 / 4)


@settings(deadline=None)
@given(SEEDS)
def test_pairs_in_another_order_have_the_same_loss(seed):
    S, T, order = draw(seed, 5, 5), draw(seed + 1, 5, 5).softmax(1), torch.tensor([3, 0, 4, 1, 2])
    loss = contrastive_loss(S, T, symmetric=True).item()
    assert contrastive_loss(S[order][:, order], T[order][:, order], symmetric=True).item() == pytest.approx(loss)


def test_late_interaction_in_both_directions_and_its_loss():
    videos = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 0]]])
    texts = torch.tensor([[[1.0, 0, 0], [0, 2, 0], [9, 9, 9]], [[0, 0, 3], [1, 0, 1], [1, 1, 0]]])
    real = torch.tensor([[True, True, False], [True] * 3])
    videos, texts = F.normalize(videos, dim=-1), F.normalize(texts, dim=-1)
    Z1 = late_interaction_scores(videos, texts, None, real, temperature=0.07)
    Z2 = late_interaction_scores(texts, videos, real, None, temperature=0.07).T
    torch.testing.assert_close(Z1, torch.tensor([[0.999999, 0.707071], [0.353553, 0.997604]]), atol=2e-6, rtol=0)
    torch.testing.assert_close(Z2, torch.tensor([[0.999999, 0.471395], [0.707078, 0.898963]]), atol=2e-6, rtol=0)
    loss = sum(contrastive_loss(10 * Z, one_hot_target(2), symmetric=True).item() for Z in (Z1, Z2)) / 2
    assert loss == pytest.approx(0.039545, abs=1e-6)


def test_equal_texts_that_are_no_candidates_are_nobodys_negatives():
    S, texts = draw(4, 3, 3), torch.tensor([0, 1, 0])
    candidates = (texts[:, None] != texts) | torch.eye(3, dtype=torch.bool)
    rows = contrastive_loss(S, one_hot_target(3), candidates=candidates, reduction="none")
    assert rows[0].item() == pytest.approx(F.cross_entropy(S[:1, :2], torch.tensor([0])).item())
    assert rows[1].item() == pytest.approx(F.cross_entropy(S[1:2], torch.tensor([1])).item())


@settings(deadline=None)
@given(SEEDS, st.integers(1, 9), st.booleans(), st.booleans(), st.sampled_from(["mean", "sum", "none"]))
def test_chunks_change_neither_loss_nor_gradients(seed, chunk, symmetric, lazy, reduction):
    """Float64: 1e-12 of losses and gradients of about 1, whatever the target, with masks and rows without positives."""
    n, m = 7, 7 if reduction == "none" else 5
    u, v, log_tau = draw(seed, n, 3), draw(seed + 1, m, 3), torch.tensor(-1.0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    target = draw(seed + 2, n, m).clamp(min=0.0)  # about half of the pairs, of any weight
    back = draw(seed + 3, n, m).exp()
    candidates = torch.rand(n, m, generator=generator) < 0.8
    target[0], candidates[1] = 0.0, False  # two anchors to skip
    target[2, 2] = back[2, 2] = 1.0
    candidates[2, 2] = True
    found = []
    for at_once in (None, chunk):
        leaves = [x.clone().requires_grad_() for x in (u, v, log_tau)]
        a, b, scale = leaves
        given = [a @ b.T / scale.exp(), target, candidates, back]
        if lazy and at_once:
            given = [LazyMatrix((n, m), lambda i, j, M=M: M[i, j]) for M in given]
            given[0] = LazyMatrix((n, m), lambda i, j, a=a, b=b, scale=scale: a[i] @ b[j].T / scale.exp())
        loss = contrastive_loss(
            given[0], given[1], candidates=given[2], target_columns=given[3], symmetric=symmetric,
            reduction=reduction, missing="skip", chunk=at_once,
        )  # fmt: skip
        found.append([loss, *torch.autograd.grad((loss * torch.arange(1, loss.numel() + 1)).sum(), leaves)])
    for whole, chunked in zip(*found):
        torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)


def test_chunks_in_float32_give_gradients_to_a_millionth_of_the_largest():
    u, v = (F.normalize(draw(seed, 300, 16).float(), dim=1).requires_grad_() for seed in (0, 1))
    every = torch.arange(300)
    S = LazyMatrix((300, 300), lambda i, j: u[i] @ v[j].T / 0.05)
    T = LazyMatrix((300, 300), lambda i, j: every[i, None] == every[j])
    found = []
    for chunk in (None, 64):
        loss = contrastive_loss(S, T, symmetric=True, chunk=chunk)
        found.append((loss, *torch.autograd.grad(loss, (u, v))))
    for whole, chunked in zip(*found):
        assert (whole - chunked).abs().max() <= 1e-6 * whole.abs().max()


def test_a_lazy_loss_keeps_next_to_nothing_and_never_more_than_a_chunk():
    n, asked, kept = 200, [], []
    u = draw(0, n, 4).requires_grad_()

    def block(i, j):
        found = u[i] @ u[j].T
        asked.append(found.numel())
        return found

    every = torch.arange(n)
    T = LazyMatrix((n, n), lambda i, j: every[i, None] == every[j])
    for chunk in (None, 20):
        asked.clear(), kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            loss = contrastive_loss(LazyMatrix((n, n), block), T, symmetric=True, chunk=chunk)
        loss.backward()
        if chunk:
            assert max(asked) == chunk * n and sum(kept) < n * n / 4
        else:
            assert sum(kept) >= 2 * n * n  # a log-softmax for each direction


def test_a_lazy_matrix_as_a_whole_keeps_what_scorers_return_alone():
    a, b = draw(0, 9, 5, 4).requires_grad_(), draw(1, 8, 6, 4)
    S = LazyMatrix((9, 8), lambda i, j: late_interaction_scores(a[i], b[j], temperature=0.3))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        scores = S.whole(2)
    direct = late_interaction_scores(a, b, temperature=0.3)
    torch.testing.assert_close(scores, direct, rtol=1e-12, atol=1e-12)
    weight = draw(2, 9, 8)
    chunked, whole = (torch.autograd.grad((s * weight).sum(), a)[0] for s in (scores, direct))
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)
    assert sum(kept) < 9 * 8 * 5 * 6  # the attention between the tokens


@settings(deadline=None)
@given(SEEDS)
def test_a_column_that_is_no_candidate_has_no_effect(seed):
    S = draw(seed, 4, 6)
    candidates = torch.ones(4, 6, dtype=torch.bool)
    candidates[:, 4:] = False
    target = torch.eye(4, 6)
    masked = contrastive_loss(S, target, candidates=candidates)
    assert masked.item() == pytest.approx(contrastive_loss(S[:, :4], target[:, :4]).item(), rel=1e-9)


def test_masked_entries_give_finite_gradients():
    S = draw(0, 3, 3).requires_grad_()
    target, candidates = presence_target(torch.tensor([True, True, False]))
    contrastive_loss(S, target, candidates=candidates, symmetric=True, missing="skip").backward()
    assert torch.isfinite(S.grad).all() and (S.grad[2] == 0).all() and (S.grad[:, 2] == 0).all()


def test_presence_equals_dropping_the_absent_pairs():
    S = draw(1, 4, 4)
    there = torch.tensor([True, False, True, True])
    target, candidates = presence_target(there)
    loss = contrastive_loss(S, target, candidates=candidates, symmetric=True, missing="skip")
    assert loss.item() == pytest.approx(contrastive_loss(S[there][:, there], torch.eye(3), symmetric=True).item())


def test_info_nce_fixed_value_and_cross_entropy():
    a, b = torch.eye(2), torch.tensor([[0.8, 0.6], [0.6, -0.8]])
    assert info_nce(a, b, temperature=0.5, symmetric=True).item() == pytest.approx(1.686024, abs=1e-6)
    q, k, positive = draw(0, 3, 4), draw(1, 9, 4), torch.tensor([0, 3, 6])
    loss = info_nce(q, k, positive, scorer=dot_scores)
    assert loss.item() == pytest.approx(F.cross_entropy(q @ k.T, positive).item(), rel=1e-9)


def test_late_interaction_fixed_values_and_limits():
    a, b = torch.eye(2)[None], torch.tensor([[[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    for temperature, score in ((0.5, 0.874610), (1e-3, 0.926777), (1e4, 0.569062)):
        assert late_interaction_scores(a, b, temperature=temperature).item() == pytest.approx(score, abs=2e-5)
    assert late_interaction_scores(a, b, temperature=0.5, reduce="sum").item() == pytest.approx(1.749220, abs=1e-6)
    # token 1 of a has cosines 0, 1, 1/sqrt(2) with b, token 0 has 1, 0, 1/sqrt(2): the best are 1 and 1
    assert maxsim_scores(a, b).item() == pytest.approx(1.0)


@settings(deadline=None)
@given(SEEDS)
def test_padding_and_token_order_never_change_a_score(seed):
    a, b = draw(seed, 2, 3, 4), draw(seed + 1, 3, 5, 4)
    mask = torch.tensor([True] * 5 + [False, False])
    padded = torch.cat([b, 100 * draw(seed + 2, 3, 2, 4)], dim=1)
    masks = mask.expand(3, 7)
    for score in (maxsim_scores, lambda *x: late_interaction_scores(*x, temperature=0.3)):
        torch.testing.assert_close(score(a, padded, None, masks), score(a, b))
        torch.testing.assert_close(score(padded, a, masks, None), score(b, a))
        torch.testing.assert_close(score(a.flip(1), b.flip(1)), score(a, b))


def test_pairwise_scores_take_any_function():
    a, b = draw(0, 3, 2), draw(1, 4, 2)
    torch.testing.assert_close(pairwise_scores(a, b, lambda x, y: -(x - y).norm(dim=-1)), -torch.cdist(a, b))
    torch.testing.assert_close(
        pairwise_scores(a, b, lambda x, y: F.cosine_similarity(x, y, dim=-1)), cosine_scores(a, b)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contrastive_loss(torch.zeros(3), torch.zeros(3)), "shape"),
        (lambda: contrastive_loss(torch.zeros(2, 2), torch.eye(3)), "target has shape"),
        (lambda: contrastive_loss(torch.zeros(2, 2), -torch.eye(2)), "at least 0"),
        (lambda: contrastive_loss(torch.zeros(2, 2), torch.zeros(2, 2), missing="skip"), "no anchor"),
        (lambda: contrastive_loss(torch.zeros(2, 2), torch.eye(2), reduction="median"), "reduction"),
        (lambda: contrastive_loss(torch.zeros(2, 2), torch.eye(2), chunk=0), "chunk"),
        (lambda: contrastive_loss(torch.zeros(3, 3), torch.eye(3).tril(-1), chunk=1), "anchor 0 has no positive"),
        (lambda: contrastive_loss(torch.zeros(3, 3), -torch.eye(3), chunk=2), "at least 0"),
        (lambda: contrastive_loss(torch.zeros(2, 3), torch.ones(2, 3), reduction="none", symmetric=True), "square"),
        (lambda: supcon(FEATURES, LABELS, 0.0), "above 0"),
        (lambda: supcon(FEATURES, LABELS[:2]), "wanted"),
        (lambda: soft_target(torch.zeros(2, 3), 0.5), "square"),
        (lambda: soft_target(torch.zeros(2, 2), 1.5), "alpha"),
        (lambda: info_nce(torch.eye(3), torch.eye(3)[:2]), "positive="),
        (lambda: info_nce(torch.eye(2), torch.eye(2), torch.tensor([0, 2])), "indices"),
        (lambda: info_nce(torch.eye(2), torch.eye(3)[:, :2], symmetric=True), "as many keys"),
        (lambda: maxsim_scores(torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.zeros(1, 1)), "no token"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_hot_target_makes_clip():
    S = draw(3, 4, 4)
    arange = torch.arange(4)
    clip = 0.5 * (F.cross_entropy(S, arange) + F.cross_entropy(S.T, arange))
    assert contrastive_loss(S, one_hot_target(4), symmetric=True).item() == pytest.approx(clip.item(), rel=1e-9)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_other_direction_is_the_transpose_and_both_are_their_mean(seed):
    a, b = draw(seed, 3, 4, 5), draw(seed + 1, 2, 6, 5)
    mask_a, mask_b = draw(seed, 3, 4) > 0, draw(seed + 1, 2, 6) > 0
    mask_a[:, 0] = mask_b[:, 0] = True
    way = {name: late_interaction_scores(a, b, mask_a, mask_b, temperature=0.4, direction=name)
           for name in ("rows", "columns", "both")}  # fmt: skip
    torch.testing.assert_close(
        way["columns"], late_interaction_scores(b, a, mask_b, mask_a, temperature=0.4).T, atol=1e-12, rtol=0
    )
    torch.testing.assert_close(way["both"], (way["rows"] + way["columns"]) / 2, atol=1e-12, rtol=0)
    swapped = late_interaction_scores(b, a, mask_b, mask_a, temperature=0.4, direction="both")
    torch.testing.assert_close(way["both"], swapped.T, atol=1e-12, rtol=0)


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_pooled_attention_is_the_sum_over_the_tokens_of_a(seed):
    a, b = draw(seed, 2, 3, 4), draw(seed + 1, 2, 5, 4)
    mask_a, mask_b = draw(seed, 2, 3) > 0, draw(seed + 1, 2, 5) > 0
    mask_a[:, 0] = mask_b[:, 0] = True
    found = pooled_attention_scores(a, b, mask_a, mask_b, temperature=0.4)
    for n in range(2):
        for m in range(2):
            tokens, y = a[n][mask_a[n]], b[m][mask_b[m]].mean(0)
            expected = ((tokens @ y / 0.4).softmax(0) * F.cosine_similarity(tokens, y[None])).sum()
            assert found[n, m].item() == pytest.approx(expected.item(), abs=1e-9)
