"""metaeval: statistical meta-analysis of classifiers' robustness."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaeval.cube.opening import open_cube
    from metaeval.report.page import write_report
    from metaeval.runner.run import run
    from metaeval.study.load import load_study

__version__ = version("metaeval")
__all__ = ["__version__", "load_study", "open_cube", "run", "write_report"]

# The public names are imported at first use, so that `import metaeval` stays light.
_HOMES = {
    "load_study": "metaeval.study.load",
    "open_cube": "metaeval.cube.opening",
    "run": "metaeval.runner.run",
    "write_report": "metaeval.report.page",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'metaeval' has no attribute {name!r}")
