"""One run over one cube: models one after the other, their tasks one by one, each committed at once."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from metaeval.cube.journal import Task as Key
from metaeval.cube.layout import SHIFT
from metaeval.cube.locks import Lock
from metaeval.cube.shift_store import ensure_shifts, fail_shift_task, shift_task
from metaeval.cube.store import CubeStore
from metaeval.errors import StudyError
from metaeval.runner.applicable import inapplicable_shift
from metaeval.runner.cache import cache_directory, is_trained
from metaeval.runner.devices import find_batch_size, fitting_threads, pin_precision
from metaeval.runner.expectations import check_loaded
from metaeval.runner.forecast import Forecast, Speed, forecast
from metaeval.runner.measuring import Measuring, Outcome
from metaeval.runner.prepare import Prepared
from metaeval.runner.progress import Progress, duration
from metaeval.runner.publish import LOCK_WAIT, describe_study, publish
from metaeval.runner.records import log_event, versions
from metaeval.runner.scopes import shift_scopes
from metaeval.runner.shift_plan import ShiftTask
from metaeval.runner.shift_plan import shift_tasks as planned_tasks
from metaeval.runner.shifts import axes_of, run_shift
from metaeval.runner.tasks import identity_of, run_clean, run_task
from metaeval.sources.models import LoadedModel, ModelEntry, load_model, train_model
from metaeval.study.identity import study_hash
from metaeval.study.plan import Task, paid_once


@dataclass
class Summary:
    """What a run did.

    Attributes
    ----------
    computed, reused : int
        Tasks run now, and tasks that an earlier run had finished.
    failures : list of str
        One line per failed model or task.
    forwards, backwards, verification : int
        Rows sent through models by attacks (forward, backward), to verify claims, and to predict.
    """

    directory: Path
    computed: int = 0
    reused: int = 0
    failures: list[str] = field(default_factory=list)
    forwards: int = 0
    backwards: int = 0
    verification: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as JSON can say it."""
        return {**asdict(self), "directory": str(self.directory)}

    def sentence(self) -> str:
        """Return the summary in words."""
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return (
            f"{self.computed} tasks computed, {self.reused} reused{failed} in {duration(self.seconds)}; "
            f"{self.forwards:,} forward and {self.backwards:,} backward passes, "
            f"{self.verification:,} forward passes to verify"
        )


