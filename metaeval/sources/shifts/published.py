"""Published shifted sets of CIFAR in their published files: CIFAR-10.1, CIFAR-10-C, CIFAR-100-C."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metaeval.errors import StudyError, nearest
from metaeval.hashing import hash_array
from metaeval.sources.data import Samples
from metaeval.sources.data.dataset import Indices, Inputs
from metaeval.sources.models.files import cache_directory
from metaeval.sources.shifts.shift import Content, Shift
from metaeval.study import Study
from metaeval.study.shift_inputs import (
    SEVERITIES,
    Cifar10CShift,
    Cifar100CShift,
    Cifar101Shift,
    PublishedCorruptions,
)

FOLDERS = {
    "cifar10.1": "cifar10.1",
    "cifar10-c": "CIFAR-10-C",
    "cifar100-c": "CIFAR-100-C",
    "imagenet-c": "ImageNet-C",
}
Pixels = npt.NDArray[np.uint8]


def folder_of(study: Study, i: int) -> Path:
    """Return the folder of a published set.

    Raises
    ------
    StudyError
        If it is not there.
    """
    table = study.shifts[i]
    assert isinstance(table, (Cifar101Shift, PublishedCorruptions))
    folder = place_of(table)
    if not folder.is_dir():
        message = f"there is no folder {folder}" + ("" if table.path else "; put it there or set path")
        raise StudyError([study.problem(("shifts", i, key_of(table)), message)], missing=True)
    return folder


def place_of(table: Cifar101Shift | PublishedCorruptions) -> Path:
    """Return where the folder of a published set should be."""
    return table.path or cache_directory() / "data" / FOLDERS[table.source]  # type: ignore[union-attr]


def key_of(table: Cifar101Shift | PublishedCorruptions) -> str:
    """Return the key of a table that says where its folder is."""
    return "path" if table.path else "source"


def number_of(study: Study, i: int, available: int, limit: int | None) -> int:
    """Return how many of a set's samples are used.

    Raises
    ------
    StudyError
        If the study asks for more than there are.
    """
    asked = study.shifts[i].samples  # type: ignore[union-attr]
    number = available if asked == "all" else int(asked)
    if number > available:
        message = f"{number} samples asked for; there are {available}"
        raise StudyError([study.problem(("shifts", i, "samples"), message, "all")])
    return number if limit is None else min(number, limit)


def check_classes(study: Study, i: int, labels: Indices, classes: int) -> None:
    """Raise a StudyError if a label is none of the study's classes."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        message = f"labels go from {labels.min()} to {labels.max()}, and the study has {classes} classes"
        raise StudyError([study.problem(("shifts", i, "source"), message)])


def open_cifar101(study: Study, i: int, samples: Samples, limit: int | None) -> list[Shift]:
    """Open CIFAR-10.1 (Recht et al. 2018, Do CIFAR-10 classifiers generalize to CIFAR-10?).

    Raises
    ------
    StudyError
        If files are missing, damaged, or do not fit the study's inputs and classes.
    """
    table = study.shifts[i]
    assert isinstance(table, Cifar101Shift)
    folder = folder_of(study, i)
    pixels = _images(study, i, folder / f"cifar10.1_{table.version}_data.npy", samples)
    labels = _labels(study, i, folder / f"cifar10.1_{table.version}_labels.npy", len(pixels), samples)
    number = number_of(study, i, len(pixels), limit)

    def read(_severity: int, rows: slice) -> Inputs:
        return _inputs(pixels[:number][rows])

    return [
        Shift(
            name=table.name,
            kind="test set",
            severities=(0,),
            ids=tuple(f"{table.version}/{row}" for row in range(number)),
            clean=(-1,) * number,
            settings={"source": table.source, "version": table.version},
            describe=lambda: Content(labels[:number], _hashes(pixels[None], np.arange(number))),
            read=read,
        )
    ]


