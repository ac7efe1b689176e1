"""A sound, strong attack lands between the published attack and the certificate (Wong and Kolter 2018)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from metaeval.attacks import sweep
from metaeval.outcomes import Cell

PUBLISHED_PGD_ERROR, CERTIFIED_ERROR = 0.041, 0.058


@pytest.mark.timeout(600)
def test_error_of_kw_mnist_lies_between_attack_and_certificate(shared_data: Path) -> None:
    data = np.load(shared_data / "mnist.npz")
    x = (data["x_test"][:, None] / 255).astype(np.float32)
    y = data["y_test"].astype(np.int64)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 4, 2, 1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(1568, 100),
        torch.nn.ReLU(),
        torch.nn.Linear(100, 10),
    )
    model.load_state_dict(load_file(shared_data / "models" / "kw_mnist.safetensors"))
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(x)).numpy()
    own = logits[np.arange(len(y)), y]
    logits[np.arange(len(y)), y] = -np.inf
    margin = own - logits.max(axis=1)
    # What is far from the boundary is left alone: the error found is a lower bound of the attack's, and
    # every error found is below the certificate if the attack is sound.
    near = np.flatnonzero((margin > 0) & (margin < 4))
    result = sweep(model, x[near], y[near], epsilons=[0.1], attack="apgd-ce", restarts=5)
    broken = int((result.cells[:, 0] == Cell.BROKEN).sum())
    error = (int((margin <= 0).sum()) + broken) / len(y)
    assert PUBLISHED_PGD_ERROR <= error <= CERTIFIED_ERROR
