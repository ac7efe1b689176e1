"""What another framework computes as a torch module: logits forward, a vector-Jacobian product backward.

Tensors cross by DLPack. They share memory where both frameworks are on the same device, and go through the
host where one of them is on another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from metaeval.errors import UsageError

Pullback = Callable[[Tensor], Tensor]

ALIGNMENT = 64  # bytes
SMALLEST_BATCH = 8
PROBED = 3  # inputs: some, but no power of two
SAME = 1e-3  # relative difference of logits that is rounding, whatever else is in the batch


@dataclass(frozen=True)
class ForeignModel:
    """A model as functions of float32 torch tensors.

    Attributes
    ----------
    logits : callable
        From inputs (n, \\*shape) to logits (n, classes), on the inputs' device.
    linearize : callable, optional
        From inputs to their logits and the function from a cotangent (n, classes) to the gradient
        (n, \\*shape), which can be called more than once; None for a black box.
    fingerprint : str
        Hash of the weights.
    size : int, optional
        Number of weights; None where they are not known.
    """

    logits: Callable[[Tensor], Tensor]
    linearize: Callable[[Tensor], tuple[Tensor, Pullback]] | None
    fingerprint: str
    size: int | None


class Foreign(nn.Module):
    """A model of another framework; it has no parameters that torch could change."""

    def __init__(self, model: ForeignModel) -> None:
        super().__init__()
        self.foreign = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes), float32, of inputs (n, \\*shape)."""
        x = x.to(torch.float32)
        if self.foreign.linearize is not None and torch.is_grad_enabled() and x.requires_grad:
            logits: Tensor = _Linearized.apply(x, self.foreign.linearize)
            return logits
        with _memory_errors():
            return self.foreign.logits(x.detach())


class _Linearized(torch.autograd.Function):
    """The forward pass that keeps what its backward pass needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linearize: Callable[[Tensor], tuple[Tensor, Pullback]]) -> Tensor:
        # Kept for its version alone: the other framework's residuals may lie in its memory.
        ctx.save_for_backward(x)
        with _memory_errors():
            logits, ctx.pullback = linearize(x.detach())
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        _ = ctx.saved_tensors  # raises if somebody has written into the inputs since
        with _memory_errors():
            return ctx.pullback(cotangent.to(torch.float32)), None


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Say in torch's way that memory ran out, so that batches are halved."""
    try:
        yield
    except Exception as error:
        exhausted = "RESOURCE_EXHAUSTED" in str(error) or type(error).__name__ == "ResourceExhaustedError"
        if exhausted:
            raise MemoryError(str(error)) from error
        raise


def shareable(x: Tensor) -> Tensor:
    """Return a tensor that another framework may read in place: dense and aligned; itself if it can.

    TensorFlow's kernels end the process when they meet memory that is not aligned, as a slice's may be.
    """
    x = x.contiguous()
    return x if x.data_ptr() % ALIGNMENT == 0 else x.clone()


def padded(x: Tensor) -> Tensor:
    """Return a batch filled up with zeros to a power of two: each size is compiled once, and they are few."""
    size = max(SMALLEST_BATCH, 1 << max(len(x) - 1, 0).bit_length())
    if len(x) == size:
        return x
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])


def probe(module: nn.Module, shape: tuple[int, ...], classes: int) -> None:
    """Compute with a module once.

    Parameters
    ----------
    module : torch.nn.Module
        Takes inputs (n, \\*shape) in [0, 1].
    classes : int
        The number of logits that it has to give.

    Raises
    ------
    UsageError
        If it gives something else than one row of finite logits per input, or rows that depend on each other.
    """
    x = torch.rand(PROBED, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = module(x)
        if tuple(together.shape) != (PROBED, classes):
            raise UsageError(
                f"for {PROBED} inputs it gives an array of shape {tuple(together.shape)}; "
                f"the data have {classes} classes, so {(PROBED, classes)} is needed"
            )
        if together.isnan().any():
            raise UsageError("it gives logits that are not numbers (NaN)")
        if not torch.equal(module(x), together):
            return  # it answers at random; attacks find that and say so
        alone = module(x[1:2])[0]
    scale = float(together.abs().max().clamp(min=1.0))
    if float((alone - together[1]).abs().max()) > SAME * scale:
        raise UsageError(
            "the logits of an input depend on the rest of its batch (statistics of the batch, or dropout): "
            "build the model so that it evaluates"
        )
