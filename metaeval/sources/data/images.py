"""Images in class folders: a folder, a zip or a tar file."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np

from metaeval.errors import StudyError, nearest
from metaeval.sources.data.archives import DAMAGE, Files, open_files
from metaeval.sources.data.dataset import Dataset
from metaeval.sources.data.decoding import image_reader
from metaeval.sources.data.opening import refuse, refuse_split, split_key
from metaeval.study import Study
from metaeval.study.inputs import ImagesData

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation"}


def open_images(study: Study, split: str) -> Dataset:
    """Open one split of images; classes are the sorted names of their folders.

    The layout is ``split/class/...`` or, for the evaluated split only, ``class/...``; a folder around all of
    it does not matter. Grey images stay grey. An image is decoded when it is needed.

    Raises
    ------
    StudyError
        If the file is missing or damaged, the split is not there, a class is empty, an image cannot be
        decoded or has another size or another number of channels than the first one.
    """
    data = study.data
    assert isinstance(data, ImagesData)
    if not data.path.exists():
        raise StudyError([study.problem(("data", "path"), f"there is no {data.path}")], missing=True)
    try:
        files = open_files(data.path)
    except DAMAGE as error:
        reason = str(error) or type(error).__name__
        message = f"{data.path.name} is no folder, zip or tar file, or damaged: {reason}"
        raise refuse(study, "path", message) from None
    root = _split_folder(study, split, files)
    classes = _classes(files, root)
    images = [(path, label) for label, name in enumerate(classes) for path in classes[name]]
    _check_classes(study, classes, root)
    paths = [path for path, _ in images]
    shape, read = image_reader(study, files, paths, key="path")
    return Dataset(
        name=data.name,
        split=split,
        labels=np.array([label for _, label in images], dtype=np.int64),
        sample_ids=tuple(path.removeprefix(_around(root)) for path in paths),
        class_names=tuple(classes),
        shape=shape,
        read=read,
    )


def _split_folder(study: Study, split: str, files: Files) -> str:
    """Return the folder of a split, with a ``/`` at its end; empty if the classes are at the top."""
    around = ""
    while True:
        top = {folder.removeprefix(around) for folder in files.folders if folder.startswith(around)}
        top = {folder for folder in top if "/" not in folder}
        if split in top:
            return f"{around}{split}/"
        deeper = any(folder.count("/") > around.count("/") for folder in files.folders)
        if len(top) != 1 or not deeper or top & SPLIT_NAMES:
            break
        around += f"{top.pop()}/"
    others = sorted(name for name in top if name.lower() in SPLIT_NAMES)
    if others:
        raise refuse_split(study, split, others)
    if split != study.data.split:
        message = (
            f"{study.data.name} has no folder {split!r}, only class folders, which are the split "
            f"{study.data.split!r}; models are not trained on the samples that they are evaluated on"
        )
        raise StudyError([study.problem(split_key(study, split), message, nearest(split, top))])
    return around


def _classes(files: Files, root: str) -> dict[str, list[str]]:
    """Return the paths of the images of each class, both sorted by name."""
    inside = [folder.removeprefix(root) for folder in files.folders if folder.startswith(root)]
    classes: dict[str, list[str]] = {name: [] for name in sorted(inside) if name and "/" not in name}
    for path in files.paths:
        name, _, rest = path.removeprefix(root).partition("/")
        if path.startswith(root) and rest and PurePosixPath(path).suffix.lower() in ENDINGS:
            classes[name].append(path)
    return classes


def _around(root: str) -> str:
    """Return what stands before the split in a path: no part of a sample's id."""
    return root.rpartition("/")[0].rpartition("/")[0] + "/" if root.count("/") > 1 else ""


def _check_classes(study: Study, classes: dict[str, list[str]], root: str) -> None:
    name = study.data.name
    if not classes:
        where = f"the folder {root!r} of {name}" if root else name
        raise refuse(study, "path", f"{where} has no class folders")
    empty = [label for label, paths in classes.items() if not paths]
    if empty:
        endings = ", ".join(sorted(ENDINGS))
        message = f"{name} has no images in the class folder {root + empty[0]!r}; images end in {endings}"
        raise refuse(study, "path", message)
