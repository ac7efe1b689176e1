"""Inter-class distances against brute force and the published values of MNIST."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
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


def test_summary_and_words() -> None:
    d = np.array([0.0, 0.0, 0.2, 0.4, 0.8])
    found = interclass.summary(d, "linf", [0.05, 0.1, 0.15, 0.2, 0.5])
    assert (found.smallest, found.largest, found.duplicates, found.samples) == (0.2, 0.8, 2, 5)
    assert found.quantiles[1] == 0.4
    assert (found.touching, found.exceeding) == ((0.1, 0.15), (0.2, 0.5))
    words = found.sentence()
    assert "at least 0.2 apart in linf (n = 5; 2 samples with distance 0 left out" in words
    assert "epsilons 0.2, 0.5 reach it; epsilons 0.1, 0.15 reach half of it, 0.1, where balls" in words
    assert "no epsilon of the study reaches it" in interclass.summary(d, "l2").sentence()
    one_class = interclass.summary(interclass.distances(np.eye(3), [1, 1, 1]), "l2", [0.1])
    assert np.isnan(one_class.smallest)
    assert one_class.exceeding == ()
    assert one_class.sentence() == "No two samples of different classes lie apart in l2 (n = 3)."


def test_cube_face() -> None:
    cube = handmade_cube()
    assert interclass.from_cube(cube) == {}
    stored = xr.Dataset({"distance": (("norm", "sample"), [[0.01, 0.5]])}, {"norm": text(["linf"])})
    cube["interclass"] = type(cube)(stored)
    found = interclass.from_cube(cube)["linf"]
    assert found.exceeding == (4 / 255,)
    assert found.touching == (2 / 255,)
    (said,) = [sentence for sentence in findings(cube) if "Classes lie at least" in sentence]
    assert "0.01 apart in linf" in said
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
    with pytest.raises(UsageError, match="finite"):
        interclass.distances([[np.nan], [1.0]], [0, 1])
