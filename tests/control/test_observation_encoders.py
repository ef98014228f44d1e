import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from anytask.control.parts.observation_encoders import (
    FrozenImageFeatures,
    ObservationEncoder,
    PointCloudTrunk,
    ResNetTrunk,
    SmallCNN,
    SpatialSoftmax,
    as_images,
    build_trunk,
    chamfer,
    image_shape,
    is_image,
)


@pytest.fixture(scope="module")
def vision_model():
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    torch.manual_seed(0)
    return ViTModel(config)


def test_images_come_as_bytes_or_shares_with_channels_first_or_last():
    picture = torch.randint(0, 256, (2, 8, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = picture.movedim(-1, 1) / 255
    for given_ in (picture, picture.movedim(-1, 1), picture / 255):
        torch.testing.assert_close(as_images(given_), expected)
    assert image_shape((8, 6, 3)) == image_shape((3, 8, 6)) == (3, 8, 6)
    assert not is_image((512, 3)) and not is_image((7, 7, 7))
    with pytest.raises(ValueError, match="three axes"):
        image_shape((5,))


def test_spatial_softmax_finds_the_bright_pixel():
    layer = SpatialSoftmax(1, keypoints=1)
    nn.init.ones_(layer.mix.weight)
    for row, column in ((0, 0), (2, 4), (4, 1)):
        image = torch.zeros(1, 1, 5, 5)
        image[0, 0, row, column] = 60.0
        torch.testing.assert_close(layer(image)[0], torch.tensor([column / 2 - 1, row / 2 - 1]), atol=1e-4, rtol=0)
    flat = layer(torch.zeros(1, 1, 5, 5))
    torch.testing.assert_close(flat, torch.zeros(1, 2), atol=1e-6, rtol=0)  # no evidence: the middle


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_point_cloud_features_ignore_order_and_repetition(seed):
    g = torch.Generator().manual_seed(seed)
    trunk, cloud = PointCloudTrunk((20, 3)), torch.randn(2, 20, 3, generator=g)
    order = torch.randperm(20, generator=g)
    torch.testing.assert_close(trunk(cloud[:, order]), trunk(cloud))
    torch.testing.assert_close(trunk(torch.cat([cloud, cloud[:, :5]], 1)), trunk(cloud))


@pytest.mark.parametrize(
    ("trunk", "shape", "width"),
    [(None, (7,), 7), ("mlp", (7,), 64), (None, (16, 16, 3), 64), ("cnn", (3, 33, 20), 64), (None, (50, 3), 64),
     ("spatial-softmax", (32, 32, 3), 128)],
)  # fmt: skip
def test_every_trunk_says_how_wide_its_features_are(trunk, shape, width):
    module = build_trunk(trunk, shape, seed=0)
    assert module.width == width and module(torch.zeros(2, *shape)).shape == (2, width)


def test_trunks_repeat_with_the_seed():
    weights = [next(build_trunk("cnn", (16, 16, 3), seed=s).parameters()) for s in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_resnet_trunk_has_group_norm_unless_told_otherwise():
    kinds = [{type(m) for m in ResNetTrunk((32, 32, 3), group_norm=g).modules()} for g in (True, False)]
    assert nn.BatchNorm2d not in kinds[0] and nn.GroupNorm in kinds[0] and nn.BatchNorm2d in kinds[1]


def test_frozen_features_have_no_weights_to_train_or_to_store(vision_model, tmp_path):
    trunk = FrozenImageFeatures(vision_model)
    before = {k: v.clone() for k, v in vision_model.state_dict().items()}
    assert trunk.width == 16 and list(trunk.parameters()) == [] and trunk.state_dict() == {}
    out = trunk(torch.zeros(2, 24, 24, 3, dtype=torch.uint8))  # scaled to the model's own size
    assert out.shape == (2, 16) and not out.requires_grad
    trunk.train()
    assert not vision_model.training
    vision_model.save_pretrained(tmp_path)
    named = build_trunk(f"frozen:{tmp_path}", (16, 16, 3), seed=0)
    gray = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(named(gray), trunk(gray))
    assert all(torch.equal(v, before[k]) for k, v in vision_model.state_dict().items())


def test_windows_are_joined_oldest_first_and_scaled_by_the_ranges():
    encoder = ObservationEncoder({"x": (2,)}, n_obs=2)
    encoder.set_ranges({"x": (torch.tensor([0.0, 5.0]), torch.tensor([4.0, 5.0]))})
    window = {"x": torch.tensor([[[0.0, 5.0], [3.0, 5.0]]])}
    assert encoder(window).tolist() == [[-1.0, 0.0, 0.5, 0.0]]  # what never varies is 0


def test_the_bottleneck_is_its_mean_when_acting_and_a_sample_in_training():
    encoder = ObservationEncoder({"x": (4,)}, bottleneck=3)
    window = {"x": torch.randn(6, 1, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)}
    assert torch.equal(encoder(window), encoder(window))
    one, losses = encoder.regularized(window, torch.Generator().manual_seed(0))
    two, _ = encoder.regularized(window, torch.Generator().manual_seed(1))
    assert not torch.equal(one, two) and list(losses) == ["kl"]
    with torch.no_grad():
        encoder.bottleneck.weight.zero_()
        encoder.bottleneck.bias.copy_(torch.tensor([1.0, 0, 0, 0, 0, 0]))
    # KL(N((1, 0, 0), I) || N(0, I)) = 1/2
    assert encoder.regularized(window)[1]["kl"].item() == pytest.approx(0.5)


def test_reconstruction_adds_up_over_keys_and_teaches_the_encoder():
    shapes = {"image": (16, 16, 3), "cloud": (12, 3), "joints": (4,)}
    encoder = ObservationEncoder(shapes, bottleneck=16, reconstruct=True)
    g = torch.Generator().manual_seed(0)
    window = {k: torch.rand(8, 1, *s, generator=g) for k, s in shapes.items()}
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        _, extra = encoder.regularized(window, g)
        losses.append(extra["reconstruction"].item())
        optimizer.zero_grad()
        extra["reconstruction"].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None for p in encoder.trunks.parameters())


def test_chamfer_by_hand_and_its_invariances():
    a, b = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [0.0, 2.0], [1.0, 0.0]]])
    assert chamfer(a, b).item() == pytest.approx(4 / 3)  # only (0, 2) is far from the other cloud
    assert chamfer(a, a).item() == 0
    torch.testing.assert_close(chamfer(a, b.flip(1)), chamfer(a, b))
    torch.testing.assert_close(chamfer(b, a), chamfer(a, b))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="trunk must be one of"):
        build_trunk("resnet", (16, 16, 3), seed=0)
    with pytest.raises(ValueError, match="attribute width"):
        build_trunk(nn.Linear(2, 2), (2,), seed=0)
    with pytest.raises(ValueError, match="at least one"):
        ObservationEncoder({})
    with pytest.raises(ValueError, match="unknown observations"):
        ObservationEncoder({"x": (2,)}, trunks={"y": "cnn"})
    encoder = ObservationEncoder({"x": (2,)})
    with pytest.raises(ValueError, match="'x' is missing"):
        encoder({"y": torch.zeros(1, 1, 2)})
    with pytest.raises(ValueError, match="must have shape"):
        encoder({"x": torch.zeros(1, 2, 2)})
    with pytest.raises(ValueError, match="points, coordinates"):
        PointCloudTrunk((3,))
    assert SmallCNN((16, 16, 3)).width == 64
