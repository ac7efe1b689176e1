"""Opening a cube for reading."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from metaeval.cube.layout import CUBE
from metaeval.errors import MissingInputError

if TYPE_CHECKING:
    import xarray


def cube_path(path: str | os.PathLike[str]) -> Path:
    """Return the zarr folder that a path means: itself, or `cube.zarr` inside it.

    Raises
    ------
    MissingInputError
        If there is no cube.
    """
    given = Path(path)
    for candidate in (given / CUBE, given):
        if (candidate / "zarr.json").exists():
            return candidate
    raise MissingInputError(f"no cube at {given}")


def open_cube(path: str | os.PathLike[str]) -> xarray.DataTree:
    """Open a cube as a labelled tree; arrays are read when they are used.

    Parameters
    ----------
    path : path
        `cube.zarr`, or the folder of the study's reports that holds it.

    Returns
    -------
    xarray.DataTree
        One node per kind of quantity: `/models`, `/clean`, `/linf`, `/cost`, `/samples/linf` and so on.

    Raises
    ------
    MissingInputError
        If there is no cube.
    """
    import xarray

    # The groups themselves, not consolidated metadata, which is absent while a cube grows. No dask: its
    # tasks, one per native chunk of 1,000 samples, would take far longer than the reading.
    return xarray.open_datatree(cube_path(path), engine="zarr", consolidated=False, chunks=None)
