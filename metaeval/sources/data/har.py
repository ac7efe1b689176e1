"""UCI HAR: features of a phone's movements during six activities (Anguita et al. 2013)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from metaeval.errors import StudyError
from metaeval.sources.data.archives import DAMAGE
from metaeval.sources.data.arrays import unit_interval
from metaeval.sources.data.dataset import Dataset
from metaeval.sources.data.opening import refuse, refuse_split
from metaeval.sources.data.selection import restrict
from metaeval.sources.data.standard import root_of, unlike
from metaeval.sources.data.standards import Archive, Split
from metaeval.sources.downloading import wrong_file
from metaeval.study import Study
from metaeval.study.data_tables import HarData

TOP = "UCI HAR Dataset"
ARCHIVE = Archive(
    "UCI HAR Dataset.zip",
    "https://archive.ics.uci.edu/ml/machine-learning-databases/00240/UCI%20HAR%20Dataset.zip",
)
CLASS_NAMES = ("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING")
FEATURES = 561
SPLITS = {
    "train": Split((), (1226, 1073, 986, 1286, 1374, 1407)),
    "test": Split((), (496, 471, 420, 491, 532, 537)),
}


def open_har(study: Study, split: str) -> Dataset:
    """Open a split of UCI HAR: shape (561,), features from [-1, 1] scaled to [0, 1].

    The folder, its zip file and the zip file around that one are read.

    Raises
    ------
    StudyError
        If files are missing or damaged, or are not the published ones.
    """
    data = study.data
    assert isinstance(data, HarData)
    if split not in SPLITS:
        raise refuse_split(study, split, list(SPLITS))
    root = root_of(data)
    try:
        x = np.loadtxt(io.StringIO(_text(study, root, f"{split}/X_{split}.txt")), dtype=np.float64, ndmin=2)
        y = np.loadtxt(io.StringIO(_text(study, root, f"{split}/y_{split}.txt")), dtype=np.int64, ndmin=1)
    except ValueError as error:
        raise refuse(study, "source", f"X_{split}.txt or y_{split}.txt is damaged: {error}") from None
    wrong = _unlike(x, y, split)
    if wrong:
        raise refuse(study, "source", f"{TOP} in {root} is not the published split {split!r}: {wrong}")
    whole = Dataset(
        name=data.name,
        split=split,
        labels=y - 1,
        sample_ids=tuple(f"har/{split}/{i}" for i in range(len(y))),
        class_names=CLASS_NAMES,
        shape=(FEATURES,),
        read=unit_interval(((x + 1) / 2).astype(np.float32)),
    )
    return restrict(study, whole, data.classes)


def _unlike(x: npt.NDArray[np.float64], y: npt.NDArray[np.int64], split: str) -> str | None:
    """Return how features and labels (from 1) differ from the published ones, or None."""
    if len(x) != len(y):
        return f"it has {len(y):,} labels for {len(x):,} rows"
    if x.shape[1] != FEATURES:
        return f"it has {x.shape[1]} features, published are {FEATURES}"
    if not np.isfinite(x).all():
        row, column = np.argwhere(~np.isfinite(x))[0].tolist()
        return f"feature {column} of row {row} is {x[row, column]}"
    if x.min() < -1 or x.max() > 1:
        return f"features go from {x.min():g} to {x.max():g}, published ones from -1 to 1"
    if (y < 1).any():
        return f"labels go from {y.min()}, published ones from 1"
    return unlike(y - 1, SPLITS[split], CLASS_NAMES)


def _text(study: Study, root: Path, name: str) -> str:
    """Return the text of a file of the set, unpacked or from its archive."""
    plain, packed = root / TOP / name, root / ARCHIVE.path
    if plain.is_file():
        return plain.read_text(encoding="ascii")
    if not packed.is_file():
        message = (
            f"har needs {root / TOP} or {packed}, and neither is there; "
            f"`metaeval fetch {study.path}` gets it from {ARCHIVE.address}"
        )
        raise StudyError([study.problem(("data", "source"), message)], missing=True)
    if reason := wrong_file(packed, packed.name):
        raise refuse(study, "source", f"{packed}: {reason}")
    try:
        with zipfile.ZipFile(packed) as archive:
            if ARCHIVE.path not in archive.namelist():
                return archive.read(f"{TOP}/{name}").decode("ascii")
            inner = archive.read(ARCHIVE.path)  # UCI's newer site packs the old file once more
        with zipfile.ZipFile(io.BytesIO(inner)) as archive:
            return archive.read(f"{TOP}/{name}").decode("ascii")
    except KeyError:
        raise refuse(study, "source", f"{packed} holds no {TOP}/{name}") from None
    except DAMAGE as error:
        raise refuse(study, "source", f"{packed} is damaged: {error}") from None
