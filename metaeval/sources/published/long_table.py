"""Long tables: one row for each number, with counts where a printed share can only mean one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metaeval.errors import nearest
from metaeval.outcomes import NORMS
from metaeval.sources.published.content import ALL, Problems
from metaeval.sources.published.mapping import Claim, Mapping
from metaeval.sources.published.numbers import (
    NO_COUNT,
    NOT_PRINTED,
    RECOVERED,
    SEVERAL_COUNTS,
    as_share,
    count,
    last_place,
    missing,
    share,
)
from metaeval.sources.published.wide_table import Content, Lines, numbers
from metaeval.study.numbers import parse_epsilon

CLEAN = "clean"
WORST_CASE = "worst-case"
NAMED = 5  # places that a sentence names
NO_ATTACK = ("clean", "none", "no attack", "natural")
UNKNOWN = {"robust_accuracy": math.nan, "correct": -1, "count_status": NOT_PRINTED}


@dataclass(frozen=True)
class Number:
    """One row: where it belongs, and what is printed."""

    line: int
    model: str
    class_: str
    norm: str
    epsilon: float | None
    label: str
    attack: str
    stage: str
    shift: str
    severity: int
    printed: str
    accuracy: float
    total: int | None
    minutes: float

    @property
    def place(self) -> tuple[Any, ...]:
        """Return what must not occur twice."""
        return (
            self.model,
            self.class_,
            self.norm,
            self.epsilon,
            self.attack,
            self.stage,
            self.shift,
            self.severity,
        )

    @property
    def clean(self) -> bool:
        """Whether it is an accuracy without an attack and without a shift."""
        return not self.shift and (self.stage == CLEAN or (not self.stage and not self.epsilon))


def read(rows: Lines, header: Sequence[str], mapping: Mapping, problems: Problems) -> Content:
    """Return a long table.

    Rows with a shift go to `/shifts`, with a stage to the stages of a cascade (the stage "clean" and epsilon
    0 to `/clean`), with an epsilon to the group of the norm.
    """
    found = [
        number for line, cells in rows if (number := _number(line, cells, mapping, problems)) is not None
    ]
    _check(found, mapping, problems)
    problems.stop()
    models, classes = _names(found, "model"), _names(found, "class_")
    groups: dict[str, dict[str, Any]] = {}
    attributes: dict[str, dict[str, Any]] = {}
    unit = str(mapping.unit)
    clean = [number for number in found if number.clean]
    if clean:
        groups["clean"] = _counted(clean, ("model", "class"), models, classes, unit, "accuracy")
    attacked = [number for number in found if number.epsilon is not None and not number.shift]
    for norm in dict.fromkeys(number.norm for number in attacked):
        under = [number for number in attacked if number.norm == norm]
        groups[norm] = _norm(under, models, classes, unit)
        if any(number.stage for number in under):
            attributes[norm] = {"cascade": groups[norm]["attack"][-1]}
    shifted = [number for number in found if number.shift]
    if shifted:
        group = _counted(shifted, ("model", "class", "shift", "severity"), models, classes, unit, "accuracy")
        groups["shifts"] = (
            group | {"kind": ["test set"] * len(group["shift"])} | _status(group, "accuracy", axis=2)
        )
    if mapping.claims:
        groups["claims"] = _claims(mapping.claims)
    properties = {name: _property(name, rows, mapping, problems) for name in mapping.properties}
    problems.stop()
    counts, notes = _summary(found, unit)
    notes += _rising(found)
    counts = {"models": len(models), "classes": len(classes)} | counts
    used = {mapping.model, *mapping.properties, *mapping.skip, *(name for _, name in mapping.columns if name)}
    if set(header) - used:
        notes.append(f"Columns that are not used: {', '.join(name for name in header if name not in used)}.")
    return Content(models, numbers(properties), groups, counts, notes, attributes)


def _number(line: int, cells: dict[str, str], mapping: Mapping, problems: Problems) -> Number | None:
    columns, constants = mapping.columns, mapping.constants
    noted = len(problems.found)

    def cell(column: str | None, constant: Any = None) -> str:
        return cells[column] if column is not None else str(constant or "")

    printed = cells[columns.value]
    accuracy = as_share(printed, str(mapping.unit), columns.value, line, problems)
    epsilon, severity, total, minutes = None, 0, None, math.nan
    attack = cell(columns.attack, constants.attack)
    none = attack.lower() in NO_ATTACK
    label = "" if none else cell(columns.epsilon, constants.epsilon)
    if columns.attack and attack and not (none or label or cell(columns.stage) or cell(columns.shift)):
        message = f"the attack {attack!r} needs the epsilon that it was run at"
        problems.add(cell_name(mapping, "epsilon"), message, line=line)
    for name, text in (("total", cell(columns.total, constants.total)), ("severity", cell(columns.severity))):
        if text and not (text.isdigit() and len(text) < 13):
            problems.add(cell_name(mapping, name), f"{text!r} is no whole number of 0 or more", line=line)
        elif text:
            total, severity = (int(text), severity) if name == "total" else (total, int(text))
    try:
        epsilon = parse_epsilon(label).value if label else None
    except ValueError as error:
        problems.add(cell_name(mapping, "epsilon"), str(error), line=line)
    try:
        text = cell(columns.minutes)
        minutes = math.nan if missing(text) else float(text)
        if minutes < 0 or math.isinf(minutes):
            raise ValueError
    except ValueError:
        problems.add(cell_name(mapping, "minutes"), f"{text!r} is no time", line=line)
    norm = cell(columns.norm, constants.norm).lower().replace("_", "").replace("∞", "inf")
    if norm and norm not in NORMS:
        message = f"unknown norm {norm!r}; allowed: {', '.join(NORMS)}"
        problems.add(cell_name(mapping, "norm"), message, nearest(norm, NORMS), line=line)
    if not cells[mapping.model]:
        problems.add(mapping.model, "the model has no name", line=line)
    if len(problems.found) > noted:
        return None
    return Number(
        line,
        cells[mapping.model],
        cell(columns.class_) or ALL,
        norm,
        epsilon,
        label,
        "attack" if none or not attack else attack,
        cell(columns.stage),
        cell(columns.shift),
        severity,
        printed,
        accuracy,
        total,
        minutes,
    )


def cell_name(mapping: Mapping, key: str) -> str:
    """Return the name of the column that holds a key, for messages."""
    return getattr(mapping.columns, key) or key


def _check(found: Sequence[Number], mapping: Mapping, problems: Problems) -> None:
    seen: dict[tuple[Any, ...], int] = {}
    totals: dict[tuple[Any, ...], int | None] = {}
    for number in found:
        before = seen.setdefault(number.place, number.line)
        if before != number.line:
            problems.add("row", f"it says the same as line {before}: {number.model}", line=number.line)
        where = (number.class_, number.shift, number.severity)
        if totals.setdefault(where, number.total) != number.total:
            problems.add(
                cell_name(mapping, "total"),
                f"{number.total} samples of {number.class_}, {totals[where]} in a row before",
                line=number.line,
            )
        if number.stage and number.epsilon is None:
            problems.add("constants.epsilon", "stages need the epsilon they belong to", line=number.line)
    first: dict[tuple[str, str], Number] = {}
    for number in (n for n in found if n.clean and n.printed):
        other = first.setdefault((number.model, number.class_), number)
        if other.accuracy != number.accuracy:
            problems.add(
                cell_name(mapping, "value"),
                f"the accuracy of {number.model} without attack is {number.printed} here and {other.printed} "
                f"in line {other.line}",
                line=number.line,
            )
    if any(n.epsilon is not None and not n.shift and not n.norm for n in found):
        problems.add(
            "constants.norm",
            "the table has epsilons but does not say in which norm: give a mapping with [constants] norm = "
            '"linf", "l2" or "l1"',
        )


def _rising(found: Sequence[Number]) -> list[str]:
    """Return where an accuracy is higher at a larger epsilon, which nothing but a weak attack leaves."""
    lines: dict[tuple[str, ...], list[Number]] = {}
    for number in found:
        if number.epsilon is not None and not (number.shift or number.stage or missing(number.printed)):
            key = number.model, number.class_, number.norm, number.attack
            lines.setdefault(key, []).append(number)
    rises = []
    for line in lines.values():
        line.sort(key=lambda number: number.epsilon or 0.0)
        for low, high in itertools.pairwise(line):
            if high.accuracy > low.accuracy:
                where = high.model if high.class_ == ALL else f"{high.model}, class {high.class_}"
                ends = f"{low.printed} at {low.label} and {high.printed} at {high.label}"
                rises.append(f"{where}: {ends}")
    if not rises:
        return []
    more = f" and {len(rises) - NAMED} more" if len(rises) > NAMED else ""
    return [
        f"Contradiction: accuracy rises with epsilon ({'; '.join(rises[:NAMED])}{more}), though what a "
        "smaller perturbation breaks a larger one breaks too."
    ]


def _names(found: Sequence[Number], key: str) -> list[str]:
    """Return names in order of appearance; classes that are numbers by number."""
    names = list(dict.fromkeys(getattr(number, key) for number in found))
    if key == "class_" and all(name.isdigit() for name in names):
        names.sort(key=int)
    return names


def _counted(
    found: Sequence[Number], dims: Sequence[str], models: list[str], classes: list[str], unit: str, name: str
) -> dict[str, Any]:
    """Return shares, counts and how well each is known over model, class and further dimensions."""
    axes: dict[str, list[Any]] = {"model": models, "class": classes}
    for dim in dims[2:]:
        values = list(dict.fromkeys(getattr(number, dim) for number in found))
        axes[dim] = sorted(values) if dim != "shift" and dim != "attack" else values
    shape = tuple(len(axes[dim]) for dim in dims)
    accuracy = np.full(shape, np.nan)
    correct = np.full(shape, -1, dtype=np.int64)
    status = np.zeros(shape, dtype=np.uint8)
    total_dims = [dim for dim in dims if dim in ("class", "shift", "severity")]
    total = np.full([len(axes[dim]) for dim in total_dims], -1, dtype=np.int64)
    for number in found:
        place = {dim: axes[dim].index(getattr(number, "class_" if dim == "class" else dim)) for dim in dims}
        at = tuple(place.values())
        accuracy[at] = number.accuracy
        correct[at], status[at] = count(number.printed, number.total, unit)
        if number.total is not None:
            total[tuple(place[dim] for dim in total_dims)] = number.total
    return {**axes, name: accuracy, "correct": correct, "count_status": status, "total": total}


def _norm(found: Sequence[Number], models: list[str], classes: list[str], unit: str) -> dict[str, Any]:
    stages = [stage for stage in dict.fromkeys(number.stage for number in found) if stage not in ("", CLEAN)]
    last = [number for number in found if number.stage in ("", *stages[-1:])]
    dims = ("model", "class", "epsilon", "attack")
    group = _counted(last, dims, models, classes, unit, "robust_accuracy")
    labels = {number.epsilon: number.label for number in reversed(last)}
    attacks = group["attack"]
    if WORST_CASE not in attacks:
        for name in UNKNOWN:
            # The worst of several attacks is a matter of single samples; that of one attack is its own.
            own = group[name][..., :1]
            first = own if len(attacks) == 1 else np.full_like(own, UNKNOWN[name])
            group[name] = np.concatenate([first, group[name]], axis=-1)
        attacks = [WORST_CASE, *attacks]
    else:
        order = [attacks.index(WORST_CASE), *(i for i, a in enumerate(attacks) if a != WORST_CASE)]
        attacks = [attacks[i] for i in order]
        group |= {name: group[name][..., order] for name in UNKNOWN}
    group |= {
        "attack": attacks,
        "epsilon_label": [labels[value] for value in group["epsilon"]],
        "inferred": np.where(group["correct"] >= 0, 0, -1),
    }
    group |= _status(group, "robust_accuracy", axis=3)
    group["members"] = (group["status"] == 1) & (np.arange(len(attacks)) > 0)
    return group | _stages(found, stages, models, group["epsilon"])


def _status(group: dict[str, Any], name: str, *, axis: int) -> dict[str, Any]:
    """Return status and reason over (model, attack) or (model, shift), the latter on an axis."""
    others = tuple(other for other in (1, 2, 3) if other != axis)
    there = ~np.isnan(group[name]).all(axis=others)
    whole = (group["correct"] >= 0).all(axis=others)
    reason = np.where(whole, "", "the counts of some classes are not printed or not recoverable")
    return {"status": np.where(there, 1, 3), "reason": np.where(there, reason, "not published")}


def _stages(
    found: Sequence[Number], stages: list[str], models: list[str], epsilons: list[float]
) -> dict[str, Any]:
    """Return accuracy and seconds after each stage; nothing for a table without stages."""
    if not stages:
        return {}
    accuracy, seconds = np.full((2, len(models), len(epsilons), len(stages)), np.nan)
    for number in found:
        if number.stage in stages and number.epsilon in epsilons:
            at = models.index(number.model), epsilons.index(number.epsilon), stages.index(number.stage)
            accuracy[at], seconds[at] = number.accuracy, 60 * number.minutes
    return {"stage": stages, "stage_accuracy": accuracy, "stage_seconds": seconds}


def _property(name: str, rows: Lines, mapping: Mapping, problems: Problems) -> list[Any]:
    """Return a column that describes models, one value each."""
    values: dict[str, str] = {}
    for line, cells in rows:
        model, value = cells[mapping.model], cells[name]
        if values.setdefault(model, value) != value:
            problems.add(name, f"{model} has {values[model]!r} and {value!r}", line=line)
    return [value or None for value in values.values()]


def _claims(claims: Sequence[Claim]) -> dict[str, Any]:
    same = ("quantity", "model", "epsilon", "stage", "where")
    columns = {key: [getattr(claim, key) for claim in claims] for key in same}
    return {
        "claim": [str(i) for i in range(len(claims))],
        **columns,
        "class": [claim.class_ for claim in claims],
        "printed": [_signed(claim.printed) for claim in claims],
        "place": [float(last_place(claim.printed)) for claim in claims],
    }


def _signed(printed: str) -> float:
    value = share(printed.removeprefix("-"), "percent")
    return -value if printed.startswith("-") else value


def _summary(found: Sequence[Number], unit: str) -> tuple[dict[str, int], list[str]]:
    statuses = [count(number.printed, number.total, unit)[1] for number in found]
    printed = len(found) - statuses.count(NOT_PRINTED)
    totals = [number for number in found if number.total is not None]
    counts = {"results": printed, "not printed": statuses.count(NOT_PRINTED)}
    notes = [
        "There are no per-sample outcomes: what is compared on the same samples (paired tests, crossings, "
        "drops with intervals, worst cases of several attacks) cannot be computed."
    ]
    if not totals:
        return counts, [*notes, "The table gives no numbers of samples: no interval can be computed."]
    recovered = statuses.count(RECOVERED)
    counts["counts recovered"] = recovered
    notes.append(
        f"Of {printed} printed shares {recovered} are k of the given number of samples for exactly one k "
        "(within one unit of the last printed place) and are used as counts."
    )
    lost = {NO_COUNT: "fit no count", SEVERAL_COUNTS: "fit several counts"}
    for status, what in lost.items():
        if status in statuses:
            notes.append(
                f"{statuses.count(status)} printed shares {what}: not recoverable, shown as printed and "
                "without interval."
            )
    return counts, notes
