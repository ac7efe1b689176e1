"""Residual networks for small images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaeval.errors import UsageError
from metaeval.sources.models.architectures import image_shape

if TYPE_CHECKING:
    from torch import nn

STAGES = 3  # each with half the pixels and twice the channels of the one before


def resnet(shape: tuple[int, ...], classes: int, *, depth: int = 20, width: int = 16) -> nn.Sequential:
    """Return the residual network for CIFAR-10 of He et al. (2016), for images of any size.

    A convolution, three stages of basic blocks, global average pooling and one linear layer.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width).
    classes : int
        Number of logits.
    depth : int
        Number of layers with weights: 6 n + 2, so 8, 14, 20, ...
    width : int
        Channels of the first stage; 16 in the paper.

    Raises
    ------
    UsageError
        If the shape is no image's or there is no such depth.
    """
    from torch import nn

    from metaeval.sources.models.residual import BasicBlock

    before = image_shape("resnet", shape)[0]
    blocks, rest = divmod(depth - 2, 2 * STAGES)
    if blocks < 1 or rest:
        raise UsageError(f"resnet needs a depth of 8, 14, 20, ... (6 n + 2), got {depth}")
    layers: list[nn.Module] = [
        nn.Conv2d(before, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    channels = width
    for stage in range(STAGES):
        for block in range(blocks):
            wide = width * 2**stage
            layers.append(BasicBlock(channels, wide, stride=2 if stage and not block else 1))
            channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
