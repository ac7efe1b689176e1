"""Small worlds for tests of the attack room: models that are tables, linear models, a trained one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

FINE = 16  # distances are multiples of 1 / FINE, exact in float32


class TableModel(nn.Module):
    """Inputs (number of the sample / 64, distance moved); a table says where the label changes."""

    def __init__(self, adversarial: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(adversarial.astype(np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        sample = (x[:, 0] * 64).round().long()
        moved = (x[:, 1] * FINE).round().long()
        other = self.table[sample, moved]
        return torch.stack([1 - other, other], dim=1) * 4


def table_inputs(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs of a table model and their labels, all 0."""
    x = np.zeros((n, 2), dtype=np.float32)
    x[:, 0] = np.arange(n) / 64
    return x, np.zeros(n, dtype=np.int64)


class Linear(nn.Module):
    """Logits W x + b of flattened inputs."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(weight.astype(np.float32)))
        self.register_buffer("bias", torch.from_numpy(bias.astype(np.float32)))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


class RowModel(nn.Module):
    """A network of two layers whose arithmetic on a row does not depend on the rows beside it."""

    def __init__(self, features: int, classes: int, seed: int = 0, hidden: int = 12) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(torch.randn(hidden, features, generator=generator))
        self.second = nn.Parameter(torch.randn(classes, hidden, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(_product(x.flatten(1) - 0.5, self.first))
        return _product(hidden, self.second)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    # Additions in a fixed order: a matrix product chooses its kernel by the number of rows.
    total = torch.zeros(len(x), len(weight), dtype=x.dtype)
    for k in range(x.shape[1]):
        total = total + x[:, k : k + 1] * weight[:, k]
    return total


@dataclass
class LinearCase:
    """Inputs, labels and exact minimal distances per norm of a linear model, far from the box's faces."""

    model: Linear
    x: np.ndarray
    y: np.ndarray
    distance: dict[str, np.ndarray]


def linear_case(classes: int, n: int = 40, shape: tuple[int, ...] = (1, 3, 4), seed: int = 0) -> LinearCase:
    """Return a linear world: the distance to each other class is |w.x + b| / ||w||_q, the smallest counts."""
    rng = np.random.default_rng(seed)
    features = int(np.prod(shape))
    weight, bias = rng.normal(size=(classes, features)), 0.05 * rng.normal(size=classes)
    x = rng.uniform(0.4, 0.6, size=(n, *shape)).astype(np.float32)
    bias -= weight.sum(axis=1) * 0.5
    weight, bias = weight.astype(np.float32), bias.astype(np.float32)
    logits = x.reshape(n, -1).astype(np.float64) @ weight.T.astype(np.float64) + bias
    y = logits.argmax(axis=1)
    distance = {}
    for norm, dual in (("linf", 1), ("l2", 2), ("l1", np.inf)):
        each = np.full((n, classes), np.inf)
        for k in range(classes):
            difference = weight[y].astype(np.float64) - weight[k]
            size = np.linalg.norm(difference, ord=dual, axis=1)
            other = y != k
            each[other, k] = (logits[np.arange(n), y] - logits[:, k])[other] / size[other]
        distance[norm] = each.min(axis=1)
    return LinearCase(Linear(weight, bias), x, y.astype(np.int64), distance)
