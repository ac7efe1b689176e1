"""The Fisher-Rao norm of a network."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from metaeval.measures.folding import folded
from metaeval.measures.spec import Context, Undefined, Unsupported, Value

NORMAL = 1.959964  # 97.5 % quantile


def fisher_rao_norm(context: Context, *, samples: int) -> Value:
    """Return sqrt(E <grad_theta loss, theta>^2) over the training set (Liang et al. 2019).

    theta is all weights and biases of the folded network, the loss is the cross-entropy with the true class,
    and <grad_theta loss, theta> is the loss gradient in the logits times their derivative along theta, found
    in forward mode.

    Parameters
    ----------
    samples : int
        Training samples used, drawn by the context's seed if there are more; then the value has an interval.

    Raises
    ------
    Undefined
        Without training inputs, or if a product is not finite.
    Unsupported
        If an operation has no derivative in forward mode.
    """
    split = context.train
    if split is None or split.x is None or not len(split.y):
        raise Undefined("the inputs of the training set are not at hand")
    rows = np.arange(len(split.y))
    if len(rows) > samples:
        rows = np.sort(np.random.default_rng(context.seed).choice(len(rows), samples, replace=False))
    network = context.shared(folded).module
    weights = {name: value.detach() for name, value in network.named_parameters()}
    if not weights:
        raise Undefined("the model has no weights")
    products = []
    for start in range(0, len(rows), context.batch_size):
        chosen = rows[start : start + context.batch_size]
        x = torch.from_numpy(np.ascontiguousarray(split.x[chosen])).to(context.device)
        y = torch.from_numpy(split.y[chosen]).to(context.device)

        def logits(given: dict[str, torch.Tensor], x: torch.Tensor = x) -> torch.Tensor:
            result: torch.Tensor = functional_call(network, given, (x,))
            return result

        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # the faster ones have no forward mode
            try:
                z, along, *_ = jvp(logits, (weights,), (weights,))
            except NotImplementedError as error:
                raise Unsupported(f"no derivative in forward mode: {str(error).splitlines()[0]}") from None
        slope = torch.softmax(z.double(), dim=1)
        slope[torch.arange(len(y)), y] -= 1
        products.append((slope * along.double()).sum(dim=1).cpu().numpy())
    squares = np.concatenate(products) ** 2
    if not np.isfinite(squares).all():
        raise Undefined("a logit's derivative along the weights is not finite").after(len(rows))
    value = math.sqrt(float(squares.mean()))
    if len(rows) == len(split.y) or value == 0:
        return Value(value, forwards=len(rows))
    share = 1 - len(rows) / len(split.y)
    spread = math.sqrt(float(squares.var(ddof=1)) / len(rows) * share) / (2 * value)
    return Value(value, spread, value - NORMAL * spread, value + NORMAL * spread, forwards=len(rows))
