"""Weights that are elsewhere: where they are kept, and how they come there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from metaeval.errors import MetaevalError, MissingInputError, Problem, StudyError, UsageError
from metaeval.sources.downloading import is_offline
from metaeval.sources.models.download import download, wrong_content
from metaeval.sources.models.entry import Download, ModelEntry
from metaeval.sources.models.files import cache_directory, sha256_of, sha256_of_all
from metaeval.study.fields import HUGGING_FACE


def planned(address: str, sha256: str | None) -> Download:
    """Return where in the cache the file of an address is kept."""
    folder = cache_directory() / "weights"
    if found := re.fullmatch(HUGGING_FACE, address):
        repository, file, revision = found[1], found[2], found[3] or "main"
        return Download(address, folder / "huggingface" / repository / revision / file, sha256)
    name = Path(urlsplit(address).path).name or "weights"
    return Download(address, folder / hashlib.sha256(address.encode()).hexdigest()[:16] / name, sha256)


def fetch_models(
    entries: Sequence[ModelEntry], note: Callable[[str], None] | None = None
) -> tuple[ModelEntry, ...]:
    """Return the models with all their weights in place.

    Parameters
    ----------
    note : callable, optional
        Told in words what is fetched.

    Raises
    ------
    StudyError
        With every file that could not be had, its address, and where to put it by hand; or that does not fit.
    """
    problems: list[Problem] = []
    missing = True
    fetched: list[ModelEntry] = []
    for entry in entries:
        try:
            if entry.is_missing:
                for file in entry.downloads:
                    _obtain(file, note)
                entry = replace(entry, weights_sha256=sha256_of_all(entry.files))
                found = _misfits(entry)
                missing &= not found
                problems += found
            fetched.append(entry)
        except MissingInputError as error:
            problems.append(entry.problem(str(error)))
        except MetaevalError as error:
            problems.append(entry.problem(str(error)))
            missing = False
    if problems:
        raise StudyError(problems, missing=missing)
    return tuple(fetched)


def _obtain(file: Download, note: Callable[[str], None] | None) -> None:
    """Fetch a file of weights, or say where to put it by hand."""
    try:
        obtain(file, note)
    except MissingInputError as error:
        by_hand = f"to do without the network, put it at {file.path}"
        raise MissingInputError(f"{file.path.name} from {file.address}: {error}; {by_hand}") from None


def _misfits(entry: ModelEntry) -> list[Problem]:
    from metaeval.sources.models.checkpoint import LOADER, misfits

    return misfits(entry) if entry.loader == LOADER else []


def obtain(file: Download, note: Callable[[str], None] | None) -> None:
    """Fetch a file of weights that is not there yet.

    Raises
    ------
    MissingInputError
        If it cannot be had, or METAEVAL_OFFLINE is set.
    """
    if file.path.is_file():
        return
    if is_offline():
        raise MissingInputError("METAEVAL_OFFLINE is set")
    if file.address.startswith("hf:"):
        _from_hugging_face(file)
    else:
        download(file.address, file.path, sha256=file.sha256, note=note)


def _from_hugging_face(file: Download) -> None:
    """Fetch a file with Hugging Face's own library, which continues and checks downloads itself."""
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError:
        raise UsageError(
            f"{file.address} needs huggingface_hub: pip install 'metaeval[huggingface]'; or put the file at "
            f"{file.path}"
        ) from None
    found = re.fullmatch(HUGGING_FACE, file.address)
    assert found
    folder = Path(*file.path.parts[: len(file.path.parts) - len(Path(found[2]).parts)])
    try:
        hf_hub_download(found[1], found[2], revision=found[3], local_dir=folder)
    except Exception as error:  # of the library, of its HTTP client, of the file system
        first = next(iter(str(error).strip().splitlines()), "")
        raise MissingInputError(f"the download failed: {type(error).__name__}: {first}") from None
    reason = wrong_content(file.path)
    if reason is None and file.sha256 and (hashed := sha256_of(file.path)) != file.sha256:
        reason = f"its sha256 is {hashed}, not {file.sha256}"
    if reason:
        file.path.unlink()
        raise MissingInputError(reason)
