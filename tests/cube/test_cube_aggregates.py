"""A cube built by hand in which everything occurs, every published number against plain numpy."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from cube_builder import add_samples, build_store, chunk_file, write_random

from metaeval.cube.aggregate import DAMAGED, rebuild
from metaeval.cube.counts import overall_accuracy
from metaeval.cube.journal import Task
from metaeval.cube.layout import STATUS
from metaeval.cube.opening import open_cube
from metaeval.cube.selection import NormSelection, Selection
from metaeval.cube.store import Column, CubeStore
from metaeval.errors import UsageError
from metaeval.hashing import hash_samples
from metaeval.outcomes import Cell, broken, snap

SAMPLES = 2300
CLASSES = ["cat", "dog", "Ørn", "never"]  # of the last there is no sample
LEVELS = [
    (8 / 255, "8/255"),
    (0.0, "0"),
    (0.031, "0.031"),
    (1 / 255, "1/255"),
    (0.5, "1/2"),
]  # as they arrived
CHOSEN = [8 / 255, 0.0, 0.031, 1 / 255]  # the study no longer asks for 1/2
SORTED = np.sort(CHOSEN)
ATTACKS = ["apgd-ce", "fab", "square"]
MODELS = [
    "whole",
    "failed column",
    "skipped column",
    "missing shard",
    "misclassified class",
    "all skipped",
    "untouched",
]

Real = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Truth:
    """What was put in: by (model, attack) distances, and cells over the sorted epsilons, 0 if not stored."""

    labels: npt.NDArray[np.int64]
    predictions: dict[str, npt.NDArray[np.int64]]
    distances: dict[tuple[str, str], Real]
    cells: dict[tuple[str, str], npt.NDArray[np.uint8]]
    forwards: dict[tuple[str, str], int]


def rounding_distances(rng: np.random.Generator) -> Real:
    """Return float64 norms of float32 perturbations of 8/255: practically all differ from 8/255 a little."""
    x = rng.integers(0, 248, (300, 12)).astype(np.float32) / np.float32(255)
    adversarial = x + np.float32(8 / 255)
    return np.abs(adversarial.astype(np.float64) - x.astype(np.float64)).max(axis=1)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    directory = tmp_path_factory.mktemp("by-hand")
    rng = np.random.default_rng(7)
    labels = rng.choice(3, SAMPLES, p=[0.85, 0.13, 0.02]).astype(np.int64)
    store = CubeStore.open_or_create(directory)
    hashes = hash_samples(rng.random((SAMPLES, 4), dtype=np.float32))
    store.ensure_samples([f"{i}.png" for i in range(SAMPLES)], hashes, labels, CLASSES, 4)
    store.ensure_models([*MODELS, "of an earlier study"])
    store.ensure_norm("linf", [*ATTACKS, "removed"], LEVELS)
    radii = store.epsilons("linf")
    truth = Truth(labels, {}, {}, {}, {})
    raw = rounding_distances(rng)
    assert (raw != 8 / 255).mean() > 0.5
    assert (raw > 8 / 255).any()
    for model in MODELS:
        wrong = rng.random(SAMPLES) < 0.1
        if model == "misclassified class":
            wrong |= labels == 1
        truth.predictions[model] = np.where(wrong, (labels + 1) % 3, labels)
        for shard in range(store.shards()):
            rows = store.rows(shard)
            if (model, shard) != ("missing shard", 1) and model != "untouched":
                logits = np.eye(4, dtype=np.float32)[truth.predictions[model][rows]]
                store.write_clean(model, shard, truth.predictions[model][rows], logits, identity=model)
        for attack in ATTACKS:
            distance = rng.choice([1e-4, 2 / 255, 0.0311, 0.04, np.inf], SAMPLES)
            exact = rng.permutation(SAMPLES)[: len(raw)]
            distance[exact] = raw  # found at 8/255, a rounding error off it
            distance = snap(np.where(wrong, 0.0, distance), radii, "linf")
            beaten = broken(distance[:, None], radii).astype(bool)
            missed = np.where(beaten, rng.choice([2, 3, 4], beaten.shape, p=[0.6, 0.3, 0.1]), 0)
            held = rng.choice([5, 6], beaten.shape)
            cell = np.where(wrong[:, None], 1, np.where(beaten, missed, held)).astype(np.uint8)
            forwards = rng.integers(1, 99, SAMPLES)
            stored = np.zeros((SAMPLES, len(SORTED)), dtype=np.uint8)
            truth.distances[model, attack] = distance
            truth.cells[model, attack] = stored
            truth.forwards[model, attack] = int(forwards.sum())
            for shard in range(store.shards()):
                rows = store.rows(shard)
                key = model, "linf", attack, shard
                if (model, attack, shard) == ("failed column", "fab", 1):
                    store.fail_column(*key, "OutOfMemoryError: 2 GiB", identity="i")
                    continue
                if (model, attack) == ("skipped column", "fab") or model == "all skipped":
                    store.skip_column(*key, "no gradients", identity="i")
                    continue
                if (model, attack, shard) == ("missing shard", "square", 2) or model == "untouched":
                    continue
                store.write_column(
                    *key,
                    Column(
                        distance[rows],
                        np.zeros(len(distance[rows])),
                        forwards[rows],
                        2 * forwards[rows],
                        cell[rows],
                    ),
                    identity=f"{model} {attack}",
                    settings={"queries": 500} if attack == "square" else {},
                    reduced=["queries 500 (standard 5000)"] if attack == "square" else [],
                    seconds=2.5,
                    verification=10,
                    flags={"zero_gradient": shard / 10} if attack == "apgd-ce" else {},
                )
                stored[rows] = cell[rows][:, store.levels("linf", SORTED)]
        write_random_row(store, model, rng)
    rebuild(store, Selection(tuple(MODELS), SAMPLES, {"linf": NormSelection(tuple(ATTACKS), tuple(CHOSEN))}))
    return directory, truth


def write_random_row(store: CubeStore, model: str, rng: np.random.Generator) -> None:
    """Write what the study no longer asks for: it must not be in any aggregate."""
    robust = np.full((1000, len(LEVELS)), Cell.ROBUST, dtype=np.uint8)
    column = Column(
        np.full(1000, np.inf), np.zeros(1000), rng.integers(1, 9, 1000), np.zeros(1000, np.int64), robust
    )
    store.write_column(model, "linf", "removed", 0, column, identity="old", settings={})
    store.write_column("of an earlier study", "linf", "fab", 0, column, identity="old", settings={})


def members_of(model: str) -> list[str]:
    return {"skipped column": ["apgd-ce", "square"], "all skipped": []}.get(model, ATTACKS)


def expected_cells(truth: Truth, model: str, attack: str) -> npt.NDArray[np.uint8]:
    """Return a row's cells, the worst case by the plainest means: pending first, then broken, inferred."""
    if attack != "worst-case":
        return truth.cells[model, attack]
    columns = [truth.cells[model, member] for member in members_of(model)]
    if not columns:
        return np.zeros((SAMPLES, len(SORTED)), dtype=np.uint8)
    worst = np.zeros_like(columns[0])
    for i in range(SAMPLES):
        for level in range(len(SORTED)):
            states = {int(column[i, level]) for column in columns}
            order = [0, 1, 2, 3, 4, 6, 5]
            worst[i, level] = next(state for state in order if state in states)
    return worst


