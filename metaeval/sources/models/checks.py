"""What can be found wrong with a ``[[models]]`` table before any model is loaded or trained."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from typing import Any

from metaeval.errors import Problem, UsageError, unknown
from metaeval.hashing import hash_json
from metaeval.sources.models.architectures import ARCHITECTURES
from metaeval.sources.models.building import canonical, check_module, resolve_architecture, settings_of
from metaeval.sources.models.entry import Normalization, Scalar, seen_shape
from metaeval.study import Study
from metaeval.study.inputs import CheckpointModel, ForeignModel, TrainModel


def torch_is_there() -> bool:
    """Tell whether models can be built here; without torch only the study itself is checked."""
    return importlib.util.find_spec("torch") is not None


def flat(settings: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the settings that a table can show: text, numbers and truth values."""
    return {key: value for key, value in settings.items() if isinstance(value, (str, int, float, bool))}


def normalization(
    study: Study, index: int, shape: tuple[int, ...], problems: list[Problem]
) -> Normalization | None:
    """Return a model's normalization; a number of channels that is not the data's is a problem."""
    table = study.models[index]
    assert isinstance(table, (CheckpointModel, ForeignModel, TrainModel))
    if table.normalize is None:
        return None
    mean, std = table.normalize.mean, table.normalize.std
    for key, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, shape[0]):
            message = f"{len(values)} values for inputs with {shape[0]} channels"
            problems.append(study.problem(("models", index, "normalize", key), message))
    return Normalization(mean, std)


class Architecture:
    """The architecture of a ``[[models]]`` table; what is wrong with it is added to `problems`.

    Attributes
    ----------
    name : str
        A built-in name, or ``module:callable``.
    known : bool
        Whether there is such an architecture.
    """

    def __init__(
        self, study: Study, index: int, *, classes: int, shape: tuple[int, ...], problems: list[Problem]
    ) -> None:
        table = study.models[index]
        assert isinstance(table, (CheckpointModel, TrainModel))
        self.name = canonical(table.architecture)
        self._study, self._loc, self._problems = study, ("models", index), problems
        self._classes = classes
        self._shape = seen_shape(shape, table.input_layout) if isinstance(table, CheckpointModel) else shape
        self._given = dict(table.architecture_settings)
        self._checked: set[str] = set()
        self._takes: dict[str, Any] | None = None
        self.known = self._resolve()
        for key in [key for key in self._given if self.known and not self.takes(key)]:
            message, near = unknown(f"setting of {self.name}", key, self._takes or ())
            self._problem(("architecture_settings", key), message, near)
            del self._given[key]

    def takes(self, key: str) -> bool:
        """Tell whether the architecture has a setting."""
        return self._takes is None or key in self._takes

    def has_setting(self, key: str, place: tuple[str, ...]) -> bool:
        """Tell whether a hyper-parameter can be passed on; if not, that is a problem at its place."""
        if not self.known:
            return True
        if key in self._given:
            self._problem(place, f"given in architecture_settings too; write {key} once")
            return False
        if not self.takes(key):
            allowed = ", ".join(sorted(self._takes or ())) or "none"
            self._problem(place, f"{self.name} has no setting {key!r}; it has: {allowed}")
            return False
        return True

    def settings(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments; a module that misfits the data is a problem."""
        arguments = {**self._given, **chosen}
        if not self.known:
            return arguments
        if self.name in ARCHITECTURES:
            # Defaults are written out, so that naming one makes no other model.
            arguments = {**(self._takes or {}), **arguments}
        required = [k for k, value in (self._takes or {}).items() if value is inspect.Parameter.empty]
        missing = [key for key in required if key not in arguments]
        if missing:
            self._problem(("architecture",), f"{self.name} needs architecture_settings: {', '.join(missing)}")
        elif torch_is_there() and hash_json(arguments) not in self._checked:
            self._checked.add(hash_json(arguments))
            wrong = check_module(self.name, arguments, self._shape, self._classes)
            if wrong:
                self._problem(("architecture",), wrong)
        return arguments

    def _resolve(self) -> bool:
        if self.name not in ARCHITECTURES and ":" not in self.name:
            message, near = unknown("architecture", self.name, ARCHITECTURES)
            self._problem(("architecture",), f"{message}, or 'module:callable'", near)
            return False
        try:
            self._takes = settings_of(resolve_architecture(self.name))
        except UsageError as error:
            self._problem(("architecture",), str(error))
            return False
        return True

    def _problem(self, place: tuple[str, ...], message: str, near: str | None = None) -> None:
        problem = self._study.problem((*self._loc, *place), message, near)
        if problem not in self._problems:
            self._problems.append(problem)
