"""Spectral norms of a ResNet-18 against power iteration and ARPACK, and of small layers against a dense SVD.

OMP_NUM_THREADS=1 python benchmarks/norms.py
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from scipy.sparse.linalg import LinearOperator, svds
from torch import nn
from torch.nn import functional

from metaeval.measures import spectral
from metaeval.measures.folding import fold
from metaeval.measures.layers import Layer, layers_of

SHAPE = (3, 32, 32)
ITERATIONS = 100
LIMIT, PRECISION = 30.0, 1e-6


class Block(nn.Module):
    """Two convolutions with batch norm and a shortcut (He et al. 2016)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.short = nn.Sequential()
        if stride > 1 or before != width:
            self.short = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(out + self.short(x))


def resnet18(seed: int) -> nn.Module:
    """Return a ResNet-18 for 32 x 32 pixels with random weights and batch-norm statistics."""
    torch.manual_seed(seed)
    blocks: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    before = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Block(before, width, stride), Block(width, width, 1)]
        before = width
    module = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.5, 1.5)
    return module.eval()


@dataclass(frozen=True)
class Run:
    """What a method found and spent."""

    value: float
    seconds: float
    forwards: int
    adjoints: int


def timed(method: Callable[[Layer], tuple[float, int, int]], layer: Layer) -> Run:
    start = time.process_time()
    value, forwards, adjoints = method(layer)
    return Run(value, time.process_time() - start, forwards, adjoints)


def ours(layer: Layer) -> tuple[float, int, int]:
    found = spectral.operator_norm(layer)
    return found.value, found.forwards, found.adjoints


def _maps(
    layer: Layer, weight: torch.Tensor
) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    """Return a convolution and its transpose, as power iteration is usually written."""
    if layer.kind == "linear":
        return lambda x: x @ weight.T, lambda y: y @ weight
    padding = tuple(before for before, _ in layer.padding)
    rest = [
        size + 2 * pad - step * (width - 1) - 1 - stride * (out - 1)
        for size, pad, step, width, stride, out in zip(
            layer.source[1:],
            padding,
            layer.dilation,
            weight.shape[2:],
            layer.stride,
            layer.target[1:],
            strict=True,
        )
    ]

    def forward(x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, weight, None, layer.stride, padding, layer.dilation, layer.groups)

    def adjoint(y: torch.Tensor) -> torch.Tensor:
        return functional.conv_transpose2d(
            y, weight, None, layer.stride, padding, rest, layer.groups, layer.dilation
        )

    return forward, adjoint


def power(layer: Layer) -> tuple[float, int, int]:
    """100 steps of power iteration in float32 from a random vector."""
    forward, adjoint = _maps(layer, layer.weight.float())
    draw = torch.Generator().manual_seed(0)
    x = torch.randn((1, *layer.source), generator=draw)
    with torch.no_grad():
        for _ in range(ITERATIONS):
            y = forward(x / x.norm())
            x = adjoint(y / y.norm())
        value = float(forward(x / x.norm()).norm())
    return value, ITERATIONS + 1, ITERATIONS


def arpack(layer: Layer) -> tuple[float, int, int]:
    """scipy's svds in float64 to full precision: the truth that the others are compared with."""
    forward, adjoint = _maps(layer, layer.weight)
    count = [0, 0]

    def matvec(x: np.ndarray) -> np.ndarray:
        count[0] += 1
        return forward(torch.from_numpy(x).reshape(1, *layer.source)).flatten().numpy()

    def rmatvec(y: np.ndarray) -> np.ndarray:
        count[1] += 1
        return adjoint(torch.from_numpy(y).reshape(1, *layer.target)).flatten().numpy()

    sizes = math.prod(layer.target), math.prod(layer.source)
    operator = LinearOperator(sizes, matvec=matvec, rmatvec=rmatvec, dtype=np.float64)
    start = np.random.default_rng(0).normal(size=min(sizes))
    values = svds(operator, k=3, v0=start, return_singular_vectors=False, maxiter=100_000)
    return float(values.max()), count[0], count[1]