def test_linf(built: tuple[Path, Truth]) -> None:
    directory, truth = built
    linf = open_cube(directory)["linf"].to_dataset().load()
    assert linf.model.values.tolist() == MODELS
    assert linf.attack.values.tolist() == ["worst-case", *ATTACKS]
    assert linf["class"].values.tolist() == CLASSES
    assert linf.epsilon.values.tolist() == [0.0, 1 / 255, 0.031, 8 / 255]
    assert linf.epsilon_label.values.tolist() == ["0", "1/255", "0.031", "8/255"]
    assert linf.total.values.tolist() == [(truth.labels == c).sum() for c in range(4)]
    assert linf.total.values[3] == 0
    published = 0
    for model in MODELS:
        for attack in ["worst-case", *ATTACKS]:
            row = linf.sel(model=model, attack=attack)
            cells = expected_cells(truth, model, attack)
            done = (cells > 0).all(axis=1)
            for class_ in range(4):
                mine = truth.labels == class_
                cut = row.isel({"class": class_})
                assert cut.evaluated == done[mine].sum()
                correct = (cells[mine] >= 5).sum(axis=0)
                inferred = (cells[mine] == 6).sum(axis=0)
                if done[mine].all():
                    assert cut.correct.values.tolist() == correct.tolist()
                    assert cut.inferred.values.tolist() == inferred.tolist()
                    if mine.any():
                        assert cut.robust_accuracy.values.tolist() == (correct / mine.sum()).tolist()
                        published += 1
                    else:
                        assert np.isnan(cut.robust_accuracy).all()
                else:
                    assert (cut.correct == -1).all()
                    assert (cut.inferred == -1).all()
                    assert np.isnan(cut.robust_accuracy).all()
            overruled = (cells == 4).sum(axis=0) if done.all() else np.full(len(SORTED), -1)
            assert row.overruled.values.tolist() == overruled.tolist()
    # Complete columns, and the classes of an incomplete one that lie wholly in its finished part: none here.
    assert published == 3 * (2 * 4 + 2 + 3 + 2)


