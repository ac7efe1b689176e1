"""Arrays of inputs and labels: what they must be, wherever they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from metaeval.sources.data.dataset import Dataset, Indices, Inputs, Read
from metaeval.sources.data.opening import refuse
from metaeval.study import Study
from metaeval.study.data_tables import CallableData, NpyData
from metaeval.study.inputs import NpzData

CHANNELS = (1, 3)  # what the size of an axis must be for it to be taken as channels
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Named:
    """What messages call an array, and the key of ``[data]`` that names it."""

    name: str
    key: str


def array_dataset(
    study: Study,
    split: str,
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    *,
    names: tuple[Named, Named],
    others: Sequence[Labels] = (),
) -> Dataset:
    """Return the data set of an array of inputs and an array of labels.

    Parameters
    ----------
    x : array
        uint8 images (divided by 255 when read) or floats in [0, 1] with shape (n, features), (n, height,
        width) or with channels before or after these.
    y : integer array (n,) or (n, 1)
        Labels from 0.
    names : (Named, Named)
        Of `x` and of `y`.
    others : sequence of int64 arrays
        Labels of the other split, which may hold other classes.

    Raises
    ------
    StudyError
        If shapes, range, labels or layout are not as said above, or there is a class without a sample.
    """
    data = study.data
    assert isinstance(data, (NpzData, NpyData, CallableData))
    x_named, y_named = names
    labels = integer_labels(study, y, y_named)
    if x.ndim == 0:
        raise refuse(study, x_named.key, f"{x_named.name} is a single number, no array of inputs")
    if len(x) != len(labels):
        message = f"{y_named.name} has {len(labels)} labels for {len(x)} inputs in {x_named.name}"
        raise refuse(study, y_named.key, message)
    if len(x) == 0:
        raise refuse(study, x_named.key, f"{x_named.name} holds no samples")
    if x.size == 0:
        raise refuse(study, x_named.key, f"inputs without any number: {x_named.name} is {_describe(x)}")
    _check_range(study, x, x_named)
    x = _channels_first(study, data.layout, x, x_named)
    return Dataset(
        name=data.name,
        split=split,
        labels=labels,
        sample_ids=tuple(f"{split}/{i}" for i in range(len(labels))),
        class_names=_class_names(study, data.class_names, [labels, *others], y_named),
        shape=x.shape[1:],
        read=unit_interval(x),
    )


def unit_interval(x: npt.NDArray[Any]) -> Read:
    """Return what reads rows of an array of 8-bit images or floats as float32 in [0, 1]."""

    def read(indices: Indices) -> Inputs:
        chosen = x[indices].astype(np.float32)
        # Divided in float32, as torchvision does: the published networks saw exactly these numbers.
        return chosen / np.float32(255) if x.dtype == np.uint8 else chosen

    return read


def integer_labels(study: Study, y: npt.NDArray[Any], named: Named) -> Labels:
    """Return labels as int64 array (n,).

    Raises
    ------
    StudyError
        If they are not integers from 0, one per sample.
    """
    if y.ndim == 2 and y.shape[1] == 1:  # the layout of Keras' CIFAR files
        y = y[:, 0]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        hint = "; one class index per sample was expected, not one-hot rows" if y.ndim == 2 else ""
        message = f"labels must be integers with shape (n,); {named.name} is {_describe(y)}{hint}"
        raise refuse(study, named.key, message)
    labels = y.astype(np.int64)
    if labels.size and labels.min() < 0:
        at = int(np.argmax(labels < 0))
        raise refuse(study, named.key, f"labels start at 0; {named.name} has {labels[at]} at index {at}")
    return labels


def _check_range(study: Study, x: npt.NDArray[Any], named: Named) -> None:
    """Refuse what is neither uint8 nor floats in [0, 1]: a guess would go unnoticed into every number."""
    if x.dtype == np.uint8:
        return
    if not np.issubdtype(x.dtype, np.floating):
        message = f"inputs must be uint8 or floats in [0, 1]; {named.name} is {_describe(x)}"
        raise refuse(study, named.key, message)
    low, high = float(x.min()), float(x.max())
    if not np.isfinite([low, high]).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise refuse(study, named.key, f"inputs must be finite; {named.name} has {x[at]} at index {list(at)}")
    if low < 0 or high > 1:
        message = f"inputs must lie in [0, 1]; {named.name} goes from {low:g} to {high:g}"
        if low >= 0 and 1 < high <= 255:
            message += "; divide by 255, or store 8-bit images as uint8"
        elif low < 0:
            message += "; store the data without normalisation and set normalize of the models instead"
        raise refuse(study, named.key, message)


def _channels_first(study: Study, layout: str, x: npt.NDArray[Any], named: Named) -> npt.NDArray[Any]:
    """Return inputs as (n, channels, height, width), or (n, features) as they are."""
    if x.ndim == 2:
        return x
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4:
        message = f"inputs must be (n, features), (n, h, w) or have channels; {named.name} is {_describe(x)}"
        raise refuse(study, named.key, message)
    if layout == "auto":
        first, last = x.shape[1] in CHANNELS, x.shape[3] in CHANNELS
        if first == last:
            said = (
                "channels could be first or last"
                if first
                else "neither first nor last axis has 1 or 3 channels"
            )
            message = f"{named.name} is {_describe(x)}: {said}; set layout"
            raise refuse(study, "layout", message, "channels_first")
        layout = "channels_first" if first else "channels_last"
    return x if layout == "channels_first" else x.transpose(0, 3, 1, 2)


def _class_names(
    study: Study, given: tuple[str, ...] | None, labels: Sequence[Labels], named: Named
) -> tuple[str, ...]:
    """Return one name per class; without given ones every class must have a sample in some split."""
    present = np.unique(np.concatenate(labels))
    classes = int(present.max()) + 1
    if given is None:
        empty = classes - len(present)
        if empty:
            # The lowest absent ones: a stray label may be so large that not all can be listed.
            first = np.setdiff1d(np.arange(min(classes, len(present) + 5)), present)[:5].tolist()
            shown = ", ".join(map(str, first)) + (", ..." if empty > len(first) else "")
            message = f"no sample has the label {shown}, but labels go up to {classes - 1}"
            if present.min() == 1 and empty == 1:
                message += "; labels start at 0: subtract 1"
            raise refuse(study, named.key, f"{message}; class_names names classes that have no sample")
        return tuple(str(label) for label in range(classes))
    if len(given) < classes:
        message = f"{len(given)} names for {classes} classes: the highest label is {classes - 1}"
        raise refuse(study, "class_names", message)
    return tuple(given)


def _describe(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} with shape {array.shape}"
