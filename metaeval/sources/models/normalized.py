"""Models that take inputs in [0, 1], whatever their architecture was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


class Ranged(nn.Module):
    """Stretches inputs from [0, 1] to another range before an architecture."""

    def __init__(self, model: nn.Module, start: float, stop: float) -> None:
        super().__init__()
        self.model, self.start, self.stop = model, start, stop

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) of inputs (n, channels, ...) in [0, 1]."""
        logits: torch.Tensor = self.model(x * (self.stop - self.start) + self.start)
        return logits


class ChannelsLast(nn.Module):
    """Moves the channels of inputs to the end before an architecture."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, classes) of inputs (n, channels, ...)."""
        logits: torch.Tensor = self.model(x.movedim(1, -1))
        return logits


def bare(model: nn.Module) -> nn.Module:
    """Return the part of a model that was trained, without what `normalized` put before it."""
    while isinstance(model, (Ranged, Normalized, ChannelsLast)):
        model = model.model
    return model


def normalized(
    model: nn.Module,
    normalization: Normalization | None,
    *,
    input_range: tuple[float, float] = (0.0, 1.0),
    input_layout: str = "channels_first",
) -> nn.Module:
    """Return the model with all that it needs before it: range, then normalization, then layout.

    The model itself if there is nothing. Whatever it writes into its inputs, the caller's stay as they are.
    """
    if input_layout == "channels_last":
        model = ChannelsLast(model)
    if normalization:
        model = Normalized(model, normalization.mean, normalization.std)
    if input_range != (0.0, 1.0):
        model = Ranged(model, *input_range)
    if not isinstance(model, (Ranged, Normalized)):  # which compute new tensors
        model.register_forward_pre_hook(_copied)
    return model


def _copied(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return copies of what a model gets: ``x.sub_(mean)`` would change the samples that are attacked."""
    return tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in inputs)
