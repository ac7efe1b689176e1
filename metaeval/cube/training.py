"""`/samples/train`: what every model says about the samples that it was trained on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from metaeval.cube import arrays
from metaeval.cube.journal import Task, now
from metaeval.cube.layout import GROUPS
from metaeval.cube.store import CubeStore
from metaeval.hashing import hash_array, hash_json
from metaeval.outcomes import NO_CLASS

TRAIN = "train"  # stands for the norm in the journal's tasks
GROUP = "samples/train"

Logits = npt.NDArray[np.float32]


def ensure_training(
    store: CubeStore, ids: Sequence[str], hashes: Sequence[str], labels: npt.NDArray[np.int64]
) -> None:
    """Give every model of the store a row for these training samples.

    If the cube holds others, they are replaced: they are a sample of the training data, and every model's
    outputs on them are soon computed again. Needs the layout lock exclusively, after models and samples.
    """
    coordinates = _coordinates(store, ids, hashes, labels)
    if _is_whole(store, coordinates):
        return
    arrays.drop_consolidated(store.path)
    root = zarr.open_group(store.path, mode="a", zarr_format=3, use_consolidated=False)
    if not _same_samples(root, coordinates):
        shutil.rmtree(store.path / GROUP, ignore_errors=True)
    node = root.require_group(GROUP)
    node.attrs.update(arrays.coordinate_attribute(GROUPS[GROUP]))
    sizes = _sizes(coordinates)
    for name, described in GROUPS[GROUP].items():
        array = arrays.attempt(partial(node.__getitem__, name))
        if array is None:
            array = arrays.create_array(node, name, described, sizes, growing=True)
        array.resize(tuple(sizes[dim] for dim in described.dims))
        if described.coordinate:
            arrays.assign(array, coordinates[name])


def write_training(
    store: CubeStore,
    model: str,
    logits: Logits,
    *,
    identity: str,
    forwards: int,
    seconds: float,
    versions: Mapping[str, str],
) -> None:
    """Write a model's logits (sample, logit), then the record that vouches for them."""
    task, index = _task(model), store.models.index(model)
    values: dict[str, npt.NDArray[Any]] = {
        "prediction": _predictions(logits),
        "logits": arrays.canonical(logits),
    }
    store.journal.begin(task)
    for name, value in values.items():
        _array(store, name)[index] = value
    store.journal.commit_content(
        task,
        {
            "identity": identity,
            "samples": _samples(store),
            "checksums": {name: hash_array(value) for name, value in values.items()},
            "forwards": forwards,
            "seconds": seconds,
            "versions": dict(versions),
            "time": now(),
        },
    )


def read_training(store: CubeStore, model: str, identity: str | None = None) -> Logits | None:
    """Return a model's logits on the training samples.

    None unless they are there, of these samples, of this identity (None: any) and intact.
    """
    record = store.journal.content(_task(model))
    if record is None or record["identity"] != (identity or record["identity"]):
        return None
    if arrays.attempt(partial(_samples, store)) != record["samples"] or model not in store.models:
        return None
    index, values = store.models.index(model), {}
    for name, checksum in record["checksums"].items():
        value = arrays.attempt(partial(_row, store, name, index))
        if value is None or hash_array(value) != checksum:
            return None
        values[name] = value
    return np.asarray(values["logits"])


def training_faults(store: CubeStore) -> Iterator[tuple[str, str, str]]:
    """Yield what verifying finds: kind, where, message, as `metaeval.cube.verify.Finding`."""
    for model in store.models:
        task = _task(model)
        record = store.journal.content(task)
        if record is None or record["samples"] != arrays.attempt(partial(_samples, store)):
            continue  # a damaged file is found as such; other samples were asked for since
        if read_training(store, model) is None:
            yield "error", str(task), "the stored values do not match their record"


def _task(model: str) -> Task:
    return Task(model, TRAIN, "", 0)


def _array(store: CubeStore, name: str) -> arrays.ZarrArray:
    return zarr.open_array(store.path, path=f"{GROUP}/{name}", mode="r+")


def _row(store: CubeStore, name: str, index: int) -> npt.NDArray[Any]:
    return np.asarray(_array(store, name)[index])


def _samples(store: CubeStore) -> str:
    """Return the hash of the samples that the cube holds; fails if the group is not there."""
    return hash_json([_array(store, name)[...].tolist() for name in ("input_hash", "label")])


def _predictions(logits: Logits) -> npt.NDArray[np.int64]:
    return np.where(np.isnan(logits).any(axis=1), NO_CLASS, logits.argmax(axis=1)).astype(np.int64)


def _coordinates(
    store: CubeStore, ids: Sequence[str], hashes: Sequence[str], labels: npt.NDArray[np.int64]
) -> dict[str, list[Any]]:
    return {
        "model": store.models,
        "sample": list(range(len(ids))),
        "label": labels.tolist(),
        "sample_id": list(ids),
        "input_hash": list(hashes),
        "logit": list(range(store.axes.logits)),
    }


def _sizes(coordinates: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    return {name: len(coordinates[name]) for name in ("model", "sample", "logit")}


def _same_samples(root: zarr.Group, coordinates: Mapping[str, Sequence[Any]]) -> bool:
    names = ("label", "sample_id", "input_hash", "logit")
    return all(_holds(root, name, coordinates[name]) for name in names)


def _is_whole(store: CubeStore, coordinates: Mapping[str, Sequence[Any]]) -> bool:
    root = zarr.open_group(store.path, mode="r", use_consolidated=False)
    sizes = _sizes(coordinates)
    for name, described in GROUPS[GROUP].items():
        array = arrays.attempt(partial(root.__getitem__, f"{GROUP}/{name}"))
        if array is None or array.shape != tuple(sizes[dim] for dim in described.dims):
            return False
        if described.coordinate and not _holds(root, name, coordinates[name]):
            return False
    return True


def _holds(root: zarr.Group, name: str, values: Sequence[Any]) -> bool:
    array = arrays.attempt(partial(root.__getitem__, f"{GROUP}/{name}"))
    stored = None if array is None else arrays.attempt(lambda: array[...])
    return stored is not None and stored.tolist() == list(values)