def test_status_reason_members(built: tuple[Path, Truth]) -> None:
    directory, _ = built
    linf = open_cube(directory)["linf"].to_dataset().load()
    names = {code: name for name, code in STATUS.items()}
    expected = {
        "whole": ("ok", "ok", "ok", "ok"),
        "failed column": ("failed", "ok", "failed", "ok"),
        "skipped column": ("ok", "ok", "skipped", "ok"),
        "missing shard": ("pending", "ok", "ok", "pending"),
        "misclassified class": ("ok", "ok", "ok", "ok"),
        "all skipped": ("skipped", "skipped", "skipped", "skipped"),
        "untouched": ("pending", "pending", "pending", "pending"),
    }
    for model in MODELS:
        row = linf.sel(model=model)
        assert tuple(names[int(code)] for code in row.status.values) == expected[model]
        assert row.members.values.tolist() == [False, *(attack in members_of(model) for attack in ATTACKS)]
    assert linf.status.attrs["flag_meanings"] == "pending ok failed skipped"
    reasons = linf.reason.sel
    assert reasons(model="failed column", attack="fab") == "OutOfMemoryError: 2 GiB"
    assert reasons(model="failed column", attack="worst-case") == "fab: OutOfMemoryError: 2 GiB"
    assert reasons(model="skipped column", attack="fab") == "no gradients"
    assert reasons(model="skipped column", attack="worst-case") == ""
    assert reasons(model="missing shard", attack="worst-case") == "square"
    assert (linf.reason.sel(model="whole") == "").all()


def test_no_failed_or_missing_column_inflates_a_worst_case(built: tuple[Path, Truth]) -> None:
    linf = open_cube(built[0])["linf"].to_dataset().load()
    filled = linf.isel({"class": slice(0, 3)})
    for model in ("failed column", "missing shard", "all skipped", "untouched"):
        assert np.isnan(filled.robust_accuracy.sel(model=model, attack="worst-case")).all()
    worst = filled.robust_accuracy.sel(attack="worst-case")
    for attack in ATTACKS:
        member = filled.robust_accuracy.sel(attack=attack).where(filled.members.sel(attack=attack))
        assert not (worst > member).any()
    assert (linf.robust_accuracy.sel(model="misclassified class", **{"class": "dog"}) == 0).all()


def test_rounding_does_not_miss_8_255(built: tuple[Path, Truth]) -> None:
    directory, truth = built
    tree = open_cube(directory)
    sample = tree["samples/linf"].to_dataset().load()
    linf = tree["linf"].to_dataset().load()
    for attack in ATTACKS:
        column = sample.sel(model="whole", attack=attack)
        distance = column.distance.values
        assert distance.tolist() == truth.distances["whole", attack].tolist()
        assert (distance == 8 / 255).sum() > 200  # those that rounding had put beside it
        # At every level what the cells say is what the distances say, with the one comparison.
        for level, epsilon in enumerate(sample.epsilon.values):
            said = np.isin(column.cell.values[:, level], [1, 2, 3, 4])
            assert np.array_equal(said, broken(distance, epsilon) == 1)
        row = linf.sel(model="whole", attack=attack)
        for epsilon in SORTED:
            survivors = int((broken(distance, epsilon) == 0).sum())
            assert row.correct.sel(epsilon=epsilon).sum() == survivors
        gap = row.correct.sel(epsilon=0.031).sum() - row.correct.sel(epsilon=8 / 255).sum()
        assert gap == ((distance > 0.031) & (distance <= 8 / 255)).sum()


def test_epsilon_zero_is_the_clean_pass(built: tuple[Path, Truth]) -> None:
    tree = open_cube(built[0])
    at_zero = tree["linf"].to_dataset().sel(epsilon=0.0, model="whole", attack="worst-case")
    clean = tree["clean"].to_dataset().sel(model="whole")
    assert at_zero.correct.values.tolist() == clean.correct.values.tolist()


