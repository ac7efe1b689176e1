"""The cube's layout: one table of every array's dimensions, type, fill value and chunks.

Nothing else in the package says what an array looks like. Fill values carry no meaning of their own in
xarray (no `_FillValue` attribute, which would turn integers into floats): NaN is "not known" for floats,
0 "pending" for codes, -1 "not known" for counts, "" for strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

from metaeval.outcomes import CELL_MEANINGS, NO_CLASS, NORMS

SHARD = 1000
"""Samples of one task; the only chunk size along `sample`."""

WORST_CASE = "worst-case"
STAGES = ("attack", "verification")
STATUS = {"pending": 0, "ok": 1, "failed": 2, "skipped": 3}
MEASURE_STATUS = {**STATUS, "undefined": 4, "unsupported": 5}
FORMAT = 1
CUBE = "cube.zarr"
SHIFT = "shift"  # stands for the norm in tasks that evaluate models on a shifted test set
SHIFT_GROUP = "samples/shifts/"

Attribute = str | int | float | list[str] | list[int]


@dataclass(frozen=True)
class Variable:
    """One array of a group: dimensions, type, fill value, attributes, and whether it is a coordinate."""

    dims: tuple[str, ...]
    dtype: str
    fill: float | int | bool | str
    coordinate: bool = False
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


def _real(*dims: str, coordinate: bool = False, **attributes: Attribute) -> Variable:
    return Variable(dims, "float64", float("nan"), coordinate, attributes)


def _count(*dims: str, coordinate: bool = False, **attributes: Attribute) -> Variable:
    return Variable(dims, "int64", -1, coordinate, attributes)


def _text(*dims: str, coordinate: bool = False, **attributes: Attribute) -> Variable:
    return Variable(dims, "string", "", coordinate, attributes)


def _code(dims: tuple[str, ...], meanings: Mapping[int, str], **attributes: Attribute) -> Variable:
    flags: dict[str, Attribute] = {
        "flag_values": [int(value) for value in meanings],
        "flag_meanings": " ".join(meanings.values()),
    }
    return Variable(dims, "uint8", 0, False, {**flags, **attributes})


_MODEL = _text("model", coordinate=True)
_CLASS = _text("class", coordinate=True)
_ATTACK = _text("attack", coordinate=True)
_PREDICTED = f"predicted class; {NO_CLASS} where a logit is not a number"
_SAMPLE = _count("sample", coordinate=True, long_name="position in the seeded order of the samples")

_SAMPLE_COORDINATES = {
    "sample": _SAMPLE,
    "label": _count("sample", coordinate=True, long_name="true class, as a position in the class names"),
    "sample_id": _text("sample", coordinate=True),
}

_NORM = {
    "model": _MODEL,
    "class": _CLASS,
    "epsilon": _real("epsilon", coordinate=True, long_name="radius of the perturbation"),
    "epsilon_label": _text("epsilon", coordinate=True, long_name="epsilon as the study writes it"),
    "attack": _ATTACK,
    "flag": _text("flag", coordinate=True),
    "reduced": _text("attack", coordinate=True, long_name="settings below the attack's standard, '' if none"),
    "settings": _text("attack", coordinate=True, long_name="resolved settings of the attack, JSON"),
    "robust_accuracy": _real(
        "model",
        "class",
        "epsilon",
        "attack",
        units="fraction",
        long_name="correct / total; NaN until evaluated equals total",
    ),
    "correct": _count(
        "model",
        "class",
        "epsilon",
        "attack",
        long_name="samples that no adversarial breaks; -1 until evaluated equals total",
    ),
    "inferred": _count(
        "model",
        "class",
        "epsilon",
        "attack",
        long_name="those of correct that rest on a failed attack at a larger epsilon",
    ),
    "total": _count("class", long_name="samples of the class"),
    "evaluated": _count("model", "class", "attack", long_name="samples with a verdict at every epsilon"),
    "status": _code(("model", "attack"), {code: name for name, code in STATUS.items()}),
    "reason": _text("model", "attack", long_name="why the column is not ok"),
    "flags": _real("model", "attack", "flag", long_name="largest over the column's tasks"),
    "members": Variable(
        ("model", "attack"), "bool", False, attributes={"long_name": "attacks that the worst case covers"}
    ),
    "stage": _text("stage", coordinate=True, long_name="attacks of the cascade, in order"),
    "stage_accuracy": _real(
        "model",
        "epsilon",
        "stage",
        units="fraction",
        long_name="accuracy after each stage of the cascade; NaN until evaluated equals total",
    ),
    "stage_seconds": _real(
        "model",
        "epsilon",
        "stage",
        units="s",
        long_name="time of each stage of the cascade, divided among all epsilons that the stage searched "
        "together by the passes spent at each (a minimum-norm attack's evenly); their sum was measured",
    ),
    "overruled": _count(
        "model",
        "epsilon",
        "attack",
        long_name="samples that the attack missed here though a smaller adversarial is known; "
        "in the worst-case row: broken by nothing else",
    ),
}

_SAMPLES_NORM = {
    "model": _MODEL,
    "attack": _ATTACK,
    **_SAMPLE_COORDINATES,
    "level": _count("level", coordinate=True, long_name="epsilons in order of arrival"),
    "epsilon": _real("level", coordinate=True, long_name="radius of the perturbation"),
    "epsilon_label": _text("level", coordinate=True, long_name="epsilon as the study writes it"),
    "distance": _real(
        "model",
        "attack",
        "sample",
        long_name="norm of the smallest verified adversarial; "
        "NaN not computed, inf none found, 0 misclassified only",
    ),
    "searched": _real(
        "model",
        "attack",
        "sample",
        long_name="largest radius below distance attacked in full without success, else 0",
    ),
    "forwards": _count("model", "attack", "sample", long_name="forward passes of the attack"),
    "backwards": _count("model", "attack", "sample", long_name="backward passes of the attack"),
    "stage": _text("stage", coordinate=True, long_name="attacks of cascades, in order of arrival"),
    "stage_distance": _real(
        "model",
        "attack",
        "stage",
        "sample",
        long_name="smallest distance known after each stage of a cascade, as distance; "
        "NaN for what is no stage of it",
    ),
    "cell": _code(
        ("model", "attack", "sample", "level"),
        {int(code): meaning for code, meaning in CELL_MEANINGS.items()},
        long_name="what is known of the sample at this level",
    ),
}

_SAMPLES_CLEAN = {
    "model": _MODEL,
    **_SAMPLE_COORDINATES,
    "input_hash": _text("sample", coordinate=True, long_name="content hash of the float32 input"),
    "logit": _count("logit", coordinate=True),
    "prediction": _count("model", "sample", long_name=_PREDICTED),
    "logits": Variable(("model", "sample", "logit"), "float32", float("nan")),
}

_MEASURED = ("model", "measure", "scope")
_MEASURES = {
    "model": _MODEL,
    "measure": _text("measure", coordinate=True),
    "scope": _text("scope", coordinate=True, long_name="clean, train, or a shift with its severity"),
    "class": _CLASS,
    "family": _text("measure", coordinate=True),
    "definition": _text("measure", coordinate=True),
    "formula": _text("measure", coordinate=True, long_name="LaTeX"),
    "citation": _text("measure", coordinate=True),
    "expected_sign": Variable(
        ("measure",),
        "int64",
        0,
        True,
        {"long_name": "of the correlation with robustness by the literature; 0: nothing is claimed"},
    ),
    "invariance": _text("measure", coordinate=True, long_name="what leaves the value unchanged"),
    "needs": _text("measure", coordinate=True),
    "settings": _text("measure", coordinate=True, long_name="resolved settings, JSON"),
    "caveats": _text("measure", coordinate=True),
    "value": _real(*_MEASURED, long_name="NaN where the status is not ok"),
    "standard_error": _real(*_MEASURED, long_name="NaN where the value is not estimated"),
    "lower": _real(*_MEASURED, long_name="lower end of the 95 % interval"),
    "upper": _real(*_MEASURED, long_name="upper end of the 95 % interval"),
    "seconds": _real(*_MEASURED, units="s"),
    "forwards": _count(*_MEASURED, long_name="rows sent forward through the model"),
    "backwards": _count(*_MEASURED, long_name="rows sent backward through the model"),
    "class_value": _real(*_MEASURED, "class", long_name="NaN where the measure has none"),
    "status": _code(_MEASURED, {code: name for name, code in MEASURE_STATUS.items()}),
    "reason": _text(*_MEASURED, long_name="why there is no value"),
    "note": _text(*_MEASURED, long_name="a caveat about this value"),
}
_SEVERITY = _count("severity", coordinate=True, long_name="severity of the shift; 0 where it has none")

SAMPLES_SHIFT = {
    "model": _MODEL,
    "severity": _SEVERITY,
    **_SAMPLE_COORDINATES,
    "input_hash": _text("sample", coordinate=True, long_name="content hash of what the shift is made from"),
    "clean": _count("sample", coordinate=True, long_name="the same sample in /samples/clean; -1 if none"),
    "logit": _count("logit", coordinate=True),
    "prediction": _count("model", "severity", "sample", long_name=_PREDICTED),
    "logits": Variable(("model", "severity", "sample", "logit"), "float32", float("nan")),
    "distance": _real(
        "model",
        "severity",
        "sample",
        long_name="norm of the perturbation of an attacked copy; 0 where the attack returned the input",
    ),
}
"""The arrays of `/samples/shifts/<name>`, severities in order of arrival; `distance` of attacked copies."""

GROUPS: dict[str, dict[str, Variable]] = {
    "clean": {
        "model": _MODEL,
        "class": _CLASS,
        "accuracy": _real("model", "class", units="fraction", long_name="correct / total"),
        "correct": _count("model", "class", long_name="-1 until every sample of the class is predicted"),
        "total": _count("class", long_name="samples of the class"),
    },
    **dict.fromkeys(NORMS, _NORM),
    "cost": {
        "model": _MODEL,
        "norm": _text("norm", coordinate=True),
        "attack": _ATTACK,
        "stage": _text("stage", coordinate=True),
        "seconds": _real("model", "norm", "attack", "stage", units="s"),
        "forwards": _count("model", "norm", "attack", "stage"),
        "backwards": _count("model", "norm", "attack", "stage"),
    },
    "shifts": {
        "model": _MODEL,
        "class": _CLASS,
        "shift": _text("shift", coordinate=True),
        "severity": _SEVERITY,
        "kind": _text("shift", coordinate=True, long_name="corruption, test set, transformed or attacked"),
        "norm": _text("shift", coordinate=True, long_name="norm of the perturbation of attacked copies"),
        "settings": _text("shift", coordinate=True, long_name="resolved settings of the shift, JSON"),
        "accuracy": _real(
            "model", "class", "shift", "severity", units="fraction", long_name="correct / total"
        ),
        "correct": _count(
            "model",
            "class",
            "shift",
            "severity",
            long_name="-1 until every sample of the class is predicted",
        ),
        "total": _count(
            "class", "shift", "severity", long_name="samples of the class; -1 where there is no such severity"
        ),
        "log_loss": _real(
            "model", "class", "shift", "severity", units="nat", long_name="mean cross-entropy of the class"
        ),
        "status": _code(("model", "shift"), {code: name for name, code in STATUS.items()}),
        "reason": _text("model", "shift", long_name="why the shift is not ok"),
    },
    "measures": _MEASURES,
    "interclass": {
        "norm": _text("norm", coordinate=True),
        "sample": _SAMPLE,
        "distance": _real("norm", "sample", long_name="to the nearest sample of another class; inf if none"),
    },
    "samples/clean": _SAMPLES_CLEAN,
    "samples/train": _SAMPLES_CLEAN,
    **{f"samples/{norm}": _SAMPLES_NORM for norm in NORMS},
}
"""Every group's variables; `/models` is free: one array per column that the study's models have.

