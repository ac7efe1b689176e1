"""The hyper-parameters of training, their defaults, and which of them apply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LEARNING_RATES = {"sgd": 0.1, "adam": 0.003, "adamw": 0.003, "rmsprop": 0.001}
MOMENTUM = {"sgd": 0.9, "rmsprop": 0.0}  # the optimizers that take one
WEIGHT_DECAY = {"adamw": 0.01}
DEFAULTS = {"optimizer": "adam", "batch_size": 64, "epochs": 20}
ADVERSARIAL_NORM = "linf"
ADVERSARIAL_STEPS = 7


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    Attributes
    ----------
    optimizer : str
        ``sgd``, ``adam``, ``adamw`` or ``rmsprop``; the learning rate stays the same throughout.
    momentum : float or None
        None for optimizers without.
    epochs, batch_size, seed : int
        The seed decides initial weights, order of samples, dropout and random starts.
    adversarial_epsilon : float
        Radius of the adversarial training; 0 is standard training, and norm and steps are None.
    """

    optimizer: str
    learning_rate: float
    momentum: float | None
    weight_decay: float
    batch_size: int
    epochs: int
    seed: int
    adversarial_epsilon: float
    adversarial_norm: str | None
    adversarial_steps: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def passes(self, samples: int) -> tuple[int, int]:
        """Return the rows that training on so many samples sends forward and backward."""
        rows = samples * self.epochs * (1 + (self.adversarial_steps or 0))
        return rows, rows


def training_settings(given: Mapping[str, Any], *, seed: int) -> TrainingSettings:
    """Fill in the defaults; what does not apply (momentum of Adam) is left out.

    Parameters
    ----------
    seed : int
        The seed where none is given.
    """
    chosen = {**DEFAULTS, "seed": seed, **given}
    optimizer = chosen["optimizer"]
    epsilon = chosen.get("adversarial_epsilon", 0.0)
    return TrainingSettings(
        optimizer=optimizer,
        learning_rate=chosen.get("learning_rate", LEARNING_RATES[optimizer]),
        momentum=chosen.get("momentum", MOMENTUM[optimizer]) if optimizer in MOMENTUM else None,
        weight_decay=chosen.get("weight_decay", WEIGHT_DECAY.get(optimizer, 0.0)),
        batch_size=chosen["batch_size"],
        epochs=chosen["epochs"],
        seed=chosen["seed"],
        adversarial_epsilon=epsilon,
        adversarial_norm=chosen.get("adversarial_norm", ADVERSARIAL_NORM) if epsilon else None,
        adversarial_steps=chosen.get("adversarial_steps", ADVERSARIAL_STEPS) if epsilon else None,
    )
