"""From a study to a plan: everything that can be found wrong before anything is computed."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from metaeval.attacks import catalogue
from metaeval.attacks.presets import OWN, PRESETS, stages_of
from metaeval.errors import Problem, StudyError, UsageError, nearest, unknown
from metaeval.runner import needed
from metaeval.runner.applicable import inapplicable, inapplicable_shift
from metaeval.runner.measure_plan import plan_measures
from metaeval.runner.shift_plan import ShiftPlan, ShiftTask, plan_shifts, shift_tasks
from metaeval.sources.data import Dataset, Samples, copies, open_data, open_training_data, take
from metaeval.sources.models import ModelEntry, expand_models
from metaeval.sources.models.robustbench import left_out
from metaeval.study.checks import unknown_preset
from metaeval.study.plan import AttackPlan, Cost, MeasurePlan, Plan, StagePlan, Task
from metaeval.study.positions import Loc
from metaeval.study.schema import Study

DEFAULT_CLASSES = 10  # for costs of a study whose data could not be opened; it is refused anyway


@dataclass(frozen=True, eq=False)
class Prepared:
    """A study with its plan, its samples and its models, none of them loaded or trained yet."""

    study: Study
    plan: Plan
    samples: Samples
    entries: tuple[ModelEntry, ...]
    only: str | None = None
    shifts: tuple[ShiftPlan, ...] = ()

    @cached_property
    def training_data(self) -> Dataset:
        """The data that models are trained on; opened at first use."""
        return open_training_data(self.study)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of the samples and of the models that were named."""
        repeated = copies(self.samples)
        return (*([repeated] if repeated else []), *left_out(self.study))

    def training_cost(self, entry: ModelEntry) -> Cost:
        """Return the passes that training a model takes, nothing if it is only loaded."""
        return Cost(*entry.training.passes(len(self.training_data))) if entry.training else Cost()

    def measures(self, model: str) -> list[MeasurePlan]:
        """Return the measures of one model that were asked for."""
        return [m for m in self.plan.measures if _asked(f"{model}/measures/{m.name}", self.only)]

    def tasks(self, model: str) -> list[Task]:
        """Return the tasks of one model that were asked for."""
        return [task for task in self.plan.tasks(model) if _asked(_title(task), self.only)]

    def shift_tasks(self, model: str) -> list[ShiftTask]:
        """Return the tasks of one model on shifts that were asked for."""
        skipped = self.shift_skips(model)
        return [task for task in self._asked_shifts(model) if task.plan.shift.name not in skipped]

    def shift_skips(self, model: str) -> dict[str, str]:
        """Return the shifts that were asked for and do not apply to a model, and why."""
        entry = next(entry for entry in self.entries if entry.name == model)
        reasons = {
            task.plan.shift.name: inapplicable_shift(entry, task.plan) for task in self._asked_shifts(model)
        }
        return {name: reason for name, reason in reasons.items() if reason}

    def work(self, model: str) -> list[Task | ShiftTask | MeasurePlan]:
        """Return all that is to be computed of one model."""
        return [*self.tasks(model), *self.shift_tasks(model), *self.measures(model)]

    def skips(self, model: str) -> list[tuple[Task, str]]:
        """Return the tasks of one model that were asked for and do not apply to it, and why."""
        skips = self.plan.skips(model)
        return [(task, why) for task, why in skips if _asked(_title(task), self.only)]

    def asked(self, model: str) -> bool:
        """Tell whether anything of a model was asked for."""
        return bool(self.work(model) or self.skips(model) or self.shift_skips(model))

    def _asked_shifts(self, model: str) -> list[ShiftTask]:
        return [task for task in shift_tasks(self.shifts, model) if _asked(task.title, self.only)]


