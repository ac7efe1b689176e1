"""What a cube says of its models, as columns to correlate: robustness notions, measures, properties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from metaeval.analysis import correlation, curves, published_notions, shift_notions
from metaeval.analysis.paired import breaking_levels
from metaeval.analysis.reading import (
    WORST_CASE,
    confidence,
    imported,
    models,
    norm_dataset,
    norms,
    references,
    seed,
    wish,
)
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
NEARLY_ALL = 0.9  # of the models
# How columns of the models' table end that are results, or remarks on them, and not properties.
RESULTS = ("_accuracy", "_mce", "unreliable")


def robustness(cube: xr.DataTree) -> xr.DataArray:
    """Return robustness notions over (model, notion); NaN = not available. Higher is more robust.

    Notions
    -------
    "<norm> <epsilon> accuracy" (worst case at each reference epsilon), "... gap" (its difference from the
    clean accuracy, not positive), "... relative" (its share of the clean accuracy). The last two are coupled
    with clean accuracy by construction. "<norm> area" (mean over samples of the smallest evaluated epsilon
    that breaks them, at most the largest: the area under the robustness curve of the grid) and
    "<norm> median" (its median; NaN where more than half of the samples withstand every epsilon).
    Those of distribution shifts: see `shift_notions.columns`; of published results:
    `published_notions.columns`.
    """
    clean = clean_accuracy(cube)
    names = list(clean["model"].values)
    columns: dict[str, xr.DataArray] = {}
    if imported(cube) is not None:
        columns = published_notions.columns(cube, clean)
    else:
        for norm in norms(cube):
            face = curves.from_cube(cube, norm)["accuracy"].sel(attack=WORST_CASE)
            for reference in references(cube, norm):
                accuracy = _by_name(face.sel(epsilon=reference.value), names)
                columns |= published_notions.coupled(f"{norm} {reference.label}", accuracy, clean)
            columns |= _distances(cube, norm, clean)
        columns |= shift_notions.columns(cube, clean)
    if not columns:
        several = len(shift_notions.names(cube))
        raise UsageError(
            f"not estimable: of {several} shifts, more than {published_notions.SHIFTS_ALONE}, none is a "
            "notion of its own, and the source gives no average over them"
            if several
            else "the cube has no robustness to correlate: no attack and no shift"
        )
    values = np.stack([column.values for column in columns.values()], axis=1)
    return xr.DataArray(values, {"model": names, "notion": list(columns)}, ("model", "notion"))


def _distances(cube: xr.DataTree, norm: str, clean: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return area and median of one norm over (model)."""
    levels = breaking_levels(cube, norm)
    limit = float(cube.children[norm].coords["epsilon"].values.max())
    area = np.minimum(levels.values, limit).mean(axis=1)
    middle = np.median(levels.values, axis=1) if levels.sizes["sample"] else np.full(len(area), np.nan)
    columns = {"area": area, "median": np.where(np.isinf(middle), np.nan, middle)}
    names = [str(name) for name in clean["model"].values]
    return {
        f"{norm} {name}": _by_name(xr.DataArray(values, levels["model"].coords, ("model",)), names)
        for name, values in columns.items()
    }


def clean_accuracy(cube: xr.DataTree) -> xr.DataArray:
    """Return overall clean accuracy over (model)."""
    accuracy = curves.clean_from_cube(cube)["accuracy"]
    return _by_name(accuracy, [str(name) for name in accuracy["model"].values])


def _by_name(values: xr.DataArray, names: list[str]) -> xr.DataArray:
    return xr.DataArray(shift_notions.by_model(values, names), {"model": names}, ("model",))


def measures(cube: xr.DataTree) -> xr.DataArray:
    """Return numeric properties and measures over (model, measure); NaN = not available.

    Clean accuracy, the numbers of the models' table (parameters, hyper-parameters; "true" is 1, "false" 0),
    seconds of training where they are there, and each measure of the cube, "<measure>" or
    "<measure> (<scope>)".
    """
    clean = clean_accuracy(cube)
    names = list(clean["model"].values)
    columns: dict[str, xr.DataArray] = {"clean accuracy": clean}
    if "models" in cube.children:
        table = norm_dataset(cube, "models").reset_coords()
        for name, variable in table.data_vars.items():
            if variable.dims != ("model",) or str(name).endswith(RESULTS):
                continue
            if variable.dtype.kind in "fiu":
                numbers = variable.astype(np.float64)
                counted = variable.dtype.kind in "iu"  # -1 = not known
                columns[str(name)] = _by_name(numbers.where(numbers >= 0) if counted else numbers, names)
            elif set(map(str, variable.values)) - {""} == {"true", "false"}:
                truth = {"true": 1.0, "false": 0.0}
                flags = [truth.get(str(value), np.nan) for value in variable.values]
                columns[str(name)] = _by_name(variable.copy(data=flags), names)
    for label, (value,) in _stored(cube, "value").items():
        columns[label] = _by_name(value, names)
    said = {name: column for name, column in columns.items() if not column.isnull().all()}
    values = np.array([column.values for column in said.values()]).reshape(len(said), len(names)).T
    labels = np.array(list(said), dtype=str)
    return xr.DataArray(values, {"model": names, "measure": labels}, ("model", "measure"))


