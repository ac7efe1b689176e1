"""The house rules: light imports, clean code, arrows that run downwards, documents whose commands work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {
    "torch",
    "xarray",
    "pandas",
    "scipy",
    "altair",
    "numpy",
    "zarr",
    "sklearn",
    "statsmodels",
    "pydantic",
}


WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def imported_by(code: str) -> set[str]:
    """Return the top-level packages that a fresh interpreter imports for some code."""
    result = run(sys.executable, "-X", "importtime", "-c", code)
    assert result.returncode == 0, result.stderr[-2000:]
    return {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}


@pytest.mark.parametrize(
    "code",
    [
        "import metaeval",
        "import sys; sys.argv = ['metaeval', '--help']; import metaeval.cli\n"
        "try: metaeval.cli.main()\nexcept SystemExit: pass",
    ],
    ids=["import", "help"],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert not imported_by(code) & HEAVY


@pytest.mark.parametrize(
    "module",
    ["metaeval.cube.opening", "metaeval.report.page", "metaeval.analysis.curves", "metaeval.study.load"],
)
def test_reading_and_reporting_need_no_torch(module: str) -> None:
    assert "torch" not in imported_by(f"{WITHOUT_TORCH}import {module}")


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
    ],
    ids=["ruff", "format", "mypy"],
)
def test_tools_are_clean(command: tuple[str, ...]) -> None:
    result = run(sys.executable, "-m", *command)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]


def test_arrows_run_downwards() -> None:
    result = run(str(Path(sys.executable).parent / "lint-imports"), "--no-cache")
    assert result.returncode == 0, result.stdout[-4000:]


def test_every_public_name_is_there() -> None:
    import metaeval

    for name in metaeval.__all__:
        assert getattr(metaeval, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = metaeval.nothing


def test_modules_have_one_job() -> None:
    """A file that passes 400 lines has probably two jobs."""
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / "metaeval").rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert not long


def test_extras_are_those_that_the_readme_names() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"\[run\]|\[dev\]|`(\w+)` extra", (ROOT / "README.md").read_text())) - {""}
    assert named <= set(extras)
    assert {"run", "robustbench", "cluster", "jax", "tensorflow", "s3", "dev", "all"} <= set(extras)
