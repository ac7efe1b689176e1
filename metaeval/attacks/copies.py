"""Attacked copies: every sample after one run of an attack, whether or not it is misclassified then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from metaeval import outcomes
from metaeval.attacks import checks
from metaeval.attacks.arithmetic import arithmetic
from metaeval.attacks.geometry import norms, project
from metaeval.attacks.runs import AttackRuns
from metaeval.attacks.spec import AttackSpec
from metaeval.attacks.verify import BALL_ROUNDING, BOX_ROUNDING


@dataclass(frozen=True)
class Copies:
    """The copies of n samples.

    Attributes
    ----------
    points : Tensor
        float32 (n, \\*shape) in [0, 1].
    distance : ndarray of float64
        (n,): norm of each perturbation.
    forwards, backwards : int
        Passes that the attack took.
    """

    points: Tensor
    distance: npt.NDArray[np.float64]
    forwards: int
    backwards: int


def attacked_copies(
    model: nn.Module,
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    *,
    spec: AttackSpec,
    settings: Mapping[str, Any],
    norm: str,
    epsilon: float | None,
    seed: int,
    sample_hashes: Sequence[str],
    batch_size: int | None,
    device: torch.device,
    precision: str = "float32",
) -> Copies:
    """Run an attack once on every sample, on those that are misclassified already too.

    Parameters
    ----------
    epsilon : float or None
        The radius; None for a minimum-norm attack.

    Raises
    ------
    ValueError
        If the attack leaves the box or the ball by more than rounding, or returns what is not finite.
    UsageError
        If inputs are outside [0, 1].
    """
    spec = spec.for_norm(norm)
    checks.check_data(x, y)
    model.to(device)
    with arithmetic(device, precision), checks.guarded(model, {}):
        runs = AttackRuns(
            model, x, y, spec, settings, norm, seed, sample_hashes, batch_size, device, precision
        )
        rows = np.arange(len(x))
        if spec.kind == "minimum-norm":
            attempt = runs.minimum_norm(rows)
        else:
            assert epsilon is not None
            attempt = runs.fixed_epsilon(rows, np.full(len(x), epsilon), None)
    points = attempt.candidates.to(runs.x.dtype)
    if not bool(torch.isfinite(points).all()):
        raise ValueError(f"{spec.id} returned inputs that are not finite")
    clipped = points.clamp(0.0, 1.0)
    if float((points - clipped).abs().max()) > BOX_ROUNDING:
        raise ValueError(f"{spec.id} left the box [0, 1]")
    if spec.kind == "minimum-norm":
        distance = norms(runs.x, clipped, norm).cpu().numpy()
        return Copies(clipped, distance, int(runs.forwards.sum()), int(runs.backwards.sum()))
    assert epsilon is not None
    points, distance = _inside(runs.x, clipped, norm, epsilon, spec.id)
    return Copies(points, distance, int(runs.forwards.sum()), int(runs.backwards.sum()))


def _inside(
    x: Tensor, points: Tensor, norm: str, epsilon: float, name: str
) -> tuple[Tensor, npt.NDArray[np.float64]]:
    """Return points in the ball and their distances, projecting what rounding moved out of it."""
    distance = norms(x, points, norm).cpu().numpy()
    outside = ~outcomes.within(distance, epsilon, norm)
    if (distance[outside] > epsilon * (1 + BALL_ROUNDING)).any():
        raise ValueError(f"{name} returned a perturbation of norm {distance.max():g} for epsilon {epsilon:g}")
    if outside.any():
        rows = torch.from_numpy(np.flatnonzero(outside)).to(x.device)
        radius = torch.full((len(rows),), epsilon, dtype=torch.float64, device=x.device)
        points = points.clone()
        points[rows] = project(x[rows], points[rows], radius, norm)
        distance = norms(x, points, norm).cpu().numpy()
    return points, outcomes.snap(distance, [epsilon], norm)
