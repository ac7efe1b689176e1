"""Singular values of the linear maps that layers really apply."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from metaeval.measures.layers import Layer
from metaeval.measures.spec import Unsupported

METHODS = ("operator", "circular", "reshaped")
DENSE = 256  # rows or columns up to which a matrix is decomposed outright
BLOCK = 2  # nearly equal singular values come in pairs, which a single vector takes for one
COLUMNS = 240
MEMORY = 2**29  # bytes for the basis
APPLICATIONS = 3000
CHECKED = 1.06  # growth of the basis between two looks at its Ritz values
COARSE, FINE = 1e-8, 1e-11  # relative error in the squared singular value, estimated from the residual


@dataclass(frozen=True)
class Largest:
    """The largest singular value of a map and what it cost.

    Attributes
    ----------
    value : float
        A lower bound of it up to rounding.
    error : float
        Estimated relative error.
    forwards, adjoints : int
        Vectors sent through the map and through its adjoint.
    """

    value: float
    error: float = 0.0
    forwards: int = 0
    adjoints: int = 0


def operator_norm(layer: Layer) -> Largest:
    """Return the largest singular value of a layer's map, at its input size, stride, padding and groups.

    Small matrices and kernels of one pixel are decomposed; else block Lanczos with full orthogonalization
    (Golub and Underwood 1977) on the Gram operator, in float32 to come near and in float64 to finish.
    """
    if layer.kind == "diagonal":
        return Largest(float(layer.weight.abs().max()))
    sizes = math.prod(layer.source), math.prod(layer.target)
    if layer.kind == "linear" or _is_one_pixel(layer):
        matrices = _matrices(layer)
        if min(matrices.shape[-2:]) <= DENSE or layer.kind == "convolution":
            return Largest(float(torch.linalg.matrix_norm(matrices, 2).max()))
    elif min(sizes) <= DENSE:
        matrix = dense(layer)
        return Largest(float(torch.linalg.matrix_norm(matrix, 2)), 0.0, sizes[0])
    return _lanczos(layer)


def dense(layer: Layer) -> torch.Tensor:
    """Return the matrix of a layer's map, (outputs, inputs) in float64."""
    size = math.prod(layer.source)
    identity = torch.eye(size, dtype=torch.float64, device=layer.weight.device)
    return layer.apply(identity.reshape(size, *layer.source)).reshape(size, -1).T


