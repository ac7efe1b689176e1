"""AutoAttack's attacks as its package `pyautoattack` implements them: FAB, and APGD and Square for l1.

The library's `perturb` methods are left out where they throw adversarials away or drop samples; the runs
inside them are called on whole batches, each sample with its own random numbers.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from metaeval.attacks import noise
from metaeval.attacks.counting import CountedModel
from metaeval.attacks.geometry import norms
from metaeval.attacks.kernel import KernelResult, batches
from metaeval.attacks.per_sample import Draws, Run, groups, run_library

FIRST_RADIUS = 0.3  # of FAB's further starts while no adversarial is known: the library's default
_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Mapping[str, Any],
    batch_size: int,
) -> KernelResult:
    """Look for the smallest adversarials with untargeted FAB (Croce and Hein 2020).

    Settings: ``iterations`` and ``restarts``. The first run begins at the input and draws nothing at random;
    each further one at a random point half as far as the smallest adversarial known (the library: half an
    epsilon, of which a search for the smallest has none), and the smallest of all is kept.
    """
    result = KernelResult.failed(x)
    counted, draws = CountedModel(model, result), Draws(keys)
    attack = FABAttack_PT(
        draws.watched(counted), norm=_NORMS[norm], n_iter=settings["iterations"], device=x.device
    )
    for part in batches(len(x), batch_size):
        rows = torch.arange(part.start, part.stop, device=x.device)
        smallest = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=x.device)
        for restart in range(settings["restarts"]):
            counted.attend(rows)
            if restart:
                with torch.no_grad():  # the library leaves out what it sees as misclassified
                    right = counted(x[rows]).argmax(dim=1) == y[rows]
                counted.attend(rows[right])
                draws.attend(noise.derive(keys[rows[right]], restart))
                if not right.any():
                    break
                attack.eps = torch.where(smallest < torch.inf, smallest, FIRST_RADIUS)[right].to(x)
            else:
                right = torch.ones_like(rows, dtype=torch.bool)
            chosen = rows[right]
            with draws if restart else contextlib.nullcontext():
                found = attack.attack_single_run(x[chosen], y[chosen], use_rand_start=restart > 0)
            smallest[right] = _keep_closer(result, chosen, x, found, norm, smallest[right])
        result.success[rows] = smallest < torch.inf
    counted.settle()
    return result


def fab_targeted(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Mapping[str, Any],
    batch_size: int,
) -> KernelResult:
    """Look for the smallest adversarials with targeted FAB (Croce and Hein 2020).

    Settings: ``iterations`` and ``targets``, the most likely wrong classes, capped at classes - 1. One run
    from the input itself for each; the smallest adversarial of all is kept.
    """
    result = KernelResult.failed(x)
    counted = CountedModel(model, result)
    attack = FABAttack_PT(
        counted, norm=_NORMS[norm], n_iter=settings["iterations"], device=x.device, targeted=True
    )
    for part in batches(len(x), batch_size):
        rows = torch.arange(part.start, part.stop, device=x.device)
        counted.attend(rows)
        with torch.no_grad():
            classes = counted(x[rows]).shape[1]
        smallest = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=x.device)
        for target in range(2, 2 + min(settings["targets"], classes - 1)):
            attack.target_class = target  # from the end of the logits in ascending order
            found = attack.attack_single_run(x[rows], y[rows], use_rand_start=False, is_targeted=True)
            smallest = _keep_closer(result, rows, x, found, norm, smallest)
        result.success[rows] = smallest < torch.inf
    counted.settle()
    return result


def _keep_closer(
    result: KernelResult, rows: Tensor, x: Tensor, found: Tensor, norm: str, smallest: Tensor
) -> Tensor:
    """Take the adversarials that are nearer than the smallest so far; return the smallest distances now."""
    distance = norms(x[rows], found, norm)
    closer = (distance > 0) & (distance < smallest)
    result.candidates[rows[closer]] = found[closer]
    return torch.where(closer, distance, smallest)


def _apgd_l1(
    loss: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Mapping[str, Any],
    batch_size: int,
) -> KernelResult:
    """Run APGD for l1 (Croce and Hein 2021) as AutoAttack does: radii of 3, 2 and 1 epsilon in turn.

    Settings: ``iterations`` (3 or more, shared out 3 : 3 : 4 among the radii), ``restarts`` and, for the
    targeted loss, ``targets``. Run r (targets in turn, each with all restarts) uses stream r.
    """
    if norm != "l1":
        raise ValueError(f"norm is {norm!r}; this is APGD for 'l1'")
    result = KernelResult.failed(x)
    counted = CountedModel(model, result)
    draws = Draws(keys[:0])
    watched = draws.watched(counted)
    part = math.ceil(0.3 * settings["iterations"])
    iterations = [part, part, settings["iterations"] - 2 * part]
    for radius, rows in groups(epsilon, batch_size):
        ranking = None
        if loss == "targeted":
            counted.attend(rows)
            with torch.no_grad():
                ranking = counted(x[rows]).sort(dim=1)[1]
        targets = 1 if ranking is None else min(settings["targets"], ranking.shape[1] - 1)
        for run in range(targets * settings["restarts"]):
            left = (~result.success[rows]).nonzero().squeeze(1)
            if len(left) == 0:
                break
            ids = rows[left]
            given = {"n_iter": settings["iterations"], "norm": "L1", "eps": radius, "device": x.device}
            if ranking is None:
                attack = APGDAttack(watched, loss=loss, **given)
            else:
                attack = APGDAttack_targeted(watched, **given)
                attack.y_target = ranking[left, -2 - run // settings["restarts"]]
            attack.init_hyperparam(x[ids])
            counted.attend(ids)
            draws.attend(noise.derive(keys[ids], run))
            with warnings.catch_warnings(), draws:
                warnings.simplefilter("ignore")  # of zero gradients; they are counted
                _, correct, _, adversarial = attack.decr_eps_pgd(
                    x[ids], y[ids], [3.0 * radius, 2.0 * radius, radius], iterations
                )
            broken = correct == 0
            result.success[ids[broken]] = True
            result.candidates[ids[broken]] = adversarial[broken].detach()
    counted.settle()
    result.zero_gradient.logical_and_(~result.success)
    return result


apgd_ce_l1 = partial(_apgd_l1, "ce")
apgd_dlr_l1 = partial(_apgd_l1, "dlr")
apgd_targeted_l1 = partial(_apgd_l1, "targeted")


def square_l1(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Mapping[str, Any],
    batch_size: int,
) -> KernelResult:
    """Run Square for l1 (Croce and Hein 2021), one sample at a time: a batch would share its windows.

    Settings: ``queries``, and ``restarts``, each only for a sample not yet broken.
    """
    if norm != "l1":
        raise ValueError(f"norm is {norm!r}; this is Square for 'l1'")

    def build(watched: nn.Module, radius: float) -> Run:
        attack = SquareAttack(
            watched,
            norm="L1",
            n_queries=settings["queries"],
            n_restarts=settings["restarts"],
            eps=radius,
            device=x.device,
        )
        run: Callable[[Tensor, Tensor], Tensor] = attack.perturb
        return run

    with torch.no_grad():
        return run_library(build, model, x, y, epsilon, keys=keys, batch_size=batch_size, alone=True)
