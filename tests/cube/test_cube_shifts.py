"""Shifted test sets in the store: growth, records, aggregates against a twin that counts by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from cube_builder import build_store
from sklearn.metrics import log_loss

from metaeval.cube import growth
from metaeval.cube.aggregate import rebuild
from metaeval.cube.layout import SHIFT, STATUS
from metaeval.cube.opening import open_cube
from metaeval.cube.selection import Selection, ShiftSelection
from metaeval.cube.shift_axes import ShiftAxes
from metaeval.cube.shift_store import (
    ensure_shifts,
    fail_shift_task,
    read_shift_task,
    shift_samples,
    shift_task,
    write_shift_task,
)
from metaeval.cube.status import status
from metaeval.cube.store import CubeStore
from metaeval.cube.verify import verify
from metaeval.errors import UsageError
from metaeval.outcomes import NO_CLASS

SAMPLES = 1200


def paired(samples: int, severities: list[int]) -> ShiftAxes:
    """Return the axes of a corruption of the cube's first samples."""
    return ShiftAxes(
        "corruption",
        "",
        [f"test/{i:05d}.png" for i in range(samples)],
        [f"{i:032x}" for i in range(samples)],
        [i % 3 for i in range(samples)],
        list(range(samples)),
        severities,
    )


def other_set(samples: int = 50) -> ShiftAxes:
    """Return the axes of a test set of its own, in which a class has no samples."""
    return ShiftAxes(
        "test set",
        "",
        [f"new/{i}" for i in range(samples)],
        [f"{i + 10**6:032x}" for i in range(samples)],
        [2 * (i % 2) for i in range(samples)],
        [-1] * samples,
        [0],
    )


def answers(severities: int, rows: int, seed: int) -> dict[str, np.ndarray]:
    logits = np.random.default_rng(seed).normal(0, 3, (severities, rows, 3)).astype(np.float32)
    return {"prediction": logits.argmax(axis=2), "logits": logits}


def write(store: CubeStore, model: str, name: str, *, seed: int = 0, identity: str = "i") -> np.ndarray:
    """Write a whole shift at random and return its logits (severity, sample, logit)."""
    axes = store.axes.shifts[name]
    parts = []
    for shard in range(store.shards(len(axes.ids))):
        rows = store.rows(shard, len(axes.ids))
        values = answers(len(axes.severities), rows.stop - rows.start, seed + shard)
        write_shift_task(
            store, shift_task(model, name, shard), values, identity=identity, settings={"seed": 0}
        )
        parts.append(values["logits"])
    return np.concatenate(parts, axis=1)


def selection(store: CubeStore, samples: int | None = None) -> Selection:
    shifts = {
        name: ShiftSelection(tuple(axes.severities), min(len(axes.ids), samples or len(axes.ids)))
        for name, axes in store.axes.shifts.items()
    }
    return Selection(tuple(store.models), SAMPLES, shifts=shifts)


@pytest.fixture
def store(tmp_path: Path) -> CubeStore:
    store = build_store(tmp_path, samples=SAMPLES)
    ensure_shifts(store, {"fog": paired(SAMPLES, [3, 1])})
    ensure_shifts(store, {"new.1": other_set()})
    return store


def brute_force(logits: np.ndarray, labels: np.ndarray, k: int) -> tuple[int, int, float]:
    """Count a class one sample after the other."""
    total = correct = 0
    loss = 0.0
    for z, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if label == k:
            total += 1
            correct += z.index(max(z)) == label
            loss -= math.log(math.exp(z[label]) / sum(math.exp(v) for v in z))
    return correct, total, loss / total if total else math.nan


