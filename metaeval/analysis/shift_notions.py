"""Robustness under distribution shift as columns over models; higher is more robust."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy.special import logsumexp

from metaeval.analysis import shifts
from metaeval.analysis.reading import coordinate, norm_dataset
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]


def names(cube: xr.DataTree) -> list[str]:
    """Return the shifts of a cube."""
    return coordinate(cube, "shifts", "shift") if "shifts" in cube.children else []


def totals(cube: xr.DataTree) -> xr.Dataset:
    """Return accuracy and log-loss of every shift, severities and classes together.

    Returns
    -------
    xarray.Dataset (model, shift)
        `accuracy`, sum of correct over sum of samples; `log_loss`, mean over samples in nats; NaN until every
        sample of the shift is evaluated. `samples` (shift).
    """
    group = norm_dataset(cube, "shifts")
    over = ("class", "severity")
    total = group["total"].where(group["total"] > 0, 0).astype(np.float64)
    whole = total.sum(over)
    # A class without samples, or a severity that the shift does not have, has nothing to say.
    correct = group["correct"].where(total > 0, 0).sum(over, skipna=False)
    loss = (group["log_loss"] * total).where(total > 0, 0).sum(over, skipna=False)
    return xr.Dataset(
        {
            "accuracy": (correct / whole.where(whole > 0)).transpose("model", "shift"),
            "log_loss": (loss / whole.where(whole > 0)).transpose("model", "shift"),
            "samples": whole,
        }
    )


def columns(cube: xr.DataTree, clean: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return robustness notions of every shift over (model); NaN = not available.

    Parameters
    ----------
    clean : DataArray (model,)
        Clean accuracy; its models are the result's.

    Notions
    -------
    "<shift> accuracy", "... gap" (minus the clean accuracy, as a rule negative), "... relative" (its share of
    the clean accuracy), "... certainty" (mean largest probability as a share of that on clean samples),
    "... log-loss" and "... log-loss ratio" (uncertainty robustness: clean minus shifted log-loss, clean by
    shifted), and "... effective" (effective robustness on the logit scale over all models). Gap, relative and
    effective are coupled with clean accuracy by construction.
    """
    if not names(cube):
        return {}
    models = [str(name) for name in clean["model"].values]
    table = totals(cube)
    found: dict[str, xr.DataArray] = {}
    loss, certainty = clean_uncertainty(cube, models)
    for shift in names(cube):
        at = table.sel(shift=shift)
        accuracy, shifted = (by_model(at[key], models) for key in ("accuracy", "log_loss"))
        known = ~np.isnan(accuracy)
        found[f"{shift} accuracy"] = clean.copy(data=accuracy)
        found[f"{shift} gap"] = clean.copy(data=accuracy - clean.values)
        found[f"{shift} relative"] = clean.copy(data=_ratio(accuracy, clean.values))
        found[f"{shift} certainty"] = clean.copy(
            data=np.where(known, _ratio(shifted_certainty(cube, shift, models), certainty), np.nan)
        )
        found[f"{shift} log-loss"] = clean.copy(data=loss - shifted)
        found[f"{shift} log-loss ratio"] = clean.copy(data=_ratio(loss, shifted))
        found[f"{shift} effective"] = clean.copy(data=effective(clean.values, accuracy))
    return {name: column for name, column in found.items() if not column.isnull().all()}


def clean_uncertainty(cube: xr.DataTree, models: list[str]) -> tuple[FloatArray, FloatArray]:
    """Return mean log-loss (nats) and mean largest probability on the clean samples, over models."""
    nothing = np.full(len(models), np.nan)
    group = _samples(cube, "clean")
    if group is None or "logits" not in group:
        return nothing, nothing.copy()
    count = int(norm_dataset(cube, "clean")["total"].sum())
    group = group.isel(sample=slice(0, count))
    labels = group["label"].values.astype(np.int64)
    loss, certainty = nothing.copy(), nothing.copy()
    stored = [str(name) for name in group["model"].values]
    for position, name in enumerate(models):
        if name in stored:
            logits = group["logits"].isel(model=stored.index(name)).transpose("sample", "logit").values
            logarithm = _log_probabilities(logits)
            loss[position] = -logarithm[np.arange(count), labels].mean()
            certainty[position] = np.exp(logarithm.max(axis=1)).mean()
    return loss, certainty


def shifted_certainty(cube: xr.DataTree, shift: str, models: list[str]) -> FloatArray:
    """Return the mean largest probability on a shift, severities together, over models."""
    result = np.full(len(models), np.nan)
    parent = _samples(cube, "shifts", shift)
    if parent is None or "logits" not in parent:
        return result
    # The cube may hold more severities and samples than its aggregates cover.
    total = (
        norm_dataset(cube, "shifts")["total"].sel(shift=shift).where(lambda count: count > 0, 0).sum("class")
    )
    counts = zip(total["severity"].values.tolist(), total.values.tolist(), strict=True)
    covered = {int(severity): int(count) for severity, count in counts if count > 0}
    severities = [int(severity) for severity in parent["severity"].values]
    parent = parent.isel(
        severity=[severities.index(severity) for severity in covered],
        sample=slice(0, max(covered.values(), default=0)),
    )
    stored = [str(name) for name in parent["model"].values]
    for position, name in enumerate(models):
        if name in stored:
            logits = parent["logits"].isel(model=stored.index(name)).transpose(..., "logit").values
            result[position] = np.exp(_log_probabilities(logits).max(axis=-1)).mean()
    return result


def by_model(values: xr.DataArray, models: list[str]) -> FloatArray:
    """Return values (model) in the order of names, NaN where a model is not there."""
    known = {
        str(name): float(value) for name, value in zip(values["model"].values, values.values, strict=True)
    }
    return np.array([known.get(name, np.nan) for name in models])


def _samples(cube: xr.DataTree, *path: str) -> xr.Dataset | None:
    """Return a group under ``/samples`` in memory, or None."""
    node = cube.children.get("samples")
    for name in path:
        node = node.children.get(name) if node is not None else None
    return node.to_dataset(inherit=False).load() if node is not None else None


def _log_probabilities(logits: npt.NDArray[np.float32]) -> FloatArray:
    z = logits.astype(np.float64)
    return np.asarray(z - logsumexp(z, axis=-1, keepdims=True))


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)


def effective(accuracy: FloatArray, shifted: FloatArray) -> FloatArray:
    """Return effective robustness; NaN everywhere where it is not estimable."""
    try:
        found = shifts.effective_robustness(accuracy, shifted)
    except UsageError:
        return np.full(len(accuracy), np.nan)
    return np.asarray(found["effective"].values, dtype=np.float64)
