"""The part of a cube that a study's analysis is about: some of its models, classes and attacks."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from metaeval.analysis.paired import cells_at
from metaeval.analysis.reading import WORST_CASE, coordinate, norms, sampled_norms, wish
from metaeval.analysis.reading import attacks as attacks_of
from metaeval.cube.counts import aggregate_norm
from metaeval.cube.separation import GROUP as INTERCLASS
from metaeval.errors import UsageError, nearest

Positions = npt.NDArray[np.int64]
ATTRIBUTE = "subset"


def of_study(cube: xr.DataTree) -> xr.DataTree:
    """Return the part of a cube that its study's ``[analysis]`` names (`models`, `classes`, `attacks`)."""
    chosen = {key: wish(cube, "analysis", key, ()) for key in ("models", "classes", "attacks")}
    return subset(cube, **chosen) if any(chosen.values()) else cube


def subset(
    cube: xr.DataTree,
    *,
    models: Sequence[str] = (),
    classes: Sequence[str] = (),
    attacks: Sequence[str] = (),
) -> xr.DataTree:
    """Return a cube of some models, classes and attacks only; every analysis works on it as on a whole one.

    Parameters
    ----------
    models, classes, attacks : sequence of str
        Names or patterns (``*``, ``?``); empty = all. The worst case is that of the chosen attacks. Samples
        of other classes are left out; the chosen classes are numbered anew, in predictions and logits too,
        where the others follow them.

    Returns
    -------
    DataTree
        The attribute `subset` says in JSON what was chosen, as [chosen, of how many].

    Raises
    ------
    UsageError
        If a pattern matches nothing.
    """
    names = {
        "model": _all(cube, "model"),
        "class": _all(cube, "class"),
        "attack": [name for name in _all(cube, "attack") if name != WORST_CASE],
    }
    patterns = {"model": models, "class": classes, "attack": attacks}
    kept = {kind: _matching(kind, names[kind], patterns[kind]) for kind in names}
    tree: dict[str, xr.Dataset] = {}
    for node in cube.subtree:
        group = node.to_dataset(inherit=False)
        if node.path == "/" or not group.sizes or (classes and node.path == f"/{INTERCLASS}"):
            continue  # the nearest other class may be one that is left out
        group = _of_names(group, kept)
        if classes and "label" in group.coords:
            group = _of_classes(cube, node.path, group, _order(names["class"], kept["class"]), kept["class"])
        if not _empty(group):
            tree[node.path] = group
    result = xr.DataTree.from_dict(tree)
    chosen = {kind: [kept[kind], len(names[kind])] for kind in names if patterns[kind]}
    result.attrs = {**cube.attrs, ATTRIBUTE: json.dumps(chosen)}
    if attacks:
        for norm in norms(result):
            if attacks_of(result, norm) != attacks_of(cube, norm):
                result[norm] = xr.DataTree(_counted_again(result, norm))
    return result


def _all(cube: xr.DataTree, name: str) -> list[str]:
    found: dict[str, None] = {}
    for group in cube.children:
        found |= dict.fromkeys(coordinate(cube, group, name))
    return list(found)


