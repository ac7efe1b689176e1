"""One run of Auto-PGD (Croce and Hein 2020, algorithm 1), all samples advancing together.

Without compaction every iterate equals the one of pyautoattack 0.2.0 bit for bit, given the same start: the
order of the floating-point operations below is part of the algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from metaeval.attacks.kernel import (
    KernelResult,
    Model,
    batches,
    check_logits,
    forward,
    l2_norm,
    per_sample,
)
from metaeval.attacks.losses import LOSSES, MINIMUM_CLASSES

# A step size is halved at a checkpoint when at most this share of the steps since the last raised the loss.
RISING_SHARE = 0.75
MOMENTUM = 0.75
# A gradient counts as (near) zero when the change of the loss that it promises within the ball, epsilon times
# its dual norm, is below this share of max(1, |loss|): that is lost in float32's rounding of the loss.
NEAR_ZERO = 1e-6


@dataclass(frozen=True)
class Attack:
    """What is the same for all samples of a call; `result` is filled in."""

    model: Model
    norm: str
    loss: str
    iterations: int
    eot: int  # passes whose gradients are averaged
    batch_size: int
    compact: bool
    confirm: Model | None
    result: KernelResult


@dataclass
class _State:
    """All that a sample carries through a run: one row each."""

    ids: Tensor  # row in the result
    y: Tensor
    target: Tensor | None
    epsilon: Tensor  # like x, broadcasting
    x: Tensor
    lower: Tensor | None  # the ball within the box (linf)
    upper: Tensor | None
    x_adv: Tensor
    x_previous: Tensor
    gradient: Tensor
    x_best: Tensor
    gradient_best: Tensor
    step_size: Tensor  # like epsilon
    loss: Tensor
    loss_best: Tensor
    loss_best_checked: Tensor  # at the last checkpoint
    rises: Tensor  # steps since the last checkpoint that raised the loss
    reduced: Tensor  # the step size was halved at the last checkpoint
    zero_gradient: Tensor

    def keep(self, rows: Tensor) -> None:
        """Drop all samples but those in `rows`."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                setattr(self, field.name, value.index_select(0, rows))


def run_once(
    attack: Attack, ids: Tensor, x: Tensor, y: Tensor, target: Tensor | None, epsilon: Tensor, x_adv: Tensor
) -> None:
    """Run APGD once from `x_adv`, recording adversarials, costs and zero gradients in the attack's result."""
    radius = per_sample(epsilon, x)
    linf = attack.norm == "linf"
    x_adv = x_adv.clamp(0.0, 1.0)
    loss, gradient, wrong = _evaluate(attack, x_adv, y, target)
    state = _State(
        ids=ids,
        y=y,
        target=target,
        epsilon=radius,
        x=x,
        lower=(x - radius).clamp_(0.0, 1.0) if linf else None,
        upper=(x + radius).clamp_(0.0, 1.0) if linf else None,
        x_adv=x_adv,
        x_previous=x_adv,
        gradient=gradient,
        x_best=x_adv,
        gradient_best=gradient,
        step_size=2.0 * radius,
        # The published code compares the first step's loss with an unset entry, 0, not with the start's.
        loss=torch.zeros_like(loss),
        loss_best=loss,
        loss_best_checked=loss,
        rises=torch.zeros_like(loss),
        reduced=torch.ones_like(loss, dtype=torch.bool),
        zero_gradient=_near_zero(attack, gradient, loss, radius),
    )
    if _record(attack, state, wrong, gradients=1) == 0:
        return
    checkpoints = _checkpoints(attack.iterations)
    for i in range(attack.iterations):
        state.x_adv, state.x_previous = _step(state, 1.0 if i == 0 else MOMENTUM), state.x_adv
        loss, state.gradient, wrong = _evaluate(attack, state.x_adv, state.y, state.target)
        state.rises += loss > state.loss
        state.loss = loss
        better = loss > state.loss_best
        state.loss_best = torch.where(better, loss, state.loss_best)
        better = per_sample(better, like=state.x_best, dtype=torch.bool)
        state.x_best = torch.where(better, state.x_adv, state.x_best)
        state.gradient_best = torch.where(better, state.gradient, state.gradient_best)
        state.zero_gradient |= _near_zero(attack, state.gradient, loss, state.epsilon)
        if _record(attack, state, wrong, gradients=i + 2) == 0:
            return
        if i in checkpoints:
            _adapt(state, checkpoints[i])
    attack.result.forwards[state.ids] += attack.eot * (attack.iterations + 1)
    attack.result.backwards[state.ids] += attack.eot * (attack.iterations + 1)
    unbroken = ~attack.result.success[state.ids]
    attack.result.candidates[state.ids[unbroken]] = state.x_best[unbroken]
    attack.result.zero_gradient[state.ids] |= state.zero_gradient


