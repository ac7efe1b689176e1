"""Where curves certainly cross, on the page: what is planted is found, equal models cross nowhere."""

from __future__ import annotations

import numpy as np
import xarray as xr
from handmade_cube import handmade_cube

from metaeval.analysis import crossings, rankings
from metaeval.report import figures, page
from metaeval.report.charts.crossings import VERDICTS

GRID = [(i / 255, f"{i}/255") for i in range(9)]


def planted(models: tuple[str, ...] = ("steep", "flat"), samples: int = 400) -> xr.DataTree:
    """Return a cube in which "steep" leads up to 3/255 and "flat" from 5/255 on."""
    steep = np.where(np.arange(samples) % 10 == 0, 0.0, 4.0 / 255)
    flat = np.where(np.arange(samples) % 10 < 4, 0.0, np.inf)
    distance = np.stack([steep, flat])[:, None].repeat(2, axis=1)
    return handmade_cube(models=models, samples=samples, norms={"linf": GRID}, distances={"linf": distance})


def figure_of(cube: xr.DataTree) -> figures.Figure:
    return next(f for f in figures.make_figures(cube) if f.name == "crossings-linf")


def test_a_planted_crossing_is_found_and_said_first() -> None:
    cube = planted()
    figure = figure_of(cube)
    assert "1 pair of curves certainly changes places" in figure.finding
    assert (
        "<strong>steep</strong> leads <strong>flat</strong> at ε = 0.0118 and trails at 0.0157"
        in figure.finding
    )
    verdict = {row[3]: row[6] for row in figure.data.rows}
    assert [verdict[label] for _, label in GRID] == [VERDICTS[1]] * 4 + [VERDICTS[-1]] * 5
    assert figure.finding in page.render(cube)
    assert "between 0.0118 and 0.0157" in figure.table


def test_numbers_of_the_table_are_those_of_the_pair() -> None:
    cube = handmade_cube(models=("a", "b"), samples=500, norms={"linf": GRID}, scale=[0.6, 0.9], seed=2)
    table = figure_of(cube).table
    found = rankings.from_cube(cube, "linf")
    distance = cube["samples/linf"]["distance"].min("attack").values
    levels = np.array([epsilon for epsilon, _ in GRID])
    pair = crossings.certified(*distance, epsilons=levels)
    assert f">{pair.naive_count}<" in table
    assert f">{pair.upper_bound(0.02)}<" in table
    lead = found.attrs["critical"] * found["standard_error"].values.max()
    assert f"{100 * lead:.1f}\u00a0points" in table


def test_equal_models_do_not_cross() -> None:
    same = np.tile(np.linspace(0, 9 / 255, 300), (2, 1, 1))
    distance = np.random.default_rng(0).permuted(same, axis=-1)
    cube = handmade_cube(
        models=("a", "b"), samples=300, attacks=("x",), norms={"linf": GRID}, distances={"linf": distance}
    )
    figure = figure_of(cube)
    found = rankings.from_cube(cube, "linf")
    lead = 100 * found.attrs["critical"] * found["standard_error"].values.max()
    assert "no crossing is certain for ε from 0 to 0.0314" in figure.finding
    assert f"leads below {lead:.1f}\u00a0points cannot be excluded" in figure.finding
    assert {row[6] for row in figure.data.rows} == {VERDICTS[0]}


def test_a_pair_that_crosses_twice_is_one_pair() -> None:
    """The first leads, trails and leads again; both fall only."""
    places, samples = np.array([0, 2, 4, 8, np.inf]) / 255, 1000
    first, second = [0.1, 0.6, 0.0, 0.0, 0.3], [0.4, 0.0, 0.5, 0.1, 0.0]  # shares that break there
    random = np.random.default_rng(0)
    rows = [
        random.permutation(np.repeat(places, [round(samples * s) for s in shares]))
        for shares in (first, second)
    ]
    cube = handmade_cube(
        models=("a", "b"),
        attacks=("x",),
        samples=samples,
        norms={"linf": GRID},
        distances={"linf": np.stack(rows)[:, None]},
    )
    accuracy = [[np.mean(row > epsilon) for epsilon, _ in GRID] for row in rows]
    order = np.sign(np.subtract(*accuracy))
    assert (np.diff(order[order != 0]) != 0).sum() == 2
    finding = figure_of(cube).finding
    assert "1 pair of curves certainly changes places 2 times in all" in finding


def test_models_left_out_are_named() -> None:
    cube = handmade_cube(models=("a", "b", "c"), failed={("linf", "b", "square"): "x"})
    assert "Left out, since their results are not complete: b." in figure_of(cube).covers
    none = figure_of(handmade_cube(models=("a", "b"), distances={"linf": np.full((2, 2, 60), np.inf)}))
    assert "fewer than 10 samples tell any two models apart" in none.finding
    assert "not available" in none.table


def test_without_two_complete_models_there_is_no_figure() -> None:
    names = {figure.name for figure in figures.make_figures(handmade_cube(models=["only"]))}
    assert not any(name.startswith("crossings") for name in names)
    failed = handmade_cube(models=["a", "b"], failed={("linf", "a", "square"): "x"})
    assert not any(f.name.startswith("crossings") for f in figures.make_figures(failed))
    one = handmade_cube(norms={"linf": [(0.1, "0.1")]})
    assert not any(f.name.startswith("crossings") for f in figures.make_figures(one))
