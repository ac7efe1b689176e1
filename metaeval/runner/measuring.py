"""Generalization measures in a run: what they look at, each computed and recorded, what is not, and why."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from metaeval.attacks.verify import Evaluator
from metaeval.cube.measures import (
    CLEAN,
    EVERYWHERE,
    TRAIN,
    Entry,
    MeasureRecord,
    MeasureSelection,
    read_record,
    task_of,
    write_record,
)
from metaeval.cube.store import CubeStore
from metaeval.cube.training import ensure_training, read_training, write_training
from metaeval.errors import StudyError
from metaeval.hashing import hash_array, hash_json
from metaeval.measures import registry
from metaeval.measures.spec import Context, Missing, Split, Undefined, Unsupported, Value
from metaeval.runner.devices import with_shrinking_batch
from metaeval.runner.prepare import Prepared
from metaeval.runner.records import log_event, versions
from metaeval.sources.data import Samples
from metaeval.sources.data.selection import take_training
from metaeval.sources.models import LoadedModel, ModelEntry
from metaeval.sources.models.files import sha256_of
from metaeval.sources.models.normalized import bare
from metaeval.study.plan import MeasurePlan

NOTHING = "none"  # stands for the hash of data that are not at hand


class Scopes(NamedTuple):
    """Samples beside the clean ones, with a model's logits: all by name, and which are attacked copies."""

    splits: Mapping[str, Split]
    attacked: frozenset[str] = frozenset()


ScopeReader = Callable[[CubeStore, ModelEntry, LoadedModel], Scopes]


@dataclass(frozen=True, eq=False)
class Measured:
    """One model with what measures look at.

    Attributes
    ----------
    data : mapping
        Hash of each scope's samples and logits.
    missing : mapping
        Why a measure that needs something cannot have it, by the words of `metaeval.measures.spec.NEEDS`.
    """

    name: str
    identity: str
    context: Context
    data: Mapping[str, str]
    missing: Mapping[str, str]
    initial: str


@dataclass
class Outcome:
    """What computing one measure of one model came to."""

    computed: bool = False
    forwards: int = 0
    backwards: int = 0
    failures: list[str] = field(default_factory=list)


