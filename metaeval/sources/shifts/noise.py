"""Corruptions by noise; images float64 (n, channels, height, width) in [0, 1], one generator per image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.float64]
Generators = Sequence[np.random.Generator]


def gaussian_noise(x: Images, generators: Generators, deviation: float) -> Images:
    """Add normal noise of a standard deviation to every value."""
    return x + np.stack([draw.normal(0.0, deviation, x.shape[1:]) for draw in generators])


def shot_noise(x: Images, generators: Generators, photons: float) -> Images:
    """Replace every value by a Poisson count whose mean is the value times the photons of white."""
    drawn = [draw.poisson(image * photons) for draw, image in zip(generators, x, strict=True)]
    return np.stack(drawn) / photons


def impulse_noise(x: Images, generators: Generators, share: float) -> Images:
    """Set a share of all values to 0 or 1, either with probability one half."""
    hit = np.stack([draw.random(x.shape[1:]) for draw in generators]) < share
    salt = np.stack([draw.random(x.shape[1:]) for draw in generators]) < 0.5
    return np.where(hit, salt.astype(np.float64), x)