def prepare(study: Study, *, only: str | None = None, limit: int | None = None) -> Prepared:
    """Resolve a study's data, models and attacks into a plan.

    Parameters
    ----------
    only : str, optional
        Pattern of ``model/norm/attack``, ``model/shift/name`` or ``model/measures/name``; what does not
        match is left out.
    limit : int, optional
        Use only the first samples of the study.

    Raises
    ------
    StudyError
        With every problem found: in the data, the models, the attacks, the shifts.
    """
    # Architectures may live beside the study file; last, so that they shadow no installed package.
    if str(study.base) not in sys.path:
        sys.path.append(str(study.base))
    problems: list[Problem] = []
    missing = True
    samples = None
    entries: list[ModelEntry] = []
    shifts: tuple[ShiftPlan, ...] = ()
    try:
        data = open_data(study, study.data.split)
        samples = take(study, data, limit=limit)
        entries = expand_models(study, classes=len(data.class_names), shape=data.shape)
        if any(entry.needs_training for entry in entries):
            open_training_data(study)
    except StudyError as error:
        problems += error.problems
        missing = error.exit_code == 4
    try:
        shifts = plan_shifts(study, samples, limit=limit) if samples else ()
    except StudyError as error:
        problems += error.problems
        missing = missing and error.exit_code == 4
    attacks, attack_problems = plan_attacks(
        study,
        classes=len(samples.class_names) if samples else None,
        shape=samples.x.shape[1:] if samples else None,
    )
    measures, measure_problems = plan_measures(study, samples=len(samples.y) if samples else 0)
    attack_problems += measure_problems
    attack_problems += _analysis_problems(
        study,
        {
            "models": [entry.name for entry in entries],
            "classes": list(samples.class_names) if samples else [],
            "attacks": [attack.attack for attack in attacks],
        },
    )
    if problems and missing and not attack_problems:
        absent = needed.missing(study)  # also what would have been looked for later
        keys = {problem.key for problem in absent}
        problems = [*absent, *(problem for problem in problems if problem.key not in keys)]
        raise StudyError(problems, missing=True)
    if problems or attack_problems:
        raise StudyError([*problems, *attack_problems], missing=missing and not attack_problems)
    assert samples is not None
    names = tuple(entry.name for entry in entries)
    plan = Plan(
        len(samples.y), names, tuple(attacks), tuple(measures), skipped=inapplicable(entries, attacks)
    )
    prepared = Prepared(study, plan, samples, tuple(entries), only, shifts)
    if only and not any(prepared.asked(model) for model in plan.models):
        asked = {"norm/attack": True, "shift/name": bool(shifts), "measures/name": bool(measures)}
        named = " or ".join(f"model/{name}" for name, there in asked.items() if there)
        raise UsageError(f"--only {only!r} matches no task; tasks are named {named}")
    return prepared


def _analysis_problems(study: Study, names: Mapping[str, Sequence[str]]) -> list[Problem]:
    """Return what ``[analysis]`` names that is not in the study; nothing where names are not known."""
    problems = []
    for key, known in names.items():
        for i, pattern in enumerate(getattr(study.analysis, key)):
            if known and not any(fnmatch.fnmatchcase(name, pattern) for name in known):
                message = (
                    f"no {_SINGULAR[key]} of the study is called {pattern!r}; there are {', '.join(known)}"
                )
                problems.append(study.problem(("analysis", key, i), message, nearest(pattern, list(known))))
    return problems


_SINGULAR = {"models": "model", "classes": "class", "attacks": "attack"}


def with_weights(prepared: Prepared, *, quiet: bool = False) -> Prepared:
    """Fetch the weights of the models that were asked for; those that are there already are not looked at.

    Raises
    ------
    StudyError
        With every file that cannot be had or does not fit.
    """
    if not any(entry.is_missing for entry in prepared.entries):
        return prepared
    from metaeval.sources.models.fetching import fetch_models

    def note(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr)

    asked = [entry for entry in prepared.entries if prepared.asked(entry.name)]
    fetched = {entry.name: entry for entry in fetch_models(asked, note)}
    return replace(prepared, entries=tuple(fetched.get(entry.name, entry) for entry in prepared.entries))


def plan_attacks(
    study: Study, *, classes: int | None, shape: tuple[int, ...] | None
) -> tuple[list[AttackPlan], list[Problem]]:
    """Return the attacks and cascades of all threat models, and what is wrong with them.

    Parameters
    ----------
    classes, shape : int and tuple of int, or None
        Number of classes and shape of an input; None where the data could not be opened.
    """
    attacks: list[AttackPlan] = []
    problems: list[Problem] = []
    for i, threat in enumerate(study.threat_models):
        listed, wrong = _listed(study, i)
        planned: list[AttackPlan] = []
        for position, (place, name, fixed) in enumerate(listed):
            found = _plan_attack(
                study, i, place, name, fixed, classes=classes, shape=shape, position=position
            )
            if isinstance(found, AttackPlan):
                planned.append(found)
            else:
                wrong += found
        problems += wrong
        if threat.mode == "cascade" and not wrong:
            attacks.append(_cascade(threat.attacks if isinstance(threat.attacks, str) else OWN, planned))
        elif threat.mode == "individual":
            attacks += planned
    return attacks, problems


