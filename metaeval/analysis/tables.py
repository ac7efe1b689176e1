"""Tables of the report: accuracy at an epsilon with statuses, costs, models, attacks and their settings."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from metaeval.analysis import curves
from metaeval.analysis.paired import only_this_attack
from metaeval.analysis.reading import WORST_CASE, attacks, given_confidence, norm_dataset, norms, status


def at_epsilon(cube: xr.DataTree, norm: str, epsilon: float, confidence: float | None = None) -> xr.Dataset:
    """Return everything known of a norm at one epsilon over (model, attack), the worst case first.

    Returns
    -------
    xarray.Dataset
        `accuracy`, `lower`, `upper`, `inferred` (share of samples), `status`, `reason`, `alone` (samples
        that no other attack broke; NaN for the worst case).
    """
    confidence = given_confidence(cube, confidence)
    face = curves.from_cube(cube, norm, confidence).sel(epsilon=epsilon)
    alone = only_this_attack(cube, norm, epsilon).astype(np.float64)
    return xr.merge(
        [
            face.drop_vars("epsilon_label", errors="ignore").transpose("model", "attack"),
            status(cube, norm),
            alone.reindex(attack=face["attack"]).rename("alone"),
        ],
        join="exact",
        compat="override",
    )


def costs(cube: xr.DataTree) -> pd.DataFrame:
    """Return seconds, forwards and backwards by model, norm, attack and stage; NaN = not available."""
    columns = ["model", "norm", "attack", "stage", "seconds", "forwards", "backwards"]
    if "cost" not in cube.children or not cube.children["cost"].data_vars:
        return pd.DataFrame(columns=columns)
    cost = norm_dataset(cube, "cost")
    for name in ("forwards", "backwards"):
        counts = cost[name].astype(np.float64)
        cost[name] = counts.where(counts >= 0)
    frame = cost[["seconds", "forwards", "backwards"]].to_dataframe().reset_index()
    for name in columns[:4]:
        frame[name] = frame[name].astype(str)
    ran = {(norm, attack) for norm in norms(cube) for attack in attacks(cube, norm)}
    planned = [pair in ran for pair in zip(frame["norm"], frame["attack"], strict=True)]
    return frame.loc[planned, columns].reset_index(drop=True)


def model_table(cube: xr.DataTree) -> pd.DataFrame:
    """Return the models' properties, one row a model, without columns that say nothing."""
    if "models" not in cube.children or "model" not in cube.children["models"].coords:
        return pd.DataFrame(columns=["model"])
    models = norm_dataset(cube, "models").reset_coords()
    frame = pd.DataFrame({"model": [str(name) for name in models["model"].values]})
    for name in sorted(models.data_vars, key=_column_order):
        variable = models[name]
        if variable.dims != ("model",) or name == "model":
            continue
        values = [_plain(value) for value in variable.values]
        if any(value != "" for value in values):
            frame[str(name)] = pd.Series(values, dtype=object)
    return frame


def attack_table(cube: xr.DataTree) -> pd.DataFrame:
    """Return one row per norm and attack: its settings and which of them are below the standard."""
    rows = []
    for norm in norms(cube):
        group = norm_dataset(cube, norm)
        for attack in attacks(cube, norm):
            row = group.coords.to_dataset().sel(attack=attack)
            extra = {
                str(name): str(row[name].item())
                for name in row.coords
                if name != "attack" and group[name].dims == ("attack",)
            }
            rows.append({"norm": norm, "attack": attack, **extra})
    return pd.DataFrame(rows)


def incomplete(cube: xr.DataTree) -> pd.DataFrame:
    """Return one row per column that is not ok: norm, model, attack, status, reason."""
    rows = []
    for norm in norms(cube):
        for (model, attack), cell in _cells(status(cube, norm)):
            if cell["status"] != "ok" and attack != WORST_CASE:
                rows.append({"norm": norm, "model": model, "attack": attack, **cell})
    return pd.DataFrame(rows, columns=["norm", "model", "attack", "status", "reason"])


def _cells(table: xr.Dataset) -> list[tuple[tuple[str, str], dict[str, str]]]:
    return [
        ((str(model), str(attack)), {str(k): str(table[k].values[i, j]) for k in table.data_vars})
        for i, model in enumerate(table["model"].values)
        for j, attack in enumerate(table["attack"].values)
    ]


def _column_order(name: object) -> tuple[int, int | str]:
    """Return where a column of the model table stands: what it is, hyper-parameters, training, hashes."""
    first = ("family", "architecture", "source", "parameters", "published_accuracy")
    if name in first:
        return 0, first.index(str(name))
    last = 3 if name in ("weights_sha256", "identity") else 2 if str(name).startswith("training_") else 1
    return last, str(name)


def _plain(value: object) -> object:
    """Return a stored value as Python's own, with "" for what is not known."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return "" if np.isnan(value) else value
    if isinstance(value, int) and not isinstance(value, bool):
        return "" if value == -1 else value
    return value if isinstance(value, bool) else str(value)
