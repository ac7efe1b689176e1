"""The built-in architectures: layers as documented, for every shape of input."""

from __future__ import annotations

import pytest
import torch

from metaeval.errors import UsageError
from metaeval.sources.models.architectures import cnn, lenet_small, mlp
from metaeval.sources.models.residual import BasicBlock
from metaeval.sources.models.resnet import resnet
from metaeval.sources.models.vgg import vgg


@pytest.mark.parametrize(("shape", "units"), [((1, 28, 28), 1568), ((3, 32, 32), 2048), ((1, 8, 8), 128)])
def test_lenet_small_is_the_published_network(shape: tuple[int, ...], units: int) -> None:
    model = lenet_small(shape, 10)
    sizes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert sizes == {
        "0.weight": (16, shape[0], 4, 4),
        "0.bias": (16,),
        "2.weight": (32, 16, 4, 4),
        "2.bias": (32,),
        "5.weight": (100, units),
        "5.bias": (100,),
        "7.weight": (10, 100),
        "7.bias": (10,),
    }
    assert model(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 7, 9), (3, 16, 16), (1, 28, 28), (3, 32, 32), (3, 33, 40)])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_cnn_takes_images_of_every_size(shape: tuple[int, ...], depth: int, kernel: int) -> None:
    model = cnn(shape, 7, depth=depth, width=4, kernel=kernel)
    assert model(torch.zeros(2, *shape)).shape == (2, 7)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in model) == depth


def test_cnn_has_as_many_parameters_as_its_description_says() -> None:
    plain = cnn((1, 8, 8), 10, depth=2, width=16, batch_norm=False)
    # 3x3 from 1 to 16, one halving to 4x4, 3x3 from 16 to 32, then linear
    assert count(plain) == (9 * 1 * 16 + 16) + (9 * 16 * 32 + 32) + (32 * 4 * 4 * 10 + 10)
    normalized = cnn((1, 8, 8), 10, depth=2, width=16, batch_norm=True)
    assert count(normalized) == count(plain) + 16 + 32  # scale and shift in place of the bias


@pytest.mark.parametrize(
    ("depth", "convolutions"), [(11, 9_220_480), (13, 9_404_992), (16, 14_714_688), (19, 20_024_384)]
)
def test_vgg_has_the_published_convolutions(depth: int, convolutions: int) -> None:
    """Parameters before the linear layers, as published with the ImageNet networks (Keras, torchvision)."""
    with torch.device("meta"):
        plain = vgg((3, 32, 32), 10, depth=depth, width=64, batch_norm=False)
        normalized = vgg((3, 32, 32), 10, depth=depth, width=64)
    assert count(plain) == convolutions + 512 * 10 + 10
    channels = sum(layer.out_channels for layer in plain if isinstance(layer, torch.nn.Conv2d))
    assert count(normalized) == count(plain) + channels  # scale and shift in place of the bias


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 7, 9), (1, 28, 28), (3, 32, 32), (3, 1, 1), (3, 64, 64)])
@pytest.mark.parametrize("depth", [5, 7, 9, 11])
def test_vgg_takes_images_of_every_size(shape: tuple[int, ...], depth: int) -> None:
    model = vgg(shape, 7, depth=depth, width=2, dropout=0.1)
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]
)
def test_resnet_has_the_published_size(depth: int, parameters: int) -> None:
    """He et al. 2016, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million."""
    with torch.device("meta"):
        model = resnet((3, 32, 32), 10, depth=depth)
    assert count(model) == parameters
    weighted = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(weighted) == depth


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 7, 9), (1, 28, 28), (3, 32, 32), (3, 1, 1)])
def test_resnet_takes_images_of_every_size(shape: tuple[int, ...]) -> None:
    assert resnet(shape, 7, depth=14, width=3)(torch.zeros(2, *shape)).shape == (2, 7)


def test_a_residual_block_without_weights_is_its_shortcut() -> None:
    block = BasicBlock(2, 5, stride=2).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(3, 2, 5, 4)
    found = block(x)
    assert torch.equal(found[:, :2], x[:, :, ::2, ::2])
    assert found.shape == (3, 5, 3, 2)
    assert (found[:, 2:] == 0).all()


def test_dropout_is_there_only_when_asked_for() -> None:
    def dropped(model: torch.nn.Module) -> list[float]:
        return [layer.p for layer in model.modules() if isinstance(layer, torch.nn.Dropout)]

    assert dropped(cnn((1, 8, 8), 10)) == dropped(mlp((64,), 10)) == []
    assert dropped(cnn((1, 8, 8), 10, dropout=0.3)) == [0.3]
    assert dropped(mlp((64,), 10, depth=3, dropout=0.2)) == [0.2] * 3


def test_mlp_takes_vectors_and_images() -> None:
    assert mlp((12,), 3)(torch.zeros(2, 12)).shape == (2, 3)
    assert mlp((3, 4, 5), 3)(torch.zeros(2, 3, 4, 5)).shape == (2, 3)
    assert count(mlp((12,), 3, depth=2, width=5)) == (12 * 5 + 5) + (5 * 5 + 5) + (5 * 3 + 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cnn((64,), 10), "cnn takes images"),
        (lambda: lenet_small((64,), 10), "lenet_small takes images"),
        (lambda: lenet_small((1, 3, 3), 10), "at least 4 x 4 pixels"),
        (lambda: cnn((1, 8, 8), 10, kernel=4), "odd kernel, got 4"),
        (lambda: vgg((64,), 10), "vgg takes images"),
        (lambda: vgg((1, 8, 8), 10, depth=8), "depth of 5, 7, 9, 11, 13, 16, 19, got 8"),
        (lambda: resnet((64,), 10), "resnet takes images"),
        (lambda: resnet((1, 8, 8), 10, depth=18), r"8, 14, 20, \.\.\. \(6 n \+ 2\), got 18"),
        (lambda: resnet((1, 8, 8), 10, depth=2), "got 2"),
    ],
)
def test_what_does_not_fit_is_said(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
