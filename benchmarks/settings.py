"""What the sweep is measured on: published small robust networks, real images, eight epsilons each."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from metaeval.sources.models.architectures import lenet_small

VARIABLE = "METAEVAL_SHARED_DATA"
LEVELS = 8
CIFAR_MEAN, CIFAR_DEVIATION = (0.485, 0.456, 0.406), (0.225, 0.225, 0.225)


@dataclass(frozen=True)
class Setting:
    """A model, a norm and a grid: eight equal steps from 0 to `largest`, where few samples are robust."""

    name: str
    weights: str
    data: str
    norm: str
    largest: float

    @property
    def epsilons(self) -> list[float]:
        """The eight positive epsilons."""
        return [self.largest * k / LEVELS for k in range(1, LEVELS + 1)]


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("mnist-mmr-linf", "mmr_univ_mnist", "mnist", "linf", 0.3),
        Setting("mnist-mmr-l2", "mmr_univ_mnist", "mnist", "l2", 3.0),
        Setting("mnist-kw-linf", "kw_mnist", "mnist", "linf", 0.2),
        Setting("cifar-kw-l2", "kw_cifar10_l2", "cifar10-jpeg", "l2", 2.0),
        Setting("cifar-kw-linf", "kw_cifar10_l2", "cifar10-jpeg", "linf", 12 / 255),
    )
}


def shared_data() -> Path:
    """Return the folder of the shared data.

    Raises
    ------
    SystemExit
        If the variable that names it is not set or names no folder.
    """
    folder = Path(os.environ.get(VARIABLE, "../shared/data"))
    if not folder.is_dir():
        raise SystemExit(f"there is no folder {folder}; set {VARIABLE} to the folder of the shared data")
    return folder


class Normalized(nn.Module):
    """A network behind the normalisation of its inputs, per channel."""

    def __init__(self, network: nn.Module, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.deviation)


class Scaled(nn.Module):
    """A model whose logits are multiplied: the softmax saturates, and cross-entropy loses its gradient."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * self.factor


def load_model(setting: Setting) -> nn.Module:
    """Return a setting's network on inputs in [0, 1]."""
    colour = setting.data != "mnist"
    network: nn.Module = lenet_small((3, 32, 32) if colour else (1, 28, 28), 10)
    network.load_state_dict(load_file(shared_data() / "models" / f"{setting.weights}.safetensors"))
    if colour:
        network = Normalized(network, CIFAR_MEAN, CIFAR_DEVIATION)
    return network.eval().requires_grad_(False)


def load_samples(setting: Setting, model: nn.Module, count: int) -> tuple[Tensor, Tensor]:
    """Return the first `count` test samples that the model classifies correctly, and their labels.

    MNIST in its own order; the JPEG images, which lie in one folder per class, one class after the other
    in turn.
    """
    x, y = _mnist(4 * count) if setting.data == "mnist" else _cifar_jpeg(4 * count)
    with torch.no_grad():
        correct = model(x).argmax(dim=1) == y
    if int(correct.sum()) < count:
        raise SystemExit(f"{setting.name} has fewer than {count} correctly classified samples in reach")
    return x[correct][:count].contiguous(), y[correct][:count].contiguous()


def _mnist(count: int) -> tuple[Tensor, Tensor]:
    with np.load(shared_data() / "mnist.npz") as arrays:
        pixels, labels = arrays["x_test"][:count, None], arrays["y_test"][:count]
    return torch.from_numpy(pixels.astype(np.float32) / 255), torch.from_numpy(labels.astype(np.int64))


def _cifar_jpeg(count: int) -> tuple[Tensor, Tensor]:
    """Return the first images of each class of the test folder, the classes in turn."""
    folders: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shared_data() / "cifar10-images.tar.xz") as archive:
        for member in archive:
            *around, name = Path(member.name).parts
            if member.isfile() and len(around) > 1 and around[-2] == "test" and name.endswith(".jpg"):
                content = archive.extractfile(member)
                assert content is not None
                folders.setdefault(around[-1], {})[name] = content.read()
    each = -(-count // len(folders))
    images = [
        (_decoded(files[name]), label)
        for names in zip(*(sorted(folders[folder])[:each] for folder in sorted(folders)), strict=True)
        for label, (name, files) in enumerate(
            zip(names, (folders[folder] for folder in sorted(folders)), strict=True)
        )
    ]
    pixels = np.stack([image for image, _ in images[:count]]).astype(np.float32) / 255
    return torch.from_numpy(pixels), torch.tensor([label for _, label in images[:count]])


def _decoded(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
