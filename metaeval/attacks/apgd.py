"""Auto-PGD (Croce and Hein 2020) for linf and l2, with an epsilon and a random stream per sample.

All samples of a call advance together, one iteration at a time, through the model in parts of `batch_size`.
A sample that is broken leaves at once with all its state, so that the survivors fill the parts. Without
that (`compact=False`) every iterate equals the one of pyautoattack 0.2.0 bit for bit, given the same noise.

`run_ce`, `run_dlr` and `run_targeted` are kernels (see `metaeval.attacks.kernel`). Their settings:

``iterations``
    Gradient steps of a run, at least 1 (published: 100). A run that fails costs iterations + 1 gradients.
``restarts``
    Runs from random starts, at least 1 (published standard: 1); each only for the samples not yet broken.
``targets``
    `run_targeted` only: the most likely wrong classes to aim at, at least 1, capped at classes - 1
    (published: 9). One run per target and restart, and one forward to rank the classes.
``eot``
    Passes whose gradients are averaged in each step, at least 1 (expectation over transformation, Athalye
    et al. 2018): more than one for models that answer at random (published: 20).

`run_ce` repeats its runs with the DLR loss (the margin, for two classes) where the cross-entropy's gradient
vanished and nothing was found: saturated logits are no robustness. The result marks such samples.

They also take ``start``: points (n, \\*shape) from which the first restart begins instead of a random point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from metaeval.attacks import noise
from metaeval.attacks.apgd_run import Attack, check_classes, run_once
from metaeval.attacks.kernel import (
    KernelResult,
    Model,
    WarmKernel,
    batches,
    check_inputs,
    forward,
    l2_norm,
    per_sample,
)
from metaeval.attacks.losses import LOSSES

# Samples that advance together, in batches: enough to keep batches full while samples leave, and few
# enough that their state (about ten tensors like x) stays small next to the model's activations.
POOL = 8


def _kernel(loss: str, text: str) -> WarmKernel:
    def run(
        model: Model,
        x: Tensor,
        y: Tensor,
        epsilon: Tensor,
        *,
        norm: str,
        keys: Tensor,
        settings: Mapping[str, Any],
        batch_size: int | None = None,
        start: Tensor | None = None,
        compact: bool = True,
        confirm: Model | None = None,
    ) -> KernelResult:
        return apgd(
            model,
            x,
            y,
            epsilon,
            norm=norm,
            keys=keys,
            loss=loss,
            batch_size=batch_size,
            start=start,
            compact=compact,
            confirm=confirm,
            **settings,
        )

    run.__doc__ = text
    return run


run_ce = _kernel("ce", "Run APGD on the cross-entropy; settings ``iterations``, ``restarts``.")
run_dlr = _kernel(
    "dlr", "Run APGD on the DLR loss (three classes or more); settings ``iterations``, ``restarts``."
)
run_targeted = _kernel(
    "targeted-dlr",
    "Run APGD on the targeted DLR loss (four classes or more); settings also ``targets``.",
)


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: Tensor,
    *,
    norm: str,
    keys: Tensor,
    loss: str = "ce",
    iterations: int = 100,
    restarts: int = 1,
    targets: int = 9,
    eot: int = 1,
    batch_size: int | None = None,
    start: Tensor | None = None,
    compact: bool = True,
    confirm: Model | None = None,
) -> KernelResult:
    """Look for an adversarial of each sample within its own epsilon.

    Parameters
    ----------
    model : callable
        Maps inputs (n, \\*shape) in [0, 1] to logits (n, classes).
    x, y : Tensor
        Inputs in [0, 1], float (n, \\*shape), and labels, int64 (n,). Samples that are already misclassified
        are attacked like any other.
    epsilon : Tensor
        float64 (n,): radius of each sample.
    norm : {"linf", "l2"}
    keys : Tensor
        int64 (n,), from `noise.sample_keys`; run r (targets in turn, each with all restarts) uses stream r.
    loss : {"ce", "dlr", "targeted-dlr"}
    iterations, restarts, targets, eot : int
        See the module's text; `targets` only matters to the targeted loss.
    batch_size : int, optional
        Most samples in one pass through the model; all of them by default.
    start : Tensor, optional
        (n, \\*shape): first iterate of the first restart, clipped to [0, 1] but not to the ball.
    compact : bool
        False keeps broken samples to the end of the run and returns the last adversarial, as published.
    confirm : callable, optional
        The model in full precision, if `model` computes in less: a sample is broken only if both say so.

    Returns
    -------
    KernelResult

    Raises
    ------
    ValueError
        If the norm or loss is unknown, a count is below 1, shapes do not fit, or classes are too few.
    """
    batch_size = check_inputs(x, y, epsilon, keys, batch_size)
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm is {norm!r}; APGD takes 'linf' or 'l2'")
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; APGD takes {', '.join(LOSSES)}")
    for name, value in (
        ("iterations", iterations),
        ("restarts", restarts),
        ("targets", targets),
        ("eot", eot),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    y, epsilon, keys = (values.to(x.device) for values in (y, epsilon, keys))
    result = KernelResult.failed(x)
    attack = Attack(model, norm, loss, iterations, eot, batch_size, compact, confirm, result)
    with torch.no_grad():
        for rows in batches(len(x), POOL * batch_size):
            pool = torch.arange(rows.start, rows.stop, device=x.device)
            _run_pool(attack, pool, x, y, epsilon, keys, start, restarts, targets)
    result.zero_gradient.logical_and_(~result.success)
    return result


def _run_pool(
    attack: Attack,
    pool: Tensor,
    x: Tensor,
    y: Tensor,
    epsilon: Tensor,
    keys: Tensor,
    start: Tensor | None,
    restarts: int,
    targets: int,
) -> None:
    """Run all targets and restarts of the samples `pool` (row numbers), each on those not broken yet."""
    result, ranking = attack.result, None
    if attack.loss == "targeted-dlr":
        logits = forward(attack.model, x[pool], attack.batch_size)
        check_classes(attack.loss, logits)
        ranking = logits.sort(dim=1)[1]
        targets = min(targets, ranking.shape[1] - 1)
        result.forwards[pool] += 1

    def restart(attack: Attack, rows: Tensor, run: int) -> None:
        ids = pool[rows]
        cold = start is None or run % restarts > 0
        begin = (
            _random_start(attack, x[ids], epsilon[ids], noise.derive(keys[ids], run))
            if cold or start is None
            else start[ids].to(x)
        )
        target = None if ranking is None else ranking[rows, -2 - run // restarts]
        run_once(attack, ids, x[ids], y[ids], target, epsilon[ids], begin)

    for run in range(restarts * (targets if ranking is not None else 1)):
        rows = (~result.success[pool]).nonzero().squeeze(1)
        if len(rows) == 0:
            return
        restart(attack, rows, run)
    # The cross-entropy of large logits is 0 in float32, and so is its gradient: that is no robustness.
    blind = pool[result.zero_gradient[pool] & ~result.success[pool]]
    if attack.loss != "ce" or len(blind) == 0:
        return
    result.switched[blind], result.zero_gradient[blind] = True, False
    switched = replace(attack, loss="dlr-or-margin")
    for run in range(restarts):
        rows = (result.switched[pool] & ~result.success[pool]).nonzero().squeeze(1)
        if len(rows):
            restart(switched, rows, run)


def _random_start(attack: Attack, x: Tensor, epsilon: Tensor, keys: Tensor) -> Tensor:
    parts = []
    for rows in batches(len(x), attack.batch_size):
        part, radius, key = x[rows], epsilon[rows], keys[rows]
        if attack.norm == "linf":
            t = 2 * noise.uniform(key, 0, part.shape[1:]).to(part) - 1
            scale = t.abs().reshape(len(t), -1).amax(1)
            t = t / (per_sample(scale, t) + 1e-12)
        else:
            t = noise.normal(key, 0, part.shape[1:]).to(part)
            t = t / (l2_norm(t) + 1e-12)
        parts.append(part + per_sample(radius, part) * t)
    return torch.cat(parts)
