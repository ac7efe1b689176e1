"""What all tests share: where the real data are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# The tests run on two workers (README.md); read by torch when it is imported: more threads would collide.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data; without it a test is skipped, and in CI it fails."""
    given = os.environ.get("METAEVAL_SHARED_DATA")
    folder = Path(given or ROOT.parent / "shared" / "data").resolve()
    if not (folder / "mnist.npz").is_file():
        reason = f"the shared data are not in {folder} (METAEVAL_SHARED_DATA names another folder)"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
