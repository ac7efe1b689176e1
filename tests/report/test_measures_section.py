"""The section about measures: values with intervals, and a reason wherever there is none."""

from __future__ import annotations

import re

import numpy as np
import xarray as xr

from metaeval.cube.layout import GROUPS, MEASURE_STATUS
from metaeval.report.measures import measures_section

MODELS, MEASURES, SCOPES = ["a<b", "second"], ["accuracy", "gamma", "pgd"], ["clean", "train", "fog/3"]


def cube() -> xr.DataTree:
    """Return two models: one complete, one with a failed and an undefined measure."""
    ok, shape = MEASURE_STATUS["ok"], (2, 3, 3)
    status, reason = np.full(shape, ok), np.full(shape, "", dtype=object)
    status[:, 2], reason[:, 2] = MEASURE_STATUS["skipped"], "computed on attacked copies only"
    status[1, 0, 0], reason[1, 0, 0] = MEASURE_STATUS["failed"], "ValueError: <no>"
    status[:, 1, 0], reason[:, 1, 0] = MEASURE_STATUS["undefined"], "gamma is not above 0"
    value = np.where(status == ok, np.arange(18).reshape(shape) - 1.5, np.nan)
    dims = ("model", "measure", "scope")
    text = {name: ("measure", [f"{name} of {m}" for m in MEASURES]) for name in ("definition", "citation")}
    dataset = xr.Dataset(
        {
            "value": (dims, value),
            "lower": (dims, value - 0.25),
            "upper": (dims, np.where(np.arange(3) == 1, np.nan, value + 0.25)),
            "status": (dims, status.astype(np.uint8), dict(GROUPS["measures"]["status"].attributes)),
            "reason": (dims, reason),
            "note": (dims, np.where(status == ok, "a heuristic", "")),
        },
        {
            "model": MODELS,
            "measure": MEASURES,
            "scope": SCOPES,
            "family": ("measure", ["performance", "margin", "attacked"]),
            "settings": ("measure", ["{}"] * 3),
            "caveats": ("measure", [""] * 3),
            **text,
        },
    )
    return xr.DataTree.from_dict({"measures": dataset})


def rows(family: str) -> list[str]:
    table = measures_section(cube()).split(f"<summary>{family}</summary>")[1].split("</table>")[0]
    return [re.sub(r"<wbr>", "", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]


def test_values_stand_with_their_intervals_in_the_first_scope_that_has_any() -> None:
    header, first, second = rows("Performance")
    assert "accuracy (clean)" in header
    assert ">−1.5<small>−1.75 to −1.25</small><small>a heuristic</small><" in first
    assert "a&lt;b" in first
    assert '<td class="failed">failed<small>ValueError: &lt;no&gt;</small></td>' in second
    header, first, second = rows("Margin")
    assert "gamma (train)" in header
    assert ">2.5<small>2.25 to ?</small>" in first
    assert ">11.5<" in second


def test_what_is_skipped_everywhere_says_why() -> None:
    assert (
        '<td class="missing">skipped<small>computed on attacked copies only</small></td>'
        in rows("Attacked")[1]
    )


def test_the_sentence_counts_what_is_there() -> None:
    section = measures_section(cube())
    assert "3 measures of 2 models in 3 scopes" in section
    # 12 cells of two measures apply: one failed, two undefined.
    assert "9 of 12 values are there; 2 undefined and 1 failed, each with its reason" in section
    assert "definition of gamma" in section


def test_without_measures_there_is_no_section() -> None:
    assert measures_section(xr.DataTree.from_dict({"clean": xr.Dataset()})) == ""
