"""Rows of numbers with a label, in CSV or Parquet files, scaled to [0, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from metaeval.errors import StudyError, unknown
from metaeval.sources.data.arrays import unit_interval
from metaeval.sources.data.dataset import Dataset
from metaeval.sources.data.opening import of_split, refuse, split_key
from metaeval.sources.downloading import web_page
from metaeval.study import Study
from metaeval.study.data_tables import TabularData
from metaeval.study.positions import Loc

if TYPE_CHECKING:
    import pandas as pd

Values = npt.NDArray[np.float64]


def open_tabular(study: Study, split: str) -> Dataset:
    """Open one split of a table: shape (features,), classes sorted by label.

    Each value becomes (value - low) / (high - low) with the bounds of the study, or each column's lowest and
    highest value in the training split; a column that is constant there becomes 0. Values beyond the bounds
    are refused, or with ``outside = "clip"`` set to the nearest bound.

    Raises
    ------
    StudyError
        If a file is missing or damaged, lacks a column, holds what is no finite number, or values beyond the
        bounds.
    """
    data = study.data
    assert isinstance(data, TabularData)
    table = _read(study, data, split)
    features = list(data.features or (column for column in table.columns if column != data.label))
    if not features:
        raise refuse(study, "features", f"{data.name} has no column but {data.label!r}")
    if data.label in features:
        raise refuse(study, "features", f"{data.label!r} is the column of labels, which models must not see")
    values = _values(study, table, features, split)
    per_split = {split: table}
    for other in (data.split, data.train_split):
        if other not in per_split and _has(data, other):
            per_split[other] = _read(study, data, other)
    names, labels = _labels(study, data, per_split, split)
    low, high = _bounds(study, data, features, per_split)
    wide = np.where(high > low, high - low, 1)
    scaled = (values - low) / wide
    outside = (values < low) | (values > high)
    if outside.any():
        row, column = np.argwhere(outside)[0].tolist()
        message = (
            f"{int(outside.sum())} values of the split {split!r} lie beyond the bounds; the first is "
            f"{values[row, column]:g} in row {row} of {features[column]!r}, whose bounds are "
            f"{low[column]:g} and {high[column]:g}; outside = 'clip' sets them to the nearest bound"
        )
        if data.outside == "refuse":
            raise refuse(study, "bounds", message)
        scaled = np.clip(scaled, 0, 1)
    return Dataset(
        name=data.name,
        split=split,
        labels=labels,
        sample_ids=tuple(f"{split}/{i}" for i in range(len(labels))),
        class_names=names,
        shape=(len(features),),
        read=unit_interval(scaled.astype(np.float32)),
    )


def _has(data: TabularData, split: str) -> bool:
    """Tell whether a split has a file; a path without the place of the split is the evaluated one."""
    return (split == data.split or "{split}" in str(data.path)) and of_split(data.path, split).is_file()


def _read(study: Study, data: TabularData, split: str) -> pd.DataFrame:
    import pandas as pd

    if split != data.split and "{split}" not in str(data.path):
        message = (
            f"path names one file, which is the split {data.split!r}; write {{split}} in it for {split!r}"
        )
        raise StudyError([study.problem(split_key(study, split), message)])
    path = of_split(data.path, split)
    if not path.is_file():
        raise StudyError([study.problem(("data", "path"), f"there is no file {path}")], missing=True)
    with path.open("rb") as file:
        if page := web_page(file.read(512)):
            raise refuse(study, "path", f"{path.name} is a web page, not data: {page!r}")
    try:
        found: pd.DataFrame = pd.read_csv(path) if data.source == "csv" else pd.read_parquet(path)
    except ImportError:
        message = "Parquet files need pyarrow: pip install 'metaeval[parquet]'"
        raise refuse(study, "source", message) from None
    except Exception as error:  # of the parsers, of the file system, of text that is none
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise refuse(study, "path", f"{path.name} is no {data.source} file, or damaged: {first}") from None
    if found.empty:
        raise refuse(study, "path", f"{path.name} holds no rows")
    columns = [str(column) for column in found.columns]
    found.columns = pd.Index(columns)
    wanted: list[tuple[Loc, str]] = [(("data", "label"), data.label)]
    wanted += [(("data", "features", i), name) for i, name in enumerate(data.features or ())]
    problems = [
        study.problem(place, *unknown(f"column of {path.name}", name, columns))
        for place, name in wanted
        if name not in columns
    ]
    if problems:
        raise StudyError(problems)
    return found


def _values(study: Study, table: pd.DataFrame, features: list[str], split: str) -> Values:
    """Return the columns of inputs as finite numbers."""
    import pandas as pd

    columns = []
    for name in features:
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        if not np.isfinite(numbers).all():
            row = int(np.argmax(~np.isfinite(numbers)))
            value = table[name].iloc[row]
            found = value if isinstance(value, str) else float(value)
            message = (
                f"row {row} of {name!r} in the split {split!r} is {found!r}, no finite "
                "number; features names the columns to use"
            )
            raise refuse(study, "features", message)
        columns.append(numbers)
    return np.stack(columns, axis=1)


def _labels(
    study: Study, data: TabularData, tables: dict[str, pd.DataFrame], split: str
) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Return the names of the classes of all splits, in order, and the labels of one split."""
    import pandas as pd

    for name, table in tables.items():
        if table[data.label].isna().any():
            row = int(np.argmax(table[data.label].isna()))
            raise refuse(study, "label", f"row {row} of the split {name!r} has no label")
    together = pd.concat([table[data.label] for table in tables.values()])
    if pd.api.types.is_float_dtype(together) and (together % 1 != 0).any():
        raise refuse(study, "label", f"the column {data.label!r} holds numbers that are not whole")
    classes = sorted(together.unique().tolist(), key=lambda label: (isinstance(label, str), label))
    index = {label: i for i, label in enumerate(classes)}
    names = tuple(f"{label:g}" if isinstance(label, float) else str(label) for label in classes)
    return names, np.array([index[label] for label in tables[split][data.label].tolist()], dtype=np.int64)


def _bounds(
    study: Study, data: TabularData, features: list[str], tables: dict[str, pd.DataFrame]
) -> tuple[Values, Values]:
    """Return what becomes 0 and what becomes 1 in each column."""
    if data.bounds != "train":
        low, high = data.bounds
        return np.full(len(features), low), np.full(len(features), high)
    if data.train_split not in tables:
        message = (
            f"the bounds are those of the split {data.train_split!r}, whose file "
            f"{of_split(data.path, data.train_split)} is not there; or set bounds = [lowest, highest]"
            if "{split}" in str(data.path)
            else "there is no training split in path to take them from; set bounds = [lowest, highest]"
        )
        raise refuse(study, "bounds", message)
    known = _values(study, tables[data.train_split], features, data.train_split)
    return known.min(axis=0), known.max(axis=0)


def paths_of(data: TabularData) -> list[Path]:
    """Return the files that a study needs of a table."""
    splits = [data.split, *([data.train_split] if data.bounds == "train" else [])]
    return list(dict.fromkeys(of_split(data.path, split) for split in splits))
