"""Distances between classes in the cube: written once, written anew for other samples, never without end."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from cube_builder import build_store

from metaeval.analysis import interclass
from metaeval.cube import separation
from metaeval.cube.opening import open_cube
from metaeval.cube.verify import verify

NORMS = ["linf", "l2"]


def test_distances_are_in_the_cube_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = build_store(tmp_path)
    random = np.random.default_rng(0)
    x, y = random.random((12, 2, 3)).astype(np.float32), np.arange(12) % 3
    assert separation.write(store, x, y, NORMS, "first")
    cube = open_cube(tmp_path)
    for norm in NORMS:
        stored = cube["interclass"]["distance"].sel(norm=norm).values
        np.testing.assert_array_equal(stored, interclass.distances(x, y, norm))
    assert [str(norm) for norm in cube["interclass"]["norm"].values] == NORMS
    monkeypatch.setattr(separation, "distances", lambda *_: pytest.fail("computed again"))
    assert separation.write(store, x, y, NORMS, "first")
    monkeypatch.setattr(separation, "MOST_SAMPLES", 11)  # other samples, and too many
    assert not separation.write(store, x, y, NORMS, "second")
    assert "interclass" not in open_cube(tmp_path).children
    assert "interclass" not in xr.open_datatree(tmp_path / "cube.zarr", engine="zarr").children
    monkeypatch.setattr(separation, "MOST_SAMPLES", 12)
    monkeypatch.setattr(separation, "MOST_WORK", 12 * 12 * 6 / 2 - 1)
    assert not separation.write(store, x, y, NORMS, "second")
    assert not separation.write(store, x, y, [], "second")


def test_changed_distances_are_found_and_written_anew(tmp_path: Path) -> None:
    store = build_store(tmp_path, samples=12)
    x, y = np.random.default_rng(0).random((12, 2, 3)).astype(np.float32), np.arange(12) % 3
    assert separation.write(store, x, y, NORMS, "first")
    assert not [finding for finding in verify(tmp_path) if finding.kind == "error"]
    array = zarr.open_array(store.path, path="interclass/distance", mode="r+")
    array[1, 5] += 1e-9
    (found,) = [finding for finding in verify(tmp_path) if finding.kind == "error"]
    assert (found.where, "not what was written" in found.message) == ("interclass/distance", True)
    assert separation.write(store, x, y, NORMS, "first")
    assert not [finding for finding in verify(tmp_path) if finding.kind == "error"]
    shutil.rmtree(store.path / "interclass" / "distance")
    assert "interclass/distance" in {finding.where for finding in verify(tmp_path)}
