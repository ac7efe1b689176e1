"""VGG networks for small images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaeval.errors import UsageError
from metaeval.sources.models.architectures import image_shape

if TYPE_CHECKING:
    from torch import nn

# Convolutions in each block. From 11 on these are the published configurations A, B, D and E, whose names
# count three linear layers; the smaller ones count the one that there is.
BLOCKS: dict[int, tuple[int, ...]] = {
    5: (2, 2),
    7: (2, 2, 2),
    9: (2, 2, 2, 2),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
WIDEST = 8  # times the width of the first block


def vgg(
    shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 7,
    width: int = 16,
    dropout: float = 0.0,
    batch_norm: bool = True,
) -> nn.Sequential:
    """Return a VGG network (Simonyan and Zisserman 2015) with one linear layer, as usual for 32 x 32 pixels.

    Blocks of 3 x 3 convolutions with ReLU; each block but the first has twice the channels of the one before,
    up to 8 times the first, and ends with 2 x 2 max-pooling while a feature map has at least 2 x 2 pixels.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width).
    classes : int
        Number of logits.
    depth : int
        5, 7, 9, 11, 13, 16 or 19; width 64 gives the published networks from 11 on.
    width : int
        Channels of the first block.
    dropout : float
        Probability in [0, 1) of dropping an input of the linear layer.
    batch_norm : bool
        Whether each convolution is followed by batch normalization.

    Raises
    ------
    UsageError
        If the shape is no image's or the depth is none of these.
    """
    from torch import nn

    channels, rows, columns = image_shape("vgg", shape)
    if depth not in BLOCKS:
        raise UsageError(f"vgg needs a depth of {', '.join(map(str, BLOCKS))}, got {depth}")
    layers: list[nn.Module] = []
    for number, convolutions in enumerate(BLOCKS[depth]):
        wide = width * min(2**number, WIDEST)
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, wide, 3, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(wide))
            layers.append(nn.ReLU())
            channels = wide
        if min(rows, columns) >= 2:
            layers.append(nn.MaxPool2d(2))
            rows, columns = rows // 2, columns // 2
    layers.append(nn.Flatten())
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(channels * rows * columns, classes))
