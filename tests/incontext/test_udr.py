"""UDR: the losses' fixed values, the drawing of candidates, resumable scores, retrieval for tasks seen and unseen."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.claims.incontext.udr_blocks import RetrievalBlocks
from anytask.core.errors import BadData
from anytask.datasets.retrieval_tasks import RetrievalTask, ScriptedFeedback
from anytask.incontext import UDR
from anytask.incontext.feedback import LMFeedback, ScoreTable
from anytask.incontext.listwise import CandidateDrawer, listwise_loss, task_probabilities
from anytask.incontext.udr import TextEncoder
from anytask.lm.prompting import PromptTemplate
from anytask.lm.protocol import Capabilities, OptionScore
from anytask.parts.contrastive import dot_scores, info_nce
from anytask.problems.base import Entrant

CANDIDATES = {"initial": "vectors", "n_first": 15, "n_mined": 15}
SMALL = {"candidates": CANDIDATES, "steps": 4, "rounds": 2}


def small(**params):
    return UDR.from_preset("small", **{**SMALL, **params})


# -- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "weights", "value"),
    [
        # s = (2,1,0): (1/2) log(1+e^-1) + (2/3) log(1+e^-2) + (1/6) log(1+e^-1) = .293459 over 3 pairs.
        ([2.0, 1.0, 0.0], "paper", 0.097820),
        ([2.0, 1.0, 0.0], "official", 0.097820),
        # s = (0,2,1): (1/2) log(1+e^2) + (2/3) log(1+e^1) + (1/6) log(1+e^-1) = 1.991182.
        ([0.0, 2.0, 1.0], "paper", 0.663727),
        # Ranks under the scores are (3,1,2): (2/3) log(1+e^2) + (1/6) log(1+e^1) + (1/2) log(1+e^-1) = 1.793460.
        ([0.0, 2.0, 1.0], "official", 0.597820),
    ],
)
def test_listwise_loss_has_the_values_derived_by_hand(scores, weights, value):
    assert listwise_loss(torch.tensor([scores]), weights).item() == pytest.approx(value, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-20, 20), st.sampled_from(["paper", "official"]))
def test_listwise_loss_ignores_a_constant_and_its_gradient_sums_to_zero(seed, constant, weights):
    s = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    loss = listwise_loss(s, weights)
    loss.backward()
    assert loss.item() == pytest.approx(listwise_loss(s.detach() + constant, weights).item(), rel=1e-6)
    np.testing.assert_allclose(s.grad.sum(dim=1), 0, atol=1e-12)


def test_score_differences_are_clamped():
    # One pair, w = 1/2, difference 1000 limited to 50: log(1 + e^50) / 2 = 25.
    assert listwise_loss(torch.tensor([[0.0, 1000.0]])).item() == pytest.approx(25.0)


def test_in_batch_loss_of_equal_scores_is_log_of_all_candidates():
    B, l = 4, 8  # noqa: E741
    q, z = torch.zeros(B, 3), torch.randn(B * l, 3)
    loss = info_nce(q, z, torch.arange(B) * l, scorer=dot_scores)
    assert loss.item() == pytest.approx(math.log(B * l), abs=1e-6) == pytest.approx(3.465736, abs=1e-6)


def test_in_batch_target_of_query_i_is_column_i_l():
    q = 10 * torch.eye(2)
    z = torch.zeros(2 * 3, 2)
    z[0, 0] = z[3, 1] = 10.0  # the best of each drawn list comes first
    assert info_nce(q, z, torch.arange(2) * 3, scorer=dot_scores).item() < 1e-6


def test_task_probabilities():
    np.testing.assert_allclose(task_probabilities([100, 10_000], 0.5), [0.090909, 0.909091], atol=1e-6)
    np.testing.assert_allclose(task_probabilities([100, 10_000], 0), [0.5, 0.5])
    np.testing.assert_allclose(task_probabilities([100, 10_000], 1), [1 / 101, 100 / 101])


# -- candidates ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 10), st.data())
def test_drawn_lists_are_distinct_and_in_the_models_order(l, data):  # noqa: E741
    n_top = data.draw(st.integers(1, min(5, l - 1)))
    lengths = data.draw(st.lists(st.integers(l, 40), min_size=1, max_size=5))
    ranked = [(list(range(100, 100 + n)), list(range(n, 0, -1))) for n in lengths]
    drawer = CandidateDrawer(ranked, l, n_top)
    for _ in range(5):
        rows, drawn = drawer.draw(3, np.random.default_rng(data.draw(st.integers(0, 99))))
        assert drawn.shape == (min(3, len(lengths)), l)
        assert (np.diff(drawn, axis=1) > 0).all()
        for row, places in zip(rows, drawn - 100):
            n = lengths[row]
            assert places.max() < n
            if n >= 10 + l:
                assert (places < 5).sum() == n_top
                assert (places >= n - 5).sum() == 1


def test_every_member_of_a_group_is_drawn():
    drawer = CandidateDrawer([(list(range(30)), list(range(30, 0, -1)))], 8)
    rng = np.random.default_rng(0)
    drawn = np.array([drawer.draw(1, rng)[1][0] for _ in range(400)])
    assert set(drawn[:, 0]) == set(range(5)) and set(drawn[:, -1]) == set(range(25, 30))
    assert set(drawn[:, 1:-1].ravel()) == set(range(5, 25))


def test_lists_without_an_order_and_short_lists_are_left_out():
    ranked = [([3, 4, 5], [1.0, 1.0, 1.0]), ([0, 4, 5], [2.0, 1.0, 1.0]), ([0, 4], [2.0, 1.0])]
    assert CandidateDrawer(ranked, 3).queries.tolist() == [1]


def _tasks(n=40, seed=0, n_tasks=2):
    rng = np.random.default_rng(seed)
    tasks = []
    for t in range(n_tasks):
        X = rng.normal(size=(n, 6)).astype(np.float32)
        labels = (X[:, t] > 0).astype(int).astype(str)
        tasks.append(
            RetrievalTask(
                f"t{t}",
                [f"x{i}" for i in range(n)],
                labels,
                f"sign {t}",
                vectors=X,
                output_vectors=np.eye(2)[labels.astype(int)],
                instruction_vector=np.eye(3)[t],
            )
        )
    return tasks


class Counting:
    """Same label helps; remembers what it was asked, and fails on demand."""

    name = "counting"

    def __init__(self, fail_at=None):
        self.asked, self.fail_at = [], fail_at

    def __call__(self, task, query, demos):
        if self.fail_at is not None and len(self.asked) >= self.fail_at:
            raise ConnectionError("gone")
        self.asked += [(task.name, query, z) for z in demos]
        return [float(task.outputs[z] == task.outputs[query]) + 0.001 * z for z in demos]


def test_a_query_is_never_its_own_candidate_and_nothing_is_scored_twice():
    feedback = Counting()
    udr = small().fit(_tasks(), feedback)
    assert all(query != demo for _, query, demo in feedback.asked)
    assert len(set(feedback.asked)) == len(feedback.asked) == udr.n_feedback_
    # The first round asks for 15 candidates of each of 2 x 40 queries, the second adds mined ones.
    assert 2 * 40 * 15 < udr.n_feedback_ <= 2 * 2 * 40 * 15


def test_initial_candidates_by_answers_or_vectors_leave_the_query_out():
    for initial, n_random in (("bm25", 0), ("vectors", 0), ("vectors", 4)):
        udr = UDR(candidates={"initial": initial, "n_first": 12, "n_random": n_random})
        task = _tasks()[0]
        found = udr._initial(task)
        assert found.shape == (40, 12)
        assert all(i not in row and len(set(row)) == 12 for i, row in enumerate(found.tolist()))
        if initial == "bm25":  # answers are labels: with 12 of the same label, all 12 share it
            assert all(task.outputs[z] == task.outputs[i] for i, row in enumerate(found) for z in row)


def weights(udr):
    return [p.tolist() for module in (udr.query_encoder_, udr.demo_encoder_) for p in module.parameters()]


class Stop(Exception):
    """Somebody stops the fit."""


def stop_at(share):
    def progress(done):
        if done >= share:
            raise Stop

    return progress


@pytest.fixture(scope="module")
def uninterrupted():
    feedback = Counting()
    return small().fit(_tasks(), feedback), feedback


# In the first question, in the middle of the first scoring, after it, after the first training, in the second scoring.
@pytest.mark.parametrize("stop", [{"fail_at": 0}, {"fail_at": 300}, {"share": 0.3}, {"share": 0.5}, {"fail_at": 1250}])
def test_a_fit_that_was_stopped_goes_on_to_the_same_retriever(tmp_path, uninterrupted, stop):
    whole, asked = uninterrupted
    broken, udr = Counting(stop.get("fail_at")), small(scores=tmp_path / "scores.sqlite")
    with pytest.raises((ConnectionError, Stop)):
        udr.fit(_tasks(), broken, progress=stop_at(stop.get("share", 2.0)))
    assert not hasattr(udr, "tasks_")
    rest = Counting()
    udr.fit(_tasks(), rest)
    assert not set(broken.asked) & set(rest.asked)
    assert set(broken.asked) | set(rest.asked) == set(asked.asked)
    assert weights(udr) == weights(whole)


def test_a_file_of_scores_saves_calls_and_changes_nothing(tmp_path, uninterrupted):
    whole, _ = uninterrupted
    path, again = tmp_path / "scores.sqlite", Counting()
    assert weights(small(scores=path).fit(_tasks(), Counting())) == weights(whole)
    assert weights(small(scores=path).fit(_tasks(), again)) == weights(whole)
    assert again.asked == []
    # What fits with other settings left in the file is no candidate of this one.
    small(scores=path, candidates={**CANDIDATES, "n_random": 15}).fit(_tasks(), Counting())
    assert weights(small(scores=path).fit(_tasks(), again)) == weights(whole)
    assert again.asked == []


def test_the_table_refuses_other_examples_and_other_models(tmp_path):
    path = tmp_path / "scores.sqlite"
    small(scores=path).fit(_tasks(), Counting())
    with pytest.raises(ValueError, match="task 't0' with other examples"):
        small(scores=path).fit(_tasks(seed=1), Counting())
    other = Counting()
    other.name = "another"
    with pytest.raises(ValueError, match="other language model or prompt"):
        small(scores=path).fit(_tasks(), other)
    with pytest.raises(ValueError, match="feedback with a name"):
        small(scores=path).fit(_tasks(), lambda task, query, demos: [0.0] * len(demos))


def test_the_table_is_keyed_by_position_so_duplicates_stay_apart():
    table = ScoreTable()
    table.write("t", 0, {1: 0.5, 2: 0.25})
    table.write("t", 1, {1: -1.0})
    assert table.read("t", 0) == {1: 0.5, 2: 0.25} and table.read("t", 1) == {1: -1.0} and table.read("u", 0) == {}
    assert len(table) == 3


# -- feedback of a language model ------------------------------------------------------------------------------------


def _lm(logprobs):
    calls = []

    def score(prompts, options, *, tag="score"):
        calls.append((list(prompts), [list(row) for row in options]))
        return [[OptionScore(logprobs[o.strip()], 2, 5) for o in row] for row in options]

    return SimpleNamespace(name="m", kind="sim", capabilities=Capabilities(logprobs=True), score=score, calls=calls)


def test_feedback_reads_one_demonstration_and_the_query():
    task = RetrievalTask("t", ["good film", "bad film"], ["yes", "no"], choices=["yes", "no"])
    lm = _lm({"yes": -1.0, "no": -3.0})
    # p(yes) / (p(yes) + p(no)) = 1 / (1 + e^-2)
    assert LMFeedback(lm)(task, 0, [1]) == pytest.approx([-math.log(1 + math.exp(-2))])
    assert lm.calls == [(["bad film\tno\ngood film"], [["\tyes", "\tno"]])]
    assert LMFeedback(lm, normalize=False)(task, 0, [1]) == [-0.5]  # mean over the answer's two tokens
    free = RetrievalTask("t", ["good film", "bad film"], ["yes", "no"])
    assert LMFeedback(lm)(free, 1, [0]) == [-1.5]


def test_feedback_is_named_by_model_rule_and_the_whole_prompt():
    a, b = _lm({}), SimpleNamespace(**{**vars(_lm({})), "fingerprint": lambda: "weights"})
    templates = [PromptTemplate("{input}\t{output}", **more) for more in ({}, {"separator": " "}, {"description": "D"})]
    names = {
        LMFeedback(lm, normalize=rule, template=one).name
        for lm in (a, b)
        for rule in (True, False)
        for one in templates
    }
    assert len(names) == 2 * 2 * 3


# -- retrieval -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained():
    return small().fit(_tasks(), Counting())


def test_retrieval_is_in_ascending_similarity_and_leaves_the_query_out(trained):
    X = np.asarray(_tasks()[0].vectors)
    found = trained.retrieve("t0", vectors=X, k=8, exclude=range(40))
    for i, one in enumerate(found):
        assert i not in one.indices and len(set(one.indices.tolist())) == 8
        assert (np.diff(one.similarities) >= 0).all()
    best = trained.tasks_["t0"]
    assert (
        found[0].prompt.text.split("\n")[-2]
        == f"{best.inputs[found[0].indices[-1]]}\t{best.outputs[found[0].indices[-1]]}"
    )
    assert found[0].prompt.text.endswith("\n?")


def test_the_token_budget_keeps_the_most_similar(trained):
    count = lambda text: len(text.split())  # noqa: E731
    whole, cut = (
        trained.retrieve("t1", ["q"], vectors=np.ones((1, 6)), count_tokens=count, budget=budget)[0]
        for budget in (99, 7)
    )
    assert cut.indices.tolist() == whole.indices.tolist()[-3:]
    assert cut.similarities.tolist() == whole.similarities.tolist()[-3:]


def test_an_unseen_task_needs_only_an_index(trained):
    before = [p.clone() for p in trained.query_encoder_.parameters()]
    new = _tasks(seed=9, n_tasks=3)[2]
    trained.add_task(new)
    assert len(trained.retrieve("t2", vectors=np.ones((1, 6)))[0].indices) == 8
    assert all(torch.equal(a, b) for a, b in zip(before, trained.query_encoder_.parameters()))
    del trained.tasks_["t2"]
    with pytest.raises(ValueError, match="vectors of width 5"):
        trained.add_task(RetrievalTask("other", ["a"], ["b"], vectors=np.ones((1, 5))))


def test_rounds_start_afresh_or_go_on():
    # With a learning rate of almost nothing the second round's encoders are where that round started.
    still = {"lr": 1e-12, "steps": 1}
    one = small(**{**still, "rounds": 1}).fit(_tasks(), Counting())
    on, afresh = (small(**still, restart=restart).fit(_tasks(), Counting()) for restart in (False, True))
    first, went_on, new = (next(udr.query_encoder_.parameters()) for udr in (one, on, afresh))
    assert torch.allclose(first, went_on) and not torch.allclose(first, new)


def test_instruction_can_be_hidden_and_the_ranking_loss_switched_off():
    X = np.ones((1, 6))
    with_, without = (small(use_instruction=shown).fit(_tasks(), Counting()) for shown in (True, False))
    assert (with_.widths_, without.widths_) == ((9, 11), (6, 8))
    plain = small(lambda_=0.0).fit(_tasks(), Counting())
    assert not np.allclose(
        plain.retrieve("t0", vectors=X)[0].similarities, with_.retrieve("t0", vectors=X)[0].similarities
    )


def test_any_network_can_encode_and_must_be_given_again(tmp_path):
    make = lambda n: torch.nn.Linear(n, 4)  # noqa: E731
    udr = small(encoder=make).fit(_tasks(), Counting())
    udr.save(tmp_path)
    with pytest.raises(ValueError, match="could not be saved: pass it again"):
        UDR.load(tmp_path)
    again = UDR.load(tmp_path, encoder=make)
    X = np.ones((2, 6))
    assert [r.indices.tolist() for r in udr.retrieve("t0", vectors=X)] == [
        r.indices.tolist() for r in again.retrieve("t0", vectors=X)
    ]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "good",
        "bad",
        "film",
        "is",
        "it",
        "yes",
        "no",
        *map(str, range(30)),
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_a_hugging_face_encoder_is_fine_tuned_on_texts(bert, tmp_path):
    texts = [f"{'good' if i % 2 else 'bad'} film {i}" for i in range(24)]
    task = RetrievalTask("films", texts, ["yes" if i % 2 else "no" for i in range(24)], "is it good")
    candidates = {"initial": "bm25", "n_random": 8}
    udr = small(encoder=bert, device="cpu", rounds=1, batch_size=8, candidates=candidates).fit([task], Counting())
    found = udr.retrieve("films", ["good film 7"], k=4)[0]
    assert len(found.indices) == 4 and found.prompt.text.endswith("good film 7")
    start = TextEncoder.read(bert)(["good film"])
    assert not torch.allclose(start, udr.query_encoder_(["good film"]))
    udr.save(tmp_path / "saved")
    again = UDR.load(tmp_path / "saved", device="cpu")
    assert again.retrieve("films", ["good film 7"], k=4)[0].indices.tolist() == found.indices.tolist()


# -- errors ----------------------------------------------------------------------------------------------------------


def test_bad_calls_are_named(trained):
    with pytest.raises(ValueError, match="unknown task 'no'"):
        trained.retrieve("no", vectors=np.ones((1, 6)))
    with pytest.raises(ValueError, match="must be given as vectors"):
        trained.retrieve("t0", ["text"])
    with pytest.raises(ValueError, match="distinct names"):
        small().fit([_tasks()[0]] * 2, Counting())
    with pytest.raises(ValueError, match="8 examples; drawing 8 candidates needs 9"):
        small().fit(_tasks(n=8), Counting())
    with pytest.raises(ValueError, match="orders no query's candidates"):
        small().fit(_tasks(), lambda task, query, demos: [1.0] * len(demos))
    with pytest.raises(ValueError, match="query 0 of task 't0' must be 15 finite numbers"):
        small().fit(_tasks(), lambda task, query, demos: [math.nan] * len(demos))
    with pytest.raises(ValueError, match="differ in width"):
        small().fit([_tasks()[0], RetrievalTask("w", ["a"] * 20, ["b"] * 20, vectors=np.eye(20))], Counting())
    with pytest.raises(ValueError, match="as many outputs as inputs"):
        RetrievalTask("t", ["a"], [])
    with pytest.raises(ValueError, match="'c', which is not one of its choices"):
        RetrievalTask("t", ["a"], ["c"], choices=["a", "b"])


# -- the world of the claim ------------------------------------------------------------------------------------------


def test_scripted_feedback_is_the_same_whenever_it_is_asked():
    tasks, _ = RetrievalBlocks().load("blocks", n_train=20, n_test=4).draw(0)
    feedback = ScriptedFeedback(3)
    assert feedback(tasks[0], 1, [4, 5]) == [feedback(tasks[0], 1, [4])[0], feedback(tasks[0], 1, [5])[0]]


def test_training_finds_what_cosine_does_not_and_pays_for_what_it_asks():
    problem = RetrievalBlocks()
    data = problem.load("blocks", n_train=120, n_test=30)
    cosine = problem.run(problem.baselines(data)[0], data, seed=0)
    params = {"preset": "small", "candidates": {"initial": "vectors"}, "rounds": 2, "steps": 250, "lr": 4e-3}
    entrant = Entrant("udr", "anytask.incontext:UDR", params)
    udr = problem.run(entrant, data, seed=0)
    assert udr.metrics["helpful"] > cosine.metrics["helpful"] + 0.05
    assert "mined_gain" in udr.metrics
    assert udr.kind == "sim" and udr.cost["lm_calls"] > 3 * 120 * 50
    with pytest.raises(BadData, match="built-in worlds are"):
        problem.load("digits")
