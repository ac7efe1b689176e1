"""ImageNet-C in its published folders: corruption/severity/class/image."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from metaeval.errors import StudyError, nearest
from metaeval.sources.data import Samples
from metaeval.sources.data.dataset import Indices, Inputs
from metaeval.sources.shifts.published import folder_of, key_of, number_of
from metaeval.sources.shifts.shift import Content, Shift
from metaeval.study import Study
from metaeval.study.shift_inputs import SEVERITIES, ImageNetCShift

ENDINGS = (".jpeg", ".jpg", ".png")


def open_imagenet_c(study: Study, i: int, samples: Samples, limit: int | None) -> list[Shift]:
    """Open ImageNet-C (Hendrycks and Dietterich 2019), one shift for each corruption.

    Classes are the study's by the names of folders, else the folders in order. Where every sample of the
    study has an image (same class folder, same file name but for the ending), exactly those are used.

    Raises
    ------
    StudyError
        If folders are missing, severities hold different files, or classes do not fit the study's.
    """
    table = study.shifts[i]
    assert isinstance(table, ImageNetCShift)
    folder = folder_of(study, i)
    return [
        _corruption(study, i, folder / corruption, name, samples, limit)
        for name, corruption in zip(table.shifts, table.names, strict=True)
    ]


def _corruption(study: Study, i: int, folder: Path, name: str, samples: Samples, limit: int | None) -> Shift:
    table = study.shifts[i]
    assert isinstance(table, ImageNetCShift)
    present = [severity for severity in SEVERITIES if (folder / str(severity)).is_dir()]
    absent = [severity for severity in table.severities if severity not in present]
    if absent:
        near = nearest(folder.name, [other.name for other in folder.parent.iterdir()])
        message = f"there is no folder {folder / str(absent[0])}"
        raise StudyError([study.problem(("shifts", i, key_of(table)), message, near)], missing=True)
    files = _files(folder / str(table.severities[0]))
    for severity in present:
        if _files(folder / str(severity)) != files:
            message = f"the severities {table.severities[0]} and {severity} of {folder} hold different files"
            raise StudyError([study.problem(("shifts", i, "source"), message)])
    labels = _labels(study, i, files, samples.class_names)
    known = {_key(file): position for position, file in enumerate(files)}
    rows = [known.get(_key(sample)) for sample in samples.ids]
    own = [row for row in rows if row is not None]
    paired = len(own) == len(rows)
    number = number_of(study, i, len(own) if paired else len(files), limit)
    chosen = (own if paired else list(range(len(files))))[:number]
    paths = [files[row] for row in chosen]
    return Shift(
        name=name,
        kind="corruption",
        severities=table.severities,
        ids=samples.ids[:number] if paired else tuple(paths),
        clean=tuple(range(number)) if paired else (-1,) * number,
        settings={"source": table.source, "corruption": folder.name},
        describe=partial(_content, folder, present, paths, labels[chosen]),
        read=partial(_read, folder, paths, samples.x.shape[1:]),
    )


def _files(folder: Path) -> list[str]:
    """Return the images of a severity as class/file, sorted."""
    found = (path for path in folder.glob("*/*") if path.suffix.lower() in ENDINGS)
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _labels(study: Study, i: int, files: list[str], class_names: tuple[str, ...]) -> Indices:
    folders = sorted({file.partition("/")[0] for file in files})
    if set(folders) <= set(class_names):
        place = {name: label for label, name in enumerate(class_names)}
    elif len(folders) == len(class_names):
        place = {name: label for label, name in enumerate(folders)}
    else:
        message = f"it has {len(folders)} class folders, and the study {len(class_names)} classes"
        raise StudyError([study.problem(("shifts", i, "source"), message)])
    return np.array([place[file.partition("/")[0]] for file in files], dtype=np.int64)


def _key(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return path.parent.name, path.stem


def _content(folder: Path, severities: list[int], paths: list[str], labels: Indices) -> Content:
    hashes = []
    for path in paths:
        digest = hashlib.sha256()
        for severity in severities:
            digest.update(hashlib.sha256((folder / str(severity) / path).read_bytes()).digest())
        hashes.append(digest.hexdigest()[:32])
    return Content(labels, tuple(hashes))


def _read(folder: Path, paths: list[str], shape: tuple[int, ...], severity: int, rows: slice) -> Inputs:
    pixels = np.empty((len(paths[rows]), *shape), dtype=np.uint8)
    for row, path in enumerate(paths[rows]):
        with Image.open(folder / str(severity) / path) as image:
            found = np.asarray(image.convert("RGB" if shape[0] == 3 else "L"))
        found = found[None] if found.ndim == 2 else found.transpose(2, 0, 1)
        if found.shape != shape:
            raise ValueError(f"{path} has the shape {found.shape}, and the study's inputs {shape}")
        pixels[row] = found
    return pixels.astype(np.float32) / np.float32(255)
