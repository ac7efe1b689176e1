"""One task: what its record already holds, what is still to be attacked, and both put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from metaeval.attacks import catalogue, sweeping
from metaeval.attacks.cascading import CascadeResult, KnownCascade, run_cascade
from metaeval.attacks.column import Known
from metaeval.attacks.sweeping import SweepResult
from metaeval.attacks.verify import Evaluator, predictions
from metaeval.cube.journal import Record, Stage, covers
from metaeval.cube.store import Column, CubeStore
from metaeval.runner.devices import with_shrinking_batch
from metaeval.runner.records import versions
from metaeval.sources.data import Samples
from metaeval.study.identity import column_identity
from metaeval.study.plan import AttackPlan, Task


def run_task(
    task: Task,
    module: torch.nn.Module,
    identity: str,
    samples: Samples,
    store: CubeStore,
    *,
    seed: int,
    precision: str,
    batch_size: int,
    device: torch.device,
    clean_prediction: npt.NDArray[np.int64],
    on_shrink: Callable[[int], None],
) -> SweepResult | None:
    """Bring one task's column up to the plan and commit it; return None if it was complete already.

    Samples that the record covers are attacked again only at new epsilons inside their bracket, or if their
    adversarials are wanted and were not kept. A column that has adversarials goes on keeping them.
    """
    attack = task.attack
    wanted = [epsilon.value for epsilon in attack.epsilons]
    rows = slice(task.start, task.stop)
    hashes = list(samples.hashes[rows])
    old = store.read_column(task.model, attack.norm, attack.attack, task.shard, identity)
    done: list[float] = []
    if old is not None:
        if covers(old.record, identity, hashes, wanted, evidence=attack.evidence):
            return None
        done = list(old.record.epsilons)
    evidence = attack.evidence or (old is not None and old.column.evidence is not None)
    levels = done + [epsilon for epsilon in wanted if epsilon not in done]
    positions = store.levels(attack.norm, levels).tolist()

    started = time.monotonic()
    result = with_shrinking_batch(
        lambda size: _attack(
            attack,
            module,
            samples.x[rows],
            samples.y[rows],
            norm=attack.norm,
            epsilons=np.array(levels),
            search=attack.search,
            seed=seed,
            sample_hashes=hashes,
            batch_size=size,
            device=device,
            evidence=evidence,
            known=None if old is None else _known(old.column, done, positions, len(hashes), evidence),
            clean_prediction=clean_prediction,
            precision=precision,
        ),
        batch_size,
        on_shrink,
    )
    cells = np.zeros((len(hashes), len(store.epsilons(attack.norm))), dtype=np.uint8)
    cells[:, positions] = result.cells
    forwards, backwards = result.forwards.copy(), result.backwards.copy()
    verification, verifying, flags = result.verification, result.verification_seconds, result.flags
    seconds = max(time.monotonic() - started - verifying, 0.0)
    if old is not None:
        kept = min(len(old.column.distance), len(hashes))
        forwards[:kept] += old.column.forwards[:kept]
        backwards[:kept] += old.column.backwards[:kept]
        seconds += old.record.seconds or 0.0
        verification += old.record.verification
        verifying += old.record.verification_seconds or 0.0
        flags = {
            key: max(flags.get(key, 0.0), old.record.flags.get(key, 0.0))
            for key in {**old.record.flags, **flags}
        }
    staged = result.stage_distance if isinstance(result, CascadeResult) else None
    column = Column(
        result.distance, result.searched, forwards, backwards, cells, result.evidence, stage_distance=staged
    )
    store.write_column(
        task.model,
        attack.norm,
        attack.attack,
        task.shard,
        column if old is None else _with_old_evidence(column, old.column),
        identity=identity,
        settings=attack.settings,
        reduced=[attack.reduced] if attack.reduced else [],
        seconds=seconds,
        verification=verification,
        verification_seconds=verifying,
        flags=flags,
        versions=versions(),
        stages=_stages(result, levels, old.record if old else None) if attack.stages else (),
    )
    return result


def run_clean(
    model: str,
    module: torch.nn.Module,
    identity: str,
    samples: Samples,
    store: CubeStore,
    *,
    device: torch.device,
    check: Callable[[npt.NDArray[np.int64]], None] | None = None,
) -> tuple[npt.NDArray[np.int64], int]:
    """Bring a model's clean predictions up to the plan; return them and the forward passes that it took.

    Nothing is stored if `check`, called with all predictions, raises.

    The passes have the shape of those that verify adversarials, so that a clean verdict and a verdict at
    epsilon 0 cannot differ.
    """
    evaluator = Evaluator(module.to(device), device)
    found = []
    new: list[tuple[int, npt.NDArray[np.float32], float]] = []
    for shard in range(store.shards(len(samples.y))):
        rows = store.rows(shard, len(samples.y))
        old = store.read_clean(model, shard, identity)
        if old is not None and len(old.record.sample_hashes) >= rows.stop - rows.start:
            found.append(old.prediction[: rows.stop - rows.start])
            continue
        started = time.monotonic()
        logits = evaluator.logits(torch.from_numpy(samples.x[rows]).to(device))
        found.append(predictions(logits).cpu().numpy())
        new.append((shard, logits.cpu().numpy(), time.monotonic() - started))
    if check:
        check(np.concatenate(found))
    for shard, values, seconds in new:
        store.write_clean(
            model, shard, found[shard], values, identity=identity, seconds=seconds, versions=versions()
        )
    return np.concatenate(found), evaluator.forwards


def identity_of(
    attack: AttackPlan, model_identity: str, seed: int, precision: Mapping[str, str | bool]
) -> str:
    """Return what decides the numbers of an attack's column on a model."""
    return column_identity(
        model_identity=model_identity,
        norm=attack.norm,
        attack=attack.attack,
        attack_version=attack.version,
        settings=dict(attack.settings),
        search=attack.search,
        seed=seed,
        precision=precision,
    )


