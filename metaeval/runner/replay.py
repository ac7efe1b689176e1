"""Replaying evidence: every kept adversarial is checked again, from stored numbers and the study alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from metaeval import outcomes
from metaeval.attacks.geometry import norms
from metaeval.attacks.verify import Evaluator, predictions
from metaeval.cube.journal import Record
from metaeval.cube.layout import EVIDENCE
from metaeval.cube.locks import Lock
from metaeval.cube.sample_arrays import FOUND
from metaeval.cube.store import CubeStore
from metaeval.errors import MissingInputError, UsageError
from metaeval.runner.cache import cache_directory, is_trained
from metaeval.runner.devices import choose_device, fitting_threads, pin_precision
from metaeval.runner.prepare import Prepared, prepare
from metaeval.runner.tasks import identity_of
from metaeval.sources.models import LoadedModel, ModelEntry, load_model, train_model
from metaeval.study.plan import Task
from metaeval.study.schema import Study

# The last bits of a float64 sum depend on its order, which is the device's; a maximum is exact.
SUM_ROUNDING = {"linf": 0.0, "l2": 1e-12, "l1": 1e-12}


@dataclass(frozen=True)
class Failure:
    """One stored adversarial that was not confirmed, or one that should be there; and why."""

    model: str
    norm: str
    attack: str
    sample: int
    sample_id: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.model}/{self.norm}/{self.attack}, sample {self.sample} ({self.sample_id})"
        return f"{where}: {self.reason}"


@dataclass(frozen=True)
class ColumnReplay:
    """What replaying one column showed.

    Attributes
    ----------
    claimed : int
        Samples of which the column says that an adversarial was found.
    replayed, confirmed : int
        Adversarials that are stored, and those that passed every check.
    unrepeated : int
        Adversarials of a randomised model that one more forward pass classified correctly: no failure, for
        its verdicts are random.
    problems : tuple of str
        What kept the column, or a part of it, from being replayed.
    failures : tuple of Failure
        Adversarials that failed a check.
    """

    model: str
    norm: str
    attack: str
    claimed: int = 0
    replayed: int = 0
    confirmed: int = 0
    unrepeated: int = 0
    problems: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def good(self) -> bool:
        """Whether every claim has an adversarial and nothing contradicts one."""
        return not self.problems and not self.failures

    def row(self) -> dict[str, Any]:
        """Return the result as a row of a table."""
        return {**asdict(self), "problems": len(self.problems), "failures": len(self.failures)}

    def lines(self) -> list[str]:
        """Return what went wrong, one line each."""
        where = f"{self.model}/{self.norm}/{self.attack}"
        return [f"{where}: {problem}" for problem in self.problems] + [
            f"failed: {failure}" for failure in self.failures
        ]


class _Stored(NamedTuple):
    """What is stored of a task's samples: n rows, and the levels that their distances were snapped to."""

    distance: npt.NDArray[np.float64]
    claimed: npt.NDArray[np.bool_]
    kept: npt.NDArray[np.bool_]
    evidence: npt.NDArray[np.float32]
    levels: npt.NDArray[np.float64]
    broken: npt.NDArray[np.bool_]  # (n, levels)


def replay(study: Study, directory: Path, *, device: str = "auto") -> list[ColumnReplay]:
    """Check every adversarial that a cube keeps for a study: box, norm, claimed levels and label.

    Norms are computed in float64 from the stored tensor and the study's input and must be the stored
    distance; labels come from a fresh float32 forward pass of the study's model.

    Parameters
    ----------
    directory : Path
        The folder of the cube.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. On another device than that of the run, the last bits of
        the logits differ, and an adversarial on the very boundary may be classified correctly.

    Returns
    -------
    list of ColumnReplay
        One per column that keeps adversarials or should.

    Raises
    ------
    UsageError
        If nothing is kept and the study does not ask for it.
    LockedError
        If a run is changing the cube.
    MissingInputError, StudyError
        If there is no cube, or the study's data or weights are not there.
    """
    store = CubeStore.open(directory)
    selection = store.selection()
    prepared = prepare(study, limit=selection.samples if selection else None)
    with Lock(directory, "run", exclusive=False), fitting_threads(prepared.samples.x.shape[1:]):
        columns = list(_Replay(prepared, store, choose_device(device)).columns())
    if not columns:
        raise UsageError(
            f"the cube in {directory} keeps no adversarials of this study; "
            "with evidence = true in [[threat_models]], run keeps them"
        )
    return columns


