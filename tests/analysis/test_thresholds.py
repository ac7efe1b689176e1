"""Change of slope against counting by hand, models without and with a bend."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from metaeval.analysis import thresholds
from metaeval.errors import UsageError


def bent(random: np.random.Generator, n: int, extra: float) -> np.ndarray:
    """Exponential distances of which a share `extra` of those beyond 1 is pulled to just beyond 1."""
    d = random.exponential(2.0, n)
    pulled = (d > 1) & (random.random(n) < extra)
    return np.where(pulled, 1 + 0.3 * random.random(n), d)


def test_primary_by_hand() -> None:
    random = np.random.default_rng(0)
    a, b = random.exponential(2.0, (2, 400))
    row = thresholds.change_of_slope(a, b, 1.5).table.iloc[0]
    assert (row["breakpoint"], row["width"]) == (1.5, 0.5)

    def per_sample(d: np.ndarray) -> np.ndarray:
        return ((d > 1.5) & (d <= 2)).astype(float) - ((d > 1) & (d <= 1.5))

    contrast = per_sample(a) - per_sample(b)
    assert row["change"] == pytest.approx(contrast.mean())
    assert row["z"] == pytest.approx(contrast.mean() / stats.sem(contrast), rel=0.02)
    k1, k2 = int(((a > 1) & (a <= 1.5)).sum()), int(((a > 1.5) & (a <= 2)).sum())
    assert row["local_p"] == pytest.approx(stats.binomtest(k2, k1 + k2, 0.5).pvalue)


def test_roles_and_adjustment() -> None:
    random = np.random.default_rng(1)
    found = thresholds.change_of_slope(*random.exponential(2.0, (2, 300)), 0.9)
    table = found.table
    assert table["role"].tolist() == ["primary", "sensitivity", "sensitivity", "placebo", "placebo"]
    assert table["width"].tolist() == pytest.approx([0.3, 0.15, 0.6, 0.3, 0.3])
    assert table["breakpoint"].tolist() == pytest.approx([0.9, 0.9, 0.9, 0.45, 1.35])
    assert (table["adjusted"][:3] >= table["p"][:3]).all()
    assert table["adjusted"][3:].isna().all()


def test_no_bend_is_rarely_claimed_and_a_bend_is_found() -> None:
    random = np.random.default_rng(2)
    false = sum(
        thresholds.change_of_slope(bent(random, 300, 0), bent(random, 300, 0), 1.0).overfitted
        for _ in range(300)
    )
    assert false / 300 < 0.05
    found = sum(
        thresholds.change_of_slope(bent(random, 500, 0.3), bent(random, 500, 0), 1.0).overfitted
        for _ in range(60)
    )
    assert found / 60 > 0.7


def test_a_curved_reference_is_no_bend() -> None:
    # Both curves bend at 1 in the same way: the model alone looks bent, against its reference it is not.
    random = np.random.default_rng(3)
    found = thresholds.change_of_slope(bent(random, 2000, 0.3), bent(random, 2000, 0.3), 1.0)
    assert found.table["local_p"].iloc[0] < 0.001
    assert not found.overfitted
    assert "is not shown to bend down at epsilon 1, width 0.333" in found.sentence("A", "B")


def test_single_precision_changes_nothing() -> None:
    a, b = np.random.default_rng(6).integers(0, 17, (2, 300)) / 255
    exact = thresholds.change_of_slope(a, b, 8 / 255, 2 / 255, limit=16 / 255)
    rounded = thresholds.change_of_slope(a.astype("f4"), b, 8 / 255, 2 / 255, limit=16 / 255)
    assert rounded.table.equals(exact.table)


def test_what_is_not_known_is_not_estimated() -> None:
    random = np.random.default_rng(4)
    a, b = random.exponential(2.0, (2, 200))
    cut = np.where(a > 1.4, np.inf, a)
    table = thresholds.change_of_slope(cut, b, 1.0).table
    assert table["p"].isna().tolist() == [False, False, True, False, True]
    assert thresholds.change_of_slope(a, b, 1.0, limit=1.2).table["p"].isna().tolist()[0]
    nothing = thresholds.change_of_slope(a, b, 1.0, limit=1.2)
    assert "not estimable" in nothing.sentence("A", "B")
    assert not nothing.overfitted
    robust = thresholds.change_of_slope(np.full(50, np.inf), np.full(50, np.inf), 1.0, limit=9)
    assert robust.table["change"].tolist() == [0] * 5
    assert robust.table["p"].tolist() == [1] * 5


def test_refusals() -> None:
    with pytest.raises(UsageError, match="width"):
        thresholds.change_of_slope([1.0], [1.0], 1.0, 0.6)
    with pytest.raises(UsageError, match="not computed"):
        thresholds.change_of_slope([np.nan], [1.0], 1.0)
    with pytest.raises(UsageError, match="stay broken"):
        thresholds.score([0.0], [1.0], [0.0])
