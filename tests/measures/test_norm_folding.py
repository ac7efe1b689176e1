"""Folded networks against the originals, and what is refused with which reason."""

from __future__ import annotations

import copy
import importlib
import importlib.util

import pytest
import torch
from normed import Normalized, PreActivation, Residual, folded, folded_layers, trained_norms
from torch import nn

from metaeval.measures.folding import fold, operation
from metaeval.measures.layers import layers_of
from metaeval.measures.spec import Undefined, Unsupported
from metaeval.measures.spectral import row_norms
from metaeval.sources.models.architectures import cnn, lenet_small, mlp
from metaeval.sources.models.normalized import normalized
from metaeval.sources.models.zoo import import_robustbench

IMAGE = (3, 16, 16)


def _inplace() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(768, 7), nn.BatchNorm1d(7), nn.ReLU(inplace=True), nn.Linear(7, 4)
    )


NETWORKS = {
    "cnn": lambda: cnn(IMAGE, 4, dropout=0.5),
    "lenet": lambda: lenet_small(IMAGE, 4),
    "mlp": lambda: mlp(IMAGE, 4),
    "linear batch norm": _inplace,
    "batch norm without weights": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, affine=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(784, 5),
        nn.BatchNorm1d(5, affine=False),
        nn.ReLU(),
        nn.BatchNorm1d(5, affine=False),
    ),
    "residual": Residual,
    "pre-activation": PreActivation,
    "normalized": lambda: Normalized(Residual(), [0.5, 0.4, 0.3], [0.2, 0.5, 2.0]),
    "ranged": lambda: normalized(Residual(), None, input_range=(-1.0, 1.0)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_networks_answer_like_the_original(name: str) -> None:
    torch.manual_seed(0)
    module = trained_norms(NETWORKS[name]())
    before = copy.deepcopy(module.state_dict())
    network = fold(module, IMAGE)
    assert not any("norm" in operation(node) for node in network.module.graph.nodes)
    for count in (1, 5):
        x = torch.randn(count, *IMAGE)
        with torch.no_grad():
            torch.testing.assert_close(network.module(x), module(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not module.training


def test_batch_norm_is_folded_by_its_formula() -> None:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
    module = trained_norms(nn.Sequential(convolution, norm, nn.ReLU()))
    (layer,) = folded_layers(module, (3, 8, 8))
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(layer.weight.float(), convolution.weight * factor[:, None, None, None])


def test_batch_norm_after_folded_batch_norm_is_folded_too() -> None:
    torch.manual_seed(0)
    module = trained_norms(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5), nn.ReLU()))
    (layer,) = folded_layers(module, (3, 8, 8))
    factor = torch.stack([norm.weight / (norm.running_var + norm.eps).sqrt() for norm in module[1:3]]).prod(0)
    torch.testing.assert_close(layer.weight.float(), module[0].weight * factor[:, None, None, None])


def test_batch_norm_that_follows_no_map_is_a_diagonal_layer() -> None:
    torch.manual_seed(0)
    module = trained_norms(PreActivation())
    found = layers_of(folded(module, IMAGE), IMAGE)
    assert [layer.name for layer in found.maps] == ["stem", "conv1", "conv2", "short", "head"]  # all folded
    torch.manual_seed(0)
    first = trained_norms(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3)))
    diagonal, _ = folded_layers(first, IMAGE)
    factor = first[0].weight / (first[0].running_var + first[0].eps).sqrt()
    assert diagonal.kind == "diagonal"
    torch.testing.assert_close(diagonal.weight.flatten().float(), factor.detach())


def test_batch_norm_of_a_map_that_others_read_too_stays_its_own() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.map(x)
            return self.norm(x).relu() + x

    module = trained_norms(Read())
    found = layers_of(folded(module, (6,)), (6,))
    assert [layer.kind for layer in found.maps] == ["linear", "diagonal"]
    assert found.skips == 1


def test_shared_weights_are_folded_each_with_its_own_batch_norm() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.norms = nn.Linear(6, 6), nn.ModuleList(nn.BatchNorm1d(6) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for norm in self.norms:
                x = norm(self.map(x)).relu()
            return x

    torch.manual_seed(0)
    module = trained_norms(Shared())
    one, two = folded_layers(module, (6,))
    assert not torch.allclose(one.weight, two.weight)


def test_written_values_are_read_by_what_comes_later() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.map(x)
            nn.functional.relu(x, inplace=True)
            return x + 1

    torch.manual_seed(0)
    module = Written().eval()
    x = torch.randn(4, 6)
    assert bool((module(x) == 1).any())
    torch.testing.assert_close(folded(module, (6,)).module(x), module(x))


@pytest.mark.parametrize(
    ("module_name", "arguments"),
    [
        ("wide_resnet.WideResNet", {"depth": 10, "widen_factor": 1}),
        ("dm_wide_resnet.DMWideResNet", {"depth": 10, "width": 1}),
    ],
)
def test_wide_residual_networks_of_the_zoo(module_name: str, arguments: dict[str, int]) -> None:
    if importlib.util.find_spec("robustbench") is None:
        pytest.skip("robustbench is not installed")
    file, name = module_name.split(".")
    architectures = import_robustbench(f"robustbench.model_zoo.architectures.{file}")
    torch.manual_seed(0)
    module = trained_norms(getattr(architectures, name)(**arguments))
    found = layers_of(fold(module, (3, 32, 32)), (3, 32, 32))
    assert not found.unsupported
    assert found.skips == 3
    convolutions = sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in module.modules())
    assert sum(layer.kind != "diagonal" for layer in found.maps) == convolutions