def _evaluate(attack: Attack, x: Tensor, y: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss (n,), its gradient like x, and where the model is wrong: bool (n,)."""
    parts = [
        _evaluate_part(attack, x[rows], y[rows], None if target is None else target[rows])
        for rows in batches(len(x), attack.batch_size)
    ]
    if len(parts) == 1:
        return parts[0]
    losses, gradients, wrongs = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(gradients), torch.cat(wrongs)


def _evaluate_part(
    attack: Attack, x: Tensor, y: Tensor, target: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    total = torch.zeros_like(x)
    for _ in range(attack.eot):
        with torch.enable_grad():
            inputs = x.detach().requires_grad_()
            logits = check_logits(attack.model(inputs), inputs)
            check_classes(attack.loss, logits)
            losses = LOSSES[attack.loss](logits, y, target)
            gradient = None
            if losses.requires_grad:
                gradient = torch.autograd.grad(losses.sum(), inputs, allow_unused=True)[0]
        if gradient is not None:  # A model that cuts the graph: no gradient at all is a zero gradient.
            total += gradient
    return losses.detach(), total.div_(attack.eot), logits.detach().argmax(dim=1) != y


def check_classes(loss: str, logits: Tensor) -> None:
    if logits.shape[1] < MINIMUM_CLASSES[loss]:
        raise ValueError(
            f"the {loss} loss needs {MINIMUM_CLASSES[loss]} classes or more; the model has {logits.shape[1]}"
        )


def _record(attack: Attack, state: _State, wrong: Tensor, gradients: int) -> int:
    """Record the adversarials of this iteration and let their samples leave; return how many remain."""
    remaining = len(wrong) - int(wrong.sum())  # The only host synchronisation of an iteration.
    if remaining == len(wrong):
        return remaining
    if attack.confirm is not None:
        rows = wrong.nonzero().squeeze(1)
        logits = forward(attack.confirm, state.x_adv[rows], attack.batch_size)
        attack.result.forwards[state.ids[rows]] += 1
        wrong = wrong.index_put((rows,), logits.argmax(dim=1) != state.y[rows])
        remaining = len(wrong) - int(wrong.sum())
    order = torch.argsort(wrong.to(torch.uint8), stable=True)
    staying, leaving = order[:remaining], order[remaining:]
    ids = state.ids[leaving]
    attack.result.candidates[ids] = state.x_adv[leaving]
    attack.result.success[ids] = True
    if not attack.compact:
        return len(wrong)
    attack.result.forwards[ids] += attack.eot * gradients
    attack.result.backwards[ids] += attack.eot * gradients
    state.keep(staying)
    return remaining


def _near_zero(attack: Attack, gradient: Tensor, loss: Tensor, radius: Tensor) -> Tensor:
    """Tell where a gradient is (near) zero, or no number."""
    dual = torch.linalg.vector_norm(gradient.flatten(1), ord=1 if attack.norm == "linf" else 2, dim=1)
    promised: Tensor = dual * radius.view(-1)
    return ~(promised > NEAR_ZERO * loss.abs().clamp_(min=1.0))


def _step(state: _State, momentum: float) -> Tensor:
    """Return the next iterate: a step along the gradient, then the momentum, each projected."""
    x_adv = state.x_adv
    inertia = (x_adv - state.x_previous).mul_(1 - momentum)
    if state.lower is not None and state.upper is not None:
        ahead = state.gradient.sign().mul_(state.step_size).add_(x_adv).clamp_(state.lower, state.upper)
        ahead = ahead.sub_(x_adv).mul_(momentum).add_(x_adv).add_(inertia)
        return ahead.clamp_(state.lower, state.upper)
    direction = state.gradient / (l2_norm(state.gradient) + 1e-12)
    ahead = _project_l2(direction.mul_(state.step_size).add_(x_adv), state)
    ahead = ahead.sub_(x_adv).mul_(momentum).add_(x_adv).add_(inertia)
    return _project_l2(ahead, state)


def _project_l2(point: Tensor, state: _State) -> Tensor:
    delta = point.sub_(state.x)
    length = l2_norm(delta)
    delta.div_(length + 1e-12).mul_(torch.minimum(state.epsilon, length))
    return delta.add_(state.x).clamp_(0.0, 1.0)


def _checkpoints(iterations: int) -> dict[int, int]:
    """Return the iterations at which step sizes may be halved, each with the number since the one before."""
    period, shortest, decrease = (max(int(share * iterations), 1) for share in (0.22, 0.06, 0.03))
    checkpoints = {}
    last = -1
    while last + period < iterations:
        last += period
        checkpoints[last] = period
        period = max(period - decrease, shortest)
    return checkpoints


def _adapt(state: _State, period: int) -> None:
    """Halve the step size, and go back to the best point, where the loss rises too rarely or stands still."""
    stuck = ~state.reduced & (state.loss_best_checked >= state.loss_best)
    state.reduced = (state.rises <= period * RISING_SHARE) | stuck
    state.loss_best_checked = state.loss_best
    state.rises = torch.zeros_like(state.rises)
    reduce = per_sample(state.reduced, like=state.x_adv, dtype=torch.bool)
    state.step_size = torch.where(reduce, state.step_size / 2.0, state.step_size)
    state.x_adv = torch.where(reduce, state.x_best, state.x_adv)
    state.gradient = torch.where(reduce, state.gradient_best, state.gradient)
