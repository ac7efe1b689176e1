"""Digital corruptions; images float64 (n, channels, height, width) in [0, 1], one generator per image."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from metaeval.sources.shifts.noise import Generators, Images


def contrast(x: Images, _generators: Generators, kept: float) -> Images:
    """Draw every channel towards its mean."""
    means = x.mean(axis=(2, 3), keepdims=True)
    return np.asarray((x - means) * kept + means)


def elastic_transform(
    x: Images, generators: Generators, amplitude: float, sigma: float, corners: float
) -> Images:
    """Move three points at random and the image with them, then every pixel by smooth noise.

    Lengths are fractions of the shorter side.
    """
    side = min(x.shape[2:])
    lengths = amplitude * side, sigma * side, corners * side
    return np.stack([_elastic(image, draw, *lengths) for image, draw in zip(x, generators, strict=True)])


def _elastic(
    image: Images, draw: np.random.Generator, amplitude: float, sigma: float, corners: float
) -> Images:
    height, width = image.shape[1:]
    centre, third = np.array([height // 2, width // 2]), max(min(height, width) // 3, 1)
    before = centre + third * np.array([[1, 1], [-1, 1], [-1, -1]])
    after = before + draw.uniform(-corners, corners, (3, 2))
    # Pixels of the result come from where the inverse of the map of the points says: rows are (y, x, 1).
    inverse = np.linalg.solve(np.hstack([after, np.ones((3, 1))]), before)
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    places = np.stack([rows, columns, np.ones_like(rows)], axis=-1) @ inverse
    moved = _sampled(image, places.transpose(2, 0, 1), "mirror")
    if amplitude == 0:
        return moved
    shake = [
        amplitude
        * ndimage.gaussian_filter(draw.uniform(-1, 1, (height, width)), sigma, mode="reflect", truncate=3)
        for _ in range(2)
    ]
    return _sampled(moved, np.stack([rows + shake[1], columns + shake[0]]), "reflect")


def _sampled(image: Images, places: npt.NDArray[Any], mode: Literal["mirror", "reflect"]) -> Images:
    return np.stack([ndimage.map_coordinates(plane, places, order=1, mode=mode) for plane in image])


def pixelate(x: Images, _generators: Generators, scale: float) -> Images:
    """Shrink by averaging over boxes and enlarge again."""

    def shrunk(image: Image.Image) -> Image.Image:
        small = max(int(image.width * scale), 1), max(int(image.height * scale), 1)
        return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return np.stack([_pixels(shrunk(_picture(image))) for image in x])


def jpeg_compression(x: Images, _generators: Generators, quality: int) -> Images:
    """Compress as JPEG with a quality from 1 to 95."""

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return np.stack([_pixels(compressed(_picture(image))) for image in x])


def _picture(image: Images) -> Image.Image:
    pixels = np.rint(image * 255).astype(np.uint8)
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def _pixels(picture: Image.Image) -> Images:
    pixels = np.asarray(picture, dtype=np.float64) / 255
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
