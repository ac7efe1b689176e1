"""What a measure is, what it may look at, and what it answers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Scalar = str | int | float | bool
Status = Literal["ok", "undefined", "unsupported", "failed", "skipped"]
T = TypeVar("T")

SHARED = "passes are shared: counted with another measure"

NEEDS = ("logits", "train_logits", "weights", "initial_weights", "gradients", "train_data", "attacked_logits")
INVARIANCES = ("temperature", "layer rescaling", "node rescaling")


class Undefined(ValueError):
    """A measure has no value for this model; the message says why.

    Attributes
    ----------
    forwards, backwards : int
        Rows sent through the model until that was known.
    """

    forwards: int = 0
    backwards: int = 0

    def after(self, forwards: int, backwards: int = 0) -> Self:
        """Return itself with the rows that were sent through the model."""
        self.forwards, self.backwards = forwards, backwards
        return self


class Missing(Undefined):
    """What a measure looks at is not kept for this scope; the message says what."""


class Unsupported(ValueError):
    """A measure is not defined for this kind of network; the message names the layers."""


@dataclass(frozen=True, eq=False)
class Split:
    """Samples with what a model says about them.

    Attributes
    ----------
    y : int64 array (n,)
        True classes.
    logits : float32 array (n, classes)
        Of the model.
    x : float32 array (n, *shape), optional
        Inputs in [0, 1]; None where only logits are kept.
    clean : int64 array (n,), optional
        For a copy of other samples (a shift, an attack): the original's index among the clean ones, or -1.
    distance : float64 array (n,), optional
        For an attacked copy whose inputs are not kept: linf norm of each perturbation.
    """

    y: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    x: npt.NDArray[np.float32] | None = None
    clean: npt.NDArray[np.int64] | None = None
    distance: npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Value:
    """What a measure answers for one model in one scope.

    Attributes
    ----------
    value, standard_error, lower, upper : float
        NaN where there is none; `lower` and `upper` bound a 95 % interval where the value is estimated.
    per_class : float array (classes,), optional
        One value per class, NaN where undefined.
    note : str
        A caveat about this value ("skip connections: the product is a heuristic").
    forwards, backwards : int
        Rows sent through the model for it.
    """

    value: float = math.nan
    standard_error: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    per_class: npt.NDArray[np.float64] | None = None
    note: str = ""
    forwards: int = 0
    backwards: int = 0


@dataclass(eq=False)
class Context:
    """One model and all that measures may look at.

    Attributes
    ----------
    module : nn.Module
        From inputs in [0, 1] to logits, in evaluation mode, on `device`; to be left as it was found.
    shape, classes
        Of one input, and number of logits.
    clean, train : Split
        The evaluated samples, and those that the model was trained on, or a part of them; `train` is None if
        not at hand.
    training_size : int, optional
        How many samples the model was trained on; default: those of `train`.
    scopes : mapping of str to Split
        Other sets by name: shifts ("fog/3") and attacked copies.
    attacked : mapping of str to Split
        The attacked ones among `scopes`.
    initial : mapping of str to tensor, optional
        State dict of the trained part before training (keys as of `trained`), on the CPU.
    trained : nn.Module, optional
        The part of `module` that `initial` belongs to (without normalization); default: `module`.
    seed : int
        Of everything that is drawn.
    """

    module: nn.Module
    shape: tuple[int, ...]
    classes: int
    clean: Split
    train: Split | None = None
    training_size: int | None = None
    scopes: Mapping[str, Split] = field(default_factory=dict)
    attacked: Mapping[str, Split] = field(default_factory=dict)
    initial: Mapping[str, torch.Tensor] | None = None
    trained: nn.Module | None = None
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 256

    @cached_property
    def _known(self) -> dict[Any, Any]:
        return {}

    def shared(self, compute: Callable[..., T], **settings: Scalar) -> T:
        """Return ``compute(self, **settings)``, computed once for all measures that ask for it.

        An `Undefined` or `Unsupported` that it raised is raised again.
        """
        key = _key(compute, settings)
        if key not in self._known:
            try:
                self._known[key] = compute(self, **settings)
            except (Undefined, Unsupported) as error:
                self._known[key] = error
                raise
        found = self._known[key]
        if isinstance(found, Undefined):
            raise found.after(0)  # its passes have been counted
        if isinstance(found, Unsupported):
            raise found
        return found  # type: ignore[no-any-return]

    def has(self, compute: Callable[..., Any], **settings: Scalar) -> bool:
        """Tell whether `shared` has computed this already, so that its passes are counted elsewhere."""
        return _key(compute, settings) in self._known


def _key(compute: Callable[..., Any], settings: Mapping[str, Scalar]) -> tuple[Any, ...]:
    return (compute, *sorted(settings.items()))


class Measure(ABC):
    """A number about one trained model; a subclass is one measure.

    Attributes
    ----------
    name, family : str
        ``[a-z0-9_]+``; the family is what a study asks for.
    definition : str
        One line: what it is, with unit.
    formula : str
        In LaTeX.
    citation : str
        Authors, title, venue, year.
    expected_sign : -1, 0 or 1
        Of its correlation with robustness by the literature: 1 if a larger value should go with more of it;
        0 if nothing is claimed.
    needs : tuple of str
        Of `NEEDS`.
    invariance : tuple of str
        Of `INVARIANCES`: what leaves it unchanged.
    settings : mapping
        Every choice with its default; hashed with the value.
    choices : mapping
        The words that a setting of text may be.
    limits : mapping
        The smallest and the largest number that a setting may be.
    version : int
        Of the computation: raised when the same settings give another value; hashed with it.
    scoped : bool
        Whether it is computed on every scope (clean, train, each shift) rather than once per model.
    cost : str
        In words ("none beyond stored logits", "one forward and backward pass per training image").
    caveats : str
    """

    name: ClassVar[str]
    family: ClassVar[str]
    definition: ClassVar[str]
    formula: ClassVar[str]
    citation: ClassVar[str]
    expected_sign: ClassVar[int]
    needs: ClassVar[tuple[str, ...]]
    invariance: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[Mapping[str, Scalar]] = {}
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}
    version: ClassVar[int] = 1
    scoped: ClassVar[bool] = False
    cost: ClassVar[str] = "none beyond stored logits"
    caveats: ClassVar[str] = ""

    @classmethod
    def passes(cls, samples: int, train: int, settings: Mapping[str, Any]) -> tuple[float, float]:
        """Return the predicted rows sent forward and backward, for that many clean and training samples."""
        return 0.0, 0.0

    @classmethod
    def shares(cls, settings: Mapping[str, Any]) -> str:
        """Return what the passes are made for: measures that say the same, but not "", pay for them once."""
        return ""

    @classmethod
    def algebra(cls, settings: Mapping[str, Any]) -> dict[str, float]:
        """Return work on the weights by what is made, in passes of one row forward and backward.

        Measures that name the same pay for it once. It is for the forecast of seconds only.
        """
        return {}

    @abstractmethod
    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        """Return the value.

        Parameters
        ----------
        split : Split
            The samples of the scope; for a measure that is not `scoped`, ``context.train`` where it needs
            training data or logits, else ``context.clean``.

        Raises
        ------
        Undefined, Unsupported
            With the reason.
        """
