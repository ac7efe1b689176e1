"""Distribution shifts on the page: only where there are some, with every number in a table."""

from __future__ import annotations

import re

import altair as alt
import numpy as np
import pytest
import xarray as xr
from handmade_cube import handmade_cube
from shifted_cube import shifted_cube

from metaeval.analysis import shift_faces
from metaeval.report import figures, page


def made(cube: xr.DataTree) -> dict[str, figures.Figure]:
    return {figure.name: figure for figure in figures.make_figures(cube) if figure.name.startswith("shift")}


def test_a_cube_without_shifts_shows_none() -> None:
    assert made(handmade_cube()) == {}
    assert "Distribution shifts" not in page.render(handmade_cube())


def test_both_figures_are_valid_and_described() -> None:
    found = made(shifted_cube())
    assert list(found) == ["shifts", "shift-differences"]
    for figure in found.values():
        assert figure.spec is not None
        alt.Chart.from_dict({**figure.spec, "width": 300})
        assert figure.reading.endswith(".")
        assert figure.description.endswith(".")
        assert "95" in figure.covers
        assert "<caption>" in figure.table
        # Colour is never alone: shapes tell models apart too.
        assert "shape" in str(figure.spec)


def test_rows_are_the_faces_numbers() -> None:
    cube = shifted_cube()
    found, face = made(cube), shift_faces.from_cube(cube)
    data = found["shifts"].data
    rows = {(row[0], row[2], row[3]): dict(zip(data.columns, row, strict=True)) for row in data.rows}
    assert set(rows) == {
        (shift, severity, model)
        for shift, severities in {"fog": "13", "new": "–"}.items()
        for severity in severities
        for model in ("plain", "robust", "middle")
    }
    at = face.sel(model="plain", shift="fog", severity=3)
    row = rows["fog", "3", "plain"]
    assert row["accuracy"] == pytest.approx(float(at["accuracy"]), abs=1e-6)
    assert row["lower"] < row["accuracy"] < row["upper"]
    assert rows["fog", "1", "middle"]["accuracy"] is None
    assert rows["fog", "1", "middle"]["status"] == "failed"
    change = shift_faces.clean_differences(cube)
    differences = found["shift-differences"].data
    numbers = {(row[0], row[1]): dict(zip(differences.columns, row, strict=True)) for row in differences.rows}
    value = float(change["difference"].sel(model="robust", shift="new"))
    assert numbers["new", "robust"]["difference"] == pytest.approx(value, abs=1e-6)
    assert (numbers["fog", "plain"]["paired"], numbers["new", "plain"]["paired"]) == ("yes", "no")


def test_what_is_missing_or_not_estimable_is_said() -> None:
    found = made(shifted_cube())
    text = re.sub(r"<wbr>", "", found["shifts"].table)
    assert "failed" in text
    assert "out of fog" in text
    table = found["shift-differences"].table
    assert table.count("not estimable") == 6
    assert "four are needed" in re.sub(r"<wbr>", "", table)
    everything = shifted_cube(failed=[(m, s) for m in ("plain", "robust", "middle") for s in ("fog", "new")])
    assert all(figure.spec is None for figure in made(everything).values())
    rendered = page.render(everything)
    assert "Nothing to draw yet" in rendered
    assert "Distribution shifts and their settings" in rendered


def test_effective_robustness_of_many_models() -> None:
    cube = shifted_cube(models=[f"m{i}" for i in range(6)], failed=())
    assert "not estimable" not in made(cube)["shift-differences"].table
    effective = shift_faces.clean_differences(cube)["effective"]
    assert np.isfinite(effective).all()
