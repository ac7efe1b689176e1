"""From the ``[[models]]`` tables of a study to its models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from metaeval import registry
from metaeval.errors import Problem, StudyError
from metaeval.sources.data.opening import open_data
from metaeval.sources.data.selection import open_training_data
from metaeval.sources.models.entry import ModelEntry
from metaeval.study import Study

SOURCES = {
    "checkpoint": "metaeval.sources.models.checkpoint:expand_checkpoint",
    "robustbench": "metaeval.sources.models.robustbench:expand_robustbench",
    "train": "metaeval.sources.models.train:expand_train",
}


class Source(Protocol):
    """What a model source is, built-in or of another package (entry points ``metaeval.model_sources``)."""

    def __call__(
        self, study: Study, index: int, *, classes: int, shape: tuple[int, ...]
    ) -> list[ModelEntry]: ...


def expand_models(study: Study, *, classes: int, shape: tuple[int, ...]) -> list[ModelEntry]:
    """Return the models of a study, none of them trained yet.

    Parameters
    ----------
    classes : int
        Of the data; every model must give so many logits.
    shape : tuple of int
        Of one input of the data.

    Raises
    ------
    StudyError
        With everything that is wrong with any of the models, or with the data to train them on.
    """
    entries: list[ModelEntry] = []
    first: dict[str, int] = {}
    problems: list[Problem] = []
    missing = True
    for index, table in enumerate(study.models):
        source: Source = registry.load("model_sources", SOURCES, table.source)
        try:
            found = source(study, index, classes=classes, shape=shape)
        except StudyError as error:
            problems += error.problems
            missing &= error.exit_code == 4
            continue
        if not found:
            problems.append(study.problem(("models", index), "there is no model in this table"))
            missing = False
        for name in dict.fromkeys(entry.name for entry in found):
            if name in first:
                message = f"models[{first[name]}] has a model {name!r} too; set name to tell them apart"
                problems.append(study.problem(("models", index, "name"), message))
                missing = False
            first.setdefault(name, index)
        entries += found
    if any(entry.needs_training for entry in entries):
        try:
            differences = list(_training_problems(study, shape))
            problems += differences
            missing &= not differences
        except StudyError as error:
            problems += error.problems
            missing &= error.exit_code == 4
    if problems:
        raise StudyError(problems, missing=missing)
    return entries


def _training_problems(study: Study, shape: tuple[int, ...]) -> Iterator[Problem]:
    """Yield what sets the training data apart from the data that the models are evaluated on."""
    data = open_training_data(study)
    place = ("data", "train_split")
    if data.shape != shape:
        message = (
            f"inputs of the split {data.split!r} are {data.shape}, those of {study.data.split!r} {shape}"
        )
        yield study.problem(place, message)
    evaluated = open_data(study, study.data.split).class_names
    if data.class_names != evaluated:
        other = sorted(set(data.class_names) ^ set(evaluated)) or ["another order"]
        said = f"{len(data.class_names)} and {len(evaluated)}, differing in {', '.join(other[:5])}"
        yield study.problem(place, f"classes of {data.split!r} and {study.data.split!r} differ: {said}")
