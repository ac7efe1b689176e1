"""All that a study needs, with what only its measures look at."""

from __future__ import annotations

from metaeval.errors import Problem
from metaeval.measures import registry
from metaeval.sources.data.needs import needs_of_splits
from metaeval.sources.needs import Need, needs
from metaeval.study import Study

TRAINING = frozenset({"train_data", "train_logits"})


def needed(study: Study) -> list[Need]:
    """Return what a study needs, of all kinds, each file once; the training split also for measures of it.

    Raises
    ------
    StudyError
        If a table names what does not exist anywhere.
    """
    found = needs(study)
    places = {need.place for need in found}
    return [*found, *(need for need in measured(study) if need.place not in places)]


def measured(study: Study) -> list[Need]:
    """Return what measures of training data need beyond the evaluated split."""
    table = study.measures
    if table is None:
        return []
    chosen = registry.choose(table.families, table.names)
    if not any(TRAINING & set(measure.needs) for measure in chosen):
        return []
    return needs_of_splits(study, (study.data.train_split,))


def missing(study: Study) -> list[Problem]:
    """Return what a study needs and is not there, each at the place where the study names it."""
    return [need.problem() for need in needed(study) if not need.have]
