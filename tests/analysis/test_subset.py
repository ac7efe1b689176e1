"""A part of a cube against a cube made of that part only."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from handmade_cube import handmade_cube

from metaeval.analysis import curves, paired, rankings, subset
from metaeval.errors import UsageError
from metaeval.report.page import render

MODELS, CLASSES, ATTACKS = ("a", "b", "c"), ("cat", "dog", "ship"), ("apgd-ce", "square", "fab")
LABELS = np.random.default_rng(5).integers(0, 3, 80)
DISTANCES = np.random.default_rng(6).exponential(2 / 255, (3, 3, 80))
DISTANCES[:, :, ::9] = 0.0
COMPARED = ("robust_accuracy", "correct", "inferred", "total", "evaluated")


def whole() -> xr.DataTree:
    cube = handmade_cube(
        models=MODELS,
        classes=CLASSES,
        attacks=ATTACKS,
        labels=LABELS,
        samples=80,
        distances={"linf": DISTANCES},
    )
    group = cube["samples/clean"].to_dataset()
    logits = np.random.default_rng(7).normal(size=(3, 80, 3)).astype(np.float32)
    group["logits"] = (("model", "sample", "logit"), logits)
    group = group.assign_coords(logit=[0, 1, 2])
    group["prediction"] = (("model", "sample"), logits.argmax(-1))
    cube["samples/clean"] = xr.DataTree(group)
    return cube


def test_a_part_equals_a_cube_of_that_part() -> None:
    cube = whole()
    found = subset.subset(cube, models=["c", "a"], classes=["ship", "dog"], attacks=["square", "fa?"])
    rows = np.flatnonzero(LABELS > 0)
    expected = handmade_cube(
        models=("a", "c"),
        classes=("dog", "ship"),
        attacks=("square", "fab"),
        labels=LABELS[rows] - 1,
        samples=len(rows),
        distances={"linf": DISTANCES[np.ix_([0, 2], [1, 2], rows)]},
    )
    for name in COMPARED:
        np.testing.assert_array_equal(found["linf"][name].values, expected["linf"][name].values, err_msg=name)
    for face in (curves.from_cube, lambda c, n: paired.breaking_levels(c, n).to_dataset(name="d")):
        np.testing.assert_array_equal(face(found, "linf").to_array(), face(expected, "linf").to_array())
    for epsilon in (0.0, 2 / 255):
        alone = [paired.only_this_attack(c, "linf", epsilon) for c in (found, expected)]
        np.testing.assert_array_equal(*alone)
    assert rankings.from_cube(found, "linf").sizes["pair"] == 1
    assert json.loads(found.attrs["subset"])["class"] == [["dog", "ship"], 3]


def test_classes_are_numbered_anew_in_predictions_and_logits() -> None:
    cube = whole()
    found = subset.subset(cube, classes=["ship"])["samples/clean"]
    old = cube["samples/clean"].to_dataset().isel(sample=np.flatnonzero(LABELS == 2))
    assert (found["label"] == 0).all()
    right = old["prediction"].values == 2
    np.testing.assert_array_equal(found["prediction"].values == 0, right)
    np.testing.assert_array_equal(found["logits"].values.argmax(-1), found["prediction"].values)
    np.testing.assert_array_equal(found["logits"].values[..., 0], old["logits"].values[..., 2])


def test_without_the_attack_that_failed_there_is_a_worst_case() -> None:
    cube = handmade_cube(attacks=ATTACKS, failed={("linf", "plain", "fab"): "out of memory"})
    assert np.isnan(cube["linf"]["robust_accuracy"].sel(model="plain", attack="worst-case")).all()
    found = subset.subset(cube, attacks=["apgd-ce", "square"])["linf"]["robust_accuracy"]
    assert not found.sel(model="plain", attack="worst-case").isnull().any()


def test_the_study_says_what_the_page_covers() -> None:
    cube = whole()
    study = json.loads(cube.attrs["study"])
    assert subset.of_study(cube) is cube
    study["analysis"]["models"] = ["a", "b"]
    cube.attrs["study"] = json.dumps(study)
    part = subset.of_study(cube)
    assert list(part["linf"]["model"].values) == ["a", "b"]
    assert "only 2 of 3 models, as [analysis] says" in render(part)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"models": ["d*"]}, "no model of the cube is called 'd*'; there are a, b, c"),
        ({"classes": ["shp"]}, "did you mean 'ship'?"),
        ({"attacks": ["worst-case"]}, "no attack of the cube is called 'worst-case'"),
    ],
)
def test_what_is_not_there_is_refused(chosen: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        subset.subset(whole(), **chosen)
    assert message in str(raised.value)
