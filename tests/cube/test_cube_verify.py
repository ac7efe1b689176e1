"""`verify` finds what is damaged and nothing else; `status` counts tasks."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from cube_builder import build_store, chunk_file, random_column, write_random

from metaeval.cube.aggregate import rebuild
from metaeval.cube.journal import Task
from metaeval.cube.opening import open_cube
from metaeval.cube.selection import NormSelection, Selection
from metaeval.cube.status import status
from metaeval.cube.store import Column, CubeStore
from metaeval.cube.verify import verify
from metaeval.errors import MissingInputError


def whole(store: CubeStore) -> Selection:
    norm = NormSelection(tuple(store.attacks("linf")), tuple(store.epsilons("linf")))
    return Selection(tuple(store.models), len(store.sample_hashes), {"linf": norm})


def messages(directory: Path) -> list[str]:
    return [str(finding) for finding in verify(directory)]


def snapshot(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_an_intact_cube_has_no_findings(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    write_random(store, "first", "apgd-ce", 0)
    store.fail_column("first", "linf", "square", 0, "reason")
    assert messages(tmp_path) == ["note: aggregates: not built yet; run or report builds them"]
    rebuild(store, whole(store))
    before = snapshot(tmp_path)
    assert messages(tmp_path) == []
    assert snapshot(tmp_path) == before


def test_findings(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    for attack in ("apgd-ce", "square"):
        for shard in (0, 1):
            write_random(store, "first", attack, shard, seed=shard)
    rebuild(store, whole(store))
    chunk_file(store, "samples/linf", "searched", 0, 1, 1).unlink()
    found = messages(tmp_path)
    where = "first / linf / square / shard 1"
    assert found[0] == f"error: {where}: the stored values do not match their record"
    assert any(text.startswith("error: linf/robust_accuracy") for text in found)
    assert store.record("first", "linf", "square", 1) is not None  # looking changes nothing
    write_random(store, "first", "square", 1, seed=1)
    rebuild(store, whole(store))
    assert messages(tmp_path) == []

    store.journal.begin(Task("first", "linf", "apgd-ce", 1))
    assert messages(tmp_path) == [
        "note: first / linf / apgd-ce / shard 1: its writing was interrupted; the next run computes it again",
        "note: aggregates: older than the records; run or report rebuilds them",
    ]
    write_random(store, "first", "apgd-ce", 1, seed=1)
    path = store.journal.path(Task("first", "linf", "apgd-ce", 0), ".json")
    path.write_text(path.read_text().replace('"seconds": null', '"seconds": 3.0'))
    assert messages(tmp_path)[0] == (
        "error: first / linf / apgd-ce / shard 0: its record is damaged or of another version"
    )
    path.write_bytes(b"\0\1")
    assert "the file is damaged; its task counts as not done" in messages(tmp_path)[0]


def test_published_numbers_are_recounted(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    for shard in (0, 1):
        write_random(store, "first", "apgd-ce", shard)
    rebuild(store, whole(store))
    file = next(path for path in (store.path / "linf" / "evaluated" / "c").rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-1])
    assert messages(tmp_path) == ["error: linf/evaluated: the published values are not what the records give"]
    rebuild(store, whole(store))
    assert messages(tmp_path) == []
    coordinate = chunk_file(store, "samples/linf", "epsilon", 0)
    coordinate.unlink()
    assert messages(tmp_path) == [
        "error: samples/linf/epsilon: its size or coordinates are not what the journal says"
    ]


def test_verify_needs_a_cube(tmp_path: Path) -> None:
    for function in (verify, status):
        with pytest.raises(MissingInputError):
            function(tmp_path)


def test_status(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    for shard in (0, 1):
        write_random(store, "first", "apgd-ce", shard)
    write_random(store, "first", "square", 1)
    store.journal.begin(Task("first", "linf", "square", 1))
    store.fail_column("second", "linf", "apgd-ce", 0, "diverged")
    for shard in (0, 1):
        store.skip_column("second", "linf", "square", shard, "no gradients")
    store.write_clean("second", 0, np.zeros(1000), np.zeros((1000, 3)), identity="i")
    store.fail_clean("first", 1, "out of memory")

    def rows() -> list[tuple[object, ...]]:
        return [
            (r.model, r.attack, r.status, r.pending, r.ok, r.failed, r.skipped, r.interrupted, r.reason)
            for r in status(tmp_path)
        ]

    expected = [
        ("first", "", "failed", 1, 0, 1, 0, 0, "out of memory"),
        ("first", "apgd-ce", "ok", 0, 2, 0, 0, 0, ""),
        ("first", "square", "pending", 2, 0, 0, 0, 1, ""),
        ("second", "", "pending", 1, 1, 0, 0, 0, ""),
        ("second", "apgd-ce", "failed", 1, 0, 1, 0, 0, "diverged"),
        ("second", "square", "skipped", 0, 0, 0, 2, 0, "no gradients"),
    ]
    assert rows() == expected  # everything in the store, as no study has noted what it wants
    norm = NormSelection(
        ("square", "apgd-ce"), tuple(store.epsilons("linf")), {"first": {"apgd-ce": "other"}}
    )
    store.select(Selection(("first",), 1000, {"linf": norm}))
    assert rows() == [
        ("first", "", "pending", 1, 0, 0, 0, 0, ""),
        ("first", "square", "pending", 1, 0, 0, 0, 0, ""),
        ("first", "apgd-ce", "pending", 1, 0, 0, 0, 0, ""),
    ]


def test_large_cube_is_aggregated_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 models x 6 attacks x 9 levels x 10,000 samples."""
    models = tuple(f"model {i}" for i in range(20))
    attacks = tuple(f"attack {i}" for i in range(6))
    store = build_store(tmp_path, models=models, attacks=attacks, samples=10_000)
    store.ensure_norm("linf", [], [(k / 255 + 1e-3, f"{k}") for k in range(6)])
    column = random_column(store, "linf", 1000)
    monotone = np.where(np.arange(9) < np.arange(1000)[:, None] % 10, 5, 2).astype(np.uint8)
    column = Column(column.distance, column.searched, column.forwards, column.backwards, monotone)
    records = {}
    for attack in attacks:
        for shard in range(10):
            records[attack, shard] = store.write_column(
                models[0], "linf", attack, shard, column, identity="i", settings={}
            )
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)  # not what is measured
    for position, model in enumerate(models[1:], 1):
        for name in ("distance", "searched", "forwards", "backwards", "cell"):
            first = store.path / "samples/linf" / name / "c" / "0"
            shutil.copytree(first, first.with_name(str(position)))
        for attack in attacks:
            for shard in range(10):
                store.journal.commit(Task(model, "linf", attack, shard), records[attack, shard])
    written = time.monotonic()
    rebuild(store, whole(store))
    rebuilt = time.monotonic()
    linf = open_cube(tmp_path)["linf"].to_dataset().load()
    print(f"rebuilt in {rebuilt - written:.1f} s")
    assert (linf.correct.isel(attack=slice(1, None)).sum("class") > 0).any()
    assert (linf.status == 1).all()
    assert rebuilt - written < 30
