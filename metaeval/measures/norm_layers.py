"""Norms of each layer of a model, shared by the measures that combine them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from metaeval.measures import spectral
from metaeval.measures.folding import Folded, fold, folded
from metaeval.measures.layers import Layer, Layers, layers_of
from metaeval.measures.spec import Context, Undefined, Unsupported

NAMED = 5
IMPRECISE = 1e-6


@dataclass(frozen=True)
class Profile:
    """One number per layer, and what a value made from them must say.

    Attributes
    ----------
    values : dict of int to float
        By the layer's place; those without one are missing.
    notes : tuple of str
    """

    values: dict[int, float]
    notes: tuple[str, ...]


def layers(context: Context) -> Layers:
    """Return the linear maps of the model."""
    return layers_of(context.shared(folded), context.shape)


def folded_start(context: Context) -> Folded:
    """Return the network before training, folded with the batch statistics that it had then.

    Raises
    ------
    Undefined
        If the initial weights are not known or are another network's.
    """
    return fold(untrained(context), context.shape, device=context.device, seed=context.seed)


def untrained(context: Context) -> nn.Module:
    """Return a copy of the model with the weights that it had before training; raises as `folded_start`."""
    if context.initial is None:
        raise Undefined("the weights before training are not known")
    module = copy.deepcopy(context.module)
    inner = _inner(context, module)
    try:
        inner.load_state_dict(dict(context.initial))
    except RuntimeError as error:
        raise Undefined(
            f"the weights before training do not fit: {str(error).splitlines()[-1].strip()}"
        ) from None
    return module


def _inner(context: Context, twin: nn.Module) -> nn.Module:
    """Return the part of a copy of the model that the initial weights belong to."""
    if context.trained is None:
        return twin
    for name, module in context.module.named_modules():
        if module is context.trained:
            return twin.get_submodule(name)
    raise Undefined("the trained part is not within the model")


def differences(context: Context) -> Layers:
    """Return the linear maps of the model minus those before training."""
    now = context.shared(layers)
    before = layers_of(context.shared(folded_start), context.shape)
    if len(now.maps) != len(before.maps):
        raise Unsupported("the network before training has other layers")
    maps = tuple(layer.minus(start) for layer, start in zip(now.maps, before.maps, strict=True))
    return Layers(maps, now.unsupported, now.skips)


def profile(context: Context, *, norm: str, method: str, moved: bool) -> Profile:
    """Return a norm of each layer, by name (`NORMS`) and convention (``spectral.METHODS``).

    Parameters
    ----------
    moved : bool
        Whether of the difference to the weights before training.

    Raises
    ------
    Unsupported
        If no layer has it.
    """
    network = context.shared(differences if moved else layers)
    values: dict[int, float] = {}
    notes: list[str] = []
    missing = list(network.unsupported)
    for place, layer in enumerate(network.maps):
        try:
            value, note = NORMS[norm](layer, method)
        except Unsupported as error:
            missing.append(str(error))
            continue
        values[place] = value
        notes += [f"{layer.name}: {note}"] if note else []
    if not values:
        raise Unsupported(
            f"no layer has this norm: {_listed(missing)}" if missing else "it has no linear layers"
        )
    if missing:
        notes.append(f"without {_listed(missing)}")
    if network.skips:
        notes.append(f"skip connections ({network.skips}): putting layers together is a heuristic")
    return Profile(values, tuple(notes))


def _listed(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _frobenius(layer: Layer, method: str) -> tuple[float, str]:
    return float(spectral.row_norms(layer, method).norm()), ""


def _rows(layer: Layer, method: str) -> tuple[float, str]:
    return float(spectral.row_norms(layer, method).sum()), ""


def _spectral(layer: Layer, method: str) -> tuple[float, str]:
    if method == "operator":
        found = spectral.operator_norm(layer)
        note = f"spectral norm only to about {found.error:.0e}" if found.error > IMPRECISE else ""
        return found.value, note
    return float(_values(layer, method)[0]), ""


def _nuclear(layer: Layer, method: str) -> tuple[float, str]:
    return float(_values(layer, method).sum()), ""


def _values(layer: Layer, method: str) -> torch.Tensor:
    if method not in ("circular", "reshaped"):
        raise ValueError(f"all singular values are known by circular or reshaped, not by {method!r}")
    return spectral.circular_values(layer) if method == "circular" else spectral.reshaped_values(layer)


NORMS: dict[str, Callable[[Layer, str], tuple[float, str]]] = {
    "frobenius": _frobenius,
    "rows": _rows,
    "spectral": _spectral,
    "nuclear": _nuclear,
}
