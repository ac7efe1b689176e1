"""Distribution shifts of a cube: accuracies with intervals, and what models lose against the clean set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy import special

from metaeval.analysis import shifts
from metaeval.analysis.bands import bounded_mean
from metaeval.analysis.curves import wilson, with_interval
from metaeval.analysis.reading import STATUSES, given_confidence, norm_dataset, samples_of
from metaeval.cube.counts import UNKNOWN
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
GROUP = "shifts"


def has_shifts(cube: xr.DataTree) -> bool:
    """Tell whether a cube holds shifts."""
    return GROUP in cube.children and cube.children[GROUP].sizes.get("shift", 0) > 0


def from_cube(cube: xr.DataTree, confidence: float | None = None) -> xr.Dataset:
    """Return the accuracy of models at every severity of every shift, over all classes.

    Returns
    -------
    xarray.Dataset
        `accuracy` with Wilson's `lower`, `upper`, `log_loss` (nats), `correct` (model, shift, severity),
        `total` (shift, severity), `status` and `reason` in words (model, shift), `kind` (shift). NaN where a
        class is not evaluated in full or the shift has no such severity.
    """
    confidence = given_confidence(cube, confidence)
    group = norm_dataset(cube, GROUP)
    counted = over_classes(cube)
    face = with_interval(counted["correct"], counted["total"], confidence)
    words = np.array(STATUSES, dtype=object)[group["status"].transpose("model", "shift").values]
    return face.assign(
        log_loss=counted["log_loss"],
        correct=counted["correct"],
        total=counted["total"],
        status=(("model", "shift"), words),
        reason=(("model", "shift"), group["reason"].transpose("model", "shift").values.astype(object)),
    ).transpose("model", "shift", "severity")


def over_classes(cube: xr.DataTree) -> xr.Dataset:
    """Return the counts and log-losses of `/shifts`, classes together.

    Returns
    -------
    xarray.Dataset
        `correct` and `log_loss`, the mean over samples in nats (model, shift, severity), and `total` (shift,
        severity); NaN as for `from_cube`.
    """
    group = norm_dataset(cube, GROUP)
    total, correct = group["total"].astype(np.float64), group["correct"]
    known = (correct.notnull() | (total == 0)).all("class") & total.notnull().all("class")
    samples = total.sum("class", skipna=False)
    losses = (group["log_loss"] * total).where(total > 0, 0.0).sum("class", skipna=False)
    return xr.Dataset(
        {
            "correct": correct.sum("class").where(known).transpose("model", "shift", "severity"),
            "log_loss": (losses / samples.where(samples > 0))
            .where(known)
            .transpose("model", "shift", "severity"),
            "total": samples.transpose("shift", "severity"),
        }
    )


def settings_table(cube: xr.DataTree) -> pd.DataFrame:
    """Return one row per shift: `shift`, `kind`, `severities` and `settings` (JSON)."""
    group = norm_dataset(cube, GROUP)
    settings = group["settings"].values if "settings" in group else np.full(group.sizes["shift"], "")
    there = (group["total"] >= 0).any("class").transpose("shift", "severity").values
    severities = group["severity"].values
    return pd.DataFrame(
        {
            "shift": [str(value) for value in group["shift"].values],
            "kind": [str(value) for value in group["kind"].values],
            "severities": [", ".join(str(s) for s in severities[row] if s) for row in there],
            "settings": [str(value) for value in settings],
        }
    )


def clean_differences(cube: xr.DataTree, confidence: float | None = None) -> xr.Dataset:
    """Return what models lose on each shift, averaged over its severities.

    Returns
    -------
    xarray.Dataset (model, shift)
        `accuracy` on the shift and `clean` accuracy, of the same samples where they are `paired` (shift),
        else of the whole clean set; `difference` = accuracy - clean with `lower`, `upper`;
        `retained` = accuracy / clean; `log_loss_difference` (nats; higher is less robust); `effective`
        robustness with `effective_lower`, `effective_upper`. NaN where the shift or the clean set is not
        evaluated in full; the effective robustness also where it is not estimable, with the reason in
        `not_estimable` (shift).

    Notes
    -----
    Intervals of differences cover the choice of the test samples. Paired ones rest on each sample's change
    (`metaeval.analysis.bands.bounded_mean`), others on two independent sets (Newcombe 1998, Interval
    estimation for the difference between independent proportions).
    """
    confidence = given_confidence(cube, confidence)
    face = from_cube(cube, confidence)
    names, models = [str(s) for s in face["shift"].values], [str(m) for m in face["model"].values]
    clean = clean_answers(cube, models)
    numbers = {
        key: np.full((len(models), len(names)), np.nan)
        for key in ("accuracy", "clean", "difference", "lower", "upper", "log_loss_difference")
    }
    paired = np.zeros(len(names), dtype=bool)
    for j, name in enumerate(names):
        found = _outcomes(cube, face.sel(shift=name), models)
        partner = partners(found.clean, clean.correct.shape[1])
        paired[j] = partner is not None
        for i in range(len(models)):
            after = found.correct[i]
            rows = np.arange(clean.correct.shape[1]) if partner is None else partner
            before, loss = clean.correct[i, rows], clean.log_loss[i, rows]
            if np.isnan(after).any() or np.isnan(before).any() or not len(after) or not len(before):
                continue
            difference = (
                _paired(after, before, confidence) if paired[j] else _unpaired(after, before, confidence)
            )
            numbers["accuracy"][i, j], numbers["clean"][i, j] = after.mean(), before.mean()
            numbers["difference"][i, j], numbers["lower"][i, j], numbers["upper"][i, j] = difference
            severities = face["log_loss"].sel(shift=name, severity=found.severities).values[i]
            change = shifts.uncertainty_robustness([loss.mean()], [severities.mean()])
            numbers["log_loss_difference"][i, j] = float(change["difference"].item())
    result = xr.Dataset(
        {key: (("model", "shift"), values) for key, values in numbers.items()},
        {"model": face["model"], "shift": face["shift"]},
        {
            "method": "differences paired by sample where they can be, else Newcombe's interval",
            "confidence": confidence,
            "covers": "choice of test samples; models fixed",
        },
    )
    retained = shifts.gaps(numbers["clean"].ravel(), numbers["accuracy"].ravel())["relative"].values.reshape(
        numbers["clean"].shape
    )
    return result.assign(
        retained=(("model", "shift"), retained),
        paired=("shift", paired),
    ).merge(effective_by_shift(numbers["clean"], numbers["accuracy"], confidence))


@dataclass(frozen=True)
class _Outcomes:
    """What became of every sample of one shift: `correct` (model, sample) as a mean over severities."""

    correct: FloatArray
    clean: npt.NDArray[np.int64]
    severities: list[int]


@dataclass(frozen=True)
class CleanAnswers:
    """`correct`, `log_loss` (nats) and `certainty` (model, sample) on the clean set.

    NaN for models not evaluated in full, and where the cube holds no logits.
    """

    correct: FloatArray
    log_loss: FloatArray
    certainty: FloatArray


def clean_answers(cube: xr.DataTree, models: list[str]) -> CleanAnswers:
    """Return what models of a cube answered on the clean samples that its aggregates cover."""
    totals = cube.children["clean"].to_dataset(inherit=False).load()
    samples = samples_of(cube, "clean")
    count = int(totals["total"].sum())
    rows = samples.isel(sample=slice(0, count)).sel(model=models).load()
    labels = rows["label"].values.astype(np.int64)
    correct = (rows["prediction"].transpose("model", "sample").values == labels).astype(np.float64)
    loss, certainty = np.full_like(correct, np.nan), np.full_like(correct, np.nan)
    if "logits" in rows:
        logarithm = log_probabilities(rows["logits"].transpose("model", "sample", "logit").values)
        loss, certainty = -logarithm[:, np.arange(count), labels], np.exp(logarithm.max(axis=-1))
    # Of a model not evaluated in full, or with other weights, the stored answers are not this study's.
    known = (totals["correct"].sel(model=models) >= 0).all("class").values[:, None]
    return CleanAnswers(*(np.where(known, values, np.nan) for values in (correct, loss, certainty)))


def partners(clean: npt.ArrayLike, count: int) -> npt.NDArray[np.int64] | None:
    """Return the positions of a shift's samples among `count` clean ones; None if one has no such partner."""
    rows = np.asarray(clean, dtype=np.int64)
    return rows if len(rows) and bool(((rows >= 0) & (rows < count)).all()) else None


