"""Small networks and contexts for the tests of norm measures."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

from metaeval.measures.folding import Folded, fold
from metaeval.measures.layers import Layer, layers_of
from metaeval.measures.spec import Context, Split


def trained_norms(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norm statistics and weights as after training; in evaluation mode."""
    draw = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.running_mean.normal_(0, 0.3, generator=draw)
            layer.running_var.uniform_(0.5, 2, generator=draw)
            if not layer.affine:
                continue
            layer.weight.data.uniform_(0.5, 1.5, generator=draw)
            layer.bias.data.normal_(0, 0.3, generator=draw)
    return module.eval()


def seeded(build: type[nn.Module] | object, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build().eval()  # type: ignore[operator]


def folded_layers(module: nn.Module, shape: tuple[int, ...]) -> list[Layer]:
    return list(layers_of(fold(module.eval(), shape), shape).maps)


def folded(module: nn.Module, shape: tuple[int, ...]) -> Folded:
    return fold(module.eval(), shape)


def context_of(
    module: nn.Module,
    shape: tuple[int, ...],
    *,
    initial: nn.Module | None = None,
    samples: int = 40,
    seed: int = 0,
    batch_size: int = 256,
) -> Context:
    """Return a context whose training set the model classifies correctly, so that its margin is positive."""
    x = np.random.default_rng(1).random((samples, *shape), dtype=np.float32)
    with torch.no_grad():
        logits = module(torch.from_numpy(x)).numpy()
    split = Split(logits.argmax(1).astype(np.int64), logits, x)
    return Context(
        module,
        shape,
        logits.shape[1],
        clean=split,
        train=split,
        initial=None if initial is None else copy.deepcopy(initial.state_dict()),
        seed=seed,
        batch_size=batch_size,
    )


class Residual(nn.Module):
    """A residual network with batch norm before and after convolutions, as in ResNets and WideResNets."""

    def __init__(self, width: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.short = nn.Conv2d(width, width, 1, stride=2, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm1(self.stem(x)))
        out = self.conv2(self.relu(self.norm2(self.conv1(x))))
        out += self.short(x)
        return self.head(nn.functional.adaptive_avg_pool2d(self.relu(out), 1).flatten(1))


class PreActivation(Residual):
    """The same parts with batch norm before the convolutions, where it cannot be folded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        active = self.relu(self.norm1(x))
        out = self.conv2(self.relu(self.norm2(self.conv1(active))))
        out = torch.add(self.short(active), out)
        return self.head(nn.functional.avg_pool2d(out, out.shape[-1]).view(-1, self.head.in_features))


class Normalized(nn.Module):
    """(x - mean) / std per channel, then a network."""

    def __init__(self, model: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        per_channel = (-1, *[1] * (x.ndim - 2))
        return self.model((x - self.mean.view(per_channel)) / self.std.view(per_channel))
