"""What every analysis asks of a cube: norms, cleaned aggregates, statuses in words, the study's wishes."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from metaeval.errors import UsageError
from metaeval.outcomes import NORMS

WORST_CASE = "worst-case"
STATUSES = ("pending", "ok", "failed", "skipped")


@dataclass(frozen=True)
class Reference:
    """An epsilon at which models are compared.

    Attributes
    ----------
    value : float
    label : str
        As written in the study.
    chosen : bool
        False where the study names none for this norm and a middle one stands in.
    """

    value: float
    label: str
    chosen: bool


def norms(cube: xr.DataTree) -> list[str]:
    """Return the norms of a cube that have at least one attack."""
    return [norm for norm in NORMS if norm in cube.children and attacks(cube, norm)]


def sampled_norms(cube: xr.DataTree) -> list[str]:
    """Return the norms whose per-sample outcomes the cube holds; published results have none."""
    samples = cube.children["samples"].children if "samples" in cube.children else {}
    return [norm for norm in norms(cube) if norm in samples]


def samples_of(cube: xr.DataTree, name: str) -> xr.Dataset:
    """Return a group of per-sample outcomes, such as "linf", "clean" or "shifts/fog".

    Raises
    ------
    UsageError
        If the cube has none, as of published results.
    """
    node: xr.DataTree | None = cube.children.get("samples")
    for part in name.split("/"):
        node = None if node is None else node.children.get(part)
    if node is None:
        raise UsageError(f"not estimable: the cube holds no per-sample outcomes of {name}")
    return node.to_dataset(inherit=False)


def counted_norms(cube: xr.DataTree) -> list[str]:
    """Return the norms whose numbers of samples the cube holds, so that accuracies have intervals."""
    return [norm for norm in norms(cube) if (cube.children[norm]["total"] >= 0).all()]


def imported(cube: xr.DataTree) -> dict[str, Any] | None:
    """Return where imported results come from; None for a cube that a run has filled."""
    said = attributes(cube).get("imported")
    return said if isinstance(said, dict) else None


def norm_dataset(cube: xr.DataTree, group: str) -> xr.Dataset:
    """Return one aggregate group in memory, its counts as floats with NaN for "not available".

    Raises
    ------
    UsageError
        If the cube has no such group.
    """
    if group not in cube.children:
        raise UsageError(f"the cube has no group {group!r}")
    dataset = cube.children[group].to_dataset(inherit=False).load()
    for name in ("correct", "inferred", "overruled"):
        if name in dataset:
            counts = dataset[name].astype(np.float64)
            dataset[name] = counts.where(counts >= 0)
    if "total" in dataset and (dataset["total"] < 0).any():  # of published results only
        totals = dataset["total"].astype(np.float64)
        dataset["total"] = totals.where(totals >= 0)
    return dataset


def attacks(cube: xr.DataTree, norm: str) -> list[str]:
    """Return the attacks of a norm without the worst case."""
    return [name for name in coordinate(cube, norm, "attack") if name != WORST_CASE]


def coordinate(cube: xr.DataTree, group: str, name: str) -> list[str]:
    """Return a group's coordinate as plain text; empty if the group has none of this name."""
    coordinates = cube.children[group].coords
    return [str(value) for value in coordinates[name].values] if name in coordinates else []


def models(cube: xr.DataTree) -> list[str]:
    """Return the models that the cube's aggregates cover, in their order."""
    groups = [group for group in ("clean", *norms(cube), "models") if group in cube.children]
    return next((found for group in groups if (found := coordinate(cube, group, "model"))), [])


