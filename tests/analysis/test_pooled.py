"""Correlations pooled over families and cubes against scipy per family and the meta-analysis itself."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from handmade_cube import handmade_cube, text
from scipy import stats

from metaeval.analysis import meta, notions, pooled
from metaeval.errors import UsageError

SIZES = {"a": 6, "b": 9, "c": 5, "d": 3, "e": 12}
NOTION = "linf 2/255 accuracy"


def cube_of_families(prefix: str = "m", seed: int = 0) -> xr.DataTree:
    random = np.random.default_rng(seed)
    count = sum(SIZES.values())
    cube = handmade_cube(
        models=[f"{prefix}{i}" for i in range(count)],
        attacks=("apgd-ce",),
        samples=200,
        scale=random.uniform(0.3, 2.5, count).tolist(),
        reference=["2/255"],
        seed=seed,
    )
    table = cube["models"].to_dataset()
    table["family"] = ("model", text(np.repeat(list(SIZES), list(SIZES.values()))))
    robust = notions.robustness(cube).sel(notion=NOTION).values
    table["width"] = ("model", robust + random.normal(size=count) / 8)
    cube["models"] = xr.DataTree(table)
    return cube


def test_families_are_studies() -> None:
    cube = cube_of_families()
    found = pooled.over_families(cube, "width", NOTION)
    assert found.attrs["left_out"] == ["d"]
    width = cube["models"]["width"].values
    robust = notions.robustness(cube).sel(notion=NOTION).values
    rows = np.repeat(list(SIZES), list(SIZES.values()))
    kept = [name for name in SIZES if name != "d"]
    r = np.array([stats.spearmanr(width[rows == name], robust[rows == name])[0] for name in kept])
    np.testing.assert_allclose(found["spearman"], r)
    n = np.array([SIZES[name] for name in kept])
    variance = (1 + r**2 / 2) / (n - 3)
    expected = meta.random_effects(np.arctanh(r), variance)
    assert found.attrs["average"] == pytest.approx(np.tanh(expected.estimate[0]))
    assert found.attrs["average_lower"] == pytest.approx(np.tanh(expected.lower[0]))
    assert found.attrs["q_p"] == pytest.approx(expected.q_p)
    np.testing.assert_allclose(
        found["lower"], np.tanh(np.arctanh(r) - 1.959964 * np.sqrt(variance)), rtol=1e-6
    )
    assert float(found["weight"].sum()) == pytest.approx(100)
    assert "4 studies, 32 models" in found.attrs["sentences"][0]
    assert "prediction interval not estimable (k = 4, mean n = 8)" in found.attrs["sentences"][0]


def test_cubes_are_studies_if_they_share_no_model() -> None:
    cubes = {"one": cube_of_families("x"), "two": cube_of_families("y", 1), "three": cube_of_families("z", 2)}
    found = pooled.over_cubes(cubes, "width", NOTION, 0.9)
    assert found["study"].values.tolist() == list(cubes)
    assert found["models"].values.tolist() == [35] * 3
    z, error = [], []
    for cube in cubes.values():
        width, robust = cube["models"]["width"].values, notions.robustness(cube).sel(notion=NOTION).values
        rows = np.repeat(np.arange(len(SIZES)), list(SIZES.values()))
        left = [np.arctanh(stats.spearmanr(width[rows != g], robust[rows != g])[0]) for g in range(5)]
        z.append(np.arctanh(stats.spearmanr(width, robust)[0]))
        error.append(np.sqrt(4 / 5 * ((left - np.mean(left)) ** 2).sum()))
    expected = meta.random_effects(z, np.square(error), confidence=0.9)
    assert found.attrs["average_upper"] == pytest.approx(np.tanh(expected.upper[0]))
    with pytest.raises(UsageError, match="'one' and 'again' share the model 'x0'"):
        pooled.over_cubes({"one": cubes["one"], "again": cubes["one"]}, "width", NOTION)


def test_what_cannot_be_pooled() -> None:
    cube = cube_of_families()
    with pytest.raises(UsageError, match="did you mean 'width'"):
        pooled.over_families(cube, "widht", NOTION)
    alone = handmade_cube(models=["m"], reference=["2/255"])
    with pytest.raises(UsageError, match="not estimable: 0 of 1 studies have"):
        pooled.over_families(alone, "clean accuracy", NOTION)
