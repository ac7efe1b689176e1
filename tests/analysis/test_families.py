"""Correlations inside families against metafor's formulas by hand, scipy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats
from test_predictors_and_claims import RANDOM, STRENGTH, cube_with

from metaeval.analysis import families
from metaeval.errors import UsageError


def families_of(sizes: list[int], rho: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return two columns with a correlation inside families whose means differ much more."""
    random = np.random.default_rng(seed)
    group = [f"f{i}" for i, size in enumerate(sizes) for _ in range(size)]
    mean = np.repeat(random.normal(0, 20, len(sizes)), sizes)
    x = random.normal(size=len(group))
    y = rho * x + np.sqrt(1 - rho**2) * random.normal(size=len(group))
    return x + mean, y - mean, group


def test_average_and_interval_by_hand() -> None:
    x, y, group = families_of([8, 12, 20, 30, 9, 15], 0.6)
    found = families.combine(x, y, group)
    names = list(dict.fromkeys(group))
    rows = [np.array(group) == name for name in names]
    r = np.array([stats.spearmanr(x[at], y[at]).statistic for at in rows])
    n = np.array([at.sum() for at in rows])
    z, v = np.arctanh(r), (1 + r**2 / 2) / (n - 3)

    def restricted(tau2: float) -> float:
        w = 1 / (v + tau2)
        mu = w @ z / w.sum()
        return float(np.log(v + tau2).sum() + np.log(w.sum()) + w @ (z - mu) ** 2)

    tau2 = optimize.minimize_scalar(restricted, (0, 0.05), bounds=(0, 2), method="bounded").x
    w = 1 / (v + tau2)
    mu = w @ z / w.sum()
    half = stats.t.isf(0.025, 5) * np.sqrt(w @ (z - mu) ** 2 / 5 / w.sum())
    assert found.average == pytest.approx(np.tanh(mu), abs=1e-4)
    assert (found.lower, found.upper) == pytest.approx(np.tanh([mu - half, mu + half]), abs=1e-3)
    assert found.table["correlation"].to_numpy() == pytest.approx(r)
    assert found.table["models"].tolist() == n.tolist()
    assert found.table["lower"].to_numpy() == pytest.approx(np.tanh(z - stats.norm.isf(0.025) * np.sqrt(v)))
    assert np.isnan(found.prediction).all()  # six families
    assert stats.spearmanr(x, y).statistic < 0 < found.lower  # the total goes the other way


def test_prediction_needs_ten_large_families() -> None:
    many = families.combine(*families_of([20] * 10, 0.5))
    assert many.prediction[0] <= many.lower < many.upper <= many.prediction[1]
    assert np.isnan(families.combine(*families_of([17] * 10, 0.5)).prediction).all()
    assert np.isnan(families.combine(*families_of([20] * 9, 0.5)).prediction).all()


def test_refusals() -> None:
    with pytest.raises(UsageError, match="not estimable: 4 families"):
        families.combine(*families_of([9, 9, 9, 9, 3], 0.5))
    x, y, group = families_of([9] * 6, 0.5)
    x[:9] = y[:9]
    with pytest.raises(UsageError, match="family f0 is perfect"):
        families.combine(x, y, group)
    x[:9], y[9] = 1.0, np.nan
    found = families.combine(x, y, group)
    assert found.left_out == ("f0",)
    assert found.table["models"].tolist() == [8, 9, 9, 9, 9]


def test_intervals_hold_their_confidence() -> None:
    truth, held = 0.5, 0
    for seed in range(150):
        x, y, group = families_of([12] * 8, truth, seed)
        found = families.combine(x, y, group)
        held += found.lower <= 6 / np.pi * np.arcsin(truth / 2) <= found.upper
    assert held / 150 > 0.9


def test_from_a_cube() -> None:
    measures = {"flatness": ("sharpness", 1, STRENGTH), "noise": ("norm", 0, RANDOM)}
    cube = cube_with(measures, families=5)
    found = families.from_cube(cube, "linf 2/255 accuracy")
    assert {"clean accuracy", "noise"} <= set(found)
    assert "architecture" not in found
    p = families.adjusted(found)
    assert all(p[name] >= one.p for name, one in found.items())
    assert families.from_cube(cube_with(measures, families=4), "linf 2/255 accuracy") == {}
