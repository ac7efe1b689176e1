"""Fixtures for all rooms' tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data: `METAEVAL_SHARED_DATA`, else `shared/data` beside the project."""
    folder = Path(
        os.environ.get("METAEVAL_SHARED_DATA") or Path(__file__).parents[2] / "shared" / "data"
    ).resolve()
    if not (folder / "mnist.npz").is_file():
        pytest.skip(f"no real data at {folder}; METAEVAL_SHARED_DATA names the folder")
    return folder
