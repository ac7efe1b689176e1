"""How an attack is described to the catalogue; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from metaeval.attacks.shapes import Unfit

Number = int | float
Passes = tuple[float, float]
Kind = Literal["fixed-epsilon", "minimum-norm"]


@dataclass(frozen=True)
class Setting:
    """One setting of an attack.

    Attributes
    ----------
    default : int or float
        Value when the study gives none; its type is the setting's type.
    description : str
        What it is, for people.
    minimum : int or float
        Smallest allowed value.
    standard : int or float, optional
        Value of the published standard evaluation; anything below makes a weaker attack and is labelled
        as reduced. None where smaller is not weaker.
    """

    default: Number
    description: str
    minimum: Number
    standard: Number | None = None


@dataclass(frozen=True)
class AttackSpec:
    """What is known of an attack before it runs.

    Attributes
    ----------
    id : str
        Name in studies and cubes; ``name@library`` where another library's implementation runs.
    kind : str
        ``"fixed-epsilon"`` searches a ball of given radius; ``"minimum-norm"`` looks for the smallest
        perturbation, so that one run serves every epsilon.
    run : str
        ``"module:callable"`` with the signature that `metaeval.attacks.kernel` describes (a minimum-norm
        attack takes no epsilon).
    implementation : str
        Distribution whose code or arithmetic runs; its version is part of a column's identity.
    passes : callable
        ``passes(settings, classes) -> (forwards, backwards)`` of one run on one sample that it cannot break.
    revision : int
        Counts changes of our own code that change results.
    black_box : bool
        Uses outputs only, no gradients.
    early_exit : bool
        A run stops on a sample as soon as it is broken, so that a success is cheap.
    inferable : bool
        A failure in a larger ball says enough about smaller balls to infer robustness there; without
        it the level search is exact whatever the study asks for.
    warm : bool
        The callable is a `metaeval.attacks.kernel.WarmKernel`: it can begin from given points, and not stop
        at the first misclassification; it has a setting ``iterations``.
    unfit : callable, optional
        Says why inputs of a shape cannot be attacked; any shape can where there is none.
    by_norm : mapping
        Fields that have other values for a norm: another implementation, say. See `for_norm`.
    """

    id: str
    norms: tuple[str, ...]
    kind: Kind
    run: str
    implementation: str
    citation: str
    passes: Callable[[Mapping[str, Any], int], Passes]
    settings: Mapping[str, Setting] = field(default_factory=dict)
    revision: int = 1
    black_box: bool = False
    minimum_classes: int = 2
    early_exit: bool = False
    inferable: bool = True
    warm: bool = False
    unfit: Unfit | None = None
    by_norm: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def for_norm(self, norm: str) -> AttackSpec:
        """Return what runs for a norm."""
        return replace(self, **self.by_norm.get(norm, {}), by_norm={}) if self.by_norm else self
