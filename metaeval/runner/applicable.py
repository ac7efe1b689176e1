"""Which attacks cannot be asked of which models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from metaeval.attacks import catalogue
from metaeval.runner.shift_plan import ShiftPlan
from metaeval.sources.models import ModelEntry
from metaeval.study.plan import AttackPlan, Row

GRADIENTS = "gradients, which this model does not give"


def inapplicable(entries: Sequence[ModelEntry], attacks: Iterable[AttackPlan]) -> dict[Row, str]:
    """Return why an attack does not apply to a model, for each (model, norm, attack) that is so.

    A model without gradients leaves only attacks, and cascades of attacks, that use outputs alone.
    """
    reasons = {}
    black_boxes = [entry.name for entry in entries if not entry.gradients]
    for attack in attacks:
        needing = [name for name in _names(attack) if not catalogue.get(name).for_norm(attack.norm).black_box]
        for model in black_boxes if needing else ():
            what = f"{', '.join(needing)} of it needs" if attack.stages else "it needs"
            reasons[model, attack.norm, attack.attack] = f"{what} {GRADIENTS}"
    return reasons


def inapplicable_shift(entry: ModelEntry, plan: ShiftPlan) -> str:
    """Return why copies of an attack cannot be made for a model, or nothing."""
    applies = entry.gradients or plan.spec is None or plan.spec.black_box
    return "" if applies else f"its attack needs {GRADIENTS}"


def _names(attack: AttackPlan) -> list[str]:
    return [stage.attack for stage in attack.stages] or [attack.attack]
