"""One attack at eight epsilons, counted: pyautoattack once per epsilon, our naive loop, our two searches."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from metaeval import attacks as engine
from metaeval.attacks import catalogue
from metaeval.outcomes import Cell

Bools = npt.NDArray[np.bool_]
PEER_NORMS = {"linf": "Linf", "l2": "L2"}
BATCH = 256  # of every attack measured
STANDARD = ["apgd-ce", "apgd-t", "fab-t", "square"]  # AutoAttack's cascade, called "cascade" here


@dataclass
class Passes:
    """Rows that passed through a model, and the seconds of CPU that it took with everything around it."""

    forwards: int = 0
    gradients: int = 0
    seconds: float = 0.0


@contextmanager
def counted(model: nn.Module) -> Iterator[Passes]:
    """Count what passes through a model inside the block, by hooks on its outputs."""
    passes = Passes()

    def backward(gradient: Tensor) -> None:
        passes.gradients += len(gradient)

    def forward(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        passes.forwards += len(output)
        if output.requires_grad:
            output.register_hook(backward)

    handle = model.register_forward_hook(forward)
    started = time.process_time()
    try:
        yield passes
    finally:
        passes.seconds = time.process_time() - started
        handle.remove()


@dataclass
class Column:
    """What one way of attacking says of n samples at K epsilons, and what it cost.

    Attributes
    ----------
    robust : ndarray
        bool (n, K): no adversarial is known.
    inferred : float
        Share of the n K cells that rest on a failure at a larger epsilon.
    """

    robust: Bools
    passes: Passes
    inferred: float = 0.0

    @property
    def robust_accuracy(self) -> list[float]:
        """Share of the samples (all correctly classified) that are robust at each epsilon."""
        return [float(share) for share in self.robust.mean(axis=0)]

    def as_dict(self) -> dict[str, Any]:
        """Return cost, robust accuracy and share of inferred cells as JSON can say them."""
        return {**asdict(self.passes), "robust_accuracy": self.robust_accuracy, "inferred": self.inferred}


def available(attacks: tuple[str, ...]) -> list[str]:
    """Return those of some attacks that this version of metaeval has."""
    ids = set(catalogue.names())
    if ids.issuperset(STANDARD) and "cascade" in engine.__all__:
        ids.add("cascade")
    return [attack for attack in attacks if attack in ids]


def peer(
    model: nn.Module, x: Tensor, y: Tensor, *, norm: str, epsilons: list[float], attack: str, seed: int
) -> Column:
    """Run pyautoattack once per epsilon on all samples, with one restart, as its standard version has it."""
    attacks = STANDARD if attack == "cascade" else [attack]
    robust = []
    with counted(model) as passes:
        for epsilon in epsilons:
            evaluation = AutoAttack(
                model, norm=PEER_NORMS[norm], eps=epsilon, version="custom", attacks=attacks, seed=seed
            )
            evaluation.apgd.n_restarts = evaluation.fab.n_restarts = 1
            _, predicted = evaluation.run_standard_evaluation(x, y, batch_size=BATCH)
            robust.append((predicted == y).numpy())
    return Column(np.stack(robust, axis=1), passes)


def swept(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    epsilons: list[float],
    attack: str,
    search: str,
    seed: int,
) -> Column:
    """Run our sweep once for all epsilons; its own account must be what the hooks counted."""
    with counted(model) as passes:
        task: dict[str, Any] = {"norm": norm, "epsilons": epsilons, "search": search, "seed": seed}
        if attack == "cascade":
            result = engine.cascade(model, x, y, batch_size=BATCH, **task)
        else:
            result = engine.sweep(model, x, y, attack=attack, batch_size=BATCH, **task)
    _agree(passes, int(result.forwards.sum()) + result.verification, int(result.backwards.sum()))
    robust = (result.cells == Cell.ROBUST) | (result.cells == Cell.ROBUST_INFERRED)
    return Column(robust, passes, float((result.cells == Cell.ROBUST_INFERRED).mean()))


def naive(
    model: nn.Module, x: Tensor, y: Tensor, *, norm: str, epsilons: list[float], attack: str, seed: int
) -> Column:
    """Run our attack at each epsilon on all samples, the cells' seeds being those of the sweep."""
    columns = [
        swept(model, x, y, norm=norm, epsilons=[epsilon], attack=attack, search="exact", seed=seed)
        for epsilon in epsilons
    ]
    total = Passes(
        forwards=sum(column.passes.forwards for column in columns),
        gradients=sum(column.passes.gradients for column in columns),
        seconds=sum(column.passes.seconds for column in columns),
    )
    return Column(np.concatenate([column.robust for column in columns], axis=1), total)


def _agree(passes: Passes, forwards: int, gradients: int) -> None:
    if (passes.forwards, passes.gradients) != (forwards, gradients):
        raise AssertionError(
            f"the hooks counted {passes.forwards} forwards and {passes.gradients} gradients, "
            f"the sweep says {forwards} and {gradients}"
        )


@dataclass(frozen=True)
class Comparison:
    """One of our searches against a naive loop, cell by cell."""

    cells: int
    weaker: int  # the naive loop breaks the cell, we do not
    stronger: int
    most_above: int  # samples by which our robust accuracy is above the naive one where it is so most
    sum_above: int  # the same summed over the epsilons; negative where ours is below

    @classmethod
    def of(cls, ours: Column, other: Column) -> Comparison:
        """Compare two columns of the same samples and epsilons."""
        above = ours.robust.sum(axis=0).astype(int) - other.robust.sum(axis=0).astype(int)
        return cls(
            cells=ours.robust.size,
            weaker=int((ours.robust & ~other.robust).sum()),
            stronger=int((~ours.robust & other.robust).sum()),
            most_above=int(above.max()),
            sum_above=int(above.sum()),
        )


def versions() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    packages = {name: version(name) for name in ("metaeval", "pyautoattack", "torch", "numpy")}
    return {"python": platform.python_version(), **packages, "threads": str(torch.get_num_threads())}
