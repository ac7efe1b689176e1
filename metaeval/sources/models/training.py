"""Training: standard and adversarial, decided by its seed alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binom
from torch import nn

from metaeval.sources.models.entry import ModelEntry
from metaeval.sources.models.loop import Loop, advice, seed_torch
from metaeval.sources.models.normalized import normalized
from metaeval.sources.models.resuming import Checkpoint
from metaeval.sources.models.weights import State

TRAINING_VERSION = 2  # to be raised when what comes out of a training changes; cached models are others then
SMALL_BATCH = 2**16  # numbers in a batch; below it more threads only wait for each other
LEVEL = 0.01  # of the test of whether a model has learned anything


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Attributes
    ----------
    initial, final : dict of tensors
        The weights before and after, on the CPU, without the normalization.
    epochs : list of dict
        Per epoch: loss and accuracy over its batches as they were trained on, learning rate of its last
        step, and seconds; with a target loss also the loss on the clean training data after it.
    loss, accuracy : float
        Of the final model on the clean training data; NaN if it diverged.
    reached_target : bool, optional
        Whether the target loss was reached; None without one.
    failure : str, optional
        Why the model is of no use; None if it is.
    """

    initial: State
    final: State
    epochs: list[dict[str, float]]
    loss: float
    accuracy: float
    seconds: float
    reached_target: bool | None = None
    failure: str | None = None


def train(
    entry: ModelEntry,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    *,
    device: torch.device,
    checkpoint: Path | None = None,
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
    checkpoint : Path, optional
        A file that is written after every epoch and from which a killed training goes on: it gives what it
        would have given otherwise, bit for bit. It stays until the caller has kept the result.
    progress : callable, optional
        Called with the fraction that is done.
    """
    settings = entry.training
    assert settings is not None
    inputs, labels = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    cuda = [device] if device.type == "cuda" else []
    threads = 1 if x[: settings.batch_size].size < SMALL_BATCH else torch.get_num_threads()
    made_by = {"torch": str(torch.__version__), "device": device.type, "threads": threads}
    kept = Checkpoint(checkpoint, made_by) if checkpoint else None
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.random.fork_rng(devices=cuda), exact, torch.enable_grad(), _threads(threads):
        seed_torch(settings.seed, "weights", cuda)
        bare = entry.build_bare()  # on the CPU: the same initial weights on every device
        initial = _copy(bare)
        model = normalized(bare, entry.normalize).to(device)
        seed_torch(settings.seed, "dropout", cuda)
        loop = Loop(model, inputs, labels, settings, cuda)
        before = kept.read() if kept else None
        if before is not None:
            initial = before["initial"]
            loop.restore(before["loop"])
        while not loop.finished:
            loop.epoch(progress)
            if kept and not loop.finished:
                kept.save({"initial": initial, "loop": loop.state()})
        loss, accuracy = loop.evaluate()
    final = _copy(bare)
    failure = loop.failure
    if not failure and not all(torch.isfinite(tensor).all() for tensor in final.values()):
        failure = f"training diverged: weights are not finite ({advice(settings)})"
    failure = failure or no_better_than_chance(round(accuracy * len(y)), y)
    return Trained(initial, final, loop.log, loss, accuracy, loop.seconds, loop.reached_target, failure)


def no_better_than_chance(correct: int, y: npt.NDArray[np.int64]) -> str | None:
    """Return why a model has learned nothing, or None.

    Chance is the share of the commonest class, which a constant answer gets; a one-sided binomial test at
    level 0.01 must put the accuracy on the training data above it.

    Parameters
    ----------
    correct : int
        Number of training samples that the model classifies correctly.
    y : int64 array (n,)
        Labels of the training data.
    """
    n, chance = len(y), float(np.bincount(y).max() / len(y))
    if correct == n or binom.sf(correct - 1, n, chance) <= LEVEL:
        return None
    below = bool(binom.cdf(correct, n, chance) <= LEVEL)
    word = "below chance" if below else "not significantly above chance"
    return f"training accuracy {correct / n:.1%} is {word} ({chance:.1%}, the commonest class; {n} samples)"


def _copy(module: nn.Module) -> State:
    return {key: tensor.detach().cpu().clone().contiguous() for key, tensor in module.state_dict().items()}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
