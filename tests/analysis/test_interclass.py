"""Inter-class distances against brute force and the published values of MNIST."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from handmade_cube import handmade_cube, text
from hypothesis import given, settings
from hypothesis import strategies as st

from metaeval.analysis import interclass
from metaeval.analysis.subset import subset
from metaeval.cube import separation
from metaeval.errors import UsageError
from metaeval.report.findings import findings

MNIST = Path(os.environ["METAEVAL_SHARED_DATA"]) / "mnist.npz"
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


def brute_force(x: np.ndarray, y: np.ndarray, norm: str) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    result = np.full(len(x), np.inf)
    for i in range(len(x)):
        for j in range(len(x)):
            if y[i] != y[j]:
                result[i] = min(result[i], np.linalg.norm(flat[i] - flat[j], ORDER[norm]))
    return result


@given(st.integers(1, 25), st.integers(1, 4), st.sampled_from(list(ORDER)), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_equals_brute_force(n: int, classes: int, norm: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.integers(0, 4, (n, 2, 2)) / 4, random.integers(0, classes, n)
    np.testing.assert_allclose(interclass.distances(x, y, norm=norm), brute_force(x, y, norm), atol=1e-12)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    x, y = random.random((83, 6)), np.array(list("abc"))[random.integers(0, 3, 83)]
    whole = interclass.distances(x, y)
    monkeypatch.setattr(separation, "BLOCK", 10)
    np.testing.assert_array_equal(interclass.distances(x, y), whole)


@pytest.mark.skipif(not MNIST.exists(), reason="shared data are not here")
@pytest.mark.parametrize(
    ("norm", "smallest", "pair"),
    [("linf", 0.878431, (471, 1401)), ("l2", 3.026148, (1260, 1548)), ("l1", 19.164706, (1260, 1548))],
)
def test_smallest_published_distance_of_mnist(norm: str, smallest: float, pair: tuple[int, int]) -> None:
    # By hand with all 10,000 samples: these and the largest (1, 10.177744, 132.376471) to six digits in
    # 9 to 13 CPU-seconds a norm. Here the two nearest samples stand among a few hundred others.
    with np.load(MNIST) as data:
        chosen = np.unique([*pair, *range(400)])
        x, y = data["x_test"][chosen] / 255, data["y_test"][chosen]
    found = interclass.summary(interclass.distances(x, y, norm=norm), norm)
    assert found.smallest == pytest.approx(smallest, abs=5e-7)


@pytest.mark.skipif(not MNIST.exists(), reason="shared data are not here")
def test_published_distances_of_mnist() -> None:
    with np.load(MNIST) as data:
        found = interclass.summary(
            interclass.distances(data["x_test"] / 255, data["y_test"], norm="l2"), "l2"
        )
    assert found.samples == 10_000
    assert found.duplicates == 0
    assert (found.smallest, found.largest) == pytest.approx((3.026148, 10.177744), abs=5e-7)


@pytest.mark.parametrize(
    "labels",
    [
        [-1, 2**63 + 1, 2**63],
        [2**63, 2**63 + 1, 2**63 + 2],
        [10**30, 10**30 + 1, -5],
        ["1", 1, "one"],
        [None, "none", 0],
        [(1, 2), (1, 3), (2, 1)],
        np.array([-1, 0, 1], dtype=np.int8),
        np.array([2**64 - 1, 2**64 - 2, 0], dtype=np.uint64),
        xr.DataArray(["cat", "dog", "Ørn"]),
    ],
)
def test_labels_of_any_kind_are_told_apart(labels: Any) -> None:
    x = np.array([[0.0], [1.0], [5.0]])
    assert interclass.distances(x, labels).tolist() == [1, 1, 4]
    if isinstance(labels, list):
        assert interclass.distances(x, [labels[0], labels[1], labels[1]]).tolist() == [1, 1, 5]


def test_summary_and_words() -> None:
    d = np.array([0.0, 0.0, 0.2, 0.4, 0.8])
    found = interclass.summary(d, "linf", [0.05, 0.1, 0.15, 0.2, 0.5])
    assert (found.smallest, found.largest, found.duplicates, found.samples) == (0.2, 0.8, 2, 5)
    assert found.quantiles[1] == 0.4
    assert (found.touching, found.exceeding) == ((0.1, 0.15), (0.2, 0.5))
    words = found.sentence()
    assert "classes lie 0.2 apart in ℓ∞ (n = 5; 2 samples with distance 0 left out" in words
    assert (
        "half of it, 0.1; epsilons 0.2, 0.5 reach the distance, epsilons 0.1, 0.15 reach half of it." in words
    )
    for epsilons, verdict in (
        ([], "no epsilon of the study reaches either."),
        ([0.09], "no epsilon of the study reaches either."),
        ([0.1], "no epsilon of the study reaches the distance, epsilon 0.1 reaches half of it."),
        ([0, 0.3], "epsilon 0.3 reaches the distance."),
    ):
        assert interclass.summary(d, "l2", epsilons).sentence().endswith(f"half of it, 0.1; {verdict}")
    # Images in single precision: 8/255 lies a rounding error beside the epsilon 8/255.
    single = [float(np.float32(8 / 255))]
    assert interclass.summary(single, "linf", [4 / 255, 8 / 255]).exceeding == (8 / 255,)
    assert interclass.summary(single, "linf", [4 / 255, 8 / 255]).touching == (4 / 255,)
    one_class = interclass.summary(interclass.distances(np.eye(3), [1, 1, 1]), "l2", [0.1])
    assert np.isnan(one_class.smallest)
    assert one_class.exceeding == ()
    assert one_class.sentence() == "No two samples of different classes lie apart in ℓ2 (n = 3)."


def test_cube_face() -> None:
    cube = handmade_cube()
    assert interclass.from_cube(cube) == {}
    stored = xr.Dataset({"distance": (("norm", "sample"), [[0.01, 0.5]])}, {"norm": text(["linf"])})
    cube["interclass"] = type(cube)(stored)
    found = interclass.from_cube(cube)["linf"]
    assert found.exceeding == (4 / 255,)
    assert found.touching == (2 / 255,)
    (said,) = [sentence for sentence in findings(cube) if "different classes lie" in sentence]
    assert "0.01 apart in ℓ∞" in said
    names = {dim: [str(cube["clean"][dim].values[0])] for dim in ("class", "model")}
    assert "interclass" not in subset(cube, classes=names["class"]).children
    assert "interclass" in subset(cube, models=names["model"]).children
    cube["interclass"] = type(cube)(stored.assign_coords(norm=text(["l1"])))
    assert interclass.from_cube(cube) == {}  # no epsilon of the study is of this norm


def test_refusals() -> None:
    with pytest.raises(UsageError, match="did you mean 'linf'"):
        interclass.distances(np.eye(2), [0, 1], norm="lin")
    with pytest.raises(UsageError, match="one label per sample"):
        interclass.distances(np.eye(2), [0])
    for labels in ([[0], [1]], np.zeros((2, 1)), 3):
        with pytest.raises(UsageError, match="one label per sample"):
            interclass.distances(np.eye(2), labels)
    with pytest.raises(UsageError, match="NaN"):
        interclass.distances(np.eye(2), [0, float("nan")])
    with pytest.raises(UsageError, match="can be compared"):
        interclass.distances(np.eye(2), [0, pd.NA])
    with pytest.raises(UsageError, match="finite"):
        interclass.distances([[np.nan], [1.0]], [0, 1])
