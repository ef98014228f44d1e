import numpy as np
import pytest
import torch

from anytask.continual import CosineFineTuning

EXEMPT = {"test_training_does_not_depend_on_the_cut": "views are drawn anew in every chunk"}
CENTRES = 3 * np.random.default_rng(0).normal(size=(4, 10))


def blobs(labels, n=32):
    rng = np.random.default_rng(0)
    y = rng.choice(labels, n)
    return CENTRES[y] + 0.3 * rng.normal(size=(n, 10)), y


@pytest.mark.parametrize("competitors", ["batch", "all"])
def test_batch_competitors_leave_absent_prototypes_alone(competitors):
    model = CosineFineTuning.from_preset("small", competitors=competitors)
    model.partial_fit(*blobs((0, 1)), task=0).end_task()
    before = model.prototypes_.weight.detach().clone()
    model.partial_fit(*blobs((2, 3)), task=1)
    assert torch.equal(model.prototypes_.weight[:2], before) == (competitors == "batch")