def test_aggregates_are_what_a_count_by_hand_gives(store: CubeStore) -> None:
    logits = {
        (m, s): write(store, m, s, seed=i)
        for i, (m, s) in enumerate([("first", "fog"), ("second", "fog"), ("first", "new.1")])
    }
    fail_shift_task(store, shift_task("second", "new.1", 0), "no such file")
    rebuild(store, selection(store))
    shifts = open_cube(store.directory)["shifts"].to_dataset().load()
    assert shifts["severity"].values.tolist() == [0, 1, 3]
    assert shifts["kind"].values.tolist() == ["corruption", "test set"]
    for (model, name), stored in logits.items():
        axes = store.axes.shifts[name]
        labels = np.array(axes.labels)
        for level, severity in enumerate(axes.severities):
            place = {"model": model, "shift": name, "severity": severity}
            for k, class_name in enumerate(store.class_names):
                correct, total, loss = brute_force(stored[level], labels, k)
                cell = shifts.sel(place, drop=True).sel({"class": class_name})
                assert int(cell["correct"]) == correct
                assert int(cell["total"]) == total
                np.testing.assert_allclose(cell["accuracy"], correct / total if total else np.nan)
                np.testing.assert_allclose(cell["log_loss"], loss, rtol=1e-12)
            # scikit-learn's log-loss of the whole set is the weighted mean of the classes'.
            z = stored[level].astype(np.float64)
            probability = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
            cells = shifts.sel(place)
            whole = np.nansum(cells["log_loss"] * cells["total"]) / len(labels)
            np.testing.assert_allclose(whole, log_loss(labels, probability, labels=[0, 1, 2]), rtol=1e-9)
    assert shifts["status"].sel(model="second").values.tolist() == [STATUS["ok"], STATUS["failed"]]
    assert shifts["reason"].sel(model="second").values.tolist() == ["", "no such file"]
    unknown = shifts["correct"].sel(model="second", shift="new.1", severity=0)
    assert unknown.values.tolist() == [-1, 0, -1]  # a class without samples has none right, and no accuracy
    assert np.isnan(shifts["accuracy"].sel(model="second", shift="new.1")).all()
    assert (shifts["total"].sel(shift="fog", severity=0) == -1).all()  # it has no such severity
    assert verify(store.directory) == []
    assert xr.open_zarr(store.path, group="samples/shifts/new.1")["clean"].values.tolist() == [-1] * 50


def test_a_class_is_known_when_all_its_samples_are(store: CubeStore) -> None:
    values = answers(1, 50, 0)
    values["prediction"][0, 49] = -1  # of class 2
    write_shift_task(store, shift_task("first", "new.1", 0), values, identity="i", settings={})
    rebuild(store, selection(store))
    cells = open_cube(store.directory)["shifts"].sel(model="first", shift="new.1", severity=0)
    assert int(cells["correct"].sel({"class": "cat"})) >= 0
    assert int(cells["correct"].sel({"class": "Ørn"})) == -1
    assert np.isnan(cells["log_loss"].sel({"class": "Ørn"}))
    assert open_cube(store.directory)["shifts"]["status"].sel(model="first", shift="new.1") == 0


def test_an_answer_without_a_class_is_an_answer(store: CubeStore) -> None:
    values = answers(1, 50, 0)
    values["prediction"][0, :50:7], values["logits"][0, :50:7] = NO_CLASS, np.nan
    write_shift_task(store, shift_task("first", "new.1", 0), values, identity="i", settings={})
    rebuild(store, selection(store))
    cells = open_cube(store.directory)["shifts"].sel(model="first", shift="new.1", severity=0)
    labels = np.array(other_set().labels)
    right = np.isfinite(values["logits"][0]).all(axis=1) & (values["logits"][0].argmax(axis=1) == labels)
    assert cells["correct"].values.tolist() == np.bincount(labels[right], minlength=3).tolist()
    assert open_cube(store.directory)["shifts"]["status"].sel(model="first", shift="new.1") == 1