def _matching(kind: str, names: list[str], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = nearest(pattern, names)
            hint = f"; did you mean {near!r}?" if near else ""
            raise UsageError(
                f"no {kind} of the cube is called {pattern!r}; there are {', '.join(names)}{hint}"
            )
    return [name for name in names if not patterns or any(fnmatch.fnmatchcase(name, p) for p in patterns)]


def _order(names: list[str], kept: list[str]) -> Positions:
    """Return the old positions of classes in their new order: the chosen ones first."""
    return np.array(sorted(range(len(names)), key=lambda position: names[position] not in kept))


def _of_names(group: xr.Dataset, kept: dict[str, list[str]]) -> xr.Dataset:
    for dim, chosen in kept.items():
        if dim in group.dims and dim in group.coords:
            wanted = {*chosen, WORST_CASE} if dim == "attack" else set(chosen)
            group = group.isel({dim: [i for i, name in enumerate(group[dim].values) if str(name) in wanted]})
    return group


def _of_classes(
    cube: xr.DataTree, path: str, group: xr.Dataset, order: Positions, kept: list[str]
) -> xr.Dataset:
    """Return a group of samples with those of the kept classes only, and classes in their new numbers."""
    new = np.argsort(order)
    if path.count("/") == 2 and "clean" in cube.children and path != "/samples/train":
        # The cube may hold more samples than its aggregates cover.
        group = group.isel(sample=slice(0, int(cube.children["clean"]["total"].sum())))
    for name in ("label", "prediction"):
        if name in group:
            group[name] = group[name].copy(data=_renumbered(new, group[name].values))
    if "logit" in group.dims:
        group = group.isel(logit=order).assign_coords(logit=np.arange(len(order)))
    if "clean" in group:  # positions of the originals, some of which are gone
        labels = np.asarray(cube["samples/clean"]["label"].values, dtype=np.int64)
        originals = new[labels] < len(kept)
        places = np.where(originals, np.cumsum(originals) - 1, -1)
        group["clean"] = group["clean"].copy(data=_renumbered(places, group["clean"].values))
    return group.isel(sample=np.flatnonzero(group["label"].values < len(kept)))


def _renumbered(new: Positions, values: Positions) -> Positions:
    """Return classes in their new numbers; -1 stays "not known"."""
    return np.where(values >= 0, new[values], -1)


def _empty(group: xr.Dataset) -> bool:
    """Tell whether none of the chosen attacks is in a group of attacks."""
    return "attack" in group.coords and not {str(name) for name in group["attack"].values} - {WORST_CASE}


def _counted_again(cube: xr.DataTree, norm: str) -> xr.Dataset:
    """Return a norm's aggregates with the worst case of the attacks that are left."""
    group = cube.children[norm].to_dataset(inherit=False).load()
    if group.attrs.get("cascade", "") not in {"", *map(str, group["attack"].values)}:
        group = group.drop_dims("stage", errors="ignore")
        group.attrs = {key: value for key, value in group.attrs.items() if key != "cascade"}
    if norm not in sampled_norms(cube):
        return _of_one(group)
    labels = np.asarray(cube[f"samples/{norm}"]["label"].values, dtype=np.int64)
    labels = labels[: int(group["total"].sum())]
    # (model, attack, sample, level), levels as the aggregates have their epsilons
    states = np.stack([cells_at(cube, norm, float(epsilon)) for epsilon in group["epsilon"].values], axis=-1)
    row = [str(name) for name in group["attack"].values].index(WORST_CASE)
    members = group["members"].transpose("model", "attack").values.astype(bool)
    members = np.delete(members, row, axis=1)
    counted = [
        aggregate_norm(states[m], labels, group.sizes["class"], members[m]) for m in range(len(states))
    ]
    for name, dims in _WORST_CASE_DIMS.items():
        values = group[name].transpose("attack", "model", *dims).copy()
        values[row] = np.stack([getattr(count, name)[..., 0] for count in counted])
        group[name] = values.transpose(*group[name].dims)
    return group


def _of_one(group: xr.Dataset) -> xr.Dataset:
    """Return aggregates without per-sample outcomes: a worst case is known of a single attack only."""
    names = [str(name) for name in group["attack"].values]
    row, others = names.index(WORST_CASE), [i for i, name in enumerate(names) if name != WORST_CASE]
    for name, unknown in _UNKNOWN.items():
        if name in group:
            values = group[name].transpose("attack", ...).astype(group[name].dtype).copy()
            values[row] = values[others[0]] if len(others) == 1 else unknown
            group[name] = values.transpose(*group[name].dims)
    return group


_UNKNOWN = {
    "robust_accuracy": np.nan,
    "correct": -1,
    "inferred": -1,
    "count_status": 0,
    "status": 3,
    "reason": "the worst of several attacks is a matter of single samples",
}


_WORST_CASE_DIMS = {
    "robust_accuracy": ("class", "epsilon"),
    "correct": ("class", "epsilon"),
    "inferred": ("class", "epsilon"),
    "evaluated": ("class",),
    "overruled": ("epsilon",),
}
