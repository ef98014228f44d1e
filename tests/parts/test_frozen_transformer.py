"""The frozen transformer: unprompted it is the encoder, and prompts reach it as extra keys and values."""

import copy

import pytest
import torch

from anytask.parts.frozen_transformer import FrozenTransformer

transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)
SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
IMAGES = {**SIZES, "image_size": 8, "patch_size": 4}
MAKERS = {
    "ViT": lambda: transformers.ViTModel(transformers.ViTConfig(**IMAGES)),
    "DINOv2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**IMAGES)),
    "CLIP": lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**IMAGES)),
    "BERT": lambda: transformers.BertModel(transformers.BertConfig(vocab_size=30, pad_token_id=0, **SIZES)),
}


def made(kind):
    torch.manual_seed(0)
    model = MAKERS[kind]().eval()
    x = torch.randint(1, 30, (4, 6)) if kind == "BERT" else torch.randn(4, 3, 8, 8)
    return model, FrozenTransformer(model), x


@pytest.mark.parametrize("kind", MAKERS)
def test_without_prompts_and_with_prompts_of_no_length_it_is_the_encoder(kind):
    model, network, x = made(kind)
    with torch.no_grad():
        expected = model(x).last_hidden_state
        nothing = {1: network.as_prefix(torch.zeros(0, 16))}
        assert torch.allclose(network(x).last, expected, atol=1e-6)
        assert torch.equal(network(x, nothing).last, network(x).last)
    assert network.depth == 3 and len(network(x).before) == 4


@pytest.mark.parametrize("kind", MAKERS)
def test_a_prompt_moves_the_tokens_from_its_block_on_and_not_their_number(kind):
    _, network, x = made(kind)
    prefix = network.as_prefix(torch.randn(6, 16))
    plain, prompted = network(x), network(x, {1: prefix})
    assert prompted.last.shape == plain.last.shape
    moved = [not torch.equal(a, b) for a, b in zip(plain.before, prompted.before)]
    assert moved[:3] == [False, False, True]


def test_attention_with_a_prefix_is_the_softmax_over_prefix_and_tokens():
    _, network, x = made("ViT")
    block = network.blocks[0].attention
    keys, values = network.as_prefix(torch.randn(4, 16))
    z = network.blocks[0].layernorm_before(network(x).before[0])

    def by_head(projected):
        return projected.unflatten(-1, (2, 8)).transpose(1, 2)

    q, k, v = (by_head(layer(z)) for layer in (block.q_proj, block.k_proj, block.v_proj))
    k, v = (torch.cat([p.expand(4, -1, -1, -1), own], 2) for p, own in ((keys, k), (values, v)))
    weights = (q @ k.transpose(2, 3) / 8**0.5).softmax(-1)
    expected = block.o_proj((weights @ v).transpose(1, 2).flatten(2)) + network(x).before[0]
    found = []
    hook = block.register_forward_hook(lambda module, given, out: found.append(out[0]))
    network(x, {0: (keys, values)})
    hook.remove()
    assert torch.allclose(found[0] + network(x).before[0], expected, atol=1e-5)


def test_gradients_reach_the_prompt_and_nothing_of_the_network():
    _, network, x = made("ViT")
    prompt = torch.randn(4, 16, requires_grad=True)
    before = copy.deepcopy(network.state_dict())
    network.train()
    network(x, {0: network.as_prefix(prompt)}).last.sum().backward()
    assert bool(prompt.grad.any()) and all(p.grad is None for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module.training for module in network.modules())


def test_padding_is_not_attended_to_and_prompts_are():
    _, network, x = made("BERT")
    padded = torch.cat([x, torch.zeros(4, 3, dtype=torch.long)], 1)
    prefix = {2: network.as_prefix(torch.randn(4, 16))}
    for prefixes in (None, prefix):
        a, b = network(x, prefixes), network(padded, prefixes)
        assert torch.allclose(a.last, b.last[:, :6], atol=1e-5)
        assert torch.allclose(a.pooled("mean"), b.pooled("mean"), atol=1e-5)


def test_what_takes_no_prompts_is_refused():
    with pytest.raises(TypeError, match="Linear is no encoder"):
        FrozenTransformer(torch.nn.Linear(2, 2))
    _, network, _ = made("ViT")
    with pytest.raises(ValueError, match="odd length 3"):
        network.as_prefix(torch.zeros(3, 16))


@pytest.mark.parametrize("kind", MAKERS)
def test_blocks_run_one_by_one_make_the_encoder(kind):
    _, network, x = made(kind)
    prefix = network.as_prefix(torch.randn(4, 16))
    with torch.no_grad():
        before = network(x, {1: prefix}).before
        h = before[0]
        for i in range(3):
            assert torch.allclose(h, before[i], atol=1e-5)
            # each token by itself, with the others beside it
            one = network.run_block(i, h[:, 2:3], prefix=prefix if i == 1 else None,
                                    beside=network.entering(i, torch.cat([h[:, :2], h[:, 3:]], 1)))  # fmt: skip
            h = network.run_block(i, h, prefix=prefix if i == 1 else None)
            assert torch.allclose(one, h[:, 2:3], atol=1e-5)
        last = network(x, {1: prefix})
        wanted = last.last[:, 0] if kind != "CLIP" else network.model.post_layernorm(last.last[:, 0])
        assert torch.allclose(network.normalized(h)[:, 0], wanted, atol=1e-5)
    assert torch.equal(network(x, {1: prefix}).last, last.last)  # nothing of it is left behind


def test_attention_that_is_left_out_gives_back_what_it_takes_in():
    _, network, x = made("ViT")
    h, block = network(x).before[1], network.blocks[1]
    inner = h + block.layernorm_before(h)
    assert torch.allclose(network.run_block(1, h, attends=False), inner + block.mlp(block.layernorm_after(inner)))


def test_class_tokens_of_encoders_of_images():
    for kind in ("ViT", "DINOv2", "CLIP"):
        model, network, x = made(kind)
        positions = (
            model.embeddings.position_embedding.weight if kind == "CLIP" else model.embeddings.position_embeddings
        )
        with torch.no_grad():
            positions.zero_()
        network = FrozenTransformer(model)
        assert torch.allclose(network.class_token[0, 0], network(x).before[0][0, 0], atol=1e-6)
    assert made("BERT")[1].class_token is None
