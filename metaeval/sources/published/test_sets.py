"""Test sets with labels and predictions per model, from npz, npy, csv, json and parquet files."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
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
        column `label`, one per model, optionally `set` and `sample_id`, or a row per model and sample with
        `model`, `prediction`, `label` (in the same order for all models, or with `sample_id`); json:
        an object with the arrays of the npz, `prediction` may be an object by model, or an object of such
        objects by test set.
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
    if frame.index.name == "sample_id" and "sample_id" not in frame:
        frame = frame.reset_index()
    frame = frame.rename(columns={name: _plain(str(name).strip()) for name in frame.columns})
    names = [str(name) for name in frame.columns]
    mark = next((mark for mark in (";", "\t", "|") if len(names) == 1 and mark in names[0]), None)
    if mark is not None:
        raise problems.fail("header", f"commas are needed between the columns, not {mark!r}")
    for position, name in enumerate(names, start=1):
        if not name or name.startswith("Unnamed: "):
            problems.add(
                "header",
                f"column {position} has no name; numbers of rows, as pandas writes them, are to be left "
                "out or called sample_id",
            )
    problems.stop()
    if "label" not in frame:
        near = nearest("label", names)
        raise problems.fail("label", f"no column of this name; there are {', '.join(names)}", near)
    long = {"model", "prediction"} <= set(names)
    models = [name for name in names if name not in ("label", "set", "sample_id")]
    if "set" in frame and frame["set"].isna().any():
        raise problems.fail("set", "some rows do not say their test set")
    parts = {"": frame} if "set" not in frame else dict(iter(frame.groupby("set", sort=False)))
    found = {}
    for of_set, part in parts.items():
        if long:
            found[str(of_set)] = _long(part, problems)
            continue
        columns = {
            Path(problems.file).stem if model == "prediction" else model: part[model].to_numpy(dtype=object)
            for model in models
        }
        found[str(of_set)] = {"label": part["label"].to_numpy(dtype=object), "prediction": columns}
        if "sample_id" in part:
            found[str(of_set)]["sample_id"] = part["sample_id"].to_numpy(dtype=object)
    return found[""] if list(found) == [""] else found


def _long(frame: pd.DataFrame, problems: Problems) -> dict[str, Any]:
    """Return a table with a row per model and sample as arrays; samples by id, else in each model's order."""
    for name in set(frame.columns) - {"label", "set", "sample_id", "model", "prediction"}:
        problems.add(str(name), "unknown column beside model, prediction, label, sample_id and set")
    ids = frame["sample_id"] if "sample_id" in frame else frame.groupby("model", sort=False).cumcount()
    for row in np.flatnonzero(pd.DataFrame({"m": frame["model"], "i": ids}).duplicated())[:1]:
        problems.add(
            "model", f"{frame['model'].iloc[row]!r} has two rows of sample {ids.iloc[row]!r}",
            line=int(frame.index[row]) + 2,
        )  # fmt: skip
    rows = Counter(map(str, frame["model"]))
    if "sample_id" not in frame and len(set(rows.values())) > 1:
        (most, many), *_, (least, few) = rows.most_common()
        problems.add(
            "model",
            f"{least!r} has {few} rows and {most!r} {many}: which samples are missing a column sample_id "
            "must say",
        )
    label = frame["label"].groupby(ids, sort=False)
    for sample in label.nunique(dropna=False).loc[lambda number: number > 1].index[:1]:
        said = ", ".join(map(str, label.get_group(sample).unique()))
        problems.add("label", f"sample {sample!r} has several labels: {said}")
    problems.stop()
    table = frame.assign(sample_id=ids).pivot(index="sample_id", columns="model", values="prediction")
    order = list(dict.fromkeys(ids))
    table = table.reindex(index=order, columns=list(dict.fromkeys(frame["model"])))
    result = {
        "label": label.first().reindex(order).to_numpy(dtype=object),
        "prediction": {str(model): table[model].to_numpy(dtype=object) for model in table.columns},
    }
    return result | ({"sample_id": np.array(order, dtype=object)} if "sample_id" in frame else {})


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
        labels = [name for name in content if name == "label" or name.startswith("label_")]
        suffixes = [name.removeprefix("label").removeprefix("_") for name in labels]
        parts = {
            suffix: {key: content[f"{key}{suffix and '_'}{suffix}"] for key in PLAIN
                     if f"{key}{suffix and '_'}{suffix}" in content}
            for suffix in suffixes
        }  # fmt: skip
        shared = {key: content[key] for key in ("model", "class") if key in content}
        for name in content:
            of_sets = {f"{key}_{suffix}" for key in PLAIN for suffix in suffixes}
            if name not in PLAIN and name not in of_sets:
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
        said = _by_model(said, content.get("model"), len(labels), place, problems)
    predictions = {}
    for model, values in said.items():
        column = np.asarray(values, dtype=object) if np.ndim(values) == 1 else np.empty((0, 0), dtype=object)
        if column.shape != labels.shape:
            got = len(values) if hasattr(values, "__len__") else "no"
            said = f"{got} values for {len(labels)} labels"
            if np.ndim(values) > 1:
                said = (
                    f"one class per sample is needed, not shape {np.shape(values)}; of logits or "
                    "probabilities give the position of the largest (argmax over the last axis)"
                )
            problems.add(f"{place}prediction of {model}", said)
        predictions[str(model)] = column
    ids = content.get("sample_id")
    if ids is not None and len(ids) != len(labels):
        problems.add(f"{place}sample_id", f"{len(ids)} ids for {len(labels)} labels")
    for name in repeated([str(value) for value in ids] if ids is not None else [])[:3]:
        problems.add(f"{place}sample_id", f"{name!r} occurs twice")
    classes = content.get("class")
    return TestSet(
        name,
        labels,
        predictions,
        None if ids is None else [str(value) for value in ids],
        None if classes is None else [str(value) for value in classes],
    )


def _by_model(said: Any, models: Any, samples: int, place: str, problems: Problems) -> dict[str, Any]:
    """Return model to row of an array (model, sample) or (sample,), or of a list of such rows."""
    rows = list(said) if isinstance(said, list | np.ndarray) else []
    size = np.shape(said) if isinstance(said, np.ndarray) else ()
    if len(size) == 2 and size[0] == samples != size[1]:
        if models is None or len(models) != size[1]:
            problems.add(
                f"{place}prediction",
                f"(model, sample) is needed, not shape {size}; of logits or probabilities of one model give "
                "the position of the largest (argmax over the last axis)",
            )
            return {}
        rows = list(np.asarray(said).T)  # (sample, model), as the names of the models say
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
