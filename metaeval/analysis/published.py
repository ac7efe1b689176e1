"""What published results alone support: rank correlations of accuracies, shifts, classes, printed claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from scipy import stats

from metaeval.analysis import class_drops, correlation, curves, notions, stages
from metaeval.analysis.paired import compare
from metaeval.analysis.published_notions import weighted
from metaeval.analysis.reading import (
    WORST_CASE,
    coordinate,
    counted_norms,
    given_confidence,
    norm_dataset,
    norms,
    samples_of,
)
from metaeval.cube.counts import UNKNOWN
from metaeval.errors import UsageError

FloatArray = npt.NDArray[np.float64]
ROBUST = ("best_known_accuracy", "autoattack_accuracy", "corruptions_accuracy", "corruptions_3d_accuracy")
"""Columns of `/models` that hold published accuracies under a threat, the leading one first."""
OVERALL = ("clean accuracy", "robust accuracy")
"""Claimed quantities that are averages over classes, of which there are two kinds."""


def accuracies(cube: xr.DataTree) -> pd.DataFrame:
    """Return published accuracies, one row a model: `model`, `family`, `epsilon`, and those that there are.

    Empty for a cube without published accuracies per model.
    """
    if "models" not in cube.children or "clean_accuracy" not in cube.children["models"].data_vars:
        return pd.DataFrame(columns=["model", "family", "epsilon"])
    table = norm_dataset(cube, "models")
    names = [name for name in table.data_vars if str(name).endswith("_accuracy")]
    frame = pd.DataFrame({"model": [str(name) for name in table["model"].values]})
    frame["family"] = notions.families(cube)
    there = "epsilon_label" in table and bool(norms(cube))  # elsewhere it says how a model was trained
    frame["epsilon"] = [str(label) for label in table["epsilon_label"].values] if there else ""
    for name in sorted(map(str, names)):
        frame[name] = table[name].values.astype(np.float64)
    return frame


def rank_correlation(
    x: npt.ArrayLike, y: npt.ArrayLike, family: npt.ArrayLike | None = None, confidence: float = 0.95
) -> dict[str, float]:
    """Return Spearman's correlation of two columns of models with its family jackknife interval.

    Returns
    -------
    dict
        `spearman`, `lower`, `upper` (NaN below 5 families), `models`, `families`; NaN where not estimable.
    """
    a, b = (np.asarray(side, dtype=np.float64)[:, None] for side in (x, y))
    found = correlation.correlations(a, b, family, confidence=confidence)
    return {name: found[name].item() for name in ("spearman", "lower", "upper", "models", "families")}


def shifted(cube: xr.DataTree, confidence: float | None = None) -> xr.Dataset:
    """Return overall accuracy under each shift, its severities averaged.

    Returns
    -------
    xarray.Dataset
        `accuracy`, `lower`, `upper` (Wilson; NaN without counts or with several severities), `clean`
        (model) and `severities`, the number averaged, over (model, shift), with `kind` (shift). An average is
        NaN unless every severity that any model has is known for the model.
    """
    confidence = given_confidence(cube, confidence)
    group = norm_dataset(cube, "shifts")
    correct = group["correct"].sum("class", skipna=False)
    total = group["total"].sum("class", skipna=False)
    face = curves.with_interval(correct, total, confidence)
    accuracy = face["accuracy"]
    if group.sizes["class"] == 1:
        accuracy = accuracy.fillna(group["accuracy"].isel({"class": 0}, drop=True))
    there = accuracy.notnull().any("model")
    count = there.sum("severity")
    whole = (accuracy.notnull() | ~there).all("severity") & (count > 0)
    single = whole & (count == 1)
    names = [str(name) for name in group["model"].values]
    result = xr.Dataset(
        {
            "accuracy": accuracy.mean("severity").where(whole),
            "lower": face["lower"].max("severity").where(single),
            "upper": face["upper"].max("severity").where(single),
            "severities": count,
        },
        attrs=face.attrs,
    ).transpose("model", "shift", ...)
    clean = notions.clean_accuracy(cube) if "clean" in cube.children else None
    known = (
        {}
        if clean is None
        else {str(n): float(v) for n, v in zip(clean["model"].values, clean.values, strict=True)}
    )
    return result.assign(clean=("model", [known.get(name, np.nan) for name in names]))


def paired_with_best(
    cube: xr.DataTree, shift: str | None = None, confidence: float | None = None
) -> pd.DataFrame:
    """Return each model against the best one on the same samples of a test set.

    Parameters
    ----------
    shift : str, optional
        Default: the clean test set.

    Returns
    -------
    pandas.DataFrame
        `model`, `accuracy`, `difference` to the best (never positive), `lower`, `upper` (normal, paired),
        `p` (exact McNemar, Holm over all pairs of models), best first; models without predictions left out.

    Raises
    ------
    UsageError
        If fewer than two models have predictions.
    """
    confidence = given_confidence(cube, confidence)
    names, right = outcomes(cube, shift)
    if len(names) < 2:
        raise UsageError("not estimable: a comparison needs two models with predictions")
    found = compare(right, confidence)
    accuracy = right.mean(axis=1)
    order = np.argsort(-accuracy, kind="stable")
    best = int(order[0])
    quantile = float(stats.norm.isf((1 - confidence) / 2))
    rows = []
    for i in order:
        at = found.pair(best, int(i)) if i != best else -1
        difference = accuracy[i] - accuracy[best]
        half = quantile * float(found.standard_error[at]) if i != best else 0.0
        p = float(found.adjusted[at]) if i != best else np.nan
        rows.append((names[i], accuracy[i], difference, difference - half, difference + half, p))
    return pd.DataFrame(rows, columns=["model", "accuracy", "difference", "lower", "upper", "p"])


def outcomes(cube: xr.DataTree, shift: str | None = None) -> tuple[list[str], FloatArray]:
    """Return the models with a prediction of every sample, and outcomes (model, sample): 1 correct, 0 not."""
    group = samples_of(cube, "clean" if shift is None else f"shifts/{shift}")
    prediction = group["prediction"] if shift is None else group["prediction"].isel(severity=0)
    values = prediction.transpose("model", "sample").values
    complete = (values != UNKNOWN).all(axis=1)
    names = [str(name) for name in group["model"].values[complete]]
    return names, (values[complete] == group["label"].values).astype(np.float64)


def drops(cube: xr.DataTree, norm: str) -> xr.Dataset | None:
    """Return drops per class of printed accuracies, as `class_drops.from_accuracy`; None without any.

    They need two epsilons and two classes; there is no interval, which rests on per-sample outcomes.
    """
    group = norm_dataset(cube, norm)
    if group.sizes["epsilon"] < 2 or group.sizes["class"] < 2:
        return None
    printed = group["robust_accuracy"].sel(attack=WORST_CASE).transpose("model", "class", "epsilon")
    found = class_drops.from_accuracy(printed.values, group["total"].values)
    names = {dim: [str(name) for name in group[dim].values] for dim in ("model", "class")}
    return found.assign_coords({**names, "epsilon": group["epsilon"].values}).assign_attrs(
        method="differences of printed accuracies", covers="nothing: the source gives no per-sample outcomes"
    )


@dataclass(frozen=True)
class Checked:
    """A number that the source prints, beside what its table gives.

    Attributes
    ----------
    what : str
        The number in words.
    where : str
        Where it is printed.
    printed, found : float
        Fractions; `found` is NaN where the table does not give it.
    class_mean : float
        The mean over classes, each counted once, where `found` counts every sample once; NaN for others.
    agrees : bool
        Whether one of the two is within one unit of the last printed place.
    """

    what: str
    where: str
    printed: float
    found: float
    class_mean: float
    agrees: bool


def claims(cube: xr.DataTree) -> list[Checked]:
    """Return the numbers that an import was told the source prints, compared with the table."""
    if "claims" not in cube.children:
        return []
    table = cube.children["claims"].to_dataset(inherit=False).load()
    checked = []
    for i in range(table.sizes["claim"]):
        row = {str(name): table[name].values[i] for name in table.data_vars}
        said = {name: str(row[name]) for name in ("quantity", "model", "class", "epsilon", "stage", "where")}
        printed, found, mean = float(row["printed"]), _claimed(cube, said), _class_mean(cube, said)
        near = any(abs(value - printed) <= float(row["place"]) * (1 + 1e-9) for value in (found, mean))
        about = [f"{key} {said[key]}" for key in ("class", "epsilon", "stage") if said[key]]
        what = " ".join(
            [said["quantity"], *(["of", ", ".join([*([said["model"]] if said["model"] else []), *about])])]
        )
        checked.append(Checked(what, said["where"], printed, found, mean, near))
    return checked


def _claimed(cube: xr.DataTree, said: dict[str, str]) -> float:
    """Return what the table gives for a claim, NaN where it does not give it."""
    nothing, name = float("nan"), said["quantity"]
    try:
        if name in OVERALL:
            return _overall(cube, said, weighted)
        norm = norms(cube)[0]
        if name == "stage change":
            frame = stages.at_epsilon(cube, norm, float(norm_dataset(cube, norm)["epsilon"].values[-1]))
            row = frame[(frame["model"] == said["model"]) & (frame["stage"] == said["stage"])]
            return float(row["delta"].iloc[0])
        found = drops(cube, norm)
        if found is None:
            return nothing
        if name == "drop":
            return float(found["drop"].sel({"model": said["model"], "class": said["class"]}))
        average = found["average_drop"]
        return float(average.sel({"class": said["class"]}) if said["class"] else found["overall"])
    except (KeyError, IndexError, ValueError):  # a name that the table does not have
        return nothing


def _class_mean(cube: xr.DataTree, said: dict[str, str]) -> float:
    """Return the mean over classes for a claim about an accuracy, NaN for any other or a single class."""
    try:
        found = _overall(cube, said, _mean_of_classes) if said["quantity"] in OVERALL else float("nan")
    except (KeyError, IndexError, ValueError):
        return float("nan")
    return found


def _mean_of_classes(cube: xr.DataTree, group: str, name: str) -> xr.DataArray:
    found = norm_dataset(cube, group)[name]
    return found.mean("class", skipna=False).where(found.sizes["class"] > 1)


def _overall(
    cube: xr.DataTree, said: dict[str, str], average: Callable[[xr.DataTree, str, str], xr.DataArray]
) -> float:
    """Return a claimed accuracy of a model, all classes averaged by a rule."""
    if said["quantity"] == "clean accuracy":
        return float(average(cube, "clean", "accuracy").sel(model=said["model"]))
    norm = norms(cube)[0]
    labels = coordinate(cube, norm, "epsilon_label")
    at = average(cube, norm, "robust_accuracy").sel(attack=WORST_CASE)
    return float(at.isel(epsilon=labels.index(said["epsilon"])).sel(model=said["model"]))


def class_accuracy(cube: xr.DataTree, confidence: float | None = None) -> xr.Dataset | None:
    """Return clean accuracy per class with Wilson's intervals over (model, class); None without classes."""
    confidence = given_confidence(cube, confidence)
    if "clean" not in cube.children or counted_norms(cube):
        return None
    group = norm_dataset(cube, "clean")
    if group.sizes["class"] < 2 or group["total"].isnull().any():
        return None
    face = curves.with_interval(group["correct"], group["total"], confidence)
    return face.assign(total=group["total"]).transpose("model", "class")


def cost_of_parameters(cube: xr.DataTree) -> pd.DataFrame:
    """Return parameters, minutes of all stages and final accuracy, one row a model; empty without them."""
    nothing = pd.DataFrame(columns=["model", "parameters", "minutes", "accuracy"])
    cascades = [norm for norm in norms(cube) if stages.cascade(cube, norm)]
    if not cascades or "models" not in cube.children:
        return nothing
    table = norm_dataset(cube, "models")
    names = [str(name) for name in table.data_vars if str(name).startswith("parameters")]
    if not names or table[names[0]].dtype.kind not in "fiu":
        return nothing
    scale = 1e6 if names[0].endswith("million") else 1.0
    group = norm_dataset(cube, cascades[0]).isel(epsilon=-1)
    seconds = group["stage_seconds"].sum("stage", skipna=False)
    return pd.DataFrame(
        {
            "model": [str(name) for name in group["model"].values],
            "parameters": table[names[0]].astype(np.float64).values * scale,
            "minutes": seconds.values / 60,
            "accuracy": group["stage_accuracy"].isel(stage=-1).values,
        }
    )
