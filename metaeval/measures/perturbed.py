"""A network evaluated with other weights than its own, which are never touched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from metaeval.hashing import hash_json
from metaeval.measures.folding import folded, neutralised
from metaeval.measures.norm_layers import folded_start, untrained
from metaeval.measures.spec import Context, Split, Undefined, Unsupported

ROWS = 64  # at once, whatever the batch size: sums of gradients depend on it in their last bits
PERTURBED = ("weights", "all")


@dataclass(frozen=True, eq=False)
class Network:
    """A module and those of its parameters that are perturbed.

    Attributes
    ----------
    module : nn.Module
    weights : mapping of str to tensor
        The parameters that are perturbed, detached.
    """

    module: nn.Module
    weights: Mapping[str, Tensor]

    def logits(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the logits under other weights; the module keeps its own, also if its forward raises."""
        found = functional_call(self.module, dict(weights), (x,))
        if not isinstance(found, Tensor):
            raise Unsupported(f"the model returns {type(found).__name__}, not one tensor of logits")
        return found

    def logits_in_parts(self, x: Tensor, y: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the logits of many rows."""
        return torch.cat([self.logits(rows, weights) for rows, _ in parts(x, y)])

    def gradient(
        self, x: Tensor, y: Tensor, weights: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the gradient of the summed cross-entropy in the weights, and the logits."""
        total = {name: torch.zeros_like(precise(weight)) for name, weight in weights.items()}
        logits = []
        with torch.enable_grad():
            leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            for rows, labels in parts(x, y):
                found = self.logits(rows, leaves)
                loss = functional.cross_entropy(found, labels, reduction="sum")
                # A weight that the logits do not depend on has a gradient of zeros.
                parts_of = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
                for name, part in zip(leaves, parts_of, strict=True):
                    total[name] += part
                logits.append(found.detach())
        return total, torch.cat(logits)


def network(context: Context, *, perturb: str, fold_batch_norm: bool, neutral: bool = False) -> Network:
    """Return the model's network with its batch norm folded, and the parameters that noise falls on.

    A module without batch norm is used as it is, so that it need not be traced.

    Parameters
    ----------
    perturb : str
        "weights": parameters of two and more dimensions (no biases, no norm layers); or "all".
    neutral : bool
        Whether a folded batch norm leaves a scale of 1 and a shift of 0, which are perturbed with "all".

    Raises
    ------
    Unsupported
        If there is nothing to perturb, or batch norm that cannot be folded.
    """
    if fold_batch_norm and _has_batch_norm(context.module):
        found = context.shared(neutralised if neutral else folded)
        return Network(found.module, _chosen(found.module, perturb, found.norms))
    return Network(context.module, _chosen(context.module, perturb))


def initial_weights(context: Context, *, perturb: str, fold_batch_norm: bool) -> Mapping[str, Tensor]:
    """Return the same parameters before training, folded in the same way.

    Raises
    ------
    Undefined
        If the weights before training are not at hand, or another network's.
    """
    if fold_batch_norm and _has_batch_norm(context.module):
        found = context.shared(folded_start)
        return _chosen(found.module, perturb, found.norms)
    return _chosen(untrained(context), perturb)


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(part, _BatchNorm) for part in module.modules())


def _chosen(module: nn.Module, perturb: str, norms: frozenset[str] = frozenset()) -> dict[str, Tensor]:
    if perturb not in PERTURBED:
        raise ValueError(f"perturb is one of {', '.join(PERTURBED)}, got {perturb!r}")
    chosen = {
        name: p.detach()
        for name, p in module.named_parameters()
        if perturb == "all" or (p.ndim >= 2 and name not in norms)
    }
    if not chosen:
        raise Unsupported(f"no parameters to perturb in {type(module).__name__}")
    return chosen


def precise(weight: Tensor) -> Tensor:
    """Return a weight in float32 at least: half precision rounds small changes away."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def moved(weight: Tensor, change: Tensor) -> Tensor:
    """Return a weight plus a change, in the weight's own precision."""
    return (precise(weight) + change).to(weight.dtype)


def noise(weights: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Return standard normal noise for each weight, the same on every device."""
    sizes = [weight.numel() for weight in weights.values()]
    flat = torch.randn(sum(sizes), generator=generator)
    return {
        name: part.reshape(weight.shape).to(weight.device)
        for (name, weight), part in zip(weights.items(), torch.split(flat, sizes), strict=True)
    }


def generator(*key: int | str) -> torch.Generator:
    """Return a generator on the CPU that depends on the key alone."""
    return torch.Generator().manual_seed(int(hash_json(list(key))[:15], 16))


@dataclass(frozen=True, eq=False)
class Training:
    """Training samples of which draws take a few.

    Attributes
    ----------
    correct : bool array (n,)
        By the stored logits.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    correct: npt.NDArray[np.bool_]
    device: torch.device

    @classmethod
    def of(cls, context: Context, split: Split) -> Training:
        """Take those of a split.

        Raises
        ------
        Undefined
            If there are no inputs, or the stored logits are not finite.
        """
        if split.x is None or not len(split.y):
            raise Undefined("no training data at hand")
        if not np.isfinite(split.logits).all():
            raise Undefined("the logits of the training data are not finite")
        return cls(split.x, split.y, split.logits.argmax(axis=1) == split.y, context.device)

    def draw(self, generator: torch.Generator, count: int) -> npt.NDArray[np.int64]:
        """Return indices: all of them if there are no more than `count`, else with replacement."""
        if len(self.y) <= count:
            return np.arange(len(self.y))
        return torch.randint(len(self.y), (count,), generator=generator).numpy()

    def fixed(self, generator: torch.Generator, count: int) -> npt.NDArray[np.int64]:
        """Return `count` different indices, or all."""
        return torch.randperm(len(self.y), generator=generator)[:count].sort().values.numpy()

    def rows(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return inputs and labels on the device."""
        x, y = torch.from_numpy(self.x[indices]), torch.from_numpy(self.y[indices])
        return x.to(self.device), y.to(self.device)


def parts(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Return inputs and labels by `ROWS` rows."""
    return zip(torch.split(x, ROWS), torch.split(y, ROWS), strict=True)


def correct(logits: Tensor, y: Tensor) -> Tensor:
    """Return whether each row is classified correctly; one that is not finite is not."""
    return (logits.argmax(dim=1) == y) & logits.isfinite().all(dim=1)
