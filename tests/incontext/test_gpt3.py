import hashlib
import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.incontext.gpt3 import GPT3
from anytask.incontext.gpt3.model import SIZES, GPT3ForCausalLM, build_gpt3, count_parameters, gpt3_config
from anytask.incontext.gpt3.training import Recipe, next_token_loss, pack, parameter_groups, pretrain
from anytask.lm.accounts import Accounts
from anytask.lm.local import LocalLM
from anytask.lm.local.generation import penalty
from anytask.lm.option_scoring import calibrate, check_options, normalize, score_options, score_shared_suffix
from anytask.lm.prompting import PromptTemplate
from anytask.lm.protocol import Capabilities, ChatReply, Choice, OptionScore

WORDS = "the cat dog sat ran Input Label : good bad great film song is a . yes no"


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocab = {w: i for i, w in enumerate(["[EOT]", "[UNK]", "\n", *WORDS.split()])}
    tok = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tok.pre_tokenizer = pre_tokenizers.Split(transformers_regex(), "removed", invert=True)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok, eos_token="[EOT]", pad_token="[EOT]", unk_token="[UNK]"
    )


def transformers_regex():
    from tokenizers import Regex

    return Regex(r"[A-Za-z]+|\n|[^\sA-Za-z]")


@pytest.fixture(scope="module")
def lm():
    tok = tokenizer()
    config = gpt3_config(L=2, d=32, heads=2, n_ctx=64, vocab_size=len(tok), eos_token_id=0)
    config.initializer_range = 0.3  # far from uniform, so that ranks are not ties
    return LocalLM((build_gpt3(config).eval(), tok), name="random")


class Scripted:
    """A scoring model that looks log-probabilities up: (prompt's last line, option) -> token log-probabilities."""

    name, kind, context_length = "scripted", "sim", 200

    def __init__(self, table, default=(-5.0,), logprobs=True):
        self.table, self.default, self.prompts = table, default, []
        self.capabilities = Capabilities(logprobs=logprobs, completions=True, local_weights=True)
        self.usage = Accounts()

    def score(self, prompts, options, *, tag="score"):
        self.prompts += prompts
        self.usage.record(tag, calls=len(prompts), prompt_tokens=sum(map(self.count_tokens, prompts)))
        rows = []
        for p, row in zip(prompts, options):
            values = [self.table.get((p.split("\n")[-1] if "\n" in p else p, o), self.default) for o in row]
            rows.append([OptionScore(sum(v), len(v), len(o.encode()), tuple(v)) for v, o in zip(values, row)])
        return rows

    def generate(self, prompts, **options):
        self.prompts += prompts
        self.options = options
        return [" 42 is the answer"] * len(prompts)

    def count_tokens(self, text):
        return len(text.split())


# --- A: the model


def test_parameter_counts_are_the_papers():
    assert round(count_parameters(12, 768) / 1e6, 1) == 125.2
    assert round(count_parameters(96, 12288) / 1e9, 1) == 174.6
    config = gpt3_config(L=3, d=24, heads=2, n_ctx=32, vocab_size=50)
    assert sum(p.numel() for p in build_gpt3(config).parameters()) == count_parameters(3, 24, 50, 32)


def test_size_table_is_self_consistent():
    assert {row.d / row.heads for row in SIZES.values()} == {64, 80, 96, 128}
    assert SIZES["1.3B"].heads == 16 and SIZES["13B"].d == 5120
    assert gpt3_config("125M").window_size == 2048 // 8