def status(cube: xr.DataTree, norm: str) -> xr.Dataset:
    """Return `status` (pending, ok, failed or skipped) and `reason` in words over (model, attack).

    The worst case is "ok" only when every attack is, else "failed" if one failed, else "pending"; its
    reason names the attacks it waits for.
    """
    group = norm_dataset(cube, norm)
    words = np.vectorize(_status_word, otypes=[object])(group["status"].transpose("model", "attack").values)
    reasons = group["reason"].transpose("model", "attack").values.astype(object)
    names = [str(name) for name in group["attack"].values]
    if WORST_CASE in names:
        row = names.index(WORST_CASE)
        for i in range(len(words)):
            waiting = {
                names[j]: str(words[i, j])
                for j in range(len(names))
                if j != row and words[i, j] not in ("ok", "skipped")
            }
            words[i, row] = "failed" if "failed" in waiting.values() else "pending" if waiting else "ok"
            if waiting:
                reasons[i, row] = ", ".join(f"{name} {word}" for name, word in waiting.items())
    coordinates = {"model": group["model"].values, "attack": names}
    return xr.Dataset(
        {"status": (("model", "attack"), words), "reason": (("model", "attack"), reasons)}, coordinates
    )


def attributes(cube: xr.DataTree) -> dict[str, Any]:
    """Return the cube's root attributes with JSON strings decoded."""
    decoded: dict[str, Any] = {}
    for key, value in cube.attrs.items():
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, str) and value[:1] in ("{", "["):
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        decoded[str(key)] = value
    return decoded


def wish(cube: xr.DataTree, section: str, key: str, default: Any) -> Any:
    """Return what the study says about ``[section] key``, kept in the cube's `study` attribute."""
    found = attributes(cube)
    study = found.get("study")
    if isinstance(study, dict) and isinstance(study.get(section), dict):
        value = study[section].get(key)
        if value is not None:
            return value
    value = found.get(key)
    return default if value is None else value


def confidence(cube: xr.DataTree) -> float:
    """Return the confidence of the study's intervals (default 0.95)."""
    return float(wish(cube, "analysis", "confidence", 0.95))


def seed(cube: xr.DataTree) -> int:
    """Return the seed of the study's resampling (default: the study's own seed, else 0)."""
    return int(wish(cube, "analysis", "seed", wish(cube, "study", "seed", 0)))


def given_confidence(cube: xr.DataTree, given: float | None) -> float:
    """Return a confidence if one is given, else the study's."""
    return confidence(cube) if given is None else given


def given_seed(cube: xr.DataTree, given: int | None) -> int:
    """Return a seed if one is given, else the study's."""
    return seed(cube) if given is None else given


def given_alpha(cube: xr.DataTree, given: float | None) -> float:
    """Return an error rate of certified crossings if one is given, else the study's."""
    if given is not None:
        return given
    return 1 - float(wish(cube, "analysis", "crossings", {}).get("confidence", 0.95))


def references(cube: xr.DataTree, norm: str) -> list[Reference]:
    """Return the reference epsilons of a norm, ascending.

    Those that the study names and this norm evaluated; if there are none, the middle positive epsilon
    stands in.
    """
    values = cube.children[norm].coords["epsilon"].values.astype(np.float64)
    labels = coordinate(cube, norm, "epsilon_label")
    wanted = wish(cube, "analysis", "reference_epsilons", [])
    wanted = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    found = [
        Reference(float(value), label, True)
        for value, label in sorted(zip(values, labels, strict=True))
        if any(_same_epsilon(value, label, entry) for entry in wanted)
    ]
    positive = sorted((value, label) for value, label in zip(values, labels, strict=True) if value > 0)
    if found or not positive:
        return found
    value, label = positive[(len(positive) - 1) // 2]
    return [Reference(float(value), label, False)]


def _same_epsilon(value: float, label: str, entry: Any) -> bool:
    """Tell whether a level is the one that the study wrote: as text, number, pair or table."""
    if isinstance(entry, dict):
        return _same_epsilon(value, label, entry.get("value", entry.get("label")))
    if isinstance(entry, (list, tuple)):
        return any(_same_epsilon(value, label, part) for part in entry)
    if isinstance(entry, str):
        return entry == label or _number(entry) == value
    return isinstance(entry, (int, float)) and float(entry) == value


def _number(text: str) -> float | None:
    """Return the float of "8/255" or "0.03"."""
    from fractions import Fraction

    try:
        return float(Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        return None


def _status_word(value: Any) -> str:
    """Return a status as a word, whether stored as word or code."""
    if isinstance(value, (int, np.integer)):
        return STATUSES[int(value)]
    return str(value) or "pending"
