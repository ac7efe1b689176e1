"""Bounding the smallest adversarial perturbation of each sample: attacks, level search, verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaeval.attacks.sweeping import sweep

__all__ = ["sweep"]


def __getattr__(name: str) -> Any:
    # `sweep` needs torch; the catalogue of attacks, which the plan reads, does not.
    if name == "sweep":
        from metaeval.attacks.sweeping import sweep

        return sweep
    raise AttributeError(f"module 'metaeval.attacks' has no attribute {name!r}")
