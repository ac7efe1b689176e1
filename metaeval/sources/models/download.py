"""Files from the network: whole, of the right kind and content, or not there at all."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from metaeval.errors import MissingInputError
from metaeval.sources.models.files import sha256_of

TIMEOUT = 60  # seconds without a byte
BLOCK = 2**20
AGENT = "metaeval"  # some servers refuse Python's own


def download(
    address: str, target: Path, *, sha256: str | None = None, note: Callable[[str], None] | None = None
) -> None:
    """Fetch a file of weights to a partial file beside `target`, check it, and give it its name.

    What was fetched of a file whose sha256 is known is kept and continued by the next call; without it nobody
    could tell whether two parts belong together.

    Parameters
    ----------
    address : str
        ``https://`` or ``http://``.
    target : Path
        Never a part of the file, never a file that failed a check.
    sha256 : str, optional
        What the file must hash to (hex).
    note : callable, optional
        Told in words what is fetched.

    Raises
    ------
    MissingInputError
        If the file cannot be had, is cut off, a web page, no file of weights, or has another sha256.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Each process has its own, unless it can be checked in the end whatever wrote to it.
    partial = target.with_name(f"{target.name}.{sha256[:16] if sha256 else os.getpid()}.part")
    try:
        _fetch(address, partial, resume=sha256 is not None, note=note)
        reason = wrong_content(partial)
        found = sha256_of(partial)
        if reason is None and sha256 and found != sha256:
            reason = f"its sha256 is {found}, not {sha256}"
        if reason:
            partial.unlink()
            raise MissingInputError(reason)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        if sha256 is None:
            partial.unlink(missing_ok=True)


def _fetch(address: str, partial: Path, *, resume: bool, note: Callable[[str], None] | None) -> None:
    """Write what an address gives to a file, behind what is there already if `resume`."""
    have = partial.stat().st_size if resume and partial.exists() else 0
    headers = {"User-Agent": AGENT, **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(address, headers=headers), timeout=TIMEOUT
        ) as answer:
            if answer.status != 206:  # the server sends the whole file
                have = 0
            length = answer.headers.get("Content-Length")
            if note:
                size = f", {int(length) / 1e6:,.1f} MB" if length else ""
                note(f"fetching {address}{size}" + (f" after the {have / 1e6:,.1f} MB there" if have else ""))
            got = 0
            with partial.open("ab" if have else "wb") as file:
                while block := answer.read(BLOCK):
                    got += file.write(block)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # nothing is left to fetch; its hash will tell
            return
        raise MissingInputError(f"the server answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise MissingInputError(f"the download failed: {reason}") from None
    if length and got != int(length):
        raise MissingInputError(f"the download was cut off after {have + got} of {have + int(length)} bytes")


def wrong_content(path: Path) -> str | None:
    """Return why a file can be no file of weights, judged by how it begins and ends, or None."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "the file is empty"
    if start.lstrip()[:1] == b"<":
        shown = " ".join(start[:80].decode(errors="replace").split())
        return f"it is a web page, not a file of weights: {shown!r}"
    if start[:2] == b"PK":
        return None if zipfile.is_zipfile(path) else "it is cut off: a PyTorch file without its end"
    matlab, hdf = start[:6] == b"MATLAB", start[:8] == b"\x89HDF\r\n\x1a\n"
    safetensors = start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    if start[:1] == b"\x80" or matlab or hdf or safetensors:
        return None
    return f"it is no file of weights; it begins with {start[:16]!r}"
