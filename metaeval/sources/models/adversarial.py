"""Adversarial training: the inner maximisation in three norms, and the losses that are minimised."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from metaeval.sources.models.settings import TrainingSettings

STEP_SIZE = 2.5  # times epsilon / steps (Madry et al. 2018)
SPARSITY = 0.01  # share of the inputs that one l1 step moves (Tramer and Boneh 2019)
NOISE = 1e-3  # standard deviation of the start of TRADES: at the sample itself the divergence has no gradient


def training_loss(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, settings: TrainingSettings, starts: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of a batch and the logits that were trained on; the model is left in training mode.

    Standard training: cross-entropy. PGD: cross-entropy of adversarial inputs. TRADES: cross-entropy of
    clean inputs plus `trades_beta` times the divergence of adversarial from clean outputs, with clean logits.
    """
    if settings.adversarial_method is None:
        model.train()
        logits = model(x)
        return cross_entropy(logits, y), logits
    found = perturb(model, x, y, settings, starts)
    model.train()
    logits = model(found if settings.adversarial_method == "pgd" else x)
    loss = cross_entropy(logits, y)
    if settings.adversarial_method == "trades":
        assert settings.trades_beta is not None
        loss = loss + settings.trades_beta * divergence(model(found), logits)
    return loss, logits


def divergence(adversarial: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence (nats) of adversarial from clean logits, per sample."""
    return kl_div(log_softmax(adversarial, 1), log_softmax(clean, 1), reduction="batchmean", log_target=True)


def perturb(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, settings: TrainingSettings, starts: torch.Generator
) -> torch.Tensor:
    """Return adversarial inputs in [0, 1] by projected gradient ascent from a random start.

    PGD climbs the cross-entropy from a random point of the ball (Madry et al. 2018), TRADES the divergence
    from the clean output from close to the sample (Zhang et al. 2019).
    The model is in evaluation mode meanwhile, so that dropout and batch statistics do not blur the gradient.
    """
    epsilon, steps, norm = settings.adversarial_epsilon, settings.adversarial_steps, settings.adversarial_norm
    assert steps is not None
    assert norm is not None
    model.eval()
    clean = None
    if settings.adversarial_method == "trades":
        with torch.no_grad():
            clean = model(x)
        delta = project(NOISE * torch.randn(x.shape, generator=starts).to(x.device), norm, epsilon)
    else:
        delta = _random_start(x, norm, epsilon, starts)
    for _ in range(steps):
        point = (x + delta).clamp(0, 1).requires_grad_()
        logits = model(point)
        objective = cross_entropy(logits, y) if clean is None else divergence(logits, clean)
        (gradient,) = torch.autograd.grad(objective, point)
        point = point.detach()
        moved = point + STEP_SIZE * epsilon / steps * _direction(gradient, point, norm)
        delta = project(moved - x, norm, epsilon)
    return (x + delta).clamp(0, 1)  # x is in the box: this only shortens delta


def project(delta: torch.Tensor, norm: str, epsilon: float) -> torch.Tensor:
    """Return the nearest points (in l2) to perturbations (n, ...) in the ball of radius epsilon around 0."""
    if norm == "linf":
        return delta.clamp(-epsilon, epsilon)
    if norm == "l2":
        return delta * (epsilon / _norm(delta)).clamp(max=1)
    return _project_l1(delta, epsilon)


def _project_l1(delta: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return the projection on the l1 ball: magnitudes less a threshold (Duchi et al. 2008)."""
    size = delta.flatten(1).abs()
    sorted_size = size.sort(dim=1, descending=True).values
    excess = sorted_size.cumsum(1) - epsilon
    count = torch.arange(1, size.shape[1] + 1, device=delta.device)
    # The largest magnitudes that stay above the threshold which they imply; it is 0 inside the ball.
    kept = (sorted_size * count > excess).sum(dim=1, keepdim=True).clamp_min(1)
    threshold = (excess.gather(1, kept - 1) / kept).clamp_min(0)
    return ((size - threshold).clamp_min(0) * delta.flatten(1).sign()).view_as(delta)


def _random_start(x: torch.Tensor, norm: str, epsilon: float, starts: torch.Generator) -> torch.Tensor:
    if norm == "linf":
        return epsilon * (2 * torch.rand(x.shape, generator=starts).to(x.device) - 1)
    if norm == "l2":
        noise = torch.randn(x.shape, generator=starts).to(x.device)
        length = _norm(noise)
    else:
        uniform = torch.rand(x.shape, generator=starts).to(x.device)
        noise = (uniform - 0.5).sign() * -torch.log1p(-(2 * uniform - 1).abs().clamp(max=1 - 1e-6))  # Laplace
        length = _per_sample(noise.flatten(1).abs().sum(dim=1).clamp_min(1e-12), x)
    radius = torch.rand(len(x), generator=starts).to(x.device)
    return epsilon * _per_sample(radius, x) * noise / length


def _direction(gradient: torch.Tensor, point: torch.Tensor, norm: str) -> torch.Tensor:
    """Return the step of length 1 in the norm along which the objective rises most (l1: nearly)."""
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        return gradient / _norm(gradient)
    # Inputs that are at the end of [0, 1] already cannot follow their gradient.
    free = torch.where(gradient > 0, point < 1, point > 0)
    rise = (gradient.abs() * free).flatten(1)
    number = math.ceil(SPARSITY * rise.shape[1])
    largest = rise.topk(number, dim=1)
    chosen = torch.zeros_like(rise).scatter_(1, largest.indices, 1.0 / number)
    return chosen.view_as(gradient) * gradient.sign() * free


def _norm(x: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean norm of each sample, never 0, in a shape that divides the samples."""
    return _per_sample(x.flatten(1).norm(dim=1).clamp_min(1e-12), x)


def _per_sample(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *[1] * (x.ndim - 1))
