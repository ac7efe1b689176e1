"""Paired comparison against scipy, statsmodels and enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from handmade_cube import handmade_cube
from scipy import stats
from statsmodels.stats.contingency_tables import cochrans_q
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests

from metaeval.analysis import curves, paired
from metaeval.errors import UsageError


def test_mcnemar_equals_statsmodels() -> None:
    for b, c in [(0, 0), (0, 5), (5, 0), (3, 9), (10, 10), (40, 61)]:
        expected = reference_mcnemar([[1, b], [c, 1]], exact=True).pvalue if b + c else 1.0
        assert paired.mcnemar(b, c) == pytest.approx(min(1, expected), abs=1e-12)
        if b + c:
            assert paired.mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue, abs=1e-12)


def test_cochran_q_equals_statsmodels() -> None:
    z = np.random.default_rng(1).random((4, 80)) < np.array([[0.3], [0.5], [0.5], [0.6]])
    assert paired.cochran_q(z) == pytest.approx(cochrans_q(z.T.astype(int)).pvalue)
    assert paired.cochran_q(np.ones((3, 9))) == 1.0


def test_holm_equals_statsmodels() -> None:
    p = np.array([0.04, 0.001, 0.03, 0.5, 0.03, 1.0])
    np.testing.assert_allclose(paired.holm(p), multipletests(p, method="holm")[1])
    assert len(paired.holm([])) == 0


def test_compare_by_hand() -> None:
    first, second = [1] * 30 + [0] * 10, [1] * 22 + [0] * 8 + [1] * 2 + [0] * 8
    result = paired.compare([first, second])
    n, b, c = 40, 8, 2
    assert result.difference[0] == pytest.approx(6 / 40)
    assert result.standard_error[0] == pytest.approx(np.sqrt(((b + c) - (b - c) ** 2 / n) / n**2))
    assert result.standard_error[0] == pytest.approx(np.std(np.subtract(first, second)) / np.sqrt(n))
    assert result.p[0] == result.adjusted[0] == pytest.approx(stats.binomtest(2, 10).pvalue)
    assert result.pair(1, 0) == 0


def test_adjusted_never_below_cochran() -> None:
    z = np.random.default_rng(3).random((5, 40)) < 0.5
    result = paired.compare(z)
    assert len(result.p) == 10
    assert (result.adjusted >= np.maximum(result.q, paired.holm(result.p)) - 1e-12).all()


def test_equal_models_are_rarely_told_apart() -> None:
    random = np.random.default_rng(4)
    claims = 0
    for _ in range(300):
        hard = random.random(120)  # samples differ in difficulty, models do not
        claims += bool((paired.compare(random.random((4, 120)) < hard).adjusted < 0.05).any())
    assert claims / 300 <= 0.05


def test_detectable_difference_is_found_four_times_in_five() -> None:
    random = np.random.default_rng(5)
    n, discordant = 400, 0.2
    pilot = random.random(n) < 0.5
    other = np.where(random.random(n) < discordant, ~pilot, pilot)
    size = paired.compare([pilot, other]).detectable[0]
    found = 0
    for _ in range(400):
        kind = random.choice(3, n, p=[(discordant + size) / 2, (discordant - size) / 2, 1 - discordant])
        found += bool(paired.mcnemar((kind == 0).sum(), (kind == 1).sum()) < 0.05)
    assert 0.68 < found / 400 < 0.92


@pytest.mark.parametrize("z", [[[1, 0]], [[1, np.nan], [0, 1]], [[], []], [[1, 2], [0, 1]]])
def test_compare_refuses(z: list[list[float]]) -> None:
    with pytest.raises(UsageError):
        paired.compare(z)


def test_outcomes_agree_with_aggregates() -> None:
    cube = handmade_cube(failed={("linf", "plain", "square"): "x"}, seed=7)
    face = curves.from_cube(cube, "linf")
    for epsilon in face["epsilon"].values:
        for attack in ("worst-case", "apgd-ce", "square"):
            mine = paired.outcomes(cube, "linf", epsilon, attack).mean("sample", skipna=False)
            theirs = face["accuracy"].sel(epsilon=epsilon, attack=attack)
            np.testing.assert_allclose(mine.values, theirs.values)


def test_columns_of_older_settings_do_not_count() -> None:
    cube = handmade_cube(models=["m"])
    cube["linf"]["status"][0, 1] = 0  # cells are there, but the aggregates call the column pending
    assert np.isnan(paired.outcomes(cube, "linf", 2 / 255, "apgd-ce")).all()
    worst = paired.outcomes(cube, "linf", 2 / 255)
    assert np.nanmax(worst) == 0  # broken by the other attack is broken; nothing counts as robust


def test_aggregates_cover_the_first_samples_only() -> None:
    cube = handmade_cube(samples=60)
    group = cube["linf"].to_dataset()
    group["total"] = group["total"] // 2
    cube["linf"] = xr_tree(group)
    assert paired.outcomes(cube, "linf", 2 / 255).sizes["sample"] == 30


def xr_tree(dataset):
    import xarray as xr

    return xr.DataTree(dataset)


def test_only_this_attack_by_hand() -> None:
    distance = np.full((1, 3, 5), np.inf)
    distance[0, 0, 0] = distance[0, 1, 1] = distance[0, 2, 1] = distance[0, 2, 2] = 0.001
    distance[0, :, 3] = 0.0
    cube = handmade_cube(
        models=["m"], classes=["a"], samples=5, attacks=["x", "y", "z"], distances={"linf": distance}
    )
    alone = paired.only_this_attack(cube, "linf", 1 / 255)
    assert alone.sel(model="m").values.tolist() == [1, 0, 1]
