"""Path norms against enumeration of every path."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from normed import Normalized, Residual, folded, trained_norms
from torch import nn

from metaeval.measures.path import log_path_norm
from metaeval.measures.spec import Undefined, Unsupported

Edges = list[tuple[int, int, float]]


def dense(module: nn.Module, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return matrix, offset and output shape of an affine module, from its answers to unit vectors."""
    module, size = module.double(), math.prod(shape)
    with torch.no_grad():
        offset = module(torch.zeros((1, *shape), dtype=torch.float64))
        units = module(torch.eye(size, dtype=torch.float64).reshape(size, *shape)) - offset
    return units.flatten(1).T.numpy(), offset.flatten().numpy(), tuple(offset.shape[1:])


def windows(module: nn.MaxPool2d, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return which inputs each output of max-pooling can be, as a matrix of zeros and ones."""
    size = math.prod(shape)
    low = torch.zeros((size, size), dtype=torch.float64)
    low[range(size), range(size)] = 1.0
    out = module(low.reshape(size, *shape))
    return out.flatten(1).T.numpy(), np.zeros(math.prod(out.shape[1:])), tuple(out.shape[1:])


def enumerated(modules: list[nn.Module], shape: tuple[int, ...], order: int) -> float:
    """Return the path norm by walking along every path from inputs and biases to outputs."""
    steps = []
    for module in modules:
        if isinstance(module, nn.ReLU):
            continue
        matrix, offset, shape = (windows if isinstance(module, nn.MaxPool2d) else dense)(module, shape)
        steps.append((np.abs(matrix) ** order, np.abs(offset) ** order))
    edges = [
        [(target, source, matrix[target, source]) for target, source in zip(*matrix.nonzero(), strict=True)]
        for matrix, _ in steps
    ]
    total = 0.0

    def walk(unit: int, layer: int, product: float) -> None:
        nonlocal total
        if layer == len(steps):
            total += product
            return
        for target, source, weight in edges[layer]:
            if source == unit:
                walk(int(target), layer + 1, product * float(weight))

    for unit in range(steps[0][0].shape[1]):
        walk(unit, 0, 1.0)
    for layer, (_, offset) in enumerate(steps):
        for unit, value in enumerate(offset):
            if value:
                walk(unit, layer + 1, float(value))
    return math.log(total) / order


POOLED: list[tuple[str, Callable[[], list[nn.Module]], tuple[int, ...]]] = [
    ("linear", lambda: [nn.Linear(3, 2)], (3,)),
    ("mlp", lambda: [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)], (3,)),
    (
        "max-pooling",
        lambda: [
            nn.Conv2d(1, 2, 2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Flatten(),
            nn.Linear(8, 2),
        ],
        (1, 3, 3),
    ),
    (
        "overlapping max-pooling, rounded up",
        lambda: [nn.MaxPool2d(2, stride=2, ceil_mode=True), nn.Conv2d(1, 1, 2), nn.Flatten()],
        (1, 5, 3),
    ),
    (
        "average pooling with padding",
        lambda: [
            nn.Conv2d(1, 2, 2),
            nn.ReLU(),
            nn.AvgPool2d(2, stride=1, padding=1),
            nn.Flatten(),
            nn.Linear(18, 2),
        ],
        (1, 3, 3),
    ),
    (
        "average pooling that counts no padding",
        lambda: [nn.AvgPool2d(2, padding=1, count_include_pad=False), nn.Conv2d(1, 2, 2), nn.Flatten()],
        (1, 3, 3),
    ),
    ("average pooling in one dimension", lambda: [nn.Conv1d(1, 2, 2), nn.AvgPool1d(2), nn.Flatten()], (1, 5)),
    (
        "adaptive pooling of unequal windows",
        lambda: [nn.Conv2d(1, 1, 2), nn.ReLU(), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(6, 2)],
        (1, 4, 5),
    ),
    (
        "global pooling",
        lambda: [nn.Conv2d(1, 2, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        (1, 3, 3),
    ),
]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    ("modules", "shape"), [case[1:] for case in POOLED], ids=[case[0] for case in POOLED]
)
def test_every_path_is_counted(
    modules: Callable[[], list[nn.Module]], shape: tuple[int, ...], order: int
) -> None:
    torch.manual_seed(0)
    chain = modules()
    found = log_path_norm(folded(nn.Sequential(*chain), shape), shape, order=order)
    assert found == pytest.approx(enumerated(chain, shape, order), abs=1e-6)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=5), st.booleans(), st.integers(0, 999))
def test_networks_of_any_width(widths: list[int], bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    chain: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        chain += [nn.Linear(before, after, bias=bias), nn.ReLU()]
    network = folded(nn.Sequential(*chain), (widths[0],))
    for order in (1, 2):
        found = log_path_norm(network, (widths[0],), order=order)
        assert found == pytest.approx(enumerated(chain, (widths[0],), order), abs=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_a_residual_network_is_the_sum_over_its_branches(order: int) -> None:
    """Paths of a residual network, by matrices of each of its parts."""
    torch.manual_seed(0)
    module = trained_norms(Residual())
    found = log_path_norm(folded(module, (3, 6, 6)), (3, 6, 6), order=order)

    def affine(*parts: nn.Module, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
        matrix, offset, _ = dense(nn.Sequential(*parts), shape)
        return lambda x: np.abs(matrix) ** order @ x + np.abs(offset) ** order

    stem = affine(module.stem, module.norm1, shape=(3, 6, 6))(np.ones(108))
    inner = affine(module.conv1, module.norm2, shape=(6, 6, 6))(stem)
    inner = affine(module.conv2, shape=(6, 3, 3))(inner) + affine(module.short, shape=(6, 6, 6))(stem)
    pooled = affine(nn.AdaptiveAvgPool2d(1), nn.Flatten(), shape=(6, 3, 3))(inner)
    total = affine(module.head, shape=(6,))(pooled).sum()
    assert found == pytest.approx(math.log(total) / order, abs=1e-5)


@pytest.mark.parametrize("order", [1, 2])
def test_input_normalization_is_the_first_layer(order: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(3, 2)
    found = log_path_norm(folded(Normalized(linear, [0.5], [0.25]), (3,)), (3,), order=order)
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    paths = (np.abs(weight) / 0.25) ** order  # from inputs
    offsets = (np.abs(weight) * 0.5 / 0.25) ** order  # from what normalization subtracts
    total = paths.sum() + offsets.sum() + (np.abs(bias) ** order).sum()
    assert found == pytest.approx(math.log(total) / order, abs=1e-6)


def test_sums_beyond_the_range_of_floats() -> None:
    """80 layers that hand on (a, a) as c a - (c - 1) a: logits stay small, paths multiply by 2 c - 1."""
    factor, depth = 8192.0, 80
    chain = nn.Sequential(
        *[nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU()) for _ in range(depth + 1)],
        nn.Linear(2, 1, bias=False),
    )
    for parameter in chain.parameters():
        parameter.data[:] = torch.tensor([factor, 1 - factor])
    chain[0][0].weight.data[:] = chain[-1].weight.data[:] = 0.5
    found = log_path_norm(folded(chain, (2,)), (2,), order=1)
    assert found == pytest.approx(depth * math.log(2 * factor - 1))
    assert found > math.log(np.finfo(float).max)


@pytest.mark.parametrize("bias", [False, True])
def test_sums_below_the_range_of_floats(bias: bool) -> None:
    depth, scale = 60, 1e-8
    chain = nn.Sequential(
        *[nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU()) for _ in range(depth)], nn.Linear(2, 1, bias)
    )
    for parameter in chain.parameters():
        parameter.data.fill_(scale)
    expected = math.log(scale) if bias else (depth + 1) * math.log(2 * scale)
    assert log_path_norm(folded(chain, (2,)), (2,), order=1) == pytest.approx(expected)


def test_a_cast_changes_nothing() -> None:
    class Cast(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.to(torch.float32)).float()

    torch.manual_seed(0)
    module = Cast(3, 2)
    found = log_path_norm(folded(module, (3,)), (3,), order=1)
    expected = sum(float(parameter.abs().sum()) for parameter in module.parameters())
    assert found == pytest.approx(math.log(expected))


def test_a_reason_that_is_found_on_the_way_is_one_line() -> None:
    class Weighted(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.add(x, super().forward(x).relu(), alpha=0.5)

    with pytest.raises(Unsupported, match=r"^path norms: network adds with a factor$"):
        log_path_norm(folded(Weighted(3, 3), (3,)), (3,), order=1)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh()), r"1 \(tanh\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU()), r"1 \(leaky_relu\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), r"1 \(layer_norm\)"),
    ],
)
def test_other_networks_are_refused_by_name(module: nn.Module, name: str) -> None:
    with pytest.raises(Unsupported, match=name):
        log_path_norm(folded(module, (4,)), (4,), order=1)


def test_a_network_without_paths_has_no_path_norm() -> None:
    module = nn.Linear(4, 2)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    with pytest.raises(Undefined, match="zero"):
        log_path_norm(folded(nn.Sequential(module), (4,)), (4,), order=1)
