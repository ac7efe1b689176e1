"""Test sets with labels and predictions per model, from npz, npy, csv, json and parquet files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metaeval.errors import UsageError, nearest
from metaeval.sources.data.archives import DAMAGE
from metaeval.sources.published.content import Problems, read_bytes, read_text, repeated

PLAIN = ("label", "prediction", "model", "sample_id", "class")
PLURALS = {"labels": "label", "predictions": "prediction", "models": "model", "classes": "class"}


@dataclass
class TestSet:
    """One test set: what its samples are and what each model says of them, as written.

    Attributes
    ----------
    name : str
        "" where the file does not say.
    labels : ndarray (sample,)
    predictions : dict
        Model to ndarray (sample,).
    ids : list of str, optional
    """

    name: str
    labels: np.ndarray[Any, Any]
    predictions: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    ids: list[str] | None = None
    classes: list[str] | None = None


def read(path: Path, labels: Path | None = None) -> list[TestSet]:
    """Return the test sets of a file, in its order.

    Parameters
    ----------
    path : Path
        npz: `label`, `prediction` (model, sample) and `model`, for further test sets `label_<name>`,
        `prediction_<name>`; npy: predictions (model, sample) or (sample,), labels apart; csv and parquet: a
        column `label`, one per model, optionally `set` and `sample_id`; json: an object with the arrays of
        the npz, `prediction` may be an object by model, or an object of such objects by test set.
    labels : Path, optional
        An npy file, or any other with one column, for npy files.

    Raises
    ------
    StudyError
        If the file is damaged or has another form.
    MissingInputError
        If it is not there.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        near = nearest(path.suffix.lower(), READERS)
        allowed = ", ".join(sorted(READERS))
        raise Problems(path).fail("file", f"unknown kind {path.suffix!r}; allowed: {allowed}", near)
    problems = Problems(path)
    content = reader(path, problems)
    problems.stop()
    if isinstance(content, np.ndarray):
        content = {"prediction": content}
        if labels is None:
            raise UsageError(f"{path} has no labels; give them with --labels")
    if labels is not None:
        content["label"] = _labels(labels)
    sets = _by_set(content, path)
    problems.stop()
    return sets


def _labels(path: Path) -> np.ndarray[Any, Any]:
    reader = READERS.get(path.suffix.lower())
    problems = Problems(path)
    content = (
        np.loadtxt(io.StringIO(read_text(path)), dtype=str) if reader is None else reader(path, problems)
    )
    problems.stop()
    if isinstance(content, Mapping):
        content = content.get("label", next(iter(content.values()), np.array([])))
    values = np.asarray(content)
    if values.ndim != 1:
        raise problems.fail("label", f"one class per sample is needed, not shape {values.shape}")
    return values


def _npz(path: Path, problems: Problems) -> dict[str, Any]:
    content = io.BytesIO(read_bytes(path))  # of a damaged path numpy would leave the file open
    try:
        with np.load(content, allow_pickle=False) as archive:
            return {_plain(name): archive[name] for name in archive.files}
    except DAMAGE as error:
        raise problems.fail("file", f"the npz file cannot be read: {error}") from None


def _npy(path: Path, problems: Problems) -> np.ndarray[Any, Any]:
    content = read_bytes(path)
    if zipfile.is_zipfile(io.BytesIO(content)):
        raise problems.fail("file", "this is an npz file; its name must end in .npz")
    try:
        return np.asarray(np.load(io.BytesIO(content), allow_pickle=False))
    except (ValueError, EOFError, OSError) as error:
        raise problems.fail("file", f"the npy file cannot be read: {error}") from None


def _csv(path: Path, problems: Problems) -> dict[str, Any]:
    text = read_text(path)
    header = text.partition("\n")[0].split(",")
    for name in repeated([cell.strip().strip('"') for cell in header]):
        problems.add(name or "header", "the column occurs twice")
    problems.stop()
    try:
        # Text, so that 3 stays 3 beside an empty cell.
        return _columns(pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False), problems)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise problems.fail("file", f"the CSV file cannot be read: {str(error).strip()}") from None


def _parquet(path: Path, problems: Problems) -> dict[str, Any]:
    content = read_bytes(path)
    try:
        frame = pd.read_parquet(io.BytesIO(content), engine="pyarrow")
    except ImportError:
        raise UsageError("parquet files need pyarrow: pip install 'metaeval[parquet]'") from None
    except (ValueError, OSError) as error:  # pyarrow's errors derive from them
        raise problems.fail("file", f"the parquet file cannot be read: {error}") from None
    return _columns(frame, problems)


def _columns(frame: pd.DataFrame, problems: Problems) -> dict[str, Any]:
    """Return a table with a row per sample as arrays; by test set if there is a column `set`."""
    names = {str(name): _plain(str(name).strip()) for name in frame.columns}
    frame = frame.rename(columns=names)
    if "label" not in frame:
        near = nearest("label", list(frame.columns))
        raise problems.fail("label", f"no column of this name; there are {', '.join(names)}", near)
    models = [str(name) for name in frame.columns if name not in ("label", "set", "sample_id")]
    parts = {"": frame} if "set" not in frame else dict(iter(frame.groupby("set", sort=False)))
    found = {}
    for name, part in parts.items():
        columns = {model: part[model].to_numpy(dtype=object) for model in models}
        found[str(name)] = {"label": part["label"].to_numpy(dtype=object), "prediction": columns}
        if "sample_id" in part:
            found[str(name)]["sample_id"] = part["sample_id"].to_numpy(dtype=object)
    return found[""] if list(found) == [""] else found


