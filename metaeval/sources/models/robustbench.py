"""Models of the RobustBench zoo."""

from __future__ import annotations

import fnmatch
import operator
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

from metaeval.errors import Problem, StudyError, UsageError, nearest
from metaeval.sources.models.download import wrong_content
from metaeval.sources.models.entry import Download, ModelEntry
from metaeval.sources.models.files import cache_directory, sha256_of_all
from metaeval.sources.models.zoo import DATASETS, Published, ZooModel, published, year_of, zoo
from metaeval.study import Study
from metaeval.study.inputs import RobustBenchModels

if TYPE_CHECKING:
    from torch import nn

LOADER = "metaeval.sources.models.robustbench:load"
DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
COMPARISONS = {">=": operator.ge, "<=": operator.le, "==": operator.eq, ">": operator.gt, "<": operator.lt}


def expand_robustbench(study: Study, index: int, *, classes: int, shape: tuple[int, ...]) -> list[ModelEntry]:
    """Return the models of a ``[[models]]`` table with ``source = "robustbench"``.

    They are in the order of the zoo, with ``top`` the most robust first. Weights that are not there yet are
    not fetched.

    Raises
    ------
    StudyError
        If nothing matches, a name is unknown or has published numbers only, or the data are others.
    """
    table = study.models[index]
    assert isinstance(table, RobustBenchModels)
    problems: list[Problem] = []

    def problem(key: str | int, *rest: str | int, message: str, near: str | None = None) -> None:
        problems.append(study.problem(("models", index, key, *rest), message, near))

    needed, size = DATASETS[table.dataset]
    if classes != needed or len(shape) != 3 or shape[0] != 3 or (needed < 1000 and shape != size):
        problem(
            "dataset",
            message=f"models of {table.dataset} take inputs {size} and give {needed} logits; "
            f"the data have inputs {shape} and {classes} classes",
        )
    try:
        models = zoo(table.dataset, table.threat_model)
        known = _published(table)
    except FileNotFoundError:
        missing = study.problem(("models", index, "published"), f"there is no {table.published}")
        raise StudyError([missing], missing=True) from None
    except UsageError as error:
        key = "source" if "pip install" in str(error) else "published"
        raise StudyError([study.problem(("models", index, key), str(error))]) from None
    if not models:
        problem("threat_model", message=f"the zoo has no models of {table.dataset} for {table.threat_model}")
        raise StudyError(problems)
    chosen: dict[str, ZooModel] = {}
    for position, pattern in enumerate(table.names):
        found = [name for name in models if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            message, near = _unknown(pattern, table, models, known)
            problem("names", position, message=message, near=near)
        chosen.update((name, models[name]) for name in found)
    if chosen and table.year:
        chosen = {name: model for name, model in chosen.items() if _of_year(name, table, known)}
        if not chosen:
            problem("year", message=f"no model of these names is of a year {table.year}")
    if chosen and table.top:
        if not known:
            problem(
                "top",
                message="needs published results: set published to RobustBench's model_info (folder or zip)",
            )
        robust = {
            name: value for name in chosen if name in known and (value := known[name].robust) is not None
        }
        best = sorted(robust, key=lambda name: -robust[name])
        chosen = {name: chosen[name] for name in best[: table.top]}
    explicit = {name for name in table.names if not set(name) & set("*?[")}
    for name in [name for name, model in chosen.items() if not model.files]:
        # Their constructors fetch weights themselves, unchecked; only who asks for one by name must know.
        if name in explicit:
            message = f"{name} has its weights from timm or torchvision, not the zoo; use source 'checkpoint'"
            problem("names", table.names.index(name), message=message)
        del chosen[name]
    entries = [
        _entry(study, index, model, known.get(model.name), classes, shape) for model in chosen.values()
    ]
    for entry in entries:
        for path in entry.files if entry.weights_sha256 else ():
            if reason := wrong_content(path):
                problems.append(entry.problem(f"{path}: {reason}"))
    if problems:
        raise StudyError(problems)
    return entries


def left_out(study: Study) -> list[str]:
    """Return in words which names match a table of the zoo but have no weights in it."""
    lines = []
    for index, table in enumerate(study.models):
        if not isinstance(table, RobustBenchModels):
            continue
        models, known = zoo(table.dataset, table.threat_model), _published(table)
        reasons = {
            "published numbers only, no weights in the zoo": [name for name in known if name not in models],
            "weights from timm or torchvision, which source 'checkpoint' reads": [
                name for name, model in models.items() if not model.files
            ],
        }
        for reason, candidates in reasons.items():
            names = [
                name
                for name in candidates
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in table.names)
                and _of_year(name, table, known)
            ]
            if names:
                lines.append(f"models[{index}] leaves out ({reason}): {', '.join(names)}")
    return lines


