"""What is on disk is what the layout table says, and plain xarray opens it without a warning."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from cube_builder import add_samples, build_store, write_random

from metaeval.cube.aggregate import rebuild
from metaeval.cube.layout import GROUPS, SHARD, chunk_shape
from metaeval.cube.opening import cube_path, open_cube
from metaeval.cube.selection import NormSelection, Selection
from metaeval.cube.store import CubeStore
from metaeval.errors import MissingInputError

WRITTEN = ["models", "clean", "linf", "l2", "cost", "samples/clean", "samples/linf", "samples/l2"]
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CubeStore:
    store = build_store(tmp_path_factory.mktemp("layout"))
    store.ensure_norm("l2", ["fab"], [(0.5, "0.5"), (0.25, "1/4")])
    write_random(store, "first", "apgd-ce", 0)
    write_random(store, "first", "fab", 0, norm="l2")
    store.write_clean("first", 0, np.zeros(1000), np.zeros((1000, 3)), identity="i")
    store.write_models(
        ["first", "second"],
        {
            "family": ["cnn", "mlp"],
            "width": [16, None],
            "parameters": [100, 2000],
            "learning_rate": [0.1, 1],
            "optimizer": ["sgd", None],
            "batch_norm": [True, False],
            "mixed": ["a", 1],
            "empty": [None, None],
        },
    )
    rebuild(store, whole(store))
    return store


def whole(store: CubeStore) -> Selection:
    norms = {
        norm: NormSelection(tuple(store.attacks(norm)), tuple(store.epsilons(norm))) for norm in store.norms
    }
    return Selection(tuple(store.models), len(store.sample_hashes), norms)


def without_stages(group: str) -> set[str]:
    """Return the arrays of a group where no attack is a cascade."""
    staged = set() if group == "cost" else {"stage", "stage_accuracy", "stage_seconds", "stage_distance"}
    return set(GROUPS[group]) - staged


@pytest.mark.parametrize("group", WRITTEN)
def test_plain_open_zarr_gives_no_warning(store: CubeStore, group: str) -> None:
    with xr.open_zarr(store.path, group=group) as dataset:
        loaded = dataset.load()
    for dimension in loaded.sizes:
        if group != "models":
            assert dimension in loaded.coords, "coordinates are repeated in every group"
    for name, variable in loaded.variables.items():
        if group == "models":
            continue
        described = GROUPS[group][str(name)]
        assert variable.dims == described.dims
        if described.dtype != "string":
            assert variable.dtype == described.dtype
        assert (name in loaded.coords) == described.coordinate
        for key, value in described.attributes.items():
            assert variable.attrs[key] == value
        assert "_FillValue" not in {**variable.attrs, **variable.encoding} or variable.dtype.kind in "fOTU"
    if group != "models":
        assert set(loaded.variables) == without_stages(group)


def test_arrays_are_as_the_table_says(store: CubeStore) -> None:
    root = zarr.open_group(store.path, mode="r", use_consolidated=False)
    for group in WRITTEN:
        arrays = dict(root[group].arrays())
        sizes = {
            d: n for a in arrays.values() for d, n in zip(a.metadata.dimension_names, a.shape, strict=True)
        }
        if group != "models":
            assert set(arrays) == without_stages(group)
        for name, array in arrays.items():
            content = json.loads((store.path / group / name / "zarr.json").read_bytes())
            assert content["zarr_format"] == 3
            assert [codec["name"] for codec in content["codecs"]][-1] == "zstd"
            assert content["codecs"][-1]["configuration"] == {"level": 3, "checksum": True}
            assert not any(codec["name"].startswith("sharding") for codec in content["codecs"])
            assert "_FillValue" not in content["attributes"]
            assert all(
                isinstance(value, str | int | float | list) for value in content["attributes"].values()
            )
            if group == "models":
                continue
            described = GROUPS[group][name]
            assert tuple(content["dimension_names"]) == described.dims
            assert content["data_type"] == described.dtype
            fill = array.fill_value
            assert fill == described.fill or (math.isnan(fill) and math.isnan(float(described.fill)))
            assert array.chunks == chunk_shape(described, sizes, growing=group.startswith("samples/"))


def test_chunks_of_sample_arrays_are_one_task(store: CubeStore) -> None:
    root = zarr.open_group(store.path, mode="r", use_consolidated=False)
    for name in ("distance", "searched", "forwards", "backwards"):
        assert root[f"samples/linf/{name}"].chunks == (1, 1, SHARD)
    assert root["samples/linf/cell"].chunks == (1, 1, SHARD, 64)
    assert root["samples/clean/logits"].chunks == (1, SHARD, 3)


def test_no_group_with_dimensions_has_a_child(store: CubeStore) -> None:
    for node in open_cube(store.directory).subtree:
        assert not (node.children and node.to_dataset(inherit=False).sizes), node.path


def test_open_cube_takes_the_cube_or_its_folder(store: CubeStore) -> None:
    a, b = open_cube(store.directory), open_cube(str(store.path))
    assert a.equals(b)
    assert {node.path.strip("/") for node in a.subtree} == {*WRITTEN, "samples", ""}
    assert isinstance(a["linf"]["robust_accuracy"].variable._data, object)
    assert a["linf"]["robust_accuracy"].chunks is None  # no dask
    with pytest.raises(MissingInputError, match="no cube at"):
        open_cube(store.directory / "elsewhere")
    with pytest.raises(MissingInputError):
        cube_path(store.directory / "journal")


def test_models_columns_take_the_type_of_their_values(store: CubeStore) -> None:
    models = open_cube(store.directory)["models"].to_dataset().load()
    assert models.family.values.tolist() == ["cnn", "mlp"]
    assert models.width.values[0] == 16
    assert np.isnan(models.width.values[1])
    assert models.parameters.dtype == np.int64
    assert models.learning_rate.values.tolist() == [0.1, 1.0]
    assert models.optimizer.values.tolist() == ["sgd", ""]
    assert models.batch_norm.values.tolist() == [1, 0]
    assert models.mixed.values.tolist() == ["a", "1"]
    assert models.empty.values.tolist() == ["", ""]


def test_models_are_replaced_whole(tmp_path: Path) -> None:
    store = build_store(tmp_path)
    store.write_models(["first", "second"], {"width": [1, 2]})
    store.write_models(["second"], {"depth": [3]})
    models = open_cube(tmp_path)["models"]
    assert models["model"].values.tolist() == ["second"]
    assert set(models.data_vars) == {"depth"}
    with pytest.raises(ValueError, match="2 entries for 1 models"):
        store.write_models(["second"], {"depth": [3, 4]})


def test_consolidated_metadata_is_never_stale(tmp_path: Path) -> None:
    store = build_store(tmp_path)

    def consolidated() -> bool:
        return json.loads((store.path / "zarr.json").read_bytes()).get("consolidated_metadata") is not None

    changes = [
        lambda: store.ensure_models(["third"]),
        lambda: store.ensure_norm("linf", ["fab"], [(0.031, "0.031")]),
        lambda: add_samples(store, 2100),
        lambda: store.write_models(["third"], {"width": [1]}),
        lambda: store.ensure_norm("l1", ["fab"], [(10.0, "10")]),
    ]
    for change in changes:
        rebuild(store, whole(store))
        assert consolidated()
        store.ensure_models(["first"])  # changes nothing
        CubeStore.open_or_create(tmp_path)
        assert consolidated()
        change()
        assert not consolidated()
    rebuild(store, whole(store))
    for group in ("samples/linf", "samples/l1"):
        with xr.open_zarr(store.path, group=group) as dataset:
            assert dataset.sizes["model"] == 3
            assert dataset.sizes["sample"] == 2100
    with xr.open_zarr(store.path, group="linf") as dataset:
        assert dataset.sizes["attack"] == 4


def test_an_interrupted_replacement_leaves_the_old_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metaeval.cube import arrays

    store = build_store(tmp_path)
    rebuild(store, whole(store))
    before = open_cube(tmp_path)["linf"].to_dataset().load()
    original, calls = arrays.assign, 0

    def killed(array: object, values: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        original(array, values)

    write_random(store, "first", "apgd-ce", 0)
    monkeypatch.setattr(arrays, "assign", killed)
    with pytest.raises(KeyboardInterrupt):
        rebuild(store, whole(store))
    monkeypatch.setattr(arrays, "assign", original)
    xr.testing.assert_identical(open_cube(tmp_path)["linf"].to_dataset().load(), before)
    rebuild(store, whole(store))
    assert not open_cube(tmp_path)["linf"].to_dataset().load().equals(before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cube.zarr", "journal"]  # no litter


@pytest.mark.parametrize("module", ["opening", "status", "layout", "journal", "selection", "locks"])
def test_light_modules_import_no_torch(module: str) -> None:
    code = f"import sys, metaeval.cube.{module}; print(*sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not loaded & {"torch", "scipy", "pandas", "altair"}
    if module in ("opening", "layout", "journal", "selection", "locks"):
        assert not loaded & {"xarray", "zarr"}
