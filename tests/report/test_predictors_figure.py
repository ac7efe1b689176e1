"""Which measures go with robustness, on the page: planted relations are said, too few models say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from handmade_cube import handmade_cube
from test_predictors_and_claims import RANDOM, STRENGTH, cube_with

from metaeval.analysis import notions
from metaeval.report import figures, page
from metaeval.report.charts import predictors as charts


def made(cube: object) -> list[figures.Figure]:
    return [f for f in figures.make_figures(cube) if f.name == "predictors"]  # type: ignore[arg-type]


def test_a_planted_measure_is_said_first_with_the_claims() -> None:
    cube = cube_with({"flatness": ("sharpness", -1, -STRENGTH), "noise": ("norm", -1, RANDOM)})
    (figure,) = made(cube)
    assert "flatness goes with all" in figure.finding
    assert "Sharpness goes with relative robustness under attack: supported" in figure.finding
    assert figure.finding in page.render(cube)
    found = notions.correlations(cube)
    for measure, notion, partial, lower, upper, *_, certain in figure.data.rows:
        at = found.sel(measure=measure, notion=notion)
        assert partial == (None if np.isnan(at["partial"]) else round(float(at["partial"]), 4))
        assert certain == bool(lower is not None and upper is not None and (lower > 0 or upper < 0))
    assert any(row[-1] for row in figure.data.rows if row[0] == "flatness")
    assert "Intervals need" not in figure.covers


def test_measures_and_notions_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(name: str) -> None:
        whole = getattr(notions, name)

        def reading(cube: object) -> object:
            read.append(name)
            return whole(cube)

        monkeypatch.setattr(notions, name, reading)

    counted("measures")
    counted("robustness")
    assert charts.figures(cube_with({"flatness": ("sharpness", -1, -STRENGTH)}))
    assert sorted(read) == ["measures", "robustness"]


def test_too_few_families_are_said_and_too_few_models_show_nothing() -> None:
    (figure,) = made(cube_with({"flatness": ("sharpness", -1, -STRENGTH)}, families=3))
    assert "Intervals need 5 families of models; there are 3." in figure.covers
    assert "not estimable" in figure.finding
    assert not any(row[-1] for row in figure.data.rows)
    assert "not available" in figure.table
    assert made(handmade_cube()) == []


def test_values_on_shifted_data_are_left_to_the_cube() -> None:
    cube = cube_with({"a": ("performance", 1, STRENGTH)})
    group = cube["measures"].to_dataset()
    both = group.isel(scope=[0, 0])
    both["scope"] = np.array(["clean", "fog/3"], dtype=np.dtypes.StringDType())
    cube["measures"] = both
    (figure,) = made(cube)
    assert {row[0] for row in figure.data.rows} >= {"a (clean)"}
    assert "a (fog/3)" not in {row[0] for row in figure.data.rows}
