"""Which files a study's data need, whether they are there, and how they come there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from metaeval.errors import StudyError
from metaeval.sources.data import har, image_sets
from metaeval.sources.data.huggingface import load
from metaeval.sources.data.opening import of_split
from metaeval.sources.data.standard import root_of
from metaeval.sources.data.standards import STANDARDS, Archive
from metaeval.sources.data.tabular import paths_of
from metaeval.sources.needs import Need, Note, downloaded
from metaeval.study import Study
from metaeval.study.data_tables import HuggingFaceData, ImagenetData, NpyData, StandardData, TabularData
from metaeval.study.inputs import ImagesData, NpzData, TrainModel

Splits = tuple[str, ...]


def data_needs(study: Study) -> list[Need]:
    """Return the needs of ``[data]``: for the evaluated split and, to train on, the training split."""
    trains = any(isinstance(table, TrainModel) for table in study.models)
    data = study.data
    return needs_of_splits(study, (data.split, data.train_split) if trains else (data.split,))


def needs_of_splits(study: Study, splits: Splits) -> list[Need]:
    """Return what some splits of ``[data]`` need."""
    splits = tuple(dict.fromkeys(splits))
    found = next((find for table, find in FINDERS.items() if isinstance(study.data, table)), None)
    return list(found(study, splits)) if found else []


def _standard(study: Study, splits: Splits) -> Iterable[Need]:
    data = study.data
    assert isinstance(data, StandardData)
    root = root_of(data)
    for archive, unpacked in _archives(data.source, splits):
        packed = root / archive.path
        have = packed.is_file() or all((root / path).exists() for path in unpacked)
        place = f"put it there, or what is in it at {root / unpacked[0]}"
        yield Need(
            "data",
            data.source,
            packed,
            have,
            study.problem(("data", "source"), ""),
            f"get it from {archive.address} and {place}",
            archive.address,
            downloaded(archive.address, packed, archive.md5),
        )


def _archives(source: str, splits: Splits) -> list[tuple[Archive, list[str]]]:
    """Return the archives of the splits, each with the paths below the root that make it superfluous."""
    if source == "gtsrb":
        labels = (image_sets.GTSRB_LABELS, ["gtsrb/GT-final_test.csv"])
        folders = {"train": ["gtsrb/GTSRB/Training"], "test": ["gtsrb/GTSRB/Final_Test/Images"]}
        known = [split for split in splits if split in folders]
        found = [(image_sets.GTSRB[split], folders[split]) for split in known]
        return [*found, *([labels] if "test" in known else [])]
    if source == "tiny_imagenet":
        return [(image_sets.TINY, ["tiny-imagenet-200/wnids.txt"])]
    if source == "har":
        return [(har.ARCHIVE, [har.TOP])]
    known_set = STANDARDS[source]
    parts = [part for split in splits if split in known_set.splits for part in known_set.splits[split].parts]
    unpacked: dict[Archive, list[str]] = {}
    for part in [*parts, *([known_set.names] if known_set.names else [])]:
        unpacked.setdefault(part.archive, []).append(part.path)
    return list(unpacked.items())


def _imagenet(study: Study, splits: Splits) -> Iterable[Need]:
    data = study.data
    assert isinstance(data, ImagenetData)
    root = data.root or root_of(data) / "imagenet"
    for split in splits:
        at = study.problem(("data", "root"), "")
        yield Need("data", "imagenet", root / split, (root / split).is_dir(), at, image_sets.IMAGENET_BY_HAND)


def _own(study: Study, splits: Splits) -> Iterable[Need]:
    """Yield the files that only the user has."""
    data = study.data
    places: list[tuple[str, Path]] = []
    if isinstance(data, NpyData):
        places = [(key, of_split(getattr(data, key), split)) for split in splits for key in ("x", "y")]
    elif isinstance(data, TabularData):
        own = [of_split(data.path, split) for split in splits if split == data.split or "{" in str(data.path)]
        places = [("path", path) for path in dict.fromkeys([*own, *paths_of(data)])]
    elif isinstance(data, (NpzData, ImagesData)):
        places = [("path", data.path)]
    for key, path in places:
        at = study.problem(("data", key), "")
        yield Need("data", data.name, path, path.exists(), at, "it is a file of yours")


def _hub(study: Study, splits: Splits) -> Iterable[Need]:
    data = study.data
    assert isinstance(data, HuggingFaceData)
    for split in splits:

        def fetch(_note: Note, split: str = split) -> None:
            load(study, split)

        try:
            load(study, split, offline=True)
            have = True
        except StudyError as error:
            if error.exit_code != 4:  # the library is missing, or the set has no such split
                raise
            have = False
        address = f"https://huggingface.co/datasets/{data.dataset}"
        by_hand = "fill the cache of Hugging Face's library (HF_HOME) where there is a network"
        at = study.problem(("data", "dataset"), "")
        place = Path(data.dataset) / split
        yield Need("data", data.name, place, have, at, by_hand, address, fetch)


FINDERS: dict[type, Callable[[Study, Splits], Iterable[Need]]] = {
    ImagenetData: _imagenet,
    StandardData: _standard,
    NpyData: _own,
    TabularData: _own,
    NpzData: _own,
    ImagesData: _own,
    HuggingFaceData: _hub,
}
