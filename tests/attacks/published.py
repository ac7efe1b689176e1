"""Published MNIST networks and test images, for the kernels' tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from metaeval.attacks import noise
from metaeval.hashing import hash_samples


def network(shared_data: Path, name: str) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )
    model.load_state_dict(load_file(shared_data / "models" / f"{name}.safetensors"))
    return model.eval()


def correct_samples(shared_data: Path, model: nn.Module, n: int) -> tuple[Tensor, Tensor]:
    """Return the first n MNIST test images that the model classifies correctly, with labels."""
    with np.load(shared_data / "mnist.npz") as arrays:
        x = torch.from_numpy(arrays["x_test"][: 2 * n + 10, None].astype(np.float32) / 255)
        y = torch.from_numpy(arrays["y_test"][: 2 * n + 10].astype(np.int64))
    with torch.no_grad():
        correct = model(x).argmax(dim=1) == y
    return x[correct][:n].contiguous(), y[correct][:n].contiguous()


def sample_keys(x: Tensor, epsilon: Tensor, seed: int = 0) -> Tensor:
    return noise.sample_keys(seed, hash_samples(x.numpy()), epsilon.tolist())
