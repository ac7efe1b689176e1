"""Models trained here: a table of the study, every combination of its grid one model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from metaeval.errors import Problem, StudyError
from metaeval.sources.models.checks import Architecture, flat, normalization
from metaeval.sources.models.entry import ModelEntry, Scalar
from metaeval.sources.models.settings import training_settings
from metaeval.study import Study
from metaeval.study.inputs import Settings, TrainModel

ARCHITECTURE_KEYS = ("depth", "width", "dropout", "batch_norm", "kernel")
WORDLESS = (
    "optimizer",
    "schedule",
    "adversarial_method",
    "adversarial_norm",
)  # whose values say what they are
DECIDING = ("optimizer", "adversarial_epsilon", "adversarial_method")  # which other settings apply
MOST = 1_000_000  # combinations of a grid


def expand_train(study: Study, index: int, *, classes: int, shape: tuple[int, ...]) -> list[ModelEntry]:
    """Return the models of a ``[[models]]`` table with ``source = "train"``.

    Combinations that differ only in what does not apply (the norm of a standard training) are one model.
    Of a sampled grid more models never change which came first.

    Raises
    ------
    StudyError
        If the architecture is unknown, takes no such setting or misfits the data, a setting applies to none
        of the models, or a grid has fewer models than are to be drawn.
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
    for chosen in _chosen(study, index):
        if len(entries) == table.sample:
            break
        hyper = {
            key: value for key, value in chosen.items() if key in ARCHITECTURE_KEYS and key not in refused
        }
        settings = architecture.settings(hyper)
        training = training_settings(_of_training(chosen), seed=study.study.seed)
        effective: dict[str, Scalar] = {**flat(settings), **training.as_dict()}
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
    if table.sample and len(entries) < table.sample:
        message = f"{table.sample} models asked for; the grid has {len(entries)}"
        problems.append(study.problem(("models", index, "sample"), message, str(len(entries))))
    applied = _applied(table)
    for key, place in places.items():
        if key not in applied and key not in ARCHITECTURE_KEYS:
            problems.append(study.problem(("models", index, *place), _unused(key)))
    augmentations = {table.settings.get("augmentation", "none"), *table.choices.get("augmentation", ())}
    if len(shape) != 3 and augmentations != {"none"}:
        message = f"images (channels, height, width) can be flipped and cropped, the data have inputs {shape}"
        problems.append(study.problem(("models", index, *places["augmentation"]), message, "none"))
    if problems:
        raise StudyError(problems)
    return list(entries.values())


def _chosen(study: Study, index: int) -> Iterator[dict[str, Any]]:
    """Yield the settings of every combination of the grid, the last key varying fastest.

    Those of a grid to be sampled come in an order that the study's seed decides.
    """
    table = study.models[index]
    assert isinstance(table, TrainModel)
    keys, values = list(table.choices), list(table.choices.values())
    shape = tuple(len(choices) for choices in values)
    number = math.prod(shape)
    if number > MOST:
        message = f"{number:,} combinations; a grid has at most {MOST:,}"
        raise StudyError([study.problem(("models", index, "grid"), message)])
    order: Iterable[int] = range(number)
    if table.sample:
        # Raw bits of PCG64 are the same in every version of NumPy.
        order = np.argsort(np.random.PCG64(study.study.seed).random_raw(number), kind="stable").tolist()
    for place in order:
        positions = np.unravel_index(place, shape) if shape else ()
        combination = [choices[position] for choices, position in zip(values, positions, strict=True)]
        yield {**table.settings, **dict(zip(keys, combination, strict=True))}


def _of_training(chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in chosen.items() if key not in ARCHITECTURE_KEYS}


def _applied(table: TrainModel) -> set[str]:
    """Return the settings of training that apply to a model of the grid, whether it is drawn or not."""
    deciding = {key: table.choices[key] for key in DECIDING if key in table.choices}
    others = {key: choices[0] for key, choices in table.choices.items() if key not in DECIDING}
    applied: set[str] = set()
    for combination in itertools.product(*deciding.values()):
        chosen = {**table.settings, **others, **dict(zip(deciding, combination, strict=True))}
        applied |= training_settings(_of_training(chosen), seed=0).as_dict().keys()
    return applied


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
    if key == "trades_beta":
        return "has no effect: none of these models is trained by TRADES (adversarial_method)"
    if key.startswith("adversarial_"):
        return "has no effect: adversarial_epsilon is 0 for all of these models"
    return "has no effect: none of the optimizers of these models takes it"
