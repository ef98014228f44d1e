"""AutoDistil: its loss, slices and costs by hand, what a step may move, and students as folders of transformers."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaModel,
)

from anytask.core.settings import merged
from anytask.pretrain import AutoDistil
from anytask.pretrain.autodistil import SPACES
from anytask.pretrain.parts.relations import projections, recorded, relation_loss, relations
from anytask.pretrain.parts.slices import (
    Members,
    Pattern,
    Shape,
    Sizes,
    Space,
    flops,
    parameters,
    read_spaces,
    smallest_first,
    thinned,
)

TINY = {"name": "tiny", "layers": [1, 2], "heads": [1, 2], "width": [8, 12], "ratio": [1, 1.5]}
CONTRACT = {
    "epochs": 2, "batch_size": 16, "finetuning": {"min_steps": 2, "epochs": 1},
    "spaces": [{"name": "tiny", "layers": [1], "heads": [2], "width": [8], "ratio": [1]}],
    "small": {"layers": 1, "heads": 2, "head_size": 4, "width": 12, "ratio": 1.5, "steps": 2},
}  # fmt: skip
X = load_digits().images[:60]
Y = load_digits().target[:60] % 2
SMALL = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 48,
         "max_position_embeddings": 20}  # fmt: skip


def made(**params):
    return AutoDistil.from_preset("small", **merged(CONTRACT, params))


@pytest.fixture(scope="module")
def fitted():
    return made(spaces=[TINY], small={"layers": 2}).fit(X)


def teacher(kind=BertModel, config=BertConfig, **params):
    torch.manual_seed(0)
    return kind(config(**{**SMALL, "initializer_range": 0.5, **params})).eval()


class Words:
    """A tokenizer of words by their lengths."""

    pad_token_id = 0

    def __call__(self, texts, truncation, max_length):
        return {"input_ids": [[1, *(2 + len(word) for word in text.split())][:max_length] for text in texts]}


def words(n=30, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join("x" * k for k in rng.integers(1, 9, size=rng.integers(2, 9))) for _ in range(n)]


# -- exactness of the brief -----------------------------------------------------------------------------------------


def test_relations_of_two_tokens_by_hand():
    own, other = torch.eye(2)[None], torch.tensor([[[1.0, 0, 0, 0], [1, 0, 0, 0]]])
    torch.testing.assert_close(relations(own, 1)[0, 0], 0.70710678 * torch.eye(2))
    assert relations(other, 1).unique().item() == 0.5
    assert relation_loss([own], [other], 1, kind="mse").item() == pytest.approx(0.14644661, abs=1e-7)
    assert relation_loss([own], [other], 1).item() == pytest.approx(0.06123974, abs=1e-7)
    assert relation_loss([own] * 3, [other] * 3, 1).item() == pytest.approx(3 * 0.06123974, abs=1e-6)


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_a_teacher_is_no_loss_away_from_itself_nor_from_its_rotations(kind):
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    own = x.clone().requires_grad_()
    loss = relation_loss([own], [x], 3, kind=kind)
    loss.backward()
    assert loss.item() == 0 and own.grad.abs().max() < 1e-7
    turn = torch.block_diag(*(torch.linalg.qr(torch.randn(4, 4))[0] for _ in range(3)))
    other = torch.randn(2, 5, 12)
    assert relation_loss([x @ turn], [other], 3, kind=kind).item() == pytest.approx(
        relation_loss([x], [other], 3, kind=kind).item(), abs=1e-5
    )


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_padding_counts_on_neither_axis(kind):
    own, other = torch.randn(2, 3, 8), torch.randn(2, 3, 12)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    padded = [torch.cat([x, 9 * torch.randn(2, 2, x.shape[-1])], dim=1) for x in (own, other)]
    longer = torch.cat([mask, torch.zeros(2, 2, dtype=torch.bool)], dim=1)
    expected = relation_loss([own], [other], 2, mask, kind)
    assert relation_loss(*([x] for x in padded), 2, longer, kind).item() == pytest.approx(expected.item(), rel=1e-5)
    parts = [
        relation_loss([own[:1]], [other[:1]], 2, kind=kind),
        relation_loss([own[1:, :2]], [other[1:, :2]], 2, kind=kind),
    ]
    weights = [3, 2] if kind == "kl" else [9, 4]
    assert expected.item() == pytest.approx(np.average([part.item() for part in parts], weights=weights), rel=1e-5)


def test_widths_are_cut_to_a_multiple_of_the_relation_heads():
    x = torch.randn(1, 4, 448)
    assert torch.equal(relations(x, 12), relations(x[..., :444], 12)) and relations(x, 12).shape == (1, 12, 4, 4)
    with pytest.raises(ValueError, match="12 relation heads need a width of at least 12, got 8"):
        relations(torch.ones(1, 1, 8), 12)


def test_layers_are_thinned_evenly():
    assert thinned(9, 12) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert thinned(7, 12) == [0, 1, 3, 5, 6, 8, 10] and thinned(4, 12) == [0, 3, 6, 9]


def test_published_costs_are_those_of_the_brief():
    assert parameters(Shape(12, 12, 768, 4), published=True) == 109_482_240
    assert parameters(Shape(7, 10, 160, 3.5), published=True) == 6_887_440
    assert flops(Shape(7, 10, 160, 3.5), published=True) == pytest.approx(274_705_386.67, abs=0.01)


@pytest.mark.parametrize("shape", [Shape(2, 3, 24, 2), Shape(3, 2, 20, 1.5), Shape(1, 1, 8, 1)])
def test_exact_costs_are_those_of_the_encoder_itself(shape):
    pattern = Pattern(teacher())
    assert parameters(shape, pattern.sizes) == pattern.encoder(shape).num_parameters()
    linear = sum(m.weight.numel() for m in pattern.encoder(shape).encoder.modules() if isinstance(m, nn.Linear))
    products = shape.layers * 2 * 7**2 * shape.heads * pattern.sizes.head_size  # scores, and sums of values
    assert flops(shape, pattern.sizes, 7) == 7 * linear + products + shape.width**2


def test_the_papers_spaces_have_256_members_each():
    spaces = read_spaces(SPACES)
    assert [len(space.members) for space in spaces.values()] == [256] * 3
    assert spaces["tiny"].largest == Shape(7, 10, 224, 3.5)
    order = smallest_first(spaces["base"].members, Sizes())
    assert order[0] == Shape(9, 9, 544, 2.5) and order[-1] == Shape(12, 12, 640, 4)


def test_the_largest_member_is_the_superlm_and_each_member_its_extracted_copy():
    pattern, space = Pattern(teacher()), Space((2, 4), (2, 3), (16, 20), (1.0, 2.0))
    net = pattern.cut(space.largest).eval()
    batch = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    for shape in space.members:
        found, output = Members(net, pattern.base).run(shape, batch)
        student = pattern.extract(net, shape)
        with recorded(projections(student)) as own:
            expected = student(**batch)
        for a, b in zip([*found, output.last_hidden_state, output.pooler_output],
                        [*own, expected.last_hidden_state, expected.pooler_output], strict=True):  # fmt: skip
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        assert found[0].shape == (2, 3, shape.heads * 8)
    torch.testing.assert_close(output.last_hidden_state, net(**batch).last_hidden_state, atol=1e-6, rtol=0)


def test_a_step_of_the_smallest_member_moves_nothing_outside_of_its_slices():
    pattern, space = Pattern(teacher()), Space((2, 4), (2, 3), (16, 20), (1.0, 2.0))
    net = pattern.cut(space.largest).train()
    small, before = space.members[0], copy.deepcopy(net.state_dict())
    batch = {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    own, _ = Members(net, pattern.base).run(small, batch)
    with torch.no_grad(), recorded(projections(pattern.teacher)) as told:
        pattern.teacher(**batch)
    relation_loss(own, told, 3).backward()
    torch.optim.SGD(net.parameters(), 1.0).step()
    after, moved = net.state_dict(), []
    kept = {str(old): str(new) for new, old in enumerate(thinned(small.layers, 4))}
    shapes = dict(pattern.encoder(small).named_parameters())
    for name in after:
        layer = name.split(".")[2] if name.startswith("encoder.") else None
        changed = after[name] != before[name]
        if layer is not None and layer not in kept:
            assert not changed.any(), name
            continue
        shape = shapes[name if layer is None else name.replace(f"layer.{layer}.", f"layer.{kept[layer]}.", 1)].shape
        inside = torch.zeros_like(changed)
        inside[tuple(slice(n) for n in shape)] = True
        assert not (changed & ~inside).any(), name
        moved.append(bool(changed.any()))
    assert any(moved)
    last = net.encoder.layer[2]  # the smallest member's last: relations do not reach what comes after its projections
    for module in (last.attention.output.dense, last.intermediate.dense, last.output.dense, net.pooler.dense):
        assert module.weight.grad is None or not module.weight.grad.any()


# -- the system -----------------------------------------------------------------------------------------------------


def test_search_finds_the_lowest_loss_of_each_budget_and_trains_nothing(fitted, monkeypatch):
    table = fitted.table()
    assert len(table) == 16 and (table["parameters"] > 0).all()
    monkeypatch.setattr(torch.optim.Optimizer, "step", lambda *args, **kwargs: pytest.fail("trained"))
    for unit in ("parameters", "flops"):
        for budget in table[unit].quantile([0, 0.3, 1]):
            row = fitted.search(budget, unit=unit)
            assert row["loss"] == table.loc[table[unit] <= budget, "loss"].min() and row[unit] <= budget
    student = fitted.student(table["parameters"].min())
    assert student.num_parameters() == table["parameters"].min()
    front = fitted.front()
    assert front["parameters"].is_monotonic_increasing and front["loss"].is_monotonic_decreasing
    assert front["loss"].min() == table["loss"].min() and len(fitted.plot().data) == 2
    with pytest.raises(ValueError, match=f"the smallest has {table['parameters'].min():,}"):
        fitted.student(10)
    with pytest.raises(ValueError, match="call proxy"):
        fitted.search(by="accuracy")
    for bad in ({"unit": "bytes"}, {"by": "chance"}):
        with pytest.raises(ValueError, match="must be"):
            fitted.search(**bad)


def test_costs_of_the_released_code_are_an_option(fitted):
    published = copy.deepcopy(fitted).set_params(costs="published").table()
    assert (published["parameters"] != fitted.table()["parameters"]).any()


def test_the_proxy_scores_every_member_by_labels(fitted):
    model = copy.deepcopy(fitted).proxy(X, Y)
    table = model.table()
    assert table["accuracy"].between(0, 1).all()
    assert model.search(by="accuracy")["accuracy"] == table["accuracy"].max()
    assert torch.equal(model.supers_[0].pooler.dense.weight, fitted.supers_[0].pooler.dense.weight)


def test_a_sandwich_has_the_largest_the_smallest_and_two_others(fitted):
    space = fitted._spaces["tiny"]
    order = smallest_first(space.members, fitted._pattern.sizes)
    sample = fitted._sampler(space)
    drawn = [sample() for _ in range(30)]
    assert all(one[:2] == [order[-1], order[0]] and len(set(one)) == 4 for one in drawn)
    assert len({shape for one in drawn for shape in one}) == 16
    free = copy.deepcopy(fitted).set_params(sampling="random")._sampler(space)
    assert {len(set(free())) for _ in range(9)} == {4} and any(order[-1] not in free() for _ in range(20))
    assert len(fitted._sampler(Space((1,), (1,), (8,), (1.0,)))()) == 1


def test_refining_a_student_lowers_its_loss_and_leaves_it_as_it_was(fitted):
    student = fitted.student(budget=fitted.table()["parameters"].max())
    before = copy.deepcopy(student.state_dict())
    better = fitted.refine(student, X, epochs=6)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    data = fitted._asked(X)
    batch = data.batch(range(len(X)))

    def loss(encoder):
        with torch.no_grad(), recorded(projections(encoder)) as own:
            encoder(**batch)
        return relation_loss(own, fitted._told(batch), fitted._heads).item()

    assert loss(better) < loss(student)


def test_students_are_folders_of_transformers(fitted, tmp_path):
    fitted.export(tmp_path / "student", budget=4_000)
    student = fitted.student(4_000)
    batch = fitted._asked(X).batch([0, 1])
    loaded = AutoModel.from_pretrained(tmp_path / "student")
    torch.testing.assert_close(loaded(**batch).last_hidden_state, student(**batch).last_hidden_state)
    again = AutoDistil.from_preset("small", **{**CONTRACT, "teacher": loaded, "start": "random"}).fit(X)
    assert again.teacher_.num_parameters() == student.num_parameters()
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student", num_labels=3)
    assert classifier(**batch).logits.shape == (2, 3)


@pytest.mark.parametrize(("kind", "config", "more"), [
    (BertModel, BertConfig, {}), (RobertaModel, RobertaConfig, {"pad_token_id": 0, "type_vocab_size": 1}),
])  # fmt: skip
def test_texts_are_distilled_from_encoders_of_transformers(kind, config, more, tmp_path):
    given, texts = teacher(kind, config, **more), words()
    # the teacher's own shape is a member: it begins without loss where nothing is trained
    own = {"name": "own", "layers": [2, 4], "heads": [3], "width": [16, 24], "ratio": [1, 2]}
    model = made(teacher=given, tokenizer=Words(), spaces=[own], epochs=0, budget=1e9).fit(texts)
    assert model.search()["layers"] == 4 and model.search()["loss"] == pytest.approx(0, abs=1e-5)
    assert isinstance(model.student(), BertModel) and type(model.student()) is BertModel
    assert isinstance(copy.deepcopy(model).set_params(budget=7_000).student(), BertModel)
    data = model._asked(texts)
    H = model.transform(texts)
    assert H.shape == (30, 24) and np.isfinite(H).all()
    np.testing.assert_allclose(model.transform(texts[3:4]), H[3:4], atol=1e-5)
    if kind is BertModel:
        batch = data.batch([0, 1])
        torch.testing.assert_close(model.student()(**batch).last_hidden_state, given(**batch).last_hidden_state)
    y = ["short" if len(text) < 22 else "long" for text in texts]
    assert set(model.finetune(texts, y).predict(texts)) <= {"short", "long"}
    model.save(tmp_path)
    twin = AutoDistil.load(tmp_path, teacher=given, tokenizer=Words(), device="cpu")
    assert np.array_equal(twin.predict_proba(texts), model.predict_proba(texts))


def test_a_folder_is_a_teacher_and_is_not_read_again(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{"x" * k: 1 + k for k in range(1, 9)}}
    words_ = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words_.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words_, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        tmp_path / "t"
    )
    teacher().save_pretrained(tmp_path / "t")
    model = made(teacher=tmp_path / "t", spaces=[TINY]).fit(words())
    model.save(tmp_path / "saved")
    (tmp_path / "t" / "config.json").unlink()
    twin = AutoDistil.load(tmp_path / "saved", device="cpu")
    assert np.array_equal(twin.transform(words(5)), model.transform(words(5)))
    twin.export(tmp_path / "student")
    assert (tmp_path / "student" / "tokenizer.json").exists()
    with pytest.raises(ValueError, match="sequence of strings"):
        model.transform(X)


def test_fitting_with_labels_is_distilling_then_fine_tuning():
    both = made().fit(X[:40], Y[:40], unlabeled=X[40:])
    apart = made().fit(X).finetune(X[:40], Y[:40])
    assert np.array_equal(both.predict_proba(X), apart.predict_proba(X))
    with pytest.raises(ValueError, match="one class only"):
        made().fit(X, np.zeros(60, int))
    with pytest.raises(ValueError, match="call finetune"):
        made().fit(X).predict(X)


def test_spaces_that_do_not_fit_are_refused_with_the_number():
    for axis, value, says in (
        ("layers", [1, 3], "layers 3, and the teacher has 1"), ("heads", [3], "heads 3, and the teacher has 2"),
        ("width", [16], "width 16, and the teacher has 12"), ("ratio", [4], "feed-forward width 32, and"),
    ):  # fmt: skip
        space = {**CONTRACT["spaces"][0], axis: value}
        with pytest.raises(ValueError, match=says):
            made(spaces=[space]).fit(X)
    assert np.isfinite(made(spaces=[space], start="random").fit(X).loss_).all()
    with pytest.raises(ValueError, match=r"the space 'tiny' has members of 4 numbers for 5 relation heads"):
        made(spaces=[{**TINY, "heads": [1]}], relation_heads=5).fit(X)
    bad = [[], [{}], [TINY, TINY], {"tiny": TINY}, [1], [{**TINY, "depth": [1]}]]
    for spaces in [*bad, *([{**TINY, **one}] for one in ({"width": [0]}, {"layers": [1.5]}, {"heads": 2}))]:
        with pytest.raises(ValueError, match="space"):
            made(spaces=spaces)


def test_inputs_of_the_other_kind_are_refused():
    with pytest.raises(TypeError, match="X must be arrays for this encoder, got texts"):
        made().fit(["a text", "another"])
    model = made(teacher=teacher(), tokenizer=Words(), spaces=[TINY])
    for bad, says in ((X, "sequence of strings"), (["a", ""], r"X\[1\] is an empty text"), ([], "0 texts")):
        with pytest.raises((TypeError, ValueError), match=says):
            model.fit(bad)
    with pytest.raises(ValueError, match="must have a config"):
        made(teacher=nn.Linear(2, 2)).fit(X)


@pytest.mark.parametrize("epochs", [-1, 1.5, True, "a", float("nan")])
def test_refining_takes_whole_numbers_of_passes(fitted, epochs):
    with pytest.raises(ValueError, match="epochs must be an integer"):
        fitted.refine(fitted.student(6_000), X, epochs=epochs)


def test_students_of_other_teachers_and_what_is_none_are_refused(fitted):
    other = fitted.student(6_000)
    other.embeddings.word_embeddings = nn.Linear(16, other.config.hidden_size)
    for student in ("tiny", nn.Linear(3, 3), other):
        for call in (
            lambda s=student: fitted.refine(s, X, epochs=1),
            lambda s=student: fitted.finetune(X, Y, student=s),
        ):
            with pytest.raises((TypeError, ValueError), match=r"student (must be|has other)"):
                call()
