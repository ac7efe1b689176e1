"""The fixture of the runner's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from counted import Counted, counted_folder


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    """Return a folder with a study whose models count the rows they see."""
    return counted_folder(tmp_path)
