"""FAB as AutoAttack's package `pyautoattack` implements it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor, nn

from metaeval.attacks.counting import CountedModel
from metaeval.attacks.kernel import KernelResult, batches

_NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def fab(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Mapping[str, Any],
    batch_size: int,
) -> KernelResult:
    """Look for the smallest adversarials with untargeted FAB (Croce and Hein 2020); setting ``iterations``.

    One run from the input itself draws nothing at random. The library's `perturb` is left out: it throws
    adversarials beyond its epsilon away.
    """
    result = KernelResult.failed(x)
    counted = CountedModel(model, result)
    attack = FABAttack_PT(counted, norm=_NORMS[norm], n_iter=settings["iterations"], device=x.device)
    for part in batches(len(x), batch_size):
        counted.attend(torch.arange(part.start, part.stop, device=x.device))
        found = attack.attack_single_run(x[part], y[part], use_rand_start=False)
        result.candidates[part] = found
        result.success[part] = (found != x[part]).flatten(1).any(dim=1)
    counted.settle()
    return result