def test_growth_by_severity_model_and_sample_keeps_what_is_there(store: CubeStore) -> None:
    before = write(store, "first", "fog")
    ensure_shifts(store, {"fog": paired(800, [5])})
    store.ensure_models(["third"])
    store.ensure_samples(
        [f"test/{i:05d}.png" for i in range(2100)],
        [f"{i:032x}" for i in range(2100)],
        np.arange(2100) % 3,
        store.class_names,
        3,
    )
    ensure_shifts(store, {"fog": paired(2100, [1])})
    again = CubeStore.open(store.directory)
    assert again.axes.shifts["fog"].severities == [3, 1, 5]
    assert len(again.axes.shifts["fog"].ids) == 2100
    first = read_shift_task(again, shift_task("first", "fog", 0), "i")
    assert first is not None
    assert first.record.epsilons == {3.0: 1000, 1.0: 1000}
    np.testing.assert_array_equal(first.values["logits"][:2], before[:, :1000])
    assert np.isnan(first.values["logits"][2]).all()
    assert verify(store.directory)[-1].kind == "note"
    chosen = replace(
        selection(again), shifts={"fog": ShiftSelection((1, 3), SAMPLES), "new.1": ShiftSelection((0,), 50)}
    )
    rebuild(again, chosen)
    seen = shift_samples(again, "fog")
    assert seen.severities == (1, 3)
    np.testing.assert_array_equal(seen.logits["first"], before[::-1])
    np.testing.assert_array_equal(seen.clean, np.arange(SAMPLES))
    assert list(seen.logits) == ["first"]
    assert shift_samples(again, "new.1").logits == {}
    with pytest.raises(KeyError):
        shift_samples(again, "snow")


def test_other_samples_replace_the_stored_ones(store: CubeStore) -> None:
    write(store, "first", "new.1")
    changed = replace(other_set(20), hashes=[f"{i + 5:032x}" for i in range(20)])
    ensure_shifts(store, {"new.1": changed})
    again = CubeStore.open(store.directory)
    assert again.axes.shifts["new.1"].hashes == changed.hashes
    assert read_shift_task(again, shift_task("first", "new.1", 0), "i") is None
    rebuild(again, selection(again))
    dataset = open_cube(store.directory)["shifts"].sel(shift="new.1")
    assert np.isnan(dataset["accuracy"]).all()
    assert open_cube(store.directory)["samples/shifts/new.1"].sizes["sample"] == 20


def test_growth_reads_only_what_may_have_changed(store: CubeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[object]] = []

    def holds(array: zarr.Array, values: list[object]) -> bool:
        read.append(values)
        return real(array, values)

    real = growth._holds
    monkeypatch.setattr(growth, "_holds", holds)
    opened = CubeStore.open_or_create(store.directory)
    assert [f"{i + 10**6:032x}" for i in range(50)] in read  # all is checked once
    read.clear()
    opened.ensure_models(opened.models)
    ensure_shifts(opened, {"fog": paired(SAMPLES, [3, 1]), "new.1": other_set()})
    assert read == []
    ensure_shifts(opened, {"fog": paired(SAMPLES, [3, 1, 5]), "new.1": other_set(30)})
    opened.ensure_models(["z"])
    changed = replace(other_set(), hashes=[f"{i:032x}" for i in range(50)])
    ensure_shifts(opened, {"new.1": changed})
    assert read == []  # what grows is written, whatever is there
    assert growth.differences(zarr.open_group(opened.path, mode="r"), opened.axes) == []
    group = zarr.open_group(opened.path, mode="r")["samples/shifts/new.1"]
    assert group["input_hash"][...].tolist() == changed.hashes
    assert group["model"][...].tolist()[-1] == "z"
    # Another process' growth, or damage, is found by the next opening.
    zarr.open_array(opened.path, path="samples/shifts/fog/label", mode="r+")[3] = 2
    again = CubeStore.open_or_create(store.directory)
    assert growth.differences(zarr.open_group(again.path, mode="r"), again.axes) == []


