"""Corruptions by weather; images float64 (n, channels, height, width) in [0, 1], one generator per image."""

from __future__ import annotations

import numpy as np

from metaeval.sources.shifts.blur import along, enlarged
from metaeval.sources.shifts.noise import Generators, Images

LUMA = (0.299, 0.587, 0.114)
ICE = (0.78, 0.86, 0.92)  # tint of the frost


def snow(
    x: Images,
    generators: Generators,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
) -> Images:
    """Whiten the image and lay flakes over it: enlarged noise above a threshold, blurred as if falling."""
    layers = []
    for draw in generators:
        flakes = enlarged(draw.normal(mean, deviation, x.shape[2:]), zoom)
        flakes = np.floor(np.clip(np.where(flakes < threshold, 0.0, flakes), 0, 1) * 255) / 255
        layers.append(along(flakes[None], radius, sigma, draw.uniform(-135, -45)))
    layer = np.stack(layers)
    white = kept * x + (1 - kept) * np.maximum(x, 1.5 * luma(x) + 0.5)
    return np.asarray(white + layer + layer[:, :, ::-1, ::-1])


def luma(x: Images) -> Images:
    """Return the brightness of images, one channel."""
    return x if x.shape[1] == 1 else np.tensordot(LUMA, x, axes=(0, 1))[:, None]


def frost(x: Images, generators: Generators, kept: float, share: float) -> Images:
    """Lay a texture of ice over the image.

    The published corruption takes crops of photographs; here ridges of a fractal stand for them.
    """
    side = _power_of_two(max(x.shape[2:]))
    height, width = x.shape[2:]
    ridges = np.stack([1 - np.abs(2 * plasma(draw, side, 2.0)[:height, :width] - 1) for draw in generators])
    tint = np.array(ICE if x.shape[1] == 3 else [np.dot(LUMA, ICE)] * x.shape[1])
    return np.asarray(kept * x + share * ridges[:, None] * tint[None, :, None, None])


def fog(x: Images, generators: Generators, strength: float, decay: float) -> Images:
    """Add a cloud of diamond-square noise and scale back to the image's own maximum."""
    side = _power_of_two(max(x.shape[2:]))
    height, width = x.shape[2:]
    clouds = np.stack([plasma(draw, side, decay)[:height, :width] for draw in generators])
    highest = x.max(axis=(1, 2, 3), keepdims=True)
    return np.asarray((x + strength * clouds[:, None]) * highest / (highest + strength))


def plasma(draw: np.random.Generator, side: int, decay: float) -> Images:
    """Return a cloud (side, side) from 0 to 1 by the diamond-square algorithm on a torus.

    Parameters
    ----------
    side : int
        A power of two, at least 2.
    decay : float
        By how much the noise shrinks from one scale to the next: larger is smoother.
    """
    cloud = np.zeros((side, side))
    step, noise = side, 1.0
    while step >= 2:
        half = step // 2

        def rough(mean: Images, noise: float = noise) -> Images:
            return np.asarray(mean + draw.uniform(-noise, noise, mean.shape))

        corners = cloud[::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=0)
        cloud[half::step, half::step] = rough((pairs + np.roll(pairs, -1, axis=1)) / 4)
        middles = cloud[half::step, half::step]
        beside = corners + np.roll(corners, -1, axis=1) + middles + np.roll(middles, 1, axis=0)
        below = corners + np.roll(corners, -1, axis=0) + middles + np.roll(middles, 1, axis=1)
        cloud[::step, half::step] = rough(beside / 4)
        cloud[half::step, ::step] = rough(below / 4)
        step, noise = half, noise / decay
    cloud -= cloud.min()
    return np.asarray(cloud / cloud.max())


def brightness(x: Images, _generators: Generators, added: float) -> Images:
    """Add to the value of every pixel in hue, saturation and value."""
    value = x.max(axis=1, keepdims=True)
    brighter = np.clip(value + added, 0, 1)
    scale = np.divide(brighter, value, out=np.zeros_like(value), where=value > 0)
    return np.asarray(np.where(value > 0, x * scale, brighter))


def _power_of_two(length: int) -> int:
    return max(2, 1 << (length - 1).bit_length())
