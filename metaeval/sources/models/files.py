"""Files of models: where they are kept, their hash, and folders that are there in full or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from metaeval.sources.files import cache_directory, sha256_of

__all__ = ["cache_directory", "set_aside", "sha256_of", "sha256_of_all", "whole_folder"]


def sha256_of_all(paths: Sequence[Path]) -> str:
    """Return the sha256 (hex) of a file, or of the hashes of several."""
    hashes = [sha256_of(path) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder that becomes `target` when the block ends well, and disappears when it does not.

    If another process was faster, its folder stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield work
        for file in work.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def set_aside(folder: Path) -> None:
    """Delete a folder that is damaged, by a new name first, so that nobody finds a half of it."""
    if folder.exists():
        away = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        folder.rename(away / folder.name)
        shutil.rmtree(away, ignore_errors=True)
