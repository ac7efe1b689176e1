"""What each attack of a cascade adds: accuracy after it, its change, its minutes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from metaeval.analysis.reading import coordinate, norm_dataset
from metaeval.errors import UsageError


def table(
    accuracy: npt.ArrayLike,
    minutes: npt.ArrayLike,
    models: Sequence[str],
    stages: Sequence[str],
) -> pd.DataFrame:
    """Return one row per model and stage: `model`, `stage`, `accuracy`, `delta`, `minutes`.

    Parameters
    ----------
    accuracy : array_like (model, stage)
        Fractions after each stage, which only attacks what the stages before left; NaN where not known.
    minutes : array_like (model, stage)
        Of each stage alone; NaN where not known.

    Returns
    -------
    pandas.DataFrame
        `delta` is the accuracy minus that of the stage before: never positive, NaN for the first stage.

    Raises
    ------
    UsageError
        If an accuracy rises from one stage to the next: then the stages were not run on survivors.
    """
    p, time = np.asarray(accuracy, dtype=np.float64), np.asarray(minutes, dtype=np.float64)
    if p.shape != (len(models), len(stages)) or time.shape != p.shape:
        raise UsageError(
            f"accuracy {p.shape} and minutes {time.shape} need {len(models)} models x {len(stages)}"
        )
    delta = np.diff(p, axis=1, prepend=np.nan)
    for i, j in zip(*np.nonzero(delta > 1e-9), strict=True):
        raise UsageError(f"accuracy of {models[i]} rises from {stages[j - 1]} to {stages[j]}")
    return pd.DataFrame(
        {
            "model": np.repeat(np.array(models, dtype=object), len(stages)),
            "stage": list(stages) * len(models),
            "accuracy": p.ravel(),
            "delta": delta.ravel(),
            "minutes": time.ravel(),
        }
    )


def from_cube(cube: xr.DataTree, norm: str, epsilon: float) -> pd.DataFrame:
    """Return the stages of a cascade at one epsilon; an error if the norm ran no cascade."""
    group = norm_dataset(cube, norm)
    if "stage_accuracy" not in group:
        raise UsageError(f"{norm} has no stages: its attacks ran individually")
    at = group[["stage_accuracy", "stage_seconds"]].sel(epsilon=epsilon).transpose("model", "stage")
    return table(
        at["stage_accuracy"].values,
        at["stage_seconds"].values / 60,
        coordinate(cube, norm, "model"),
        coordinate(cube, norm, "stage"),
    )