def test_clean(built: tuple[Path, Truth]) -> None:
    directory, truth = built
    clean = open_cube(directory)["clean"].to_dataset().load()
    assert clean.total.values.tolist() == [(truth.labels == c).sum() for c in range(4)]
    for model in MODELS:
        right = truth.predictions[model] == truth.labels
        row = clean.sel(model=model)
        known = model not in ("missing shard", "untouched")
        for class_ in range(3):
            mine = truth.labels == class_
            assert row.correct[class_] == (right[mine].sum() if known else -1)
            accuracy = float(row.accuracy[class_])
            assert accuracy == right[mine].mean() if known else np.isnan(accuracy)
        assert np.isnan(row.accuracy[3])
        overall = overall_accuracy(row.correct, clean.total)
        assert overall == right.mean() if known else np.isnan(overall)
        if known:
            assert overall != np.nanmean(row.accuracy)


def test_cost(built: tuple[Path, Truth]) -> None:
    directory, truth = built
    cost = open_cube(directory)["cost"].to_dataset().load().sel(norm="linf")
    linf = open_cube(directory)["linf"].to_dataset().load()
    assert cost.attack.values.tolist() == ATTACKS
    assert cost.stage.values.tolist() == ["attack", "verification"]
    for model in MODELS:
        for attack in ATTACKS:
            row = cost.sel(model=model, attack=attack)
            if linf.status.sel(model=model, attack=attack) == STATUS["ok"]:
                forwards = truth.forwards[model, attack]
                assert row.forwards.values.tolist() == [forwards, 30]
                assert row.backwards.values.tolist() == [2 * forwards, 0]
                assert row.seconds[0] == 7.5
                assert np.isnan(row.seconds[1])  # not measured
            else:
                assert (row.forwards == -1).all()
                assert (row.backwards == -1).all()
                assert np.isnan(row.seconds).all()


def test_flags_settings_reduced(built: tuple[Path, Truth]) -> None:
    linf = open_cube(built[0])["linf"].to_dataset().load()
    assert linf.flag.values.tolist() == ["zero_gradient"]
    flags = linf.flags.sel(flag="zero_gradient")
    assert flags.sel(model="whole").values[1] == 0.2
    assert np.isnan(flags.sel(model="whole").values[[0, 2, 3]]).all()
    assert linf.settings.values.tolist() == ["", "{}", "{}", '{"queries": 500}']
    assert linf.reduced.values.tolist() == ["", "", "", "queries 500 (standard 5000)"]


def test_every_state_of_a_cell_occurs(built: tuple[Path, Truth]) -> None:
    cell = open_cube(built[0])["samples/linf"]["cell"]
    assert set(np.unique(cell.values)) == set(range(7))
    assert cell.attrs["flag_values"] == list(range(7))
    assert cell.attrs["flag_meanings"].split()[:3] == ["pending", "misclassified", "broken"]


def select(store: CubeStore, **changes: object) -> Selection:
    norm = NormSelection(tuple(store.attacks("linf")), tuple(store.epsilons("linf")))
    fields = {"models": tuple(store.models), "samples": len(store.sample_hashes), "norms": {"linf": norm}}
    return Selection(**{**fields, **changes})  # type: ignore[arg-type]


def fill(store: CubeStore) -> None:
    for seed, (model, attack) in enumerate(itertools.product(store.models, store.attacks("linf"))):
        for shard in range(store.shards()):
            write_random(store, model, attack, shard, seed=10 * seed + shard)


def linf_of(store: CubeStore) -> xr.Dataset:
    return open_cube(store.directory)["linf"].to_dataset().load()


@pytest.mark.parametrize("name", ["distance", "cell"])
def test_damage_is_found_by_rebuilding(tmp_path: Path, name: str) -> None:
    store = build_store(tmp_path)
    fill(store)
    rebuild(store, select(store))
    assert not np.isnan(linf_of(store).robust_accuracy).any()
    file = chunk_file(store, "samples/linf", name, 1, 1, 1, *((0,) if name == "cell" else ()))
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
    rebuild(store, select(store))
    linf = linf_of(store)
    unknown = np.isnan(linf.robust_accuracy)
    assert unknown.sel(model="second", attack=["worst-case", "square"]).all()
    assert unknown.sum() == 2 * 3 * 3
    assert linf.reason.sel(model="second", attack="square") == DAMAGED
    assert linf.status.sel(model="second", attack="square") == STATUS["pending"]
    assert store.record("second", "linf", "square", 1) is None  # the next run computes it again
    write_random(store, "second", "square", 1)
    rebuild(store, select(store))
    assert not np.isnan(linf_of(store).robust_accuracy).any()


