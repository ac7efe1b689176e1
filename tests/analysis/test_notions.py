"""Columns of a cube and their correlations against the cube's own numbers."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from handmade_cube import handmade_cube, text
from scipy import stats

from metaeval.analysis import curves, notions
from metaeval.errors import UsageError

PARAMETERS = np.array([12, 9, 11, 10, 7, 8, 4, 6, 5, 3, 1, 2]) * 1000
NAMES = [f"m{i}" for i in range(12)]


def cube_of_many(**options: object) -> xr.DataTree:
    cube = handmade_cube(models=NAMES, samples=150, seed=1, **options)  # type: ignore[arg-type]
    group = cube["models"].to_dataset()
    group["parameters"] = ("model", PARAMETERS)
    group["family"] = ("model", text(["a", "a", "b", "b", "c", "c", "d", "d", "e", "e", "", ""]))
    cube["models"] = xr.DataTree(group)
    return cube


def test_notions_are_the_curves_numbers() -> None:
    cube = cube_of_many(reference=["2/255", "4/255"])
    found = notions.robustness(cube)
    face = curves.from_cube(cube, "linf")["accuracy"].sel(attack="worst-case")
    clean = curves.clean_from_cube(cube)["accuracy"].values
    robust = face.sel(epsilon=4 / 255).values
    np.testing.assert_allclose(found.sel(notion="linf 4/255 accuracy"), robust)
    np.testing.assert_allclose(found.sel(notion="linf 4/255 gap"), robust - clean)
    np.testing.assert_allclose(found.sel(notion="linf 4/255 relative"), robust / clean)
    assert found.sizes["notion"] == 8
    distance = cube["samples/linf"]["distance"].min("attack").values
    grid = np.array([0, 1, 2, 4]) / 255
    first = np.array([[min([e for e in grid if e >= d], default=np.inf) for d in row] for row in distance])
    np.testing.assert_allclose(found.sel(notion="linf area"), np.minimum(first, 4 / 255).mean(axis=1))
    median = np.median(first, axis=1)
    np.testing.assert_allclose(found.sel(notion="linf median"), np.where(np.isinf(median), np.nan, median))
    assert np.isinf(median).any()
    assert np.isfinite(median).any()
    with pytest.raises(UsageError, match="no attack"):
        notions.robustness(handmade_cube(norms={}, attacks=[]))


def test_measures_and_families() -> None:
    cube = cube_of_many()
    value = np.random.default_rng(2).normal(size=(11, 2, 1))
    stored = xr.Dataset(
        {"value": (("model", "measure", "scope"), value)},
        {"model": text(NAMES[:11]), "measure": text(["margin", "norm"]), "scope": text(["model"])},
    )
    cube["measures"] = xr.DataTree(stored)
    found = notions.measures(cube)
    assert {"clean accuracy", "parameters", "learning_rate", "margin", "norm"} == set(found["measure"].values)
    np.testing.assert_allclose(found.sel(measure="margin").values[:11], value[:, 0, 0])
    assert np.isnan(found.sel(measure="margin").values[11])
    assert notions.families(cube) == ["a", "a", "b", "b", "c", "c", "d", "d", "e", "e", "m10", "m11"]


def test_correlations_of_a_cube() -> None:
    cube = cube_of_many(failed={("linf", "m3", "square"): "x"})
    found = notions.correlations(cube)
    at = found.sel(measure="parameters", notion="linf 2/255 accuracy")
    robust = notions.robustness(cube).sel(notion="linf 2/255 accuracy").values
    rows = ~np.isnan(robust)
    assert rows.sum() == int(at["models"]) == 11
    assert int(at["families"]) == 7
    assert float(at["spearman"]) == pytest.approx(stats.spearmanr(PARAMETERS[rows], robust[rows])[0])
    assert float(at["lower"]) < float(at["spearman"]) < float(at["upper"])
    assert found.attrs["models_of_p"] == 11  # the model that is not complete is not permuted
    assert (
        float(found["p"].sel(measure="parameters", notion="linf 2/255 accuracy")) < 0.03
    )  # families change places as wholes
    assert np.isnan(found.sel(measure="learning_rate")["spearman"]).all()  # the same for all models
    complete = notions.correlations(cube_of_many())
    assert (
        float(complete["p"].sel(measure="parameters", notion="linf 2/255 accuracy")) < 0.03
    )  # families change places as wholes
    one = notions.correlations(handmade_cube(models=["m"]))
    assert np.isnan(one["spearman"]).all()


def test_several_columns_make_a_family() -> None:
    cube = cube_of_many()
    group = cube["models"].to_dataset()
    group["depth"] = ("model", [1, 2] * 6)
    cube["models"] = xr.DataTree(group)
    cube.attrs["study"] = '{"analysis": {"family": ["family", "depth"]}}'
    assert notions.families(cube)[:4] == ["a 1", "a 2", "b 1", "b 2"]
