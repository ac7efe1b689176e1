"""A small network whose arithmetic on a row ignores the other rows, and short settings for every attack."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metaeval.attacks import noise
from metaeval.attacks.spec import AttackSpec

# Enough to break something; every other setting keeps its default.
SHORT = {
    "iterations": 4,
    "queries": 15,
    "targets": 2,
    "binary_search_steps": 3,
    "samples": 2,
    "neighbours": 1,
}
LONGER = {  # these need more steps to find anything
    "eadl1@torchattacks": 30,
    "eaden@torchattacks": 30,
    "ead@foolbox": 60,
    "cw@foolbox": 60,
    "cw@torchattacks": 30,
    "ddn@foolbox": 15,
    "fmn@foolbox": 15,
}


class RowwiseModel(nn.Module):
    """Two layers with tanh between; sums over features instead of matrix products."""

    def __init__(self, shape: tuple[int, ...], classes: int, *, head: float = 0.0, seed: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("first", torch.randn(12, math.prod(shape), generator=generator))
        self.register_buffer("second", torch.randn(classes, 12, generator=generator))
        lead = torch.zeros(classes)
        lead[0] = head  # label 0 cannot be reached from below
        self.register_buffer("lead", lead)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(((x.flatten(1) - 0.5)[:, None] * self.first).sum(2))
        return (hidden[:, None] * self.second).sum(2) + self.lead


def rowwise_world(
    shape: tuple[int, ...], classes: int, n: int, *, head: float = 0.0
) -> tuple[RowwiseModel, Tensor, Tensor]:
    """Return a network, inputs and the labels that it gives them."""
    model = RowwiseModel(shape, classes, head=head).eval()
    x = torch.from_numpy(np.random.default_rng(0).random((n, *shape), dtype=np.float32))
    return model, x, model(x).argmax(1)


def short(spec: AttackSpec, norm: str) -> dict[str, Any]:
    """Return settings with which an attack takes little time."""
    given = {name: value for name, value in SHORT.items() if name in spec.settings}
    if spec.id in LONGER:
        given["iterations"] = LONGER[spec.id]
    least = {name: spec.for_norm(norm).settings[name].minimum for name in given}
    return {name: max(value, least[name]) for name, value in given.items()}


def keys_of(n: int, epsilon: Tensor | None = None) -> Tensor:
    """Return the keys of n samples."""
    return noise.sample_keys(
        0, [str(i) for i in range(n)], [0.0] * n if epsilon is None else epsilon.tolist()
    )
