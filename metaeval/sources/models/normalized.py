"""Models that take inputs in [0, 1], whatever their architecture was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from metaeval.sources.models.entry import Normalization


class Normalized(nn.Module):
    """Applies (x - mean) / std per channel before an architecture."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) of inputs (n, channels, ...) in [0, 1]."""
        per_channel = (-1, *[1] * (x.ndim - 2))
        logits: torch.Tensor = self.model((x - self.mean.view(per_channel)) / self.std.view(per_channel))
        return logits


def normalized(model: nn.Module, normalization: Normalization | None) -> nn.Module:
    """Return the model with a normalization before it, or the model itself if there is none."""
    return Normalized(model, normalization.mean, normalization.std) if normalization else model
