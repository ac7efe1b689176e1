"""The coverage simulations run; by hand they are run a thousand times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "calibration.py"


def test_coverage_simulations_run() -> None:
    result = subprocess.run([sys.executable, SCRIPT, "3"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = result.stdout.splitlines()
    assert len(lines) == 8
    assert all("nominal 5.0%, measured" in line and "3 repetitions" in line for line in lines)
