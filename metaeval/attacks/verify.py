"""Where a perturbed input becomes an adversarial: label, norm and box, checked outside the attack."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metaeval import outcomes
from metaeval.attacks.arithmetic import arithmetic
from metaeval.attacks.geometry import norms, project
from metaeval.attacks.kernel import batches, check_logits
from metaeval.outcomes import NO_CLASS

# Rows of every verifying forward pass, short batches filled up: kernels choose their algorithm by the
# batch's shape, and the same tensor must get the same verdict whatever else is verified with it.
ROWS = {"cpu": 32, "cuda": 256}
BOX_ROUNDING = 1e-4  # excess over [0, 1] that is rounding (EAD: 3.5e-5) and is clipped before the check
VOTES = 9  # forward passes that judge a candidate of a model that answers at random
BALL_ROUNDING = 1e-3  # relative excess over a radius that is rounding and is projected before the check


@dataclass(frozen=True)
class Verdicts:
    """What verification says of n candidates.

    Attributes
    ----------
    broken : ndarray of bool
        The candidate is misclassified, inside the box and, if a radius was given, inside the ball.
    distance : ndarray of float64
        Norm of the perturbation where broken, else inf.
    points : Tensor
        The very tensors that were checked.
    """

    broken: npt.NDArray[np.bool_]
    distance: npt.NDArray[np.float64]
    points: Tensor


class Evaluator:
    """Forward passes of fixed shape in float32 without gradients, counted with their filling.

    Attributes
    ----------
    forwards : int
        Rows sent through the model so far.
    seconds : float
        Time that these took.
    votes : int
        Forward passes of a candidate, of which more than half must be wrong.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self.model = model
        self.device = device
        self.rows = ROWS.get(device.type, ROWS["cpu"])
        self.forwards = 0
        self.seconds = 0.0
        self.votes = 1

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits (n, classes) of `x`."""
        started, parts = time.perf_counter(), []
        self.model.eval()  # some libraries' attacks leave a model in training mode
        with torch.no_grad(), arithmetic(self.device, "float32"):
            for rows in batches(len(x), self.rows):
                part = x[rows]
                full = part
                if len(part) < self.rows:
                    full = torch.cat([part, part[:1].expand(self.rows - len(part), *part.shape[1:])])
                parts.append(check_logits(self.model(full.contiguous()), full)[: len(part)])
                self.forwards += self.rows
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the caller reads the result at once anyway
        self.seconds += time.perf_counter() - started
        return torch.cat(parts) if parts else torch.empty(0, 0, device=self.device)

    def verify(
        self, x: Tensor, y: Tensor, candidates: Tensor, norm: str, epsilon: npt.NDArray[np.float64] | None
    ) -> Verdicts:
        """Check candidates for `x`: misclassified, inside [0, 1], inside the ball of their radius.

        Parameters
        ----------
        x, y, candidates : Tensor
            Inputs (n, \\*shape), labels (n,) and perturbed inputs, on the evaluator's device.
        epsilon : ndarray or None
            float64 (n,), one radius per sample; None where the attack has none.
        """
        points = candidates.detach().to(x.dtype)
        finite = torch.isfinite(points.flatten(1)).all(dim=1)
        points = torch.where(finite.view(-1, *([1] * (x.ndim - 1))), points, x)
        clipped = points.clamp(0.0, 1.0)
        in_box = (points - clipped).flatten(1).abs().amax(dim=1) <= BOX_ROUNDING
        points = clipped
        distance = norms(x, points, norm)
        possible = (finite & in_box & (distance > 0)).cpu().numpy()
        if epsilon is not None:
            radius = torch.from_numpy(epsilon).to(x.device)
            over = distance.cpu().numpy()
            slightly = ~outcomes.within(over, epsilon, norm) & (over <= epsilon * (1 + BALL_ROUNDING))
            if (slightly & possible).any():
                rows = torch.from_numpy(np.flatnonzero(slightly & possible)).to(x.device)
                points[rows] = project(x[rows], points[rows], radius[rows], norm)
                distance[rows] = norms(x[rows], points[rows], norm)
        found = distance.cpu().numpy()
        if epsilon is not None:
            possible &= outcomes.within(found, epsilon, norm)
        broken = np.zeros(len(x), dtype=bool)
        index = np.flatnonzero(possible)
        if len(index):
            rows = torch.from_numpy(index).to(x.device)
            wrong = sum(
                (predictions(self.logits(points[rows])) != y[rows]).cpu().numpy().astype(int)
                for _ in range(self.votes)
            )
            broken[index] = 2 * wrong > self.votes
        return Verdicts(broken, np.where(broken, found, np.inf), points)


def predictions(logits: Tensor) -> Tensor:
    """Return the predicted class of each row of logits, int64; `NO_CLASS`, nobody's label, if one is NaN."""
    if len(logits) == 0:
        return torch.empty(0, dtype=torch.int64, device=logits.device)
    return torch.where(logits.isnan().any(dim=1), NO_CLASS, logits.argmax(dim=1))