class _Replay:
    def __init__(self, prepared: Prepared, store: CubeStore, device: torch.device) -> None:
        self.prepared, self.store, self.device = prepared, store, device
        self.precision = pin_precision(prepared.study.study.precision)

    def columns(self) -> Iterator[ColumnReplay]:
        """Yield the result of every column, model by model; only one model is in memory at a time."""
        for entry in self.prepared.entries:
            columns: dict[tuple[str, str], list[Task]] = {}
            for task in filter(self._wanted, self.prepared.tasks(entry.name)):
                columns.setdefault((task.attack.norm, task.attack.attack), []).append(task)
            if not columns:
                continue
            try:
                model = self._obtain(entry)
            except Exception as error:
                for norm, attack in columns:
                    yield ColumnReplay(entry.name, norm, attack, problems=(str(error) or repr(error),))
                continue
            evaluator = Evaluator(model.module.to(self.device), self.device)
            for (norm, attack), tasks in columns.items():
                result = ColumnReplay(entry.name, norm, attack)
                for task in tasks:
                    result = self._task(result, task, model, evaluator)
                yield result
            model.module.to("meta")  # its weights would fill the memory

    def _wanted(self, task: Task) -> bool:
        """Tell whether a task keeps adversarials or should."""
        record = self._record(task)
        return task.attack.evidence or (record is not None and EVIDENCE in record.checksums)

    def _record(self, task: Task) -> Record | None:
        return self.store.record(task.model, task.attack.norm, task.attack.attack, task.shard)

    def _obtain(self, entry: ModelEntry) -> LoadedModel:
        if not entry.needs_training:
            return load_model(entry)
        if not is_trained(entry, self.prepared.training_data):
            raise MissingInputError("the model was trained by the run and is not in the cache any more")
        return train_model(entry, self.prepared.training_data, cache_directory())

    def _task(
        self, result: ColumnReplay, task: Task, model: LoadedModel, evaluator: Evaluator
    ) -> ColumnReplay:
        """Return the result with one task's adversarials added."""
        try:
            stored = self._read(task, model)
        except UsageError as error:
            return replace(result, problems=(*result.problems, f"shard {task.shard}: {error}"))
        claimed, kept, randomised = stored.claimed, stored.kept, np.isnan(stored.distance)
        reasons, robust = self._check(task, stored, evaluator)
        for row in np.flatnonzero(claimed & ~kept).tolist():
            reasons[row] = "an adversarial was found and is not stored"
        for row in np.flatnonzero(robust & ~randomised).tolist():
            reasons.setdefault(row, "the model classifies it correctly")
        unrepeated = robust & randomised
        failed = np.isin(np.arange(len(kept)), list(reasons))
        failures = [
            Failure(*_names(task), task.start + row, self.prepared.samples.ids[task.start + row], reason)
            for row, reason in sorted(reasons.items())
        ]
        return replace(
            result,
            claimed=result.claimed + int(claimed.sum()),
            replayed=result.replayed + int(kept.sum()),
            confirmed=result.confirmed + int((kept & ~failed & ~unrepeated).sum()),
            unrepeated=result.unrepeated + int((unrepeated & ~failed).sum()),
            failures=(*result.failures, *failures),
        )

    def _read(self, task: Task, model: LoadedModel) -> _Stored:
        """Return what is stored of a task.

        Raises
        ------
        UsageError
            If nothing is, or if it is damaged, incomplete or of another model, settings or samples.
        """
        names, record = _names(task), self._record(task)
        if record is None:
            raise UsageError("not computed; the next run computes it")
        hashes = self.prepared.samples.hashes[task.start : task.stop]
        if record.sample_hashes[: len(hashes)] != hashes[: len(record.sample_hashes)]:
            raise UsageError("it was computed on other samples than the study's")
        identity = identity_of(task.attack, model.identity, self.prepared.study.study.seed, self.precision)
        if record.identity != identity:
            clean = self.store.clean_record(task.model, task.shard)
            same = clean is not None and clean.identity == model.identity
            what = (
                "other settings or weights"
                if same
                else "another model (weights, architecture or normalisation)"
            )
            raise UsageError(f"it was computed with {what} than the study's; the identities do not match")
        found = self.store.read_column(*names, task.shard, identity)
        if found is None:
            raise UsageError("the stored values do not match their record; the next run computes them again")
        column, rows = found.column, slice(0, len(hashes))
        missing = int((column.claimed() & ~column.kept()).sum())
        if missing and column.evidence is None:
            raise UsageError(
                f"incomplete: computed without evidence, {missing} adversarials were found and are not "
                "stored; the next run with evidence = true finds them again"
            )
        evidence = column.evidence
        if evidence is None:  # and none is missing
            evidence = np.empty((len(column.distance), *self.prepared.samples.x.shape[1:]), dtype=np.float32)
        levels = np.array([epsilon for epsilon in record.epsilons if epsilon > 0])
        cell = column.cell[rows, self.store.levels(task.attack.norm, levels.tolist())]
        return _Stored(
            column.distance[rows],
            column.claimed()[rows],
            column.kept()[rows],
            evidence[rows],
            levels,
            np.isin(cell, FOUND),
        )

    def _check(
        self, task: Task, stored: _Stored, evaluator: Evaluator
    ) -> tuple[dict[int, str], npt.NDArray[np.bool_]]:
        """Return why adversarials (by row) are none, and which rows' are classified correctly."""
        norm, rows = task.attack.norm, np.flatnonzero(stored.kept)
        x = torch.from_numpy(self.prepared.samples.x[task.start + rows])
        points = torch.from_numpy(stored.evidence[rows])
        inside = ((points >= 0) & (points <= 1)).flatten(1).all(dim=1).numpy()  # NaN is not
        size = outcomes.snap(norms(x, points, norm).numpy(), stored.levels, norm)
        distance = stored.distance[rows]
        smallest = np.where(stored.broken[rows], stored.levels, np.inf).min(axis=1, initial=np.inf)
        reasons: dict[int, str] = {}
        for i, row in enumerate(rows.tolist()):
            if not inside[i]:
                reasons[row] = "it is not inside [0, 1]"
            elif not stored.claimed[row]:
                reasons[row] = "it is stored, and the column says that none was found"
            elif not np.isnan(distance[i]) and abs(size[i] - distance[i]) > SUM_ROUNDING[norm] * distance[i]:
                reasons[row] = f"its norm is {size[i]:.9g}, the stored distance {distance[i]:.9g}"
            elif outcomes.broken(size[i], smallest[i]) != 1:
                reasons[row] = f"its norm is {size[i]:.9g}, above the claimed level {smallest[i]:.9g}"
        robust = np.zeros(len(stored.kept), dtype=bool)
        if len(rows):
            labels = torch.from_numpy(self.prepared.samples.y[task.start + rows])
            predicted = predictions(evaluator.logits(points.to(self.device))).cpu()
            robust[rows] = (predicted == labels).numpy()
        return reasons, robust


def _names(task: Task) -> tuple[str, str, str]:
    return task.model, task.attack.norm, task.attack.attack
