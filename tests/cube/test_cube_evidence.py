"""The array of adversarials in a store: layout, records, and what rewriting a column does to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cube_builder import EPSILONS, build_store, chunk_file, random_column

from metaeval.cube import growth
from metaeval.cube.aggregate import rebuild
from metaeval.cube.axes import Axes
from metaeval.cube.journal import covers
from metaeval.cube.layout import SHARD, chunk_shape, evidence
from metaeval.cube.opening import open_cube
from metaeval.cube.selection import NormSelection, Selection
from metaeval.cube.store import Column, CubeStore
from metaeval.cube.verify import verify
from metaeval.errors import UsageError
from metaeval.outcomes import Cell

SHAPE = (3, 4, 2)


def store_with_evidence(directory: Path, samples: int = 1200) -> CubeStore:
    store = build_store(directory, samples=samples)
    store.ensure_norm("linf", [], [], SHAPE)
    return store


def column_with_evidence(store: CubeStore, shard: int, seed: int = 0) -> Column:
    rows = store.rows(shard)
    column = random_column(store, "linf", rows.stop - rows.start, seed)
    points = np.random.default_rng(seed).uniform(0, 1, (len(column.distance), *SHAPE)).astype(np.float32)
    points[~column.claimed()] = np.nan
    return replace(column, evidence=points)


def write(store: CubeStore, column: Column, shard: int = 0, identity: str = "i") -> None:
    store.write_column("first", "linf", "apgd-ce", shard, column, identity=identity, settings={})


def selection() -> Selection:
    epsilons = tuple(epsilon for epsilon, _ in EPSILONS)
    return Selection(("first",), 1200, {"linf": NormSelection(("apgd-ce",), epsilons)})


def test_what_is_written_is_read_bit_for_bit(tmp_path: Path) -> None:
    store = store_with_evidence(tmp_path)
    columns = [column_with_evidence(store, shard, seed=shard) for shard in (0, 1)]
    for shard, column in enumerate(columns):
        write(store, column, shard)
    for shard, column in enumerate(columns):
        stored = CubeStore.open(tmp_path).read_column("first", "linf", "apgd-ce", shard, "i")
        assert stored is not None
        assert stored.column.evidence is not None
        assert column.evidence is not None
        assert stored.column.evidence.tobytes() == column.evidence.tobytes()
        assert covers(stored.record, "i", store.sample_hashes[store.rows(shard)], [0.0], evidence=True)
    array = open_cube(tmp_path)["samples/linf"]["evidence"]
    assert array.dims == ("model", "attack", "sample", "channel", "height", "width")
    assert array.shape == (2, 2, 1200, *SHAPE)
    assert np.isnan(array.sel(model="second")).all()
    assert not [finding for finding in verify(tmp_path) if finding.kind == "error"]


def test_a_record_without_adversarials_does_not_cover_a_plan_that_wants_them(tmp_path: Path) -> None:
    store = store_with_evidence(tmp_path)
    write(store, random_column(store, "linf", 1000))
    record = store.record("first", "linf", "apgd-ce", 0)
    hashes = store.sample_hashes[:1000]
    assert covers(record, "i", hashes, [0.0])
    assert not covers(record, "i", hashes, [0.0], evidence=True)


def test_without_being_asked_for_there_is_no_array_and_no_room(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    assert "evidence" not in open_cube(tmp_path)["samples/linf"]
    with pytest.raises(ValueError, match="evidence has the shape"):
        write(store, column_with_evidence(store, 0))
    assert store.record("first", "linf", "apgd-ce", 0) is None


def test_a_column_that_lost_an_adversarial_is_refused(tmp_path: Path) -> None:
    store = store_with_evidence(tmp_path)
    column = column_with_evidence(store, 0)
    assert column.evidence is not None
    column.evidence[np.flatnonzero(column.claimed())[[3, 8]]] = np.nan
    with pytest.raises(ValueError, match="2 adversarials were found"):
        write(store, column)
    assert store.record("first", "linf", "apgd-ce", 0) is None


def test_what_is_claimed() -> None:
    cells = [Cell.BROKEN, Cell.BROKEN_ENVELOPE, Cell.BROKEN_OVERRULED, Cell.ROBUST, Cell.ROBUST_INFERRED]
    for code in cells:
        cell = np.array([[Cell.ROBUST, code]] * 4, dtype=np.uint8)
        distance = np.array([np.nan, 0.0, 0.3, np.inf])
        zeros = np.zeros(4, dtype=np.int64)
        claimed = Column(distance, np.zeros(4), zeros, zeros, cell).claimed()
        assert claimed.tolist() == [code in cells[:3], False, True, False]


def test_rewritten_without_adversarials_the_old_ones_are_gone(tmp_path: Path) -> None:
    store = store_with_evidence(tmp_path)
    write(store, column_with_evidence(store, 0))
    write(store, column_with_evidence(store, 1), 1)
    file = chunk_file(store, "samples/linf", "evidence", 0, 0, 0, 0, 0, 0)
    assert file.exists()
    write(store, random_column(store, "linf", 1000), identity="other")
    stored = store.read_column("first", "linf", "apgd-ce", 0, "other")
    assert stored is not None
    assert stored.column.evidence is None
    assert not file.exists()
    assert store.read_column("first", "linf", "apgd-ce", 1, "i") is not None  # the neighbour is untouched


def test_damage_is_found_and_no_aggregate_rests_on_it(tmp_path: Path) -> None:
    store = store_with_evidence(tmp_path)
    for shard in (0, 1):
        write(store, column_with_evidence(store, shard), shard)
    rebuild(store, selection())
    assert not verify(tmp_path)
    before = open_cube(tmp_path)["linf"].to_dataset().load()
    file = chunk_file(store, "samples/linf", "evidence", 0, 0, 0, 0, 0, 0)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (finding,) = verify(tmp_path)
    assert (finding.kind, finding.where) == ("error", "first / linf / apgd-ce / shard 0")
    assert store.read_column("first", "linf", "apgd-ce", 0, "i") is None  # so the next run computes it again
    rebuild(store, selection())
    assert open_cube(tmp_path)["linf"].to_dataset().load().equals(before)


def test_an_array_that_gives_back_something_else_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_with_evidence(tmp_path)
    find = store.arrays._array

    class Lossy:
        def __init__(self, array: Any) -> None:
            self.array, self.fill_value = array, array.fill_value

        def __setitem__(self, index: Any, value: Any) -> None:
            self.array[index] = value.astype(np.float16)

        def __getitem__(self, index: Any) -> Any:
            return self.array[index]

    def lossy(norm: str, name: str) -> Any:
        return Lossy(find(norm, name)) if name == "evidence" else find(norm, name)

    monkeypatch.setattr(store.arrays, "_array", lossy)
    with pytest.raises(OSError, match="not read back"):
        write(store, column_with_evidence(store, 0))
    assert store.record("first", "linf", "apgd-ce", 0) is None


def test_it_grows_with_the_axes_and_an_interrupted_growth_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = build_store(tmp_path, samples=600)
    with monkeypatch.context() as patch:
        patch.setattr(growth, "grow", lambda path, axes, grown: None)  # killed after the axes are saved
        store.ensure_norm("linf", [], [], SHAPE)
    assert "evidence" not in open_cube(tmp_path)["samples/linf"]
    store = CubeStore.open_or_create(tmp_path)
    write(store, column_with_evidence(store, 0))
    before = store.read_column("first", "linf", "apgd-ce", 0, "i")
    assert before is not None
    assert before.column.evidence is not None
    store.ensure_models(["third"])
    store.ensure_norm("linf", ["fab"], [(0.2, "0.2")])  # without asking for adversarials again
    store.ensure_samples(
        [f"test/{i:05d}.png" for i in range(2100)],
        [f"{i:032x}" for i in range(2100)],
        np.arange(2100) % 3,
        ["cat", "dog", "Ørn"],
        3,
    )
    after = store.read_column("first", "linf", "apgd-ce", 0, "i")
    assert after is not None
    assert after.column.evidence is not None
    np.testing.assert_array_equal(after.column.evidence, before.column.evidence)
    assert open_cube(tmp_path)["samples/linf"]["evidence"].shape == (3, 3, 2100, *SHAPE)


def test_inputs_of_another_shape_are_refused(tmp_path: Path) -> None:
    store = store_with_evidence(tmp_path)
    with pytest.raises(UsageError, match="adversarials of the shape"):
        store.ensure_norm("linf", [], [], (3, 4, 4))
    axes = Axes.load(tmp_path / "journal" / "axes.json")
    assert axes is not None
    assert axes.norms["linf"].input_shape == list(SHAPE)


@pytest.mark.parametrize(
    ("shape", "rows"),
    [((561,), 1000), ((1, 28, 28), 1000), ((3, 32, 32), 1000), ((3, 64, 64), 500), ((3, 224, 224), 50)],
)
def test_chunks_divide_a_task_and_stay_small(shape: tuple[int, ...], rows: int) -> None:
    described = evidence(len(shape))
    sizes = dict(zip(described.dims, (2, 2, 5000, *shape), strict=True))
    chunks = chunk_shape(described, sizes, growing=True)
    assert chunks == (1, 1, rows, *shape)
    assert SHARD % rows == 0
    assert np.prod(chunks) * 4 <= 2**25
