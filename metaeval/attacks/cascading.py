"""Attacks one after the other on the same samples: each only where all earlier ones left a sample unbroken.

One bound on the smallest adversarial is handed from stage to stage, so accuracy can only fall. A radius
counts as searched where every stage has failed at it or at a larger one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from metaeval import outcomes
from metaeval.attacks import catalogue, checks
from metaeval.attacks.arithmetic import arithmetic
from metaeval.attacks.catalogue import AttackSpec
from metaeval.attacks.column import Bools, Column, Floats, Known
from metaeval.attacks.presets import PRESETS, stages_of
from metaeval.attacks.runs import AttackRuns
from metaeval.attacks.search import Mode, Rows
from metaeval.attacks.sweeping import (
    Adversarials,
    Integers,
    SweepResult,
    as_array,
    as_epsilons,
    attack_rows,
    check_arguments,
    clean_predictions,
    mode_of,
    place_of,
    verdicts,
)
from metaeval.attacks.verify import VOTES, Evaluator
from metaeval.errors import UsageError, unknown_name
from metaeval.hashing import hash_samples

Stage = tuple[AttackSpec, dict[str, Any]]  # an attack and its resolved settings


@dataclass(frozen=True, kw_only=True)
class CascadeResult(SweepResult):
    """The column of a cascade of S stages for n samples; beside what a sweep gives:

    Attributes
    ----------
    stages : tuple of str
        Ids of the attacks, in order.
    stage_distance : ndarray
        float64 (S, n): the smallest distance known after each stage, which never grows along the first
        axis; inf if none was found, 0 if misclassified, NaN for a randomised model.
    stage_seconds : ndarray
        float64 (S, levels): time that a stage took in this call. All epsilons share one search, so a stage's
        time is divided among them by the passes that it spent at each, that of a minimum-norm attack
        evenly; the sum over levels is what was measured. Epsilon 0 takes none.
    stage_forwards, stage_backwards : ndarray
        int64 (S, n): passes that each stage spent in this call; they sum to `forwards` and `backwards`.
    """

    stages: tuple[str, ...]
    stage_distance: Floats
    stage_seconds: Floats
    stage_forwards: Integers
    stage_backwards: Integers


@dataclass(frozen=True, kw_only=True)
class KnownCascade(Known):
    """A cascade's column as an earlier call left it.

    Attributes
    ----------
    stage_distance : ndarray
        float64 (S, n), as in `CascadeResult`.
    """

    stage_distance: Floats


def cascade(
    model: nn.Module,
    x: Tensor | npt.ArrayLike,
    y: Tensor | npt.ArrayLike,
    *,
    norm: str = "linf",
    epsilons: npt.ArrayLike,
    stages: str | Sequence[str | tuple[str, Mapping[str, Any]]] = "autoattack-standard",
    search: str = "frontier",
    seed: int = 0,
    sample_hashes: Sequence[str] | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    evidence: bool = False,
    precision: str = "float32",
) -> CascadeResult:
    """Run attacks in order, each only on what all earlier ones left unbroken, at every epsilon.

    Parameters
    ----------
    model, x, y, norm, epsilons, search, seed, sample_hashes, batch_size, device, evidence, precision
        As for `metaeval.attacks.sweep`.
    stages : str or sequence
        Name of a preset (`metaeval.attacks.presets.PRESETS`), or the attacks in order: ids, or pairs of an
        id and its settings. No attack twice.

    Raises
    ------
    UsageError
        If an argument is wrong: an unknown preset, attack or setting, inputs outside [0, 1], too few
        classes for a stage.
    """
    return run_cascade(
        model,
        as_array(x, np.float32),
        as_array(y, np.int64),
        stages=_resolve(stages, norm),
        norm=norm,
        epsilons=as_epsilons(epsilons),
        search=search,
        seed=seed,
        sample_hashes=sample_hashes,
        batch_size=batch_size,
        device=device,
        evidence=evidence,
        precision=precision,
    )


def run_cascade(
    model: nn.Module,
    x: npt.NDArray[np.float32],
    y: Integers,
    *,
    stages: Sequence[Stage],
    norm: str,
    epsilons: Floats,
    search: str = "frontier",
    seed: int = 0,
    sample_hashes: Sequence[str] | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    evidence: bool = False,
    known: KnownCascade | None = None,
    clean_prediction: Integers | None = None,
    precision: str = "float32",
) -> CascadeResult:
    """Do what `cascade` does, with resolved stages and with what an earlier call left.

    Parameters
    ----------
    known : KnownCascade, optional
        The column so far. A new epsilon computes a sample afresh, so that the column is the one that a
        single call would give; in frontier mode only where it lies between what every stage has searched
        and the first stage's smallest adversarial. Rows with a NaN distance are computed afresh.
    clean_prediction : ndarray, optional
        int64 (n,): predictions of the same model on the same inputs, if they are known already.
    """
    stages = [(spec.for_norm(norm), settings) for spec, settings in stages]
    check_arguments([spec for spec, _ in stages], norm, epsilons, search, precision)
    checks.check_data(x, y)
    place = place_of(model, device)
    model.to(place)
    flags: checks.Flags = {}
    levels = np.unique(epsilons if known is None else np.concatenate([epsilons, known.epsilons]))
    with arithmetic(place, precision), checks.guarded(model, flags):
        evaluator = Evaluator(model, place)
        inputs = torch.from_numpy(x).to(place)
        if clean_prediction is None:
            clean_prediction = clean_predictions(evaluator, inputs, y)
        state = _State(Column.fresh(len(x), levels[levels > 0]), len(stages))
        correct = clean_prediction == y
        kept = np.zeros(len(x), dtype=bool)
        if known is not None:
            kept = state.take_over(known, norm, search)
            correct = np.where(np.isnan(known.distance), correct, known.distance > 0)
        work = correct & ~kept & (len(state.column.levels) > 0)
        best = Adversarials(inputs)
        randomised = False
        seconds = np.zeros((len(stages), len(epsilons)))
        forwards, backwards = np.zeros((2, len(stages), len(x)), dtype=np.int64)
        if work.any():
            classes, seen = checks.check_outputs(evaluator, inputs)
            for spec, _ in stages:
                if reason := catalogue.problems(spec, norm=norm, classes=classes, shape=x.shape[1:]):
                    raise UsageError(reason)
            flags |= seen
            randomised = bool(seen["randomised"])
            if randomised:  # no verdict says anything about another: neither earlier ones
                evaluator.votes = VOTES
                work, state = correct, _State(Column.fresh(len(x), state.column.levels), len(stages))
            state.begin(np.flatnonzero(work))
            hashes = hash_samples(x) if sample_hashes is None else sample_hashes
            for position, (spec, settings) in enumerate(stages):
                started = time.monotonic()
                runs = AttackRuns(
                    model, x, y, spec, settings, norm, seed, hashes, batch_size, place, precision
                )
                runs.randomised = randomised
                mode = "independent" if randomised else mode_of(spec, search)
                _merge(flags, state.run_stage(position, runs, evaluator, best, mode))
                forwards[position], backwards[position] = runs.forwards, runs.backwards
                seconds[position] = _divide(time.monotonic() - started, runs, epsilons)
            state.finish()
            flags["nonfinite_logits"] = float((clean_prediction < 0).mean())
    distance = np.where(correct, state.distance, 0.0)
    if randomised:
        distance[:, correct] = np.nan
    return CascadeResult(
        **verdicts(state.column, epsilons, correct, randomised=randomised),
        forwards=forwards.sum(axis=0),
        backwards=backwards.sum(axis=0),
        flags=flags if work.any() else {},
        verification=evaluator.forwards,
        verification_seconds=evaluator.seconds,
        clean_prediction=clean_prediction,
        evidence=best.evidence() if evidence else None,
        stages=tuple(spec.id for spec, _ in stages),
        stage_distance=distance,
        stage_seconds=seconds,
        stage_forwards=forwards,
        stage_backwards=backwards,
    )


class _State:
    """What is known while stages run.

    Attributes
    ----------
    column : Column
        The cascade's column; while stages run, of the samples at work only `distance` and `verified` count.
    distance : ndarray
        float64 (S, n): the smallest distance known after each stage.
    """

    def __init__(self, column: Column, stages: int) -> None:
        self.column = column
        self.distance = np.full((stages, len(column.distance)), np.inf)
        self._rows: Rows = np.empty(0, dtype=np.int64)
        self._floor = np.empty(0)
        self._failed = np.empty((0, len(column.levels)), dtype=bool)

    def take_over(self, known: KnownCascade, norm: str, search: str) -> Bools:
        """Fill in the samples that an earlier call decided at every level; return which they are."""
        new = np.setdiff1d(self.column.levels, known.epsilons)
        open_ = outcomes.broken(known.stage_distance[0][:, None], new) == 0
        if search == "frontier":
            open_ &= new > known.searched[:, None]
        # In exact mode each level that was not attacked changes which ones would have been.
        undecided = open_.any(axis=1) if search == "frontier" else np.full(len(open_), len(new) > 0)
        kept: Bools = ~np.isnan(known.distance) & (~undecided | (known.distance == 0))
        self.column.take_over(known, kept, norm)
        for stage, distance in enumerate(known.stage_distance):
            self.distance[stage, kept] = outcomes.snap(distance[kept], self.column.levels, norm)
        return kept

    def begin(self, rows: Rows) -> None:
        """Start the stages on some samples of which nothing is known."""
        self._rows = rows
        self._floor = np.full(len(rows), np.inf)
        self._failed = np.ones((len(rows), len(self.column.levels)), dtype=bool)

    def run_stage(
        self, position: int, runs: AttackRuns, evaluator: Evaluator, best: Adversarials, mode: Mode
    ) -> checks.Flags:
        """Attack what earlier stages left unbroken; return the flags raised, none if nothing was left."""
        column, rows = self.column, self._rows
        stage = Column.fresh(len(column.distance), column.levels)
        unbroken = ~(column.verified if mode == "independent" else column.broken())[rows]
        chosen = rows[unbroken.any(axis=1)]
        flags: checks.Flags = {}
        if len(chosen):
            if runs.spec.kind == "fixed-epsilon":
                stage = replace(stage, distance=column.distance.copy(), verified=column.verified.copy())
            flags = attack_rows(stage, chosen, runs, evaluator, mode, best)
            column.distance[chosen] = np.minimum(column.distance[chosen], stage.distance[chosen])
            column.verified[chosen] |= stage.verified[chosen]
        # A failure in a ball that a later stage breaks still bounds what this stage does in smaller balls.
        self._floor = np.minimum(self._floor, stage.searched()[rows])
        self._failed &= stage.failed[rows]
        self.distance[position, rows] = column.distance[rows]
        return flags

    def finish(self) -> None:
        """Put together what the stages found."""
        self.column.floor[self._rows] = self._floor
        self.column.failed[self._rows] = self._failed


def _merge(flags: checks.Flags, raised: checks.Flags) -> None:
    """Add a stage's flags: claims add up, of shares the largest counts."""
    for name, value in raised.items():
        before = flags.get(name, 0.0)
        flags[name] = before + value if name == "rejected_claims" else max(before, value)


def _divide(seconds: float, runs: AttackRuns, epsilons: Floats) -> Floats:
    """Divide a stage's time among the epsilons by the passes spent at each."""
    positive = epsilons > 0
    passes = np.array([float(runs.passes_at[epsilon]) for epsilon in epsilons.tolist()])
    passes = np.where(positive, passes, 0.0)
    weights = passes if passes.any() else positive.astype(np.float64)
    return np.asarray(seconds * weights / weights.sum() if weights.any() else weights)


def _resolve(stages: str | Sequence[str | tuple[str, Mapping[str, Any]]], norm: str) -> list[Stage]:
    if isinstance(stages, str):
        if stages not in PRESETS:
            raise unknown_name("preset", stages, PRESETS)
        try:
            stages = stages_of(stages, norm)
        except ValueError as error:
            raise UsageError(str(error)) from error
    given = [(stage, {}) if isinstance(stage, str) else stage for stage in stages]
    names = [name for name, _ in given]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"stages must name at least one attack and none twice, got {names}")
    specs = [catalogue.get(name).for_norm(norm) for name in names]
    return [
        (spec, catalogue.resolve_settings(spec, settings))
        for spec, (_, settings) in zip(specs, given, strict=True)
    ]
