"""Training: standard and adversarial, decided by its seed alone."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from metaeval.sources.models.entry import ModelEntry, TrainingError
from metaeval.sources.models.normalized import normalized
from metaeval.sources.models.settings import TrainingSettings
from metaeval.sources.models.weights import State

TRAINING_VERSION = 1  # to be raised when anything below changes what comes out; cached models are others then
STEP_SIZE = 2.5  # of adversarial training, times epsilon / steps (Madry et al. 2018)
EVALUATION_BATCH = 1000
SMALL_BATCH = 2**16  # numbers in a batch; below it more threads only wait for each other


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Attributes
    ----------
    initial, final : dict of tensors
        The weights before and after, on the CPU, without the normalization.
    epochs : list of dict
        Per epoch: loss and accuracy over its batches as they were trained on, and seconds.
    loss, accuracy : float
        Of the final model on the clean training data.
    """

    initial: State
    final: State
    epochs: list[dict[str, float]]
    loss: float
    accuracy: float
    seconds: float


def train(
    entry: ModelEntry,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    *,
    device: torch.device,
    progress: Callable[[float], None] | None = None,
) -> Trained:
    """Train a model; neither what ran before nor the state of any global generator changes the result.

    The same machine gives the same weights. Batches of at least 65,536 numbers are computed with as many
    threads as torch is set to use, and with another number of threads sums are rounded otherwise.

    Parameters
    ----------
    x : float32 array (n, *shape)
        Inputs in [0, 1].
    y : int64 array (n,)
        Labels.
    progress : callable, optional
        Called with the fraction that is done.

    Raises
    ------
    TrainingError
        If the loss or the weights stop being finite.
    """
    settings = entry.training
    assert settings is not None
    started = time.monotonic()
    inputs, labels = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    cuda = [device] if device.type == "cuda" else []
    threads = 1 if x[: settings.batch_size].size < SMALL_BATCH else torch.get_num_threads()
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.random.fork_rng(devices=cuda), exact, torch.enable_grad(), _threads(threads):
        _seed(settings.seed, "weights", cuda)
        bare = entry.build_bare()  # on the CPU: the same initial weights on every device
        initial = _copy(bare)
        model = normalized(bare, entry.normalize).to(device)
        _seed(settings.seed, "dropout", cuda)
        epochs = _loop(model, inputs, labels, settings, progress)
        loss, accuracy = _evaluate(model, inputs, labels)
    final = _copy(bare)
    if not all(torch.isfinite(tensor).all() for tensor in final.values()):
        raise TrainingError(f"training diverged: weights are not finite ({_advice(settings)})")
    return Trained(initial, final, epochs, loss, accuracy, time.monotonic() - started)


def _loop(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    settings: TrainingSettings,
    progress: Callable[[float], None] | None,
) -> list[dict[str, float]]:
    optimizer = _optimizer(model, settings)
    order = torch.Generator().manual_seed(_derive(settings.seed, "order"))
    starts = torch.Generator().manual_seed(_derive(settings.seed, "starts"))
    batches = math.ceil(len(x) / settings.batch_size)
    log: list[dict[str, float]] = []
    for epoch in range(settings.epochs):
        started = time.monotonic()
        total, correct, seen = torch.zeros((), device=x.device), torch.zeros((), device=x.device), 0
        permutation = torch.randperm(len(x), generator=order)
        for number, chosen in enumerate(torch.split(permutation, settings.batch_size)):
            if len(chosen) == 1 < len(x):
                continue  # batch normalization has no variance of one sample
            batch, labels = x[chosen.to(x.device)], y[chosen.to(x.device)]
            if settings.adversarial_epsilon:
                batch = perturb(model, batch, labels, settings, starts)
            model.train()
            logits = model(batch)
            loss = cross_entropy(logits, labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.detach() * len(chosen)
            correct += (logits.detach().argmax(1) == labels).sum()
            seen += len(chosen)
            if progress:
                progress((epoch + (number + 1) / batches) / settings.epochs)
        mean = total.item() / seen
        if not math.isfinite(mean):
            raise TrainingError(
                f"training diverged: the loss is {mean} in epoch {epoch + 1} ({_advice(settings)})"
            )
        seconds = time.monotonic() - started
        log.append({"loss": mean, "accuracy": correct.item() / seen, "seconds": seconds})
    return log


def perturb(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, settings: TrainingSettings, starts: torch.Generator
) -> torch.Tensor:
    """Return adversarial inputs by projected gradient ascent from a random start (Madry et al. 2018).

    The model is in evaluation mode meanwhile, so that dropout and batch statistics do not blur the gradient.
    """
    epsilon, steps, norm = settings.adversarial_epsilon, settings.adversarial_steps, settings.adversarial_norm
    assert steps is not None
    model.eval()
    if norm == "linf":
        delta = epsilon * (2 * torch.rand(x.shape, generator=starts).to(x.device) - 1)
    else:
        noise = torch.randn(x.shape, generator=starts).to(x.device)
        radius = torch.rand(len(x), generator=starts).to(x.device)
        delta = epsilon * _per_sample(radius, x) * noise / _norm(noise)
    for _ in range(steps):
        point = (x + delta).clamp(0, 1).requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(point), y), point)
        if norm == "linf":
            moved = point.detach() + STEP_SIZE * epsilon / steps * gradient.sign()
            delta = (moved - x).clamp(-epsilon, epsilon)
        else:
            moved = point.detach() + STEP_SIZE * epsilon / steps * gradient / _norm(gradient)
            delta = moved - x
            delta = delta * (epsilon / _norm(delta)).clamp(max=1)
    return (x + delta).clamp(0, 1)


def _norm(x: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean norm of each sample, never 0, in a shape that divides the samples."""
    return _per_sample(x.flatten(1).norm(dim=1).clamp_min(1e-12), x)


def _per_sample(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *[1] * (x.ndim - 1))


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


def _evaluate(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Return the mean loss and the accuracy on clean inputs."""
    model.eval()
    loss, correct = 0.0, 0
    with torch.no_grad():
        batches = zip(torch.split(x, EVALUATION_BATCH), torch.split(y, EVALUATION_BATCH), strict=True)
        for inputs, labels in batches:
            logits = model(inputs)
            loss += cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
    return loss / len(x), correct / len(x)


def _copy(module: nn.Module) -> State:
    return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in module.state_dict().items()}


def _derive(seed: int, purpose: str) -> int:
    """Return a seed for one purpose, so that what is drawn for one does not shift the others."""
    digest = hashlib.sha256(f"{seed} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _seed(seed: int, purpose: str, cuda: list[torch.device]) -> None:
    """Seed the generators of the CPU and of the devices that the caller restores afterwards."""
    torch.default_generator.manual_seed(_derive(seed, purpose))
    for device in cuda:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(_derive(seed, purpose))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _advice(settings: TrainingSettings) -> str:
    return f"{settings.optimizer}, learning rate {settings.learning_rate:g}"
