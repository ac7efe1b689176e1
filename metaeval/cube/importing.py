"""Imported cubes: published results in the cube's layout, with their provenance instead of a journal."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from metaeval.cube import arrays
from metaeval.cube.files import read_json
from metaeval.cube.layout import (
    CUBE,
    FORMAT,
    GROUPS,
    MODELS_DTYPES,
    SAMPLES_SHIFT,
    SHIFT_GROUP,
    Variable,
    variable,
)
from metaeval.errors import UsageError
from metaeval.hashing import hash_array, hash_json
from metaeval.outcomes import NORMS

IMPORTED = "imported"
"""Root attribute of an imported cube: its provenance as JSON."""
COUNT_STATUS = {
    0: "not_printed",
    1: "recovered",
    2: "no_count_fits",
    3: "several_counts_fit",
    4: "total_unknown",
}

_FIELD = Variable(("field",), "string", "", True)


def _count_status(*dims: str) -> Variable:
    return Variable(
        dims,
        "uint8",
        0,
        attributes={
            "flag_values": list(COUNT_STATUS),
            "flag_meanings": " ".join(COUNT_STATUS.values()),
            "long_name": "whether the count behind the printed share is known",
        },
    )


def _printed(described: Variable) -> Variable:
    return replace(described, attributes={**described.attributes, "long_name": "as published"})


_CLEAN = GROUPS["clean"]
_SAMPLES = {
    name: GROUPS["samples/clean"][name] for name in ("model", "sample", "label", "sample_id", "prediction")
}
_SHIFTS = {name: value for name, value in GROUPS["shifts"].items() if name not in ("norm", "settings")}
_SAMPLES_SHIFT = {
    name: SAMPLES_SHIFT[name]
    for name in ("model", "sample", "label", "sample_id", "severity", "clean", "prediction")
}
TABLES: dict[str, dict[str, Variable]] = {
    "published": {
        "model": _CLEAN["model"],
        "field": _FIELD,
        "written": Variable(("model", "field"), "string", "", attributes={"long_name": "as written; JSON"}),
    },
    "claims": {
        "claim": Variable(("claim",), "string", "", True),
        "printed": Variable(("claim",), "float64", float("nan")),
        "place": Variable(
            ("claim",), "float64", float("nan"), attributes={"long_name": "last printed place"}
        ),
        **{
            name: Variable(("claim",), "string", "")
            for name in ("quantity", "model", "class", "epsilon", "stage", "where")
        },
    },
    "clean": {
        **_CLEAN,
        "accuracy": _printed(_CLEAN["accuracy"]),
        "count_status": _count_status("model", "class"),
    },
    **{
        norm: {
            **GROUPS[norm],
            "robust_accuracy": _printed(GROUPS[norm]["robust_accuracy"]),
            "count_status": _count_status("model", "class", "epsilon", "attack"),
        }
        for norm in NORMS
    },
    "shifts": {
        **_SHIFTS,
        "accuracy": _printed(_SHIFTS["accuracy"]),
        "count_status": _count_status("model", "class", "shift", "severity"),
    },
    "samples/clean": _SAMPLES,
}
"""The groups that an imported cube may have; `/samples/shifts/<name>` are all alike."""


def write(
    directory: str | os.PathLike[str],
    models: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    groups: Mapping[str, Mapping[str, Any]],
    provenance: Mapping[str, Any],
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
    **root: str,
) -> Path:
    """Write an imported cube, replacing an imported cube that is there already.

    Parameters
    ----------
    directory : path
        Gets `cube.zarr`.
    models : sequence of str
    columns : mapping
        Of `/models`, one entry per model each.
    groups : mapping
        Group to variable to values, with the dimensions of `TABLES`.
    provenance : mapping
        Where the results come from; becomes the root attribute `imported`, with a checksum of every array.
    attributes : mapping, optional
        Attributes by group.
    **root
        Further attributes of the root, such as `name` and `title`.

    Returns
    -------
    Path
        The cube.

    Raises
    ------
    UsageError
        If the folder holds results of a run.
    """
    target = Path(directory) / CUBE
    ours = not target.exists() or provenance_of(directory) is not None
    if not ours or (Path(directory) / "journal").exists():
        raise UsageError(f"{directory} holds results of a run, which an import never replaces; give --output")
    scratch = target.with_name(f".{CUBE}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    new, old = scratch / "new", scratch / "old"
    new.parent.mkdir(parents=True)
    with arrays.quiet_zarr():
        tree = zarr.open_group(new, mode="w", zarr_format=3)
        described = {"model": variable("clean", "model")}
        values: dict[str, Any] = {"model": list(models)}
        for name, column in columns.items():
            kind, values[name] = arrays.typed(column)
            described[name] = MODELS_DTYPES[kind]
        checksums = _write_group(tree, "models", described, values, {})
        for name, given in groups.items():
            content = {**_unknown(name, given), **given}
            table = {key: table_of(name)[key] for key in content}
            checksums |= _write_group(tree, name, table, content, (attributes or {}).get(name, {}))
        said = {**provenance, "checksums": checksums}
        tree.attrs.update({**root, "format": FORMAT, IMPORTED: json.dumps(said, ensure_ascii=False)})
    arrays.consolidate(new)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(scratch, ignore_errors=True)
    return target


def _unknown(group: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what every cube of a run has and published results never have, as not known."""
    if group == "shifts":
        return {"log_loss": np.full(np.shape(given["accuracy"]), np.nan)}
    return {"inferred": np.full(np.shape(given["correct"]), -1)} if group in NORMS else {}


