"""From ``[[models]]`` tables of other frameworks to entries, and from those to torch modules."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaeval import registry
from metaeval.errors import Problem, StudyError, UsageError, nearest, unknown
from metaeval.sources.models.building import call_architecture, resolve_architecture, settings_of
from metaeval.sources.models.checks import flat, normalization, torch_is_there
from metaeval.sources.models.entry import ModelEntry
from metaeval.sources.models.files import sha256_of
from metaeval.sources.models.foreign.frameworks import FRAMEWORKS
from metaeval.study import Study
from metaeval.study.inputs import ForeignModel

if TYPE_CHECKING:
    from torch import nn

LOADER = "metaeval.sources.models.foreign.tables:load"
WHOLE = ".keras"  # the one file that needs no callable
SHOWN = 300  # characters of what a framework says
WEIGHTS = "weights"  # a callable with this parameter reads the file itself


def expand_foreign(study: Study, index: int, *, classes: int, shape: tuple[int, ...]) -> list[ModelEntry]:
    """Return the model of a ``[[models]]`` table whose source is a key of `FRAMEWORKS`.

    It is built and computed with once, so that nothing is found wrong later.

    Raises
    ------
    StudyError
        If its framework is not installed, a file is missing, or it is no model for the data.
    """
    table = study.models[index]
    assert isinstance(table, ForeignModel)
    loc, framework = ("models", index), FRAMEWORKS[table.source]
    if framework.missing:
        raise StudyError([study.problem((*loc, "source"), framework.missing)])
    if table.weights and not table.weights.is_file():
        problem = study.problem((*loc, "weights"), f"there is no file {table.weights}")
        raise StudyError([problem], missing=True)
    problems: list[Problem] = []
    normalize = normalization(study, index, shape, problems)
    if torch_is_there():
        framework.prepare()
    settings = _settings(study, index, problems)
    entry = ModelEntry(
        name=table.name,
        source=table.source,
        family=table.family,
        architecture=table.model or "keras",
        shape=shape,
        classes=classes,
        place=study.problem((*loc, "model" if table.model else "weights"), ""),
        architecture_settings=settings,
        normalize=normalize,
        settings=flat(settings),
        weights=table.weights,
        weights_sha256=sha256_of(table.weights) if table.weights else None,
        loader=LOADER,
        published_accuracy=table.published_accuracy,
        input_range=table.input_range,
        input_layout=table.input_layout,
        expect=table.expect,
        foreign=True,
        gradients=framework.gradients,
    )
    if not problems and torch_is_there():
        problems += misfits(entry)
    if problems:
        raise StudyError(problems)
    return [entry]


def misfits(entry: ModelEntry) -> list[Problem]:
    """Return what is wrong with a model, or nothing; whatever the user's code raises is."""
    from metaeval.sources.models.foreign.adapter import probe

    try:
        module = load(entry)
        with _said_of(entry, computing=True):
            probe(entry.adapted(module), entry.shape, entry.classes)
    except UsageError as error:
        return [entry.problem(str(error))]
    return []


def load(entry: ModelEntry) -> nn.Module:
    """Return a model of another framework as a torch module.

    Raises
    ------
    UsageError
        If it cannot be built, or is no model of the framework.
    """
    from metaeval.sources.models.foreign.adapter import Foreign

    framework = FRAMEWORKS[entry.source]
    framework.prepare()
    weights = entry.weights
    built = None
    if not (weights and weights.name.endswith(WHOLE)):
        given = {"shape": entry.seen_shape, "classes": entry.classes, WEIGHTS: weights}
        with _said_of(entry, computing=False):
            built = call_architecture(entry.architecture, entry.architecture_settings, given)
        if _reads_itself(entry.architecture):
            weights = None
    adapt = registry.resolve(framework.adapt)
    with _said_of(entry, computing=True):
        return Foreign(adapt(built, weights=weights, shape=entry.seen_shape, classes=entry.classes))


@contextmanager
def _said_of(entry: ModelEntry, *, computing: bool) -> Iterator[None]:
    """Say of which model something is wrong, whatever the user's code or its framework raises."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{entry.architecture}: {error}") from error
    except Exception as error:
        first = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())[:SHOWN]
        what, advice = "be built", ""
        if computing:
            what = f"be computed with inputs {entry.seen_shape} ({entry.input_layout})"
            advice = "; check input_layout"
        message = f"{entry.architecture} cannot {what}: {type(error).__name__}: {first}{advice}"
        raise UsageError(message) from error


def _settings(study: Study, index: int, problems: list[Problem]) -> dict[str, Any]:
    """Return the arguments of the user's callable; what is wrong with it, or with them, is added."""
    table = study.models[index]
    assert isinstance(table, ForeignModel)
    loc, chosen = ("models", index), dict(table.settings)
    endings = FRAMEWORKS[table.source].endings

    def found(key: str, message: str, near: str | None = None) -> None:
        problems.append(study.problem((*loc, *key.split(".")), message, near))

    whole = table.weights is not None and table.weights.name.endswith(WHOLE) and WHOLE in endings
    if table.model is None:
        if not whole:
            found("model", f"missing: 'module:callable' that gives the model ({_reading(endings)})")
        for key in chosen:
            found(f"settings.{key}", "has no effect without model")
        return chosen
    if whole:
        found("model", f"has no effect: {_name(table.weights)} holds the whole model")
        return chosen
    if ":" not in table.model:
        found("model", f"{table.model!r} is not of the form 'module:callable'")
        return chosen
    try:
        takes = settings_of(resolve_architecture(table.model))
    except UsageError as error:
        found("model", str(error))
        return chosen
    for key in [key for key in chosen if takes is not None and key not in takes]:
        found(f"settings.{key}", *unknown(f"setting of {table.model}", key, takes or ()))
    needed = [key for key, value in (takes or {}).items() if value is inspect.Parameter.empty]
    missing = [key for key in needed if key not in (*chosen, WEIGHTS)]
    if missing:
        found(
            "model", f"{table.model} needs settings: {', '.join(missing)} (it is called once, for the model)"
        )
    if WEIGHTS in needed and table.weights is None:
        found("weights", f"missing: {table.model} takes the path of a file of weights")
    if table.weights and not _reads_itself(table.model) and not _name(table.weights).endswith(endings):
        near = nearest(table.weights.suffix, endings)
        found("weights", f"{_name(table.weights)} is not read: {_reading(endings)}", near)
    return chosen


def _reading(endings: tuple[str, ...]) -> str:
    files = f"files {', '.join(endings)} are read, others" if endings else "files are read"
    return f"{files} by a callable with a parameter {WEIGHTS}, which is the path"


def _reads_itself(reference: str) -> bool:
    takes = settings_of(resolve_architecture(reference))
    return takes is not None and WEIGHTS in takes


def _name(path: Path | None) -> str:
    return path.name if path else ""
