"""What every attack kernel of ours shares: its result, and running a model over a batch in parts.

A kernel is a function ``run(model, x, y, epsilon, *, norm, keys, settings, batch_size) -> KernelResult``. Its
claims are only claims: whoever calls it verifies the candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class KernelResult:
    """What a run of a kernel found, one row per sample, on the device of the inputs.

    Attributes
    ----------
    candidates : Tensor
        (n, \\*shape): the adversarial where `success`, else the point where the attack gave up.
    success : Tensor
        bool (n,): the kernel's own forward pass misclassified the candidate.
    forwards, backwards : Tensor
        int64 (n,): passes through the model spent on the sample.
    zero_gradient : Tensor
        bool (n,): no adversarial was found and some gradient was (near) zero: the failure says little.
    switched : Tensor
        bool (n,): the loss's gradient vanished, so that another loss was tried.
    """

    candidates: Tensor
    success: Tensor
    forwards: Tensor
    backwards: Tensor
    zero_gradient: Tensor
    switched: Tensor

    @classmethod
    def failed(cls, x: Tensor) -> KernelResult:
        """Return the result of n runs that found nothing and cost nothing, to be filled in."""
        n, device = len(x), x.device
        return cls(
            candidates=x.clone(),
            success=torch.zeros(n, dtype=torch.bool, device=device),
            forwards=torch.zeros(n, dtype=torch.int64, device=device),
            backwards=torch.zeros(n, dtype=torch.int64, device=device),
            zero_gradient=torch.zeros(n, dtype=torch.bool, device=device),
            switched=torch.zeros(n, dtype=torch.bool, device=device),
        )


class Kernel(Protocol):
    """Signature of a kernel: attacks each sample once, within its own epsilon."""

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        epsilon: Tensor,
        *,
        norm: str,
        keys: Tensor,
        settings: Mapping[str, Any],
        batch_size: int | None = None,
    ) -> KernelResult:
        """Attack inputs (n, \\*shape) with labels int64 (n,), epsilons float64 (n,) and keys int64 (n,)."""


class WarmKernel(Protocol):
    """Signature of a kernel that can begin from given points, and keep broken samples to the end of a run."""

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        epsilon: Tensor,
        *,
        norm: str,
        keys: Tensor,
        settings: Mapping[str, Any],
        batch_size: int | None = None,
        start: Tensor | None = None,
        compact: bool = True,
        confirm: Model | None = None,
    ) -> KernelResult:
        """Attack as a `Kernel` does; `start` (n, \\*shape) holds the first iterates.

        Without `compact` a sample does not leave at its first misclassification, which in a randomised model
        is chance. With `confirm` a misclassification counts only if that model misclassifies too.
        """


def per_sample(values: Tensor, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return (n,) values shaped to broadcast against `like` (n, \\*shape), in its type or in `dtype`."""
    return values.to(device=like.device, dtype=dtype or like.dtype).view(-1, *([1] * (like.ndim - 1)))


def l2_norm(delta: Tensor) -> Tensor:
    """Return the l2 norm of each sample, shaped to broadcast; the order of sums is the published code's."""
    return delta.square().reshape(len(delta), -1).sum(-1).sqrt_().view(-1, *([1] * (delta.ndim - 1)))


def forward(model: Model, x: Tensor, batch_size: int) -> Tensor:
    """Return the logits (n, classes) of `x`, computed in parts of `batch_size` without gradients.

    Raises
    ------
    ValueError
        If the model's output is not one row of logits per sample.
    """
    with torch.no_grad():
        parts = [x[rows] for rows in batches(len(x), batch_size)]
        return torch.cat([check_logits(model(part), part) for part in parts])


def batches(n: int, size: int) -> list[slice]:
    """Return the slices that cut n rows into batches of `size`, the last one perhaps smaller."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def check_logits(logits: Tensor, x: Tensor) -> Tensor:
    """Return the logits if they are one row of two or more per sample.

    Raises
    ------
    ValueError
        If they are not.
    """
    if logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        raise ValueError(
            f"the model must return logits of shape (n, classes >= 2); "
            f"for {len(x)} inputs it returned {tuple(logits.shape)}"
        )
    return logits


def check_inputs(x: Tensor, y: Tensor, epsilon: Tensor, keys: Tensor, batch_size: int | None) -> int:
    """Return the batch size to use (all samples at once for None).

    Raises
    ------
    ValueError
        If the tensors do not describe the same n samples.
    """
    n = len(x)
    if x.ndim < 2 or y.shape != (n,) or epsilon.shape != (n,) or keys.shape != (n,):
        raise ValueError(
            f"inputs (n, ...), labels, epsilons and keys (n,) do not fit: {tuple(x.shape)}, "
            f"{tuple(y.shape)}, {tuple(epsilon.shape)}, {tuple(keys.shape)}"
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    return batch_size or max(n, 1)
