"""Random effects, Egger's and the rank test against metafor on forty data sets (`benchmarks/metafor.R`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metaeval.analysis import literature, meta

METAFOR = json.loads(Path(__file__).with_name("metafor.json").read_text(encoding="utf-8"))
VERSION = METAFOR.pop("version")
DIGITS = 5e-8


def close(mine: Any, theirs: Any, absolute: float = 0.0) -> None:
    np.testing.assert_allclose(mine, theirs, rtol=DIGITS, atol=absolute)


@pytest.mark.parametrize("name", list(METAFOR))
def test_metafor_agrees(name: str) -> None:
    data = METAFOR[name]
    y, v, x = data["y"], data["v"], data.get("x")
    for words, theirs in data["fits"].items():
        method, test = words.split()
        mine = meta.random_effects(y, v, x, method=method, test=test)
        least = 1e-9 * float(np.median(v))  # a variance that is nothing beside the sampling variances
        close(mine.tau2, theirs["tau2"], least)
        close(mine.i2, theirs["i2"], 1e-6)
        close(mine.h2, theirs["h2"], 1e-8)
        error = np.array(theirs["standard_error"])
        close(mine.standard_error, error)
        small = 1e-8 * float(error.max())
        close(mine.estimate, theirs["estimate"], small)
        close(mine.upper, theirs["upper"], small)
        close(mine.lower, 2 * np.array(theirs["estimate"]) - theirs["upper"], small)
        close(mine.p, theirs["p"], 1e-10)
        if "q" in theirs:
            close((mine.q, mine.q_p), (theirs["q"], theirs["q_p"]), 1e-10)
        if "prediction" in theirs:
            close(mine.prediction, theirs["prediction"], small)
        else:
            assert np.isnan(mine.prediction).all()
        if "profile" in theirs:
            close((mine.tau2_lower, mine.tau2_upper), theirs["profile"], least)
    if "egger" in data:
        close(literature.egger(y, v), data["egger"], 1e-10)
        close(literature.rank_test(y, v), data["rank"], 1e-10)


def test_the_data_sets_are_many_and_of_all_kinds() -> None:
    fits = [fit for data in METAFOR.values() for fit in data["fits"].values()]
    assert VERSION == "3.8.1"
    assert len(METAFOR) == 40
    assert sum("x" in data for data in METAFOR.values()) >= 12
    assert sum("rank" in data for data in METAFOR.values()) >= 20
    assert sum(fit["tau2"] == 0 for fit in fits) > 80  # all of FE are 40
    # With more than 33 studies scipy's p value is not exact by itself.
    assert max(len(data["y"]) for data in METAFOR.values()) > 33
