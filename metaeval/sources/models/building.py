"""From the name of an architecture and its settings to a torch module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaeval import registry
from metaeval.errors import UsageError, unknown
from metaeval.sources.models.architectures import ARCHITECTURES, ARCHITECTURES_VERSION
from metaeval.sources.models.libraries import LIBRARIES, library_architecture, library_version

if TYPE_CHECKING:
    from torch import nn

GIVEN = ("shape", "classes")  # an architecture that has these parameters gets them from the data


def resolve_architecture(reference: str) -> Callable[..., Any]:
    """Return the callable behind a built-in name, a library's (``timm:name``) or ``module:callable``.

    Raises
    ------
    UsageError
        If there is none.
    """
    if reference in ARCHITECTURES:
        return registry.resolve(ARCHITECTURES[reference])  # type: ignore[no-any-return]
    library, _, name = reference.partition(":")
    if library in LIBRARIES:
        return library_architecture(library, name)
    if ":" not in reference:
        message, near = unknown("architecture", reference, ARCHITECTURES)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UsageError(f"{message}, or 'module:callable'{hint}")
    try:
        found = registry.resolve(reference)
    except UsageError:
        raise
    except Exception as error:  # whatever the module's own code does
        raise UsageError(f"importing {reference!r} failed: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise UsageError(
            f"{reference!r} is of type {type(found).__name__}; a callable that gives a module is needed"
        )
    return found  # type: ignore[no-any-return]


def canonical(reference: str) -> str:
    """Return the short name of a built-in architecture, and anything else as it is."""
    return next((name for name, home in ARCHITECTURES.items() if home == reference), reference)


def settings_of(architecture: Callable[..., Any]) -> dict[str, Any] | None:
    """Return the settings that an architecture takes with their defaults, or None if it takes any.

    A setting without a default has the value ``inspect.Parameter.empty``.
    """
    parameters = _parameters(architecture)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in GIVEN and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _parameters(architecture: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(architecture).parameters
    except ValueError:  # some callables of C extensions have no signature
        return {}


def build_module(
    reference: str, settings: Mapping[str, Any], shape: tuple[int, ...], classes: int
) -> nn.Module:
    """Call an architecture with its settings, and with the data's shape and classes if it asks for them.

    Raises
    ------
    UsageError
        If there is no such architecture or it gives no torch module.
    """
    from torch import nn

    module = call_architecture(reference, settings, {"shape": shape, "classes": classes})
    if not isinstance(module, nn.Module):
        raise UsageError(f"{reference!r} gives type {type(module).__name__}, not a torch.nn.Module")
    return module


def call_architecture(reference: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """Call an architecture with its settings, and with what is given of what it has parameters for."""
    architecture = resolve_architecture(reference)
    asked = _parameters(architecture)
    return architecture(**{name: given[name] for name in given if name in asked}, **settings)


def check_module(
    reference: str, settings: Mapping[str, Any], shape: tuple[int, ...], classes: int
) -> str | None:
    """Return what is wrong with an architecture for this data, or None; it is built but not computed with.

    Whatever the user's code raises is what is wrong.
    """
    import torch

    for device in ("meta", "cpu"):  # meta tensors cost nothing, but not all code can be run with them
        try:
            with torch.random.fork_rng(devices=[]), torch.device(device), torch.no_grad():
                module = build_module(reference, settings, shape, classes).eval()
                logits = module(torch.zeros(1, *shape))
        except UsageError as error:
            return str(error)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")
            found = f"cannot be built for inputs {shape}: {type(error).__name__}: {first}"
            continue
        if not isinstance(logits, torch.Tensor):
            return f"{reference!r} gives type {type(logits).__name__}, not a tensor of logits"
        if tuple(logits.shape) != (1, classes):
            given = f"{logits.shape[1]} logits" if logits.ndim == 2 else f"shape {tuple(logits.shape)}"
            return f"{reference!r} gives {given} for one input; the data have {classes} classes"
        return None
    return f"{reference!r} {found}"


def architecture_source(reference: str) -> str:
    """Return the source of the module that defines an architecture, or the version of a built-in one.

    A changed network is another model, also when its name stays.
    """
    if canonical(reference) in ARCHITECTURES:
        return f"built-in {ARCHITECTURES_VERSION}"
    library = reference.partition(":")[0]
    if library in LIBRARIES:
        return library_version(library)
    try:
        file = inspect.getsourcefile(inspect.unwrap(resolve_architecture(reference)))
        return Path(file).read_text(encoding="utf-8") if file else ""
    except (TypeError, OSError, UsageError):
        return ""
