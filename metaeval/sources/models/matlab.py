"""Networks published as MATLAB files in TensorFlow's layout, as by Croce and Hein (2020)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from metaeval.errors import UsageError

Array = npt.NDArray[Any]
KINDS = {"conv": 0, "fc": 1, "": 2}  # convolutions come before linear layers


def read_tensorflow(path: Path, module: nn.Module, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return the state dict of a torch module from a ``.mat`` file of a TensorFlow network.

    The file holds ``weights_conv1``, ``biases_conv1``, ..., ``weights_fc1``, ``biases_fc1``, ...; or
    ``weight_0``, ``bias_0``, ...; or ``U``, ``bU``, ``W``, ``bW`` for two linear layers. Kernels are (height,
    width, in, out), matrices (in, out), and images are flattened with their channels last.

    Parameters
    ----------
    path : Path
        The file, of MATLAB's format 5.
    module : torch.nn.Module
        The network in torch, with as many convolutions and linear layers as the file, in their order.
    shape : tuple of int
        (channels, height, width) of one input.

    Raises
    ------
    UsageError
        If the file cannot be read or has other layers.
    """
    layers = _layers(_read(path), path.name)
    targets = [
        (name, layer) for name, layer in module.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    if len(layers) != len(targets):
        raise UsageError(
            f"{path.name} has {len(layers)} layers ({', '.join(name for name, _, _ in layers)}), "
            f"the architecture {len(targets)}"
        )
    state: dict[str, torch.Tensor] = {}
    flattened: tuple[int, ...] | None = None
    for (stored, weight, bias), (name, layer) in zip(layers, targets, strict=True):
        expected = 4 if isinstance(layer, nn.Conv2d) else 2
        if weight.ndim != expected:
            kind = "convolution" if expected == 4 else "linear layer"
            raise UsageError(
                f"{path.name}: {stored} is {weight.shape}, the architecture's {name} is a {kind}"
            )
        if isinstance(layer, nn.Conv2d):
            values = weight.transpose(3, 2, 0, 1)
        else:
            if flattened is None:
                flattened = _features(module, layer, shape)
                weight = _channels_first(weight, flattened)
            values = weight.T
        prefix = f"{name}." if name else ""
        state[f"{prefix}weight"] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        state[f"{prefix}bias"] = torch.from_numpy(np.array(bias, dtype=np.float32).reshape(-1))
    return state


def _read(path: Path) -> dict[str, Array]:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:  # a damaged file raises nearly anything
        raise UsageError(f"{path.name} is no MATLAB file of format 5, or damaged: {error}") from None
    return {name: value for name, value in content.items() if not name.startswith("__")}


def _layers(arrays: Mapping[str, Array], file: str) -> list[tuple[str, Array, Array]]:
    """Return name, weights and biases of each layer, in the order of the network."""
    if set(arrays) == {"U", "bU", "W", "bW"}:
        return [(name, arrays[name], arrays[f"b{name}"]) for name in ("U", "W")]
    found: list[tuple[tuple[int, int], str, Array, Array]] = []
    rest = set(arrays)
    for name, weight in arrays.items():
        parts = re.fullmatch(r"weights?_(conv|fc|)(\d+)", name)
        bias = name.replace("weights_", "biases_").replace("weight_", "bias_")
        if parts and bias in arrays:
            found.append(((KINDS[parts[1]], int(parts[2])), name, weight, arrays[bias]))
            rest -= {name, bias}
    if rest or not found:
        listed = ", ".join(sorted(rest)) or "nothing"
        raise UsageError(
            f"{file} holds {listed}; layers are named weights_conv1 and biases_conv1, weights_fc1 and "
            "biases_fc1, weight_0 and bias_0, or U, bU, W, bW"
        )
    return [(name, weight, bias) for _, name, weight, bias in sorted(found, key=lambda layer: layer[0])]


def _features(module: nn.Module, linear: nn.Linear, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape (channels, height, width) of what is flattened before the first linear layer."""
    seen = [shape]
    done = False

    def note(value: Any) -> None:
        if not done and isinstance(value, torch.Tensor) and value.ndim == 4:
            seen.append(tuple(value.shape[1:]))

    def before(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal done
        done |= layer is linear
        note(inputs[0])

    handles = [layer.register_forward_pre_hook(before) for layer in module.modules()]
    handles += [layer.register_forward_hook(lambda _, __, output: note(output)) for layer in module.modules()]
    try:
        with torch.no_grad():
            module.eval()(torch.zeros(1, *shape))
    finally:
        for handle in handles:
            handle.remove()
    return seen[-1]


def _channels_first(weight: Array, features: tuple[int, ...]) -> Array:
    """Return a matrix (in, out) with its inputs in the order of channels, height, width."""
    if len(features) != 3 or weight.shape[0] != int(np.prod(features)):
        return weight  # no image, or the mismatch is reported layer by layer
    channels, height, width = features
    return weight.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(weight.shape)
