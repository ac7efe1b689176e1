"""Measures in the cube: one record per model and measure, and the group `/measures` that is made of them.

The values are few, so they stand in the records themselves; the group is rebuilt from these alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from metaeval.cube.journal import Journal, Task, now
from metaeval.cube.layout import MEASURE_STATUS

MEASURES = "measures"  # stands for the norm in the journal's tasks
CLEAN, TRAIN = "clean", "train"
EVERYWHERE, ATTACKED = "every scope", "attacked copies"
NUMBERS = ("value", "standard_error", "lower", "upper", "seconds")


@dataclass(frozen=True)
class Entry:
    """What a measure says of one model in one scope.

    Attributes
    ----------
    data : str
        Hash of the samples and logits that it looked at.
    status, reason : str
        A key of `MEASURE_STATUS` but "pending", and why it is not "ok".
    per_class : tuple of float, optional
        NaN for a class without a value.
    """

    data: str
    status: str
    reason: str = ""
    value: float = math.nan
    standard_error: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    per_class: tuple[float, ...] | None = None
    note: str = ""
    seconds: float = math.nan
    forwards: int = 0
    backwards: int = 0


@dataclass(frozen=True)
class MeasureRecord:
    """What is known of one measure of one model, by scope.

    `identity` hashes the weights, the measure with its version, settings and seed, and what it looks at
    beside the scope's own samples.
    """

    identity: str
    scopes: Mapping[str, Entry]
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    time: str = ""


@dataclass(frozen=True)
class MeasureSelection:
    """The part of `/measures` that the current study covers.

    Attributes
    ----------
    definitions : tuple of mapping
        Of each measure, in order: its `name`, the coordinates of the group, and `where` it is computed
        ("every scope", "clean", "train" or "attacked copies").
    scopes, attacked : tuple of str
        All scopes, and those that are attacked copies.
    identities : mapping, optional
        Model to measure to the identity that its record must have; None: any will do.
    data : mapping, optional
        Model to scope to the `Entry.data` that an entry must have; None: any will do.
    """

    definitions: tuple[Mapping[str, Any], ...]
    scopes: tuple[str, ...] = (CLEAN, TRAIN)
    attacked: tuple[str, ...] = ()
    identities: Mapping[str, Mapping[str, str]] | None = None
    data: Mapping[str, Mapping[str, str]] | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> MeasureSelection:
        """Return the selection that a plain dictionary of the same keys describes."""
        return cls(
            tuple(content["definitions"]),
            tuple(content["scopes"]),
            tuple(content["attacked"]),
            content["identities"],
            content["data"],
        )

    def applies(self, where: str, scope: str) -> bool:
        """Tell whether a measure that is computed `where` has a value in a scope."""
        if where == ATTACKED:
            return scope in self.attacked
        return where in (EVERYWHERE, scope)


def task_of(model: str, measure: str) -> Task:
    """Return the task of a model's measure."""
    return Task(model, MEASURES, measure, 0)


def write_record(journal: Journal, model: str, measure: str, record: MeasureRecord, *, classes: int) -> None:
    """Write a measure's record, whole or not at all.

    Raises
    ------
    ValueError
        If an entry has an unknown status, or another number of class values than there are classes.
    """
    for scope, entry in record.scopes.items():
        if entry.status not in MEASURE_STATUS or entry.status == "pending":
            raise ValueError(f"{model} / {measure} / {scope}: unknown status {entry.status!r}")
        if entry.per_class is not None and len(entry.per_class) != classes:
            raise ValueError(f"{model} / {measure} / {scope}: {len(entry.per_class)} values for classes")
    content = asdict(record)
    content["time"] = record.time or now()
    for entry in content["scopes"].values():
        entry.update({name: _written(entry[name]) for name in NUMBERS})
        if entry["per_class"] is not None:
            entry["per_class"] = [_written(value) for value in entry["per_class"]]
    journal.commit_content(task_of(model, measure), content)


def read_record(journal: Journal, model: str, measure: str) -> MeasureRecord | None:
    """Return a measure's record; None where there is none or it is damaged."""
    content = journal.content(task_of(model, measure))
    if content is None:
        return None
    try:
        scopes = {scope: _entry(entry) for scope, entry in content.pop("scopes").items()}
        return MeasureRecord(scopes=scopes, **content)
    except (AttributeError, KeyError, TypeError, ValueError):  # written by a version with other fields
        return None


