"""Which shifts a study evaluates its models on, and what one task of them costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from metaeval.attacks import catalogue
from metaeval.attacks.catalogue import AttackSpec
from metaeval.errors import Problem, StudyError, unknown
from metaeval.hashing import hash_json
from metaeval.sources.data import Samples
from metaeval.sources.shifts import Shift, open_shifts
from metaeval.study import Study
from metaeval.study.plan import SHARD, Cost
from metaeval.study.shift_inputs import AttackedShift

LIBRARY = "@torchattacks"  # whose attacks go by their bare names


@dataclass(frozen=True, eq=False)
class ShiftPlan:
    """One shift and what one sample of it costs; attacked copies with their attack, resolved."""

    shift: Shift
    cost: Cost
    spec: AttackSpec | None = None
    attack_settings: Mapping[str, Any] = field(default_factory=dict)

    def identity(self, model_identity: str, precision: Mapping[str, Any]) -> str:
        """Return what decides a model's answers on this shift, besides the samples' hashes.

        Samples and severities are not part of it: a shift grows by both. Only attacks have a precision.
        """
        return hash_json(
            {
                "model": model_identity,
                "kind": self.shift.kind,
                "settings": dict(self.shift.settings),
                "precision": dict(precision) if self.spec else {},
            }
        )


@dataclass(frozen=True, eq=False)
class ShiftTask:
    """One unit of work: one model, one shift, one shard of its samples, all severities."""

    model: str
    plan: ShiftPlan
    shard: int
    start: int
    stop: int

    @property
    def title(self) -> str:
        """The task as ``--only`` names it: model/shift/name."""
        return f"{self.model}/shift/{self.plan.shift.name}"

    @property
    def cost(self) -> Cost:
        """Predicted passes of the whole task."""
        return self.plan.cost * (self.stop - self.start)


def shift_tasks(plans: tuple[ShiftPlan, ...], model: str) -> Iterator[ShiftTask]:
    """Yield the tasks of one model, in the order in which they run."""
    for plan in plans:
        for shard, start in enumerate(range(0, len(plan.shift), SHARD)):
            yield ShiftTask(model, plan, shard, start, min(start + SHARD, len(plan.shift)))


def plan_shifts(study: Study, samples: Samples, *, limit: int | None) -> tuple[ShiftPlan, ...]:
    """Return the shifts of a study.

    Parameters
    ----------
    limit : int, optional
        Use at most so many samples of each.

    Raises
    ------
    StudyError
        With every problem found.
    """
    problems: list[Problem] = []
    missing = False
    for i, table in enumerate(study.shifts):
        if isinstance(table, AttackedShift):
            problems += _attack_problems(study, i, table, samples)
    try:
        shifts = open_shifts(study, samples, limit=limit)
    except StudyError as error:
        missing = error.exit_code == 4 and not problems
        problems += error.problems
    if problems:
        raise StudyError(problems, missing=missing)
    return tuple(_planned(shift, study, len(samples.class_names)) for shift in shifts)


def _planned(shift: Shift, study: Study, classes: int) -> ShiftPlan:
    table = shift.attack
    if table is None:
        return ShiftPlan(shift, Cost(float(len(shift.severities))))
    spec = catalogue.get(attack_id(table.attack)).for_norm(table.norm)
    settings = catalogue.resolve_settings(spec, table.settings)
    described = {
        "source": "attacked",
        "attack": spec.id,
        "version": catalogue.attack_version(spec),
        "norm": table.norm,
        "epsilon": table.epsilon.label if table.epsilon else "",
        "settings": settings,
        "seed": study.study.seed,
    }
    forwards, backwards = spec.passes(settings, classes)
    return ShiftPlan(replace(shift, settings=described), Cost(forwards + 1.0, backwards), spec, settings)


def attack_id(name: str) -> str:
    """Return the id of an attack; those of torchattacks may be named without the library."""
    return name if name in catalogue.names() or "@" in name else f"{name}{LIBRARY}"


def _attack_problems(study: Study, i: int, table: AttackedShift, samples: Samples) -> list[Problem]:
    """Return what is wrong with the attack of ``shifts[i]``."""
    names = catalogue.names()
    if attack_id(table.attack) not in names:
        short = [name.removesuffix(LIBRARY) for name in names]
        return [study.problem(("shifts", i, "attack"), *unknown("attack", table.attack, short))]
    spec = catalogue.get(attack_id(table.attack))
    reason = catalogue.problems(
        spec, norm=table.norm, classes=len(samples.class_names), shape=samples.x.shape[1:]
    )
    if reason:
        return [study.problem(("shifts", i, "norm"), reason)]
    spec = spec.for_norm(table.norm)
    problems = [
        study.problem(("shifts", i, "settings", key), message, suggestion)
        for key, message, suggestion in catalogue.setting_problems(spec, table.settings)
    ]
    place = ("shifts", i, "epsilon")
    if spec.kind == "minimum-norm" and table.epsilon is not None:
        problems.append(study.problem(place, f"{spec.id} looks for the smallest adversarial: it takes none"))
    if spec.kind == "fixed-epsilon" and (table.epsilon is None or table.epsilon.value <= 0):
        problems.append(study.problem(place, f"{spec.id} needs an epsilon above 0"))
    if table.epsilon is not None and table.norm == "linf" and table.epsilon.value > 1:
        problems.append(study.problem(place, "a linf epsilon is at most 1 because inputs lie in [0, 1]"))
    return problems