def _of_year(name: str, table: RobustBenchModels, known: dict[str, Published]) -> bool:
    """Tell whether a model is of the year that a table asks for."""
    if table.year is None:
        return True
    sign, year = table.year.split()
    own = _year(name, known)
    return own is not None and COMPARISONS[sign](own, int(year))


def _published(table: RobustBenchModels) -> dict[str, Published]:
    return published(table.published, table.dataset, table.threat_model) if table.published else {}


def _year(name: str, known: dict[str, Published]) -> int | None:
    return year_of(name) or (known[name].year if name in known else None)


def _unknown(
    pattern: str, table: RobustBenchModels, models: dict[str, ZooModel], known: dict[str, Published]
) -> tuple[str, str | None]:
    """Return what is wrong with a pattern that no model of the zoo matches."""
    only = [name for name in known if fnmatch.fnmatchcase(name, pattern)]
    if only:
        return f"published numbers only, no weights in the zoo: {', '.join(only)}", None
    elsewhere = [
        f"{dataset}/{threat}"
        for dataset in DATASETS
        for threat in ("Linf", "L2", "corruptions")
        if fnmatch.filter(zoo(dataset, threat), pattern)
    ]
    hint = f"; there is in {', '.join(elsewhere)}" if elsewhere else ""
    where = f"{table.dataset}/{table.threat_model}"
    return f"no model of the zoo's {where} is called {pattern!r}{hint}", nearest(pattern, models)


def _entry(
    study: Study, index: int, model: ZooModel, known: Published | None, classes: int, shape: tuple[int, ...]
) -> ModelEntry:
    table = study.models[index]
    assert isinstance(table, RobustBenchModels)
    place = f"{table.dataset}/{table.threat_model}"
    folder = weights_folder(table.model_dir, place, model)
    downloads = tuple(
        Download(DRIVE.format(file), folder / place / name)
        for file, name in zip(model.files, file_names(model), strict=True)
    )
    paths = [download.path for download in downloads]
    there = bool(paths) and all(path.is_file() for path in paths)
    group = known.architecture if known and known.architecture else model.name
    year = _year(model.name, {model.name: known} if known else {})
    return ModelEntry(
        name=f"{table.name}-{model.name}" if table.name else model.name,
        source=table.source,
        family=table.family or group,
        architecture=f"robustbench:{place}/{model.name}",
        shape=shape,
        classes=classes,
        place=study.problem(("models", index), ""),
        settings={
            "dataset": table.dataset,
            "trained_for": table.threat_model,
            **({"year": year} if year else {}),
            **({"published_robust_accuracy": known.robust} if known and known.robust is not None else {}),
        },
        weights=paths[0] if paths else None,
        weights_sha256=sha256_of_all(paths) if there else None,
        loader=LOADER,
        published_accuracy=known.clean if known else None,
        downloads=downloads,
        group=group,
        expect=table.expect,
    )


def file_names(model: ZooModel) -> list[str]:
    """Return the names that the zoo gives the files of a model."""
    if not model.ensemble:
        return [f"{model.name}.pt"]
    return [f"{model.name}.pt_m{number}.pt" for number in range(len(model.files))]


def weights_folder(given: Path | None, place: str, model: ZooModel) -> Path:
    """Return the folder of weights, as the zoo lays it out, that has a model's files or should get them."""
    home = os.environ.get("TORCH_HOME")
    folders = [Path(home) / "robustbench"] if home else []
    folders.append(cache_directory() / "robustbench")
    if given:
        folders = [given]
    whole = (f for f in folders if all((f / place / name).is_file() for name in file_names(model)))
    return next(whole, folders[0])


def load(entry: ModelEntry) -> nn.Module:
    """Return a model of the zoo with its weights, by the zoo's own code; its files must be there.

    Raises
    ------
    UsageError
        If they do not fit, or need code to be read.
    """
    from metaeval.sources.models.zoo import import_robustbench, movable, zoo_code

    assert entry.weights is not None
    for path in entry.files:  # whatever were missing, the zoo would fetch unchecked
        if not path.is_file():
            raise FileNotFoundError(2, "no file", str(path))
    dataset, threat_model, name = entry.architecture.removeprefix("robustbench:").split("/")
    utils = import_robustbench("robustbench.utils")
    try:
        with zoo_code():
            module: nn.Module = utils.load_model(
                name, model_dir=entry.weights.parents[2], dataset=dataset, threat_model=threat_model
            )
    except pickle.UnpicklingError:
        message = f"the weights of {name} need code to be read, which could do anything"
        raise UsageError(message) from None
    except (RuntimeError, KeyError, EOFError, ValueError) as error:
        first = " ".join(str(error).split())[:500]
        raise UsageError(f"the weights of {name} cannot be read or do not fit: {first}") from None
    return movable(module)
