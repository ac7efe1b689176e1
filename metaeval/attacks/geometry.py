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
    scale = (radius / size.clamp_min(torch.finfo(torch.float64).tiny)).clamp_max(1.0)
    projected = (x.double() + delta * scale).to(x.dtype)
    # Rounding to float32 moves the norm by about 3e-8: by much, relative to a very small radius.
    for _ in range(3):
        excess = norms(x, projected, norm).view(shape) / radius.clamp_min(torch.finfo(torch.float64).tiny)
        scale = torch.where(excess > 1.0, scale / excess * (1 - 1e-7), scale)
        projected = (x.double() + delta * scale).to(x.dtype)
    return torch.where(size <= radius, adversarial, projected)
