"""The hyper-parameters of training, their defaults, and which of them apply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LEARNING_RATES = {"sgd": 0.1, "adam": 0.003, "adamw": 0.003, "rmsprop": 0.001}
MOMENTUM = {"sgd": 0.9, "rmsprop": 0.0}  # the optimizers that take one
WEIGHT_DECAY = {"adamw": 0.01}
DEFAULTS = {
    "optimizer": "adam",
    "schedule": "constant",
    "batch_size": 64,
    "augmentation": "none",
    "epochs": 20,
}
ADVERSARIAL_METHOD = "pgd"
ADVERSARIAL_NORM = "linf"
ADVERSARIAL_STEPS = {"pgd": 7, "trades": 10}
TRADES_BETA = 6.0


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained.

    Attributes
    ----------
    optimizer : str
        ``sgd``, ``adam``, ``adamw`` or ``rmsprop``.
    schedule : str
        What becomes of the learning rate: a name of `metaeval.sources.models.schedules.SCHEDULES`.
    momentum : float or None
        None for optimizers without.
    augmentation : str
        ``none``, ``flip``, ``crop`` or ``flip+crop``.
    target_loss : float or None
        Training stops after the epoch that brings the cross-entropy on the training data below it.
    epochs, batch_size, seed : int
        Epochs at most. The seed decides initial weights, order of samples, augmentation, dropout and random
        starts.
    adversarial_epsilon : float
        Radius of the adversarial training; 0 is standard training, and method, norm and steps are None.
    adversarial_method : str or None
        ``pgd`` (Madry et al. 2018) or ``trades`` (Zhang et al. 2019).
    trades_beta : float or None
        Weight of the robust term of TRADES.
    """

    optimizer: str
    learning_rate: float
    schedule: str
    momentum: float | None
    weight_decay: float
    batch_size: int
    augmentation: str
    epochs: int
    target_loss: float | None
    seed: int
    adversarial_epsilon: float
    adversarial_method: str | None
    adversarial_norm: str | None
    adversarial_steps: int | None
    trades_beta: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the settings that apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def passes(self, samples: int) -> tuple[int, int]:
        """Return the rows that training on so many samples sends forward and backward, at most."""
        rows, steps = samples * self.epochs, self.adversarial_steps or 0
        trades = self.adversarial_method == "trades"  # whose loss has two terms, and whose steps a target
        forwards = rows * (1 + steps + 2 * trades + (self.target_loss is not None))
        return forwards, rows * (1 + steps + trades)


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
    method = chosen.get("adversarial_method", ADVERSARIAL_METHOD) if epsilon else None
    return TrainingSettings(
        optimizer=optimizer,
        learning_rate=chosen.get("learning_rate", LEARNING_RATES[optimizer]),
        schedule=chosen["schedule"],
        momentum=chosen.get("momentum", MOMENTUM[optimizer]) if optimizer in MOMENTUM else None,
        weight_decay=chosen.get("weight_decay", WEIGHT_DECAY.get(optimizer, 0.0)),
        batch_size=chosen["batch_size"],
        augmentation=chosen["augmentation"],
        epochs=chosen["epochs"],
        target_loss=chosen.get("target_loss"),
        seed=chosen["seed"],
        adversarial_epsilon=epsilon,
        adversarial_method=method,
        adversarial_norm=chosen.get("adversarial_norm", ADVERSARIAL_NORM) if method else None,
        adversarial_steps=chosen.get("adversarial_steps", ADVERSARIAL_STEPS[method]) if method else None,
        trades_beta=chosen.get("trades_beta", TRADES_BETA) if method == "trades" else None,
    )
