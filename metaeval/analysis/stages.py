"""What each stage of a cascade adds: accuracy after it, how much it lowered that, its time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from metaeval.analysis import curves
from metaeval.analysis.reading import coordinate, norm_dataset
from metaeval.errors import UsageError

CLEAN = "clean"
COLUMNS = ("model", "stage", "accuracy", "delta", "seconds")


def cascade(cube: xr.DataTree, norm: str) -> str:
    """Return the name of a norm's cascade, "" if it has none."""
    return str(cube.children[norm].attrs.get("cascade", "")) if coordinate(cube, norm, "stage") else ""


def at_epsilon(cube: xr.DataTree, norm: str, epsilon: float) -> pd.DataFrame:
    """Return the stages of a norm's cascade at one of its epsilons.

    Returns
    -------
    pandas.DataFrame
        One row per model and stage, in order, each model's first row being the clean accuracy: `model`,
        `stage`, `accuracy` (fraction of samples unbroken after the stage), `delta` (difference to the row
        before, never positive), `seconds` (time of the stage at this epsilon; NaN for clean). NaN where
        not available. Stages are conditional: each met only what those before it left.
    """
    group = norm_dataset(cube, norm)
    if "stage" not in group.coords:
        raise UsageError(f"not estimable: under {norm} there is no cascade, and so no stages")
    group = group.sel(epsilon=epsilon)
    clean = curves.clean_from_cube(cube)["accuracy"]
    stages = [str(name) for name in group["stage"].values]
    frames = []
    for model in group["model"].values:
        accuracy = np.append(
            float(clean.sel(model=model)) if model in clean["model"].values else np.nan,
            group["stage_accuracy"].sel(model=model).values,
        )
        seconds = np.append(np.nan, group["stage_seconds"].sel(model=model).values)
        delta = np.diff(accuracy, prepend=np.nan)
        rows = {"stage": [CLEAN, *stages], "accuracy": accuracy, "delta": delta, "seconds": seconds}
        frames.append(pd.DataFrame({"model": str(model), **rows}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))


def table(
    accuracy: npt.ArrayLike,
    minutes: npt.ArrayLike,
    models: Sequence[str],
    stages: Sequence[str],
) -> pd.DataFrame:
    """Return published stages, one row per model and stage: `model`, `stage`, `accuracy`, `delta`, `minutes`.

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