def network(seed: int) -> None:
    """Print one row per layer and the sums."""
    module = resnet18(seed)
    start = time.process_time()
    layers = layers_of(fold(module, SHAPE), SHAPE).maps
    tracing = time.process_time() - start
    print(f"\n### ResNet-18, seed {seed}\n")
    print(
        "| layer | map | ours s | forward + adjoint | error | power s | its passes | its error | ARPACK s |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    totals, worst = np.zeros(3), np.zeros(2)
    for layer in layers:
        mine, peer, truth = (timed(method, layer) for method in (ours, power, arpack))
        errors = np.array([abs(found.value / truth.value - 1) for found in (mine, peer)])
        totals += [mine.seconds, peer.seconds, truth.seconds]
        worst = np.maximum(worst, errors)
        shape = " x ".join(map(str, layer.source)) + " -> " + " x ".join(map(str, layer.target))
        print(
            f"| {layer.name} | {shape} | {mine.seconds:.2f} | {mine.forwards} + {mine.adjoints} "
            f"| {errors[0]:.0e} | {peer.seconds:.2f} | {peer.forwards} + {peer.adjoints} | {errors[1]:.0e} "
            f"| {truth.seconds:.2f} |"
        )
    print(
        f"\nTracing and folding {tracing:.1f} CPU-seconds. Ours {totals[0]:.1f} CPU-seconds, largest error "
        f"{worst[0]:.0e}; power iteration ({ITERATIONS} steps, float32) {totals[1]:.1f} "
        f"({totals[1] / totals[0]:.2f} times ours), largest error {worst[1]:.0e}; "
        f"ARPACK (three values, float64) {totals[2]:.1f} ({totals[2] / totals[0]:.1f} times ours)."
    )
    goal = totals[0] + tracing <= LIMIT and worst[0] <= PRECISION
    print(
        f"At most {LIMIT:.0f} CPU-seconds and errors of at most {PRECISION:g}: "
        f"{'met' if goal else 'NOT MET'}."
    )


def small() -> None:
    """Print our norms and the dense matrix's for layers small enough to be written out."""
    print("\n### Small layers against their dense matrix\n")
    print("| layer | matrix | ours s | forward + adjoint | error | dense s | dense / ours |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for channels, size, options in (
        ((8, 8), 12, {"kernel_size": 3, "padding": 1}),
        ((16, 16), 12, {"kernel_size": 3, "padding": 1}),
        ((16, 32), 13, {"kernel_size": 5, "stride": 2, "padding": 2}),
        ((16, 16), 12, {"kernel_size": 3, "dilation": 2, "padding": 2, "groups": 4}),
    ):
        torch.manual_seed(0)
        module = nn.Conv2d(*channels, bias=False, **options)  # type: ignore[arg-type]
        (layer,) = layers_of(fold(module, (channels[0], size, size)), (channels[0], size, size)).maps
        mine = timed(ours, layer)
        start = time.process_time()
        with torch.no_grad():
            units = torch.eye(math.prod(layer.source), dtype=torch.float64).reshape(-1, *layer.source)
            matrix = module.double()(units).flatten(1)
        truth = float(torch.linalg.svdvals(matrix)[0])
        spent = time.process_time() - start
        words = ", ".join(f"{key} {value}" for key, value in options.items())
        print(
            f"| {channels[0]} to {channels[1]}, {size} x {size}, {words} "
            f"| {matrix.shape[1]} x {matrix.shape[0]} "
            f"| {mine.seconds:.2f} | {mine.forwards} + {mine.adjoints} | {abs(mine.value / truth - 1):.0e} "
            f"| {spent:.2f} | {spent / mine.seconds:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    torch.set_num_threads(1)
    print(
        f"python {platform.python_version()}, torch {torch.__version__.split('+')[0]}, "
        f"scipy {scipy.__version__}, numpy {np.__version__}, one thread"
    )
    fold(nn.Linear(2, 2), (2,))  # what the first trace imports is no layer's cost
    for seed in parser.parse_args().seeds:
        network(seed)
    small()


if __name__ == "__main__":
    main()
