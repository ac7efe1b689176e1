"""Files of weights from the network: whole, of the right kind and content, or not there at all."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from metaeval.sources import downloading


def download(
    address: str, target: Path, *, sha256: str | None = None, note: Callable[[str], None] | None = None
) -> None:
    """Fetch a file of weights as `metaeval.sources.downloading.download` does, and look at its content."""
    known = ("sha256", sha256) if sha256 else None
    downloading.download(address, target, known=known, wrong=wrong_content, note=note)


def wrong_content(path: Path) -> str | None:
    """Return why a file can be no file of weights, judged by how it begins and ends, or None."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "the file is empty"
    if page := downloading.web_page(start):
        return f"it is a web page, not a file of weights: {page!r}"
    if start[:2] == b"PK":
        return None if zipfile.is_zipfile(path) else "it is cut off: a PyTorch file without its end"
    matlab, hdf = start[:6] == b"MATLAB", start[:8] == b"\x89HDF\r\n\x1a\n"
    safetensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    if start[:1] == b"\x80" or matlab or hdf or safetensors:
        return None
    return f"it is no file of weights; it begins with {start[:16]!r}"
