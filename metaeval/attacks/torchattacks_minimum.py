"""DeepFool and Carlini and Wagner's attack with the arithmetic of `torchattacks`, a whole batch at a time.

The library runs DeepFool one sample after the other and stops C&W by the cost of a whole batch; here every
sample gets what the library gives when it is called with that sample alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metaeval.attacks.counting import CountedModel
from metaeval.attacks.kernel import KernelResult, batches, l2_norm, per_sample
from metaeval.attacks.losses import ON_BOUNDARY, margin

Settings = Mapping[str, Any]


def deepfool(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Settings,
    batch_size: int,
) -> KernelResult:
    """Step to the nearest linearised boundary until misclassified (l2; Moosavi-Dezfooli et al. 2016).

    Settings: ``iterations``, the largest number of steps, and ``overshoot``. The library's steps shrink
    near the boundary and often end on it to the last bit, where the label depends on the batch: such a
    point is moved away from the input by the overshoot once more, as the paper does.
    """
    result = KernelResult.failed(x)
    counted = CountedModel(model, result)
    blurred: list[Tensor] = []
    for part in batches(len(x), batch_size):
        rows = torch.arange(part.start, part.stop, device=x.device)
        for _ in range(settings["iterations"]):
            counted.attend(rows)
            points = result.candidates[rows].requires_grad_()
            with torch.enable_grad():
                logits = counted(points)
            fooled = logits.detach().argmax(dim=1) != y[rows]
            clearly = margin(logits.detach(), y[rows]) < -ON_BOUNDARY * logits.detach().abs().amax(dim=1)
            result.success[rows] = clearly
            blurred.append(rows[fooled & ~clearly])
            if bool(fooled.all()):
                rows = rows[:0]
                break
            # The gradient of every logit, (n, classes, *shape); rows of a sum do not mix.
            jacobian = torch.stack(
                [
                    torch.autograd.grad(logit.sum(), points, retain_graph=True)[0]
                    for logit in logits.unbind(1)
                ],
                1,
            )
            going = ~fooled
            result.candidates[rows[going]] = _deepfool_step(
                points.detach()[going],
                y[rows][going],
                logits.detach()[going],
                jacobian[going],
                settings["overshoot"],
            )
            rows = rows[going]
        blurred.append(rows)
    counted.settle()
    rows = torch.cat(blurred) if blurred else torch.empty(0, dtype=torch.int64, device=x.device)
    away = (1 + settings["overshoot"]) * (result.candidates[rows] - x[rows])
    result.candidates[rows] = (x[rows] + away).clamp(0, 1)
    result.zero_gradient.logical_and_(~result.success)
    return result


def _deepfool_step(x: Tensor, y: Tensor, logits: Tensor, jacobian: Tensor, overshoot: float) -> Tensor:
    every = torch.arange(len(x), device=x.device)
    differences = (logits - logits[every, y, None]).abs()
    normals = jacobian - jacobian[every, y][:, None]
    ratio = differences / normals.flatten(2).norm(p=2, dim=2)
    ratio[every, y] = torch.inf
    nearest = ratio.argmin(dim=1)
    normal = normals[every, nearest]
    delta = per_sample(differences[every, nearest], x) * normal / l2_norm(normal) ** 2
    return (x + (1 + overshoot) * delta).clamp(0, 1)


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
    """Minimise the squared distance plus `weight` times the margin (l2; Carlini and Wagner 2017).

    Settings: ``iterations`` of Adam, ``weight`` (c; the library has no binary search over it),
    ``confidence`` (kappa), ``learning_rate``. A sample stops once its cost has grown from
    one of ten checks to the next.
    """
    result = KernelResult.failed(x)
    counted = CountedModel(model, result)
    for part in batches(len(x), batch_size):
        counted.attend(torch.arange(part.start, part.stop, device=x.device))
        found, success = _cw(counted, x[part], y[part], settings)
        result.candidates[part], result.success[part] = found, success
    counted.settle()
    result.zero_gradient.logical_and_(~result.success)
    return result


def _cw(model: nn.Module, x: Tensor, y: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    iterations, confidence = settings["iterations"], settings["confidence"]
    scaled = (x * 2 - 1).clamp(-1, 1)
    variable = (0.5 * torch.log((1 + scaled) / (1 - scaled))).requires_grad_()
    optimizer = torch.optim.Adam([variable], lr=settings["learning_rate"])
    best, best_size = x.clone(), torch.full((len(x),), 1e10, device=x.device)
    previous = torch.full_like(best_size, 1e10)
    running = torch.ones(len(x), dtype=torch.bool, device=x.device)
    every = torch.arange(len(x), device=x.device)
    for step in range(iterations):
        with torch.enable_grad():
            points = 1 / 2 * (torch.tanh(variable) + 1)
            size = (points - x).square().flatten(1).sum(dim=1)
            logits = model(points)
            correct = logits[every, y]
            # As in the library, whose one-hot products put zeros beside either side of the margin.
            others = logits.scatter(1, y[:, None], 0.0).amax(dim=1)
            excess = correct.clamp_min(0.0) - others
            cost = size + settings["weight"] * excess.clamp_min(-confidence)
        optimizer.zero_grad()
        cost.sum().backward()
        optimizer.step()
        size, cost = size.detach(), cost.detach()
        better = running & (logits.detach().argmax(dim=1) != y) & (size < best_size)
        best_size = torch.where(better, size, best_size)
        best = torch.where(per_sample(better, x).bool(), points.detach(), best)
        if step % max(iterations // 10, 1) == 0:
            running &= cost <= previous
            previous = cost
            if not bool(running.any()):
                break
    return best, best_size < 1e10
