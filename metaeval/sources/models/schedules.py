"""Schedules of the learning rate, set forth batch by batch."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

MILESTONES, DECAY = (0.5, 0.75), 0.1  # He et al. 2016: at 32k and 48k of 64k steps
WARMUP = 0.1  # of all steps


def constant(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return the schedule that changes nothing."""
    return ConstantLR(optimizer, factor=1.0)


def cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return half a cosine from the learning rate to 0 (Loshchilov and Hutter 2017, without restarts)."""
    return CosineAnnealingLR(optimizer, T_max=steps)


def step(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return the schedule that divides by 10 after a half and three quarters (He et al. 2016)."""
    return MultiStepLR(optimizer, [round(part * steps) for part in MILESTONES], gamma=DECAY)


def warmup_cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a linear rise over the first tenth of the steps, then half a cosine (Goyal et al. 2017)."""
    rise = max(1, round(WARMUP * steps))
    first = LinearLR(optimizer, start_factor=1 / (rise + 1), total_iters=rise)
    return SequentialLR(
        optimizer, [first, CosineAnnealingLR(optimizer, T_max=max(1, steps - rise))], milestones=[rise]
    )


SCHEDULES: dict[str, Callable[[Optimizer, int], LRScheduler]] = {
    "constant": constant,
    "cosine": cosine,
    "step": step,
    "warmup-cosine": warmup_cosine,
}
"""From the optimizer and the number of its steps, by name."""
