"""How attacks compute: precision, and batches of few shapes in the layout that a GPU prefers.

float32 is the default. Whatever an attack computes in, an adversarial is one in float32 only: verification
and the forward pass that lets a sample leave a batch compute in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PRECISIONS = ("float32", "tf32", "bfloat16")
SMALLEST_BUCKET = 8


@contextmanager
def arithmetic(device: torch.device, precision: str) -> Iterator[None]:
    """Compute with deterministic kernels, without autocast, and with TF32 only if `precision` says so."""
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        allowed = precision == "tf32"
        matmul = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = allowed
        try:
            with torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=allowed
            ):
                yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = matmul


def attacked_model(model: nn.Module, device: torch.device, precision: str, *, confirms: bool) -> nn.Module:
    """Return the model as attacks see it: on the CPU in float32 the very model."""
    cuda = device.type == "cuda"
    # An attack that is verified only at its end would drift from what verifies it, and look weak.
    autocast = precision == "bfloat16" and confirms
    if not cuda and not autocast:
        return model
    return AttackedModel(model, buckets=cuda, channels_last=cuda, autocast=autocast)


class AttackedModel(nn.Module):
    """A model that meets batches of few shapes, images as channels-last, or bfloat16 under autocast.

    Parameters
    ----------
    buckets : bool
        Fill batches up to the next power of two: survivors of an attack come in every number, and each new
        shape makes a GPU choose its kernels and its memory anew. Rows that fill up are thrown away.
    channels_last : bool
        Lay pictures out with the channels innermost, which tensor cores prefer.
    autocast : bool
        Compute under bfloat16 autocast; logits come out as float32.
    """

    def __init__(self, model: nn.Module, *, buckets: bool, channels_last: bool, autocast: bool) -> None:
        super().__init__()
        self.model = model
        self.buckets, self.channels_last, self.autocast = buckets, channels_last, autocast
        self.eval()  # torchattacks takes a wrapper in training mode as a wish to train the model inside

    def forward(self, x: Tensor) -> Tensor:
        """Return the model's logits, float32 (n, classes) for n inputs."""
        full = x
        if self.buckets and len(x):
            missing = bucket(len(x)) - len(x)
            full = torch.cat([x, x[:1].detach().expand(missing, *x.shape[1:])]) if missing else x
        if self.channels_last and full.ndim == 4:
            full = full.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            logits: Tensor = self.model(full)
        return logits[: len(x)].to(x.dtype)


def bucket(n: int) -> int:
    """Return the rows that a batch of n is filled up to: the next power of two, at least 8."""
    return max(SMALLEST_BUCKET, 1 << (n - 1).bit_length())