def test_attention_is_scaled_banded_and_causal():
    config = gpt3_config(L=2, d=16, heads=2, n_ctx=12, vocab_size=9, window=3)
    model = build_gpt3(config).eval()
    x = torch.randn(1, 12, 16, generator=torch.Generator().manual_seed(0))
    i, j = torch.arange(12)[:, None], torch.arange(12)[None]
    for layer, mask in ((0, j <= i), (1, (j <= i) & (i - j < 3))):
        attention = model.transformer.h[layer].attn.attention
        q, k, v = (
            f(x).view(1, 12, 2, 8).transpose(1, 2) for f in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # divides by sqrt(8)
        expected = attention.out_proj(expected.transpose(1, 2).reshape(1, 12, 16))
        torch.testing.assert_close(attention(x)[0], expected)


def test_residual_outputs_start_smaller_by_sqrt_2L():
    model = build_gpt3(gpt3_config(L=8, d=64, heads=4, n_ctx=16, vocab_size=20))
    for block in model.transformer.h:
        for layer in (block.attn.attention.out_proj, block.mlp.c_proj):
            assert layer.weight.std().item() == pytest.approx(0.02 / 4, rel=0.06)
        for layer in (block.attn.attention.q_proj, block.mlp.c_fc):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.06)


def test_saved_model_loads_as_itself(tmp_path):
    model = build_gpt3(gpt3_config(L=2, d=16, heads=2, n_ctx=16, vocab_size=20)).eval()
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, GPT3ForCausalLM)
    ids = torch.arange(10)[None]
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits)


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a = build_gpt3(gpt3_config(L=1, d=16, heads=2, n_ctx=8, vocab_size=9), seed=1)
    assert torch.equal(torch.rand(3), expected)
    b = build_gpt3(gpt3_config(L=1, d=16, heads=2, n_ctx=8, vocab_size=9), seed=1)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))


# --- B: the recipe


@pytest.mark.parametrize(
    ("tokens", "lr"), [(0, 0), (187.5e6, 3e-4), (375e6, 6e-4), (130.1875e9, 3.3e-4), (260e9, 6e-5), (300e9, 6e-5)]
)
def test_learning_rate_in_tokens(tokens, lr):
    assert Recipe().learning_rate(tokens) == pytest.approx(lr, rel=1e-9)


def test_batch_ramp_is_linear():
    recipe = Recipe(first_batch_tokens=100, batch_tokens=500, ramp_tokens=1000)
    assert [recipe.batch_size(t) for t in (0, 500, 1000, 5000)] == [100, 300, 500, 500]


@given(st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=12), st.integers(2, 7))
def test_packing_loses_nothing_but_the_tail(documents, n_ctx):
    flat = [t for d in documents for t in [*d, 0]]
    packed = list(pack(documents, n_ctx, end_of_text=0))
    assert all(len(s) == n_ctx for s in packed)
    assert [t for s in packed for t in s] == flat[: len(flat) // n_ctx * n_ctx]


def test_no_mask_between_packed_documents():
    model = build_gpt3(gpt3_config(L=1, d=16, heads=2, n_ctx=8, vocab_size=9)).eval()
    a, b = torch.tensor([[1, 2, 0, 3, 4]]), torch.tensor([[5, 6, 0, 3, 4]])
    assert not torch.allclose(model(a).logits[0, -1], model(b).logits[0, -1])


def test_recipe_uses_decay_on_matrices_only_and_clips(monkeypatch):
    model = build_gpt3(gpt3_config(L=1, d=16, heads=2, n_ctx=8, vocab_size=9))
    decayed, free = parameter_groups(model, 0.1)
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0.0
    assert all(p.ndim == 2 for p in decayed["params"]) and all(p.ndim == 1 for p in free["params"])
    made = []
    adam = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, **how: made.append(adam(*args, **how)) or made[0])
    ids = torch.randint(9, (4, 8), generator=torch.Generator().manual_seed(0)).tolist()
    assert len(pretrain(model, Recipe.scaled(8 * 64, lr=1e-3, batch_tokens=8 * 4, max_grad_norm=1e-3), ids)) == 1
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    group = made[0].param_groups[0]
    assert group["betas"] == (0.9, 0.95) and group["eps"] == 1e-8


