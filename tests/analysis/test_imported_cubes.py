"""Analyses of imported cubes: what rests on per-sample outcomes is refused in words, the rest is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from metaeval import refining
from metaeval.analysis import (
    class_drops,
    class_variance,
    notions,
    paired,
    published,
    rankings,
    refinement,
    shift_faces,
    stages,
    tables,
)
from metaeval.analysis.subset import subset
from metaeval.cube import importing
from metaeval.cube.opening import open_cube
from metaeval.errors import UsageError
from metaeval.report import page
from metaeval.sources.published import predictions, table
from metaeval.sources.published.content import Published

ATTACKED = """model,epsilon,attack,accuracy
a,0,pgd,0.9
a,8/255,pgd,0.5
a,8/255,square,0.6
b,0,pgd,0.8
b,8/255,pgd,0.4
b,8/255,square,0.45
"""
MAPPING = 'layout = "long"\n[columns]\nepsilon = "epsilon"\nattack = "attack"\n[constants]\nnorm = "linf"\n'


def cube_of(result: Published, folder: Path) -> xr.DataTree:
    parts = result.models, result.columns, result.groups, result.provenance(), result.attributes
    importing.write(folder / "cube", *parts, name=result.name, title=result.title)
    return open_cube(folder / "cube")


@pytest.fixture
def attacked(tmp_path: Path) -> xr.DataTree:
    (tmp_path / "t.csv").write_text(ATTACKED)
    (tmp_path / "m.toml").write_text(MAPPING)
    return cube_of(table.read(tmp_path / "t.csv", tmp_path / "m.toml"), tmp_path)


@pytest.mark.parametrize(
    "analysis",
    [
        lambda cube: class_variance.from_cube(cube, "linf"),
        lambda cube: class_drops.from_cube(cube, "linf"),
        lambda cube: rankings.from_cube(cube, "linf"),
        lambda cube: refinement.from_cube(cube, "linf", 0.001),
        lambda cube: paired.outcomes(cube, "linf", 8 / 255),
        lambda cube: tables.at_epsilon(cube, "linf", 8 / 255),
        published.paired_with_best,
    ],
)
def test_what_rests_on_samples_is_refused(
    attacked: xr.DataTree, analysis: Callable[[xr.DataTree], Any]
) -> None:
    with pytest.raises(UsageError, match="not estimable: the cube holds no per-sample outcomes"):
        analysis(attacked)


def test_what_is_not_there_is_said(attacked: xr.DataTree, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cascade"):
        stages.at_epsilon(attacked, "linf", 8 / 255)
    with pytest.raises(UsageError, match="no group 'shifts'"):
        shift_faces.from_cube(attacked)
    assert refining.advise(attacked).sentence().startswith("nothing can be refined")
    names = [f"s{i}" for i in range(9)]
    (tmp_path / "w.csv").write_text(f"model,clean,{','.join(names)}\na{',90' * 10}\nb{',80' * 10}\n")
    with pytest.raises(UsageError, match="of 9 shifts, more than 8, none is a notion"):
        notions.robustness(cube_of(table.read(tmp_path / "w.csv"), tmp_path))


def test_the_worst_case_of_one_chosen_attack_is_its_own(attacked: xr.DataTree) -> None:
    both = attacked["linf"]["robust_accuracy"].sel(attack="worst-case", epsilon=8 / 255)
    assert np.isnan(both).all()
    square = subset(attacked, attacks=["square"])
    worst = square["linf"].to_dataset()["robust_accuracy"].sel(attack="worst-case", epsilon=8 / 255)
    np.testing.assert_array_equal(worst.values.ravel(), [0.6, 0.45])
    every = subset(attacked, attacks=["*"])
    assert np.isnan(every["linf"]["robust_accuracy"].sel(attack="worst-case", epsilon=8 / 255)).all()
    assert "square" in page.render(square)


def test_a_missing_prediction_under_shift_is_not_a_wrong_one(tmp_path: Path) -> None:
    label = np.arange(40) % 4
    said = np.stack([label, label]).astype(float)
    shifted = said.copy()
    shifted[1, :3] = np.nan
    arrays = {"label": label, "prediction": said, "label_v2": label, "prediction_v2": shifted}
    np.savez(tmp_path / "p.npz", **arrays, model=["whole", "holes"])
    cube = cube_of(predictions.read([tmp_path / "p.npz"]), tmp_path)
    found = shift_faces.clean_differences(cube)["accuracy"].sel(shift="v2")
    assert float(found.sel(model="whole")) == 1
    assert np.isnan(found.sel(model="holes"))