def _with_old_evidence(column: Column, old: Column) -> Column:
    """Return a column with the earlier adversarials of the samples of which none smaller was found."""
    if column.evidence is None or old.evidence is None:
        return column
    evidence, rows = column.evidence.copy(), min(len(column.distance), len(old.distance))
    missing = np.flatnonzero((column.claimed() & ~column.kept())[:rows])
    evidence[missing] = old.evidence[missing]
    return replace(column, evidence=evidence)


def _attack(attack: AttackPlan, *arguments: Any, known: Known | None, **options: Any) -> SweepResult:
    """Run one attack, or the stages of a cascade one after the other."""
    if not attack.stages:
        spec, settings = catalogue.get(attack.attack), dict(attack.settings)
        return sweeping.run(*arguments, spec=spec, settings=settings, known=known, **options)
    stages = [(catalogue.get(stage.attack), dict(stage.settings)) for stage in attack.stages]
    assert known is None or isinstance(known, KnownCascade)
    return run_cascade(*arguments, stages=stages, known=known, **options)


def _stages(result: SweepResult, epsilons: list[float], old: Record | None) -> list[Stage]:
    """Return what each stage of a cascade has spent, in an earlier record and now."""
    assert isinstance(result, CascadeResult)
    stages = []
    for k, name in enumerate(result.stages):
        before = old.stages[k] if old else Stage(name, {}, 0, 0)
        seconds = zip(epsilons, result.stage_seconds[k].tolist(), strict=True)
        stages.append(
            Stage(
                name,
                {epsilon: before.seconds.get(epsilon, 0.0) + spent for epsilon, spent in seconds},
                before.forwards + int(result.stage_forwards[k].sum()),
                before.backwards + int(result.stage_backwards[k].sum()),
            )
        )
    return stages


def _known(
    column: Column, epsilons: list[float], positions: Sequence[int], rows: int, evidence: bool
) -> Known:
    """Return what is stored for the first `rows` samples; NaN where a sample is to be computed afresh.

    That is where it is new, and where its adversarial is wanted and was not kept.
    """
    kept = min(len(column.distance), rows)

    def padded(values: np.ndarray, fill: float) -> np.ndarray:
        result = np.full((rows, *values.shape[1:]), fill, dtype=values.dtype)
        result[:kept] = values[:kept]
        return result

    distance = column.distance
    if evidence:
        distance = np.where(column.claimed() & ~column.kept(), np.nan, distance)
    cells = column.cell[:, positions[: len(epsilons)]]
    known = Known(
        np.array(epsilons), padded(distance, np.nan), padded(column.searched, np.nan), padded(cells, 0)
    )
    if column.stage_distance is None:
        return known
    return KnownCascade(**vars(known), stage_distance=padded(column.stage_distance.T, np.nan).T)