class Measuring:
    """The measures of one run."""

    def __init__(
        self,
        prepared: Prepared,
        store: CubeStore,
        device: torch.device,
        scopes: ScopeReader | None = None,
    ) -> None:
        self.prepared, self.store, self.device, self.scopes = prepared, store, device, scopes
        self.seed = prepared.study.study.seed
        self.plans = prepared.plan.measures
        self._identities: dict[str, dict[str, str]] = {}
        self._data: dict[str, dict[str, str]] = {}
        self._names: dict[str, None] = {}
        self._attacked: dict[str, None] = {}

    @cached_property
    def training(self) -> tuple[Samples | None, str]:
        """The training samples that measures look at, or None and why there are none."""
        assert self.prepared.study.measures is not None
        try:
            data = self.prepared.training_data
        except StudyError as error:
            return None, f"no training data: {error.problems[0].message}"
        return take_training(data, self.prepared.study.measures.train_samples, self.seed), ""

    def lay_out(self) -> None:
        """Give the training samples their place in the cube. Needs the layout lock exclusively."""
        train = self.training[0] if self.plans else None
        if train is not None:
            ensure_training(self.store, train.ids, train.hashes, train.y)

    def know(self, entry: ModelEntry, model: LoadedModel) -> None:
        """Note whose values the cube may show for a model, as far as its logits are stored already."""
        if not self.plans:
            return
        clean, train = self._clean(entry.name, model), self._stored_training(entry.name, model)
        if clean is not None and (train is not None or self.training[0] is None):
            self._note(self._measured(entry, model, clean, train))

    def open(self, entry: ModelEntry, model: LoadedModel, batch_size: int) -> tuple[Measured, int]:
        """Return all that measures of a model look at, and the forward passes that it took."""
        clean, train, forwards = self._clean(entry.name, model), self._stored_training(entry.name, model), 0
        if clean is None:
            raise ValueError("the clean logits are not stored")
        samples = self.training[0]
        if train is None and samples is not None:
            train, forwards = self._forward(entry.name, model, samples)
        measured = self._measured(entry, model, clean, train)
        measured.context.batch_size = batch_size
        self._note(measured)
        return measured, forwards

    def compute(self, measured: Measured, plan: MeasurePlan) -> Outcome:
        """Bring one measure of one model up to the plan and commit it; no failure of it goes further."""
        identity, outcome = self._identity(measured, plan), Outcome()
        old = read_record(self.store.journal, measured.name, plan.name)
        found = dict(old.scopes) if old is not None and old.identity == identity else {}
        for scope, split in self._wanted(measured, plan).items():
            known = found.get(scope)
            data = measured.data.get(scope, NOTHING)
            if known is not None and known.data == data and known.status != "failed":
                continue
            entry = self._entry(measured, plan, scope, split, data)
            outcome.computed = True
            outcome.forwards += entry.forwards
            outcome.backwards += entry.backwards
            if entry.status == "failed":
                outcome.failures.append(f"{measured.name}/measures/{plan.name} ({scope}): {entry.reason}")
            found[scope] = entry
        if outcome.computed:
            record = MeasureRecord(identity, found, dict(plan.settings), versions())
            classes = len(self.store.class_names)
            write_record(self.store.journal, measured.name, plan.name, record, classes=classes)
        return outcome

    def fail(self, model: str, plan: MeasurePlan, reason: str) -> None:
        """Mark a measure of a model failed, with the reason."""
        self.store.journal.fail(task_of(model, plan.name), reason, "")

    def selection(self, *, known: bool = True) -> MeasureSelection | None:
        """Return what `/measures` covers: this study, or with `known` only what this run vouches for."""
        if not self.plans:
            return None
        definitions = tuple({"name": p.name, "where": p.where, **p.described} for p in self.plans)
        if not known:
            return MeasureSelection(definitions)
        scopes = (CLEAN, TRAIN, *self._names)
        return MeasureSelection(definitions, scopes, tuple(self._attacked), self._identities, self._data)

    # Inside -----------------------------------------------------------------------------------------------

    def _note(self, measured: Measured) -> None:
        self._data[measured.name] = dict(measured.data)
        self._names.update(dict.fromkeys(measured.context.scopes))
        self._attacked.update(dict.fromkeys(measured.context.attacked))
        self._identities[measured.name] = {p.name: self._identity(measured, p) for p in self.plans}

    def _identity(self, measured: Measured, plan: MeasurePlan) -> str:
        """Return the hash of all that decides a measure's values but the samples of their own scope."""
        looks_at = {
            TRAIN: bool({"train_logits", "train_data"} & set(plan.needs)),
            CLEAN: "attacked_logits" in plan.needs,
        }
        return hash_json(
            {
                "model": measured.identity,
                "measure": plan.name,
                "version": plan.version,
                "settings": dict(plan.settings),
                "seed": self.seed,
                "data": [measured.data[scope] for scope, used in looks_at.items() if used],
                "initial": measured.initial if "initial_weights" in plan.needs else "",
            }
        )

    def _wanted(self, measured: Measured, plan: MeasurePlan) -> dict[str, Split | None]:
        """Return the samples of every scope in which a measure is computed; None where there are none."""
        context = measured.context
        if plan.where == CLEAN:
            return {CLEAN: context.clean}
        if plan.where == TRAIN:
            return {TRAIN: context.train}
        if plan.where == EVERYWHERE:
            return {CLEAN: context.clean, TRAIN: context.train, **context.scopes}
        return dict(context.attacked)

    def _entry(
        self, measured: Measured, plan: MeasurePlan, scope: str, split: Split | None, data: str
    ) -> Entry:
        """Return what a measure answers in one scope, or why it does not."""
        needs = ("train_data", *plan.needs) if scope == TRAIN else plan.needs
        missing = [measured.missing[need] for need in needs if need in measured.missing]
        if missing or split is None:
            return Entry(data, "skipped", missing[0])
        context, started = measured.context, time.monotonic()
        measure = registry.measures()[plan.name]()

        def work(size: int) -> Value:
            context.batch_size = size
            return measure.compute(context, split, **plan.settings)

        try:
            value = with_shrinking_batch(work, context.batch_size, lambda size: None)
            return _stored(value, data, time.monotonic() - started, classes=len(self.store.class_names))
        except Missing as error:
            return Entry(data, "skipped", str(error), seconds=time.monotonic() - started)
        except Undefined as error:
            return Entry(
                data,
                "undefined",
                str(error),
                seconds=time.monotonic() - started,
                forwards=error.forwards,
                backwards=error.backwards,
            )
        except Unsupported as error:
            return Entry(data, "unsupported", str(error), seconds=time.monotonic() - started)
        except Exception as error:
            trace = "".join(traceback.format_exception(error))
            title = f"{measured.name}/measures/{plan.name}"
            log_event(self.store.directory, "failed", task=title, scope=scope, traceback=trace)
            return Entry(data, "failed", f"{type(error).__name__}: {error}".removesuffix(": "))

    def _measured(
        self,
        entry: ModelEntry,
        model: LoadedModel,
        clean: npt.NDArray[np.float32],
        train: npt.NDArray[np.float32] | None,
    ) -> Measured:
        samples, (training, reason) = self.prepared.samples, self.training
        scopes = self.scopes(self.store, entry, model) if self.scopes else Scopes({})
        data = {CLEAN: hash_json([*samples.hashes, hash_array(samples.y), hash_array(clean)]), TRAIN: NOTHING}
        train_split = None
        if training is not None and train is not None:
            train_split = Split(training.y, train, training.x)
            size = len(self.prepared.training_data)
            data[TRAIN] = hash_json([size, *training.hashes, hash_array(training.y), hash_array(train)])
        data |= {name: _hash(split) for name, split in scopes.splits.items()}
        missing = {} if train_split else dict.fromkeys(("train_logits", "train_data"), reason)
        initial = model.initial
        if initial is None:
            missing["initial_weights"] = "the initial weights are not known"
        missing |= lacking(entry)
        context = Context(
            module=model.module.to(self.device),
            shape=samples.x.shape[1:],
            classes=len(samples.class_names),
            clean=Split(samples.y, clean, samples.x),
            train=train_split,
            training_size=None if train_split is None else len(self.prepared.training_data),
            scopes=dict(scopes.splits),
            attacked={name: scopes.splits[name] for name in scopes.splits if name in scopes.attacked},
            initial=None if initial is None or not self._asks("initial_weights") else load_file(initial),
            trained=bare(model.module),
            seed=self.seed,
            device=self.device,
        )
        sha = sha256_of(initial) if context.initial is not None and initial is not None else NOTHING
        return Measured(entry.name, model.identity, context, data, missing, sha)

    def _asks(self, need: str) -> bool:
        return any(need in plan.needs for plan in self.plans)

    def _clean(self, name: str, model: LoadedModel) -> npt.NDArray[np.float32] | None:
        """Return the stored clean logits of the study's samples, None unless all are there."""
        count, parts = len(self.prepared.samples.y), []
        for shard in range(self.store.shards(count)):
            stored = self.store.read_clean(name, shard, model.identity)
            rows = self.store.rows(shard, count)
            if stored is None or len(stored.logits) < rows.stop - rows.start:
                return None
            parts.append(stored.logits[: rows.stop - rows.start])
        return np.concatenate(parts)

    def _stored_training(self, name: str, model: LoadedModel) -> npt.NDArray[np.float32] | None:
        if self.training[0] is None:
            return None
        return read_training(self.store, name, model.identity)

    def _forward(
        self, name: str, model: LoadedModel, samples: Samples
    ) -> tuple[npt.NDArray[np.float32], int]:
        """Send the training samples through a model once, and store what it says."""
        started, evaluator = time.monotonic(), Evaluator(model.module.to(self.device), self.device)
        logits = evaluator.logits(torch.from_numpy(samples.x).to(self.device)).cpu().numpy()
        write_training(
            self.store,
            name,
            logits,
            identity=model.identity,
            forwards=evaluator.forwards,
            seconds=time.monotonic() - started,
            versions=versions(),
        )
        stored = self._stored_training(name, model)
        if stored is None:
            raise OSError("the outputs on the training samples could not be stored")
        return stored, evaluator.forwards


