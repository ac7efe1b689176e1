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
from metaeval.sources.files import hash_of

TIMEOUT = 60  # seconds without a byte
BLOCK = 2**20
AGENT = "metaeval"  # some servers refuse Python's own
MAGIC = {
    ".zip": b"PK",
    ".gz": b"\x1f\x8b",
    ".mat": b"MATLAB",
    ".npy": b"\x93NUMPY",
}  # how files begin, by their ending


def is_offline() -> bool:
    """Tell whether the variable METAEVAL_OFFLINE forbids the network."""
    return os.environ.get("METAEVAL_OFFLINE", "").lower() not in ("", "0", "false", "no")


def download(
    address: str,
    target: Path,
    *,
    known: tuple[str, str] | None = None,
    wrong: Callable[[Path], str | None] | None = None,
    note: Callable[[str], None] | None = None,
) -> None:
    """Fetch a file to a partial file beside `target`, check it, and give it its name.

    What was fetched of a file whose hash is known is kept and continued by the next call; without it nobody
    could tell whether two parts belong together.

    Parameters
    ----------
    address : str
        ``https://`` or ``http://``.
    target : Path
        Never a part of the file, never a file that failed a check.
    known : (str, str), optional
        An algorithm of `hashlib` and what the file must hash to (hex).
    wrong : callable, optional
        From a file to what is wrong with its content, or None; default: `wrong_file`.
    note : callable, optional
        Told in words what is fetched.

    Raises
    ------
    MissingInputError
        If the file cannot be had, is cut off, has wrong content or another hash.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Each process has its own, unless it can be checked in the end whatever wrote to it.
    partial = target.with_name(f"{target.name}.{known[1][:16] if known else os.getpid()}.part")
    try:
        _fetch(address, partial, resume=known is not None, note=note)
        reason = (wrong or (lambda path: wrong_file(path, target.name)))(partial)
        found = hash_of(partial, known[0]) if known else None
        if reason is None and known and found != known[1]:
            reason = f"its {known[0]} is {found}, not {known[1]}"
        if reason:
            partial.unlink()
            raise MissingInputError(reason)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        if known is None:
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


def web_page(start: bytes) -> str | None:
    """Return the first words of a web page, judged by a file's first bytes, or None."""
    if start.lstrip()[:1] != b"<":
        return None
    return " ".join(start[:80].decode(errors="replace").split())


def wrong_file(path: Path, name: str) -> str | None:
    """Return why a file cannot be what its name says, judged by how it begins and ends, or None."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "the file is empty"
    if page := web_page(start):
        return f"it is a web page, not data: {page!r}"
    expected = next((magic for ending, magic in MAGIC.items() if name.endswith(ending)), b"")
    if not start.startswith(expected):
        return f"it is no {Path(name).suffix} file; it begins with {start[:16]!r}"
    if expected == b"PK" and not zipfile.is_zipfile(path):
        return "it is cut off: a zip file without its end"
    return None