def circular_values(layer: Layer) -> torch.Tensor:
    """Return all singular values of a layer's map on a torus, largest first; each bounds the map's own.

    The torus is the smallest on which the map with zero padding is a part of the circular one, whose symbol
    is decomposed at each frequency (Sedghi, Gupta and Long 2019; strides as by Senderovich et al. 2022).
    Linear layers have their own singular values.

    Raises
    ------
    Unsupported
        If the padding is other than zeros.
    """
    if layer.kind == "diagonal":
        return _descending(layer.weight.abs().expand(layer.source))
    if layer.kind == "linear":
        times = math.prod(layer.source[:-1])
        return _descending(torch.linalg.svdvals(layer.weight).repeat_interleave(times))
    if layer.mode != "constant":
        raise Unsupported(f"{layer.name}: no circular singular values with {layer.mode} padding")
    kernel, phases = layer.weight, []
    sizes = [_torus(layer, dim) for dim in range(len(layer.stride))]
    spread = kernel.new_zeros((*kernel.shape[:2], *sizes))
    places = [
        torch.arange(width, device=kernel.device) * step
        for width, step in zip(kernel.shape[2:], layer.dilation, strict=True)
    ]
    rows, columns = (torch.arange(width, device=kernel.device) for width in kernel.shape[:2])
    spread[torch.meshgrid(rows, columns, *places, indexing="ij")] = kernel
    for size, stride in zip(sizes, layer.stride, strict=True):
        phases += [size // stride, stride]
    dims = len(sizes)
    split = spread.reshape(layer.groups, kernel.shape[0] // layer.groups, kernel.shape[1], *phases)
    frequencies, steps = ([3 + 2 * dim + odd for dim in range(dims)] for odd in (0, 1))
    symbol = torch.fft.rfftn(split, dim=frequencies)
    matrices = symbol.permute(0, *frequencies, 1, 2, *steps).flatten(dims + 2)
    values = torch.linalg.svdvals(matrices)
    last = phases[-2]  # a frequency and its negative have the same singular values; half of them are there
    twice = torch.tensor([1 if 2 * k in (0, last) else 2 for k in range(last // 2 + 1)], device=values.device)
    return _descending(values.repeat_interleave(twice, dim=-2))


def reshaped_values(layer: Layer) -> torch.Tensor:
    """Return the singular values of the kernel as a matrix (out, in / groups x kernel), largest first."""
    if layer.kind == "diagonal":
        return _descending(layer.weight.abs())
    return _descending(torch.linalg.svdvals(layer.weight.flatten(1)))


def row_norms(layer: Layer, method: str) -> torch.Tensor:
    """Return the Euclidean norm of each row of a layer's map, by a convention of `METHODS`.

    For the operator a weight counts where it meets an input; on the torus it counts at every pixel.

    Raises
    ------
    Unsupported
        If the padding is other than zeros.
    """
    if layer.kind == "convolution" and method != "operator":
        rows: torch.Tensor = layer.weight.flatten(1).norm(dim=1)
        if method == "reshaped":
            return rows
        if layer.mode != "constant":
            raise Unsupported(f"{layer.name}: no torus with {layer.mode} padding")
        pixels = (_torus(layer, dim) // stride for dim, stride in enumerate(layer.stride))
        return rows.repeat(math.prod(pixels))
    if method == "reshaped":
        weight = layer.weight.reshape(-1, 1) if layer.kind == "diagonal" else layer.weight
        lengths: torch.Tensor = torch.linalg.vector_norm(weight, dim=1)
        return lengths
    if layer.mode != "constant":
        raise Unsupported(f"{layer.name}: rows of a map with {layer.mode} padding are not defined here")
    ones = torch.ones((1, *layer.source), dtype=torch.float64, device=layer.weight.device)
    return layer.apply(ones, layer.weight.square()).flatten().sqrt()


def _torus(layer: Layer, dim: int) -> int:
    """Return the size of the torus: no output may wrap around to an input that it does not see."""
    stride, (before, after) = layer.stride[dim], layer.padding[dim]
    extent = layer.dilation[dim] * (layer.weight.shape[2 + dim] - 1) + 1
    least = max(layer.source[1 + dim] + max(before, after), stride * layer.target[1 + dim], extent)
    return -(-least // stride) * stride


def _descending(values: torch.Tensor) -> torch.Tensor:
    return torch.sort(values.flatten(), descending=True)[0]


def _is_one_pixel(layer: Layer) -> bool:
    """Tell whether the map applies one matrix (per group) to each pixel that it reads."""
    return (
        layer.kind == "convolution"
        and math.prod(layer.weight.shape[2:]) == 1
        and layer.mode == "constant"
        and all(
            (-before) % stride < size
            for size, stride, (before, _) in zip(layer.source[1:], layer.stride, layer.padding, strict=True)
        )
    )


def _matrices(layer: Layer) -> torch.Tensor:
    if layer.kind == "linear":
        return layer.weight[None]
    return layer.weight.reshape(layer.groups, layer.weight.shape[0] // layer.groups, -1)


Gram = Callable[[torch.Tensor], torch.Tensor]


def _lanczos(layer: Layer) -> Largest:
    wide = math.prod(layer.source) > math.prod(layer.target)
    size = math.prod(layer.target if wide else layer.source)
    draw = torch.Generator().manual_seed(0)
    start = torch.randn((BLOCK, size), generator=draw).to(layer.weight.device)
    largest = float(layer.weight.abs().max())
    if largest == 0:
        return Largest(0.0)
    near = _top(partial(_gram, layer, layer.weight.float() / largest, wide), start, COARSE, COLUMNS)
    done = _top(partial(_gram, layer, layer.weight / largest, wide), near.vectors.double(), FINE, COLUMNS)
    count = near.applications + done.applications
    return Largest(largest * math.sqrt(done.value), done.error / 2, count, count)


def _gram(layer: Layer, weight: torch.Tensor, wide: bool, rows: torch.Tensor) -> torch.Tensor:
    """Return A'A (or AA' if the map has more inputs than outputs) of row vectors."""

    def adjoint(y: torch.Tensor) -> torch.Tensor:
        x = torch.zeros((len(y), *layer.source), dtype=y.dtype, device=y.device, requires_grad=True)
        with torch.enable_grad():
            (found,) = torch.autograd.grad(layer.apply(x, weight), x, y)
        return found

    with torch.no_grad():
        if wide:
            result = layer.apply(adjoint(rows.reshape(-1, *layer.target)), weight)
        else:
            result = adjoint(layer.apply(rows.reshape(-1, *layer.source), weight))
    return result.flatten(1)


@dataclass(frozen=True)
class _Top:
    value: float
    error: float
    vectors: torch.Tensor
    applications: int


def _top(gram: Gram, start: torch.Tensor, tolerance: float, columns: int) -> _Top:
    """Return the largest eigenvalue of a Gram operator, with the BLOCK + 1 leading Ritz vectors as rows."""
    size = start.shape[1]
    columns = max(2 * len(start) + BLOCK, min(columns, MEMORY // (size * start.element_size())))
    tiny = 8 * torch.finfo(start.dtype).eps
    applications = 0
    while True:
        basis = start.new_zeros((columns, size))
        projected = torch.zeros((columns, columns), dtype=torch.float64, device=start.device)
        used, check, scale, block = 0, 0, 0.0, _orthonormal(start, 0.0)
        while True:
            count, end = len(block), used + len(block)
            basis[used:end] = block
            image = gram(block)
            applications += count
            scale = max(scale, float(image.norm(dim=1).max()))
            coefficients = basis[:end] @ image.T
            image -= coefficients.T @ basis[:end]
            again = basis[:end] @ image.T
            image -= again.T @ basis[:end]
            projected[:end, used:end] = (coefficients + again).double()
            projected[used:end, :end] = projected[:end, used:end].T.clone()
            used = end
            block = _orthonormal(image, tiny * scale)
            if len(block):  # normalizing magnified what rounding left of the basis
                block = _orthonormal(block - (block @ basis[:used].T) @ basis[:used], 0.5)
            spent = applications >= APPLICATIONS or used + len(block) > columns
            if used < check and len(block) and not spent:
                continue
            check = int(CHECKED * used)
            values, vectors = torch.linalg.eigh(projected[:used, :used])
            value = float(values[-1])
            residual = float((image.T.double() @ vectors[used - count : used, -1]).norm())
            rest = float(values[-1 - BLOCK]) if used > BLOCK else 0.0
            gap = max(value - rest, residual, torch.finfo(torch.float64).tiny)
            error = residual * min(1.0, residual / gap) / max(value, torch.finfo(torch.float64).tiny)
            exhausted = not len(block) or residual <= tiny * max(value, scale)
            if exhausted or error <= tolerance or spent:
                break
        keep = vectors[:, -min(BLOCK + 1, used) :].T.to(basis.dtype)
        start = keep @ basis[:used]
        if exhausted or error <= tolerance or applications >= APPLICATIONS:
            return _Top(max(value, 0.0), error, start, applications)


def _orthonormal(rows: torch.Tensor, least: float) -> torch.Tensor:
    """Return orthonormal rows of the same span, without directions shorter than `least`."""
    q, r = torch.linalg.qr(rows.T)
    kept: torch.Tensor = q.T[r.diagonal().abs() > least]
    return kept
