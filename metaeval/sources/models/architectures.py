"""The built-in architectures; each takes the shape of an input and the number of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaeval.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

ARCHITECTURES = {
    "cnn": "metaeval.sources.models.architectures:cnn",
    "lenet_small": "metaeval.sources.models.architectures:lenet_small",
    "mlp": "metaeval.sources.models.architectures:mlp",
    "resnet": "metaeval.sources.models.resnet:resnet",
    "vgg": "metaeval.sources.models.vgg:vgg",
}

ARCHITECTURES_VERSION = 1  # to be raised when one of them changes: the models are others then
SMALLEST = 4  # pixels; feature maps are not halved to less


def lenet_small(shape: tuple[int, ...], classes: int) -> nn.Sequential:
    """Return the small convolutional network of provable defences (Wong and Kolter 2018).

    Two convolutions (16 and 32 channels, 4 x 4, stride 2, padding 1) and two linear layers (100 units) with
    ReLU; parameters have the names 0, 2, 5 and 7.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width), at least 4 x 4 pixels.
    classes : int
        Number of logits.

    Raises
    ------
    UsageError
        If the shape is no image's, or too small.
    """
    from torch import nn

    channels, height, width = image_shape("lenet_small", shape, smallest=4)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), 100),
        nn.ReLU(),
        nn.Linear(100, classes),
    )


def cnn(
    shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 2,
    width: int = 16,
    dropout: float = 0.0,
    batch_norm: bool = True,
    kernel: int = 3,
) -> nn.Sequential:
    """Return a plain convolutional network: `depth` convolutions with ReLU, then one linear layer.

    While a feature map has at least 8 x 8 pixels, the next convolution is followed by 2 x 2 max-pooling, and
    the one after it has twice as many channels.

    Parameters
    ----------
    shape : tuple of int
        (channels, height, width).
    classes : int
        Number of logits.
    depth, width : int
        Number of convolutions, and channels of the first one.
    dropout : float
        Probability in [0, 1) of dropping an input of the linear layer.
    batch_norm : bool
        Whether each convolution is followed by batch normalization.
    kernel : int
        Height and width of the convolutions, odd.

    Raises
    ------
    UsageError
        If the shape is no image's or the kernel is even.
    """
    from torch import nn

    channels, rows, columns = image_shape("cnn", shape)
    if kernel % 2 == 0:
        raise UsageError(f"cnn needs an odd kernel, got {kernel}")
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU())
        channels = width
        if min(rows, columns) >= 2 * SMALLEST:
            layers.append(nn.MaxPool2d(2))
            rows, columns, width = rows // 2, columns // 2, 2 * width
    layers.append(nn.Flatten())
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(channels * rows * columns, classes))


def mlp(
    shape: tuple[int, ...], classes: int, *, depth: int = 2, width: int = 128, dropout: float = 0.0
) -> nn.Sequential:
    """Return a multilayer perceptron: `depth` hidden layers with ReLU, then one linear layer.

    Parameters
    ----------
    shape : tuple of int
        Any; inputs are flattened.
    classes : int
        Number of logits.
    depth, width : int
        Number of hidden layers, and units of each.
    dropout : float
        Probability in [0, 1) of dropping a hidden unit.
    """
    from math import prod

    from torch import nn

    layers: list[nn.Module] = [nn.Flatten()]
    features = prod(shape)
    for _ in range(depth):
        layers += [nn.Linear(features, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        features = width
    return nn.Sequential(*layers, nn.Linear(features, classes))


def image_shape(name: str, shape: tuple[int, ...], *, smallest: int = 1) -> tuple[int, int, int]:
    """Return (channels, height, width) for an architecture that takes images.

    Raises
    ------
    UsageError
        If the shape is no image's, or it has fewer pixels than `smallest` in a direction.
    """
    if len(shape) != 3:
        raise UsageError(f"{name} takes images (channels, height, width), the data have inputs {shape}")
    if min(shape[1:]) < smallest:
        raise UsageError(f"{name} takes images of at least {smallest} x {smallest} pixels, got {shape}")
    return shape[0], shape[1], shape[2]
