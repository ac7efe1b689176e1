"""What a cube says of its models, as columns to correlate: robustness notions, measures, properties."""

from __future__ import annotations

import numpy as np
import xarray as xr

from metaeval.analysis import correlation, curves
from metaeval.analysis.reading import (
    WORST_CASE,
    confidence,
    models,
    norm_dataset,
    norms,
    references,
    wish,
)
from metaeval.errors import UsageError

# How columns of the models' table end that are results and not properties.
RESULTS = ("_accuracy", "_mce")


def robustness(cube: xr.DataTree) -> xr.DataArray:
    """Return robustness notions over (model, notion); NaN = not available. Higher is more robust.

    Notions
    -------
    "<norm> <epsilon> accuracy" (worst case at each reference epsilon), "... gap" (its difference from the
    clean accuracy, not positive), "... relative" (its share of the clean accuracy). The last two are coupled
    with clean accuracy by construction.
    """
    clean = clean_accuracy(cube)
    names = list(clean["model"].values)
    columns: dict[str, xr.DataArray] = {}

    def add(name: str, accuracy: xr.DataArray) -> None:
        columns[f"{name} accuracy"] = accuracy
        columns[f"{name} gap"] = accuracy - clean
        columns[f"{name} relative"] = accuracy / clean.where(clean > 0)

    for norm in norms(cube):
        face = curves.from_cube(cube, norm)["accuracy"].sel(attack=WORST_CASE)
        for reference in references(cube, norm):
            add(f"{norm} {reference.label}", _by_name(face.sel(epsilon=reference.value), names))
    if not columns:
        raise UsageError("the cube has no robustness to correlate: no attack")
    values = np.stack([column.values for column in columns.values()], axis=1)
    return xr.DataArray(values, {"model": names, "notion": list(columns)}, ("model", "notion"))


def clean_accuracy(cube: xr.DataTree) -> xr.DataArray:
    """Return overall clean accuracy over (model)."""
    accuracy = curves.clean_from_cube(cube)["accuracy"]
    return _by_name(accuracy, [str(name) for name in accuracy["model"].values])


def _by_name(values: xr.DataArray, names: list[str]) -> xr.DataArray:
    """Return values (model) in the order of names, NaN where a model is not there."""
    known = {
        str(name): float(value) for name, value in zip(values["model"].values, values.values, strict=True)
    }
    return xr.DataArray([known.get(name, np.nan) for name in names], {"model": names}, ("model",))


def measures(cube: xr.DataTree) -> xr.DataArray:
    """Return numeric properties and measures over (model, measure); NaN = not available.

    Clean accuracy, the numbers of the models' table (parameters, hyper-parameters), seconds of training where
    they are there, and each measure of the cube, "<measure>" or "<measure> (<scope>)".
    """
    clean = clean_accuracy(cube)
    names = list(clean["model"].values)
    columns: dict[str, xr.DataArray] = {"clean accuracy": clean}
    if "models" in cube.children:
        table = norm_dataset(cube, "models").reset_coords()
        for name, variable in table.data_vars.items():
            if (
                variable.dims == ("model",)
                and variable.dtype.kind in "fiu"
                and not str(name).endswith(RESULTS)
            ):
                numbers = variable.astype(np.float64)
                counted = variable.dtype.kind in "iu"  # -1 = not known
                columns[str(name)] = _by_name(numbers.where(numbers >= 0) if counted else numbers, names)
    if "measures" in cube.children and "value" in cube.children["measures"].data_vars:
        value = norm_dataset(cube, "measures")["value"]
        scopes = value["scope"].values if "scope" in value.dims else [None]
        for measure in value["measure"].values:
            for scope in scopes:
                at = value.sel(measure=measure) if scope is None else value.sel(measure=measure, scope=scope)
                label = str(measure) if len(scopes) == 1 else f"{measure} ({scope})"
                columns[label] = _by_name(at, names)
    said = {name: column for name, column in columns.items() if not column.isnull().all()}
    values = np.stack([column.values for column in said.values()], axis=1)
    return xr.DataArray(values, {"model": names, "measure": list(said)}, ("model", "measure"))


def families(cube: xr.DataTree) -> list[str]:
    """Return each model's family: the column that the study's `[analysis] family` names, else `family`.

    A model without a family is one of its own.
    """
    names = models(cube)
    column = str(wish(cube, "analysis", "family", "family"))
    if "models" not in cube.children or column not in cube.children["models"].variables:
        return names
    table = norm_dataset(cube, "models")
    known = {str(n): str(f) for n, f in zip(table["model"].values, table[column].values, strict=True)}
    return [known.get(name, "") or name for name in names]


def correlations(cube: xr.DataTree) -> xr.Dataset:
    """Return the correlations of all measures of a cube with all its robustness notions, labelled.

    Returns
    -------
    xarray.Dataset (measure, notion)
        As `correlation.correlations` with clean accuracy as the control, and `p`, simultaneous over all pairs
        whose models are complete (NaN for others).
    """
    x, y = measures(cube), robustness(cube)
    family = dict(zip(models(cube), families(cube), strict=True))
    group = [family.get(str(name), str(name)) for name in x["model"].values]
    clean = clean_accuracy(cube).values
    found = correlation.correlations(x.values, y.values, group, clean, confidence(cube))
    p = np.full((x.sizes["measure"], y.sizes["notion"]), np.nan)
    whole_x, whole_y = (np.flatnonzero(~np.isnan(side.values).any(axis=0)) for side in (x, y))
    if len(whole_x) and len(whole_y) and len(group) >= 2:
        p[np.ix_(whole_x, whole_y)] = correlation.largest_by_chance(
            x.values[:, whole_x], y.values[:, whole_y]
        )
    found = found.assign(p=(("measure", "notion"), p))
    found = found.assign_coords(measure=x["measure"].values, notion=y["notion"].values)
    shared = "measures of the test samples and robustness on them share their errors: not cross-fitted"
    return found.assign_attrs(control="clean accuracy", caveat=shared)
