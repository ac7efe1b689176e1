"""What a row of `metaeval.attacks.torchattacks_table` says, and what its attack costs; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from metaeval.attacks.shapes import Unfit
from metaeval.attacks.spec import AttackSpec, Passes, Setting

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One attack: what the catalogue says of it, and how the library is called.

    Attributes
    ----------
    name : str
        The id without ``@torchattacks``.
    classes : mapping
        Name of the library's class for each norm.
    arguments : mapping
        Our setting to the library's argument and what the setting is; all defaults are the library's.
        ``relative_step_size`` is passed on times epsilon.
    epsilon : str or None
        The library's name of epsilon; None for a minimum-norm attack.
    constants : mapping
        Further arguments.
    alone : bool
        The library transforms, draws for or stops a whole batch: samples run one by one.
    takes_norm : bool
        The class has an argument ``norm``.

    The other attributes are those of `metaeval.attacks.spec.AttackSpec`.
    """

    name: str
    classes: Mapping[str, str]
    citation: str
    passes: Callable[[Settings, int], Passes]
    arguments: Mapping[str, tuple[str, Setting]] = field(default_factory=dict)
    epsilon: str | None = "eps"
    constants: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    takes_norm: bool = False
    black_box: bool = False
    early_exit: bool = False
    inferable: bool = True
    minimum_classes: int = 2
    unfit: Unfit | None = None

    def spec(self) -> AttackSpec:
        """Return the catalogue's entry."""
        return AttackSpec(
            id=f"{self.name}@torchattacks",
            norms=tuple(self.classes),
            kind="minimum-norm" if self.epsilon is None else "fixed-epsilon",
            run=f"metaeval.attacks.torchattacks_library:{self.name}",
            implementation="torchattacks",
            citation=self.citation,
            passes=self.passes,
            settings={name: setting for name, (_, setting) in self.arguments.items()},
            black_box=self.black_box,
            minimum_classes=self.minimum_classes,
            early_exit=self.early_exit,
            inferable=self.inferable,
            unfit=self.unfit,
        )


def product_passes(*names: str) -> Callable[[Settings, int], Passes]:
    """Return the cost of an attack that takes as many gradients as the product of some settings."""

    def passes(settings: Settings, _classes: int) -> Passes:
        count = 1.0
        for name in names:
            count *= settings[name]
        return count, count

    return passes


def neighbour_passes(settings: Settings, _classes: int) -> Passes:
    """Return the cost of an attack with gradients at neighbours of each iterate."""
    count = float(settings["iterations"] * (settings["neighbours"] + 1))
    return count, count


def tpgd_passes(settings: Settings, _classes: int) -> Passes:
    """Return the cost of TPGD: one pass for the clean outputs."""
    return settings["iterations"] + 1.0, float(settings["iterations"])


def apgd_passes(settings: Settings, _classes: int) -> Passes:
    """Return the cost of APGD: one pass for the label, one gradient for the start."""
    return settings["iterations"] + 2.0, settings["iterations"] + 1.0


def apgdt_passes(settings: Settings, classes: int) -> Passes:
    """Return the cost of targeted APGD."""
    targets = min(settings["targets"], classes - 1)
    # The number of classes, the label, and for each target a ranking and the start.
    return 2.0 + targets * (settings["iterations"] + 2.0), targets * (settings["iterations"] + 1.0)


def fab_passes(settings: Settings, classes: int) -> Passes:
    """Return the cost of FAB: label, start and result, and two passes an iteration."""
    return 3.0 + 2.0 * settings["iterations"], float(classes * settings["iterations"])


def square_passes(settings: Settings, _classes: int) -> Passes:
    """Return the cost of Square: label, start and result, and the queries."""
    return settings["queries"] + 3.0, 0.0


def spsa_passes(settings: Settings, _classes: int) -> Passes:
    """Return the cost of SPSA: two queries a sample."""
    return 2.0 * settings["iterations"] * settings["samples"], 0.0


def pixle_passes(settings: Settings, _classes: int) -> Passes:
    """Return the cost of Pixle: two queries a rearrangement."""
    return 1.0 + 2.0 * settings["restarts"] * settings["iterations"], 0.0


def one_pixel_passes(settings: Settings, _classes: int) -> Passes:
    """Return the cost of OnePixel's generations."""
    return (settings["iterations"] + 1.0) * settings["population"] + settings["iterations"], 0.0


def ead_passes(settings: Settings, _classes: int) -> Passes:
    """Return the cost of EAD."""
    # It gives a weight up at one of ten checks, as a rule at the second or third.
    steps = EAD_SHARE * settings["binary_search_steps"] * settings["iterations"]
    return 2.0 * steps + 1.0, steps


def jsma_passes(settings: Settings, classes: int) -> Passes:
    """Return the cost of JSMA on inputs of MNIST's size."""
    steps = math.ceil(settings["gamma"] * MNIST / 2)  # two features a step
    return 2.0 * steps + 2.0, float(steps * classes)


def sparsefool_passes(settings: Settings, classes: int) -> Passes:
    """Return the cost of SparseFool, whose every step runs DeepFool."""
    # Each step runs DeepFool with the library's 50 steps.
    return settings["iterations"] * 52.0, settings["iterations"] * (50.0 * classes + 1.0)


EAD_SHARE = 0.2
MNIST = 784  # features; the inputs that JSMA is for
