"""Models that no comparison includes, because nothing of them could be computed."""

from __future__ import annotations

import xarray as xr

from metaeval.analysis.reading import WORST_CASE, models, norms, status


def left_out(cube: xr.DataTree) -> dict[str, str]:
    """Return the models of which no column is complete and at least one failed, each with its first reason.

    Every analysis leaves them out by itself, one by one, because their values are missing.
    """
    reasons: dict[str, str] = {}
    complete: set[str] = set()
    for norm in norms(cube):
        table = status(cube, norm).drop_sel(attack=WORST_CASE, errors="ignore")
        for i, model in enumerate(table["model"].values):
            for word, reason in zip(table["status"].values[i], table["reason"].values[i], strict=True):
                if word == "ok":
                    complete.add(str(model))
                elif word == "failed":
                    reasons.setdefault(str(model), str(reason))
    return {name: reasons[name] for name in models(cube) if name in reasons and name not in complete}


def short_of_target(cube: xr.DataTree) -> list[str]:
    """Return the models whose training ended, with all its epochs, above its target loss."""
    if "models" not in cube.children:
        return []
    described = cube["models"].to_dataset()
    if "training_reached_target" not in described:
        return []
    reached = described["training_reached_target"]
    return [str(name) for name in reached["model"].values[(reached == 0).values]]
