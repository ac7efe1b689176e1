"""Change of slope against counting by hand, models without and with a bend."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from handmade_cube import handmade_cube, text
from scipy import stats
from statsmodels.stats.multitest import multipletests

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


def test_a_reference_that_flattens_out_is_no_bend_of_the_model() -> None:
    """The model loses 20 samples before and 15 after; only the reference loses 60 before and none after."""
    model = np.repeat([0.9, 1.1, 5.0], [20, 15, 165])
    reference = np.repeat([0.9, 5.0], [60, 140])
    found = thresholds.change_of_slope(model, reference, 1.0, 0.25)
    main = found.table.iloc[0]
    assert (main["before"], main["after"]) == (0.1, 0.075)
    assert (main["reference_before"], main["reference_after"]) == (0.3, 0)
    assert main["change"] == pytest.approx(-0.025 + 0.3)
    assert main["adjusted"] < 0.01
    assert not found.overfitted


def test_widths_are_those_of_the_grid() -> None:
    tenths = np.arange(11) / 10
    assert thresholds.grid_width(tenths, 0.6) == pytest.approx(0.2)
    assert thresholds.grid_width(tenths, 0.2) == pytest.approx(0.1)
    assert thresholds.grid_width([0, 2 / 255, 5 / 255, 8 / 255, 11 / 255], 8 / 255) == pytest.approx(3 / 255)
    assert np.isnan(thresholds.grid_width(tenths, 0.65))  # not evaluated
    assert np.isnan(thresholds.grid_width([0, 0.5, 0.7], 0.7))  # nothing beyond
    assert np.isnan(thresholds.grid_width([0, 0.1, 0.8, 1.5], 0.8))  # wider than half


def test_distances_on_a_grid_are_compared_at_its_levels_only() -> None:
    random = np.random.default_rng(6)
    exact = random.exponential(1.0, (2, 400))
    levels = np.arange(0, 3.01, 0.25)
    step = levels[np.minimum(np.searchsorted(levels, exact), len(levels) - 1)]
    on_grid = thresholds.change_of_slope(*step, 1.0, 0.5, levels=levels)
    anywhere = thresholds.change_of_slope(*exact, 1.0, 0.5)
    np.testing.assert_allclose(on_grid.table["change"], anywhere.table["change"])
    coarse = thresholds.change_of_slope(*step, 1.0, 0.5, levels=levels[::2])
    assert coarse.table["p"].isna().tolist() == [False, True, False, False, False]
    assert on_grid.table["p"].notna().all()


LEVELS = [(i / 20, f"{i}/20") for i in range(9)]


def trained_cube(
    extra: float = 0.7, samples: int = 600, levels: list[tuple[float, str]] = LEVELS, **training: object
) -> xr.DataTree:
    """Return models of two architectures; "cnn-4" and "mlp-4" are trained for 4/20, the first bends there."""
    names = ("cnn-0", "cnn-4", "mlp-0", "mlp-4", "lonely")
    random = np.random.default_rng(5)
    distance = random.exponential(0.3, (5, 1, samples))
    beyond = distance[1] > 0.2
    pulled = beyond & (random.random(beyond.shape) < extra)
    distance[1] = np.where(pulled, 0.2 + 0.05 * random.random(beyond.shape), distance[1])
    distance[distance > 0.4] = np.inf
    cube = handmade_cube(
        models=names,
        attacks=("x",),
        samples=samples,
        norms={"linf": levels},
        distances={"linf": distance},
        reference=["4/20"],
    )
    table = cube["models"].to_dataset()
    table["architecture"] = ("model", text(["cnn", "cnn", "mlp", "mlp", "vgg"]))
    table["adversarial_epsilon"] = ("model", np.array([0.0, 0.2, 0.0, 0.2, 0.2]))
    table["adversarial_norm"] = ("model", text(["", "linf", "", "linf", "linf"]))
    table["training_seconds"] = ("model", np.arange(5.0))
    for name, values in training.items():
        table[name] = ("model", values)
    cube["models"] = xr.DataTree(table)
    return cube


def test_bends_of_a_cube() -> None:
    cube = trained_cube()
    found = thresholds.from_cube(cube, "linf")
    assert [(bend.model, bend.reference) for bend in found] == [("cnn-4", "cnn-0"), ("mlp-4", "mlp-0")]
    assert [bend.certain for bend in found] == [True, False]
    cells = cube["samples/linf"]["distance"].values[:, 0]
    broken = {e: (cells <= e / 20 + 1e-12) for e in (3, 4, 5)}
    scores = (broken[5] ^ broken[4]).astype(int) - (broken[4] ^ broken[3]).astype(int)
    main = found[0].threshold.table.iloc[0]
    assert main["width"] == pytest.approx(1 / 20)
    assert main["change"] == pytest.approx((scores[1] - scores[0]).mean())
    alone = [bend.threshold.bend_p for bend in found]
    np.testing.assert_allclose([bend.p for bend in found], multipletests(alone, method="holm")[1])


def test_a_smooth_curve_is_no_bend_and_more_samples_find_one() -> None:
    """Weibull distances: the reference has fallen where the model steepens, without any bend."""
    random = np.random.default_rng(8)
    smooth, bends = 0, 0
    for _ in range(60):
        model, reference = 0.2 * random.weibull(2.5, 1000), 0.06 * random.weibull(2.0, 1000)
        smooth += thresholds.change_of_slope(model, reference, 0.1).overfitted
        pulled = (model > 0.1) & (random.random(1000) < 0.25)
        kinked = np.where(pulled, 0.1 + 0.03 * random.random(1000), model)
        bends += thresholds.change_of_slope(kinked, reference, 0.1).overfitted
    assert smooth / 60 <= 0.05
    assert bends / 60 >= 0.9


def test_a_bend_needs_the_comparison_elsewhere() -> None:
    random = np.random.default_rng(9)
    a, b = bent(random, 600, 0.6), random.exponential(2.0, 600)
    assert thresholds.change_of_slope(a, b, 1.0).overfitted
    found = thresholds.change_of_slope(a, b, 1.0, limit=1.4)
    assert found.table["adjusted"].iloc[0] < 0.001
    assert np.isnan(found.bend_p)
    assert not found.overfitted
    assert "a bend is not estimable" in found.sentence("A", "B")


def test_only_the_same_recipe_is_a_reference() -> None:
    other = thresholds.from_cube(trained_cube(dropout=np.array([0.1, 0.0, 0.2, 0.2, 0.0])), "linf")
    assert [bend.model for bend in other] == ["mlp-4"]
    l2 = text(["", "l2", "", "linf", "linf"])
    assert [bend.model for bend in thresholds.from_cube(trained_cube(adversarial_norm=l2), "linf")] == [
        "mlp-4"
    ]
    nobody = trained_cube(adversarial_epsilon=np.zeros(5))
    assert thresholds.from_cube(nobody, "linf") == []
    assert thresholds.from_cube(handmade_cube(), "linf") == []


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
