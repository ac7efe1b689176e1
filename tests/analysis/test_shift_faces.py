"""Faces of shifts from a cube made by hand, against counting one by one and other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from shifted_cube import SEVERITIES, logits_of, shifted_cube
from sklearn.metrics import log_loss
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from metaeval.analysis import shift_faces, shifts


@pytest.fixture(scope="module")
def cube() -> xr.DataTree:
    return shifted_cube()


def test_accuracies_and_intervals_at_every_severity(cube: xr.DataTree) -> None:
    face = shift_faces.from_cube(cube)
    assert face["accuracy"].dims == ("model", "shift", "severity")
    for shift, severities in SEVERITIES.items():
        group = cube[f"samples/shifts/{shift}"].to_dataset()
        for model in ("plain", "robust"):
            for severity in severities:
                place = {"model": model, "shift": shift, "severity": severity}
                logits = group["logits"].sel(model=model, severity=severity).values
                right = int((logits.argmax(axis=1) == group["label"].values).sum())
                at = face.sel(place)
                assert int(at["correct"]) == right
                n = group.sizes["sample"]
                lower, upper = proportion_confint(right, n, method="wilson")
                np.testing.assert_allclose([at["lower"], at["upper"]], [lower, upper], atol=1e-12)
                p = np.exp(logits.astype(float))
                loss = log_loss(group["label"].values, p / p.sum(axis=1, keepdims=True), labels=[0, 1, 2])
                np.testing.assert_allclose(at["log_loss"], loss, rtol=1e-6)
    assert face["accuracy"].sel(shift="new", severity=3).isnull().all()
    assert face["status"].sel(shift="fog").values.tolist() == ["ok", "ok", "failed"]
    assert face["accuracy"].sel(model="middle", shift="fog").isnull().all()


def test_differences_are_paired_where_samples_are(cube: xr.DataTree) -> None:
    face = shift_faces.clean_differences(cube)
    assert face["paired"].values.tolist() == [True, False]
    clean = cube["samples/clean"].to_dataset()
    before = (clean["prediction"].values == clean["label"].values).astype(float)
    fog = cube["samples/shifts/fog"].to_dataset()
    for i, model in enumerate(("plain", "robust")):
        after = np.mean(
            [
                fog["prediction"].sel(model=model, severity=s).values == fog["label"].values
                for s in SEVERITIES["fog"]
            ],
            axis=0,
        )
        change = after - before[i, : len(after)]
        at = face.sel(model=model, shift="fog")
        np.testing.assert_allclose(at["difference"], change.mean())
        # With this many samples the interval is close to that of the paired t test.
        low, high = stats.t.interval(0.95, len(change) - 1, change.mean(), stats.sem(change))
        np.testing.assert_allclose([at["lower"], at["upper"]], [low, high], atol=0.02)
        np.testing.assert_allclose(at["retained"], after.mean() / before[i, : len(after)].mean())
        # The other set: Newcombe's interval of two independent shares.
        new = cube["samples/shifts/new"].to_dataset()
        right = int((new["prediction"].sel(model=model, severity=0) == new["label"]).sum())
        other = face.sel(model=model, shift="new")
        low, high = confint_proportions_2indep(
            right, new.sizes["sample"], int(before[i].sum()), before.shape[1], method="newcomb"
        )
        np.testing.assert_allclose(other["difference"], right / new.sizes["sample"] - before[i].mean())
        np.testing.assert_allclose([other["lower"], other["upper"]], [low, high], atol=0.01)
    assert np.isnan(face["difference"].sel(model="middle", shift="fog"))


def test_log_loss_changes_by_what_scikit_learn_says(cube: xr.DataTree) -> None:
    face = shift_faces.clean_differences(cube)
    clean = cube["samples/clean"].to_dataset()
    new = cube["samples/shifts/new"].to_dataset()

    def loss(logits: np.ndarray, labels: np.ndarray) -> float:
        p = np.exp(logits.astype(float))
        return float(log_loss(labels, p / p.sum(axis=1, keepdims=True), labels=[0, 1, 2]))

    before = loss(clean["logits"].sel(model="robust").values, clean["label"].values)
    after = loss(new["logits"].sel(model="robust", severity=0).values, new["label"].values)
    np.testing.assert_allclose(
        face["log_loss_difference"].sel(model="robust", shift="new"), after - before, rtol=1e-6
    )


def test_effective_robustness_needs_enough_models(cube: xr.DataTree) -> None:
    face = shift_faces.clean_differences(cube)
    assert face["effective"].isnull().all()
    assert all("four are needed" in reason for reason in face["not_estimable"].values)
    many = shift_faces.clean_differences(shifted_cube(models=[f"m{i}" for i in range(7)], failed=()))
    assert many["not_estimable"].values.tolist() == ["", ""]
    for shift in ("fog", "new"):
        at = many.sel(shift=shift)
        expected = shifts.effective_robustness(at["clean"].values, at["accuracy"].values)
        np.testing.assert_allclose(at["effective"], expected["effective"])
        assert (at["effective_lower"] < at["effective"]).all()


def test_settings_and_severities(cube: xr.DataTree) -> None:
    frame = shift_faces.settings_table(cube)
    assert frame["shift"].tolist() == ["fog", "new"]
    assert frame["severities"].tolist() == ["1, 3", ""]
    assert shift_faces.has_shifts(cube)
    assert logits_of(0, 4).shape == (4, 3)