def _stored(cube: xr.DataTree, *variables: str) -> dict[str, list[xr.DataArray]]:
    """Return variables of each measure of the cube, one scope each, if the cube has all of them."""
    if not {"value", *variables} <= set(
        cube.children["measures"].variables if "measures" in cube.children else ()
    ):
        return {}
    group = norm_dataset(cube, "measures")
    known = group["value"].notnull().any("model")
    scopes = group["scope"].values if "scope" in group.dims else [None]
    columns = [group[name].load() for name in variables]
    found = {}
    for i, measure in enumerate(group["measure"].values):
        for j, scope in enumerate(scopes):
            at = {"measure": i} if scope is None else {"measure": i, "scope": j}
            if known.isel(at):
                label = str(measure) if len(scopes) == 1 else f"{measure} ({scope})"
                found[label] = [column.isel(at, missing_dims="ignore") for column in columns]
    return found


def candidates(cube: xr.DataTree, read: Columns | None = None) -> list[str]:
    """Return those of `measures` that may predict robustness: not what is measured on shifted samples.

    Measures of the family "attacked" compare attacked copies with the clean samples, and stay.
    """
    kinds = measure_families(cube)
    return [
        str(name)
        for name in (measures(cube) if read is None else read.measures)["measure"].values
        if not str(name).endswith(")")
        or str(name).endswith(("(clean)", "(train)", "(model)"))
        or kinds.get(str(name), ("", 0))[0] == "attacked"
    ]


def with_errors(cube: xr.DataTree) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return values and standard errors over the models of each measure that has standard errors."""
    names = [str(name) for name in clean_accuracy(cube)["model"].values]
    return {
        label: (shift_notions.by_model(value, names), shift_notions.by_model(error, names))
        for label, (value, error) in _stored(cube, "value", "standard_error").items()
        if not error.isnull().all()
    }


def searched(cube: xr.DataTree) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return the ends of the intervals over the models of each measure that a search finds (sharpness)."""
    names = [str(name) for name in clean_accuracy(cube)["model"].values]
    kinds = measure_families(cube)
    return {
        label: (shift_notions.by_model(lower, names), shift_notions.by_model(upper, names))
        for label, (lower, upper) in _stored(cube, "lower", "upper").items()
        if kinds[label][0] == "sharpness"
    }


def measure_families(cube: xr.DataTree) -> dict[str, tuple[str, int]]:
    """Return the family and the expected sign (0 = none) of each measure, named as in `measures`."""
    family, sign = _stored(cube, "family"), _stored(cube, "expected_sign")
    return {
        label: (
            str(family[label][0].item()) if label in family else "",
            int(sign[label][0].item()) if label in sign else 0,
        )
        for label in _stored(cube)
    }


def families(cube: xr.DataTree) -> list[str]:
    """Return each model's family: the columns that the study's `[analysis] family` names, else `family`.

    A model without a family is one of its own.
    """
    names = models(cube)
    wished = wish(cube, "analysis", "family", "family")
    columns = [wished] if isinstance(wished, str) else [str(column) for column in wished]
    if "models" not in cube.children or not set(columns) <= set(cube.children["models"].variables):
        return names
    table = norm_dataset(cube, "models")
    rows = zip(*(table[column].values for column in columns), strict=True)
    known = {
        str(name): " ".join(str(value) for value in row)
        for name, row in zip(table["model"].values, rows, strict=True)
    }
    return [known.get(name, "").strip() or name for name in names]


@dataclass(frozen=True)
class Columns:
    """What is to be correlated, read once: `measures`, `robustness`, `clean` accuracy, `family` of models."""

    measures: xr.DataArray
    robustness: xr.DataArray
    clean: FloatArray
    family: list[str]


def read_columns(cube: xr.DataTree) -> Columns:
    """Return all measures and notions of a cube, which several analyses share."""
    x = measures(cube)
    family = dict(zip(models(cube), families(cube), strict=True))
    group = [family.get(str(name), str(name)) for name in x["model"].values]
    return Columns(x, robustness(cube), clean_accuracy(cube).values, group)


def correlations(cube: xr.DataTree, read: Columns | None = None) -> xr.Dataset:
    """Return the correlations of all measures of a cube with all its robustness notions, labelled.

    Parameters
    ----------
    read : Columns, optional
        Of this cube, if they are read already.

    Returns
    -------
    xarray.Dataset (measure, notion)
        As `correlation.correlations` with clean accuracy as the control, and `p`, simultaneous over all pairs
        of columns that nearly all models have (NaN for others), on the `models_of_p` models with all;
        families of one size are exchanged as wholes.
    """
    read = read_columns(cube) if read is None else read
    x, y, group = read.measures, read.robustness, read.family
    found = correlation.correlations(x.values, y.values, group, read.clean, confidence(cube))
    p = np.full((x.sizes["measure"], y.sizes["notion"]), np.nan)
    # Permutations need complete models: those that have every column which nearly all models have.
    kept_x, kept_y = (np.flatnonzero((~np.isnan(side.values)).mean(axis=0) >= NEARLY_ALL) for side in (x, y))
    kept = ~np.isnan(np.hstack([x.values[:, kept_x], y.values[:, kept_y]])).any(axis=1)
    if len(kept_x) and len(kept_y) and kept.sum() >= 2:
        p[np.ix_(kept_x, kept_y)] = correlation.largest_by_chance(
            x.values[kept][:, kept_x],
            y.values[kept][:, kept_y],
            family=np.array(group)[kept],
            seed=seed(cube),
        )
    found = found.assign(p=(("measure", "notion"), p))
    found = found.assign_coords(measure=x["measure"].values, notion=y["notion"].values)
    shared = "measures of the test samples and robustness on them share their errors: not cross-fitted"
    return found.assign_attrs(control="clean accuracy", caveat=shared, models_of_p=int(kept.sum()))