def _json(path: Path, problems: Problems) -> dict[str, Any]:
    try:
        content = json.loads(read_text(path), parse_constant=lambda word: word)
    except (json.JSONDecodeError, RecursionError) as error:
        raise problems.fail("JSON", f"not valid JSON: {error}", line=getattr(error, "lineno", 1)) from None
    if not isinstance(content, dict) or not content:
        raise problems.fail("JSON", "an object with label and prediction, or of such objects, is needed")
    return {_plain(name): value for name, value in content.items()}


READERS: dict[str, Callable[[Path, Problems], Any]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".csv": _csv,
    ".json": _json,
    ".parquet": _parquet,
}


def _plain(name: str) -> str:
    """Return a key with its plural, if it has one, in the singular."""
    stem, mark, rest = name.partition("_") if name not in PLAIN else (name, "", "")
    return PLURALS.get(stem, stem) + mark + rest


def _by_set(content: Mapping[str, Any], path: Path) -> list[TestSet]:
    """Return the test sets of a file's arrays: by suffix, or one object each."""
    problems = Problems(path)
    if all(isinstance(value, Mapping) for value in content.values()):
        parts = {str(name): {_plain(str(k)): v for k, v in value.items()} for name, value in content.items()}
        shared: Mapping[str, Any] = {}
    else:
        suffixes = [name.removeprefix("label").removeprefix("_") for name in content if _key(name) == "label"]
        parts = {
            suffix: {key: content[f"{key}{suffix and '_'}{suffix}"] for key in PLAIN
                     if f"{key}{suffix and '_'}{suffix}" in content}
            for suffix in suffixes
        }  # fmt: skip
        shared = {key: content[key] for key in ("model", "class") if key in content}
        for name in content:
            if name not in PLAIN and not any(name == f"{_key(name)}_{suffix}" for suffix in suffixes):
                problems.add(name, f"unknown array; allowed: {', '.join(PLAIN)}, also with _<test set>",
                             nearest(name, PLAIN))  # fmt: skip
    if not parts:
        problems.add(
            "label", f"there is no such array; there are {', '.join(content)}", nearest("label", content)
        )
    problems.stop()
    sets = [_test_set(name, {**shared, **part}, problems) for name, part in parts.items()]
    problems.stop()
    return [found for found in sets if found is not None]


def _key(name: str) -> str:
    return next(
        (key for key in ("label", "prediction", "sample_id") if name == key or name.startswith(f"{key}_")), ""
    )


def _test_set(name: str, content: Mapping[str, Any], problems: Problems) -> TestSet | None:
    place = f"{name}: " if name else ""
    for key in ("label", "prediction"):
        if key not in content:
            problems.add(f"{place}{key}", "the array is missing", nearest(key, content))
            return None
    labels, said = np.asarray(content["label"], dtype=object), content["prediction"]
    if labels.ndim != 1 or not len(labels):
        problems.add(f"{place}label", f"one class per sample is needed, not shape {labels.shape}")
        return None
    if not isinstance(said, Mapping):
        said = _by_model(said, content.get("model"), place, problems)
    predictions = {}
    for model, values in said.items():
        column = np.asarray(values, dtype=object) if np.ndim(values) == 1 else np.empty((0, 0), dtype=object)
        if column.shape != labels.shape:
            got = len(values) if hasattr(values, "__len__") else "no"
            problems.add(f"{place}prediction of {model}", f"{got} values for {len(labels)} labels")
        predictions[str(model)] = column
    ids = content.get("sample_id")
    if ids is not None and len(ids) != len(labels):
        problems.add(f"{place}sample_id", f"{len(ids)} ids for {len(labels)} labels")
    classes = content.get("class")
    return TestSet(
        name,
        labels,
        predictions,
        None if ids is None else [str(value) for value in ids],
        None if classes is None else [str(value) for value in classes],
    )


def _by_model(said: Any, models: Any, place: str, problems: Problems) -> dict[str, Any]:
    """Return model to row of an array (model, sample) or (sample,), or of a list of such rows."""
    rows = list(said) if isinstance(said, list | np.ndarray) else []
    if rows and np.ndim(rows[0]) == 0:
        rows = [rows]
    if not rows:
        problems.add(f"{place}prediction", "predictions (model, sample) are needed")
    names = [str(name) for name in models] if models is not None else [""] * len(rows)
    if len(names) != len(rows):
        problems.add(f"{place}model", f"{len(names)} names for {len(rows)} rows of predictions")
        return {}
    for name in repeated([name for name in names if name]):
        problems.add(f"{place}model", f"{name!r} occurs twice")
    if models is None:
        stem = Path(problems.file).stem
        names = [stem] if len(rows) == 1 else [f"{stem}-{i + 1}" for i in range(len(rows))]
    return dict(zip(names, rows, strict=True))
