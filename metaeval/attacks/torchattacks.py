"""Attacks of the package `torchattacks`, so that a sample's result depends on no other sample.

The library averages its loss over the batch, draws random starts for a whole batch and stops Carlini and
Wagner's attack by the cost of a whole batch. Here every sample gets what the library gives when it is called
with that sample alone: FGSM and BIM run in the library itself (`metaeval.attacks.per_sample`); PGD, and
DeepFool and C&W in `metaeval.attacks.torchattacks_minimum`, follow the library's arithmetic on whole
batches and are tested against it sample by sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn

from metaeval.attacks import noise
from metaeval.attacks.counting import CountedModel
from metaeval.attacks.kernel import KernelResult, batches, l2_norm, per_sample
from metaeval.attacks.per_sample import Run, run_library
from metaeval.attacks.torchattacks_library import constructed

Settings = Mapping[str, Any]


def fgsm(
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
    """Take one signed gradient step of length epsilon (linf; Goodfellow et al. 2015); no settings."""

    def build(watched: nn.Module, radius: float) -> Run:
        attack: Run = constructed(lambda: torchattacks.FGSM(watched, eps=radius), x.device)
        return attack

    return run_library(build, model, x, y, epsilon, keys=keys, batch_size=batch_size, alone=False)


def bim(
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
    """Take signed gradient steps from the input (linf; Kurakin et al. 2017).

    Settings: ``iterations`` and ``relative_step_size``, the step as a fraction of epsilon.
    """

    def build(watched: nn.Module, radius: float) -> Run:
        step = settings["relative_step_size"] * radius
        steps = settings["iterations"]
        attack: Run = constructed(
            lambda: torchattacks.BIM(watched, eps=radius, alpha=step, steps=steps), x.device
        )
        return attack

    return run_library(build, model, x, y, epsilon, keys=keys, batch_size=batch_size, alone=False)


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

    Settings: ``iterations``, ``restarts`` and ``relative_step_size``, the step as a fraction of epsilon. The
    last iterate is the result; a further restart replaces it where it is not adversarial.
    """
    result = KernelResult.failed(x)
    counted = CountedModel(model, result)
    for part in batches(len(x), batch_size):
        rows = torch.arange(part.start, part.stop, device=x.device)
        for restart in range(settings["restarts"]):
            if restart:
                counted.attend(rows)
                with torch.no_grad():
                    rows = rows[counted(result.candidates[rows]).argmax(dim=1) == y[rows]]
                if len(rows) == 0:
                    break
            counted.attend(rows)
            stream = noise.derive(keys[rows], restart)
            result.candidates[rows] = _pgd(counted, x[rows], y[rows], epsilon[rows], norm, stream, settings)
    counted.settle()
    return result


def _pgd(
    model: nn.Module, x: Tensor, y: Tensor, epsilon: Tensor, norm: str, keys: Tensor, settings: Settings
) -> Tensor:
    radius = per_sample(epsilon, x)
    step = per_sample(settings["relative_step_size"] * epsilon, x)
    if norm == "linf":
        delta = radius * (2 * noise.uniform(keys, 0, x.shape[1:]) - 1)
    else:
        direction = noise.normal(keys, 0, x.shape[1:])
        delta = direction * (per_sample(noise.uniform(keys, 1), x) / l2_norm(direction) * radius)
    adversarial = (x + delta).clamp(0, 1)
    for _ in range(settings["iterations"]):
        adversarial.requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(model(adversarial), y, reduction="sum")
        gradient = torch.autograd.grad(loss, adversarial)[0]
        adversarial = adversarial.detach()
        if norm == "linf":
            delta = (adversarial + step * gradient.sign() - x).clamp(-radius, radius)
        else:
            delta = adversarial + step * (gradient / (l2_norm(gradient) + 1e-10)) - x
            delta = delta * (radius / l2_norm(delta)).clamp_max(1.0)
        adversarial = (x + delta).clamp(0, 1)
    return adversarial
