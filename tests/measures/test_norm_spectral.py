"""Spectral norms against matrices built by applying a layer to the identity, and against torch's own SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from normed import Normalized, folded_layers
from torch import nn

from metaeval.measures import spectral
from metaeval.measures.spec import Unsupported


def matrix(module: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a layer's matrix, (outputs, inputs), from its answers to unit vectors and to zero."""
    module, size = module.double(), int(np.prod(shape))
    with torch.no_grad():
        units = module(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1)
        return (units - module(torch.zeros((1, *shape), dtype=torch.float64)).flatten(1)).T


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, ...]]:
    dims = draw(st.sampled_from([1, 2]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(dims))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(dims))
    sizes = tuple(
        draw(st.integers(max(1, step * (width - 1) + 1 - 2 * pad), 8))
        for width, step, pad in zip(kernel, dilation, padding, strict=True)
    )
    torch.manual_seed(draw(st.integers(0, 10_000)))
    layer = (nn.Conv1d, nn.Conv2d)[dims - 1]
    module = layer(*channels, kernel, stride, padding, dilation, groups, bias=draw(st.booleans()))
    return module, (channels[0], *sizes)


@settings(max_examples=30, deadline=None)
@given(convolutions(), st.booleans())
def test_any_convolution_is_its_matrix(drawn: tuple[nn.Module, tuple[int, ...]], iterate: bool) -> None:
    module, shape = drawn
    (layer,) = folded_layers(nn.Sequential(module, nn.Flatten()), shape)
    expected = matrix(module, shape)
    values = torch.linalg.svdvals(expected)
    found = spectral._lanczos(layer) if iterate else spectral.operator_norm(layer)
    assert found.value == pytest.approx(float(values[0]), rel=1e-6, abs=1e-12)
    torch.testing.assert_close(spectral.dense(layer), expected, rtol=1e-6, atol=1e-12)
    rows = spectral.row_norms(layer, "operator")
    torch.testing.assert_close(rows, expected.norm(dim=1), rtol=1e-6, atol=1e-12)
    circular = spectral.circular_values(layer)
    assert len(circular) >= len(values)
    assert bool((circular[: len(values)] >= values - 1e-6).all())  # each, not only the largest


@pytest.mark.parametrize(
    ("channels", "size", "options"),
    [
        ((3, 8), 13, {"kernel_size": 3, "padding": 1}),
        ((8, 6), 12, {"kernel_size": 4, "stride": 2, "padding": 1}),
        ((6, 6), 11, {"kernel_size": 3, "dilation": 2, "padding": "same", "groups": 2}),
        ((4, 8), 11, {"kernel_size": 5, "stride": 3, "padding": 2, "padding_mode": "reflect"}),
        ((4, 8), 9, {"kernel_size": 3, "padding": (0, 1), "padding_mode": "circular"}),
        ((4, 6), 10, {"kernel_size": 3, "padding": 2, "padding_mode": "replicate"}),
    ],
)
def test_larger_convolutions_by_iteration(
    channels: tuple[int, int], size: int, options: dict[str, object]
) -> None:
    torch.manual_seed(0)
    module, shape = nn.Conv2d(*channels, **options), (channels[0], size, size)
    (layer,) = folded_layers(nn.Sequential(module), shape)
    expected = matrix(module, shape)
    found = spectral.operator_norm(layer)
    assert found.forwards > 0
    assert found.value == pytest.approx(float(torch.linalg.matrix_norm(expected, 2)), rel=1e-8)
    if options.get("padding_mode"):
        with pytest.raises(Unsupported, match=str(options["padding_mode"])):
            spectral.circular_values(layer)
        with pytest.raises(Unsupported, match="padding"):
            spectral.row_norms(layer, "operator")


def test_nearly_equal_singular_values_are_not_mistaken() -> None:
    """A torus has its singular values in pairs; one direction alone would stop at a mixture of both."""
    torch.manual_seed(0)
    module, shape = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (4, 12, 12)
    (layer,) = folded_layers(nn.Sequential(module), shape)
    values = torch.linalg.svdvals(matrix(module, shape))
    assert float(values[0] - values[1]) < 1e-6
    assert spectral._lanczos(layer).value == pytest.approx(float(values[0]), rel=1e-9)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_circular_values_are_those_of_a_torus(stride: int) -> None:
    """Without padding on a size that needs no larger torus, it is the circular convolution by stride."""
    torch.manual_seed(0)
    module = nn.Conv2d(2, 3, 3, stride=stride, padding=1)
    (layer,) = folded_layers(nn.Sequential(module), (2, 11, 11))
    size = spectral._torus(layer, 0)
    around = nn.Conv2d(2, 3, 3, stride=stride, padding=1, padding_mode="circular").double()
    around.load_state_dict(module.state_dict())
    expected = torch.linalg.svdvals(matrix(around, (2, size, size)))
    found = spectral.circular_values(layer)
    torch.testing.assert_close(found[: len(expected)], expected[: len(found)], rtol=1e-6, atol=1e-9)
    rows = spectral.row_norms(layer, "circular")
    assert float(rows.norm()) == pytest.approx(float(expected.norm()), rel=1e-6)