class Job:
    """One run over one cube."""

    def __init__(
        self,
        prepared: Prepared,
        store: CubeStore,
        device: torch.device,
        batch_size: int | None,
        verbose: bool,
    ) -> None:
        self.prepared, self.store, self.device, self.verbose = prepared, store, device, verbose
        self.batch_size = batch_size
        self.study, self.plan, self.samples = prepared.study, prepared.plan, prepared.samples
        self.summary = Summary(store.directory)
        self.precision = pin_precision(prepared.study.study.precision)
        self.loaded: dict[str, LoadedModel] = {}
        self.identities: dict[tuple[str, str, str], str] = {}
        self.progress = Progress(0.0, quiet=True)
        scopes = shift_scopes(prepared.shifts, self.precision)
        self.measuring = Measuring(prepared, store, device, scopes)

    def run(self, *, quiet: bool) -> None:
        """Do all tasks, committing each; the aggregates are rebuilt also when interrupted."""
        self._lay_out()
        log_event(self.store.directory, "start", study=study_hash(self.study), versions=versions())
        shape = self.samples.x.shape[1:]
        expected = forecast(self.prepared, directory=self.store.directory, device=self.device)
        try:
            with Progress(expected.seconds, quiet=quiet) as self.progress, fitting_threads(shape):
                try:
                    self.summary.verification += check_loaded(self.prepared, self.store, self.device)
                except StudyError:  # what the cube holds of sound models it goes on showing
                    for entry in self.prepared.entries:
                        self._recall(entry)
                    raise
                for entry in self.prepared.entries:
                    if self.prepared.asked(entry.name):
                        self._run_model(entry, expected)
                    else:
                        self._recall(entry)
        finally:
            publish(self.store, self.prepared, self.loaded, self.identities, self.measuring.selection())

    def _lay_out(self) -> None:
        """Give every model, attack, epsilon and sample of the study its place in the cube."""
        samples = self.samples
        with Lock(self.store.directory, "layout", wait=LOCK_WAIT):
            self.store.ensure_samples(
                samples.ids, samples.hashes, samples.y, samples.class_names, logits=len(samples.class_names)
            )
            self.store.ensure_models(self.plan.models)
            for norm in dict.fromkeys(attack.norm for attack in self.plan.attacks):
                attacks = [attack for attack in self.plan.attacks if attack.norm == norm]
                epsilons = [(epsilon.value, epsilon.label) for epsilon in attacks[0].epsilons]
                names = [attack.attack for attack in attacks]
                stages = [stage.attack for attack in attacks for stage in attack.stages]
                shape = samples.x.shape[1:] if any(attack.evidence for attack in attacks) else None
                self.store.ensure_norm(norm, names, epsilons, shape, stages)
            self.measuring.lay_out()
            shifts = {planned.shift.name: axes_of(planned.shift) for planned in self.prepared.shifts}
            if shifts:
                ensure_shifts(self.store, shifts)
            measures = self.measuring.selection(known=False)
            describe_study(
                self.store, self.prepared, device=self.device, precision=self.precision, measures=measures
            )

    def _run_model(self, entry: ModelEntry, expected: Forecast) -> None:
        """Train or load a model and run its tasks; whatever goes wrong is written down and ends there."""
        tasks, shift_tasks = self.prepared.tasks(entry.name), self.prepared.shift_tasks(entry.name)
        share = expected.models[entry.name]
        try:
            model = self._obtain(entry, share.speed.seconds(share.training))
            clean, forwards = run_clean(
                entry.name, model.module, model.identity, self.samples, self.store, device=self.device
            )
            size = self.batch_size or find_batch_size(model.module, self.samples.x.shape[1:], self.device)
        except Exception as error:
            everything: list[Task | ShiftTask] = [*shift_tasks, *tasks]
            for failed in everything:
                self._fail(failed, error)
            self._fail_measures(entry, error)
            if not self.prepared.work(entry.name):
                self.summary.failures.append(f"{entry.name}: {type(error).__name__}: {error}")
            return
        self.summary.verification += forwards
        self._know(entry, model)
        for shifted in shift_tasks:
            self.progress.begin(shifted.title, share.speed.seconds(shifted.cost))
            try:
                self._run_shift(shifted, model, size)
            except Exception as error:
                self._fail(shifted, error)
        for task in tasks:
            self.progress.begin(_title(task), share.speed.seconds(task.cost))
            try:
                size = self._run_task(task, model, clean, size, share.speed)
            except Exception as error:
                self._fail(task, error)
        if self.prepared.measures(entry.name):
            self._measure(entry, model, size, share.speed)
        self.progress.finish()
        model.module.to(
            "meta"
        )  # what is still asked of it is its description; its weights would fill the memory

    def _measure(self, entry: ModelEntry, model: LoadedModel, size: int, speed: Speed) -> None:
        """Compute the measures of a model; none of them stops another."""
        try:
            measured, forwards = self.measuring.open(entry, model, size)
        except Exception as error:
            self._fail_measures(entry, error)
            return
        self.summary.forwards += forwards
        for plan in paid_once(self.prepared.measures(entry.name)):
            self.progress.begin(f"{entry.name}/measures/{plan.name}", speed.seconds(plan.duration))
            self._count(self.measuring.compute(measured, plan))

    def _count(self, outcome: Outcome) -> None:
        self.summary.computed += outcome.computed
        self.summary.reused += not outcome.computed
        self.summary.forwards += outcome.forwards
        self.summary.backwards += outcome.backwards
        self.summary.failures += outcome.failures
        for failure in outcome.failures:
            self.progress.note(f"failed: {failure}")

    def _fail_measures(self, entry: ModelEntry, error: Exception) -> None:
        """Mark all measures of a model failed, with one reason."""
        reason = _reason(error)
        for plan in self.prepared.measures(entry.name):
            self.measuring.fail(entry.name, plan, reason)
        if self.prepared.measures(entry.name):
            self.summary.failures.append(f"{entry.name}/measures: {reason}")
            self.progress.note(f"failed: {entry.name}/measures: {reason}")

    def _know(self, entry: ModelEntry, model: LoadedModel) -> None:
        """Note whose numbers the cube may show for a model."""
        self.loaded[entry.name] = model
        for task in self.plan.tasks(entry.name):
            self.identities[entry.name, task.attack.norm, task.attack.attack] = self.identity(task, model)
        self.measuring.know(entry, model)
        for planned in self.prepared.shifts:
            identity = planned.identity(model.identity, self.precision)
            self.identities[entry.name, SHIFT, planned.shift.name] = identity
        for task, reason in self.plan.skips(entry.name):
            attack, identity = task.attack, self.identity(task, model)
            self.identities[entry.name, attack.norm, attack.attack] = identity
            self._skip(Key(entry.name, attack.norm, attack.attack, task.shard), reason)
        for shifted in planned_tasks(self.prepared.shifts, entry.name):
            if reason := inapplicable_shift(entry, shifted.plan):
                self._skip(shift_task(entry.name, shifted.plan.shift.name, shifted.shard), reason)

    def _skip(self, key: Key, reason: str) -> None:
        """Note that a task does not apply, unless that stands there already."""
        identity = self.identities[key.model, key.norm, key.attack]
        known = self.store.journal.skip(key)
        if known is None or (known.reason, known.identity) != (reason, identity):
            self.store.skip_column(key.model, key.norm, key.attack, key.shard, reason, identity=identity)

    def _recall(self, entry: ModelEntry) -> None:
        """Identify a model of which no task was asked for, if that takes no training."""
        try:
            if not entry.needs_training:
                self._know(entry, load_model(entry))
            elif is_trained(entry, self.prepared.training_data):
                self._know(entry, self._obtain(entry, 0.0))
        except Exception as error:
            self.progress.note(f"{entry.name}: {error}")

    def _obtain(self, entry: ModelEntry, predicted: float) -> LoadedModel:
        if not entry.needs_training:
            return load_model(entry)
        self.progress.begin(f"training {entry.name}", predicted)
        last = 0.0

        def trained(fraction: float) -> None:
            nonlocal last
            self.progress.advance((fraction - last) * predicted)
            last = fraction

        return train_model(
            entry,
            self.prepared.training_data,
            cache_directory(),
            device=self.device,
            progress=trained,
        )

    def _run_task(
        self, task: Task, model: LoadedModel, clean: npt.NDArray[np.int64], size: int, speed: Speed
    ) -> int:
        """Run one task and return the batch size that it ended with."""

        def shrunk(smaller: int) -> None:
            nonlocal size
            size = smaller
            self.progress.note(f"{_title(task)}: out of memory, continuing with batches of {smaller}")

        def passed(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
            both = torch.is_grad_enabled() and inputs[0].requires_grad
            self.progress.advance(len(inputs[0]) * (speed.forward + speed.backward * both))

        counter = model.module.register_forward_hook(passed)
        try:
            result = run_task(
                task,
                model.module,
                self.identities[task.model, task.attack.norm, task.attack.attack],
                self.samples,
                self.store,
                seed=self.study.study.seed,
                precision=self.study.study.precision,
                batch_size=size,
                device=self.device,
                clean_prediction=clean[task.start : task.stop],
                on_shrink=shrunk,
            )
        finally:
            counter.remove()
        if result is None:
            self.summary.reused += 1
            return size
        self.summary.computed += 1
        self.summary.forwards += int(result.forwards.sum())
        self.summary.backwards += int(result.backwards.sum())
        self.summary.verification += result.verification
        log_event(self.store.directory, "task", task=_title(task), shard=task.shard, batch_size=size)
        return size

    def _run_shift(self, task: ShiftTask, model: LoadedModel, size: int) -> None:
        """Evaluate a model on one shard of a shift."""

        def shrunk(smaller: int) -> None:
            self.progress.note(f"{task.title}: out of memory, continuing with batches of {smaller}")

        spent = run_shift(
            task,
            model.module,
            self.identities[task.model, SHIFT, task.plan.shift.name],
            self.store,
            seed=self.study.study.seed,
            precision=self.study.study.precision,
            batch_size=size,
            device=self.device,
            on_shrink=shrunk,
        )
        if spent is None:
            self.summary.reused += 1
            return
        self.summary.computed += 1
        self.summary.forwards += spent.forwards
        self.summary.backwards += spent.backwards
        self.summary.verification += spent.evaluation
        log_event(self.store.directory, "task", task=task.title, shard=task.shard, batch_size=size)

    def identity(self, task: Task, model: LoadedModel) -> str:
        """Return what decides the numbers of a task's column."""
        return identity_of(task.attack, model.identity, self.study.study.seed, self.precision)

    def _fail(self, task: Task | ShiftTask, error: Exception) -> None:
        """Mark a task failed, with the reason, and say so."""
        reason = _reason(error)
        if isinstance(task, ShiftTask):
            fail_shift_task(self.store, shift_task(task.model, task.plan.shift.name, task.shard), reason)
        else:
            self.store.fail_column(task.model, task.attack.norm, task.attack.attack, task.shard, reason)
        trace = "".join(traceback.format_exception(error))
        log_event(self.store.directory, "failed", task=_title(task), shard=task.shard, traceback=trace)
        self.summary.failures.append(f"{_title(task)} (shard {task.shard}): {reason}")
        self.progress.note(f"failed: {_title(task)}: {reason}" + (f"\n{trace}" if self.verbose else ""))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _title(task: Task | ShiftTask) -> str:
    if isinstance(task, ShiftTask):
        return task.title
    return f"{task.model}/{task.attack.norm}/{task.attack.attack}"
