"""What is known of a model before it is loaded or trained, and what it is afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaeval import registry
from metaeval.errors import MetaevalError, Problem
from metaeval.hashing import hash_json
from metaeval.sources.models.building import architecture_source, build_module, canonical

if TYPE_CHECKING:
    from torch import nn

    from metaeval.sources.models.settings import TrainingSettings

Scalar = str | int | float | bool


class TrainingError(MetaevalError):
    """A training that gave no usable model; the message says why."""


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per channel (or one for all), applied inside the model."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Download:
    """A file of weights that is elsewhere.

    Attributes
    ----------
    address : str
        ``https://...`` or ``hf:owner/repository/file@revision``.
    path : Path
        Where it is kept.
    sha256 : str, optional
        What it must hash to (hex).
    """

    address: str
    path: Path
    sha256: str | None = None


@dataclass(frozen=True, eq=False)
class ModelEntry:
    """One model of a study: everything that is needed to load or train it, and nothing heavy.

    Attributes
    ----------
    name, source, family : str
        The name in the cube, the source in the study, and what groups the model.
    architecture : str
        A built-in name or ``module:callable``.
    shape, classes
        Of the inputs and the number of logits.
    place : Problem
        Where the study names the model; a problem with it is shown there.
    architecture_settings : mapping
        Keyword arguments of the architecture.
    normalize : Normalization, optional
        Applied to inputs in [0, 1] before the architecture sees them.
    settings : mapping
        Hyper-parameters, flat, defaults included.
    weights, weights_sha256
        The file of weights and the sha256 (hex) of its content, for a checkpoint; of several files the first
        and one hash of all. A file that is still elsewhere has no hash.
    downloads : tuple of Download
        Where the files of weights come from, all of them; empty if `weights` is the user's own.
    reader : str, optional
        ``module:callable`` that reads files of a foreign format.
    input_range, input_layout
        What the architecture takes: the numbers for inputs of 0 and of 1, and the order of axes.
    group : str
        What to call the architecture where models are grouped by it; default: `architecture`.
    expect : bool
        Whether a clean accuracy near chance, or far from `published_accuracy`, stops a run.
    training : TrainingSettings, optional
        How to train it; None if it is only loaded.
    loader : str, optional
        ``module:callable`` from this entry to a torch module with its weights; None if it is trained.
    published_accuracy : float, optional
        Clean accuracy as published, a fraction.
    """

    name: str
    source: str
    family: str
    architecture: str
    shape: tuple[int, ...]
    classes: int
    place: Problem
    architecture_settings: Mapping[str, Any] = field(default_factory=dict)
    normalize: Normalization | None = None
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    weights: Path | None = None
    weights_sha256: str | None = None
    training: TrainingSettings | None = None
    loader: str | None = None
    published_accuracy: float | None = None
    downloads: tuple[Download, ...] = ()
    reader: str | None = None
    input_range: tuple[float, float] = (0.0, 1.0)
    input_layout: str = "channels_first"
    group: str = ""
    expect: bool = True

    @property
    def needs_training(self) -> bool:
        """Whether it is trained here rather than loaded."""
        return self.training is not None

    @property
    def is_missing(self) -> bool:
        """Whether a file of weights has still to be fetched."""
        return bool(self.downloads) and self.weights_sha256 is None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of weights."""
        if self.downloads:
            return tuple(download.path for download in self.downloads)
        return (self.weights,) if self.weights else ()

    @property
    def seen_shape(self) -> tuple[int, ...]:
        """The shape of one input as the architecture sees it."""
        return seen_shape(self.shape, self.input_layout)

    @cached_property
    def architecture_identity(self) -> str:
        """The hash of the architecture: its name, settings, and source code or version."""
        return hash_json(
            {
                "architecture": canonical(self.architecture),
                "settings": dict(self.architecture_settings),
                "shape": list(self.seen_shape),
                "classes": self.classes,
                "source": architecture_source(self.architecture),
            }
        )

    @cached_property
    def identity(self) -> str:
        """The hash of all that defines the model; for one to be trained, all but its training data."""
        return self.identity_with(self.weights_sha256)

    def identity_with(self, content: str | None) -> str:
        """Return the hash of the model with the given content: its weights or its training data."""
        return hash_json(
            {
                "architecture": self.architecture_identity,
                **self.input_identity,
                "training": self.training.as_dict() if self.training else None,
                "content": content,
            }
        )

    @property
    def input_identity(self) -> dict[str, Any]:
        """All that is done to inputs and files; what is as usual is left out."""
        normalize = self.normalize
        found: dict[str, Any] = {
            "normalize": [list(normalize.mean), list(normalize.std)] if normalize else None
        }
        if self.input_range != (0.0, 1.0):
            found["input_range"] = list(self.input_range)
        if self.input_layout != "channels_first":
            found["input_layout"] = self.input_layout
        if self.reader:
            found["reader"] = [self.reader, architecture_source(self.reader)]
        return found

    def build(self) -> nn.Module:
        """Return a module of this architecture, normalization included; its weights mean nothing."""
        if self.loader and self.weights is None:  # of another package: only its loader knows what it is
            return self.adapted(registry.resolve(self.loader)(self))
        return self.adapted(self.build_bare())

    def adapted(self, module: nn.Module) -> nn.Module:
        """Return a module that takes inputs of the data's shape in [0, 1]."""
        from metaeval.sources.models.normalized import normalized

        return normalized(
            module, self.normalize, input_range=self.input_range, input_layout=self.input_layout
        )

    def build_bare(self) -> nn.Module:
        """Return a module of this architecture without normalization; its weights mean nothing."""
        return build_module(self.architecture, self.architecture_settings, self.seen_shape, self.classes)

    def problem(self, message: str) -> Problem:
        """Return a problem at the place where the study names the model."""
        return Problem(self.place.file, self.place.line, self.place.column, self.place.key, message)


def seen_shape(shape: tuple[int, ...], input_layout: str) -> tuple[int, ...]:
    """Return the shape (channels, ...) of one input in a model's layout."""
    return (*shape[1:], shape[0]) if input_layout == "channels_last" else shape


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model that is ready to be evaluated.

    Attributes
    ----------
    module : torch.nn.Module
        From inputs in [0, 1] to logits, in evaluation mode, on the CPU, its parameters without gradients.
    identity : str
        Hash of weights, architecture, settings and normalization.
    weights_sha256 : str
        Of the file of weights; of their values where there is no file.
    parameters : int
        Number of trainable numbers.
    training : dict, optional
        What training gave: seconds, epochs, loss and accuracy on the training data, and whether a target
        loss was reached where there is one.
    initial : Path, optional
        Safetensors file of the weights before training, as of the module without normalization.
    """

    module: nn.Module
    identity: str
    weights_sha256: str
    parameters: int
    training: dict[str, Scalar] | None = None
    initial: Path | None = None
