"""What a study's `[analysis]` says is what every face of a cube uses unless told otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import xarray as xr
from handmade_cube import handmade_cube
from shifted_cube import shifted_cube

from metaeval.analysis import class_drops, class_variance, classes, curves, rankings, shift_faces, tables
from metaeval.analysis.reading import given_alpha, given_confidence, given_seed

STUDY = {"analysis": {"confidence": 0.5, "seed": 3, "crossings": {"confidence": 0.6}}}
FACES: dict[str, Callable[..., xr.Dataset]] = {
    "curves": lambda cube, **given: curves.from_cube(cube, "linf", **given),
    "clean": curves.clean_from_cube,
    "classes": lambda cube, **given: classes.from_cube(cube, "linf", **given),
    "drops": lambda cube, **given: class_drops.from_cube(cube, "linf", "apgd-ce", **given),
    "variance": lambda cube, **given: class_variance.from_cube(cube, "linf", "apgd-ce", **given),
    "tables": lambda cube, **given: tables.at_epsilon(cube, "linf", 4 / 255, **given),
}


def asked(cube: xr.DataTree) -> xr.DataTree:
    cube.attrs["study"] = json.dumps(STUDY)
    return cube


@pytest.mark.parametrize("name", list(FACES))
def test_confidence_and_seed_are_the_study_s(name: str) -> None:
    face, cube = FACES[name], asked(handmade_cube())
    seeded = {"seed": 3} if name in ("drops", "variance") else {}
    xr.testing.assert_identical(face(cube), face(cube, confidence=0.5, **seeded))
    assert not face(cube).equals(face(cube, confidence=0.95, **seeded))


def test_shifts_and_crossings() -> None:
    cube = asked(shifted_cube())
    for face in (shift_faces.from_cube, shift_faces.clean_differences):
        xr.testing.assert_identical(face(cube), face(cube, confidence=0.5))
    cube = asked(handmade_cube())
    found = rankings.from_cube(cube, "linf", "apgd-ce")
    assert found.attrs["alpha"] == pytest.approx(0.4)
    assert (
        found.attrs["critical"] == rankings.from_cube(cube, "linf", "apgd-ce", 0.4, seed=3).attrs["critical"]
    )
    assert (given_confidence(cube, None), given_seed(cube, None)) == (0.5, 3)
    assert (given_confidence(cube, 0.9), given_seed(cube, 0), given_alpha(cube, 0.1)) == (0.9, 0, 0.1)
