"""Models from a file of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metaeval import registry
from metaeval.errors import Problem, StudyError, UsageError
from metaeval.sources.models.checks import Architecture, flat, normalization, torch_is_there
from metaeval.sources.models.entry import ModelEntry
from metaeval.sources.models.fetching import planned
from metaeval.sources.models.files import sha256_of
from metaeval.study import Study
from metaeval.study.inputs import CheckpointModel

if TYPE_CHECKING:
    import torch
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
    downloads = (planned(table.weights, table.sha256),) if isinstance(table.weights, str) else ()
    path = downloads[0].path if downloads else Path(table.weights)
    if not downloads and not path.is_file():
        problem = study.problem((*loc, "weights"), f"there is no file {path}")
        raise StudyError([problem], missing=True)
    problems: list[Problem] = []
    architecture = Architecture(study, index, classes=classes, shape=shape, problems=problems)
    settings = architecture.settings({})
    normalize = normalization(study, index, shape, problems)
    if table.loader:
        try:
            registry.resolve(table.loader)
        except Exception as error:  # whatever the user's module does
            problems.append(study.problem((*loc, "loader"), str(error)))
    if table.input_layout == "channels_last" and len(shape) != 3:
        message = f"the data have inputs {shape}, which are no images"
        problems.append(study.problem((*loc, "input_layout"), message))
    found = sha256_of(path) if path.is_file() else None
    if found and table.sha256 and found != table.sha256:
        message = f"{path.name} has the sha256 {found}"
        if downloads:
            message += f"; delete {path} to fetch it again"
        problems.append(study.problem((*loc, "sha256"), message))
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
        weights=path,
        weights_sha256=found,
        loader=LOADER,
        published_accuracy=table.published_accuracy,
        downloads=downloads,
        reader=table.loader,
        input_range=table.input_range,
        input_layout=table.input_layout,
        expect=table.expect,
    )
    if not problems and not entry.is_missing and torch_is_there():
        problems += misfits(entry)
    if problems:
        raise StudyError(problems)
    return [entry]


def misfits(entry: ModelEntry) -> list[Problem]:
    """Return what is wrong with the weights of a model, or nothing."""
    try:
        load(entry)
    except UsageError as error:
        message = str(error)
        if "does not fit" in message:
            message += f" (built for the data: inputs {entry.shape}, {entry.classes} classes)"
        return [entry.problem(message)]
    return []


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
    state = _read_foreign(entry, module) if entry.reader else read_weights(entry.weights)
    module.load_state_dict(fit(state, module, entry.weights.name))
    return module


def _read_foreign(entry: ModelEntry, module: nn.Module) -> Mapping[str, torch.Tensor]:
    """Return the state dict that the user's loader makes of a file."""
    import torch

    from metaeval.sources.models.weights import check_finite

    assert entry.weights is not None
    assert entry.reader is not None
    try:
        state = registry.resolve(entry.reader)(entry.weights, module, entry.seen_shape)
    except UsageError:
        raise
    except Exception as error:  # whatever the user's code does
        raise UsageError(
            f"{entry.reader} cannot read {entry.weights.name}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UsageError(f"{entry.reader} gives type {type(state).__name__}, not a dict of tensors")
    check_finite(state, entry.weights)
    return state
