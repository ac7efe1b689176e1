"""Kernels of the attacks in `metaeval.attacks.torchattacks_table`: the library's code, one sample's results.

There is one kernel for each row, under the row's name. Its settings are the row's.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn

from metaeval.attacks.kernel import KernelResult
from metaeval.attacks.per_sample import Run, run_library
from metaeval.attacks.torchattacks_row import Row
from metaeval.attacks.torchattacks_table import ROWS

_NORMS = {"linf": "Linf", "l2": "L2"}


def __getattr__(name: str) -> Callable[..., KernelResult]:
    for row in ROWS:
        if row.name == name:
            return partial(run, row)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def run(
    row: Row,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon: Tensor | None = None,
    *,
    norm: str,
    keys: Tensor,
    settings: Mapping[str, Any],
    batch_size: int,
) -> KernelResult:
    """Run the attack of a row; a minimum-norm attack takes no epsilon."""

    def build(watched: nn.Module, radius: float) -> Run:
        arguments = dict(row.constants)
        if row.epsilon is not None:
            arguments[row.epsilon] = radius
        if row.takes_norm:
            arguments["norm"] = _NORMS[norm]
        for name, (argument, _) in row.arguments.items():
            arguments[argument] = settings[name] * (radius if name == "relative_step_size" else 1)
        targets = arguments.pop("n_target_classes", None)
        attack = constructed(lambda: getattr(torchattacks, row.classes[norm])(watched, **arguments), x.device)
        if targets is not None:
            return partial(_targeted, attack, targets)
        if row.name == "jsma":  # its own default assumes ten classes
            attack.set_mode_targeted_by_function(partial(_next_class, watched), quiet=True)
        run_: Run = attack
        return run_

    return run_library(build, model, x, y, epsilon, keys=keys, batch_size=batch_size, alone=row.alone)


def constructed(build: Callable[[], Any], device: torch.device) -> Any:
    """Return an attack of the library that stays silent and works on a device."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints when the model has no parameters
        attack = build()
    attack.set_device(device)
    return attack


def _targeted(attack: Any, targets: int, x: Tensor, y: Tensor) -> Tensor:
    attack.n_target_classes = min(targets, attack.model(x).shape[1] - 1)
    found: Tensor = attack(x, y)
    return found


def _next_class(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    targets: Tensor = (y + 1) % model(x).shape[1]
    return targets