def test_only_the_wanted_identities_count(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    fill(store)
    store.write_clean("first", 0, np.zeros(1000), np.zeros((1000, 3)), identity="weights")
    store.write_clean("first", 1, np.zeros(200), np.zeros((200, 3)), identity="weights")
    identities = {"first": {"apgd-ce": "first apgd-ce", "square": "with other settings"}}
    norm = NormSelection(("apgd-ce", "square"), tuple(store.epsilons("linf")), identities)
    rebuild(store, select(store, norms={"linf": norm}, clean_identities={"first": "weights"}))
    linf = linf_of(store)
    known = ~np.isnan(linf.robust_accuracy)
    assert known.sel(model="first", attack="apgd-ce").all()
    assert known.sum() == 9
    assert (linf.status == STATUS["ok"]).sum() == 1
    clean = open_cube(tmp_path)["clean"]
    assert clean["correct"].values.tolist() == [[400, 0, 0], [-1, -1, -1]]
    # A failure of the wanted column counts, one of another column does not.
    store.fail_column("first", "linf", "square", 0, "of old settings", identity="first square")
    store.fail_column("second", "linf", "square", 0, "the model diverged")
    rebuild(store, select(store, norms={"linf": norm}))
    assert linf_of(store).status.sel(attack="square").values.tolist() == [STATUS["pending"], STATUS["failed"]]


def test_shards_of_different_identities_are_no_column(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    fill(store)
    column = store.read_column("first", "linf", "square", 1, "first square")
    assert column is not None
    store.write_column("first", "linf", "square", 1, column.column, identity="changed", settings={})
    rebuild(store, select(store))
    linf = linf_of(store).sel(model="first")
    assert np.isnan(linf.robust_accuracy.sel(attack=["worst-case", "square"])).all()
    assert "different settings" in str(linf.reason.sel(attack="square").values)
    assert store.record("first", "linf", "square", 1) is not None


def test_fewer_samples_than_the_store_has(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    fill(store)
    rebuild(store, select(store, samples=1100))
    linf = linf_of(store)
    assert linf.total.sum() == 1100
    assert (linf.evaluated.sum("class") == 1100).all()
    column = store.read_column("first", "linf", "square", 1, "first square")
    whole = store.read_column("first", "linf", "square", 0, "first square")
    assert column is not None
    assert whole is not None
    cells = np.concatenate([whole.column.cell, column.column.cell[:100]])
    assert (
        linf.correct.sel(model="first", attack="square").sum("class").values.tolist()
        == (cells >= 5).sum(0).tolist()
    )
    # More samples, of which some are not computed: only finished classes are published, here none.
    add_samples(store, 1250)
    rebuild(store, select(store))
    assert (linf_of(store).correct == -1).all()
    assert (linf_of(store).evaluated.sum("class") == 1200).all()


def test_a_new_epsilon_is_pending_until_computed(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    fill(store)
    rebuild(store, select(store))
    before = linf_of(store)
    store.ensure_norm("linf", [], [(0.031, "0.031")])
    rebuild(store, select(store))
    assert (linf_of(store).correct == -1).all()
    assert (linf_of(store).status == STATUS["pending"]).all()
    rebuild(
        store,
        select(store, norms={"linf": NormSelection(("apgd-ce", "square"), tuple(before.epsilon.values))}),
    )
    xr.testing.assert_equal(linf_of(store), before)


def test_norms_that_left_the_study_leave_the_aggregates(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    store.ensure_norm("l2", ["fab"], [(0.5, "0.5")])
    rebuild(store, select(store, norms={n: NormSelection(("fab",), ()) for n in ("l2",)}))
    assert set(open_cube(tmp_path).children) == {"clean", "cost", "l2", "samples"}
    rebuild(store, select(store))
    assert set(open_cube(tmp_path).children) == {"clean", "cost", "linf", "samples"}
    assert "l2" in open_cube(tmp_path)["samples"].children


def test_selection_is_kept_and_checked(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    selection = select(store, clean_identities={"first": "ä"})
    rebuild(store, selection)
    assert store.selection() == selection
    with pytest.raises(
        UsageError, match=r"model 'third', attack 'fab' in linf, epsilon 0\.25 in linf, norm 'l2'"
    ):
        rebuild(
            store,
            Selection(
                ("first", "third"),
                10,
                {"linf": NormSelection(("fab",), (0.25,)), "l2": NormSelection((), ())},
            ),
        )


def test_withdrawn_record_is_open(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    fill(store)
    chunk_file(store, "samples/linf", "searched", 0, 0, 0).unlink()
    rebuild(store, select(store))
    assert store.journal.is_open(Task("first", "linf", "apgd-ce", 0))
