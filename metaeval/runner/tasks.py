"""One task: what its record already holds, what is still to be attacked, and both put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from metaeval.attacks import catalogue, sweeping
from metaeval.attacks.column import Known
from metaeval.attacks.verify import Evaluator, predictions
from metaeval.cube.journal import covers
from metaeval.cube.store import Column, CubeStore
from metaeval.runner.devices import with_shrinking_batch
from metaeval.runner.records import versions
from metaeval.sources.data import Samples
from metaeval.study.plan import Task


def run_task(
    task: Task,
    module: torch.nn.Module,
    identity: str,
    samples: Samples,
    store: CubeStore,
    *,
    seed: int,
    batch_size: int,
    device: torch.device,
    clean_prediction: npt.NDArray[np.int64],
    on_shrink: Callable[[int], None],
) -> sweeping.SweepResult | None:
    """Bring one task's column up to the plan and commit it; return None if it was complete already.

    Samples that the record covers are attacked again only at new epsilons inside their bracket.
    """
    attack = task.attack
    wanted = [epsilon.value for epsilon in attack.epsilons]
    rows = slice(task.start, task.stop)
    hashes = list(samples.hashes[rows])
    old = store.read_column(task.model, attack.norm, attack.attack, task.shard, identity)
    done: list[float] = []
    if old is not None:
        if covers(old.record, identity, hashes, wanted):
            return None
        done = list(old.record.epsilons)
    levels = done + [epsilon for epsilon in wanted if epsilon not in done]
    positions = store.levels(attack.norm, levels).tolist()

    started = time.monotonic()
    result = with_shrinking_batch(
        lambda size: sweeping.run(
            module,
            samples.x[rows],
            samples.y[rows],
            spec=catalogue.get(attack.attack),
            settings=dict(attack.settings),
            norm=attack.norm,
            epsilons=np.array(levels),
            search=attack.search,
            seed=seed,
            sample_hashes=hashes,
            batch_size=size,
            device=device,
            known=None if old is None else _known(old.column, done, positions, len(hashes)),
            clean_prediction=clean_prediction,
        ),
        batch_size,
        on_shrink,
    )
    cells = np.zeros((len(hashes), len(store.epsilons(attack.norm))), dtype=np.uint8)
    cells[:, positions] = result.cells
    forwards, backwards = result.forwards.copy(), result.backwards.copy()
    seconds, verification, flags = time.monotonic() - started, result.verification, result.flags
    if old is not None:
        kept = min(len(old.column.distance), len(hashes))
        forwards[:kept] += old.column.forwards[:kept]
        backwards[:kept] += old.column.backwards[:kept]
        seconds += old.record.seconds or 0.0
        verification += old.record.verification
        flags = {
            key: max(flags.get(key, 0.0), old.record.flags.get(key, 0.0))
            for key in {**old.record.flags, **flags}
        }
    store.write_column(
        task.model,
        attack.norm,
        attack.attack,
        task.shard,
        Column(result.distance, result.searched, forwards, backwards, cells),
        identity=identity,
        settings=attack.settings,
        reduced=[attack.reduced] if attack.reduced else [],
        seconds=seconds,
        verification=verification,
        flags=flags,
        versions=versions(),
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


def _known(column: Column, epsilons: list[float], positions: Sequence[int], rows: int) -> Known:
    """Return what is stored for the first `rows` samples; NaN where a sample is new."""
    kept = min(len(column.distance), rows)

    def padded(values: np.ndarray, fill: float) -> np.ndarray:
        result = np.full((rows, *values.shape[1:]), fill, dtype=values.dtype)
        result[:kept] = values[:kept]
        return result

    cells = column.cell[:, positions[: len(epsilons)]]
    return Known(
        np.array(epsilons), padded(column.distance, np.nan), padded(column.searched, np.nan), padded(cells, 0)
    )