def test_attacked_copies_have_distances(store: CubeStore) -> None:
    ensure_shifts(store, {"fgsm": replace(paired(300, [0]), kind="attacked", norm="linf")})
    values = {**answers(1, 300, 0), "distance": np.linspace(0, 0.1, 300)[None]}
    task = shift_task("first", "fgsm", 0)
    write_shift_task(store, task, values, identity="i", settings={})
    stored = read_shift_task(store, task, "i")
    assert stored is not None
    np.testing.assert_array_equal(stored.values["distance"], values["distance"])
    with pytest.raises(ValueError, match="instead of distance, logits, prediction"):
        write_shift_task(store, task, answers(1, 300, 0), identity="i", settings={})
    assert "distance" not in open_cube(store.directory)["samples/shifts/fog"]
    rebuild(store, selection(store))
    assert open_cube(store.directory)["shifts"]["norm"].values.tolist() == ["", "", "linf"]
    ensure_shifts(store, {"fgsm": paired(300, [1])})  # now a corruption: nothing is left of the other
    assert "distance" not in open_cube(store.directory)["samples/shifts/fgsm"]


def test_damage_is_found_and_withdrawn(store: CubeStore) -> None:
    write(store, "first", "fog")
    rebuild(store, selection(store))
    chunk = store.path / "samples/shifts/fog/logits/c/0/1/0/0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(bytes(content))
    assert next(iter(verify(store.directory))).kind == "error"
    rebuild(store, selection(store))
    shifts = open_cube(store.directory)["shifts"]
    assert (shifts["correct"].sel(model="first", shift="fog", severity=3) == -1).sum() == 3
    assert "computes them again" in str(shifts["reason"].sel(model="first", shift="fog").item())
    rows = {(row.model, row.attack): row for row in status(store.directory) if row.norm == SHIFT}
    assert (rows["first", "fog"].pending, rows["first", "fog"].ok) == (1, 1)
    assert rows["first", "fog"].interrupted == 1
    assert rows["second", "fog"].pending == 2


def test_a_task_that_is_written_has_no_record(store: CubeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store, "first", "fog")
    monkeypatch.setattr(
        "metaeval.cube.shift_store.write_shift", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        write(store, "first", "fog", seed=3)
    again = CubeStore.open_or_create(store.directory)
    assert again.journal.is_open(shift_task("first", "fog", 0))
    assert read_shift_task(again, shift_task("first", "fog", 0), "i") is None


def test_the_wrong_values_are_refused(store: CubeStore) -> None:
    task = shift_task("first", "fog", 1)
    for values, message in [
        (answers(2, 300, 0), "300 rows for a shard of 200"),
        (answers(1, 100, 0), "1 severities instead of 2"),
        ({"prediction": np.zeros((3, 10)), "logits": np.zeros((3, 10, 3))}, "3 severities instead of 2"),
        ({"prediction": np.zeros((2, 10)), "logits": np.zeros((2, 10, 4))}, "has the shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_shift_task(store, task, values, identity="i", settings={})
    with pytest.raises(ValueError, match="kind"):
        ensure_shifts(store, {"x": replace(other_set(), kind="weather")})
    with pytest.raises(ValueError, match="not samples of the cube"):
        ensure_shifts(store, {"x": replace(other_set(), clean=[SAMPLES] * 50)})
    with pytest.raises(UsageError, match=r"severity 4 of fog, 60 samples of new\.1, shift 'snow'"):
        rebuild(
            store,
            Selection(
                ("first",),
                10,
                shifts={
                    "fog": ShiftSelection((4,), 10),
                    "new.1": ShiftSelection((0,), 60),
                    "snow": ShiftSelection((1,), 10),
                },
            ),
        )


def test_a_selection_survives_json(store: CubeStore) -> None:
    chosen = replace(
        selection(store),
        shifts={"fog": ShiftSelection((1, 3), 7, {"first": "a"}), "b": ShiftSelection((0,), 5)},
    )
    assert Selection.from_json(chosen.to_json()) == chosen
    assert chosen.identity(shift_task("first", "fog", 0)) == "a"
    assert chosen.identity(shift_task("second", "fog", 0)) == ""
    assert chosen.identity(shift_task("first", "b", 0)) is None
