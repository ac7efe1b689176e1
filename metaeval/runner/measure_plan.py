"""From the table ``[measures]`` of a study to the measures that are computed, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from metaeval.cube.measures import ATTACKED, CLEAN, EVERYWHERE, TRAIN
from metaeval.errors import Problem, StudyError, unknown
from metaeval.measures import registry
from metaeval.measures.spec import Measure
from metaeval.sources.data import open_training_data
from metaeval.study.measures import MeasuresTable
from metaeval.study.plan import Cost, MeasurePlan
from metaeval.study.schema import Study


def plan_measures(study: Study, *, samples: int) -> tuple[list[MeasurePlan], list[Problem]]:
    """Return the measures that a study asks for, and what is wrong with how it does.

    Parameters
    ----------
    samples : int
        Number of clean samples, for the costs.
    """
    table = study.measures
    if table is None:
        return [], []
    problems = list(_problems(study, table))
    if problems:
        return [], problems
    train = training_count(study)
    return [
        _plan(measure, table, samples, train) for measure in registry.choose(table.families, table.names)
    ], []


def training_count(study: Study) -> int:
    """Return how many training samples measures look at; 0 if there are none at hand."""
    assert study.measures is not None
    try:
        available = len(open_training_data(study))
    except StudyError:
        return 0
    wanted = study.measures.train_samples
    return available if wanted == "all" else min(int(wanted), available)


def where(measure: type[Measure]) -> str:
    """Return in which scopes a measure is computed, as `MeasurePlan.where` says it."""
    if "attacked_logits" in measure.needs:
        return ATTACKED
    if measure.scoped:
        return EVERYWHERE
    return TRAIN if {"train_logits", "train_data"} & set(measure.needs) else CLEAN


def _problems(study: Study, table: MeasuresTable) -> Iterator[Problem]:
    known = registry.measures()
    families = dict.fromkeys(measure.family for measure in known.values())
    for key, kind, given, allowed in (
        ("families", "family", table.families, families),
        ("names", "measure", table.names, known),
    ):
        for i, name in enumerate(given):
            if name not in allowed:
                yield study.problem(("measures", key, i), *unknown(kind, name, allowed))
    chosen = {measure.name for measure in registry.choose(table.families, table.names)}
    for name, settings in table.settings.items():
        place = ("measures", "settings", name)
        if name not in known:
            yield study.problem(place, *unknown("measure", name, known))
            continue
        if name not in chosen:
            yield study.problem(place, "has no effect: the study does not ask for this measure")
        for setting, message, suggestion in registry.setting_problems(known[name], settings):
            yield study.problem((*place, setting), message, suggestion)


def _plan(measure: type[Measure], table: MeasuresTable, samples: int, train: int) -> MeasurePlan:
    settings = registry.resolve_settings(measure, table.settings.get(measure.name, {}))
    return MeasurePlan(
        name=measure.name,
        version=measure.version,
        settings=settings,
        where=where(measure),
        needs=measure.needs,
        described={
            "family": measure.family,
            "definition": measure.definition,
            "formula": measure.formula,
            "citation": measure.citation,
            "expected_sign": measure.expected_sign,
            "invariance": ", ".join(measure.invariance),
            "needs": ", ".join(measure.needs),
            "settings": json.dumps(settings, sort_keys=True),
            "caveats": measure.caveats,
        },
        cost=Cost(*measure.passes(samples, train, settings)),
        shares=measure.shares(settings),
        algebra=measure.algebra(settings),
    )
