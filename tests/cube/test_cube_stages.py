"""The arrays of a cascade's stages: chunks, growth, what a record vouches for, the counts made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from cube_builder import EPSILONS, add_samples, chunk_file, random_column, write_random

from metaeval import outcomes
from metaeval.cube.aggregate import rebuild
from metaeval.cube.journal import Stage, Task
from metaeval.cube.layout import SHARD
from metaeval.cube.opening import open_cube
from metaeval.cube.selection import NormSelection, Selection
from metaeval.cube.store import CubeStore
from metaeval.cube.verify import verify
from metaeval.outcomes import Cell

STAGES = ["apgd-ce", "fab", "square"]
RADII = [radius for radius, _ in EPSILONS]


def staged_store(folder: Path, samples: int = 1200) -> CubeStore:
    store = CubeStore.open_or_create(folder)
    add_samples(store, samples)
    store.ensure_models(["first"])
    store.ensure_norm("linf", ["apgd-ce", "cascade"], EPSILONS, stages=STAGES)
    return store


def write_cascade(store: CubeStore, shard: int, names: list[str], seed: int = 0) -> np.ndarray:
    """Write a task of the cascade with distances that fall from stage to stage; return them."""
    rows = store.rows(shard)
    n = rows.stop - rows.start
    rng = np.random.default_rng(seed + shard)
    drawn = rng.choice([4 / 255, 0.02, 8 / 255, 0.05, np.inf], (len(names), n))
    distance = np.minimum.accumulate(drawn, axis=0)
    robust = outcomes.broken(distance[-1][:, None], store.epsilons("linf")) == 0
    column = replace(
        random_column(store, "linf", n),
        distance=distance[-1],
        cell=np.where(robust, Cell.ROBUST, Cell.BROKEN).astype(np.uint8),
        stage_distance=distance,
    )
    stages = [Stage(name, dict.fromkeys(RADII, 1.0 + k), 5, 4) for k, name in enumerate(names)]
    store.write_column(
        "first", "linf", "cascade", shard, column, identity="i", settings={}, stages=stages
    )  # fmt: skip
    return distance


def selection(store: CubeStore, names: list[str]) -> Selection:
    norm = NormSelection(("apgd-ce", "cascade"), tuple(RADII), cascade="cascade", stages=tuple(names))
    return Selection(("first",), len(store.sample_hashes), {"linf": norm})


def test_one_task_is_one_chunk_and_reads_back(tmp_path: Path) -> None:
    store = staged_store(tmp_path)
    distances = [write_cascade(store, shard, STAGES) for shard in range(2)]
    array = zarr.open_array(store.path, path="samples/linf/stage_distance", mode="r")
    assert array.shape == (1, 2, 3, 1200)
    assert array.chunks == (1, 1, 16, SHARD)
    for shard, distance in enumerate(distances):
        assert chunk_file(store, "samples/linf", "stage_distance", 0, 1, 0, shard).exists()
        stored = store.read_column("first", "linf", "cascade", shard, "i")
        assert stored is not None
        np.testing.assert_array_equal(stored.column.stage_distance, distance)
        assert stored.record.stages[1] == Stage("fab", dict.fromkeys(RADII, 2.0), 5, 4)
    write_random(store, "first", "apgd-ce", 0)
    pure = store.read_column("first", "linf", "apgd-ce", 0, "first apgd-ce")
    assert pure is not None
    assert pure.column.stage_distance is None


def test_accuracies_and_seconds_are_those_of_the_tasks(tmp_path: Path) -> None:
    store = staged_store(tmp_path)
    write_cascade(store, 0, STAGES)
    for shard in range(2):
        write_random(store, "first", "apgd-ce", shard)
    rebuild(store, selection(store, STAGES))
    linf = open_cube(tmp_path)["linf"].to_dataset()
    assert linf.stage_accuracy.isnull().all(), "a shard is missing"
    distance = np.concatenate([write_cascade(store, shard, STAGES) for shard in range(2)], axis=1)
    rebuild(store, selection(store, STAGES))
    linf = open_cube(tmp_path)["linf"].to_dataset()
    expected = [[(row > radius).mean() for row in distance] for radius in RADII]
    np.testing.assert_allclose(linf.stage_accuracy.values[0], expected)
    correct = linf.correct.sel(attack="cascade").sum("class") / 1200
    np.testing.assert_allclose(linf.stage_accuracy.isel(stage=-1), correct)
    np.testing.assert_allclose(linf.stage_seconds.values[0], [[2.0, 4.0, 6.0]] * 3)
    assert not verify(tmp_path)
    rebuild(
        store, replace(selection(store, STAGES), norms={"linf": NormSelection(("apgd-ce",), tuple(RADII))})
    )
    assert "stage" not in open_cube(tmp_path)["linf"].dims


def test_other_stages_join_and_each_record_vouches_for_its_own(tmp_path: Path) -> None:
    store = staged_store(tmp_path, samples=300)
    distance = write_cascade(store, 0, STAGES)
    store.ensure_norm("linf", ["cascade"], EPSILONS, stages=["square", "apgd-t"])
    assert CubeStore.open(tmp_path).stages("linf") == [*STAGES, "apgd-t"]
    stored = store.read_column("first", "linf", "cascade", 0, "i")
    assert stored is not None
    np.testing.assert_array_equal(stored.column.stage_distance, distance)
    other = write_cascade(store, 0, ["square", "apgd-t"], seed=5)
    array = zarr.open_array(store.path, path="samples/linf/stage_distance", mode="r")[0, 1]
    np.testing.assert_array_equal(array[[2, 3]], other)
    assert np.isnan(array[:2]).all()
    # Asked for the first cascade, a record of other stages gives no accuracy.
    write_random(store, "first", "apgd-ce", 0)
    rebuild(store, selection(store, STAGES))
    assert open_cube(tmp_path)["linf"].to_dataset().stage_accuracy.isnull().all()


@pytest.mark.parametrize("damage", ["lost", "altered"])
def test_damaged_distances_of_stages_are_found(tmp_path: Path, damage: str) -> None:
    store = staged_store(tmp_path, samples=300)
    write_cascade(store, 0, STAGES)
    assert [str(f) for f in verify(tmp_path) if f.kind == "error"] == []
    if damage == "lost":
        chunk_file(store, "samples/linf", "stage_distance", 0, 1, 0, 0).unlink()
    else:
        array = zarr.open_array(store.path, path="samples/linf/stage_distance", mode="r+")
        array[0, 1, 0, 7] = 0.125
    found = [finding for finding in verify(tmp_path) if finding.kind == "error"]
    assert [finding.where for finding in found] == [str(Task("first", "linf", "cascade", 0))]
    assert store.read_column("first", "linf", "cascade", 0, "i") is None


def test_distances_must_fit_the_stages(tmp_path: Path) -> None:
    store = staged_store(tmp_path, samples=30)
    column = replace(random_column(store, "linf", 30), stage_distance=np.zeros((2, 30)))
    with pytest.raises(ValueError, match=r"stage_distance has the shape \(2, 30\) instead of \(1, 30\)"):
        store.write_column(
            "first", "linf", "cascade", 0, column, identity="i", settings={}, stages=[Stage("fab", {}, 0, 0)]
        )
