"""Models trained here: a table of the study, every combination of its grid one model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from metaeval.errors import Problem, StudyError
from metaeval.sources.models.checks import Architecture, flat, normalization
from metaeval.sources.models.entry import ModelEntry, Scalar
from metaeval.sources.models.settings import training_settings
from metaeval.study import Study
from metaeval.study.inputs import Settings, TrainModel

ARCHITECTURE_KEYS = ("depth", "width", "dropout", "batch_norm", "kernel")
WORDLESS = ("optimizer", "adversarial_norm")  # whose values say what they are


def expand_train(study: Study, index: int, *, classes: int, shape: tuple[int, ...]) -> list[ModelEntry]:
    """Return the models of a ``[[models]]`` table with ``source = "train"``.

    Combinations that differ only in what does not apply (the norm of a standard training) are one model.

    Raises
    ------
    StudyError
        If the architecture is unknown, takes no such setting or misfits the data, or a setting applies to
        none of the models.
    """
    table = study.models[index]
    assert isinstance(table, TrainModel)
    problems: list[Problem] = []
    architecture = Architecture(study, index, classes=classes, shape=shape, problems=problems)
    normalize = normalization(study, index, shape, problems)
    places = {key: (key,) for key in table.settings} | {key: ("grid", key) for key in table.choices}
    refused = {
        key for key in ARCHITECTURE_KEYS if key in places and not architecture.has_setting(key, places[key])
    }
    entries: dict[str, ModelEntry] = {}
    applied: set[str] = set()
    for chosen in _combinations(table):
        hyper = {
            key: value for key, value in chosen.items() if key in ARCHITECTURE_KEYS and key not in refused
        }
        settings = architecture.settings(hyper)
        given = {key: value for key, value in chosen.items() if key not in ARCHITECTURE_KEYS}
        training = training_settings(given, seed=study.study.seed)
        effective: dict[str, Scalar] = {**flat(settings), **training.as_dict()}
        applied |= effective.keys() | hyper.keys()
        entry = ModelEntry(
            name=_name(table, effective),
            source=table.source,
            family=table.family,
            architecture=architecture.name,
            shape=shape,
            classes=classes,
            place=study.problem(("models", index), ""),
            architecture_settings=settings,
            normalize=normalize,
            settings=effective,
            training=training,
        )
        entries.setdefault(entry.name, entry)
    for key, place in places.items():
        if key not in applied and key not in ARCHITECTURE_KEYS:
            problems.append(study.problem(("models", index, *place), _unused(key)))
    if problems:
        raise StudyError(problems)
    return list(entries.values())


def _combinations(table: TrainModel) -> Iterator[dict[str, Any]]:
    """Yield the settings of every combination of the grid, the last key varying fastest."""
    keys, values = list(table.choices), list(table.choices.values())
    for combination in itertools.product(*values):
        yield {**table.settings, **dict(zip(keys, combination, strict=True))}


def _name(table: TrainModel, effective: dict[str, Scalar]) -> str:
    """Return the prefix and all settings of the grid that apply, so that a longer grid renames nothing."""
    words = [table.name]
    for key in Settings.model_fields:
        if key in table.choices and key in effective:
            value = _written(effective[key])
            words.append(value if key in WORDLESS else f"{key}={value}")
    return "-".join(words)


def _written(value: Scalar) -> str:
    """Return a value as it stands in a name: 8/255 is ``8_255``, because names are patterns with slashes."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        short = Fraction(value).limit_denominator(255)
        if short.denominator == 255 and float(short) == value:
            return f"{short.numerator}_255"
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def _unused(key: str) -> str:
    if key.startswith("adversarial_"):
        return "has no effect: adversarial_epsilon is 0 for all of these models"
    return "has no effect: none of the optimizers of these models takes it"
