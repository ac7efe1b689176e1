"""Which input shapes an attack takes; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable

Shape = tuple[int, ...]
Unfit = Callable[[Shape], str | None]  # why inputs of this shape cannot be attacked, None if they can


def images(*, channels: int | None = None, square: bool = False, side: int = 1) -> Unfit:
    """Return the check of an attack that takes images (channels, height, width) only.

    Parameters
    ----------
    channels : int, optional
        The only number of channels that it takes.
    square : bool
        Height and width must be equal.
    side : int
        Smallest height and width.
    """
    wanted = "images (channels, height, width)" if channels is None else f"images of {channels} channels"

    def unfit(shape: Shape) -> str | None:
        if len(shape) != 3 or (channels is not None and shape[0] != channels):
            return f"needs {wanted}, inputs have shape {shape}"
        if square and shape[1] != shape[2]:
            return f"needs images as high as wide, they are {shape[1]} x {shape[2]}"
        if min(shape[1:]) < side:
            return f"needs images of {side} x {side} pixels or more, they are {shape[1]} x {shape[2]}"
        return None

    return unfit


def small(features: int) -> Unfit:
    """Return the check of an attack whose memory grows with the square of the number of features."""

    def unfit(shape: Shape) -> str | None:
        if math.prod(shape) > features:
            return f"takes {features} features at most, inputs have {math.prod(shape)}"
        return None

    return unfit


def tiled(shape: Shape) -> str | None:
    """Check that the published Square attack can tile an image with its first perturbation (l2 and l1).

    Tiles of a fifth of the height start after a margin of half of what five of them leave, and there are as
    many as fit the image without that margin: on some sides, such as 8 or 14, the last one sticks out.
    """
    if reason := images(side=5)(shape):
        return reason
    height, width = shape[1:]
    tile = height // 5
    margin = (height - 5 * tile) // 2
    if any(margin + (side // tile) * tile > side for side in (height, width)):
        return f"cannot tile images of {height} x {width} pixels with its first perturbation"
    return None