def test_batches_grow_and_rates_follow_the_tokens_seen_until_the_total():
    recipe = Recipe(
        lr=1.0,
        total_tokens=200,
        warmup_tokens=40,
        decay_tokens=150,
        first_batch_tokens=20,
        batch_tokens=60,
        ramp_tokens=80,
    )
    # 20 tokens, then 20 + 40/4 = 30, 20 + 50 * 40/80 = 45, and 60; in sequences of 10.
    assert list(recipe.batches(10)) == [(2, 20), (3, 50), (4, 90), (6, 150), (6, 210)]
    model = build_gpt3(gpt3_config(L=1, d=16, heads=2, n_ctx=10, vocab_size=9))
    with pytest.raises(ValueError, match="no sequence"):
        pretrain(model, recipe, [])
    shares = []
    assert (
        len(pretrain(model, Recipe(**recipe.get_params() | {"lr": 1e-3}), [[1] * 10] * 6, progress=shares.append)) == 3
    )
    assert shares == sorted(shares) and shares[-1] == 1.0  # the third batch has what is left, one sequence


def test_micro_batches_make_the_same_step():
    ids = torch.randint(9, (5, 8), generator=torch.Generator().manual_seed(0)).tolist()
    losses = []
    for micro in (5, 2):
        model = build_gpt3(gpt3_config(L=1, d=16, heads=2, n_ctx=8, vocab_size=9))
        recipe = Recipe.scaled(8 * 500, lr=1e-3, batch_tokens=40)
        losses.append(pretrain(model, recipe, [*ids, *ids], micro_batch=micro))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(losses[0]) == 2


def test_initial_loss_is_that_of_the_uniform_distribution():
    model = build_gpt3(gpt3_config(L=2, d=32, heads=2, n_ctx=16, vocab_size=100))
    ids = torch.randint(100, (8, 16), generator=torch.Generator().manual_seed(0))
    assert next_token_loss(model, ids).item() == pytest.approx(math.log(100), abs=0.05)


def test_a_loss_that_is_not_finite_leaves_the_weights_alone():
    model = build_gpt3(gpt3_config(L=1, d=16, heads=2, n_ctx=8, vocab_size=9))
    with torch.no_grad():
        model.transformer.ln_f.bias[0] = float("inf")
    before = model.transformer.wpe.weight.clone()
    with pytest.raises(FloatingPointError, match="the loss of pre-training at step 1"):
        pretrain(model, Recipe.scaled(8 * 64, lr=1e-3, batch_tokens=16), [[1] * 8] * 2)
    assert torch.equal(before, model.transformer.wpe.weight)


# --- D: context construction


