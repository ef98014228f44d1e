"""LocalLM against the plainest possible computation with the same weights."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_models import bpe_tokenizer, random_model, word_tokenizer

from anytask.core.progress import silent
from anytask.incontext import GPT3
from anytask.lm import BadNumber, BudgetExceeded, LocalLM, MissingCapability, load_lm
from anytask.lm.cache import ScoreCache
from anytask.lm.local import weights
from anytask.lm.local.generation import draw, penalty
from anytask.lm.protocol import ChatRequest, Sampling, ScoringModel
from anytask.problems.language import TextOptions

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
DEMONSTRATIONS = "Review: it was great\nLabel: positive\n\nReview: it was awful\nLabel: negative\n\n"
PROMPTS = [
    DEMONSTRATIONS + "Review: a fine old film\nLabel:",
    DEMONSTRATIONS + "Review: dull\nLabel:",
    "The film was",
    "one two three four",
    DEMONSTRATIONS + "Review: the film was good , and the one two three\nLabel:",
    "",
]
OPTIONS = [
    [" positive", " negative"],
    [" positive", " maybe"],
    [" good .", " bad", "x"],
    [" five six seven"],
    [" a"],
    ["The"],
]


def make(kind: str, **options) -> LocalLM:
    if kind == "bert":
        words = "the film was good bad fine dull very . , one two three"
        return LocalLM((random_model("bert", t := word_tokenizer(words, ends=True)), t), **options)
    tokenizer = bpe_tokenizer(bos=kind != "gpt2")
    return LocalLM((random_model(kind, tokenizer), tokenizer), **options)


def plain_logprobs(lm: LocalLM, prompt: str, option: str) -> list[float]:
    """One forward pass over the whole text, no cache, no padding."""
    head = list(lm.codec.head) or ([] if prompt else [lm.tokenizer.bos_token_id])
    joint = lm.encode(prompt + option)
    n = next(
        (i for i, (a, b) in enumerate(zip(lm.encode(prompt), joint)) if a != b), min(len(lm.encode(prompt)), len(joint))
    )
    ids = torch.tensor([head + joint])
    with torch.no_grad():
        logp = lm.model(ids).logits[0].log_softmax(-1)
    return [float(logp[t - 1, ids[0, t]]) for t in range(len(head) + n, ids.shape[1])]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral"])
@pytest.mark.parametrize("batch_tokens", [1, 200, 8192])
def test_batched_scores_equal_one_plain_forward_per_option(kind, batch_tokens):
    lm = make(kind, batch_tokens=batch_tokens)
    for prompt, row, scores in zip(PROMPTS, OPTIONS, lm.score(PROMPTS, OPTIONS)):
        for option, score in zip(row, scores):
            assert score.token_logprobs == pytest.approx(plain_logprobs(lm, prompt, option), abs=1e-4)
            assert score.logprob == pytest.approx(sum(score.token_logprobs))
            assert score.n_tokens == len(score.token_logprobs)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.text("ab ,\n", max_size=30), st.text("ab yé", min_size=1, max_size=5)), min_size=1, max_size=5
    )
)
def test_a_score_does_not_depend_on_its_batch(pairs):
    lm = _SHARED
    together = lm.score([p for p, _ in pairs], [[o] for _, o in pairs])
    for (prompt, option), (score,) in zip(pairs, together):
        assert score.logprob == pytest.approx(lm.score([prompt], [[option]])[0][0].logprob, abs=1e-4)


_SHARED = make("gpt2")


def test_probabilities_of_all_next_tokens_sum_to_one():
    tokenizer = word_tokenizer("a b c d e", bos_token="a", eos_token="b")
    lm = LocalLM((random_model("gpt2", tokenizer), tokenizer))
    words = [w for w in tokenizer.get_vocab() if w not in tokenizer.all_special_tokens] + list(
        tokenizer.all_special_tokens
    )
    scores = lm.score(["c d"], [[f" {w}" for w in dict.fromkeys(words)]])[0]
    assert sum(torch.tensor(s.logprob).exp().item() for s in scores) == pytest.approx(1.0, abs=1e-5)


def test_shared_beginnings_are_computed_once():
    lm = make("gpt2")
    prompts = [DEMONSTRATIONS + f"Review: {word}\nLabel:" for word in ("one", "two", "three", "four")]
    lm.score(prompts, [[" positive", " negative"]] * 4)
    used = lm.usage["score"]
    assert used.calls == 4
    assert used.prompt_tokens == sum(map(lm.count_tokens, prompts))
    assert used.forward_tokens < 0.5 * used.prompt_tokens


def test_a_token_over_the_border_is_scored_from_the_last_common_token():
    lm = make("gpt2")
    prompt, option = "The film was g", "ood ."  # " good" is one token: "The film was" is what both have in common
    assert lm.encode(prompt + option)[: len(lm.encode(prompt))] != lm.encode(prompt)
    (score,) = lm.score([prompt], [[option]])[0]
    (whole,) = lm.score(["The film was"], [[" good ."]])[0]
    assert score.logprob == pytest.approx(whole.logprob, abs=1e-5)
    assert score.n_bytes == len(" good .")


def test_bytes_are_utf8_bytes():
    assert make("gpt2").score(["one"], [[" é"]])[0][0].n_bytes == 3


def test_seq2seq_scores_equal_a_plain_decoder_pass():
    lm = make("t5")
    prompts, options = ["The film was", "one two three four five"], [[" good", " bad ."], [" yes"]]
    for prompt, row, scores in zip(prompts, options, lm.score(prompts, options)):
        for option, score in zip(row, scores):
            ids = torch.tensor([lm.encode(option)])
            start = torch.tensor([[lm.tokenizer.pad_token_id]])
            with torch.no_grad():
                logits = lm.model(
                    input_ids=torch.tensor([lm.codec.encode(prompt, special=True)]),
                    decoder_input_ids=torch.cat([start, ids[:, :-1]], 1),
                ).logits
            expected = logits.log_softmax(-1)[0].gather(1, ids[0][:, None]).sum()
            assert score.logprob == pytest.approx(float(expected), abs=1e-4)


def test_masked_verbalizer_fills_the_mask_and_otherwise_each_token_is_masked_in_turn():
    lm = make("bert")
    ids = lm.codec.encode("the film was [MASK] .", special=True)
    with torch.no_grad():
        logp = lm.model(torch.tensor([ids])).logits[0, ids.index(lm.tokenizer.mask_token_id)].log_softmax(-1)
    good = lm.encode("good")[0]
    assert lm.score(["the film was [MASK] ."], [["good"]])[0][0].logprob == pytest.approx(float(logp[good]), abs=1e-4)

    expected = 0.0
    ids = lm.codec.encode("the film was very dull", special=True)
    for t in (4, 5):  # [CLS] the film was very dull [SEP]
        hidden = [lm.tokenizer.mask_token_id if i == t else x for i, x in enumerate(ids)]
        with torch.no_grad():
            expected += float(lm.model(torch.tensor([hidden])).logits[0, t].log_softmax(-1)[ids[t]])
    (score, _) = lm.score(["the film was", "one"], [[" very dull"], [" two three one"]])[0][0], None
    assert score.logprob == pytest.approx(expected, abs=1e-4)
    assert score.n_tokens == 2
    with pytest.raises(MissingCapability, match="generate needs a model with completions"):
        lm.generate(["the"])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "t5"])
def test_greedy_text_equals_transformers_generate_one_by_one(kind):
    lm = make(kind)
    prompts = [p for p in PROMPTS if p]
    texts = lm.generate(prompts, max_tokens=12)
    for prompt, text in zip(prompts, texts):
        ids = torch.tensor([lm._reader.prompt_ids(prompt)])
        out = lm.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
        )[0].tolist()
        new = out[1:] if kind == "t5" else out[ids.shape[1] :]
        assert text == lm.codec.continuation(() if kind == "t5" else ids[0].tolist(), new)


def test_beam_search_with_a_wide_beam_finds_the_best_sequence():
    tokenizer = word_tokenizer("a b c", bos_token="a", eos_token="b")
    lm = LocalLM((random_model("gpt2", tokenizer, seed=3), tokenizer))
    n, vocabulary = 3, len(tokenizer)
    for alpha in (0.0, 1.0, 2.0):
        best: tuple[float, list[int]] = (-1e9, [])
        stack: list[tuple[float, list[int]]] = [(0.0, [])]
        while stack:  # every sequence of at most three tokens
            logp, ids = stack.pop()
            with torch.no_grad():
                row = lm.model(torch.tensor([[*lm._reader.prompt_ids("c a"), *ids]])).logits[0, -1].log_softmax(-1)
            for token in range(vocabulary):
                value = logp + float(row[token])
                if token == tokenizer.eos_token_id or len(ids) + 1 == n:
                    kept = ids if token == tokenizer.eos_token_id else [*ids, token]
                    best = max(best, (value / penalty(len(ids) + 1, alpha), kept))
                else:
                    stack.append((value, [*ids, token]))
        how = Sampling(n, beam_width=vocabulary**2, length_penalty=alpha)
        found = lm._generate([lm._reader.prompt_ids("c a")], [0], how, "t", silent)[0]
        assert found.ids == best[1]


def test_the_length_penalty_is_gnmt():
    assert penalty(1, 0.7) == 1.0
    assert penalty(7, 1.0) == 2.0


def test_sampling_follows_the_distribution_and_top_p_cuts_it():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(1000, 1)
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert torch.bincount(draw(logits, 1.0, uniform), minlength=3).tolist() == pytest.approx([500, 300, 200], abs=1)
    assert torch.bincount(draw(logits, 0.6, uniform), minlength=3).tolist() == pytest.approx([625, 375, 0], abs=1)


def test_samples_depend_on_seed_and_prompt_but_not_on_the_batch():
    lm = make("gpt2")
    alone = lm.generate([PROMPTS[0]], temperature=1.0, seed=1)
    assert lm.generate([PROMPTS[2], PROMPTS[0], PROMPTS[1]], temperature=1.0, seed=1)[1] == alone[0]
    assert lm.generate([PROMPTS[0]], temperature=1.0, seed=2) != alone
    first, second = lm.generate([PROMPTS[0]] * 2, temperature=1.0, seed=1)
    assert first == alone[0] and second != first


def test_text_ends_before_the_first_stop_string():
    lm = make("gpt2")
    text = lm.generate([PROMPTS[2]], max_tokens=20)[0]
    stop = text[4:6]
    assert lm.generate([PROMPTS[2]], max_tokens=20, stop=[stop])[0] == text[: text.index(stop)]


def test_global_random_state_and_training_mode_stay():
    lm = make("gpt2")
    lm.model.train()
    before = torch.get_rng_state()
    lm.score(["one"], [[" two"]])
    lm.generate(["one"], temperature=1.0)
    assert torch.equal(before, torch.get_rng_state())
    assert lm.model.training


@pytest.mark.parametrize("kind", ["gpt2", "t5", "bert"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_never_become_an_answer(kind, value, tmp_path):
    lm = make(kind, name="broken", cache=tmp_path / "scores.sqlite")
    head = lm.model.get_output_embeddings()
    forward = head.forward

    def broken(x):
        logits = forward(x)
        logits[..., 5] = value
        return logits

    head.forward = broken
    ask = [lambda: lm.score(["the film was"], [[" good", " bad"]])]
    if kind != "bert":
        ask += [lambda: lm.logits(["the film was"]), lambda: lm.generate(["the film was"], max_tokens=2)]
        ask += [lambda: lm.generate(["the film was"], max_tokens=2, temperature=1.0)]
        ask += [lambda: lm.generate(["the film was"], max_tokens=2, beam_width=2)]
    if kind == "gpt2":
        ask.append(lambda: lm.score([""], [["the film was"]]))
    for call in ask:
        with pytest.raises(BadNumber, match="'broken' gives logits that are NaN or infinite"):
            call()
    assert lm.usage.total.calls == 0 and len(ScoreCache(tmp_path / "scores.sqlite")) == 0


def test_a_token_that_the_model_rules_out_is_minus_infinity():
    lm = make("gpt2")
    token = lm.encode(" good")[0]
    forward = lm.model.lm_head.forward
    lm.model.lm_head.forward = lambda x: forward(x).index_fill(-1, torch.tensor(token), float("-inf"))
    first, second = lm.score(["The film was"], [[" good", " bad"]])[0]
    assert first.logprob == float("-inf") and second.logprob > -100


def test_a_masked_model_that_is_to_write_is_refused_at_construction():
    with pytest.raises(MissingCapability, match=r"GPT3\(scoring='generate'\) needs a model with chat"):
        GPT3(make("bert"), k=0, scoring="generate")


def test_hidden_states_that_are_no_numbers_are_refused():
    lm = make("gpt2", name="broken")
    with torch.no_grad():
        lm.model.transformer.ln_f.bias[3] = float("nan")
    with pytest.raises(FloatingPointError, match="hidden state of 'broken' is NaN"):
        lm.hidden_states("The film was good", [(4, 8)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1"),
        ({"temperature": float("nan")}, "temperature must be a number of at least 0"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"top_p": 0.0}, "top_p must be"),
        ({"top_p": float("nan")}, "top_p must be"),
        ({"beam_width": 0}, "beam_width must be an integer of at least 1"),
        ({"beam_width": 2, "temperature": 1.0}, "beam search is greedy"),
        ({"length_penalty": float("inf")}, "length_penalty must be a finite number"),
        ({"stop": ["", "x"]}, "a stop string is empty"),
    ],
)
def test_sampling_without_a_meaning_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        _SHARED.generate(["one"], **options)
    if not set(options) - {"max_tokens", "temperature", "top_p"}:
        with pytest.raises(ValueError, match=message):
            ChatRequest(({"role": "user", "content": "one"},), **options)


def test_what_was_scored_before_an_interruption_is_kept(tmp_path):
    lm = make("gpt2", batch_tokens=1, cache=tmp_path / "scores.sqlite")
    start, calls = lm._reader.runner.start, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return start(*args)

    lm._reader.runner.start = interrupted
    with pytest.raises(KeyboardInterrupt):
        lm.score(PROMPTS, OPTIONS)
    assert len(ScoreCache(tmp_path / "scores.sqlite")) > 0
    again = make("gpt2", cache=tmp_path / "scores.sqlite")
    assert again.score(PROMPTS, OPTIONS) and again.usage["score"].calls < len(PROMPTS)


def test_too_long_prompts_and_empty_options_are_refused_by_name():
    tokenizer = bpe_tokenizer()
    lm = LocalLM((random_model("gpt2", tokenizer, positions=16), tokenizer), name="small")
    with pytest.raises(ValueError, match=r"\d+ tokens, and 'small' reads 16"):
        lm.score(["one two " * 20], [["x"]])
    with pytest.raises(ValueError, match="reads 16"):
        lm.generate(["one two " * 20])
    with pytest.raises(ValueError, match="empty option"):
        lm.score(["one"], [["x", ""]])
    with pytest.raises(ValueError, match="2 prompts and 1"):
        lm.score(["a", "b"], [["x"]])
    with pytest.raises(TypeError, match="one string"):
        lm.score("one", [["x"]])
    assert lm.count_tokens(lm.fit("one two " * 20, 7)) <= 7
    assert lm.generate(["one two"], max_tokens=100)[0]  # ends where the context ends


def test_fit_keeps_the_end_or_the_start():
    lm = make("gpt2")
    assert lm.fit("one two three four", 2) == " three four"
    assert lm.fit("one two three four", 2, keep="start").startswith("one")


def test_hidden_states_are_the_mean_over_the_tokens_of_a_span():
    lm = make("llama")
    text = "The film was good"
    ids = lm.codec.encode(text, special=True)
    with torch.no_grad():
        states = lm.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
    _, spans = lm.codec.encode_with_spans(text, special=True)
    inside = [t for t, (a, b) in enumerate(spans) if a < 12 and b > 4]
    torch.testing.assert_close(lm.hidden_states(text, [(4, 12)], layer=1)[0], states[inside].mean(0))
    with pytest.raises(ValueError, match="not inside"):
        lm.hidden_states(text, [(4, 99)])


def test_logits_agree_with_scores():
    lm = make("llama")
    token = lm.encode(" good")[0]
    row = lm.logits(["The film was", "one"])[0].log_softmax(-1)
    assert lm.score(["The film was"], [[lm.decode([token])]])[0][0].logprob == pytest.approx(
        float(row[token]), abs=1e-4
    )


def test_scores_are_kept_on_disk_until_the_weights_change(tmp_path):
    lm = make("gpt2", cache=tmp_path / "scores.sqlite")
    first = lm.score(PROMPTS, OPTIONS)
    calls = lm.usage["score"].calls
    assert lm.score(PROMPTS, OPTIONS) == first
    assert lm.usage["score"].calls == calls
    assert lm.usage["score"].cache_hits == len(PROMPTS)
    other = make("gpt2", cache=ScoreCache(tmp_path / "scores.sqlite"))
    assert other.score(PROMPTS, OPTIONS) == first
    assert other.usage.total.calls == 0
    with torch.no_grad():
        other.model.transformer.ln_f.bias += 1.0
    assert other.score(PROMPTS[:1], OPTIONS[:1]) != first[:1]
    assert other.usage.total.calls == 1


def test_a_folder_loads_and_a_missing_one_is_one_clear_line(tmp_path):
    for kind in ("gpt2", "t5", "bert"):
        lm = make(kind)
        lm.model.save_pretrained(tmp_path / kind)
        lm.tokenizer.save_pretrained(tmp_path / kind)
        again = LocalLM(tmp_path / kind)
        assert again.objective == lm.objective and again.name == kind
        assert again.score(["one two"], [[" three"]])[0][0].logprob == pytest.approx(
            lm.score(["one two"], [[" three"]])[0][0].logprob, abs=1e-5
        )
    with pytest.raises(ValueError, match="no such folder"):
        LocalLM(tmp_path / "nothing")
    with pytest.raises(TypeError, match="pair"):
        LocalLM(3)
    assert isinstance(again, ScoringModel)


def test_threads_count_every_call_and_get_the_same_scores():
    lm = make("gpt2")
    expected = lm.score(PROMPTS, OPTIONS)
    lm.usage.reset()
    results: list[list] = []
    threads = [threading.Thread(target=lambda: results.append(lm.score(PROMPTS, OPTIONS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and all(r == expected for r in results)
    assert lm.usage["score"].calls == 8 * len(PROMPTS)


def test_chat_goes_through_the_template_and_needs_one():
    lm = make("llama")
    request = ChatRequest(({"role": "user", "content": "one two"},), max_tokens=5, tag="me")
    with pytest.raises(MissingCapability, match="chat template"):
        lm.chat(request)
    tokenizer = bpe_tokenizer(bos=True)
    tokenizer.chat_template = TEMPLATE
    lm = LocalLM((random_model("llama", tokenizer), tokenizer), kind="tiny")
    reply = lm.chat(request)
    ids = tuple(lm.encode("user: one two\nassistant: "))
    expected = lm._generate([ids], [0], Sampling(5), "x", silent)[0]
    assert reply.text == expected.text and reply.kind == "tiny"
    assert reply.usage.prompt_tokens == len(ids)
    sampled = lm.chat(ChatRequest(request.messages, temperature=1.0, n=3, max_tokens=5, seed=4))
    assert len({c.text for c in sampled.choices}) == 3
    assert lm.chat_many([request, request])[1].text == reply.text


def test_equal_questions_are_one_call_and_progress_ends_at_one():
    lm, shares = make("gpt2"), []
    rows = lm.score(
        [PROMPTS[0]] * 3, [[" positive"], [" negative", " positive"], [" negative"]], progress=shares.append
    )
    assert rows[0][0] == rows[1][1] and rows[1][0] == rows[2][0]
    used = lm.usage["score"]
    assert (used.calls, used.prompt_tokens) == (1, lm.count_tokens(PROMPTS[0]))
    assert used.completion_tokens == rows[0][0].n_tokens + rows[2][0].n_tokens
    assert lm.generate([PROMPTS[0], "one", PROMPTS[0]], max_tokens=2, progress=shares.append)[0]
    assert lm.usage["generate"].calls == 2 and lm.generate([]) == []
    assert shares[-1] == 1


def test_a_chat_template_is_put_around_prompts_by_choice():
    tokenizer = bpe_tokenizer(bos=True)
    model = random_model("llama", tokenizer)
    with pytest.raises(MissingCapability, match="chat_template=True"):
        LocalLM((model, tokenizer), chat_template=True)
    tokenizer.chat_template = "<s>" + TEMPLATE  # as Llama's has it
    plain, chat = LocalLM((model, tokenizer)), LocalLM((model, tokenizer), chat_template=True)
    [[score]] = chat.score(["one two"], [[" three"]])
    ids = torch.tensor([tokenizer("<s>user: one two\nassistant: three", add_special_tokens=False)["input_ids"]])
    assert ids[0].tolist().count(tokenizer.bos_token_id) == 1
    with torch.no_grad():
        logp = model(ids).logits[0].log_softmax(-1)
    expected = [float(logp[t - 1, ids[0, t]]) for t in range(ids.shape[1] - score.n_tokens, ids.shape[1])]
    assert score.token_logprobs == pytest.approx(expected, abs=1e-4)
    request = ChatRequest(({"role": "user", "content": "one two"},), max_tokens=5)
    assert chat.generate(["one two"], max_tokens=5) == [plain.chat(request).text]
    assert chat.context_length < plain.context_length


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="the processor has no bfloat16 numbers")
def test_bfloat16_is_near_and_auto_takes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "multiplies_bfloat16", lambda device: True)
    lm = make("llama")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    exact = LocalLM(tmp_path, device="cpu").score(PROMPTS[:2], OPTIONS[:2])
    for dtype in ("bfloat16", "auto"):
        half = LocalLM(tmp_path, device="cpu", dtype=dtype)
        assert half.model.dtype == torch.bfloat16
        for a, b in zip(exact, half.score(PROMPTS[:2], OPTIONS[:2])):
            assert [score.mean for score in b] == pytest.approx([score.mean for score in a], abs=0.3)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="the processor has no bfloat16 numbers")
def test_a_named_model_has_the_numbers_that_the_hardware_multiplies(tmp_path, monkeypatch):
    lm = make("llama")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    for has, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(weights, "multiplies_bfloat16", lambda device, has=has: has)
        assert load_lm(tmp_path, device="cpu").model.dtype == getattr(torch, dtype)
        assert load_lm(f"{tmp_path}?dtype=float32").model.dtype == torch.float32
        assert LocalLM(tmp_path).model.dtype == torch.float32
        name = TextOptions(lm=f"{tmp_path}?device=cpu").lm_name
        assert name == f"{tmp_path}?device=cpu" + ("&dtype=bfloat16" if has else "")
    assert TextOptions(lm="tiny:icl").lm_name == "tiny:icl"


def test_numbers_that_a_processor_lacks_are_refused(monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(ValueError, match="dtype 'bfloat16' needs a device with such numbers"):
        make("gpt2", dtype="bfloat16")
    assert make("gpt2", dtype="auto").score(["one"], [[" two"]])


def test_a_budget_stops_a_local_model_before_it_is_exceeded():
    lm = make("gpt2", budget={"calls": 2, "tokens": 1000})
    lm.score(["one", "one", "two"], [[" three", " four"]] * 3)
    with pytest.raises(BudgetExceeded, match="could use 1 calls, and 0 of the budget's 2"):
        lm.generate(["one"])
    assert lm.usage.total.calls == 2


@pytest.mark.parametrize("kind", ["gpt2", "t5", "bert"])
def test_an_estimate_names_the_calls_and_tokens_that_are_then_used(kind):
    lm = make(kind)
    prompts, options = ["the film was", "one two", "the film was"], [["good"], ["three"], ["bad"]]
    told = lm.estimate(prompts, options)
    assert lm.usage.total.calls == 0 and told.seconds > 0
    lm.score(prompts, options)
    used = lm.usage.total
    assert (told.calls, told.prompt_tokens, told.completion_tokens) == (2, used.prompt_tokens, used.completion_tokens)
    assert told.forward_tokens >= used.forward_tokens or kind == "bert"
    if kind == "gpt2":
        assert lm.estimate(prompts, max_tokens=5).completion_tokens == 10
