"""An attack at work on the samples of one task: its inputs, its randomness and what it spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from metaeval import registry
from metaeval.attacks import noise
from metaeval.attacks.arithmetic import arithmetic, attacked_model
from metaeval.attacks.catalogue import AttackSpec
from metaeval.attacks.column import Floats
from metaeval.attacks.kernel import KernelResult
from metaeval.attacks.search import Attempt, Rows
from metaeval.hashing import hash_samples

DEFAULT_BATCH = {"cpu": 256, "cuda": 1024}
WARM_ITERATIONS = 25  # of a restart from a projected adversarial


class AttackRuns:
    """Runs of one attack on rows of a task's inputs.

    Attributes
    ----------
    x, y : Tensor
        All inputs (n, \\*shape) and labels (n,), on the device of the model.
    forwards, backwards : ndarray
        int64 (n,): passes spent so far.
    moved : ndarray
        bool (n,): some run returned another point than the input.
    switched : ndarray
        bool (n,): the attack's loss had no gradient, so that it took another one.
    randomised : bool
        The model answers at random, so that no run may stop at the first misclassification.
    passes_at : Counter
        Passes of all samples, forward and backward, by radius; 0 for runs without one.
    """

    def __init__(
        self,
        model: nn.Module,
        x: npt.NDArray[np.float32],
        y: npt.NDArray[np.int64],
        spec: AttackSpec,
        settings: Mapping[str, Any],
        norm: str,
        seed: int,
        sample_hashes: Sequence[str] | None,
        batch_size: int | None,
        device: torch.device,
        precision: str = "float32",
    ) -> None:
        self.model = attacked_model(model, device, precision, confirms=spec.warm)
        self.spec, self.settings, self.norm = spec, settings, norm
        self._plain = model
        self._confirm = self._float32 if precision != "float32" else None
        self.x, self.y = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
        self.forwards = np.zeros(len(x), dtype=np.int64)
        self.backwards = np.zeros(len(x), dtype=np.int64)
        self.moved = np.zeros(len(x), dtype=bool)
        self.switched = np.zeros(len(x), dtype=bool)
        self.randomised = False
        self.passes_at: Counter[float] = Counter()
        self._seed = seed
        self._hashes = hash_samples(x) if sample_hashes is None else sample_hashes
        self._batch_size = batch_size or DEFAULT_BATCH.get(device.type, DEFAULT_BATCH["cpu"])
        self._kernel: Callable[..., KernelResult] = registry.resolve(spec.run)

    def fixed_epsilon(self, rows: Rows, epsilon: Floats, start: Tensor | None) -> Attempt:
        """Attack samples within their own radii; from `start`, only shortly."""
        radius = torch.from_numpy(epsilon).to(self.x.device)
        if start is None:
            return self._run(rows, epsilon, self.settings, radius)
        # Of a targeted attack's classes only the first: all of them would cost a quarter of a full run.
        short = {"iterations": WARM_ITERATIONS, "restarts": 1, "targets": 1}
        settings = {key: min(value, short.get(key, value)) for key, value in self.settings.items()}
        return self._run(rows, epsilon, settings, radius, start=start)

    def minimum_norm(self, rows: Rows) -> Attempt:
        """Look for the smallest adversarials of samples."""
        return self._run(rows, np.zeros(len(rows)), self.settings)

    def _run(
        self, rows: Rows, epsilon: Floats, settings: Mapping[str, Any], *radius: Tensor, **extra: Any
    ) -> Attempt:
        index = torch.from_numpy(rows).to(self.x.device)
        if self.randomised and self.spec.warm:
            extra["compact"] = False
        if self._confirm and self.spec.warm:
            extra["confirm"] = self._confirm
        keys = noise.sample_keys(self._seed, [self._hashes[row] for row in rows], epsilon.tolist())
        result = self._kernel(
            self.model,
            self.x[index],
            self.y[index],
            *radius,
            norm=self.norm,
            keys=keys.to(self.x.device),
            settings=settings,
            batch_size=self._batch_size,
            **extra,
        )
        self.forwards[rows] += result.forwards.cpu().numpy()
        self.backwards[rows] += result.backwards.cpu().numpy()
        self.switched[rows] |= result.switched.cpu().numpy()
        self.moved[rows] |= (result.candidates != self.x[index]).flatten(1).any(dim=1).cpu().numpy()
        passes = (result.forwards + result.backwards).cpu().numpy()
        for value in np.unique(epsilon).tolist():
            self.passes_at[value] += int(passes[epsilon == value].sum())
        return Attempt(
            result.candidates.detach(), result.success.cpu().numpy(), result.zero_gradient.cpu().numpy()
        )

    def _float32(self, x: Tensor) -> Tensor:
        with arithmetic(x.device, "float32"):
            logits: Tensor = self._plain(x)
            return logits
