"""Batches of few shapes, other layouts and lower precision change costs, never what counts as adversarial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from published import correct_samples, network, sample_keys
from torch import Tensor, nn

from metaeval.attacks import sweep
from metaeval.attacks.apgd import apgd
from metaeval.attacks.arithmetic import AttackedModel, bucket
from metaeval.errors import UsageError
from metaeval.outcomes import Cell


class Shapes(nn.Module):
    """A model that remembers the shapes, layouts and types that it met."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows: list[int] = []
        self.channels_last: set[bool] = set()
        self.types: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        self.channels_last.add(x.is_contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.model(x)
        self.types.add(logits.dtype)
        return logits


def test_buckets_are_the_next_powers_of_two() -> None:
    assert [bucket(n) for n in (1, 7, 8, 9, 64, 65, 1000)] == [8, 8, 8, 16, 64, 128, 1024]


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_filled_batches_and_channels_last_give_the_same_verdicts(shared_data: Path, loss: str) -> None:
    model = network(shared_data, "mmr_univ_mnist")
    x, y = correct_samples(shared_data, model, 40)
    epsilon = torch.linspace(0.02, 0.3, 40, dtype=torch.float64)
    common = {"norm": "linf", "keys": sample_keys(x, epsilon), "loss": loss, "batch_size": 24}
    plain = apgd(model, x, y, epsilon, **common)
    seen = Shapes(model)
    wrapped = AttackedModel(seen, buckets=True, channels_last=True, autocast=False)
    filled = apgd(wrapped, x, y, epsilon, **common)
    assert set(seen.rows) <= {8, 16, 32}
    assert seen.channels_last == {True}
    assert 3 < plain.success.sum() < 35
    assert torch.equal(filled.success, plain.success)
    assert torch.equal(filled.forwards, plain.forwards), "filling up is no pass of a sample"


def test_gradients_of_filled_batches_are_those_of_the_samples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    wrapped = AttackedModel(model, buckets=True, channels_last=True, autocast=False)
    x = torch.rand(5, 3, 8, 8)
    gradients = []
    for network_ in (model, wrapped):
        inputs = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(network_(inputs).square().sum(), inputs)[0])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_bfloat16_is_confirmed_in_float32(shared_data: Path) -> None:
    model = Shapes(network(shared_data, "kw_mnist"))
    x, y = correct_samples(shared_data, model, 60)
    epsilons = [0.0, 0.05, 0.1, 0.15]
    exact = sweep(model, x, y, epsilons=epsilons, attack="apgd-ce")
    assert model.types == {torch.float32}
    model.types.clear()
    coarse = sweep(model, x, y, epsilons=epsilons, attack="apgd-ce", precision="bfloat16", evidence=True)
    assert model.types == {torch.float32, torch.bfloat16}
    assert coarse.flags["rejected_claims"] == 0, "a sample left its batch unconfirmed"
    found = np.isfinite(coarse.distance) & (coarse.distance > 0)
    assert found.sum() > 10
    assert (model(torch.from_numpy(coarse.evidence[found])).argmax(1).numpy() != y.numpy()[found]).all()
    differs = (coarse.cells >= Cell.ROBUST) != (exact.cells >= Cell.ROBUST)
    assert differs.mean() < 0.03


@pytest.mark.parametrize(("attack", "given"), [("square", {"queries": 10}), ("fab", {"iterations": 3})])
def test_attacks_that_confirm_nothing_compute_in_float32(shared_data: Path, attack: str, given: dict) -> None:
    model = Shapes(network(shared_data, "kw_mnist"))
    x, y = correct_samples(shared_data, model, 5)
    sweep(model, x, y, epsilons=[0.1], attack=attack, precision="bfloat16", **given)
    assert model.types == {torch.float32}


def test_an_unknown_precision_is_refused(shared_data: Path) -> None:
    model = network(shared_data, "kw_mnist")
    x, y = correct_samples(shared_data, model, 2)
    with pytest.raises(UsageError, match="unknown precision 'bfloat1'; allowed: bfloat16"):
        sweep(model, x, y, epsilons=[0.1], precision="bfloat1")
