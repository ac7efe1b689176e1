"""Corruptions by blur; images float64 (n, channels, height, width) in [0, 1], one generator per image."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from metaeval.sources.shifts.noise import Generators, Images

SMALL_DISK = (
    8  # up to this radius the disk is drawn on 17 x 17 pixels and smoothed with 3 taps, beyond with 5
)


def defocus_blur(x: Images, _generators: Generators, radius: float, smoothing: float) -> Images:
    """Average over a disk whose edge is smoothed by a Gaussian."""
    return ndimage.correlate(x, disk(radius, smoothing)[None, None], mode="mirror")


def disk(radius: float, smoothing: float) -> Images:
    """Return the weights of a disk, float64 (side, side), sum 1."""
    reach = max(SMALL_DISK, math.ceil(radius))
    places = np.arange(-reach, reach + 1)
    inside = (places[:, None] ** 2 + places[None, :] ** 2 <= radius**2).astype(np.float64)
    taps = np.arange(-1, 2) if radius <= SMALL_DISK else np.arange(-2, 3)
    weights = np.exp(-(taps**2) / (2 * smoothing**2))
    smooth = ndimage.correlate(inside / inside.sum(), np.outer(weights, weights) / weights.sum() ** 2)
    used = np.flatnonzero(smooth.any(axis=0))
    return np.asarray(smooth[used[0] : used[-1] + 1, used[0] : used[-1] + 1])


def glass_blur(x: Images, generators: Generators, sigma: float, reach: int, rounds: int) -> Images:
    """Smooth, exchange pixels with others at most `reach` away, and smooth again."""
    spread = (0.0, 0.0, sigma, sigma)
    pixels = np.floor(ndimage.gaussian_filter(x, spread, mode="nearest") * 255)
    n, _, height, width = x.shape
    rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
    size = (rounds, len(rows), len(columns), 2)
    moves = np.stack([draw.integers(-reach, reach, size) for draw in generators])
    every = np.arange(n)
    for turn in range(rounds):
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                other = row + moves[:, turn, i, j, 0], column + moves[:, turn, i, j, 1]
                kept = pixels[:, :, row, column].copy()
                pixels[:, :, row, column] = pixels[every, :, other[0], other[1]]
                pixels[every, :, other[0], other[1]] = kept
    return np.asarray(ndimage.gaussian_filter(pixels / 255, spread, mode="nearest"))


def motion_blur(x: Images, generators: Generators, radius: float, sigma: float) -> Images:
    """Average along a line in a random direction of at most 45 degrees, weighed by half a Gaussian."""
    angles = [draw.uniform(-45, 45) for draw in generators]
    return np.stack([along(image, radius, sigma, angle) for image, angle in zip(x, angles, strict=True)])


def along(image: Images, radius: float, sigma: float, angle: float) -> Images:
    """Return an image (channels, height, width) blurred in the direction of an angle in degrees."""
    weights = np.exp(-(np.arange(2 * math.ceil(radius) + 1) ** 2) / (2 * sigma**2))
    down, right = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    height, width = image.shape[1:]
    blurred = np.zeros_like(image)
    for step, weight in enumerate(weights / weights.sum()):
        rows = np.clip(np.arange(height) + math.ceil(step * down - 0.5), 0, height - 1)
        columns = np.clip(np.arange(width) + math.ceil(step * right - 0.5), 0, width - 1)
        blurred += weight * image[:, rows[:, None], columns[None, :]]
    return blurred


def zoom_blur(x: Images, _generators: Generators, stop: float, step: float) -> Images:
    """Average the image with copies enlarged by 1, 1 + step, ... below `stop`."""
    factors = np.arange(1, stop, step)
    total = x.copy()
    for factor in factors:
        total += enlarged(x, float(factor))
    return np.asarray(total / (len(factors) + 1))


def enlarged(x: Images, factor: float) -> Images:
    """Return the centre of images (..., height, width), enlarged to their full size."""
    height, width = x.shape[-2:]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    zoom = (*[1.0] * (x.ndim - 2), factor, factor)
    larger = ndimage.zoom(x[..., top : top + rows, left : left + columns], zoom, order=1)
    top, left = (larger.shape[-2] - height) // 2, (larger.shape[-1] - width) // 2
    return np.asarray(larger[..., top : top + height, left : left + width])
