"""The loop of a training: epochs, each decided by the seed and its number alone."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from metaeval.sources.models import augmentation
from metaeval.sources.models.adversarial import training_loss
from metaeval.sources.models.schedules import SCHEDULES
from metaeval.sources.models.settings import TrainingSettings

EVALUATION_BATCH = 1000


class Loop:
    """A training that goes on epoch by epoch.

    Attributes
    ----------
    log : list of dict
        What happened in each epoch.
    seconds : float
        Spent so far, by all processes that worked on it.
    reached_target : bool or None
        Whether the target loss was reached; None without one.
    failure : str or None
        Why it cannot go on.
    """

    def __init__(
        self,
        model: nn.Module,
        x: torch.Tensor,
        y: torch.Tensor,
        settings: TrainingSettings,
        cuda: Sequence[torch.device] = (),
    ) -> None:
        self.model, self.settings = model, settings
        self._x, self._y, self._cuda = x, y, list(cuda)
        self._optimizer = _optimizer(model, settings)
        size = settings.batch_size
        # Batch normalization has no variance of one sample: a last batch of one is left out.
        self._alone = len(x) % size == 1 < min(size, len(x))
        self._batches = math.ceil(len(x) / size) - self._alone
        self._schedule = SCHEDULES[settings.schedule](self._optimizer, self._batches * settings.epochs)
        self._order = torch.Generator().manual_seed(derive(settings.seed, "order"))
        self._starts = torch.Generator().manual_seed(derive(settings.seed, "starts"))
        self.log: list[dict[str, float]] = []
        self.seconds = 0.0
        self.reached_target = None if settings.target_loss is None else False
        self.failure: str | None = None

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return bool(self.failure or self.reached_target or len(self.log) == self.settings.epochs)

    def epoch(self, progress: Callable[[float], None] | None = None) -> None:
        """Train for one epoch; `progress` is called with the fraction of all epochs that is done."""
        settings, number, started = self.settings, len(self.log), time.monotonic()
        total = torch.zeros((), device=self._x.device)
        correct, seen = torch.zeros((), device=self._x.device), 0
        seed = derive(settings.seed, f"augmentation {number}")
        augmented = augmentation.draw(settings.augmentation, len(self._x), tuple(self._x.shape[1:]), seed)
        permutation = torch.randperm(len(self._x), generator=self._order)
        rate = 0.0
        for position, chosen in enumerate(torch.split(permutation, settings.batch_size)[: self._batches]):
            batch, labels = self._x[chosen.to(self._x.device)], self._y[chosen.to(self._x.device)]
            if augmented:
                batch = augmented.apply(batch, chosen)
            loss, logits = training_loss(self.model, batch, labels, settings, self._starts)
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            rate = float(self._schedule.get_last_lr()[0])
            self._optimizer.step()
            self._schedule.step()
            total += loss.detach() * len(chosen)
            correct += (logits.detach().argmax(1) == labels).sum()
            seen += len(chosen)
            if progress:
                progress((number + (position + 1) / self._batches) / settings.epochs)
        mean = total.item() / seen
        found = {"loss": mean, "accuracy": correct.item() / seen, "learning_rate": rate}
        if not math.isfinite(mean):
            self.failure = f"training diverged: the loss is {mean} in epoch {number + 1} ({advice(settings)})"
        elif settings.target_loss is not None:
            found["clean_loss"] = self.evaluate()[0]
            self.reached_target = found["clean_loss"] < settings.target_loss
        found["seconds"] = time.monotonic() - started
        self.seconds += found["seconds"]
        self.log.append(found)

    def evaluate(self) -> tuple[float, float]:
        """Return the mean cross-entropy and the accuracy on the clean training data, as evaluated."""
        self.model.eval()
        loss, correct = 0.0, 0
        with torch.no_grad():
            pieces = zip(
                torch.split(self._x, EVALUATION_BATCH), torch.split(self._y, EVALUATION_BATCH), strict=True
            )
            for inputs, labels in pieces:
                logits = self.model(inputs)
                loss += cross_entropy(logits, labels, reduction="sum").item()
                correct += int((logits.argmax(1) == labels).sum())
        return loss / len(self._x), correct / len(self._x)

    def state(self) -> dict[str, Any]:
        """Return all that the next epoch depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "order": self._order.get_state(),
            "starts": self._starts.get_state(),
            "dropout": torch.get_rng_state(),
            "dropout_cuda": [torch.cuda.get_rng_state(device) for device in self._cuda],
            "log": self.log,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` returned."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._order.set_state(state["order"])
        self._starts.set_state(state["starts"])
        torch.set_rng_state(state["dropout"])
        for device, kept in zip(self._cuda, state["dropout_cuda"], strict=True):
            torch.cuda.set_rng_state(kept, device)
        self.log, self.seconds = state["log"], state["seconds"]


def advice(settings: TrainingSettings) -> str:
    """Return what a diverged training was told to do."""
    return f"{settings.optimizer}, learning rate {settings.learning_rate:g}"


def _optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    common: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.momentum is not None:
        common["momentum"] = settings.momentum
    optimizers: dict[str, type[torch.optim.Optimizer]] = {
        "sgd": torch.optim.SGD,
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "rmsprop": torch.optim.RMSprop,
    }
    return optimizers[settings.optimizer](model.parameters(), **common)


def derive(seed: int, purpose: str) -> int:
    """Return a seed for one purpose, so that what is drawn for one does not shift the others."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_torch(seed: int, purpose: str, cuda: list[torch.device]) -> None:
    """Seed the generators of the CPU and of the devices that the caller restores afterwards."""
    torch.default_generator.manual_seed(derive(seed, purpose))
    for device in cuda:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(derive(seed, purpose))
