"""Creating, growing and replacing zarr groups as the layout table says."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from metaeval.cube.files import read_json, write_atomically
from metaeval.cube.layout import Variable, chunk_shape

Values = npt.NDArray[Any]
ZarrArray = Any  # generic in some versions of zarr and not in others


@contextmanager
def quiet_zarr() -> Iterator[None]:
    """Silence zarr's notes that strings and consolidated metadata are newer than its specification."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Consolidated metadata is currently not part.*")
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        yield


def create_array(
    group: zarr.Group, name: str, described: Variable, sizes: Mapping[str, int], *, growing: bool
) -> ZarrArray:
    """Create one array, empty, with the shape that the sizes of its dimensions give."""
    with quiet_zarr():
        return group.create_array(
            name,
            shape=tuple(sizes[dim] for dim in described.dims),
            chunks=chunk_shape(described, sizes, growing=growing),
            dtype=described.dtype,
            fill_value=described.fill,
            # Without its checksum, zstd reads many flipped bits silently.
            compressors=[ZstdCodec(level=3, checksum=True)],
            dimension_names=described.dims,
            attributes=dict(described.attributes),
            overwrite=True,
        )


def assign(array: ZarrArray, values: Any) -> None:
    """Write an array whole."""
    if 0 in array.shape:
        return
    array[...] = text(values) if array.dtype.kind in "OTU" else np.asarray(values, dtype=array.dtype)


def text(values: Any) -> Values:
    """Return strings as the variable-length strings that zarr writes."""
    return np.asarray(values, dtype=np.dtypes.StringDType())


def canonical(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return float32 values with one kind of NaN: chunks of nothing else are not written and read as it."""
    array = np.asarray(values, dtype=np.float32)
    return np.where(np.isnan(array), np.float32(np.nan), array)


def coordinate_attribute(variables: Mapping[str, Variable]) -> dict[str, str]:
    """Return the group attribute that tells xarray which arrays are coordinates."""
    names = [name for name, v in variables.items() if v.coordinate and v.dims != (name,)]
    return {"coordinates": " ".join(names)} if names else {}


def replace_group(
    path: Path,
    name: str,
    variables: Mapping[str, Variable],
    values: Mapping[str, Any],
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write a group that is always rewritten whole, so that a reader finds the old one or the new one.

    The group is built beside the cube and renamed into it.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    built, old, target = scratch / "new.zarr", scratch / "old", path / name
    group = zarr.open_group(built, mode="w", zarr_format=3)
    group.attrs.update({**coordinate_attribute(variables), **(attributes or {})})
    sizes: dict[str, int] = {}
    for key, described in variables.items():
        sizes.update(zip(described.dims, np.shape(values[key]), strict=True))
    for key, described in variables.items():
        assign(create_array(group, key, described, sizes, growing=False), values[key])
    if target.exists():
        os.replace(target, old)
    os.replace(built, target)
    shutil.rmtree(scratch, ignore_errors=True)


def remove_group(path: Path, name: str) -> None:
    """Remove a group that is rewritten whole."""
    shutil.rmtree(path / name, ignore_errors=True)


def attempt(read: Callable[[], Any]) -> Any | None:
    """Return what a read gives, or None if the stored bytes are absent or damaged.

    Zarr and its codecs raise many types for a damaged file. Errors that say nothing about the bytes (no
    permission, no memory, too many open files) are raised.
    """
    try:
        return read()
    except MemoryError:
        raise
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno == errno.EIO:
            return None
        raise
    except Exception:
        return None


def drop_consolidated(path: Path) -> None:
    """Delete consolidated metadata: once stale, it silently hides what was added."""
    content = read_json(path / "zarr.json")
    if content is not None and content.pop("consolidated_metadata", None) is not None:
        write_atomically(path / "zarr.json", json.dumps(content, indent=2).encode())


def consolidate(path: Path) -> None:
    """Write consolidated metadata, which plain `xr.open_zarr` looks for; the last step of any change."""
    with quiet_zarr():
        zarr.consolidate_metadata(str(path), zarr_format=3)


def attribute(key: str, value: Any) -> str | int | float | list[str]:
    """Return a value as an attribute holds it: plain values and lists as they are, mappings as JSON text."""
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if isinstance(value, str | int | float):
        return value
    if all(isinstance(item, str | int | float) for item in value):
        return list(value)
    raise TypeError(f"attribute {key!r}: nested values are stored as one JSON string")


def typed(column: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return the kind of array that holds a column of plain values, and the values with fills for None."""
    numbers = [value for value in column if value is not None]
    if not numbers or not all(isinstance(value, int | float | np.number) for value in numbers):
        return "text", ["" if value is None else str(value) for value in column]
    if len(numbers) == len(column) and all(isinstance(value, int | np.integer) for value in numbers):
        return "integer", [int(value) for value in column]
    return "real", [math.nan if value is None else float(value) for value in column]
