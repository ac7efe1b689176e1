"""From the ``[data]`` table of a study to a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from metaeval import registry
from metaeval.errors import StudyError, unknown
from metaeval.sources.data.dataset import Dataset
from metaeval.study import Study

SOURCES = {
    "digits": "metaeval.sources.data.digits:open_digits",
    "npz": "metaeval.sources.data.npz:open_npz",
    "images": "metaeval.sources.data.images:open_images",
    "npy": "metaeval.sources.data.npy:open_npy",
    "csv": "metaeval.sources.data.tabular:open_tabular",
    "parquet": "metaeval.sources.data.tabular:open_tabular",
    "callable": "metaeval.sources.data.function:open_callable",
    "huggingface": "metaeval.sources.data.huggingface:open_huggingface",
    "cifar10": "metaeval.sources.data.standard:open_standard",
    "cifar100": "metaeval.sources.data.standard:open_standard",
    "mnist": "metaeval.sources.data.standard:open_standard",
    "fashion_mnist": "metaeval.sources.data.standard:open_standard",
    "svhn": "metaeval.sources.data.standard:open_standard",
    "gtsrb": "metaeval.sources.data.image_sets:open_gtsrb",
    "imagenet": "metaeval.sources.data.image_sets:open_imagenet",
    "tiny_imagenet": "metaeval.sources.data.image_sets:open_tiny_imagenet",
    "har": "metaeval.sources.data.har:open_har",
}


class Source(Protocol):
    """What a data source is, built-in or of another package (entry points ``metaeval.data_sources``)."""

    def __call__(self, study: Study, split: str) -> Dataset: ...


def open_data(study: Study, split: str) -> Dataset:
    """Open one split of a study's data.

    Parameters
    ----------
    split : str
        ``study.data.split`` to evaluate, ``study.data.train_split`` to train.

    Raises
    ------
    StudyError
        If the data are missing, damaged or not what the study says.
    """
    source: Source = registry.load("data_sources", SOURCES, study.data.source)
    dataset = source(study, split)
    if len(dataset.class_names) < 2:
        raise refuse(study, "source", f"all samples are of class {dataset.class_names[0]!r}; two are needed")
    return dataset


def of_split(path: Path, split: str) -> Path:
    """Return a path with the name of a split in the place of ``{split}``."""
    return Path(str(path).replace("{split}", split))


def split_key(study: Study, split: str) -> tuple[str, str]:
    """Return the place in the study where a split was named."""
    return ("data", "split" if split == study.data.split else "train_split")


def refuse(study: Study, key: str, message: str, suggestion: str | None = None) -> StudyError:
    """Return the error for a problem with one key of ``[data]``."""
    return StudyError([study.problem(("data", key), message, suggestion)])


def refuse_split(study: Study, split: str, found: list[str]) -> StudyError:
    """Return the error for a split that the data do not have."""
    return StudyError([study.problem(split_key(study, split), *unknown("split", split, found))])
