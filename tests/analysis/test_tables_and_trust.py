"""Tables and signs of doubt on cubes whose content is known."""

from __future__ import annotations

import numpy as np
import pytest
from handmade_cube import handmade_cube, text

from metaeval.analysis import reading, tables, trust
from metaeval.errors import UsageError


def test_at_epsilon_says_why_a_number_is_not_there() -> None:
    cube = handmade_cube(
        failed={("linf", "plain", "square"): "out of memory"}, pending=[("linf", "robust", "apgd-ce")]
    )
    at = tables.at_epsilon(cube, "linf", 2 / 255)
    plain = at.sel(model="plain")
    assert plain["status"].values.tolist() == ["failed", "ok", "failed"]
    assert plain["reason"].values.tolist() == ["square failed", "", "out of memory"]
    assert at["status"].sel(model="robust").values.tolist() == ["pending", "pending", "ok"]
    assert np.isnan(plain["accuracy"].sel(attack="worst-case"))


def test_inferred_share_counts_samples() -> None:
    cube = handmade_cube(models=["m"], attacks=["x"])
    at = tables.at_epsilon(cube, "linf", 1 / 255).sel(model="m", attack="x")
    cells = cube["samples/linf"]["cell"].values[0, 0, :, 1]
    assert float(at["inferred"]) == np.mean(cells == 6)
    assert float(at["accuracy"]) == np.mean((cells == 5) | (cells == 6))


def test_costs_keep_what_failed_as_not_available() -> None:
    cube = handmade_cube(failed={("linf", "plain", "square"): "x"})
    frame = tables.costs(cube)
    assert len(frame) == 3 * 2 * 2
    gone = frame[(frame["model"] == "plain") & (frame["attack"] == "square")]
    assert gone[["seconds", "forwards", "backwards"]].isna().all(axis=None)
    kept = frame[frame["model"] == "middle"]
    assert kept["forwards"].sum() == 2 * (100 * 60 + 60)
    assert tables.costs(handmade_cube(norms={}, attacks=[])).empty


def test_incomplete_and_attack_table() -> None:
    cube = handmade_cube(failed={("linf", "plain", "square"): "why"}, reduced={"square": "queries 500"})
    assert tables.incomplete(cube).to_dict("records") == [
        {"norm": "linf", "model": "plain", "attack": "square", "status": "failed", "reason": "why"}
    ]
    assert tables.attack_table(cube)["reduced"].tolist() == ["", "queries 500"]


def test_model_table_leaves_out_what_nobody_has() -> None:
    cube = handmade_cube()
    group = cube["models"].to_dataset()
    group["published_accuracy"] = ("model", text(["", "", ""]))  # no model has one: stored as text
    group["dropout"] = ("model", [0.1, np.nan, 0.3])
    cube["models"] = type(cube)(group)
    frame = tables.model_table(cube)
    assert "published_accuracy" not in frame
    assert frame["dropout"].tolist() == [0.1, "", 0.3]
    assert list(frame.columns)[:3] == ["model", "family", "architecture"]
    assert list(frame.columns)[-1] == "weights_sha256"
    assert trust.signs(cube) == []


def test_signs() -> None:
    cube = handmade_cube(
        flags={
            ("linf", "plain", "apgd-ce", "zero_gradient"): 0.3,
            ("linf", "plain", "square", "zero_gradient"): 0.1,
            ("linf", "robust", "apgd-ce", "zero_gradient"): 0.001,
        },
        pending=[("linf", "middle", "square")],
    )
    cube["linf"]["overruled"][1, 2, 1] = 4
    found = {(sign.model, sign.kind): sign for sign in trust.signs(cube)}
    gradient = found["plain", "zero_gradient"]
    assert (gradient.value, gradient.where, gradient.serious) == (0.3, ("linf apgd-ce", "linf square"), True)
    assert not found["robust", "zero_gradient"].serious
    assert found["robust", "overruled"].value == 4
    assert found["middle", "incomplete"].where == ("linf square",)
    assert len(found) == 4


@pytest.mark.parametrize(("claim", "doubted"), [(0.9, False), (0.99, True), (0.5, True), (np.nan, False)])
def test_published_accuracy(claim: float, doubted: bool) -> None:
    cube = handmade_cube(models=["m"], samples=300, seed=1)
    group = cube["models"].to_dataset()
    group["published_accuracy"] = ("model", [claim])
    cube["models"] = type(cube)(group)
    assert [sign.kind for sign in trust.signs(cube)] == (["published"] if doubted else [])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["2/255"], ["2/255"]),
        (["4/255", "1/255"], ["1/255", "4/255"]),
        ([2 / 255], ["2/255"]),
        ([{"value": 4 / 255, "label": "4/255"}], ["4/255"]),
        (["0.5", "2/255"], ["2/255"]),
    ],
)
def test_reference_epsilons(wanted: list[object], found: list[str]) -> None:
    cube = handmade_cube(reference=wanted)  # type: ignore[arg-type]
    references = reading.references(cube, "linf")
    assert [reference.label for reference in references] == found
    assert all(reference.chosen for reference in references)


def test_a_middle_epsilon_stands_in() -> None:
    (reference,) = reading.references(handmade_cube(reference=["0.031"]), "linf")
    assert (reference.label, reference.chosen) == ("2/255", False)
    assert reading.references(handmade_cube(norms={"linf": [(0.0, "0")]}), "linf") == []


def test_unknown_group() -> None:
    with pytest.raises(UsageError, match="l1"):
        reading.norm_dataset(handmade_cube(), "l1")
