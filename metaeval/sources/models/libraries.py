"""Architectures of other libraries by their names there: ``timm:resnet18``, ``torchvision:resnet18``."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from metaeval.errors import UsageError, nearest

if TYPE_CHECKING:
    from torch import nn


def library_architecture(library: str, name: str) -> Callable[..., nn.Module]:
    """Return a callable that builds an architecture of a library; the library is imported by the call.

    Parameters
    ----------
    library : str
        A key of `LIBRARIES`.
    name : str
        The architecture's name there.
    """

    def build(shape: tuple[int, ...], classes: int, **settings: Any) -> nn.Module:
        try:
            return LIBRARIES[library](name, shape, classes, **settings)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != library:
                raise
            raise UsageError(f"'{library}:{name}' needs {library}: pip install {library}") from None

    return build


def library_version(library: str) -> str:
    """Return a library with its version, which stands for the source of its architectures."""
    try:
        return f"{library} {importlib.metadata.version(library)}"
    except importlib.metadata.PackageNotFoundError:
        return library


def _timm(name: str, shape: tuple[int, ...], classes: int, **settings: Any) -> nn.Module:
    timm = importlib.import_module("timm")
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    module: nn.Module = timm.create_model(
        name, pretrained=False, **{"num_classes": classes, "in_chans": shape[0], **settings}
    )
    return module


def _torchvision(name: str, shape: tuple[int, ...], classes: int, **settings: Any) -> nn.Module:
    models = importlib.import_module("torchvision.models")
    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    # Initial weights of the Inception networks take long to draw; they are never used.
    unused = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    module: nn.Module = models.get_model(name, weights=None, **{"num_classes": classes, **unused, **settings})
    return module


def _robustbench(name: str, shape: tuple[int, ...], classes: int, **settings: Any) -> nn.Module:
    from metaeval.sources.models.zoo import build_zoo_module

    return build_zoo_module(name, **settings)


def _unknown(library: str, name: str, names: list[str]) -> UsageError:
    near = nearest(name, names)
    hint = f"; did you mean '{library}:{near}'?" if near else ""
    return UsageError(f"{library} has no architecture {name!r}{hint}")


LIBRARIES: dict[str, Callable[..., nn.Module]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "robustbench": _robustbench,
}