Groups of norms have those with `stage` only where a cascade is asked for.
"""

MODELS_DTYPES: dict[str, Variable] = {
    "text": _text("model"),
    "integer": _count("model"),
    "real": _real("model"),
}

EVIDENCE = "evidence"
_INPUT_DIMS = {1: ("feature",), 2: ("height", "width"), 3: ("channel", "height", "width")}


def evidence(rank: int) -> Variable:
    """Return the array of a norm's smallest adversarials, for inputs of `rank` dimensions.

    Part of `/samples/<norm>` only where a study asks for it.
    """
    return Variable(
        ("model", "attack", "sample", *_INPUT_DIMS.get(rank, tuple(f"input_{i}" for i in range(rank)))),
        "float32",
        float("nan"),
        attributes={"long_name": "the adversarial that distance is the norm of; NaN where none was found"},
    )


# One task rewrites whole chunks of each sample array, and a new level only its own task's.
_SAMPLE_CHUNKS = {"model": 1, "attack": 1, "severity": 1, "sample": SHARD, "level": 64, "stage": 16}
_SAMPLE_CHUNK_ITEMS = 2**23  # larger ones take fewer samples, so that one adversarial is read fast
_AGGREGATE_CHUNK_ITEMS = 2**19


def chunks(group: str, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the chunk shape of an array, given the sizes of its dimensions.

    Sample arrays have fixed chunks, so that they can grow; aggregates are rewritten whole and take large
    chunks, divided along `model` only when they get big.
    """
    return chunk_shape(variable(group, name), sizes, growing=group.startswith("samples/"))


