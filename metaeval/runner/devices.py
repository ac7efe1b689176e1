"""Where a model runs, with which arithmetic, and how many samples at a time."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

from metaeval.errors import UsageError

Result = TypeVar("Result")

LARGEST_BATCH = 1000  # one shard
CPU_ELEMENTS = 2**21  # input elements in a CPU batch; beyond that nothing gets faster, only larger
SMALL_INPUT = 256  # numbers in an input below which one CPU thread is faster than several
CPU_MEMORY_SHARE = 0.25  # of all memory: the machine has other users
MEMORY_SHARE = 0.6  # of the free CUDA memory; the rest is for attack state and fragmentation


def choose_device(name: str) -> torch.device:
    """Return the torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises
    ------
    UsageError
        If the device is unknown or not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}; allowed: auto, cpu, cuda, cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported; allowed: auto, cpu, cuda, cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices found")
    return device


def pin_precision(precision: str) -> dict[str, str | bool]:
    """Switch this process to float32 without TF32 and to deterministic kernels.

    Returns what is recorded of the attacks' `precision`, which they switch to themselves.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    bfloat16 = precision == "bfloat16"
    return {
        "dtype": "bfloat16" if bfloat16 else "float32",
        "tf32": precision == "tf32",
        "autocast": bfloat16,
    }


@contextmanager
def fitting_threads(shape: tuple[int, ...]) -> Iterator[None]:
    """Compute with one thread while inputs are small: there more threads only wait for each other.

    Decided by the shape of an input alone, so that a resumed or grown study sums in the same order.
    """
    before = torch.get_num_threads()
    if int(np.prod(shape)) < SMALL_INPUT:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def find_batch_size(module: torch.nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """Return how many samples to send through a model at once.

    On the CPU a fixed function of the input size, so that a resumed run uses the same kernels; on CUDA
    the largest power of two whose forward and backward pass fit in the free memory, by measurement.
    """
    if device.type == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * CPU_MEMORY_SHARE
        fitting = min(CPU_ELEMENTS // int(np.prod(shape)), int(memory / _activation_bytes(module, shape)))
        return min(LARGEST_BATCH, 1 << int(np.log2(max(fitting, 1))))
    small, large = (_peak_memory(module, shape, device, n) for n in (4, 8))
    per_sample = max((large - small) / 4, 1.0)
    free = torch.cuda.mem_get_info(device)[0] * MEMORY_SHARE
    return min(1 << int(np.log2(max(free / per_sample, 1))), LARGEST_BATCH)


def _activation_bytes(module: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Return the bytes that one sample's layer outputs and their gradients take in a backward pass."""
    elements = [int(np.prod(shape))]

    def count(_module: torch.nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            elements.append(output.numel())

    leaves = [child for child in module.modules() if not any(child.children())]
    handles = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        with torch.no_grad():
            module(torch.zeros(1, *shape))
    finally:
        for handle in handles:
            handle.remove()
    return 2 * 4 * sum(elements)


def _peak_memory(module: torch.nn.Module, shape: tuple[int, ...], device: torch.device, n: int) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    x = torch.rand(n, *shape, device=device, requires_grad=True)
    output = module(x)
    if output.requires_grad:  # a black box has no backward pass
        torch.autograd.grad(output.sum(), x)
    return int(torch.cuda.max_memory_allocated(device))


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on CUDA or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def with_shrinking_batch(
    work: Callable[[int], Result], batch_size: int, on_shrink: Callable[[int], None]
) -> Result:
    """Call ``work(batch_size)``, halving the batch each time that memory runs out.

    Raises
    ------
    torch.OutOfMemoryError, MemoryError, RuntimeError
        If one sample at a time does not fit.
    """
    while True:
        try:
            return work(batch_size)
        except Exception as error:
            if not out_of_memory(error) or batch_size == 1:
                raise
        # Outside the handler: the traceback would keep the tensors of the failed attempt alive.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        batch_size //= 2
        on_shrink(batch_size)
