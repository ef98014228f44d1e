"""ERNIE 3.0: what each branch sees and trains, what is remembered, and what the five tasks ask."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anytask.datasets.corpora import TextCorpus
from anytask.datasets.fact_texts import fact_texts
from anytask.pretrain import ERNIE3
from anytask.pretrain.ernie3.network import EncoderTrunk, Layer, Network, Sizes, Trunk, sinusoids
from anytask.pretrain.ernie3.tasks import Sampler, Sentence, Texts, joined, masked, orders
from anytask.pretrain.ernie3.words import IGNORED, Words, word_tokenizer

CONTRACT = {
    "sizes": {"layers": 1, "width": 8, "heads": 2, "branch_width": 4, "branch_heads": 2, "memory": 4},
    "length": 16, "finetuning": {"min_steps": 4, "epochs": 1},
}  # fmt: skip
SMALL = {**CONTRACT, "steps": 3, "batch_size": 4, "device": "cpu"}
TEXTS = ["Ann lives in Oslo. She likes Oslo. It rains.", "Bob left Paris! Bob lives in Rome.", "Rome is warm."]
TRIPLES = [("Ann", "lives in", "Oslo"), ("Bob", "lives in", "Rome")]


def network(recurrence="same-layer", layers=2, memory=64):
    sizes = Sizes(
        layers=layers, width=8, heads=2, branch_width=4, branch_layers=1, memory=memory, recurrence=recurrence
    )
    torch.manual_seed(0)
    return Network(Trunk(sizes, 20), sizes, range(5, 20), 1, 9).eval()


@pytest.fixture(autouse=True)
def own_generator():
    with torch.random.fork_rng():
        yield


def tokens(n=1, length=12, seed=0):
    ids = torch.randint(5, 20, (n, length), generator=torch.Generator().manual_seed(seed))
    return ids, torch.ones_like(ids, dtype=torch.bool)


def test_attention_is_the_formula_with_distances():
    torch.manual_seed(1)
    layer, x, memory = Layer(4, 1), torch.randn(1, 2, 4), torch.randn(1, 1, 4)
    layer.u.data.normal_(), layer.v.data.normal_()
    given = layer.norm(torch.cat([memory, x], 1))[0]
    q, (k, v) = layer.query(given[1:]), layer.keys_values(given).chunk(2, 1)
    rows = []
    for i in range(2):
        r = layer.distance(sinusoids(torch.tensor([1 + i - j for j in range(3)]), 4))
        a = [(q[i] + layer.u[0, 0]) @ k[j] + (q[i] + layer.v[0, 0]) @ r[j] for j in range(3)]
        rows.append(F.softmax(torch.stack(a) / 2, 0) @ v)
    h = x + layer.out(torch.stack(rows))
    expected = h + layer.mlp(layer.norm_out(h))
    sees = torch.ones(1, 2, 3, dtype=torch.bool)
    torch.testing.assert_close(layer(x, sees, memory), expected)


def test_generation_sees_no_token_ahead_and_understanding_does():
    net, (ids, valid) = network(), tokens()
    changed = ids.clone()
    changed[0, 7] = 5 + (ids[0, 7] - 4) % 15
    for branch, equal in (("generate", True), ("understand", False)):
        before, after = (net.logits(net(x, valid, branch).branch, branch)[0, :7] for x in (ids, changed))
        assert torch.allclose(before, after, atol=1e-6) == equal


@pytest.mark.parametrize("layers", [1, 2])
def test_segments_with_the_standard_memory_are_one_pass_over_the_text(layers):
    ids, valid = tokens(n=2)
    for recurrence, equal in (("standard", True), ("same-layer", False)):
        net = network(recurrence, layers)
        memory, parts = None, []
        for a in range(0, 12, 4):
            read = net(ids[:, a : a + 4], valid[:, a : a + 4], "generate", memory)
            memory, parts = read.memory, [*parts, read.branch]
        assert torch.allclose(torch.cat(parts, 1), net(ids, valid, "generate").branch, atol=1e-5) == equal
        assert not any(layer.requires_grad for layer in memory.layers)
        understood = [net(ids, valid, "understand", given).branch for given in (None, memory)]
        assert torch.equal(*understood)


def test_a_document_that_begins_remembers_nothing():
    net, (ids, valid) = network(memory=4), tokens(n=2)
    memory = net(ids[:1], valid[:1], "generate").memory.of(torch.tensor([True, True]))
    assert torch.allclose(net(ids, valid, "generate", memory).branch, net(ids, valid, "generate").branch, atol=1e-6)
    kept = net(ids, valid, "generate").memory
    assert [layer.shape[1] for layer in kept.layers] == [4, 4, 4] and kept.valid.all()


def test_each_branch_is_trained_by_its_own_tasks_and_the_trunk_by_all():
    for branch, other in (("understand", "generate"), ("generate", "understand")):
        net, (ids, valid) = network(), tokens()
        net.logits(net(ids, valid, branch).branch, branch).square().sum().backward()
        for part in (net.narrow, net.branch, net.words):
            assert all(weight.grad is None for weight in part[other].parameters())
            assert any(weight.grad.abs().sum() > 0 for weight in part[branch].parameters())
        assert all(weight.grad.abs().sum() > 0 for weight in net.trunk.stack.layers[0].mlp.parameters())


def test_padding_changes_no_other_output():
    net, (ids, valid) = network(), tokens(n=2)
    valid[1, 6:] = False
    noise = torch.where(valid, ids, 7)
    for branch in ("understand", "generate"):
        a, b = (net(x, valid, branch).branch[valid] for x in (ids, noise))
        assert torch.allclose(a, b, atol=1e-6)


def test_orders_are_numbered_from_the_fewest_segments():
    assert len(orders(3)) == 1 + 2 + 6 and orders(3)[0] == (0,)
    assert len(set(orders(3))) == 9 and [len(order) for order in orders(3)] == [1, 2, 2, *[3] * 6]


def test_units_are_masked_as_wholes():
    rng = np.random.default_rng(0)
    sentence, kinds = Sentence(tuple(range(10, 20)), ((2, 5), (7, 9))), []
    for _ in range(300):
        ids, target = masked(sentence, 0.3, 2, [50], rng)
        for a, b in sentence.units:
            hidden = [t != IGNORED for t in target[a:b]]
            assert all(hidden) or not any(hidden)
            assert len({i == 2 for i in ids[a:b]}) == 1
        assert all(t in (IGNORED, s) for s, t in zip(sentence.ids, target))
        assert all(i == s for i, s, t in zip(ids, sentence.ids, target) if t == IGNORED)
        kinds += [i == 2 for i, t in zip(ids, target) if t != IGNORED]
    assert 0.75 < np.mean(kinds) < 0.85


def read(texts=TEXTS, triples=TRIPLES, spans=()):
    saved, special = word_tokenizer([*texts, *(part for triple in triples for part in triple)], 100)
    words = Words(saved, special, range(5, 30), "cpu")
    return Texts.of(TextCorpus.of(texts, spans, triples), words), words


def test_sentences_units_and_facts_are_read_from_documents():
    texts, words = read(spans=[(0, 4, 12)])
    assert [len(document) for document in texts.documents] == [3, 2, 1]
    assert texts.documents[0][0].units == ((0, 1), (1, 3), (3, 4))  # Ann, the span "lives in", Oslo
    facts = [
        (words.tokenizer.decode(list(fact.head)), words.tokenizer.decode(list(fact.relation))) for fact in texts.facts
    ]
    assert facts == [("ann", "lives in"), ("bob", "lives in")]
    assert texts.facts[1].sentence == texts.documents[1][1]
    whole, _ = read(["Romeo lives in Rome."], [("Rom", "is", "Rome")])
    assert not whole.facts
    stated, _ = read(["Nothing."], [("Ann", "knows", "Bob", "Ann met Bob."), ("Ann", "knows", "Bob", "Ann left.")])
    assert len(stated.facts) == 1


def test_one_side_of_a_fact_is_masked_half_of_the_time_each():
    texts, words = read()
    sampler, special = Sampler(texts, words, 0.15, 3, True, seed=0), words.special
    batch = sampler.batch("facts", 10_000, 32)
    relation = [any(t != IGNORED for t in row[: ids.index(special.sep)]) for ids, row in zip(*batch)]
    words = [any(t != IGNORED for t in row[ids.index(special.sep) :]) for ids, row in zip(*batch)]
    assert all(a != b for a, b in zip(relation, words)) and abs(np.mean(relation) - 0.5) < 0.02
    assert all(len(ids) == len(row) for ids, row in zip(*batch))
    ids, row = next(pair for pair, first in zip(zip(*batch), relation) if first)
    assert [token for token, t in zip(ids, row) if t != IGNORED] == [special.mask] * 2


def test_batches_hold_what_their_classes_say():
    texts, words = read()
    sampler, special = Sampler(texts, words, 0.15, 3, True, seed=0), words.special
    sentences = {one.ids: (d, s) for d, document in enumerate(texts.documents) for s, one in enumerate(document)}
    seen = set()
    for ids, kind in zip(*sampler.batch("distance", 60, 32)):
        end = ids.index(special.sep)
        (d, s), (e, t) = sentences[tuple(ids[1:end])], sentences[tuple(ids[end + 1 : -1])]
        assert kind == (2 if d != e else int(abs(s - t) > 1))
        seen.add(kind)
    assert seen == {0, 1, 2}
    for ids, kind in zip(*sampler.batch("reordering", 60, 32)):
        order = orders(3)[kind]
        back = joined(texts.documents[0]).ids + joined(texts.documents[1]).ids
        if order == tuple(range(len(order))):  # in order: a part of a document
            row = tuple(ids[1:-1])
            assert any(back[i : i + len(row)] == row for i in range(len(back)))


def test_training_grows_to_its_full_size_and_the_rate_falls():
    model = ERNIE3(steps=100, warmup=0.2, length=40, batch_size=9, lr=0.01, dropout=0.1)
    paces = [model.pace(step) for step in range(1, 101)]
    for name in ("length", "batch_size", "dropout"):
        values = [getattr(pace, name) for pace in paces]
        assert values == sorted(values) and values[19:] == [getattr(model, name)] * 81 and values[0] < values[19]
    rates = [pace.lr for pace in paces]
    assert rates[:20] == sorted(rates[:20]) and rates[19] == 0.01 and rates[20:] == sorted(rates[20:], reverse=True)
    assert all(type(pace.batch_size) is int for pace in paces) and paces[-1].lr > 0
    assert ERNIE3(steps=5, warmup=0.0).pace(1).length == 128


def test_tasks_that_a_corpus_cannot_teach_are_left_out_or_refused():
    assert ERNIE3(**SMALL).fit(["Ann left.", "Bob left."]).tasks_ == ["knowledge-masking", "documents"]
    assert len(ERNIE3(**SMALL).fit(TextCorpus.of(TEXTS, (), TRIPLES)).tasks_) == 5
    for task, says in (("facts", "triples"), ("reordering", "two sentences"), ("distance", "two documents")):
        with pytest.raises(ValueError, match=f"{task}' needs .*{says}"):
            ERNIE3(**SMALL, tasks=[task]).fit(["Ann left.", "Bob left."])
    with pytest.raises(ValueError, match="no word"):
        ERNIE3(**SMALL).fit([" ", ""])
    with pytest.raises(ValueError, match="relation 'zz' has a word"):
        ERNIE3(**SMALL, vocabulary=8).fit(TextCorpus.of(TEXTS, (), [("Ann", "zz", "Oslo")]))


def test_texts_of_unknown_words_alone_are_no_loss():
    params = {**SMALL, "steps": 20, "batch_size": 1, "vocabulary": 8, "tasks": ["knowledge-masking"]}
    model = ERNIE3(**params).fit(["a b c d e f g h i j"] * 3)
    assert 0 in model.losses_["knowledge-masking"]
    assert np.isfinite(model.losses_["knowledge-masking"]).all() and len(model.known_) == 4


def test_tasks_are_added_one_after_another():
    model = ERNIE3(**{**SMALL, "steps": 6}, schedule="continual", tasks=["facts", "documents", "knowledge-masking"])
    model.fit(TextCorpus.of(TEXTS, (), TRIPLES))
    assert {task: len(losses) for task, losses in model.losses_.items()} == {
        "facts": 6, "documents": 4, "knowledge-masking": 2,
    }  # fmt: skip


@pytest.fixture(scope="module")
def learned():
    world = fact_texts(
        0, entities=12, relations=2, verbs=3, fillers=2, facts=60, documents=100, sentences=2, labelled=30, tested=60
    )
    model = ERNIE3.from_preset(
        "small", steps=150, lr=0.01, length=16, batch_size=16, sizes={"layers": 1}, tasks=["documents", "facts"],
        pool="mask", finetuning={"min_steps": 40, "epochs": 1, "lr": 5e-3}, device="cpu",
    )  # fmt: skip
    return world, model.fit(world.corpus)


def test_facts_teach_what_verbs_state(learned):
    world, model = learned
    truth = np.array([world.relations.index(label) for label in world.test_labels])
    swapped = [text.replace("v0x", "v2x").replace("v1x", "v0x").replace("v2x", "v1x") for text in world.test_questions]
    right, turned = (
        (model.score(q, world.relations).argmax(1) == truth).mean() for q in (world.test_questions, swapped)
    )
    assert right > turned + 0.3


def test_fine_tuning_trains_what_the_mode_says_and_leaves_the_features(learned, tmp_path):
    world, model = learned
    before, counts = model.transform(world.test_questions), []
    for mode in ("head_only", "module_only", "all"):
        model.finetune(world.questions, world.labels, mode=mode)
        counts.append(model.n_trained_)
        moved = {
            name for (name, a), b in zip(model.tuned_["net"].named_parameters(), model.net_.parameters())
            if not torch.equal(a, b)
        }  # fmt: skip
        parts = {name.split(".")[0] for name in moved}
        assert (
            parts
            == {"head_only": set(), "module_only": {"narrow", "branch"}, "all": {"trunk", "narrow", "branch"}}[mode]
        )
        assert not any("generate" in name for name in moved)
    assert counts == sorted(counts) and counts[1] < counts[2] / 3
    assert np.array_equal(model.transform(world.test_questions), before)
    p = model.predict_proba(world.test_questions)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    model.save(tmp_path)
    assert np.array_equal(ERNIE3.load(tmp_path, device="cpu").predict_proba(world.test_questions), p)


def test_writing_goes_on_and_can_be_tuned(learned):
    world, model = learned
    before = model.perplexity(world.held_out)
    shuffled = [" ".join(np.random.default_rng(0).permutation(text.split())) for text in world.held_out]
    assert before.mean() < 0.7 * model.perplexity(shuffled).mean()
    assert model.perplexity([" ".join(world.held_out[:3])]).shape == (1,)  # longer than a segment
    a, b = (model.generate(["f1 e3"], n_tokens=30, temperature=t)[0].split() for t in (0.0, 1.0))
    assert 0 < len(a) <= 30 and a != b
    assert model.generate(["f1 e3"], temperature=1.0) == model.generate(["f1 e3"], temperature=1.0)
    model.finetune(["f1 f1 f1 f1 f1 f1."] * 4)
    assert model.perplexity(["f1 f1 f1 f1 f1 f1."])[0] < 1.5 < model.perplexity(world.held_out).mean()
    by = model.score(["f1 f1 [MASK] f1 f1 f1."], ["f1", "e3"], by="perplexity")[0]
    assert by[0] > by[1]
    del model.writer_, model.wrote_


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.score(["no mask"], ["r0"]), r"prompts\[0\] has no \[MASK\]"),
        (lambda m: m.score(["[MASK]"], ["r0", "zebra"]), r"options\[1\] 'zebra' has a word"),
        (lambda m: m.score(["[MASK]"], ["r0"], by="luck"), "by must be one of"),
        (lambda m: m.score(["f1 " * 40 + "[MASK]"], ["r0"]), "behind the 16 tokens"),
        (lambda m: m.finetune(["a", "b"], [1, 1]), "one class only"),
        (lambda m: m.finetune(["a", "b"], [1, 2, 3]), "2 rows and y has 3"),
        (lambda m: m.finetune(["a"], mode="some"), "mode must be one of"),
        (lambda m: m.generate(["a"], n_tokens=0), "n_tokens must be"),
        (lambda m: m.generate(["a"], temperature=-1), "temperature must be"),
        (lambda m: ERNIE3().predict(["a"]), "not been fitted"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*longer than")
def test_what_cannot_be_answered_is_refused(learned, call, says):
    with pytest.raises(ValueError, match=says):
        call(learned[1])


def test_long_texts_are_cut_with_a_warning(learned):
    with pytest.warns(UserWarning, match="1 texts are longer than 14 tokens"):
        learned[1].transform(["f1 " * 40, "f1"])


@pytest.fixture
def folder(tmp_path):
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    saved, _ = word_tokenizer([*TEXTS, "lives in"], 60)
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "mask", "pad", "unk")}
    PreTrainedTokenizerFast(tokenizer_object=Words(saved, range(5), (), "cpu").tokenizer, **names).save_pretrained(
        tmp_path
    )
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=60, max_position_embeddings=32, **shape)).save_pretrained(tmp_path)
    return tmp_path


def test_an_encoder_of_transformers_is_the_trunk(folder, tmp_path):
    model = ERNIE3(**SMALL, trunk=str(folder), pool="mean").fit(TextCorpus.of(TEXTS, (), TRIPLES))
    assert isinstance(model.net_.trunk, EncoderTrunk) and len(model.tasks_) == 5
    ids, valid = tokens(length=10)
    changed = ids.clone()
    changed[0, 7] = 5 + (ids[0, 7] - 4) % 15
    a, b = (model.net_(x, valid, "generate").branch[0, :7] for x in (ids, changed))
    assert torch.allclose(a, b, atol=1e-5)
    model.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="at most the 32 places"):
        ERNIE3(**{**SMALL, "length": 64}, trunk=str(folder)).fit(TEXTS)
    for file in folder.glob("*.safetensors"):  # which is not needed any more
        file.unlink()
    twin = ERNIE3.load(tmp_path / "saved", device="cpu")
    assert np.array_equal(twin.transform(TEXTS), model.transform(TEXTS))
    assert twin.generate(["Ann lives"], n_tokens=3) == model.generate(["Ann lives"], n_tokens=3)


def test_an_untrained_trunk_gives_the_encoders_own_means(folder):
    from transformers import AutoModel, AutoTokenizer

    model = ERNIE3(**{**SMALL, "steps": 0}, trunk=str(folder), pool="mean", features="trunk").fit(TEXTS)
    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    given = tokenizer(f"[CLS]{TEXTS[2]}[SEP]", add_special_tokens=False, return_tensors="pt")
    given.pop("token_type_ids", None)
    expected = encoder(**given).last_hidden_state.mean(1).detach().numpy()
    np.testing.assert_allclose(model.transform(TEXTS[2:]), expected, atol=1e-5)


def test_an_encoder_that_lets_text_ahead_through_is_refused():
    class Blind(torch.nn.Module):
        config = type("Config", (), {"hidden_size": 4})
        device = torch.device("cpu")

        def get_input_embeddings(self):
            return torch.nn.Embedding(5, 4)

        def forward(self, input_ids, attention_mask):
            mixed = F.one_hot(input_ids, 4 + 1)[:, :, :4].float().cumsum(1).flip(1)
            return type("Output", (), {"last_hidden_state": mixed})

    with pytest.raises(ValueError, match="takes no mask for each token"):
        EncoderTrunk(Blind())
