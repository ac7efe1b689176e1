"""What each stage of a cascade adds: accuracy after it, how much it lowered that, its time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from metaeval.analysis import curves
from metaeval.analysis.reading import coordinate, norm_dataset

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
    group = norm_dataset(cube, norm).sel(epsilon=epsilon)
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
