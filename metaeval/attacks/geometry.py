"""Perturbations: their float64 norms and their projection into a ball."""

from __future__ import annotations

import torch
from torch import Tensor


def norms(x: Tensor, adversarial: Tensor, norm: str) -> Tensor:
    """Return the norm of each perturbation, computed in float64.

    Parameters
    ----------
    x, adversarial : Tensor
        Inputs and perturbed inputs, float32 (n, \\*shape).
    norm : {"linf", "l2", "l1"}
        Which norm.

    Returns
    -------
    Tensor
        float64 (n,).
    """
    delta = adversarial.flatten(1).double() - x.flatten(1).double()
    if norm == "linf":
        return delta.abs().amax(dim=1)
    size: Tensor = torch.linalg.vector_norm(delta, ord=2 if norm == "l2" else 1, dim=1)
    return size


def project(x: Tensor, adversarial: Tensor, epsilon: Tensor, norm: str) -> Tensor:
    """Return the points where perturbations that are too large meet the ball; inside ones as they are.

    linf clips, l2 and l1 scale the perturbation: the result lies between `x` and `adversarial`, so it
    stays inside any box that holds both.

    Parameters
    ----------
    epsilon : Tensor
        float64 (n,), one radius per sample.
    """
    shape = (-1, *([1] * (x.ndim - 1)))
    radius = epsilon.to(x.device, torch.float64).view(shape)
    delta = adversarial.double() - x.double()
    if norm == "linf":
        return (x.double() + delta.clamp(-radius, radius)).to(x.dtype)
    size = norms(x, adversarial, norm).view(shape)
    delta *= (radius / size.clamp_min(torch.finfo(torch.float64).tiny)).clamp_max(1.0)
    projected = (x.double() + delta).to(x.dtype)
    # Rounding to float32 may lead out of a small ball again; rounding towards x cannot.
    outward = (projected.double() - x.double()).abs() > delta.abs()
    inward = torch.where(outward, torch.nextafter(projected, x), projected)
    over = norms(x, projected, norm).view(shape) > radius
    projected = torch.where(over, inward, projected)
    return torch.where(size <= radius, adversarial, projected)