def open_cifar_c(study: Study, i: int, samples: Samples, limit: int | None) -> list[Shift]:
    """Open CIFAR-10-C or CIFAR-100-C (Hendrycks and Dietterich 2019), one shift for each corruption.

    Its rows are the test set in order: where the study's samples are of that set, exactly their rows are
    used, as the ids that end in a number say and the labels confirm.

    Raises
    ------
    StudyError
        If files are missing, damaged, or do not fit the study's inputs and classes.
    """
    table = study.shifts[i]
    assert isinstance(table, (Cifar10CShift, Cifar100CShift))
    folder = folder_of(study, i)
    images = [_images(study, i, folder / f"{name}.npy", samples) for name in table.names]
    stacked = _labels(study, i, folder / "labels.npy", len(images[0]), samples)
    labels = stacked[: len(stacked) // len(SEVERITIES)]
    if not np.array_equal(np.tile(labels, len(SEVERITIES)), stacked):
        message = f"{folder / 'labels.npy'} does not hold the same labels for each of five severities"
        raise StudyError([study.problem(("shifts", i, "source"), message)])
    own = rows_in_order(samples, labels)
    number = number_of(study, i, len(labels) if own is None else len(own), limit)
    rows = np.arange(number) if own is None else own[:number]
    shifts = []
    for position, (name, corruption) in enumerate(zip(table.shifts, table.names, strict=True)):
        pixels = images[position]
        if len(pixels) != len(stacked):
            message = f"{corruption}.npy holds {len(pixels)} images for {len(stacked)} labels"
            raise StudyError([study.problem(("shifts", i, "names"), message)])
        blocks = pixels.reshape(len(SEVERITIES), len(labels), *pixels.shape[1:])
        shifts.append(
            Shift(
                name=name,
                kind="corruption",
                severities=table.severities,
                ids=tuple(f"{corruption}/{row}" for row in rows) if own is None else samples.ids[:number],
                clean=(-1,) * number if own is None else tuple(range(number)),
                settings={"source": table.source, "corruption": corruption},
                describe=partial(_content, labels, blocks, rows),
                read=partial(_read_block, blocks, rows),
            )
        )
    return shifts


def rows_in_order(samples: Samples, labels: Indices) -> Indices | None:
    """Return the rows of a test set in order that the study's samples are, None if they are not of it."""
    found = [re.search(r"(\d+)(\.\w+)?$", name) for name in samples.ids]
    if not all(found):
        return None
    rows = np.array([int(match[1]) for match in found if match], dtype=np.int64)
    if len(set(rows.tolist())) < len(rows) or rows.max(initial=-1) >= len(labels):
        return None
    return rows if np.array_equal(labels[rows], samples.y) else None


def _content(labels: Indices, blocks: Pixels, rows: Indices) -> Content:
    return Content(labels[rows], _hashes(blocks, rows))


def _read_block(blocks: Pixels, rows: Indices, severity: int, part: slice) -> Inputs:
    return _inputs(blocks[severity - 1][rows[part]])


def _inputs(pixels: Pixels) -> Inputs:
    # Divided in float32, as torchvision does.
    return pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


def _hashes(blocks: Pixels, rows: Indices) -> tuple[str, ...]:
    """Return a hash of each sample at all severities of the file, so that it stays when one more is asked."""
    return tuple(hash_array(blocks[:, row])[:32] for row in rows)


def _load(study: Study, i: int, path: Path) -> npt.NDArray[Any]:
    if not path.exists():
        near = nearest(path.name, [other.name for other in path.parent.glob("*.npy")])
        key = key_of(study.shifts[i])  # type: ignore[arg-type]
        raise StudyError([study.problem(("shifts", i, key), f"there is no {path}", near)], missing=True)
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        message = f"{path} is no .npy file, or damaged: {error}"
        raise StudyError([study.problem(("shifts", i, "source"), message)]) from None
    return array


def _images(study: Study, i: int, path: Path, samples: Samples) -> Pixels:
    pixels = _load(study, i, path)
    shape = samples.x.shape[1:]
    expected = (*shape[1:], shape[0])
    if pixels.dtype != np.uint8 or pixels.shape[1:] != expected:
        message = (
            f"{path.name} holds {pixels.dtype} {pixels.shape[1:]} images; those of the study are "
            f"uint8 {expected}"
        )
        raise StudyError([study.problem(("shifts", i, "source"), message)])
    return pixels


def _labels(study: Study, i: int, path: Path, images: int, samples: Samples) -> Indices:
    labels = _load(study, i, path)
    if labels.shape != (images,) or not np.issubdtype(labels.dtype, np.integer):
        message = f"{path.name} holds {labels.dtype} {labels.shape}, and there are {images} images"
        raise StudyError([study.problem(("shifts", i, "source"), message)])
    labels = labels.astype(np.int64)
    check_classes(study, i, labels, len(samples.class_names))
    return labels