def _listed(study: Study, i: int) -> tuple[list[tuple[Loc, str, Mapping[str, Any]]], list[Problem]]:
    """Return a threat model's attacks: where each is named, its id, and the settings that a preset fixes."""
    threat, place = study.threat_models[i], ("threat_models", i, "attacks")
    if not isinstance(threat.attacks, str):
        return [((*place, j), name, {}) for j, name in enumerate(threat.attacks)], []
    if threat.attacks not in PRESETS:
        wrong = unknown_preset(threat.attacks, PRESETS, catalogue.names())
        return [], [study.problem(place, *wrong)]
    try:
        stages = stages_of(threat.attacks, threat.norm)
    except ValueError as error:
        return [], [study.problem(place, str(error))]
    names = [name for name, _ in stages]
    problems = []
    for k, table in enumerate(threat.attack):
        if table.name not in names:
            message = f"{table.name!r} is not among the attacks of {threat.attacks}: {', '.join(names)}"
            where = ("threat_models", i, "attack", k, "name")
            problems.append(study.problem(where, message, nearest(table.name, names)))
    return [(place, name, settings) for name, settings in stages], problems


def _plan_attack(
    study: Study,
    i: int,
    place: Loc,
    name: str,
    fixed: Mapping[str, Any],
    *,
    classes: int | None,
    shape: tuple[int, ...] | None,
    position: int,
) -> AttackPlan | list[Problem]:
    """Return one attack of the threat model `i`, or what is wrong with it."""
    threat = study.threat_models[i]
    if name not in catalogue.names():
        return [study.problem(place, *unknown("attack", name, catalogue.names()))]
    spec = catalogue.get(name).for_norm(threat.norm)
    reason = catalogue.problems(spec, norm=threat.norm, classes=classes, shape=shape)
    levels = sum(epsilon.value > 0 for epsilon in threat.epsilons)
    if reason is None and levels == 0:
        reason = f"{name} needs an epsilon above 0"
    if reason:
        return [study.problem(place, reason)]
    tables = {table.name: (k, table.settings) for k, table in enumerate(threat.attack)}
    table, chosen = tables.get(name, (0, {}))
    wrong = [
        study.problem(("threat_models", i, "attack", table, key), message, suggestion)
        for key, message, suggestion in catalogue.setting_problems(spec, chosen)
    ]
    wrong += [
        study.problem(place, message, suggestion)
        for _, message, suggestion in catalogue.setting_problems(spec, fixed)
    ]
    if wrong:
        return wrong
    settings = catalogue.resolve_settings(spec, {**fixed, **chosen})
    cost = catalogue.cost(
        spec, settings, classes=classes or DEFAULT_CLASSES, levels=levels, search=threat.search
    )
    # The first stage of a cascade meets every sample, the others those that were left unbroken somewhere.
    share = catalogue.STAGE_SURVIVAL if threat.mode == "cascade" and position else 1.0
    return AttackPlan(
        norm=threat.norm,
        attack=name,
        version=catalogue.attack_version(spec),
        search=threat.search,
        settings=settings,
        reduced="; ".join(catalogue.reduced(spec, settings)),
        epsilons=threat.epsilons,
        cost=Cost(*cost) * share,
        evidence=threat.evidence,
    )


def _cascade(name: str, planned: Sequence[AttackPlan]) -> AttackPlan:
    """Return a cascade's row; its version says which stages run in which order."""
    stages = tuple(StagePlan(a.attack, a.version, a.settings, a.reduced, a.cost) for a in planned)
    return replace(
        planned[0],
        attack=name,
        version=" then ".join(f"{stage.attack} ({stage.version})" for stage in stages),
        settings={stage.attack: dict(stage.settings) for stage in stages},
        reduced="; ".join(f"{stage.attack}: {stage.reduced}" for stage in stages if stage.reduced),
        cost=sum((stage.cost for stage in stages), Cost()),
        stages=stages,
    )


def _title(task: Task) -> str:
    return f"{task.model}/{task.attack.norm}/{task.attack.attack}"


def _asked(title: str, pattern: str | None) -> bool:
    return pattern is None or fnmatch.fnmatchcase(title, pattern)