def lacking(entry: ModelEntry) -> dict[str, str]:
    """Return why measures cannot have what they need of a model, by need, as far as its entry tells."""
    missing = {}
    if entry.foreign:
        missing["weights"] = "another framework computes the model, so torch has no weights of it"
    if not entry.gradients:
        missing |= dict.fromkeys(("gradients", "weights"), "the model gives no gradients")
    return missing


def _stored(value: Value, data: str, seconds: float, *, classes: int) -> Entry:
    """Return a measure's answer as the cube keeps it; what is no number is not kept as one."""
    if not isinstance(value, Value):
        raise TypeError(f"the measure returned a {type(value).__name__}, not a Value")
    if value.per_class is not None and len(value.per_class) != classes:
        raise ValueError(f"the measure returned {len(value.per_class)} numbers for {classes} classes")
    forwards, backwards = int(value.forwards), int(value.backwards)
    spent = Entry(data, "ok", seconds=seconds, forwards=forwards, backwards=backwards)
    if math.isnan(value.value):
        return replace(spent, status="failed", reason="the measure returned no number")
    if math.isinf(value.value):
        return replace(spent, status="undefined", reason="the value is infinite")
    return replace(
        spent,
        value=float(value.value),
        standard_error=_finite(value.standard_error),
        lower=_finite(value.lower),
        upper=_finite(value.upper),
        per_class=None if value.per_class is None else tuple(_finite(part) for part in value.per_class),
        note=str(value.note),
    )


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else math.nan


def _hash(split: Split) -> str:
    arrays: list[npt.NDArray[Any] | None] = [split.y, split.logits, split.clean, split.distance]
    return hash_json([None if array is None else hash_array(array) for array in arrays])
