"""Images of a data set on the Hugging Face Hub, by its own library."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from metaeval.errors import StudyError
from metaeval.sources.data.dataset import Dataset, Indices, Inputs
from metaeval.sources.data.decoding import ModeError, describe, pixels_of
from metaeval.sources.data.opening import refuse, refuse_split
from metaeval.sources.downloading import is_offline
from metaeval.study import Study
from metaeval.study.data_tables import HuggingFaceData

INSTALL = "source 'huggingface' needs its libraries: pip install 'metaeval[huggingface]'"


def open_huggingface(study: Study, split: str) -> Dataset:
    """Open one split of a data set of images with class labels; grey images stay grey.

    Its classes are those that the data set declares, else the sorted labels of the split.

    Raises
    ------
    StudyError
        If the library or the data set is missing, or it has no such split or column, or no images.
    """
    data = study.data
    assert isinstance(data, HuggingFaceData)
    found = load(study, split)
    for key in ("image", "label"):
        column = getattr(data, key)
        if column not in found.column_names:
            message = f"{data.dataset} has no column {column!r}; it has: {', '.join(found.column_names)}"
            raise refuse(study, key, message)
    if len(found) == 0:
        raise refuse(study, "dataset", f"{data.dataset} holds no samples in the split {split!r}")
    raw = list(found[data.label])
    declared = getattr(found.features[data.label], "names", None)
    classes = list(range(len(declared))) if declared else sorted(set(raw))
    index = {label: i for i, label in enumerate(classes)}
    wrong = next((label for label in raw if label not in index), None)
    if wrong is not None:
        message = f"the column {data.label!r} holds {wrong!r}, beyond its {len(classes)} classes"
        raise refuse(study, "label", message)
    first = _pixels(study, found, 0, data.image)

    def read(indices: Indices) -> Inputs:
        pixels = np.empty((len(indices), *first.shape), dtype=np.uint8)
        for row, i in enumerate(indices.tolist()):
            image = _pixels(study, found, i, data.image)
            if image.shape != first.shape:
                message = (
                    f"images must be alike: number {i} is {describe(image.shape)}, "
                    f"number 0 is {describe(first.shape)}"
                )
                raise refuse(study, "image", message)
            pixels[row] = image
        return pixels.astype(np.float32) / np.float32(255)

    return Dataset(
        name=data.name,
        split=split,
        labels=np.array([index[label] for label in raw], dtype=np.int64),
        sample_ids=tuple(f"{split}/{i}" for i in range(len(raw))),
        class_names=tuple(declared) if declared else tuple(map(str, classes)),
        shape=first.shape,
        read=read,
    )


def load(study: Study, split: str, *, offline: bool | None = None) -> Any:
    """Return a split as the library gives it; `offline` (default: METAEVAL_OFFLINE) uses its cache only.

    Raises
    ------
    StudyError
        If it cannot be had.
    """
    data = study.data
    assert isinstance(data, HuggingFaceData)
    try:
        import datasets
    except ModuleNotFoundError:
        raise refuse(study, "source", INSTALL) from None
    local = (study.base / data.dataset).is_dir()
    place = str(study.base / data.dataset) if local else data.dataset
    try:
        with _quiet(datasets, is_offline() if offline is None else offline):
            return datasets.load_dataset(place, data.configuration, split=split, revision=data.revision)
    except ValueError as error:
        if "split" in str(error).lower():
            known = _splits(datasets, place, data)
            if known:
                raise refuse_split(study, split, known) from None
        raise refuse(study, "dataset", f"{data.dataset}: {_first(error)}") from None
    except Exception as error:  # of the library, of its HTTP client, of the file system
        message = f"{data.dataset} cannot be had: {type(error).__name__}: {_first(error)}"
        if not local:
            message += f"; `metaeval fetch {study.path}` brings it where there is a network"
        raise StudyError([study.problem(("data", "dataset"), message)], missing=True) from None


@contextlib.contextmanager
def _quiet(datasets: Any, offline: bool) -> Iterator[None]:
    """Load without progress bars, and without the network if that is forbidden."""
    import huggingface_hub.constants as hub

    before = datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE
    if offline:
        datasets.config.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE = True
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE = before
        if bars:
            datasets.enable_progress_bars()


def _splits(datasets: Any, place: str, data: HuggingFaceData) -> list[str]:
    with contextlib.suppress(Exception):
        return list(datasets.get_dataset_split_names(place, data.configuration, revision=data.revision))
    return []


def _first(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")


def _pixels(study: Study, found: Any, i: int, column: str) -> Any:
    from PIL import Image

    try:
        image = found[i][column]
    except Exception as error:  # Pillow's and the library's
        raise refuse(study, "image", f"image {i} cannot be read: {_first(error)}") from None
    if not isinstance(image, Image.Image):
        raise refuse(study, "image", f"the column {column!r} holds {type(image).__name__}, no images")
    try:
        return pixels_of(image)
    except ModeError as error:
        raise refuse(study, "image", f"image {i} {error}") from None
