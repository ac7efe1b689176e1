"""Columns survive growth, and nothing that is damaged is ever read as a number."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from cube_builder import EPSILONS, add_samples, build_store, chunk_file, random_column, write_random

from metaeval.cube import arrays
from metaeval.cube.journal import Task, covers
from metaeval.cube.store import Column, CubeStore, StoredColumn
from metaeval.errors import MissingInputError, UsageError

RADII = [epsilon for epsilon, _ in EPSILONS]


def read(
    store: CubeStore, model: str = "first", attack: str = "apgd-ce", shard: int = 0
) -> StoredColumn | None:
    return store.read_column(model, "linf", attack, shard, f"{model} {attack}")


def same(a: Column, b: Column) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name), equal_nan=name in ("distance", "searched"))
        for name in ("distance", "searched", "forwards", "backwards")
    ) and np.array_equal(a.cell, b.cell[:, : a.cell.shape[1]])


def test_column_is_read_back_as_written(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    written = random_column(store, "linf", 200)
    written.distance[:3] = np.nan, 0.0, np.inf
    store.write_column(
        "first",
        "linf",
        "apgd-ce",
        1,
        written,
        identity="i",
        settings={"iterations": 50, "loss": "ce"},
        reduced=["iterations 50 (standard 100)"],
        seconds=1.5,
        verification=400,
        flags={"zero_gradient": 0.25, "unknown": float("nan")},
        versions={"torch": "2.15"},
    )
    for again in (store, CubeStore.open(tmp_path)):
        stored = again.read_column("first", "linf", "apgd-ce", 1, "i")
        assert stored is not None
        assert same(written, stored.column)
        assert stored.column.cell.dtype == np.uint8
        record = stored.record
        assert record == again.record("first", "linf", "apgd-ce", 1)
        assert record.epsilons == dict.fromkeys(RADII, 200)
        assert record.sample_hashes == tuple(f"{i:032x}" for i in range(1000, 1200))
        assert (record.seconds, record.verification, record.flags) == (1.5, 400, {"zero_gradient": 0.25})
        assert record.forwards == written.forwards.sum()
        assert record.backwards == written.backwards.sum()
        assert record.settings == {"iterations": 50, "loss": "ce"}
        assert record.reduced == ("iterations 50 (standard 100)",)


def test_absent_column_and_other_identity_are_not_read(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    assert read(store) is None
    write_random(store, "first", "apgd-ce", 0)
    assert read(store) is not None
    assert read(store, shard=1) is None
    assert store.read_column("first", "linf", "apgd-ce", 0, "another identity") is None


def test_clean_is_read_back_as_written(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    logits = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    store.write_clean("second", 1, logits.argmax(1), logits, identity="weights", seconds=0.5)
    stored = store.read_clean("second", 1, "weights")
    assert stored is not None
    assert np.array_equal(stored.logits, logits)
    assert np.array_equal(stored.prediction, logits.argmax(1))
    assert covers(store.clean_record("second", 1), "weights", store.sample_hashes[1000:], [])
    assert store.read_clean("second", 1, "other weights") is None
    assert store.read_clean("second", 0, "weights") is None


def test_covers_asks_for_identity_prefix_of_samples_and_epsilons(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    write_random(store, "first", "apgd-ce", 0)
    record = store.record("first", "linf", "apgd-ce", 0)
    hashes = store.sample_hashes[:1000]
    assert covers(record, "first apgd-ce", hashes, RADII)
    assert covers(record, "first apgd-ce", hashes[:10], RADII[::-1][:2])
    assert not covers(record, "first square", hashes, RADII)
    assert not covers(record, "first apgd-ce", store.sample_hashes[:1001], RADII)
    assert not covers(record, "first apgd-ce", hashes[1:], RADII)
    assert not covers(record, "first apgd-ce", hashes, [*RADII, 0.031])
    assert not covers(None, "first apgd-ce", hashes, RADII)


def test_epsilon_without_a_verdict_for_every_row_is_not_covered(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    column = random_column(store, "linf", 1000)
    column.cell[700:, 1] = 0
    column.cell[:, 2] = 0
    record = store.write_column("first", "linf", "apgd-ce", 0, column, identity="i", settings={})
    hashes = store.sample_hashes
    assert covers(record, "i", hashes[:1000], RADII[:1])
    assert covers(record, "i", hashes[:700], RADII[:2])
    assert not covers(record, "i", hashes[:701], RADII[:2])
    assert not covers(record, "i", hashes[:1], RADII)


def test_growing_keeps_finished_columns(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    written = {
        (model, attack, shard): write_random(store, model, attack, shard, seed=seed)
        for seed, (model, attack, shard) in enumerate(
            (m, a, s) for m in ("first", "second") for a in ("apgd-ce", "square") for s in (0, 1)
        )
    }
    chunks = {
        path: path.read_bytes() for path in store.path.glob("samples/linf/cell/c/**/*") if path.is_file()
    }
    assert len(chunks) == 8
    store.ensure_models(["zeroth", "second"])
    store.ensure_norm("linf", ["fab", "square"], [(0.031, "0.031"), (0.0, "0"), (2 / 255, "2/255")])
    store.ensure_norm("l2", ["fab"], [(0.5, "0.5")])
    add_samples(store, 2500)
    assert {path: path.read_bytes() for path in chunks} == chunks
    for again in (store, CubeStore.open_or_create(tmp_path)):
        assert again.models == ["first", "second", "zeroth"]
        assert again.attacks("linf") == ["apgd-ce", "square", "fab"]
        assert again.epsilon_labels("linf") == ["0", "4/255", "8/255", "0.031", "2/255"]
        assert again.levels("linf", [2 / 255, 0.0]).tolist() == [4, 0]
        for (model, attack, shard), column in written.items():
            stored = read(again, model, attack, shard)
            assert stored is not None
            assert same(column, stored.column)
            assert stored.column.cell.shape == (len(column.distance), 5)
            assert not stored.column.cell[:, 3:].any()
        # The second shard has 200 of its 1,000 rows: kept, but not covering.
        record = again.record("first", "linf", "square", 1)
        assert covers(record, "first square", again.sample_hashes[1000:1200], RADII)
        assert not covers(record, "first square", again.sample_hashes[1000:2000], RADII)
        assert not covers(record, "first square", again.sample_hashes[1000:1200], [*RADII, 0.031])


def test_a_column_grows_by_a_level_and_by_samples(tmp_path: Path) -> None:
    store = build_store(tmp_path, samples=500)
    old = write_random(store, "first", "apgd-ce", 0)
    store.ensure_norm("linf", [], [(0.031, "0.031")])
    add_samples(store, 800)
    new = random_column(store, "linf", 800, seed=1)
    new.cell[:500, :3] = old.cell
    store.write_column("first", "linf", "apgd-ce", 0, new, identity="first apgd-ce", settings={})
    stored = read(store)
    assert stored is not None
    assert same(new, stored.column)
    assert covers(stored.record, "first apgd-ce", store.sample_hashes, [*RADII, 0.031])


def test_a_shorter_column_leaves_no_rows_of_the_longer_one(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    write_random(store, "first", "apgd-ce", 0)
    column = random_column(store, "linf", 100, seed=5)
    store.write_column("first", "linf", "apgd-ce", 0, column, identity="first apgd-ce", settings={})
    stored = read(store)
    assert stored is not None
    assert len(stored.column.distance) == 100
    slab = store.arrays.slabs("first", "linf")
    assert slab is not None
    assert np.isnan(slab["distance"][0, 100:]).all()
    assert not slab["cell"][0, 100:].any()


def test_levels_that_the_record_does_not_know_are_not_read(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    written = write_random(store, "first", "apgd-ce", 0)
    store.ensure_norm("linf", [], [(0.031, "0.031")])
    cell = zarr.open_array(store.path, path="samples/linf/cell")
    cell[0, 0, :1000, 3] = 5
    stored = read(store)
    assert stored is not None
    assert same(written, stored.column)
    assert not stored.column.cell[:, 3].any()


@pytest.mark.parametrize("name", ["distance", "searched", "forwards", "backwards", "cell"])
@pytest.mark.parametrize("damage", ["bit", "missing", "truncated", "empty", "neighbour"])
def test_damaged_chunk_means_recompute(tmp_path: Path, name: str, damage: str) -> None:
    store = build_store(tmp_path)
    write_random(store, "first", "apgd-ce", 0, seed=1)
    write_random(store, "first", "square", 0, seed=2)
    assert read(store) is not None
    tail = (0,) if name == "cell" else ()
    file = chunk_file(store, "samples/linf", name, 0, 0, 0, *tail)
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    else:  # a whole and valid chunk, of another task
        file.write_bytes(chunk_file(store, "samples/linf", name, 0, 1, 0, *tail).read_bytes())
    for again in (store, CubeStore.open(tmp_path)):
        assert read(again) is None
        assert read(again, attack="square") is not None
    again = write_random(store, "first", "apgd-ce", 0, seed=3)
    stored = read(store)
    assert stored is not None
    assert same(again, stored.column)


def test_every_flipped_bit_of_a_chunk_is_noticed(tmp_path: Path) -> None:
    store = build_store(tmp_path, samples=20)
    written = write_random(store, "first", "apgd-ce", 0)
    file = chunk_file(store, "samples/linf", "distance", 0, 0, 0)
    content = file.read_bytes()
    for position in range(len(content)):
        for bit in (0, 3, 7):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            file.write_bytes(damaged)
            stored = read(store)
            assert stored is None or same(written, stored.column)


def test_damaged_record_does_not_count(tmp_path: Path) -> None:
    store = build_store(tmp_path, samples=30)
    write_random(store, "first", "apgd-ce", 0)
    path = store.journal.path(Task("first", "linf", "apgd-ce", 0), ".json")
    text = path.read_text()
    assert store.record("first", "linf", "apgd-ce", 0) is not None
    old, new = (4 / 255).hex(), (5 / 255).hex()
    assert old in text
    path.write_text(text.replace(old, new))  # claims an epsilon that was not computed
    assert store.record("first", "linf", "apgd-ce", 0) is None
    path.write_text(text[: len(text) // 2])
    assert store.record("first", "linf", "apgd-ce", 0) is None
    path.write_text("{}")
    assert store.record("first", "linf", "apgd-ce", 0) is None
    path.write_text("null")
    assert read(store) is None


def test_record_of_another_task_does_not_count(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    write_random(store, "first", "apgd-ce", 0)
    source = store.journal.path(Task("first", "linf", "apgd-ce", 0), ".json")
    target = store.journal.path(Task("second", "linf", "apgd-ce", 0), ".json")
    target.parent.mkdir(parents=True)
    target.write_bytes(source.read_bytes())
    assert store.record("second", "linf", "apgd-ce", 0) is None


def test_open_task_is_not_read(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    task = Task("first", "linf", "apgd-ce", 0)
    write_random(store, "first", "apgd-ce", 0)
    store.journal.begin(task)  # what a kill in the midst of rewriting leaves
    assert store.journal.is_open(task)
    assert read(store) is None
    write_random(store, "first", "apgd-ce", 0)
    assert not store.journal.is_open(task)
    assert read(store) is not None
    assert not store.journal.path(task, ".open").exists()


def test_failure_and_skip_are_noted_and_removed_by_success(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    task = Task("first", "linf", "apgd-ce", 0)
    store.skip_column("first", "linf", "apgd-ce", 0, "needs gradients")
    store.fail_column("first", "linf", "apgd-ce", 0, "CUDA error: «unspecified»\nline two", identity="i")
    failure = store.journal.failure(task)
    assert failure is not None
    assert failure.reason == "CUDA error: «unspecified»\nline two"
    assert store.journal.skip(task) is None
    assert read(store) is None
    write_random(store, "first", "apgd-ce", 0)
    assert store.journal.failure(task) is None
    store.fail_column("first", "linf", "apgd-ce", 0, "at a new epsilon", identity="i")
    assert read(store) is not None  # what was stored before stays


def test_names_of_any_kind(tmp_path: Path) -> None:
    names = ("a/b", "..", ".hidden", "Wang 2023 «WRN»", "x" * 300, "x" * 299 + "y", "per%2Fcent", "a%2Fb")
    store = build_store(tmp_path, models=names, attacks=("pgd@torchattacks", "my.pkg:attack"), samples=10)
    columns = {name: write_random(store, name, "my.pkg:attack", 0, seed=i) for i, name in enumerate(names)}
    again = CubeStore.open(tmp_path)
    for name, column in columns.items():
        stored = read(again, name, "my.pkg:attack")
        assert stored is not None
        assert same(column, stored.column)
    assert {again.journal.task_of(path).model for path in again.journal.files()} == set(names)
    assert all(tmp_path in path.resolve().parents for path in again.journal.files())


def test_samples_must_be_a_prefix(tmp_path: Path) -> None:
    store = build_store(tmp_path, samples=50)
    add_samples(store, 20)  # fewer is fine: the study asks for less than the cube has
    assert len(store.sample_hashes) == 50
    ids, hashes = [f"other{i}" for i in range(60)], [f"{i:032x}" for i in range(60)]
    with pytest.raises(UsageError, match=r"sample 0 is 'test/00000\.png'"):
        store.ensure_samples(ids, hashes, np.zeros(60), ["cat", "dog", "Ørn"], 3)
    with pytest.raises(UsageError, match="other classes"):
        store.ensure_samples(store.sample_ids, hashes[:50], store.labels, ["cat", "dog"], 3)
    with pytest.raises(ValueError, match="labels 0 to 7"):
        CubeStore.open_or_create(tmp_path / "new").ensure_samples(["a", "b"], ["c", "d"], [0, 7], ["x"], 1)
    assert len(CubeStore.open(tmp_path).sample_hashes) == 50


def test_axes_refuse_what_cannot_be(tmp_path: Path) -> None:
    store = build_store(tmp_path, samples=5)
    for attacks, epsilons, match in [
        (["worst-case"], [], "aggregate"),
        (["fab", "fab"], [], "'fab' is named twice"),
        (["fab"], [(0.1, "0.1"), (0.1, "1/10")], "named twice"),
        (["fab"], [(float("nan"), "nan")], "not a finite number"),
        (["fab"], [(-0.1, "-0.1")], "not a finite number"),
    ]:
        with pytest.raises(UsageError, match=match):
            store.ensure_norm("linf", attacks, epsilons)
    with pytest.raises(UsageError, match="did you mean 'linf'"):
        store.ensure_norm("Linf", ["fab"], [])
    with pytest.raises(UsageError, match="model 'a' is named twice"):
        store.ensure_models(["a", "b", "a"])
    assert store.attacks("linf") == ["apgd-ce", "square"]


def test_wrong_shapes_are_refused_before_anything_is_touched(tmp_path: Path) -> None:
    store = build_store(tmp_path, samples=50)
    write_random(store, "first", "apgd-ce", 0)
    good = random_column(store, "linf", 50)
    with pytest.raises(ValueError, match="60 rows for a shard of 50"):
        store.write_column(
            "first", "linf", "apgd-ce", 0, random_column(store, "linf", 60), identity="i", settings={}
        )
    short = Column(good.distance, good.searched, good.forwards, good.backwards, good.cell[:, :2])
    with pytest.raises(ValueError, match="cell has the shape"):
        store.write_column("first", "linf", "apgd-ce", 0, short, identity="i", settings={})
    assert read(store) is not None


@pytest.mark.parametrize("moment", ["before", "after"])
def test_interrupted_growth_is_finished_by_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    store = build_store(tmp_path)
    column = write_random(store, "first", "apgd-ce", 0)
    original = arrays.assign
    interrupted = 0
    for stop in range(1, 20):
        calls = 0

        def killed(array: object, values: object, stop: int = stop) -> None:
            nonlocal calls
            calls += 1
            if moment == "after":
                original(array, values)
            if calls == stop:
                raise KeyboardInterrupt
            if moment == "before":
                original(array, values)

        monkeypatch.setattr(arrays, "assign", killed)
        with contextlib.suppress(KeyboardInterrupt):
            add_samples(store, 1200 + 100 * stop)
            interrupted -= 1
        interrupted += 1
        monkeypatch.setattr(arrays, "assign", original)
        store = CubeStore.open_or_create(tmp_path)
        for group in ("samples/clean", "samples/linf"):
            with xr.open_zarr(store.path, group=group, consolidated=False) as opened:
                assert opened.sample_id.values.tolist() == store.sample_ids
                assert len(opened.sample_id) == 1200 + 100 * stop
        stored = read(store)
        assert stored is not None
        assert same(column, stored.column)
    assert interrupted == 7  # once for each coordinate along the samples, then no more


def test_damaged_coordinates_are_written_anew(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    file = chunk_file(store, "samples/linf", "model", 0)
    good = file.read_bytes()
    file.write_bytes(good[:-3])
    CubeStore.open_or_create(tmp_path)
    assert file.read_bytes() == good


def test_folder_without_a_cube_or_with_another(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no cube in"):
        CubeStore.open(tmp_path)
    build_store(tmp_path / "a", samples=5)
    axes = tmp_path / "a" / "journal" / "axes.json"
    text = axes.read_text()
    axes.write_text(text.replace("apgd-ce", "apgd-dlr"))
    with pytest.raises(UsageError, match="is damaged"):
        CubeStore.open_or_create(tmp_path / "a")
    axes.unlink()
    with pytest.raises(UsageError, match="lost its journal"):
        CubeStore.open_or_create(tmp_path / "a")


def test_attributes(tmp_path: Path) -> None:
    store = build_store(tmp_path, samples=5)
    store.set_attributes(
        {"title": "Ein Titel", "seed": 1, "norms": ["linf"], "versions": {"numpy": "2", "a": [1]}}
    )
    attributes = CubeStore.open(tmp_path).attributes()
    assert (attributes["title"], attributes["seed"], attributes["norms"]) == ("Ein Titel", 1, ["linf"])
    assert json.loads(attributes["versions"]) == {"numpy": "2", "a": [1]}
    with pytest.raises(TypeError, match="nested"):
        store.set_attributes({"bad": [["nested"]]})
