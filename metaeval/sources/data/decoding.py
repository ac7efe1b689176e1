"""Image files, decoded when they are needed; all of a set must be alike."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from metaeval.sources.data.archives import DAMAGE, Files
from metaeval.sources.data.dataset import Indices, Inputs, Read
from metaeval.sources.data.opening import refuse
from metaeval.study import Study

MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # others lose something when they are converted
UNREADABLE: tuple[type[Exception], ...] = (*DAMAGE, SyntaxError)  # the last is Pillow's word for broken PNG


class ModeError(Exception):
    """An image with more or other channels than grey and RGB ones have."""


Convert = Callable[[Image.Image], Image.Image]


def as_it_is(image: Image.Image) -> Image.Image:
    """Return a grey or colour image of 8 bits.

    Raises
    ------
    ModeError
        If it has transparency, more bits or other channels.
    """
    mode = MODES.get(image.mode)
    if mode is None:
        raise ModeError(f"has the mode {image.mode}; grey and RGB images with 8 bits are read")
    return image.convert(mode)


def image_reader(
    study: Study, files: Files, paths: Sequence[str], *, key: str, convert: Convert = as_it_is
) -> tuple[tuple[int, ...], Read]:
    """Return the shape of the first image and what reads rows of them as float32 in [0, 1].

    Parameters
    ----------
    paths : sequence of str
        Of the images in `files`, one per sample.
    key : str
        Of ``[data]``, where problems with them are shown.
    convert : callable
        From what was opened to a grey or RGB image of the size that is wanted.

    Raises
    ------
    StudyError
        If the first image cannot be decoded; when read, if another one cannot or is of another kind.
    """
    shape = next(decode(study, files, paths[:1], key, convert)).shape

    def read(indices: Indices) -> Inputs:
        pixels = np.empty((len(indices), *shape), dtype=np.uint8)
        chosen = [paths[index] for index in indices]
        for row, image in enumerate(decode(study, files, chosen, key, convert)):
            if image.shape != shape:
                message = (
                    f"images must be alike: {chosen[row]} is {describe(image.shape)}, "
                    f"{paths[0]} is {describe(shape)}"
                )
                raise refuse(study, key, message)
            pixels[row] = image
        return pixels.astype(np.float32) / np.float32(255)

    return shape, read


def decode(
    study: Study, files: Files, paths: Sequence[str], key: str, convert: Convert
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield files as uint8 arrays (channels, height, width); damage is a problem of the study."""
    contents = files.read(paths)
    for path in paths:
        try:
            with Image.open(io.BytesIO(next(contents))) as image:
                pixels = pixels_of(image, convert)
        except UnidentifiedImageError:
            raise refuse(study, key, f"{path} is no image, or damaged") from None
        except ModeError as error:
            raise refuse(study, key, f"{path} {error}") from None
        except UNREADABLE as error:
            raise refuse(study, key, f"{path} cannot be read: {error}") from None
        yield pixels


def pixels_of(image: Image.Image, convert: Convert = as_it_is) -> npt.NDArray[np.uint8]:
    """Return an image as uint8 array (channels, height, width)."""
    pixels = np.asarray(convert(image))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def describe(shape: tuple[int, ...]) -> str:
    """Return an image's shape in words."""
    colour = "grey" if shape[0] == 1 else "colour"
    return f"{colour}, {shape[2]} x {shape[1]} pixels"
