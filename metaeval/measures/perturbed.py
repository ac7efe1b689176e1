"""A network evaluated with other weights than its own, which are never touched."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from metaeval.hashing import hash_json
from metaeval.measures.spec import Context, Split, Undefined, Unsupported

ROWS = 64  # at once, whatever the batch size: sums of gradients depend on it in their last bits
PERTURBED = ("weights", "all")
_FUSED: dict[type[nn.Module], Callable[[Any, Any], nn.Module]] = {
    nn.Conv1d: fuse_conv_bn_eval,
    nn.Conv2d: fuse_conv_bn_eval,
    nn.Conv3d: fuse_conv_bn_eval,
    nn.Linear: fuse_linear_bn_eval,
}


@dataclass(frozen=True, eq=False)
class Network:
    """A module and those of its parameters that are perturbed.

    Attributes
    ----------
    module : nn.Module
    weights : mapping of str to tensor
        The parameters that are perturbed, detached.
    note : str
        What could not be folded.
    """

    module: nn.Module
    weights: Mapping[str, Tensor]
    note: str = ""

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
        total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        logits = []
        with torch.enable_grad():
            leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            for rows, labels in parts(x, y):
                found = self.logits(rows, leaves)
                loss = functional.cross_entropy(found, labels, reduction="sum")
                for name, part in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
                    total[name] += part
                logits.append(found.detach())
        return total, torch.cat(logits)


def network(context: Context, *, perturb: str, fold_batch_norm: bool, neutral: bool = False) -> Network:
    """Return the model's network with its batch norm folded, and the parameters that noise falls on.

    Parameters
    ----------
    perturb : str
        "weights": parameters of two and more dimensions (no biases, no norm layers); or "all".
    neutral : bool
        Whether a folded batch norm stays as a layer with scale 1 and shift 0, whose parameters are perturbed
        with "all".

    Raises
    ------
    Unsupported
        If there is nothing to perturb, or batch norm that cannot be folded.
    """
    module, note = fold(context.module, neutral=neutral) if fold_batch_norm else (context.module, "")
    return Network(module, _chosen(module, perturb), note)


def initial_weights(context: Context, *, perturb: str, fold_batch_norm: bool) -> Mapping[str, Tensor]:
    """Return the same parameters before training, folded in the same way.

    Raises
    ------
    Undefined
        If the weights before training are not at hand.
    Unsupported
        If they do not fit the module.
    """
    if context.initial is None:
        raise Undefined("the weights before training are not at hand")
    trained = context.trained if context.trained is not None else context.module
    names = [name for name, part in context.module.named_modules() if part is trained]
    if not names:
        raise Unsupported("the trained part is no part of the module")
    module = copy.deepcopy(context.module)
    try:
        module.get_submodule(names[0]).load_state_dict(context.initial)
    except RuntimeError as error:
        raise Unsupported(f"the weights before training do not fit: {error}") from error
    return _chosen(fold(module)[0] if fold_batch_norm else module, perturb)


def _chosen(module: nn.Module, perturb: str) -> dict[str, Tensor]:
    if perturb not in PERTURBED:
        raise ValueError(f"perturb is one of {', '.join(PERTURBED)}, got {perturb!r}")
    least = 2 if perturb == "weights" else 0
    chosen = {name: p.detach() for name, p in module.named_parameters() if p.ndim >= least}
    if not chosen:
        raise Unsupported(f"no parameters to perturb in {type(module).__name__}")
    return chosen


def fold(module: nn.Module, *, neutral: bool = False) -> tuple[nn.Module, str]:
    """Return a copy with each batch norm folded into the layer before it, and a note on what is left.

    A module without batch norm is returned as it is.

    Raises
    ------
    Unsupported
        If there is batch norm and the module cannot be traced.
    """
    norms = {name for name, part in module.named_modules() if isinstance(part, _BatchNorm)}
    if not norms:
        return module, ""
    module = copy.deepcopy(module)
    try:
        graph = fx.Tracer().trace(module)
    except Exception as error:
        raise Unsupported(
            f"batch norm cannot be folded: torch.fx does not trace {type(module).__name__}: {error}"
        ) from error
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in graph.nodes:
        if node.op != "call_module" or node.target not in norms or not isinstance(node.args[0], fx.Node):
            continue
        before, name = node.args[0], str(node.target)
        if before.op != "call_module" or len(before.users) > 1:
            continue
        if calls.count(name) > 1 or calls.count(before.target) > 1:
            continue
        layer, norm = module.get_submodule(str(before.target)), module.get_submodule(name)
        fuse = _FUSED.get(type(layer))
        if fuse is None or getattr(norm, "running_var", None) is None:
            continue
        _replace(module, str(before.target), fuse(layer, norm))
        _replace(module, name, _neutral(norm) if neutral else nn.Identity())
        norms.discard(name)
    left = ", ".join(sorted(norms))
    return module, f"batch norm that follows no convolution is left as it is: {left}" if left else ""


def _replace(module: nn.Module, name: str, part: nn.Module) -> None:
    above, _, last = name.rpartition(".")
    setattr(module.get_submodule(above), last, part)


def _neutral(norm: Any) -> nn.Module:
    norm = copy.deepcopy(norm)
    norm.reset_parameters()
    return norm  # type: ignore[no-any-return]


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
