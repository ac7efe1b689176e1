"""The stages of a cascade on the page: shown only where there are some, in percent, with what they cost."""

from __future__ import annotations

import json
import re

import altair as alt
import numpy as np
import xarray as xr
from handmade_cube import handmade_cube, text

from metaeval.analysis import stages
from metaeval.report import figures, page

STAGES = ["apgd-ce", "apgd-t", "square"]
AFTER = np.array([0.5, 0.45, 0.45])  # at 2/255; whole multiples of 1/60 are not needed here


def with_cascade(missing: str = "") -> xr.DataTree:
    """Return a cube whose second attack is a cascade; `missing` names a model without results of it."""
    cube = handmade_cube(attacks=["pgd", "autoattack-standard"], models=["plain", "robust"])
    linf = cube["linf"].to_dataset()
    shape = (linf.sizes["model"], linf.sizes["epsilon"], len(STAGES))
    accuracy = np.broadcast_to(AFTER, shape).copy()
    accuracy[:, 0] = 0.9
    accuracy[1] += 0.1
    seconds = np.broadcast_to([60.0, 90.0, 6.0], shape).copy()
    if missing:
        row = linf.model.values.tolist().index(missing)
        accuracy[row] = seconds[row] = np.nan
    linf["stage_accuracy"] = (("model", "epsilon", "stage"), accuracy)
    linf["stage_seconds"] = (("model", "epsilon", "stage"), seconds)
    linf = linf.assign_coords(stage=text(STAGES))
    linf.attrs["cascade"] = "autoattack-standard"
    cube["linf"] = xr.DataTree(linf)
    return cube


def made(cube: xr.DataTree) -> list[figures.Figure]:
    return [figure for figure in figures.make_figures(cube) if figure.name.startswith("cascade")]


def test_a_cube_without_a_cascade_shows_none() -> None:
    assert made(handmade_cube()) == []
    assert stages.cascade(handmade_cube(), "linf") == ""
    assert "stage attacks only" not in page.render(handmade_cube())


def test_stages_at_an_epsilon() -> None:
    cube = with_cascade()
    frame = stages.at_epsilon(cube, "linf", 2 / 255)
    assert list(frame.columns) == list(stages.COLUMNS)
    assert frame["stage"].tolist() == ["clean", *STAGES] * 2
    plain = frame[frame["model"] == "plain"]
    clean = cube["clean"].to_dataset()
    share = float(clean.correct.sel(model="plain").sum() / clean.total.sum())
    np.testing.assert_allclose(plain["accuracy"], [share, *AFTER])
    np.testing.assert_allclose(plain["delta"][1:], [0.5 - share, -0.05, 0.0], atol=1e-12)
    assert np.isnan(plain["delta"].iloc[0])
    np.testing.assert_allclose(plain["seconds"][1:], [60, 90, 6])


def test_the_figure_shows_percent_changes_and_minutes() -> None:
    (figure,) = made(with_cascade())
    assert figure.name == "cascade-linf-0"
    assert "autoattack-standard" in figure.title
    assert figure.reading.endswith(".")
    assert figure.spec is not None
    alt.Chart.from_dict({**figure.spec, "width": 300})
    json.dumps(figure.data.rows, allow_nan=False)
    rows = re.findall(r"<tr>(.*?)</tr>", figure.table)
    words = [re.sub(r"<[^>]+>", " ", row).replace("\u00a0", " ").split() for row in rows]
    targeted = next(row for row in words if row[:3] == ["plain", "apgd-t", "45.0"])
    assert targeted == ["plain", "apgd-t", "45.0", "%", "−5.0", "points", "1.5"]
    assert "The stages of autoattack-standard" in page.render(with_cascade())


def test_what_is_missing_is_not_shown_as_a_number() -> None:
    (figure,) = made(with_cascade(missing="robust"))
    rows = [row for row in figure.data.rows if row[0] == "robust" and row[1] != "clean"]
    assert rows == [["robust", stage, None, None, None] for stage in STAGES]
    assert figure.table.count('class="missing"') == 9
    assert figure.spec is not None


def test_nothing_is_drawn_while_no_stage_is_known() -> None:
    cube = with_cascade()
    linf = cube["linf"].to_dataset()
    linf["stage_accuracy"] = linf["stage_accuracy"] * np.nan
    cube["linf"] = xr.DataTree(linf)
    (figure,) = made(cube)
    assert figure.spec is None
