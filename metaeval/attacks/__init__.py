"""Bounding the smallest adversarial perturbation of each sample: attacks, level search, verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaeval.attacks.cascading import cascade
    from metaeval.attacks.sweeping import sweep

__all__ = ["cascade", "sweep"]


def __getattr__(name: str) -> Any:
    # Both need torch; the catalogue of attacks, which the plan reads, does not.
    if name == "cascade":
        from metaeval.attacks.cascading import cascade

        return cascade
    if name == "sweep":
        from metaeval.attacks.sweeping import sweep

        return sweep
    raise AttributeError(f"module 'metaeval.attacks' has no attribute {name!r}")