def chunk_shape(described: Variable, sizes: Mapping[str, int], *, growing: bool) -> tuple[int, ...]:
    """Return the chunk shape for a variable that grows in place, or one that is rewritten whole."""
    dims = described.dims
    if growing:
        if len(dims) == 1:  # coordinates: one chunk for all but samples
            return (max(_SAMPLE_CHUNKS.get(dims[0], 64), 64),)
        fixed = {dim: _SAMPLE_CHUNKS.get(dim, max(sizes[dim], 1)) for dim in dims}
        items = prod(fixed.values()) // SHARD  # of one sample
        fixed["sample"] = max(
            rows
            for rows in range(1, SHARD + 1)
            if SHARD % rows == 0 and (rows == 1 or rows * items <= _SAMPLE_CHUNK_ITEMS)
        )
        return tuple(fixed[dim] for dim in dims)
    shape = [max(sizes[dim], 1) for dim in dims]
    rest = 1
    for size in shape[1:]:
        rest *= size
    shape[0] = max(1, min(shape[0], _AGGREGATE_CHUNK_ITEMS // rest))
    return tuple(shape)


def variable(group: str, name: str) -> Variable:
    """Return the table's entry for an array."""
    return group_variables(group)[name]


def group_variables(group: str) -> Mapping[str, Variable]:
    """Return the table's entries for a group; every shift has its own group of samples."""
    return SAMPLES_SHIFT if group.startswith(SHIFT_GROUP) else GROUPS[group]
