"""Notions of robustness under shift against sums over samples, scikit-learn and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
import xarray as xr
from handmade_cube import handmade_cube, text
from scipy.special import logit, softmax
from sklearn.metrics import log_loss

from metaeval.analysis import notions, shift_notions

MODELS = [f"m{i}" for i in range(6)]
CLASSES = ("cat", "dog", "ship")


def shifted_cube() -> tuple[xr.DataTree, np.ndarray, np.ndarray, np.ndarray]:
    """Return a cube with the shift "fog" of two severities, its clean and shifted logits, and the labels."""
    cube = handmade_cube(models=MODELS, classes=CLASSES, samples=90, seed=3)
    random = np.random.default_rng(0)
    label = cube["samples/clean"]["label"].values
    clean = random.normal(size=(6, 90, 3)).astype(np.float32)
    clean[:, np.arange(90), label] += np.linspace(1, 2.5, 6)[:, None]
    fog = np.stack([clean * 0.5, clean * 0.2], axis=1) + random.normal(size=(6, 2, 90, 3)).astype(np.float32)
    correct = np.zeros((6, 3, 1, 2), dtype=np.int64)
    loss = np.zeros(correct.shape)
    for m, c, s in np.ndindex(6, 3, 2):
        rows = label == c
        correct[m, c, 0, s] = (fog[m, s, rows].argmax(1) == c).sum()
        loss[m, c, 0, s] = log_loss(label[rows], softmax(fog[m, s, rows], axis=1), labels=[0, 1, 2])
    dims = ("model", "class", "shift", "severity")
    cube["shifts"] = xr.DataTree(
        xr.Dataset(
            {
                "correct": (dims, correct),
                "log_loss": (dims, loss),
                "total": (dims[1:], np.full((3, 1, 2), 30)),
            },
            {"model": text(MODELS), "class": text(CLASSES), "shift": text(["fog"]), "severity": [1, 3]},
        )
    )
    cube["samples/shifts/fog"] = xr.DataTree(
        xr.Dataset(
            {"logits": (("model", "severity", "sample", "logit"), fog)},
            {"model": text(MODELS), "severity": [1, 3], "label": ("sample", label)},
        )
    )
    group = cube["samples/clean"].to_dataset()
    group["logits"] = (("model", "sample", "logit"), clean)
    group["prediction"] = (("model", "sample"), clean.argmax(-1))
    cube["samples/clean"] = xr.DataTree(group)
    per_class = np.array([[(clean[m][label == c].argmax(1) == c).sum() for c in range(3)] for m in range(6)])
    counts = cube["clean"].to_dataset()
    counts["correct"] = (("model", "class"), per_class)
    cube["clean"] = xr.DataTree(counts)
    return cube, clean, fog, label


def test_columns_are_the_samples_numbers() -> None:
    cube, clean, fog, label = shifted_cube()
    found = notions.robustness(cube)
    accuracy = (fog.argmax(-1) == label).mean(axis=(1, 2))
    clean_accuracy = (clean.argmax(-1) == label).mean(axis=1)
    losses = [log_loss(np.tile(label, 2), softmax(fog[m].reshape(-1, 3), axis=1)) for m in range(6)]
    clean_losses = [log_loss(label, softmax(clean[m].astype(float), axis=1)) for m in range(6)]
    certainty = softmax(fog, -1).max(-1).mean((1, 2)) / softmax(clean, -1).max(-1).mean(1)
    expected = {
        "fog accuracy": accuracy,
        "fog gap": accuracy - clean_accuracy,
        "fog relative": accuracy / clean_accuracy,
        "fog certainty": certainty,
        "fog log-loss": np.subtract(clean_losses, losses),
        "fog log-loss ratio": np.divide(clean_losses, losses),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found.sel(notion=name), values, rtol=1e-5, err_msg=name)
    x, y = logit(clean_accuracy), logit(accuracy)
    others = np.arange(6) != 2
    line = sm.OLS(y[others], sm.add_constant(x[others])).fit().predict([[1, x[2]]])[0]
    effective = found.sel(notion="fog effective", model="m2")
    assert float(effective) == pytest.approx(accuracy[2] - 1 / (1 + np.exp(-line)))


def test_a_shift_of_some_samples_is_compared_with_these() -> None:
    cube, clean, fog, label = shifted_cube()
    rows = np.arange(60, 20, -1)
    group = cube["shifts"].to_dataset()
    counts = np.bincount(label[rows])
    answers = fog[:, :, rows].argmax(-1)
    correct = [[((a == label[rows]) & (label[rows] == c)).sum() for c in range(3)] for a in answers[:, 0]]
    group["correct"][:, :, 0, 0] = np.array(correct)
    group["total"][:, 0, 0] = counts
    group["total"][:, 0, 1] = -1
    group["correct"][:, :, 0, 1] = -1
    for m, c in np.ndindex(6, 3):
        own = rows[label[rows] == c]
        z = softmax(fog[m, 0, own], axis=1)
        group["log_loss"][m, c, 0, 0] = log_loss(label[own], z, labels=[0, 1, 2])
    cube["shifts"] = xr.DataTree(group)
    stored = {"logits": (("model", "severity", "sample", "logit"), fog[:, :1, rows])}
    coordinates = {"model": text(MODELS), "severity": [1], "label": ("sample", label[rows])}
    cube["samples/shifts/fog"] = xr.DataTree(xr.Dataset(stored, coordinates | {"clean": ("sample", rows)}))
    found = notions.robustness(cube)
    before = (clean[:, rows].argmax(-1) == label[rows]).mean(axis=1)
    after = (answers[:, 0] == label[rows]).mean(axis=1)
    np.testing.assert_allclose(found.sel(notion="fog gap"), after - before)
    np.testing.assert_allclose(found.sel(notion="fog relative"), after / before)
    certainty = [softmax(z, -1).max(-1).mean(-1) for z in (fog[:, 0, rows], clean[:, rows])]
    np.testing.assert_allclose(found.sel(notion="fog certainty"), certainty[0] / certainty[1], rtol=1e-5)
    losses = [
        [log_loss(label[rows], softmax(z[m, rows].astype(float), axis=1)) for m in range(6)]
        for z in (clean, fog[:, 0])
    ]
    np.testing.assert_allclose(found.sel(notion="fog log-loss"), np.subtract(*losses), rtol=1e-5)
    # Samples beyond the clean ones that the aggregates cover have no partner.
    wide = coordinates | {"clean": ("sample", rows + 60)}
    cube["samples/shifts/fog"] = xr.DataTree(xr.Dataset(stored, wide))
    whole = (clean.argmax(-1) == label).mean(axis=1)
    np.testing.assert_allclose(notions.robustness(cube).sel(notion="fog gap"), after - whole)


def test_what_is_missing_stays_missing() -> None:
    cube, *_ = shifted_cube()
    group = cube["shifts"].to_dataset()
    group["correct"][1, 2, 0, 1] = -1
    group["log_loss"][1, 2, 0, 1] = np.nan
    cube["shifts"] = xr.DataTree(group)
    found = notions.robustness(cube)
    for name in ("accuracy", "gap", "relative", "certainty", "log-loss", "log-loss ratio", "effective"):
        column = found.sel(notion=f"fog {name}")
        assert np.isnan(column.sel(model="m1"))
        assert np.isfinite(column.drop_sel(model="m1")).all()
    assert shift_notions.columns(handmade_cube(), notions.clean_accuracy(handmade_cube())) == {}


def test_classes_and_severities_without_samples_do_not_count() -> None:
    cube, _, fog, _ = shifted_cube()
    whole = shift_notions.totals(cube)
    group = cube["shifts"].to_dataset()
    group["total"][:, 0, 1] = 0
    group["correct"][:, :, 0, 1] = -1
    group["log_loss"][:, :, 0, 1] = np.nan
    cube["shifts"] = xr.DataTree(group)
    one = shift_notions.totals(cube)
    assert one["samples"].item() == 90
    assert np.isfinite(one["accuracy"]).all()
    first = fog[:, 0]
    certainty = softmax(first, -1).max(-1).mean(-1)
    np.testing.assert_allclose(shift_notions.shifted_certainty(cube, "fog", MODELS), certainty, rtol=1e-5)
    assert not np.allclose(one["accuracy"], whole["accuracy"])


def test_answers_that_are_not_the_study_s_are_not_shown() -> None:
    cube, clean, _, label = shifted_cube()
    counts = cube["clean"].to_dataset()
    counts["correct"][1, 2] = -1
    cube["clean"] = xr.DataTree(counts)
    answers = shift_notions.clean_answers(cube, ["m1", "m0", "absent"])
    loss, certainty = answers.log_loss.mean(axis=1), answers.certainty.mean(axis=1)
    assert np.isnan(loss[[0, 2]]).all()
    assert np.isnan(certainty[[0, 2]]).all()
    probabilities = softmax(clean[0].astype(float), axis=1)
    np.testing.assert_allclose(
        (loss[1], certainty[1]), (log_loss(label, probabilities), probabilities.max(1).mean())
    )