def table_of(group: str) -> dict[str, Variable]:
    """Return what the arrays of a group look like."""
    return _SAMPLES_SHIFT if group.startswith(SHIFT_GROUP) else TABLES[group]


def _write_group(
    tree: zarr.Group,
    name: str,
    variables: Mapping[str, Variable],
    values: Mapping[str, Any],
    attributes: Mapping[str, Any],
) -> dict[str, str]:
    """Write one group; return the checksum of each of its arrays by path."""
    group = tree.create_group(name)
    group.attrs.update({**arrays.coordinate_attribute(variables), **attributes})
    sizes: dict[str, int] = {}
    for key, described in variables.items():
        shape = np.shape(values[key])
        if any(sizes.setdefault(dim, size) != size for dim, size in zip(described.dims, shape, strict=True)):
            raise ValueError(f"{name}/{key} {shape} does not fit {sizes}")
    checksums = {}
    for key, described in variables.items():
        array = arrays.create_array(group, key, described, sizes, growing=name.startswith("samples/"))
        arrays.assign(array, values[key])
        checksums[f"{name}/{key}"] = checksum(array[...])
    return checksums


def checksum(values: Any) -> str:
    """Return the sha256 of an array of the cube as it is read, text included."""
    array = np.asarray(values)
    return hash_json(array.tolist()) if array.dtype.kind in "OTU" else hash_array(array)


def provenance_of(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return the provenance of the imported cube in a folder; None if there is no cube or one of a run."""
    content = read_json(Path(directory) / CUBE / "zarr.json")
    said = content.get("attributes", {}).get(IMPORTED) if isinstance(content, dict) else None
    return None if said is None else dict(json.loads(said))


def refuse_run(directory: str | os.PathLike[str]) -> None:
    """Raise a UsageError if a folder holds an imported cube, to which no run can add anything."""
    if provenance_of(directory) is not None:
        raise UsageError(
            f"{directory} holds published results that were imported; a run never adds to them or replaces "
            "them; choose another output folder (--output) or remove this one"
        )


def damaged(directory: str | os.PathLike[str]) -> list[str]:
    """Return the arrays of an imported cube whose stored values are not those that were imported."""
    path = Path(directory) / CUBE
    wrong = []
    for place, expected in (provenance_of(directory) or {}).get("checksums", {}).items():
        stored = arrays.attempt(partial(_read, path, place))
        if stored is None or checksum(stored) != expected:
            wrong.append(place)
    return wrong


def _read(path: Path, place: str) -> Any:
    return zarr.open_array(path, path=place, mode="r")[...]


def contents(directory: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return one row per group of an imported cube: its arrays and sizes."""
    path = Path(directory) / CUBE
    places = (provenance_of(directory) or {}).get("checksums", {})
    rows = []
    for name in dict.fromkeys(place.rpartition("/")[0] for place in places):
        own = [place.rpartition("/")[2] for place in places if place.rpartition("/")[0] == name]
        sizes: dict[str, int] = {}
        for key in own:
            shape = zarr.open_array(path, path=f"{name}/{key}", mode="r").shape
            described = table_of(name)[key].dims if name != "models" else ("model",)
            sizes.update(zip(described, shape, strict=True))
        rows.append(
            {
                "group": f"/{name}",
                "status": IMPORTED,
                "sizes": ", ".join(f"{dim} {size}" for dim, size in sizes.items()),
                "arrays": ", ".join(key for key in own if key not in sizes),
            }
        )
    return rows
