"""Threshold overfitting, transfer across norms, families: true, drawn, absent where nothing is."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from browser import Browser, missing
from handmade_cube import handmade_cube
from scipy import stats
from test_page_in_browser import assert_quiet, charts, marks, show
from test_predictors_and_claims import NAMES, RANDOM, STRENGTH, cube_with
from test_thresholds import trained_cube

from metaeval import registry
from metaeval.analysis import families, thresholds
from metaeval.report import figures, page

TWO = {
    "linf": [(0.0, "0"), (0.01, "0.01"), (0.02, "0.02")],
    "l2": [(0.0, "0"), (0.5, "0.5")],
}
MEASURES = {"flatness": ("sharpness", 1, STRENGTH), "noise": ("norm", 0, RANDOM)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if absent := missing():
        pytest.skip(f"the page cannot be looked at: no {absent}")
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def made(cube: xr.DataTree, start: str) -> list[figures.Figure]:
    return list(registry.load("figures", figures.FIGURES, start)(cube))


def plain(text: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", text)).replace("\u00a0", " ")


def two_norms(models: int = 5, samples: int = 200, **options: object) -> xr.DataTree:
    names = [f"m{i}" for i in range(models)]
    options = {"reference": ["0.01", "0.5"], "seed": 3, **options}
    return handmade_cube(models=names, samples=samples, norms=TWO, **options)  # type: ignore[arg-type]


def test_a_bend_is_said_with_its_size() -> None:
    cube = trained_cube()
    (figure,) = made(cube, "thresholds")
    first = thresholds.from_cube(cube, "linf")[0].threshold.table.iloc[0]
    change, half = 100 * first["change"], 196 * first["standard_error"]
    said = plain(figure.finding)
    assert "of the curves of 2 models trained under ℓ∞ attack 1 certainly falls faster" in said
    assert f"most that of cnn-4 at ε = 0.2, {change:.1f} points more than its recipe (95 %" in said
    assert f"interval {change - half:.1f} to" in said
    assert "adjusted p < .001" in said
    assert figure.finding in page.render(cube)
    assert "Not estimable for 1 more" in figure.covers
    assert [row[0] for row in figure.data.rows] == ["cnn-4", "mlp-4"]
    assert [row[-1] for row in figure.data.rows] == [True, False]


def test_no_bend_is_said_with_what_could_go_unnoticed() -> None:
    cube = trained_cube(extra=0.0)
    (figure,) = made(cube, "thresholds")
    said = plain(figure.finding)
    bends = thresholds.from_cube(cube, "linf")
    error = max(
        bend.threshold.table[key].max() for bend in bends for key in ("standard_error", "excess_error")
    )
    missed = (stats.norm.isf(0.025 / 2) + stats.norm.ppf(0.8)) * error
    assert "for none of 2 models trained under ℓ∞ attack is it certain" in said
    assert f"one below about {100 * missed:.1f} points would usually go unnoticed" in said
    assert "not certain" in figure.table


def test_without_the_comparison_elsewhere_no_bend_is_claimed() -> None:
    coarse = [(0.0, "0"), (3 / 20, "3/20"), (4 / 20, "4/20"), (5 / 20, "5/20")]
    (figure,) = made(trained_cube(levels=coarse), "thresholds")
    said = plain(figure.finding)
    assert "Threshold overfitting of 2 models trained under ℓ∞ attack is not estimable" in said
    assert "certain" not in said
    assert "not estimable" in figure.table
    assert [row[7] for row in figure.data.rows] == [None, None]


def test_transfer_says_what_is_certain() -> None:
    cube = two_norms()
    (figure,) = made(cube, "transfer")
    said = plain(figure.finding)
    sides = []
    for norm, epsilon in (("linf", 0.01), ("l2", 0.5)):
        distance = cube[f"samples/{norm}"]["distance"].values.min(axis=1)
        sides.append(distance > epsilon)
    tau = stats.kendalltau(*(side.mean(axis=1) for side in sides)).statistic
    assert f"agree with Kendall's τ-b = {tau:.2f}".replace("-0", "−0") in said.replace("-0", "−0")
    pairs = [(i, j) for i in range(5) for j in range(i)]
    tests = np.array(
        [
            stats.binomtest(int((s[i] > s[j]).sum()), int((s[i] != s[j]).sum())).pvalue
            for s in sides
            for i, j in pairs
        ]
    )
    order = np.argsort(tests)
    adjusted = np.empty(20)
    adjusted[order] = np.maximum.accumulate(tests[order] * np.arange(20, 0, -1))
    certain = (adjusted < 0.05).reshape(2, 10).all(axis=0)
    signs = [np.array([np.sign(s[i].mean() - s[j].mean()) for i, j in pairs]) for s in sides]
    same, opposite = (int((certain & (signs[0] == turn * signs[1])).sum()) for turn in (1, -1))
    assert f"of 10 pairs {same} certainly have the same order under both, {opposite} opposite orders" in said
    assert same > 0
    ranks = {row[0]: row[4] for row in figure.data.rows}
    assert ranks == {f"m{i}": r for i, r in enumerate(stats.rankdata(-sides[0].mean(axis=1)))}


def test_families_say_average_and_what_is_not_estimable() -> None:
    cube = cube_with(MEASURES, families=5)
    (figure,) = made(cube, "families")
    one = families.from_cube(cube, "linf 2/255 accuracy")["clean accuracy"]
    said = plain(figure.finding).replace("−", "-")
    assert f"average rank correlation of {one.average:.2f} (95 % interval {one.lower:.2f} to" in said
    assert "k = 5 families of 7 to 8 models" in said
    assert "prediction interval of another family is not estimable" in said
    rows = [row for row in figure.data.rows if row[0] == "clean accuracy"]
    assert [row[2] for row in rows] == ["family"] * 5 + ["average"]
    assert sum(row[6] for row in rows[:5]) == pytest.approx(100, abs=0.01)
    assert sum(row[7] for row in rows[:5]) == len(NAMES)


def test_what_is_not_estimable_leaves_no_trace() -> None:
    for cube in (
        handmade_cube(),
        two_norms(models=2),
        two_norms(distances={norm: np.zeros((5, 2, 200)) for norm in TWO}),
        cube_with(MEASURES, families=3),
    ):
        for start in ("thresholds", "transfer", "families"):
            assert made(cube, start) == []
    failed = {("l2", f"m{i}", "square"): "out of memory" for i in range(3)}
    assert made(two_norms(failed=failed), "transfer") == []
    (figure,) = made(two_norms(failed={("l2", "m0", "square"): "x"}), "transfer")
    assert [row[0] for row in figure.data.rows if row[0] == "m0"] == []
    assert "of 4 models" in figure.finding


@pytest.mark.parametrize(
    ("name", "cube"),
    [
        ("thresholds-linf", lambda: trained_cube()),
        ("transfer-linf-l2", two_norms),
        ("families-linf", lambda: cube_with(MEASURES, families=5)),
    ],
)
@pytest.mark.parametrize(("width", "theme"), [(360, "light"), (1200, "dark")])
def test_drawn_quietly_at_any_width(
    browser: Browser, tmp_path: Path, name: str, cube: object, width: int, theme: str
) -> None:
    target = page.write_report(cube(), tmp_path / "report.html")  # type: ignore[operator]
    show(browser, target, width=width, theme=theme)
    assert marks(browser, name) > 4
    assert all(chart["series"] > 0 for chart in charts(browser) if chart["visible"])
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    cut = browser.run(
        f"""return [...document.querySelectorAll('#{name} svg')].filter(s => {{
            const box = s.getBoundingClientRect();
            return [...s.querySelectorAll('text')].some(t => t.getBoundingClientRect().right > box.right + 2);
        }}).length"""
    )
    assert cut == 0
    assert_quiet(browser)
