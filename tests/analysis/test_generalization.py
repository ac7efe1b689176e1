"""Granulated tau, conditional information and sign error against brute force and known grids."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from metaeval.analysis import generalization
from metaeval.errors import UsageError

GRID = np.array(list(itertools.product([0, 1, 2], ["a", "b"], [0.1, 0.2, 0.3])), dtype=object)
HYPER = {"depth": GRID[:, 0].astype(int), "kind": GRID[:, 1].astype(str), "rate": GRID[:, 2].astype(float)}


def test_granulated_by_brute_force() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 18))
    found = generalization.granulated(x, y, HYPER)
    for axis, name in enumerate(HYPER):
        taus = []
        for fixed in itertools.product(*(set(GRID[:, k]) for k in range(3) if k != axis)):
            rows = [m for m in range(18) if tuple(np.delete(GRID[m], axis)) == fixed]
            taus.append(
                np.mean(
                    [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in itertools.combinations(rows, 2)]
                )
            )
        assert found.psi[name] == pytest.approx(np.mean(taus))
        assert found.slices[name] == len(taus)
    assert found.mean == pytest.approx(np.mean(list(found.psi.values())))


def test_a_proxy_of_one_hyperparameter_explains_only_that() -> None:
    y = HYPER["depth"] + 0.1 * HYPER["rate"]
    found = generalization.granulated(HYPER["depth"], y, HYPER)
    assert found.psi == {"depth": 1, "kind": 0, "rate": 0}
    one = generalization.granulated([1.0, 2.0], [1.0, 2.0], {"depth": [0, 1], "kind": ["a", "a"]})
    assert one.psi["depth"] == 1
    assert np.isnan(one.psi["kind"])
    assert one.mean == 1


def test_information_equals_sklearn() -> None:
    random = np.random.default_rng(1)
    x, y = random.normal(size=(2, 18))
    x += y
    i, j = np.nonzero(~np.eye(18, dtype=bool))
    signs = [(np.sign(v[i] - v[j]) + 1).astype(int) for v in (x, y)]
    condition = HYPER["depth"][i] * 3 + HYPER["depth"][j]
    entropy, information = generalization._information([signs[0]], signs[1], condition)
    share = [(condition == c).mean() for c in range(9)]
    parts = [mutual_info_score(signs[0][condition == c], signs[1][condition == c]) for c in range(9)]
    assert information[0] == pytest.approx(np.dot(share, parts))
    own = [mutual_info_score(signs[1][condition == c], signs[1][condition == c]) for c in range(9)]
    assert entropy == pytest.approx(np.dot(share, own))


def test_conditional_information_tells_a_measure_from_a_proxy_and_from_noise() -> None:
    random = np.random.default_rng(2)
    y = HYPER["depth"] + HYPER["rate"] + random.normal(size=18)
    measure = generalization.conditional_information(y + 0.01 * random.normal(size=18), y, HYPER)
    proxy = generalization.conditional_information(HYPER["depth"], y, HYPER)
    assert measure.value > 0.5
    assert proxy.value < 0.15
    assert "depth" in proxy.given
    noise = [
        generalization.conditional_information(*random.normal(size=(2, 18)), {}, permutations=30).value
        for _ in range(40)
    ]
    assert abs(np.mean(noise)) < 0.03
    assert np.isnan(generalization.conditional_information(y, np.ones(18), HYPER).value)


def test_overlapping_intervals_are_a_tie() -> None:
    x, first, second = np.array([1.0, 2.0, 3.0]), np.array([0, 1, 0]), np.array([1, 2, 2])
    nan = np.nan
    for low, high, expected in (
        ([0.5, 1.4, 2.5], [1.5, 2.4, 3.5], [0, -1, -1]),
        ([0.5, 1.5, 2.5], [1.5, 2.5, 3.5], [-1, -1, -1]),  # ends that touch
        ([nan, nan, nan], [nan, nan, nan], [-1, -1, -1]),  # points
        ([0.5, nan, 2.5], [1.5, 2.4, nan], [0, -1, -1]),  # an end that is not known
    ):
        assert generalization.order(x, first, second, (np.array(low), np.array(high))).tolist() == expected
    assert generalization.order(x, second, first).tolist() == [1, 1, 1]
    hyper = {"depth": [0, 1], "kind": ["a", "a"]}
    wide = (np.array([0.0, 0.0]), np.array([4.0, 4.0]))
    assert generalization.granulated([1.0, 3.0], [0.1, 0.9], hyper, ends=wide).psi["depth"] == 0
    assert generalization.sign_error([1.0, 3.0], [0.1, 0.9], hyper, 100, ends=wide).error.tolist() == [0.5]


def test_sign_error_by_hand() -> None:
    hyper = {"depth": [0, 0, 1, 1], "kind": ["a", "b", "a", "b"]}
    y = np.array([0.5, 0.5, 0.7, 0.52])
    x = np.array([1.0, 2.0, 3.0, 1.5])
    found = generalization.sign_error(x, y, hyper, samples=1000)
    assert found.environments == [("depth", 0, 1), ("kind", "a", "b")]
    heavy, light = (max(0, 1 - 2 * np.exp(-1000 * d**2 / 2)) ** 2 for d in (0.2, 0.02))
    assert light == 0  # two points on a thousand samples say nothing
    assert found.weight[0] == pytest.approx(heavy)
    assert found.error.tolist() == [0, 0]
    wrong = generalization.sign_error(-x, y, hyper, samples=1000)
    assert (wrong.robust, wrong.mean, wrong.ninetieth) == (1, 1, 1)
    constant = generalization.sign_error(np.ones(4), y, hyper, samples=1000)
    assert constant.error.tolist() == [0.5, 0.5]
    nothing = generalization.sign_error(x, y, hyper, samples=10)
    assert np.isnan([nothing.robust, nothing.mean, nothing.ninetieth]).all()


def test_refusals() -> None:
    with pytest.raises(UsageError, match="'depth' needs one value"):
        generalization.granulated([1.0, 2.0], [1.0, 2.0], {"depth": [1]})
    with pytest.raises(UsageError, match="finite"):
        generalization.granulated([1.0, np.nan], [1.0, 2.0], {})
    with pytest.raises(UsageError, match="between 0 and 1"):
        generalization.sign_error([1.0, 2.0], [50.0, 60.0], {}, 100)
