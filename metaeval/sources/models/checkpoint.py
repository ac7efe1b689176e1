"""Models from a file of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaeval.errors import Problem, StudyError, UsageError
from metaeval.sources.models.checks import Architecture, flat, normalization, torch_is_there
from metaeval.sources.models.entry import ModelEntry
from metaeval.sources.models.files import sha256_of
from metaeval.study import Study
from metaeval.study.inputs import CheckpointModel

if TYPE_CHECKING:
    from torch import nn

LOADER = "metaeval.sources.models.checkpoint:load"


def expand_checkpoint(study: Study, index: int, *, classes: int, shape: tuple[int, ...]) -> list[ModelEntry]:
    """Return the model of a ``[[models]]`` table with ``source = "checkpoint"``.

    The weights are read and compared with the architecture, so that nothing is found wrong later.

    Raises
    ------
    StudyError
        If the file is missing, damaged or another one than its sha256 says, or does not fit.
    """
    table = study.models[index]
    assert isinstance(table, CheckpointModel)
    loc = ("models", index)
    if not table.weights.is_file():
        problem = study.problem((*loc, "weights"), f"there is no file {table.weights}")
        raise StudyError([problem], missing=True)
    problems: list[Problem] = []
    architecture = Architecture(study, index, classes=classes, shape=shape, problems=problems)
    settings = architecture.settings({})
    normalize = normalization(study, index, shape, problems)
    found = sha256_of(table.weights)
    if table.sha256 and found != table.sha256:
        problems.append(study.problem((*loc, "sha256"), f"{table.weights.name} has the sha256 {found}"))
    entry = ModelEntry(
        name=table.name,
        source=table.source,
        family=table.family,
        architecture=architecture.name,
        shape=shape,
        classes=classes,
        place=study.problem((*loc, "weights"), ""),
        architecture_settings=settings,
        normalize=normalize,
        settings=flat(settings),
        weights=table.weights,
        weights_sha256=found,
        loader=LOADER,
        published_accuracy=table.published_accuracy,
    )
    if not problems and torch_is_there():
        try:
            load(entry)
        except UsageError as error:
            message = str(error)
            if "does not fit" in message:
                message += f" (built for the data: inputs {shape}, {classes} classes)"
            problems.append(entry.problem(message))
    if problems:
        raise StudyError(problems)
    return [entry]


def load(entry: ModelEntry) -> nn.Module:
    """Return the architecture with the weights of the file.

    Raises
    ------
    UsageError
        If the file cannot be read or does not fit.
    """
    import torch

    from metaeval.sources.models.weights import fit, read_weights

    assert entry.weights is not None
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and overwritten
        module = entry.build_bare()
    module.load_state_dict(fit(read_weights(entry.weights), module, entry.weights.name))
    return module
