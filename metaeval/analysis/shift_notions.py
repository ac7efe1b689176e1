"""Robustness under distribution shift as columns over models; higher is more robust."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from metaeval.analysis import shift_faces
from metaeval.analysis.reading import coordinate, norm_dataset

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
    counted = shift_faces.over_classes(cube)
    # A severity that the shift does not have, or without samples, has nothing to say.
    total = counted["total"].where(counted["total"] > 0, 0.0)
    whole = total.sum("severity").where(lambda samples: samples > 0)
    correct = counted["correct"].where(total > 0, 0.0).sum("severity", skipna=False)
    loss = (counted["log_loss"] * total).where(total > 0, 0.0).sum("severity", skipna=False)
    return xr.Dataset(
        {
            "accuracy": (correct / whole).transpose("model", "shift"),
            "log_loss": (loss / whole).transpose("model", "shift"),
            "samples": whole.fillna(0.0),
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
    shifted), and "... effective" (effective robustness on the logit scale over all models). Clean is on the
    same samples where the shift's are known to be changed clean ones, else on the whole clean set. Gap,
    relative and effective are coupled with clean accuracy by construction.
    """
    if not names(cube):
        return {}
    models = [str(name) for name in clean["model"].values]
    table = totals(cube)
    found: dict[str, xr.DataArray] = {}
    answers = clean_answers(cube, models)
    for shift in names(cube):
        at = table.sel(shift=shift)
        accuracy, shifted = (by_model(at[key], models) for key in ("accuracy", "log_loss"))
        known = ~np.isnan(accuracy)
        rows = _partners(cube, shift, answers.correct.shape[1])
        own = slice(None) if rows is None else rows
        before = clean.values if rows is None else answers.correct[:, rows].mean(axis=1)
        loss, certainty = answers.log_loss[:, own].mean(axis=1), answers.certainty[:, own].mean(axis=1)
        found[f"{shift} accuracy"] = clean.copy(data=accuracy)
        found[f"{shift} gap"] = clean.copy(data=accuracy - before)
        found[f"{shift} relative"] = clean.copy(data=_ratio(accuracy, before))
        found[f"{shift} certainty"] = clean.copy(
            data=np.where(known, _ratio(shifted_certainty(cube, shift, models), certainty), np.nan)
        )
        found[f"{shift} log-loss"] = clean.copy(data=loss - shifted)
        found[f"{shift} log-loss ratio"] = clean.copy(data=_ratio(loss, shifted))
        found[f"{shift} effective"] = clean.copy(data=effective(before, accuracy))
    return {name: column for name, column in found.items() if not column.isnull().all()}


def clean_answers(cube: xr.DataTree, models: list[str]) -> shift_faces.CleanAnswers:
    """Return what models answered on the clean samples, NaN for those that are not there."""
    samples = cube.children.get("samples")
    if samples is None or "clean" not in samples.children:
        return shift_faces.CleanAnswers(*(np.full((len(models), 1), np.nan) for _ in range(3)))
    there = set(coordinate(samples, "clean", "model")) & set(coordinate(cube, "clean", "model"))
    known = [position for position, name in enumerate(models) if name in there]
    found = shift_faces.clean_answers(cube, [models[position] for position in known])
    columns = []
    for values in (found.correct, found.log_loss, found.certainty):
        columns.append(np.full((len(models), values.shape[1]), np.nan))
        columns[-1][known] = values
    return shift_faces.CleanAnswers(*columns)


def _partners(cube: xr.DataTree, shift: str, clean: int) -> npt.NDArray[np.int64] | None:
    """Return the clean sample of each sample of a shift; None where one of them is no clean sample."""
    parent = _samples(cube, "shifts", shift)
    if parent is None or "clean" not in parent:
        return None
    return shift_faces.partners(
        parent["clean"].values[: max(_covered(cube, shift).values(), default=0)], clean
    )


def _covered(cube: xr.DataTree, shift: str) -> dict[int, int]:
    """Return the samples of each severity that the aggregates cover; the cube may hold more."""
    total = norm_dataset(cube, "shifts")["total"].sel(shift=shift)
    counts = total.where(lambda count: count > 0, 0).sum("class")
    pairs = zip(counts["severity"].values.tolist(), counts.values.tolist(), strict=True)
    return {int(severity): int(count) for severity, count in pairs if count > 0}


def shifted_certainty(cube: xr.DataTree, shift: str, models: list[str]) -> FloatArray:
    """Return the mean largest probability on a shift, severities together, over models."""
    result = np.full(len(models), np.nan)
    parent = _samples(cube, "shifts", shift)
    if parent is None or "logits" not in parent:
        return result
    covered = _covered(cube, shift)
    severities = [int(severity) for severity in parent["severity"].values]
    parent = parent.isel(
        severity=[severities.index(severity) for severity in covered],
        sample=slice(0, max(covered.values(), default=0)),
    )
    stored = [str(name) for name in parent["model"].values]
    for position, name in enumerate(models):
        if name in stored:
            logits = parent["logits"].isel(model=stored.index(name)).transpose(..., "logit").values
            result[position] = np.exp(shift_faces.log_probabilities(logits).max(axis=-1)).mean()
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


def _ratio(above: FloatArray, below: FloatArray) -> FloatArray:
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)


def effective(accuracy: FloatArray, shifted: FloatArray) -> FloatArray:
    """Return effective robustness; NaN everywhere where it is not estimable."""
    found = shift_faces.effective_by_shift(accuracy[:, None], shifted[:, None])
    return np.asarray(found["effective"].values[:, 0], dtype=np.float64)
