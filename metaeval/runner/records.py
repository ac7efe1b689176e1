"""What a run leaves beside the cube: the resolved study with versions, and the log of events."""

from __future__ import annotations

import json
import platform
import sys
import time
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w

from metaeval.cube.importing import refuse_run
from metaeval.errors import MissingInputError, UsageError
from metaeval.study.load import restore_study
from metaeval.study.schema import Study

LOCK = "study.lock.toml"
FRAMEWORKS = ("jax", "flax", "equinox", "tensorflow", "keras", "sklearn")  # noted where they are in use
PACKAGES = ("metaeval", "numpy", "torch", "pyautoattack", "torchattacks", "safetensors", "xarray", "zarr")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    # By the module: TensorFlow's distribution has more than one name.
    used = {name: getattr(sys.modules.get(name), "__version__", None) for name in FRAMEWORKS}
    return found | {name: str(version) for name, version in used.items() if version}


def write_lock(directory: Path, study: Study, hashes: Mapping[str, str]) -> None:
    """Write ``study.lock.toml``: the study with all defaults, its file, versions and hashes."""
    content = {
        "file": str(study.path.absolute()),
        "study": _without_none(study.to_dict()),
        "versions": versions(),
        "hashes": dict(hashes),
    }
    target = directory / LOCK
    temporary = target.with_suffix(".toml.partial")
    temporary.write_text(tomli_w.dumps(content), encoding="utf-8")
    temporary.replace(target)


def read_lock(directory: Path) -> Study:
    """Return the study that last ran in a folder.

    Raises
    ------
    MissingInputError
        If no run has finished there.
    UsageError
        If the lock file is damaged or of another version, or the results there were imported.
    """
    refuse_run(directory)
    file = directory / LOCK
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        resolved, path = content["study"], Path(content["file"])
    except FileNotFoundError:
        raise MissingInputError(f"there is no {file}; name the study file") from None
    except (ValueError, KeyError):
        raise UsageError(f"{file} is damaged or of another version; name the study file") from None
    return restore_study(resolved, path)


def log_event(directory: Path, event: str, **details: Any) -> None:
    """Append one line to ``log.jsonl``."""
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **details}, default=str)
    with (directory / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _without_none(value: Any) -> Any:
    """Return the value without the keys that are None, which TOML cannot say."""
    if isinstance(value, Mapping):
        return {str(key): _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value
