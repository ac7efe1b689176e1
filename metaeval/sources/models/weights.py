"""Files of weights: safetensors and PyTorch state dicts, read without running anything in them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from metaeval.errors import UsageError

State = dict[str, torch.Tensor]

NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
SHOWN = 6  # mismatches that are listed


def read_weights(path: Path) -> State:
    """Read a state dict; a nested one (``{"state_dict": ...}``) is unpacked.

    Raises
    ------
    UsageError
        If the file is damaged, no file of weights, holds numbers that are not finite, or is a pickle that
        needs code to run.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise UsageError(f"{path.name} is empty")
    if start.lstrip()[:1] == b"<":
        shown = start[:60].decode(errors="replace")
        raise UsageError(f"{path.name} is a web page, not a file of weights: {shown!r}")
    is_torch = start[:2] == b"PK" or start[:1] == b"\x80"  # a zip file, or a pickle of older versions
    state = _unpack(_torch(path) if is_torch else _safetensors(path), path)
    check_finite(state, path)
    return state


def check_finite(state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise a UsageError that names the tensors with numbers that are not finite, if there are any."""
    damaged = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if damaged:
        raise UsageError(f"{path.name} has numbers that are not finite in {_listed(damaged)}")


def fit(state: Mapping[str, torch.Tensor], module: torch.nn.Module, name: str) -> State:
    """Return the weights under the names that a module expects.

    Raises
    ------
    UsageError
        If a layer is missing, left over or of another shape; the message names them.
    """
    expected = module.state_dict()
    state = dict(state)
    for prefix in PREFIXES * 2:
        if state and all(key.startswith(prefix) for key in state) and not state.keys() <= expected.keys():
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    # Counters of batch normalization: older files lack them and evaluation does not use them.
    for key, tensor in expected.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.zeros_like(tensor))
    wrong = [f"{key} is missing" for key in expected if key not in state]
    wrong += [f"{key} is not in the architecture" for key in state if key not in expected]
    wrong += [
        f"{key} is {str(state[key].dtype).removeprefix('torch.')}, which is no weight"
        for key, tensor in expected.items()
        if key in state and tensor.is_floating_point() and not state[key].is_floating_point()
    ]
    for key in expected:
        if key in state and state[key].shape != expected[key].shape:
            wrong.append(f"{key} is {tuple(state[key].shape)}, not {tuple(expected[key].shape)}")
    if wrong:
        raise UsageError(f"{name} does not fit the architecture: {_listed(wrong, '; ')}")
    return state


def _safetensors(path: Path) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        message = f"{path.name} is no safetensors file or PyTorch state dict, or damaged: {error}"
        raise UsageError(message) from None


def _torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        needed = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        what = f" ({needed[1]})" if needed else ""
        raise UsageError(
            f"{path.name} is a pickle that needs code{what} to be read, which could do anything; "
            "save model.state_dict() with safetensors or torch.save instead"
        ) from None
    except Exception as error:  # a damaged pickle raises nearly anything
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"{path.name} is damaged: {first}") from None


def _unpack(content: Any, path: Path) -> State:
    """Return the state dict in what a file holds."""
    for _ in range(2):
        inner = [_only(content.get(key)) for key in NESTS] if isinstance(content, Mapping) else []
        content = next((item for item in inner if isinstance(item, Mapping)), content)
    if not isinstance(content, Mapping) or not content:
        raise UsageError(f"{path.name} holds no state dict but type {type(content).__name__}")
    others = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise UsageError(f"{path.name} holds no state dict: {_listed(others)} are no tensors")
    return {str(key): tensor for key, tensor in content.items()}


def _only(content: Any) -> Any:
    """Return the one item of a list: stages of cascades are saved like that, also where there is one."""
    return content[0] if isinstance(content, list) and len(content) == 1 else content


def _listed(items: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return separator.join(items[:SHOWN]) + more
