"""Whatever a user calls a backbone becomes a fresh module of the right width."""

import pytest
import torch
from torch import nn

from anytask.models import build_backbone


def test_the_default_is_reproducible_and_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    a, b, c = (build_backbone(None, (4, 2), 3, seed=seed) for seed in (0, 0, 1))
    assert torch.rand(1) == expected
    x = torch.rand(5, 4, 2)
    assert torch.equal(a(x), b(x))
    assert not torch.equal(a(x), c(x))


def test_a_module_is_copied_not_shared():
    module = nn.Linear(4, 2)
    built = build_backbone(module, (4,), 2, seed=0)
    with torch.no_grad():
        built.weight.zero_()
    assert module.weight.abs().sum() > 0


def test_probing_does_not_move_batch_norm():
    built = build_backbone(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), (4,), 2, seed=0)
    assert built[1].num_batches_tracked == 0 and built.training


def test_a_callable_gets_the_shapes():
    built = build_backbone(
        lambda shape, n: nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1], n)), (3, 2), 7, seed=0
    )
    assert built(torch.zeros(1, 3, 2)).shape == (1, 7)


def test_a_hugging_face_vision_folder(tmp_path):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=8, patch_size=4
    )
    ViTModel(config).save_pretrained(tmp_path)
    built = build_backbone(str(tmp_path), (3, 8, 8), 5, seed=0)
    assert built(torch.zeros(2, 3, 8, 8)).shape == (2, 5)


def test_resnet18_has_the_published_size_less_its_classifier():
    built = build_backbone("resnet18", (3, 32, 32), 10, seed=0)
    # He et al. (2015): 11.69 M parameters with the 512 x 1000 + 1000 classifier of ImageNet.
    assert sum(p.numel() for p in built.encoder.parameters()) == 11_689_512 - 513_000


@pytest.mark.parametrize(
    ("backbone", "shape", "error", "words"),
    [
        (nn.Linear(4, 3), (4,), ValueError, r"shape \(2, 3\), wanted \(2, 2\)"),
        (nn.Linear(5, 2), (4,), ValueError, r"fails on inputs of shape \(4,\)"),
        (3, (4,), TypeError, "got int"),
        ("resnet18", (4,), ValueError, "takes images"),
        (nn.LSTM(4, 2), (4,), ValueError, "returns a tuple"),
        (lambda shape, n_outputs: None, (4,), TypeError, "must return a torch module, got NoneType"),
        (nn.Linear(4, 2, device="meta"), (4,), ValueError, "holds no values"),
    ],
)
def test_what_does_not_fit_is_refused(backbone, shape, error, words):
    with pytest.raises(error, match=words):
        build_backbone(backbone, shape, 2, seed=0)


def test_weights_that_are_not_finite_are_refused_by_name():
    module = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    module[1].running_var[1] = float("inf")
    with pytest.raises(ValueError, match=r"1\.running_var of the backbone is NaN or infinite"):
        build_backbone(module, (4,), 2, seed=0)
