"""RobustBench's model zoo: what is in it, read without importing it, and its modules, imported at need."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import json
import re
import sys
import types
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaeval.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

DATASETS = {"cifar10": (10, (3, 32, 32)), "cifar100": (100, (3, 32, 32)), "imagenet": (1000, (3, 224, 224))}
INSTALL = "pip install 'metaeval[robustbench]'"


@dataclass(frozen=True)
class ZooModel:
    """A model of the zoo; `files` are Google Drive ids, none if its weights come from elsewhere."""

    name: str
    files: tuple[str, ...]
    ensemble: bool


@dataclass(frozen=True)
class Published:
    """What RobustBench published of a model; accuracies are fractions, None where there is no number.

    `robust` is the accuracy that the leaderboard ranks by: under AutoAttack or the strongest attack reported,
    or under common corruptions.
    """

    name: str
    architecture: str
    clean: float | None
    robust: float | None
    year: int | None


@cache
def zoo(dataset: str, threat_model: str) -> dict[str, ZooModel]:
    """Return the models of the installed zoo; its code is parsed, not run.

    Raises
    ------
    UsageError
        If RobustBench is not installed, or of a version that is written otherwise.
    """
    spec = importlib.util.find_spec("robustbench")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"source 'robustbench' needs {INSTALL}")
    path = Path(next(iter(spec.submodule_search_locations))) / "model_zoo" / f"{dataset}.py"
    try:
        tables = _tables(ast.parse(path.read_text(encoding="utf-8")))
        return tables.get(threat_model, {})
    except (OSError, SyntaxError, ValueError, AttributeError, TypeError, IndexError) as error:
        message = f"the zoo of the installed robustbench is written in an unknown way ({error}); {INSTALL}"
        raise UsageError(message) from None


def _tables(tree: ast.Module) -> dict[str, dict[str, ZooModel]]:
    """Return the models per threat model from the tables that a module of the zoo assigns."""
    assigned = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    last = next(value for name, value in assigned.items() if name.endswith("_models"))
    found: dict[str, dict[str, ZooModel]] = {}
    for threat, table in _pairs(last):
        if not isinstance(threat, ast.Attribute) or not isinstance(table, ast.Name):
            raise ValueError("threat models")
        models = [_model(ast.literal_eval(name), entry) for name, entry in _pairs(assigned[table.id])]
        found[threat.attr] = {model.name: model for model in models}
    return found


def _pairs(node: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """Return keys and values of ``OrderedDict([(key, value), ...])``."""
    if not isinstance(node, ast.Call) or not isinstance(node.args[0], ast.List):
        raise ValueError("tables")
    pairs = [item.elts for item in node.args[0].elts if isinstance(item, ast.Tuple)]
    return [(key, value) for key, value in pairs]


def _model(name: str, entry: ast.expr) -> ZooModel:
    if not isinstance(entry, ast.Dict):
        raise ValueError(f"the entry of {name}")
    keys = [ast.literal_eval(key) for key in entry.keys if key is not None]
    given = ast.literal_eval(entry.values[keys.index("gdrive_id")])
    ensemble = isinstance(given, list)
    return ZooModel(name, tuple(given) if ensemble else (given,) if given else (), ensemble)


@cache
def published(place: Path, dataset: str, threat_model: str) -> dict[str, Published]:
    """Return the published results of a data set and threat model.

    Parameters
    ----------
    place : Path
        RobustBench's ``model_info``: the folder, one that holds it, or a zip file of either.

    Raises
    ------
    FileNotFoundError
        If there is no such place.
    UsageError
        If it holds no published results.
    """
    part = f"{dataset}/{threat_model}/"
    texts: dict[str, bytes] = {}
    try:
        if place.is_dir():
            root = place / "model_info" if (place / "model_info").is_dir() else place
            texts = {file.stem: file.read_bytes() for file in (root / part).glob("*.json")}
        else:
            with zipfile.ZipFile(place) as archive:
                for name in archive.namelist():
                    if re.search(rf"(^|/){re.escape(part)}[^/]+\.json$", name):
                        texts[Path(name).stem] = archive.read(name)
        found = {name: _published(name, json.loads(text)) for name, text in texts.items()}
    except (zipfile.BadZipFile, ValueError, AttributeError) as error:
        raise UsageError(f"{place.name} cannot be read: {error}") from None
    if not found:
        raise UsageError(f"{place.name} holds no published results of {part.rstrip('/')}")
    return found


def _published(name: str, content: dict[str, Any]) -> Published:
    def fraction(key: str) -> float | None:
        try:
            return round(float(content[key]) / 100, 6)  # percentages are written as text
        except (KeyError, TypeError, ValueError):
            return None

    ranked = ("external", "autoattack_acc", "corruptions_acc")
    robust = next((value for value in map(fraction, ranked) if value is not None), None)
    year = year_of(name) or year_of(str(content.get("venue", "")))
    return Published(name, str(content.get("architecture", "")), fraction("clean_acc"), robust, year)


def year_of(text: str) -> int | None:
    """Return the year in a name such as ``Carmon2019Unlabeled``."""
    found = re.search(r"(?<!\d)(20\d\d)(?!\d)", text)
    return int(found[1]) if found else None


def build_zoo_module(place: str, **settings: Any) -> nn.Module:
    """Return the module of ``dataset/threat_model/name``; its weights mean nothing.

    Raises
    ------
    UsageError
        If there is no such model.
    """
    dataset, _, rest = place.partition("/")
    threat_model, _, name = rest.partition("/")
    if dataset not in DATASETS or name not in zoo(dataset, threat_model):
        raise UsageError(f"the zoo has no model {place!r}; write dataset/threat_model/name")
    if settings:
        raise UsageError(f"models of the zoo take no settings, got {', '.join(settings)}")
    if not zoo(dataset, threat_model)[name].files:
        raise UsageError(f"{name} of the zoo fetches its own weights when it is built")
    enums = import_robustbench("robustbench.model_zoo.enums")
    tables = import_robustbench("robustbench.model_zoo").model_dicts
    chosen = tables[enums.BenchmarkDataset(dataset)][enums.ThreatModel(threat_model)][name]
    with zoo_code():
        return movable(chosen["model"]())


def import_robustbench(module: str) -> Any:
    """Import a module of RobustBench, which imports two that may be absent or have other names.

    Its evaluation needs ``autoattack``, on the registry only as ``pyautoattack``; its data needs
    ``pkg_resources``, which newer versions of setuptools lack. Neither is used here.
    """
    if module in sys.modules:
        return sys.modules[module]
    added: list[str] = []

    def stand_in(name: str, content: types.ModuleType) -> None:
        if name not in sys.modules:
            sys.modules[name] = content
            added.append(name)

    try:
        if importlib.util.find_spec("autoattack") is None:
            stand_in("autoattack", importlib.import_module("pyautoattack"))
            stand_in("autoattack.state", importlib.import_module("pyautoattack.state"))
        if importlib.util.find_spec("pkg_resources") is None:
            stand_in("pkg_resources", _resources())
        return importlib.import_module(module)
    finally:
        for name in added:
            del sys.modules[name]


def _resources() -> types.ModuleType:
    """Return the one function of ``pkg_resources`` that RobustBench uses."""

    def resource_filename(package: str, name: str) -> str:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        return str(Path(spec.origin).parent / name)

    module = types.ModuleType("pkg_resources")
    module.resource_filename = resource_filename  # type: ignore[attr-defined]
    return module


@contextlib.contextmanager
def zoo_code() -> Iterator[None]:
    """Run code of the zoo: what it prints goes to stderr, and what it puts on a GPU stays where it is.

    Some of its networks call ``.cuda()`` when they are built, which fails on machines without.
    """
    import torch

    original = torch.Tensor.cuda
    torch.Tensor.cuda = lambda self, *_args, **_kwargs: self  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        torch.Tensor.cuda = original  # type: ignore[method-assign]


def movable(module: nn.Module) -> nn.Module:
    """Return the module with tensors that are plain attributes made buffers, so that they move with it."""
    import torch

    for layer in module.modules():
        for name in [name for name, value in vars(layer).items() if isinstance(value, torch.Tensor)]:
            tensor = vars(layer).pop(name)
            layer.register_buffer(name, tensor, persistent=False)
    return module
