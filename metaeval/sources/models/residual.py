"""The block that residual networks are made of."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import pad, relu


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch normalization, and a shortcut without parameters around them.

    Where the pixels are halved the shortcut takes every second one and fills new channels with zeros
    (option A of He et al. 2016).
    """

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.new = stride, channels - before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return feature maps with so many more channels."""
        found = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        shortcut = pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        return relu(found + shortcut)
