"""What a run leaves beside the cube: the resolved study with versions, and the log of events."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w

PACKAGES = ("metaeval", "numpy", "torch", "pyautoattack", "torchattacks", "safetensors", "xarray", "zarr")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_lock(directory: Path, resolved: Mapping[str, Any], hashes: Mapping[str, str]) -> None:
    """Write ``study.lock.toml``: the study with all defaults, versions and hashes."""
    content = {"study": _without_none(resolved), "versions": versions(), "hashes": dict(hashes)}
    target = directory / "study.lock.toml"
    temporary = target.with_suffix(".toml.partial")
    temporary.write_text(tomli_w.dumps(content), encoding="utf-8")
    temporary.replace(target)


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
