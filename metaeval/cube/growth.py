"""Bringing the sample groups' arrays to the size of the axes. Idempotent, so an interruption is harmless."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from metaeval.cube import arrays
from metaeval.cube.axes import Axes
from metaeval.cube.layout import EVIDENCE, FORMAT, GROUPS, SHIFT_GROUP, Variable, evidence, group_variables
from metaeval.cube.shift_axes import ShiftAxes, shift_of

Grown = dict[tuple[str, str], tuple[tuple[int, ...], list[Any] | None]]
"""Arrays (group, name) that were found or made as the axes say: their shapes, and values of coordinates."""


def forget(grown: Grown, group: str) -> None:
    """Drop what is known of a group, which was removed."""
    for key in [key for key in grown if key[0] == group]:
        del grown[key]


def sample_groups(axes: Axes) -> list[str]:
    """Return the sample groups that these axes have."""
    clean = ["samples/clean"] if axes.class_names else []
    norms = [f"samples/{norm}" for norm in axes.norms]
    return clean + norms + [f"{SHIFT_GROUP}{name}" for name in axes.shifts]


def variables(axes: Axes, group: str) -> dict[str, Variable]:
    """Return a sample group's arrays: the layout's, those of stages and adversarials where there are some."""
    shift = _shift(axes, group)
    if shift is not None:
        return shift.variables()
    norm = axes.norms.get(group.removeprefix("samples/"))
    if norm is None:
        return GROUPS[group]
    found = {name: v for name, v in GROUPS[group].items() if norm.stages or "stage" not in v.dims}
    if norm.input_shape is not None:
        found[EVIDENCE] = evidence(len(norm.input_shape))
    return found


def sizes(axes: Axes, group: str) -> dict[str, int]:
    """Return the size of each dimension of a sample group."""
    result = {"model": len(axes.models), "sample": len(axes.ids), "logit": axes.logits}
    shift = _shift(axes, group)
    if shift is not None:
        result.update(sample=len(shift.ids), severity=len(shift.severities))
    norm = axes.norms.get(group.removeprefix("samples/"))
    if norm is not None:
        result.update(attack=len(norm.attacks), level=len(norm.epsilons), stage=len(norm.stages))
        if norm.input_shape is not None:
            result.update(zip(evidence(len(norm.input_shape)).dims[3:], norm.input_shape, strict=True))
    return result


def grow(path: Path, axes: Axes, grown: Grown) -> None:
    """Create and enlarge arrays, and write coordinates, wherever they are not yet as the axes say.

    Finished chunks stay where they are: arrays only grow at their ends. Consolidated metadata is deleted
    before anything else changes.

    Parameters
    ----------
    grown : Grown
        What earlier calls left, which is not read again; what this one leaves is added.
    """
    root = zarr.open_group(path, mode="a", zarr_format=3, use_consolidated=False)
    changes = differences(root, axes, grown)
    if not changes and root.attrs.get("format") == FORMAT:
        return
    arrays.drop_consolidated(path)
    root = zarr.open_group(path, mode="a", zarr_format=3, use_consolidated=False)
    if root.attrs.get("format") != FORMAT:
        root.attrs["format"] = FORMAT
    for group, name in changes:
        described = variables(axes, group)[name]
        node = root.require_group(group)
        expected = arrays.coordinate_attribute(group_variables(group))
        if dict(node.attrs) != expected:
            node.attrs.update(expected)
        grown.pop((group, name), None)
        _grow_array(node, axes, group, name, described)
        grown[group, name] = _wanted(axes, group, name, described)


def differences(root: zarr.Group, axes: Axes, grown: Grown | None = None) -> list[tuple[str, str]]:
    """Return the arrays (group, name) of sample groups whose size or coordinates are not as the axes say.

    Those that `grown` knows to be so are not read; those that are found so are added to it.
    """
    known: Grown = {} if grown is None else grown
    changes = []
    for group in sample_groups(axes):
        for name, described in variables(axes, group).items():
            wanted = _wanted(axes, group, name, described)
            if known.get((group, name)) == wanted:
                continue
            if _is_grown(root, group, name, wanted):
                known[group, name] = wanted
            else:
                changes.append((group, name))
    return changes


def _wanted(
    axes: Axes, group: str, name: str, described: Variable
) -> tuple[tuple[int, ...], list[Any] | None]:
    """Return the shape that an array must have, and its values if it is a coordinate."""
    return _shape(axes, group, described), _coordinate(axes, group, name) if described.coordinate else None


def _is_grown(
    root: zarr.Group, group: str, name: str, wanted: tuple[tuple[int, ...], list[Any] | None]
) -> bool:
    array = arrays.attempt(lambda: root[f"{group}/{name}"])
    if array is None or array.shape != wanted[0]:
        return False
    return wanted[1] is None or _holds(array, wanted[1])


def _grow_array(node: zarr.Group, axes: Axes, group: str, name: str, described: Variable) -> None:
    array = arrays.attempt(lambda: node[name])
    if array is None:
        array = arrays.create_array(node, name, described, sizes(axes, group), growing=True)
    shape = _shape(axes, group, described)
    if array.shape != shape:
        array.resize(shape)
    if described.coordinate:
        arrays.assign(array, _coordinate(axes, group, name))


def _shape(axes: Axes, group: str, described: Variable) -> tuple[int, ...]:
    return tuple(sizes(axes, group)[dim] for dim in described.dims)


def _holds(array: arrays.ZarrArray, values: Any) -> bool:
    stored = arrays.attempt(lambda: array[...])
    return stored is not None and stored.tolist() == np.asarray(values).tolist()


def _coordinate(axes: Axes, group: str, name: str) -> list[Any]:
    size = sizes(axes, group)
    values: dict[str, Any] = {
        "model": axes.models,
        "sample": range(size["sample"]),
        "label": axes.labels,
        "sample_id": axes.ids,
        "input_hash": axes.hashes,
        "logit": range(size["logit"]),
    }
    shift = _shift(axes, group)
    if shift is not None:
        values.update(shift.coordinates())
    norm = axes.norms.get(group.removeprefix("samples/"))
    if norm is not None:
        values.update(
            attack=norm.attacks,
            level=range(size["level"]),
            epsilon=norm.epsilons,
            epsilon_label=norm.labels,
            stage=norm.stages,
        )
    return list(values[name])


def _shift(axes: Axes, group: str) -> ShiftAxes | None:
    return axes.shifts.get(shift_of(group) or "")
