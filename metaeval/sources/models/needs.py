"""Which files of weights a study needs, whether they are there, and how they come there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from metaeval.sources.models.entry import Download
from metaeval.sources.models.fetching import obtain, planned
from metaeval.sources.models.robustbench import expand_robustbench
from metaeval.sources.models.zoo import DATASETS
from metaeval.sources.needs import Need, Note
from metaeval.study import Study
from metaeval.study.inputs import PluginModel, RobustBenchModels
from metaeval.study.positions import Loc


def model_needs(study: Study) -> list[Need]:
    """Return the files of weights of all ``[[models]]``; the data need not be there.

    Raises
    ------
    StudyError
        If a table of the zoo names what is not in it.
    """
    found: list[Need] = []
    for index, table in enumerate(study.models):
        weights, name = getattr(table, "weights", None), getattr(table, "name", None) or table.source
        loc: Loc = ("models", index, "weights")
        if isinstance(table, RobustBenchModels):
            found += _zoo(study, index, table)
        elif isinstance(table, PluginModel):
            continue  # its own package knows what its keys mean
        elif isinstance(weights, Path):
            at = study.problem(loc, "")
            found.append(Need("weights", name, weights, weights.exists(), at, "it is a file of yours"))
        elif isinstance(weights, str):
            file = planned(weights, getattr(table, "sha256", None))
            found.append(_remote(study, loc, name, file))
    return found


def _zoo(study: Study, index: int, table: RobustBenchModels) -> Iterable[Need]:
    classes, shape = DATASETS[table.dataset]
    for entry in expand_robustbench(study, index, classes=classes, shape=shape):
        for file in entry.downloads:
            yield _remote(study, ("models", index), entry.name, file)


def _remote(study: Study, loc: Loc, name: str, file: Download) -> Need:
    def fetch(note: Note) -> None:
        obtain(file, note)

    by_hand = f"get it from {file.address} and put it there"
    at = study.problem(loc, "")
    return Need("weights", name, file.path, file.path.is_file(), at, by_hand, file.address, fetch)