def test_layers_without_a_norm_are_named() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.norm(x)
            return self.head((x + self.mix(x, x, x, need_weights=False)[0]).mean(1))

    torch.manual_seed(0)
    found = layers_of(folded(Attending(), (5, 8)), (5, 8))
    assert "norm (layer_norm)" in found.unsupported
    assert any(name.startswith("mix (") and "attention" in name for name in found.unsupported)
    assert found.maps[-1].name == "head"


class Head(nn.Module):
    """A linear layer on pooled or flattened inputs, written in different ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.map = way, nn.Linear(3 if way == "squeeze" else 12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.way == "squeeze":
            return self.map(nn.functional.adaptive_avg_pool2d(x, 1).squeeze())
        if self.way == "len":
            return self.map(x.view(len(x), -1))
        with torch.no_grad():
            return self.map(x.flatten(1))


@pytest.mark.parametrize("way", ["squeeze", "len", "no gradients"])
def test_ways_to_write_a_head(way: str) -> None:
    torch.manual_seed(0)
    module = Head(way).eval()
    network = folded(module, (3, 2, 2))
    with torch.no_grad():
        for count in (2, 8, 11):
            x = torch.rand(count, 3, 2, 2)
            torch.testing.assert_close(network.module(x), module(x))
    (layer,) = layers_of(network, (3, 2, 2)).maps
    assert layer.source == (module.map.in_features,)
    rows = module.map.weight.detach().double().norm(dim=1)
    torch.testing.assert_close(row_norms(layer, "operator"), rows, rtol=1e-6, atol=0)


def test_a_graph_for_so_many_samples_is_refused() -> None:
    class Tied(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + torch.zeros(len(x), 3)

    with pytest.raises(Unsupported, match="number of samples"):
        folded(Tied(4, 3), (4,))


def test_layers_of_several_outputs_are_named() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.head = nn.GRU(6, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.cells(x)[0][:, -1].chunk(2, dim=1)
            return self.head(torch.cat([left, right], dim=1))

    torch.manual_seed(0)
    found = layers_of(folded(Recurrent(), (5, 6)), (5, 6))
    assert "cells (gru)" in found.unsupported
    assert not any("chunk" in name for name in found.unsupported)
    assert [layer.name for layer in found.maps] == ["head"]


def test_normalization_by_torchvision_is_traced() -> None:
    transforms = pytest.importorskip("torchvision.transforms")  # comes with the extra robustbench
    functional = importlib.import_module("torchvision.transforms.functional")
    torch.manual_seed(0)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.5, 2.0]
    inner = nn.Conv2d(3, 4, 3)
    module = nn.Sequential(transforms.Normalize(mean, std), inner)
    before = functional.normalize
    (layer,), (other,) = folded_layers(module, IMAGE), folded_layers(Normalized(inner, mean, std), IMAGE)
    torch.testing.assert_close(layer.weight, other.weight)
    assert functional.normalize is before


def test_a_failure_to_trace_is_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unsupported):
        fold(_Branching(), (4,))
    assert "torch" not in capfd.readouterr().err


def test_a_gate_is_unsupported_but_swish_is_not() -> None:
    class Gate(nn.Module):
        def __init__(self, swish: bool) -> None:
            super().__init__()
            self.map, self.gate, self.swish = nn.Linear(4, 4), nn.Linear(4, 4), swish

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.map(x)
            return y * torch.sigmoid(y if self.swish else self.gate(x))

    assert not layers_of(folded(Gate(True), (4,)), (4,)).unsupported
    found = layers_of(folded(Gate(False), (4,)), (4,))
    assert found.unsupported == ("network (product of two activations)",)


class _Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


class _Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


class _Infinite(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 0


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (_Branching(), "cannot be traced: "),
        (_Random(), "gives other logits"),
        (_Infinite(), "not finite"),
        (nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)), "without running statistics: 0"),
    ],
    ids=["branching", "random", "infinite", "batch statistics"],
)
def test_what_cannot_be_folded_says_why(module: nn.Module, reason: str) -> None:
    with pytest.raises((Undefined, Unsupported), match=reason):
        fold(module.eval(), (4,))
