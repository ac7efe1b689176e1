"""Can a number be trusted? What inputs must be, and what a model must not do, checked around every attack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from metaeval.attacks.kernel import check_logits
from metaeval.attacks.verify import Evaluator
from metaeval.errors import UsageError

Flags = dict[str, float]

# What each flag says; 0 is what one wants to see. All are numbers, so that they fit one array.
FLAG_MEANINGS = {
    "zero_gradient": "share of attacked samples of which a failed run met a (near) zero gradient",
    "loss_switched": "share of attacked samples on which the cross-entropy's gradient vanished, so that the "
    "attack went on with the DLR loss",
    "randomised": "1 if two forward passes of the same inputs disagree; adversarials go by the majority of 9",
    "probabilities": "1 if the outputs look like probabilities and not like logits",
    "log_probabilities": "1 if the logits are logarithms of probabilities: a black box's, or a log-softmax's",
    "nonfinite_logits": "share of samples whose logits contain NaN; they count as misclassified",
    "train_mode": "1 if a module came in training mode or an attack left it so; evaluated without",
    "buffers_changed": "1 if a buffer of the model changed while it was attacked; it was put back after",
    "unperturbed": "share of attacked samples that the attack returned as they were; 1: it changed nothing",
    "only_black_box": "share of samples that this black-box attack broke and no attack with gradients did",
    "rejected_claims": "successes that the attack reported and verification did not confirm",
}
# Thresholds of AutoAttack's own checks: relative l2 distance of outputs, deviation of their sums from 1.
RANDOMISED = 1e-4
PROBABILITIES = 1e-5


def check_data(x: npt.NDArray[np.float32], y: npt.NDArray[np.int64]) -> None:
    """Check inputs and labels.

    Raises
    ------
    UsageError
        If inputs and labels are not n to n, an input is not finite or outside [0, 1], a label is negative.
    """
    if x.ndim < 2 or y.shape != (len(x),):
        raise UsageError(f"inputs (n, ...) and labels (n,) do not fit: {x.shape} and {y.shape}")
    if x.size == 0:
        return
    if not np.isfinite(x).all():
        raise UsageError("inputs contain values that are not finite")
    low, high = float(x.min()), float(x.max())
    if low < 0 or high > 1:
        raise UsageError(
            f"inputs must lie in [0, 1], found {low:g} to {high:g}; normalisation belongs into the model"
        )
    if int(y.min()) < 0:
        raise UsageError(f"labels must not be negative, found {int(y.min())}")


def check_labels(y: npt.NDArray[np.int64], logits: Tensor) -> None:
    """Raise a UsageError if a label names no class of the model."""
    if len(y) and int(y.max()) >= logits.shape[1]:
        raise UsageError(f"label {int(y.max())} is none of the model's {logits.shape[1]} classes, 0 and up")


def check_outputs(evaluator: Evaluator, x: Tensor) -> tuple[int, Flags]:
    """Return the number of classes, and what two forward passes of the first inputs show."""
    x = x[: evaluator.rows]
    first, second = evaluator.logits(x), evaluator.logits(x)
    check_logits(first, x)
    change = (first - second).norm(dim=1) / (first.norm(dim=1) + 1e-10)
    unequal = change.nan_to_num(0.0).max() > RANDOMISED
    probable = ((first >= -PROBABILITIES) & (first <= 1 + PROBABILITIES)).all() & (
        (first.sum(dim=1) - 1).abs() < PROBABILITIES
    ).all()
    # The logarithm of the sum of probabilities is 0; that of logits may be anything.
    logarithms = (first.logsumexp(dim=1).abs() < PROBABILITIES).all()
    return first.shape[1], {
        "randomised": float(unequal),
        "probabilities": float(probable),
        "log_probabilities": float(logarithms),
    }


@contextmanager
def guarded(model: nn.Module, flags: Flags) -> Iterator[None]:
    """Put a model in evaluation mode with frozen parameters, restore it after, and flag what changed."""
    modes = [(module, module.training) for module in model.modules()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    flags["train_mode"] = float(any(training for _, training in modes))
    model.eval()
    for parameter in learning:
        parameter.requires_grad_(False)  # attacks need gradients of inputs only
    # A model may write into what it gets (``x.sub_(mean)``), which would change the samples themselves.
    copying = model.register_forward_pre_hook(lambda _, inputs: tuple(x.clone() for x in inputs))
    try:
        yield
        flags["train_mode"] = max(flags["train_mode"], float(any(module.training for module, _ in modes)))
        flags["buffers_changed"] = float(any(not torch.equal(now, before) for now, before in buffers))
    finally:
        copying.remove()
        # The next attack must meet the model that this one met, whatever this one did to it.
        with torch.no_grad():
            for now, before in buffers:
                now.copy_(before)
        for module, training in modes:
            module.training = training
        for parameter in learning:
            parameter.requires_grad_(True)