def test_a_finite_strip_may_exceed_a_torus_of_its_own_size() -> None:
    """w = (1, -1) on 5 pixels: 2 cos(pi / 11) with zero padding, 2 sin(2 pi / 5) on 5 pixels around."""
    module = nn.Conv1d(1, 1, 2, bias=False)
    module.weight.data = torch.tensor([[[1.0, -1.0]]])
    network = nn.Sequential(nn.ConstantPad1d((1, 0), 0.0), module)
    (layer,) = folded_layers(network, (1, 5))
    exact = 2 * np.cos(np.pi / 11)
    assert spectral.operator_norm(layer).value == pytest.approx(exact)
    assert float(spectral.circular_values(layer)[0]) >= exact > 2 * np.sin(2 * np.pi / 5)


@pytest.mark.parametrize("shape", [(12,), (700,), (5, 12)])
def test_linear_layers(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = nn.Linear(shape[-1], 400)
    (layer,) = folded_layers(nn.Sequential(module, nn.Flatten()), shape)
    values = torch.linalg.svdvals(module.weight.detach().double())
    assert spectral.operator_norm(layer).value == pytest.approx(float(values[0]), rel=1e-9)
    positions = int(np.prod(shape[:-1]))
    assert float(spectral.circular_values(layer).sum()) == pytest.approx(positions * float(values.sum()))
    assert float(spectral.row_norms(layer, "operator").norm()) == pytest.approx(
        float(module.weight.detach().double().norm()) * positions**0.5
    )


def test_reshaped_is_the_kernel_as_a_matrix() -> None:
    module = nn.Conv2d(3, 5, 3, padding=1)
    (layer,) = folded_layers(nn.Sequential(module), (3, 6, 6))
    kernel = module.weight.detach().reshape(5, 27)
    expected = torch.linalg.svdvals(kernel.double())
    torch.testing.assert_close(spectral.reshaped_values(layer), expected)
    assert float(spectral.row_norms(layer, "reshaped").norm()) == pytest.approx(float(kernel.norm()))


def test_a_kernel_of_zeros_has_norm_zero() -> None:
    module = nn.Conv2d(3, 8, 3, padding=1)
    nn.init.zeros_(module.weight)
    (layer,) = folded_layers(nn.Sequential(module), (3, 20, 20))
    assert spectral.operator_norm(layer).value == 0


@pytest.mark.parametrize("padded", [False, True])
def test_input_normalization_is_part_of_the_first_layer(padded: bool) -> None:
    torch.manual_seed(0)
    first: list[nn.Module] = [nn.ZeroPad2d((0, 1, 1, 2))] if padded else []
    inner = nn.Sequential(*first, nn.Conv2d(3, 4, 3), nn.ReLU())
    module = Normalized(inner, [0.5, 0.4, 0.3], [0.2, 0.5, 2.0])
    layers = folded_layers(module, (3, 7, 7))
    assert [layer.kind for layer in layers] == ["convolution"]
    linear = nn.Sequential(*list(inner)[:-1])
    expected = matrix(Normalized(linear, [0.5, 0.4, 0.3], [0.2, 0.5, 2.0]), (3, 7, 7))
    torch.testing.assert_close(spectral.dense(layers[0]), expected, rtol=1e-6, atol=1e-7)


def test_input_normalization_of_flattened_images_is_part_of_the_first_layer() -> None:
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    module = Normalized(linear, [0.5, 0.4, 0.3], [0.2, 0.5, 2.0])
    (layer,) = folded_layers(module, (3, 4, 4))
    torch.testing.assert_close(layer.weight, matrix(module, (3, 4, 4)), rtol=1e-6, atol=1e-7)


def test_input_normalization_of_two_branches_is_a_layer_of_its_own() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.left(x).relu() + self.right(x)

    layers = folded_layers(Normalized(Branches(), [0.5], [0.25]), (6,))
    assert [layer.kind for layer in layers] == ["diagonal", "linear", "linear"]
    assert spectral.operator_norm(layers[0]).value == 4
