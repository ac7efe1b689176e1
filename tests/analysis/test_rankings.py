"""All pairs of models against the single pair, counting by hand and cubes whose order is known."""

from __future__ import annotations

import numpy as np
import pytest
from handmade_cube import handmade_cube
from scipy import stats
from test_crossings import crossing_models

from metaeval.analysis import crossings, curves, paired, rankings
from metaeval.errors import UsageError

EPSILONS = [0.2, 0.6, 1.0, 1.4, 2.0]


def three_models(n: int = 1500) -> np.ndarray:
    """Two whose curves cross near 1.2, and one far ahead of both."""
    a, b = crossing_models(np.random.default_rng(0), n)
    return np.stack([a, b, a + b + 1])


def test_pairs_equal_single_pairs() -> None:
    d = three_models()
    found = rankings.compare(d, epsilons=EPSILONS)
    for pair, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        single = crossings.certified(d[i], d[j], epsilons=EPSILONS)
        assert (found.first[pair], found.second[pair]) == (i, j)
        np.testing.assert_allclose(found.difference[pair], single.difference, atol=1e-12)
        np.testing.assert_allclose(found.standard_error[pair], single.standard_error, rtol=1e-6)
        assert found.critical >= single.critical - 0.03
        assert found.naive_count[pair] == single.naive_count
    assert found.count.tolist() == [1, 0, 0]
    np.testing.assert_allclose(found.accuracy, curves.robustness_curve(d, EPSILONS).accuracy)
    two = rankings.compare(d[:2], epsilons=EPSILONS)
    single = crossings.certified(d[0], d[1], epsilons=EPSILONS)
    assert two.critical == pytest.approx(single.critical, abs=0.05)


def test_independent_pairs_reach_the_bonferroni_bound() -> None:
    # 28 pairs of 8 models at one level: the largest of their errors, by direct simulation.
    random = np.random.default_rng(1)
    d = random.exponential(size=(8, 4000))
    found = rankings.compare(d, epsilons=[0.7])
    i, j = np.triu_indices(8, k=1)
    z = random.normal(size=(200_000, 8))
    expected = np.quantile(np.abs((z[:, i] - z[:, j]) / np.sqrt(2)).max(axis=1), 0.95)
    assert found.critical == pytest.approx(expected, abs=0.05)


def test_ranks_swaps_and_contradictions() -> None:
    d = three_models()
    found = rankings.compare(d, epsilons=EPSILONS)
    for level in range(len(EPSILONS)):
        assert found.rank[:, level].tolist() == stats.rankdata(-found.accuracy[:, level], "min").tolist()
    (swap,) = [swap for swap in found.swaps if swap.certified]
    assert (swap.first, swap.second) == (1, 0)
    assert [[swap.before, swap.after]] == crossings.certified(d[0], d[1], epsilons=EPSILONS).brackets.tolist()
    table = found.contradictions()
    for j, k in np.ndindex(5, 5):
        by_hand = sum(found.sign[p, j] * found.sign[p, k] == -1 for p in range(3))
        assert table[j, k] == by_hand
    assert table[0, -1] == 1
    assert (found.contradictions(certified=False) >= table).all()
    words = rankings.sentences(found, ["A", "B", "C"])
    assert words[0].startswith("B is ahead of A at 1 and behind it at 1.4 (all pairs together at 95 %")


def test_equal_models_are_never_certified_to_swap() -> None:
    random, false = np.random.default_rng(2), 0
    for _ in range(15):
        base = random.exponential(size=200)
        found = rankings.compare(base * random.uniform(0.5, 1.5, (6, 200)), epsilons=EPSILONS)
        false += int(found.count.sum())
    assert false == 0
    assert "No change of order is certified on [0.2, 2]" in rankings.sentences(found, list("abcdef"))[0]


def test_extremes() -> None:
    everything = rankings.compare([np.full(40, np.inf), np.zeros(40)], epsilons=[0.0, 1.0])
    assert everything.sign.tolist() == [[1, 1]]
    same = rankings.compare(np.ones((3, 40)))
    assert np.isnan(same.critical)
    assert not same.sign.any()
    assert same.rank.tolist() == [[1, 1]] * 3
    for bad in ([1.0, 2.0], [[1.0, 2.0]], [[np.nan], [1.0]]):
        with pytest.raises(UsageError):
            rankings.compare(bad)


def test_breaking_levels_say_what_the_aggregates_say() -> None:
    cube = handmade_cube(samples=90, seed=3)
    found = paired.breaking_levels(cube, "linf")
    face = curves.from_cube(cube, "linf").sel(attack="worst-case")
    mine = curves.robustness_curve(found.values, face["epsilon"].values).accuracy
    np.testing.assert_allclose(mine, face["accuracy"].transpose("model", "epsilon").values)
    assert found.attrs["overturned"] == 0
    cell = cube["samples/linf"]["cell"].values
    victim = np.flatnonzero(found.values[0] == 1 / 255)[0]
    cell[0, :, victim, 3] = 5  # a larger epsilon at which the attacks failed
    again = paired.breaking_levels(cube, "linf")
    assert again.attrs["overturned"] == 1
    np.testing.assert_array_equal(again.values, found.values)


def test_cube_face() -> None:
    distance = np.full((3, 1, 200), np.inf)
    distance[0, 0, :60], distance[1, 0, 60:200] = 1 / 255, 4 / 255
    cube = handmade_cube(samples=200, attacks=["x"], distances={"linf": distance})
    face = rankings.from_cube(cube, "linf")
    assert face["count"].values.tolist() == [1, 0, 0]
    assert face["rank"].sel(model="middle").values.tolist() == [1, 1, 1, 1]
    swap = face.isel(swap=0)
    assert (str(swap["swap_first"].item()), str(swap["swap_second"].item())) == ("robust", "plain")
    assert (float(swap["before"]), float(swap["after"])) == (2 / 255, 4 / 255)
    assert bool(swap["certified"])
    assert face["contradictions"].sel(epsilon=1 / 255, other_epsilon=4 / 255).item() == 1
    assert face.attrs["sentences"][0].startswith(
        "robust is ahead of plain at 0.00784 and behind it at 0.0157"
    )
    missing = rankings.from_cube(handmade_cube(failed={("linf", "plain", "square"): "x"}), "linf")
    assert missing.attrs["missing"] == ["plain"]
    assert missing.sizes["model"] == 2
    with pytest.raises(UsageError, match="two complete models"):
        rankings.from_cube(handmade_cube(models=["m"]), "linf")


def test_single_precision_ranks_as_double() -> None:
    distance = np.random.default_rng(7).integers(0, 17, (3, 50)) / 255
    exact = rankings.compare(distance, epsilons=np.arange(17) / 255)
    rounded = rankings.compare(distance.astype("f4"), epsilons=np.arange(17) / 255)
    np.testing.assert_array_equal(rounded.accuracy, exact.accuracy)
    assert exact.accuracy[0, 8] == np.mean(distance[0] > 8.5 / 255)


def test_an_unknown_attack_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'worst-case'"):
        rankings.from_cube(handmade_cube(), "linf", "worst-cas")
