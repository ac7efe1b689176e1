"""The 15 common corruptions, generated: deterministic for each image, whatever the batch or the order.

Names and severities are those of the benchmark (Hendrycks and Dietterich 2019, Benchmarking neural network
robustness to common corruptions and perturbations): of CIFAR-10-C for images of at most 64 pixels, of
ImageNet-C for larger ones. The published files were drawn by other random numbers, with photographs of frost,
and their glass blur copies pixels where it is said to exchange them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from metaeval.sources.data.dataset import Inputs
from metaeval.sources.shifts import blur, digital, noise, weather

REVISION = 1  # counts changes of the corruptions that change images
SMALL = 64  # pixels of the longer side up to which the severities are CIFAR-10-C's
LEAST = 4  # pixels of the shorter side
SEVERITIES = (1, 2, 3, 4, 5)

Severities = Sequence[tuple[Any, ...]]

# Function, its settings at severities 1 to 5 for small images, and for large ones.
TABLE: dict[str, tuple[Callable[..., noise.Images], Severities, Severities]] = {
    "gaussian_noise": (
        noise.gaussian_noise,
        [(0.04,), (0.06,), (0.08,), (0.09,), (0.1,)],
        [(0.08,), (0.12,), (0.18,), (0.26,), (0.38,)],
    ),
    "shot_noise": (
        noise.shot_noise,
        [(500,), (250,), (100,), (75,), (50,)],
        [(60,), (25,), (12,), (5,), (3,)],
    ),
    "impulse_noise": (
        noise.impulse_noise,
        [(0.01,), (0.02,), (0.03,), (0.05,), (0.07,)],
        [(0.03,), (0.06,), (0.09,), (0.17,), (0.27,)],
    ),
    "defocus_blur": (
        blur.defocus_blur,
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
        [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    ),
    "glass_blur": (
        blur.glass_blur,
        [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    ),
    "motion_blur": (
        blur.motion_blur,
        [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
        [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    ),
    "zoom_blur": (
        blur.zoom_blur,
        [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
        [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    ),
    "snow": (
        weather.snow,
        [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
        [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
    ),
    "frost": (
        weather.frost,
        [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
        [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    ),
    "fog": (
        weather.fog,
        [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
        [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    ),
    "brightness": (
        weather.brightness,
        [(0.05,), (0.1,), (0.15,), (0.2,), (0.3,)],
        [(0.1,), (0.2,), (0.3,), (0.4,), (0.5,)],
    ),
    "contrast": (
        digital.contrast,
        [(0.75,), (0.5,), (0.4,), (0.3,), (0.15,)],
        [(0.4,), (0.3,), (0.2,), (0.1,), (0.05,)],
    ),
    "elastic_transform": (
        digital.elastic_transform,
        [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)],
        # Of 244 pixels in images of 224, as in the benchmark.
        [
            (2 * 244 / 224, 0.7 * 244 / 224, 0.1 * 244 / 224),
            (2 * 244 / 224, 0.08 * 244 / 224, 0.2 * 244 / 224),
            (0.05 * 244 / 224, 0.01 * 244 / 224, 0.02 * 244 / 224),
            (0.07 * 244 / 224, 0.01 * 244 / 224, 0.02 * 244 / 224),
            (0.12 * 244 / 224, 0.01 * 244 / 224, 0.02 * 244 / 224),
        ],
    ),
    "pixelate": (
        digital.pixelate,
        [(0.95,), (0.9,), (0.85,), (0.75,), (0.65,)],
        [(0.6,), (0.5,), (0.4,), (0.3,), (0.25,)],
    ),
    "jpeg_compression": (
        digital.jpeg_compression,
        [(80,), (65,), (58,), (50,), (40,)],
        [(25,), (18,), (15,), (10,), (7,)],
    ),
}


def corrupt(x: Inputs, name: str, severity: int, hashes: Sequence[str], seed: int = 0) -> Inputs:
    """Return corrupted images, float32 (n, channels, height, width), of 8 bits a value as the published ones.

    Parameters
    ----------
    x : float32 array (n, channels, height, width)
        Images in [0, 1].
    name : str
        A corruption of `TABLE`.
    severity : int
        From 1 to 5.
    hashes : sequence of str
        Content hash of each image; with the seed, the name and the severity it decides all that is random.
    """
    function, *scales = TABLE[name]
    settings = scales[scale(x.shape[1:]) == "ImageNet-C"][severity - 1]
    generators = [_generator(f"{seed}:{name}:{severity}:{content}") for content in hashes]
    images = np.clip(function(x.astype(np.float64), generators, *settings), 0, 1)
    # Cut off as the published images are; the small number takes rounding errors of whole values back.
    return np.floor(images * 255 + 1e-6).astype(np.float32) / np.float32(255)


def scale(shape: tuple[int, ...]) -> str:
    """Return whose severities images of a shape (channels, height, width) have."""
    return "CIFAR-10-C" if max(shape[1:]) <= SMALL else "ImageNet-C"


def unfit(shape: tuple[int, ...]) -> str | None:
    """Return why inputs of a shape cannot be corrupted, or None."""
    if len(shape) != 3 or shape[0] not in (1, 3):
        return f"corruptions are for images with 1 or 3 channels, and inputs have the shape {shape}"
    if min(shape[1:]) < LEAST:
        return f"corruptions need {LEAST} x {LEAST} pixels, and images have {shape[1]} x {shape[2]}"
    return None


def _generator(text: str) -> np.random.Generator:
    digest: bytes = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
