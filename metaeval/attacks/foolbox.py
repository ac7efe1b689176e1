"""Attacks of the optional package Foolbox, so that a sample's result depends on no other sample.

DDN, FMN and PGD treat a batch row by row; their random numbers come from each sample's own stream. EAD and
C&W stop by the cost of a whole batch and are run one sample at a time. A minimum-norm attack may end on the
boundary to the last bit, where the label depends on the batch; such a point is moved a little further away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from foolbox import Misclassification, PyTorchModel
from foolbox import attacks as library
from torch import Tensor, nn

from metaeval.attacks.kernel import KernelResult, per_sample
from metaeval.attacks.losses import ON_BOUNDARY, margin
from metaeval.attacks.per_sample import Run, run_library

Settings = Mapping[str, Any]

OVERSHOOT = 1e-3  # how much further away such a point is moved, relative

_FMN = {"linf": library.LInfFMNAttack, "l1": library.L1FMNAttack}
_PGD = {
    "linf": library.LinfProjectedGradientDescentAttack,
    "l2": library.L2ProjectedGradientDescentAttack,
}


def ddn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Settings,
    batch_size: int,
) -> KernelResult:
    """Look for the smallest adversarials by decoupling direction and norm (l2; Rony et al. 2019).

    Settings: ``iterations``, ``initial_epsilon``, ``gamma``.
    """
    attack = library.DDNAttack(
        steps=settings["iterations"],
        init_epsilon=settings["initial_epsilon"],
        gamma=settings["gamma"],
    )
    return _minimum_norm(attack, model, x, y, keys, batch_size)


def fmn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Settings,
    batch_size: int,
) -> KernelResult:
    """Look for the smallest adversarials by adapting a norm constraint (Pintor et al. 2021).

    Settings: ``iterations``, ``step_size``, ``gamma``.
    """
    attack = _FMN[norm](
        steps=settings["iterations"], max_stepsize=settings["step_size"], gamma=settings["gamma"]
    )
    return _minimum_norm(attack, model, x, y, keys, batch_size)


def ead(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Settings,
    batch_size: int,
) -> KernelResult:
    """Minimise l1 plus squared l2 by a binary search over the weight of misclassification (Chen et al. 2018).

    Settings: ``binary_search_steps``, ``iterations``, ``step_size``, ``initial_weight``, ``confidence``,
    ``regularization``. The point of the smallest l1 norm is kept.
    """
    attack = library.EADAttack(
        binary_search_steps=settings["binary_search_steps"],
        steps=settings["iterations"],
        initial_stepsize=settings["step_size"],
        initial_const=settings["initial_weight"],
        confidence=settings["confidence"],
        regularization=settings["regularization"],
        decision_rule="L1",
    )
    return _minimum_norm(attack, model, x, y, keys, 1)


def cw(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Settings,
    batch_size: int,
) -> KernelResult:
    """Minimise l2 by a binary search over the weight of misclassification (Carlini and Wagner 2017).

    Settings: ``binary_search_steps``, ``iterations``, ``step_size``, ``initial_weight``, ``confidence``.
    """
    attack = library.L2CarliniWagnerAttack(
        binary_search_steps=settings["binary_search_steps"],
        steps=settings["iterations"],
        stepsize=settings["step_size"],
        initial_const=settings["initial_weight"],
        confidence=settings["confidence"],
    )
    return _minimum_norm(attack, model, x, y, keys, 1)


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Settings,
    batch_size: int,
) -> KernelResult:
    """Ascend the cross-entropy from a random start by projected gradient steps (Madry et al. 2018).

    Settings: ``iterations`` and ``relative_step_size``, the step as a fraction of epsilon.
    """
    attack = _PGD[norm](steps=settings["iterations"], rel_stepsize=settings["relative_step_size"])

    def build(watched: nn.Module, radius: float) -> Run:
        return _runner(attack, watched, x.device, epsilon=radius)

    return run_library(build, model, x, y, epsilon, keys=keys, batch_size=batch_size, alone=False)


def _minimum_norm(
    attack: Any, model: nn.Module, x: Tensor, y: Tensor, keys: Tensor, batch_size: int
) -> KernelResult:
    def build(watched: nn.Module, _radius: float) -> Run:
        run = _runner(attack, watched, x.device)
        return lambda x, y: _off_boundary(watched, x, y, run(x, y))

    result = run_library(build, model, x, y, None, keys=keys, batch_size=batch_size, alone=batch_size == 1)
    result.success.copy_((result.candidates != x).flatten(1).any(dim=1))
    return result


def _off_boundary(model: nn.Module, x: Tensor, y: Tensor, found: Tensor) -> Tensor:
    # EAD and C&W return a black image where they found nothing.
    nothing = per_sample((found == 0).flatten(1).all(dim=1), x, torch.bool)
    found = torch.where(nothing, x, found)
    with torch.no_grad():
        logits = model(found)
    blurred = margin(logits, y).abs() <= ON_BOUNDARY * logits.abs().amax(dim=1)
    away = (x + (1 + OVERSHOOT) * (found - x)).clamp(0, 1)
    return torch.where(per_sample(blurred, x, torch.bool), away, found)


def _runner(attack: Any, model: nn.Module, device: torch.device, **given: Any) -> Run:
    wrapped = PyTorchModel(model, bounds=(0, 1), device=device)
    run: Callable[..., Tensor] = attack.run
    return lambda x, y: run(wrapped, x, Misclassification(y), **given)
