"""Counting what a library's attack sends through a model, and to which sample it belongs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metaeval.attacks.kernel import KernelResult

# Largest absolute gradient component that counts as zero: attacks add 1e-10 to 1e-12 where they normalise.
ZERO_GRADIENT = 1e-12


class CountedModel(nn.Module):
    """A model that counts the rows that pass through it, forward and backward.

    A call with as many rows as samples are attended to is one pass for each of them. Any other call (a
    library that drops samples on its way) cannot be told apart: its rows are shared out evenly, the
    remainder to the first samples, so that totals are exact.
    """

    def __init__(self, model: nn.Module, result: KernelResult) -> None:
        super().__init__()
        self.model = model
        self._result = result
        self._rows = torch.arange(len(result.forwards), device=result.forwards.device)
        self._own = [0, 0]  # forward and backward passes of every sample attended to
        self._shared = [0, 0]  # rows that belong to nobody in particular
        self._zero: Tensor | None = None
        self.eval()  # torchattacks takes a wrapper in training mode as a wish to train the model inside

    def attend(self, rows: Tensor) -> None:
        """Say which samples (positions in the result) the following calls carry, in order."""
        self.settle()
        self._rows = rows
        self._zero = None

    def settle(self) -> None:
        """Book what was counted since the last call of `attend` to the samples attended to."""
        n = len(self._rows)
        for k, passes in enumerate((self._result.forwards, self._result.backwards)):
            if n:
                even, rest = divmod(self._shared[k], n)
                passes[self._rows] += self._own[k] + even
                passes[self._rows[:rest]] += 1
            self._own[k] = self._shared[k] = 0
        if self._zero is not None:
            self._result.zero_gradient[self._rows] |= self._zero
            self._zero = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's logits, counting; gradients with respect to `x` are counted too."""
        self._count(0, len(x))
        if torch.is_grad_enabled() and x.requires_grad:
            x = x.view_as(x)
            x.register_hook(self._backward)  # type: ignore[no-untyped-call]
        logits: Tensor = self.model(x)
        return logits

    def _backward(self, gradient: Tensor) -> None:
        self._count(1, len(gradient))
        if len(gradient) == len(self._rows):
            zero = gradient.flatten(1).abs().amax(dim=1) <= ZERO_GRADIENT
            self._zero = zero if self._zero is None else self._zero | zero

    def _count(self, direction: int, rows: int) -> None:
        if rows == len(self._rows):
            self._own[direction] += 1
        else:
            self._shared[direction] += rows