def pool(n=12):
    return [f"the {w} film is song {i}" for i, w in enumerate(["good", "bad"] * (n // 2))], ["yes", "no"] * (n // 2)


def test_per_item_demonstrations_differ_between_queries_and_fixed_ones_do_not(lm):
    X, y = pool()
    own = GPT3(lm, k=3).fit(X, y)
    assert own.prompt("a cat").demos_used == own.prompt("a cat").demos_used
    assert len({own.prompt(f"cat {i}").demos_used for i in range(10)}) > 5
    shared = GPT3(lm, k=3, demos="fixed").fit(X, y)
    assert len({shared.prompt(f"cat {i}").demos_used for i in range(10)}) == 1
    assert GPT3(lm, k=3, seed=1).fit(X, y).prompt("a cat").demos_used != own.prompt("a cat").demos_used


def test_demonstrations_are_drawn_uniformly_without_replacement(lm):
    X, y = pool()
    learner = GPT3(lm, k=3).fit(X, y)
    used = [learner.prompt(f"query {i}").demos_used for i in range(600)]
    assert all(len(set(u)) == 3 for u in used)
    counts = np.bincount(np.ravel(used), minlength=12)
    assert counts.min() > 150 - 4 * 11 and counts.max() < 150 + 4 * 11  # 600 * 3 / 12, standard deviation 10.6


def test_max_takes_what_fits_and_never_cuts_description_or_query(lm):
    X, y = pool()
    learner = GPT3(lm, k="max", description="good or bad").fit(X, y)
    prompt = learner.prompt("the cat", reserve=2)
    assert prompt.text.startswith("good or bad\n\n") and prompt.text.endswith("Input: the cat\nLabel:")
    assert 0 < len(prompt.demos_used) < 12 and prompt.n_tokens <= 62
    longer = PromptTemplate(description="good or bad").assemble(
        [learner.pool_[i] for i in (0, *prompt.demos_used)], "the cat", count_tokens=lm.count_tokens
    )
    assert longer.n_tokens > 62
    with pytest.raises(ValueError, match="never cut"):
        learner.prompt("cat " * 70)


def test_zero_shot_and_one_shot(lm):
    X, y = pool()
    assert GPT3(lm, k=0, description="D").fit([], [], options=["yes", "no"]).prompt("q").text == "D\n\nInput: q\nLabel:"
    assert GPT3(lm, k=1).fit(X, y).prompt("q").text.count("Label:") == 2


def test_a_query_in_the_pool_is_excluded_refused_or_shown(lm):
    X, y = pool(4)
    query = X[1].upper()  # the same but for case
    assert all(1 not in GPT3(lm, k=3, seed=s).fit(X, y).prompt(query).demos_used for s in range(5))
    assert 1 in GPT3(lm, k=4, leak="allow").fit(X, y).prompt(query).demos_used
    with pytest.raises(ValueError, match="stands in the pool at 1"):
        GPT3(lm, k=2, leak="error").fit(X, y).prompt(query)
    assert sorted(GPT3(lm, k=4).fit(X, y).prompt(query).demos_used) == [0, 2, 3]


def test_balanced_draws_show_every_output(lm):
    X, y = [f"q {i}" for i in range(20)], ["yes"] * 18 + ["no"] * 2
    learner = GPT3(lm, k=4, balanced=True).fit(X, y)
    for i in range(10):
        shown = [y[j] for j in learner.prompt(f"cat {i}").demos_used]
        assert sorted(shown) == ["no", "no", "yes", "yes"]


def test_retriever_puts_the_most_similar_next_to_the_query(lm):
    class Nearest:
        def retrieve(self, query, k):
            return [5, 2, 7, 1][:k]

    X, y = pool()
    assert GPT3(lm, k=3, demos=Nearest()).fit(X, y).prompt("a cat").demos_used == (7, 2, 5)
    assert GPT3(lm, k=3, demos=Nearest()).fit(X, y).prompt(X[5]).demos_used == (1, 7, 2)


# --- E: scoring


def test_chain_rule(lm):
    """l(c | p) = log P(p + c) - log P(p), log P being the sum over the tokens behind the first."""
    prompt, option = "the cat sat", " a good film"
    (row,) = lm.score([prompt], [[option]])

    def log_p(text):
        ids = torch.tensor([lm.encode(text)])
        with torch.no_grad():
            logp = lm.model(ids).logits.log_softmax(-1)
        return logp[0, :-1].gather(1, ids[0, 1:, None]).sum().item()

    assert row[0].logprob == pytest.approx(log_p(prompt + option) - log_p(prompt), abs=1e-4)
    assert row[0].n_tokens == 3


def test_batches_and_single_options_agree(lm):
    prompts = ["the cat", "Input : a good song is great film . Label :", "a"]
    options = [[" sat", " ran the dog ."], [" good", " bad bad", " yes no yes no"], [" cat"]]
    together = lm.score(prompts, options)
    for p, row, scores in zip(prompts, options, together):
        for o, s in zip(row, scores):
            assert lm.score([p], [[o]])[0][0].logprob == pytest.approx(s.logprob, abs=1e-4)


def test_causality(lm):
    """Changing a later demonstration never changes the log-probabilities of the tokens before it."""
    head = "Input : the cat sat Label : yes "
    a, b = (torch.tensor([lm.encode(head + tail)]) for tail in ("Input : a dog", "Label bad great"))
    n = len(lm.encode(head))
    with torch.no_grad():
        torch.testing.assert_close(lm.model(a).logits[:, :n], lm.model(b).logits[:, :n])


def test_three_rules_disagree():
    table = {("p", " A"): (-1.0,), ("p", " B"): (-0.6, -0.6), ("a", " A"): (-1.2,), ("a", " B"): (-3.0,)}
    model = Scripted(table)
    choose = {
        rule: score_options(model, ["p"], [[" A", " B"]], rule=rule, answer_context="a")[0]
        for rule in ("sum", "mean", "unconditional")
    }
    assert choose["sum"].argmax() == 0 and choose["mean"].argmax() == 1
    np.testing.assert_allclose(choose["unconditional"], [0.2, 1.8])


def test_sum_prefers_the_short_wrong_option_and_the_mean_does_not():
    items = [f"Q{i}" for i in range(6)]
    table = {}
    for q in items:
        table[q, " no"] = (-1.5,)  # short and wrong
        table[q, " the old long answer"] = (-0.6, -0.6, -0.6, -0.6)
    right = {
        rule: np.mean([s.argmax() == 1 for s in score_options(
            Scripted(table), items, [[" no", " the old long answer"]] * 6, rule=rule)])
        for rule in ("sum", "mean")
    }  # fmt: skip
    assert right == {"sum": 0.0, "mean": 1.0}


def test_unconditional_beats_both_when_one_option_is_a_frequent_string():
    table = {("A:", " the"): (-0.5,), ("A:", " zebra fish"): (-6.0, -2.0)}
    for i in range(5):
        table[f"Q{i}", " the"] = (-1.0,)  # frequent everywhere
        table[f"Q{i}", " zebra fish"] = (-2.5, -1.0)  # far likelier here than elsewhere
    how = {
        rule: score_options(
            Scripted(table), [f"Q{i}" for i in range(5)], [[" the", " zebra fish"]] * 5, rule=rule, answer_context="A:"
        )
        for rule in ("sum", "mean", "unconditional")
    }
    assert [int(np.mean([s.argmax() for s in how[r]])) for r in ("sum", "mean", "unconditional")] == [0, 0, 1]


def test_bytes_are_not_tokens():
    score = OptionScore(-6.0, 2, 12)
    assert normalize(score, "bytes") == -0.5 and normalize(score, "mean") == -3.0


def test_partial_evaluation_scores_the_shared_suffix_alone(lm):
    prefix, candidates, suffix = "the", [" cat", " dog"], " sat a ."
    got = score_shared_suffix(lm, prefix, candidates, suffix)
    for value, candidate in zip(got, candidates):
        assert value == pytest.approx(lm.score([prefix + candidate], [[suffix]])[0][0].logprob, abs=1e-5)
    with pytest.raises(ValueError, match="after the candidate"):
        score_shared_suffix(lm, prefix, candidates, " ")


def test_length_penalty_of_beams():
    assert [round(penalty(n, 0.6), 4) for n in (1, 5, 10)] == [1.0, 1.3587, 1.7329]


def test_generated_answers_use_the_papers_beam_and_stop_at_the_line():
    model = Scripted({})
    learner = GPT3(model, k=1, scoring="generate").fit(["q"], ["a"])
    assert learner.predict(["x"])[0] == "42 is the answer"
    assert model.options["beam_width"] == 4 and model.options["length_penalty"] == 0.6
    assert model.options["stop"] == ("\n",)
    assert GPT3(model, k=1, scoring="cloze").fit(["q"], ["a"]).predict(["x"])[0] == "42"


@settings(max_examples=50)
@given(st.lists(st.floats(-5, 0), min_size=3, max_size=3))
def test_calibration_makes_an_item_without_content_undecided(scores):
    np.testing.assert_allclose(calibrate(np.array(scores), np.array([scores])), 0, atol=1e-9)


def test_calibration_undoes_a_label_bias():
    class Biased(Scripted):
        """Likes "yes" whatever it reads, and knows that the answer to "x" is "no"."""

        def score(self, prompts, options, *, tag="score"):
            knows = [p.endswith("Input: x\nLabel:") for p in prompts]
            return [
                [OptionScore((2.0 if o == " yes" else 1.0 * known) - 5, 1, 4) for o in row]
                for known, row in zip(knows, options)
            ]

    plain, calibrated = (
        GPT3(Biased({}), k=0, calibrate=c).fit([], [], options=["yes", "no"]).predict(["x"])[0] for c in (False, True)
    )
    assert (plain, calibrated) == ("yes", "no")


def test_answers_say_what_was_shown_and_what_it_cost():
    model = Scripted({("Label:", " yes"): (-0.1,)})
    learner = GPT3(model, k=2).fit(*pool(4))
    (answer,) = learner.answer(["x"])
    assert answer.output == "yes" and len(answer.demos) == 2 and answer.kind == "sim"
    assert set(answer.scores) == {"yes", "no"} and answer.prompt.text == model.prompts[-1]
    assert learner.cost_.calls == 1 and learner.cost_.prompt_tokens == answer.prompt.n_tokens
    proba = learner.predict_proba(["x", "z"])
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert proba[0, learner.options_.index("yes")] == pytest.approx(1 / (1 + math.exp(-4.9)))


def test_multiple_choice_items_bring_their_own_options():
    model = Scripted({("Label:", " b"): (-0.1,), ("Label:", " d"): (-0.1,)})
    learner = GPT3(model, k=0).fit([], [])
    assert list(learner.predict(["x", "y"], options=[["a", "b"], ["d", "c"]])) == ["b", "d"]
    with pytest.raises(ValueError, match="no options"):
        learner.predict(["x"])


def test_no_weight_moves(lm):
    def digest():
        return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in lm.model.parameters())).hexdigest()

    before = digest()
    GPT3(lm, k=2, calibrate=True).fit(*pool()).predict(["a cat", "a dog"])
    assert digest() == before


def test_results_do_not_depend_on_the_order_of_the_queries(lm):
    learner = GPT3(lm, k=2).fit(*pool())
    queries = [f"the cat {w}" for w in ("sat", "ran", "good", "bad")]
    assert list(learner.predict(queries)) == list(learner.predict(queries[::-1]))[::-1]


# --- errors


def test_chat_only_endpoint_scores_nothing_but_writes_and_chooses():
    class Chat:
        name, kind, capabilities = "chat-only", "http", Capabilities()

        def chat_many(self, requests, max_concurrency=8):
            self.requests = requests
            return [ChatReply((Choice({"role": "assistant", "content": "yes"}),)) for _ in requests]

    chat = Chat()
    learner = GPT3(chat, k=2, scoring="generate").fit(*pool(4))
    assert list(learner.predict(["x"])) == ["yes"] and learner.cost_ is None
    assert chat.requests[0].messages[0]["content"].count("Label:") == 3
    with pytest.raises(ValueError, match="budget="):
        GPT3(chat, "max", scoring="generate")
    assert list(GPT3(chat, k=2).fit(*pool(4), options=["yes", "no"]).predict(["x"])) == ["yes"]


def test_k_is_the_most_and_small_unless_all_that_fit_are_wanted():
    X, y = [f"film {i}" for i in range(12)], ["yes", "no"] * 6
    for k, shown in (({"k": 2}, 2), ({}, 8), ({"k": "max"}, 12), ({"k": 20}, 12)):
        assert len(GPT3(Scripted({}), **k).fit(X, y).prompt("a cat").demos_used) == shown


def test_inputs_are_rewritten_and_drawn_by_what_they_were(lm):
    X, y = pool()
    plain, short = (GPT3(lm, k=3, rewrite=one).fit(X, y) for one in (None, lambda text: text.split()[1]))
    a, b = plain.prompt(X[2]), short.prompt(X[2])
    assert a.demos_used == b.demos_used and 2 not in b.demos_used
    assert b.text == "\n\n".join(
        [f"Input: {X[i].split()[1]}\nLabel: {y[i]}" for i in b.demos_used] + ["Input: good\nLabel:"]
    )


def test_options_that_no_rule_can_tell_apart_are_refused():
    with pytest.raises(ValueError, match="empty"):
        check_options(["a", " "], "mean")
    with pytest.raises(ValueError, match="differ"):
        check_options(["a", "a"], "mean")
    with pytest.raises(ValueError, match="beginning of"):
        check_options(["yes", "no", "yes please"], "sum")
    check_options(["yes", "no", "yes please"], "mean")
    with pytest.raises(ValueError, match="0 tokens"):
        normalize(OptionScore(0.0, 0, 0), "mean")
    with pytest.raises(ValueError, match="answer_context"):
        score_options(Scripted({}), ["p"], [[" a", " b"]], rule="unconditional")