def log_probabilities(logits: npt.NDArray[np.float32]) -> FloatArray:
    """Return the logarithms of the probabilities (..., class) that logits stand for."""
    return np.asarray(special.log_softmax(logits.astype(np.float64), axis=-1))


def _outcomes(cube: xr.DataTree, at: xr.Dataset, models: list[str]) -> _Outcomes:
    asked = at["total"].notnull()
    severities = [int(s) for s in at["severity"].values[asked.values]]
    count = int(at["total"].values[asked.values][0]) if severities else 0
    samples = samples_of(cube, f"shifts/{at['shift'].item()}")
    rows = samples.isel(sample=slice(0, count)).sel(model=models, severity=severities).load()
    said = rows["prediction"].transpose("model", "severity", "sample").values
    right = np.where((said != UNKNOWN).all(axis=(1, 2), keepdims=True), said == rows["label"].values, np.nan)
    correct = right.mean(axis=1) if severities else np.empty((len(models), 0))
    correct[at["status"].values != "ok"] = np.nan
    return _Outcomes(correct, rows["clean"].values.astype(np.int64), severities)


def _paired(after: FloatArray, before: FloatArray, confidence: float) -> tuple[float, float, float]:
    mean, lower, upper = bounded_mean(after - before, -1.0, 1.0, confidence)
    return float(mean), float(lower), float(upper)


def _unpaired(after: FloatArray, before: FloatArray, confidence: float) -> tuple[float, float, float]:
    p, low_p, high_p = (float(v) for v in bounded_mean(after, 0.0, 1.0, confidence))
    q = float(before.mean())
    low_q, high_q = (float(v) for v in wilson(before.sum(), len(before), confidence))
    return (
        p - q,
        p - q - float(np.hypot(p - low_p, high_q - q)),
        p - q + float(np.hypot(high_p - p, q - low_q)),
    )


def effective_by_shift(clean: FloatArray, shifted: FloatArray, confidence: float = 0.95) -> xr.Dataset:
    """Return the effective robustness of each column of accuracies (model, shift), as `clean_differences`."""
    found = np.full((3, *clean.shape), np.nan)
    reasons = []
    for j in range(clean.shape[1]):
        try:
            one = shifts.effective_robustness(clean[:, j], shifted[:, j], confidence=confidence)
        except UsageError as error:
            reasons.append(str(error))
            continue
        found[:, :, j] = one["effective"].values, one["lower"].values, one["upper"].values
        reasons.append("")
    dims = ("model", "shift")
    return xr.Dataset(
        {
            "effective": (dims, found[0]),
            "effective_lower": (dims, found[1]),
            "effective_upper": (dims, found[2]),
            "not_estimable": ("shift", np.array(reasons, dtype=object)),
        }
    )
