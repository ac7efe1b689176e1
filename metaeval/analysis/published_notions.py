"""Robustness notions of published results, which hold accuracies and no per-sample outcomes."""

from __future__ import annotations

import numpy as np
import xarray as xr

from metaeval.analysis import shift_notions
from metaeval.analysis.reading import WORST_CASE, Reference, coordinate, norm_dataset, norms, references

SHIFTS_ALONE = 8
"""With more shifts than this only their averages, if published, are notions."""


def columns(cube: xr.DataTree, clean: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return published accuracies, with gap and relative robustness, over (model); NaN = not published.

    Notions
    -------
    "<norm> <epsilon> accuracy" (the best known one at the epsilon that most models have; other epsilons are
    other attacks), "<shift> accuracy" of few shifts (severities averaged), "corruptions accuracy" of
    leaderboards; each with "... gap" and "... relative", of shifts "... effective" too.
    """
    models = [str(name) for name in clean["model"].values]
    found: dict[str, xr.DataArray] = {}
    for norm in norms(cube):
        face = weighted(cube, norm, "robust_accuracy").sel(attack=WORST_CASE)
        for level in levels(cube, norm, face):
            at = shift_notions.by_model(face.sel(epsilon=level.value), models)
            found |= coupled(f"{norm} {level.label}", clean.copy(data=at), clean)
    for name, values in _under_shift(cube).items():
        at = shift_notions.by_model(values, models)
        found |= coupled(name, clean.copy(data=at), clean)
        found[f"{name} effective"] = clean.copy(data=shift_notions.effective(clean.values, at))
    return {name: column for name, column in found.items() if not column.isnull().all()}


def coupled(name: str, accuracy: xr.DataArray, clean: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return an accuracy with its gap and its share of the clean accuracy, named as notions."""
    return {
        f"{name} accuracy": accuracy,
        f"{name} gap": accuracy - clean,
        f"{name} relative": accuracy / clean.where(clean > 0),
    }


def levels(cube: xr.DataTree, norm: str, accuracy: xr.DataArray) -> list[Reference]:
    """Return the epsilons that the analysis names, else the middle one of those that most models have."""
    named = [level for level in references(cube, norm) if level.chosen]
    if named:
        return named
    values = [float(value) for value in accuracy["epsilon"].values]
    known = accuracy.notnull().sum("model").values
    labels = coordinate(cube, norm, "epsilon_label")
    order = [i for i in np.argsort(values) if values[i] > 0]
    most = [i for i in order if known[i] == max(known[j] for j in order)]
    return [Reference(values[i], labels[i], False) for i in most[(len(most) - 1) // 2 :][:1]]


def weighted(cube: xr.DataTree, group: str, name: str) -> xr.DataArray:
    """Return the overall accuracy of a group: class shares weighted by samples, NaN where one is missing."""
    found = norm_dataset(cube, group)
    if found.sizes["class"] == 1:
        return found[name].isel({"class": 0}, drop=True)
    total = found["total"].astype(np.float64)
    # A recovered count is exact where the printed share is rounded.
    right = found["correct"].where(found["correct"].notnull(), found[name] * total)
    return right.sum("class", skipna=False) / total.sum("class", skipna=False)


def _under_shift(cube: xr.DataTree) -> dict[str, xr.DataArray]:
    """Return accuracy under shift over (model): the averages of a leaderboard, else each of few shifts."""
    table = norm_dataset(cube, "models") if "models" in cube.children else xr.Dataset()
    averages = {name: table[f"{name}_accuracy"] for name in AVERAGES if f"{name}_accuracy" in table}
    if averages or not 0 < len(shift_notions.names(cube)) <= SHIFTS_ALONE:
        return averages
    accuracy = weighted(cube, "shifts", "accuracy")
    there = accuracy.notnull().any("model")
    whole = (accuracy.notnull() | ~there).all("severity") & there.any("severity")
    mean = accuracy.mean("severity").where(whole)
    return {shift: mean.sel(shift=shift) for shift in shift_notions.names(cube)}


AVERAGES = ("corruptions", "corruptions_3d")
