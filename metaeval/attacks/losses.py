"""Losses that attacks ascend, one value per sample; larger is closer to misclassification."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# A margin below this share of the largest logit is float32's rounding, larger in deep networks.
ON_BOUNDARY = 1e-5

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the cross-entropy (n,) of logits (n, classes) with labels (n,)."""
    return F.cross_entropy(logits, y, reduction="none")


def dlr(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the difference-of-logits-ratio loss (n,) of Croce and Hein (2020), for three classes or more."""
    ordered, classes = logits.sort(dim=1)
    correct = (classes[:, -1] == y).to(logits.dtype)
    other = ordered[:, -2] * correct + ordered[:, -1] * (1.0 - correct)
    return -(_at(logits, y) - other) / (ordered[:, -1] - ordered[:, -3] + 1e-12)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """Return the targeted DLR loss (n,) of Croce and Hein (2020), for four classes or more."""
    assert target is not None
    ordered = logits.sort(dim=1)[0]
    scale = ordered[:, -1] - 0.5 * (ordered[:, -3] + ordered[:, -4]) + 1e-12
    return -(_at(logits, y) - _at(logits, target)) / scale


def dlr_or_margin(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Return the DLR loss (n,), or minus the margin where two classes are too few for it.

    Neither saturates: both keep a gradient where logits are so large that the cross-entropy is 0 in float32.
    """
    return dlr(logits, y) if logits.shape[1] > 2 else -margin(logits, y)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the label's logit minus the largest other one (n,): negative where misclassified."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return _at(logits, y) - others.amax(dim=1)


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "dlr": dlr,
    "targeted-dlr": targeted_dlr,
    "dlr-or-margin": dlr_or_margin,
}
MINIMUM_CLASSES = {"ce": 2, "dlr": 3, "targeted-dlr": 4, "dlr-or-margin": 2}
