"""Files that are kept: their hashes, and the folder of the cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import platformdirs


def hash_of(path: Path, algorithm: str) -> str:
    """Return the hash (hex) of a file by an algorithm of `hashlib`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    return hash_of(path, "sha256")


def cache_directory() -> Path:
    """Return ``METAEVAL_CACHE_DIR`` if set, else the platform's cache folder for metaeval."""
    given = os.environ.get("METAEVAL_CACHE_DIR")
    return Path(given) if given else Path(platformdirs.user_cache_dir("metaeval"))