def entries(
    journal: Journal, chosen: MeasureSelection, model: str, definition: Mapping[str, Any]
) -> dict[str, Entry | None]:
    """Return what counts of a model's measure, by scope where it applies; None where it is pending."""
    name = str(definition["name"])
    identity = None if chosen.identities is None else chosen.identities.get(model, {}).get(name, "")
    record, failure = read_record(journal, model, name), journal.failure(task_of(model, name))
    if record is not None and identity is not None and record.identity != identity:
        record = None
    if failure is not None and identity is not None and failure.identity not in ("", identity):
        failure = None
    found: dict[str, Entry | None] = {}
    for scope in chosen.scopes:
        if not chosen.applies(str(definition["where"]), scope):
            continue
        entry = record.scopes.get(scope) if record else None
        wanted = None if chosen.data is None else chosen.data.get(model, {}).get(scope)
        if entry is not None and wanted is not None and entry.data != wanted:
            entry = None
        if wanted is None and model in (chosen.data or {}):
            entry = Entry("", "skipped", "there are no logits of this model in this scope")
        if entry is None and failure is not None:
            entry = Entry("", "failed", failure.reason)
        found[scope] = entry
    return found


def compute_measures(
    journal: Journal, chosen: MeasureSelection, models: Sequence[str], class_names: Sequence[str]
) -> dict[str, Any]:
    """Return the values of `/measures` by variable, from the records alone."""
    names = [str(definition["name"]) for definition in chosen.definitions]
    shape = len(models), len(names), len(chosen.scopes)
    numbers = {name: np.full(shape, np.nan) for name in NUMBERS}
    counts = {name: np.full(shape, -1, dtype=np.int64) for name in ("forwards", "backwards")}
    class_value = np.full((*shape, len(class_names)), np.nan)
    status = np.zeros(shape, dtype=np.uint8)
    reason, note = np.full((2, *shape), "", dtype=object)
    for m, model in enumerate(models):
        for k, definition in enumerate(chosen.definitions):
            found = entries(journal, chosen, model, definition)
            for s, scope in enumerate(chosen.scopes):
                place = m, k, s
                if scope not in found:
                    status[place] = MEASURE_STATUS["skipped"]
                    reason[place] = _elsewhere(chosen, str(definition["where"]))
                    continue
                entry = found[scope]
                if entry is None:
                    continue
                status[place], reason[place] = MEASURE_STATUS[entry.status], entry.reason
                note[place] = entry.note
                for name, array in (*numbers.items(), *counts.items()):
                    array[place] = getattr(entry, name)
                if entry.per_class is not None:
                    class_value[place] = entry.per_class
    coordinates = [key for key in chosen.definitions[0] if key not in ("name", "where")]
    return {
        "model": list(models),
        "measure": names,
        "scope": list(chosen.scopes),
        "class": list(class_names),
        **{key: [definition[key] for definition in chosen.definitions] for key in coordinates},
        **numbers,
        **counts,
        "class_value": class_value,
        "status": status,
        "reason": reason,
        "note": note,
    }


def measure_states(
    journal: Journal, chosen: MeasureSelection, model: str
) -> Iterator[tuple[str, Counter[str], str]]:
    """Yield each measure of a model with the number of its scopes by status, and why some are not ok."""
    for definition in chosen.definitions:
        found = entries(journal, chosen, model, definition)
        statuses = Counter("pending" if entry is None else entry.status for entry in found.values())
        reasons = sorted({entry.reason for entry in found.values() if entry is not None and entry.reason})
        yield str(definition["name"]), statuses, "; ".join(reasons)


def _elsewhere(chosen: MeasureSelection, where: str) -> str:
    if where == ATTACKED:
        none = "" if chosen.attacked else "; the study has none"
        return f"computed on attacked copies only{none}"
    return f"computed once per model, in the scope {where!r}"


def _entry(content: Mapping[str, Any]) -> Entry:
    numbers = {name: _read(content[name]) for name in NUMBERS}
    classes = content["per_class"]
    per_class = None if classes is None else tuple(_read(value) for value in classes)
    return Entry(**{**content, **numbers, "per_class": per_class})


def _written(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _read(value: float | None) -> float:
    return math.nan if value is None else float(value)
