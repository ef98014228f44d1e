"""The conditional VAE with a Gaussian prior per class."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anytask.models.build import MLP
from anytask.parts.vae import LOG_VARIANCE_RANGE, ConditionalVAE, ConvDecoder, diagonal_gaussian_kl


def make(**options):
    torch.manual_seed(0)
    vae = ConditionalVAE(MLP((6,), 5), 5, (6,), **{"latent_dim": 2, "decoder_width": 4, **options})
    vae.grow(3)
    return vae


@pytest.fixture(autouse=True)
def _keep_global_generator():
    with torch.random.fork_rng():
        yield


def test_kl_fixed_value():
    m, log_variance = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.25]).log()
    kl = diagonal_gaussian_kl(m, log_variance, torch.tensor([0.5, 0.5]), torch.zeros(2))
    assert kl.item() == pytest.approx(0.568147, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_kl_is_torchs_and_zero_only_when_equal(q, p):
    q, p = torch.tensor(q, dtype=torch.float64), torch.tensor(p, dtype=torch.float64)
    kl = diagonal_gaussian_kl(q[:2], q[2:], p[:2], p[2:])
    normal = [torch.distributions.Normal(x[:2], (0.5 * x[2:]).exp()) for x in (q, p)]
    torch.testing.assert_close(kl, torch.distributions.kl_divergence(*normal).sum())
    assert diagonal_gaussian_kl(q[:2], q[2:], q[:2], q[2:]).item() == 0


def test_samples_follow_the_prior_of_their_class():
    vae = make()
    with torch.no_grad():
        vae.m[1].copy_(torch.tensor([3.0, -1.0]))
        vae.v[1].copy_(torch.tensor([-2.0, 1.0]))
        m, v = vae.prior_of(torch.full((5,), 1))
    assert m[4].tolist() == [3.0, -1.0] and v[4].tolist() == [-2.0, 1.0]
    y = torch.tensor([0, 1, 2])
    one, two = (vae.sample(y, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == (3, 6) and one.min() > 0 and one.max() < 1


def test_prior_variance_is_clamped():
    vae = make()
    with torch.no_grad():
        vae.v[0].fill_(-50.0)
        vae.v[1].fill_(50.0)
    v = vae.prior_of(torch.tensor([0, 1]))[1]
    assert v[:, 0].tolist() == list(LOG_VARIANCE_RANGE)


@pytest.mark.parametrize("label", ["concat", "gate"])
def test_a_class_outside_the_batch_gets_no_gradient(label):
    vae = make(label=label)
    reconstruction, kl = vae.loss(torch.rand(4, 6), torch.tensor([0, 0, 2, 2]))
    (reconstruction + kl).mean().backward()
    assert vae.m[0].grad.abs().sum() > 0 and vae.label_in[2].grad.abs().sum() > 0
    assert vae.m[1].grad.abs().sum() == 0 and vae.label_in[1].grad.abs().sum() == 0


def test_one_hot_concatenation_is_a_column_per_class():
    vae = make()
    z, y = torch.randn(3, 2), torch.tensor([0, 2, 1])
    joined = torch.cat([vae.first.weight, torch.stack(list(vae.label_in)).T], dim=1)
    hidden = (torch.cat([z, torch.eye(3)[y]], dim=1) @ joined.T + vae.first.bias).relu()
    torch.testing.assert_close(vae.decode(z, y), vae.rest(hidden))


def test_growing_keeps_the_classes_there_are_and_returns_the_new_parameters():
    vae = make()
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    assert vae.grow(3) == []
    new = vae.grow(5)
    after = dict(vae.named_parameters())
    assert vae.n_classes == 5 and all(torch.equal(after[name], p) for name, p in before.items())
    assert {id(p) for p in new} == {id(p) for name, p in after.items() if name not in before}
    assert sorted(name for name in after if name not in before) == [
        "label_in.3", "label_in.4", "m.3", "m.4", "v.3", "v.4",
    ]  # fmt: skip


def test_standard_prior_has_no_parameters():
    vae = make(prior="standard")
    assert len(vae.m) == 0 and all((part == 0).all() for part in vae.prior_of(torch.tensor([0, 2])))


def test_gaussian_likelihood_is_half_the_squared_error():
    vae = make(likelihood="gaussian")
    x, y = torch.randn(3, 6), torch.tensor([0, 1, 2])
    posterior = (torch.zeros(3, 5), torch.ones(3, 2), torch.full((3, 2), -80.0))  # no noise is left at this variance
    reconstruction, _ = vae.loss(x, y, posterior=posterior)
    torch.testing.assert_close(reconstruction, 0.5 * (vae.decode(torch.ones(3, 2), y) - x).square().sum(1))


def test_conv_decoder_makes_images_of_any_size():
    assert ConvDecoder(4, (3, 10, 14), channels=32)(torch.randn(2, 4)).shape == (2, 3, 10, 14)
    with pytest.raises(ValueError, match="images"):
        ConvDecoder(4, (8,))
