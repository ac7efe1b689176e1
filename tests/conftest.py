"""What all tests share: where the real data are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# The tests run on two workers (README.md); read by torch when it is imported: more threads would collide.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
# Absolute, because studies in temporary folders name files in it too.
SHARED_DATA = Path(os.environ.get("METAEVAL_SHARED_DATA") or ROOT.parent / "shared" / "data").resolve()
os.environ["METAEVAL_SHARED_DATA"] = str(SHARED_DATA)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data; without it a test is skipped, and in CI it fails."""
    if not (SHARED_DATA / "mnist.npz").is_file():
        reason = f"the shared data are not in {SHARED_DATA} (METAEVAL_SHARED_DATA names another folder)"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED_DATA
