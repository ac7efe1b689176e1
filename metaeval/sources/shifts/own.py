"""Shifts made from the study's own samples: generated corruptions, transformations, attacked copies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from metaeval.errors import StudyError, UsageError
from metaeval.hashing import hash_json, hash_samples
from metaeval.registry import resolve
from metaeval.sources.data import Samples
from metaeval.sources.data.dataset import Inputs
from metaeval.sources.shifts import corruptions
from metaeval.sources.shifts.shift import Content, Shift
from metaeval.study import Study
from metaeval.study.shift_inputs import AttackedShift, CallableShift, CorruptionsShift


def open_corruptions(study: Study, i: int, samples: Samples, limit: int | None) -> list[Shift]:
    """Return one shift for each corruption of the table ``shifts[i]``.

    Raises
    ------
    StudyError
        If the inputs are no images.
    """
    table = study.shifts[i]
    assert isinstance(table, CorruptionsShift)
    reason = corruptions.unfit(samples.x.shape[1:])
    if reason:
        raise StudyError([study.problem(("shifts", i, "source"), reason)])
    seed = study.study.seed

    def read(corruption: str, severity: int, rows: slice) -> Inputs:
        return corruptions.corrupt(samples.x[rows], corruption, severity, samples.hashes[rows], seed)

    settings = {
        "source": "corruptions",
        "revision": corruptions.REVISION,
        "severities of": corruptions.scale(samples.x.shape[1:]),
        "seed": seed,
    }
    return [
        replace(
            _from_samples(name, "corruption", samples),
            severities=table.severities,
            settings={**settings, "corruption": corruption},
            read=partial(read, corruption),
        )
        for name, corruption in zip(table.shifts, table.names, strict=True)
    ]


def open_attacked(study: Study, i: int, samples: Samples, limit: int | None) -> list[Shift]:
    """Return the shift of attacked copies of ``shifts[i]``; the attack is not looked at."""
    table = study.shifts[i]
    assert isinstance(table, AttackedShift)
    return [replace(_from_samples(table.name, "attacked", samples), attack=table)]


def open_callable(study: Study, i: int, samples: Samples, limit: int | None) -> list[Shift]:
    """Return the samples as the function of ``shifts[i]`` gives them.

    What the function raises is left to the evaluation, which fails with it.

    Raises
    ------
    StudyError
        If there is no such function.
    """
    table = study.shifts[i]
    assert isinstance(table, CallableShift)
    try:
        transform = resolve(table.transform)
    except UsageError as error:
        raise StudyError([study.problem(("shifts", i, "transform"), str(error))]) from None
    if not callable(transform):
        message = f"{table.transform} is a {type(transform).__name__}, which cannot be called"
        raise StudyError([study.problem(("shifts", i, "transform"), message)])

    def apply(rows: slice) -> tuple[Inputs, list[int]]:
        pairs = [
            _applied(transform(x.copy()), x, int(y), len(samples.class_names))
            for x, y in zip(samples.x[rows], samples.y[rows], strict=True)
        ]
        return np.stack([x for x, _ in pairs]), [y for _, y in pairs]

    def describe() -> Content:
        try:
            return content(slice(0, len(samples.y)))
        except Exception:
            return Content(samples.y, samples.hashes)

    def content(rows: slice) -> Content:
        labels: list[int] = []
        hashes: list[str] = []
        for start in range(rows.start, rows.stop, PART):
            part = slice(start, min(start + PART, rows.stop))
            x, y = apply(part)
            labels += y
            hashes += _joined(hash_samples(x), samples.hashes[part], y)
        return Content(np.array(labels, dtype=np.int64), tuple(hashes))

    def read(severity: int, rows: slice) -> Inputs:
        x, y = apply(rows)
        if tuple(_joined(hash_samples(x), samples.hashes[rows], y)) != shift.content.hashes[rows]:
            raise ValueError(f"{table.transform} gives another result each time; seed what it draws")
        return x

    shift = replace(
        _from_samples(table.name, "transformed", samples),
        settings={"source": "callable", "transform": table.transform},
        describe=describe,
        read=read,
    )
    return [shift]


PART = 256  # samples transformed at a time; each on its own


def _applied(result: Any, x: Inputs, y: int, classes: int) -> tuple[Inputs, int]:
    """Return what a function gave for one sample as an input and a label; a ValueError if it is neither."""
    changed, label = result if isinstance(result, tuple) else (result, y)
    changed = np.asarray(changed, dtype=np.float32)
    if changed.shape != x.shape:
        raise ValueError(f"a transformed input has the shape {changed.shape} instead of {x.shape}")
    if not np.isfinite(changed).all() or changed.min() < 0 or changed.max() > 1:
        raise ValueError("a transformed input is not finite or does not lie in [0, 1]")
    if not 0 <= int(label) < classes:
        raise ValueError(
            f"a transformed sample has the label {label}, and classes go from 0 to {classes - 1}"
        )
    return changed, int(label)


def _joined(after: Iterable[str], before: Iterable[str], labels: Iterable[int]) -> list[str]:
    return [hash_json([a, b, y])[:32] for a, b, y in zip(after, before, labels, strict=True)]


def _from_samples(name: str, kind: str, samples: Samples) -> Shift:
    """Return the study's samples themselves as a shift, to be changed."""
    return Shift(
        name=name,
        kind=kind,
        severities=(0,),
        ids=samples.ids,
        clean=tuple(range(len(samples.y))),
        settings={},
        describe=lambda: Content(samples.y, samples.hashes),
        read=lambda _severity, rows: samples.x[rows],
    )
