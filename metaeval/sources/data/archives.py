"""The files in a folder, a zip or a tar file, by path; archives are never unpacked to disk."""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

# What reading a damaged archive raises. ValueError: names that are not text; RuntimeError: an encrypted
# archive or an unknown compression.
DAMAGE: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)

Reader = Callable[[Iterable[str]], Iterator[bytes]]
BLOCK = 512  # bytes; a tar file ends with two blocks of zeros


@dataclass(frozen=True)
class Files:
    """Files by their path in the archive, and the folders that hold them or hold nothing.

    Attributes
    ----------
    paths, folders : list of str
        With ``/`` between parts, sorted; hidden files and folders are left out.
    read : callable
        From paths to the files' bytes, in their order.
    """

    paths: list[str]
    folders: list[str]
    read: Reader


def open_files(path: Path) -> Files:
    """List the files of a folder, a zip or a tar file (plain, gz, bz2, xz).

    A compressed tar file cannot be read from the middle, so its files are kept in memory.

    Raises
    ------
    DAMAGE
        One of these errors if an archive is damaged or none of these.
    """
    if path.is_dir():
        return _folder(path)
    if zipfile.is_zipfile(path):
        return _zip(path)
    state = path.stat()
    return _tar(path, state.st_mtime_ns, state.st_size)


def _folder(root: Path) -> Files:
    paths: list[str] = []
    folders: list[str] = []
    for folder, inner, names in os.walk(root, followlinks=True):  # class folders are often links
        place = Path(folder).relative_to(root)
        paths += [(place / name).as_posix() for name in names]
        folders += [(place / name).as_posix() for name in inner]
    return _files(paths, folders, lambda names: ((root / name).read_bytes() for name in names))


def _zip(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        members = {_clean(info.filename): info for info in archive.infolist()}

    def read(names: Iterable[str]) -> Iterator[bytes]:
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(members[name]) for name in names)

    paths = [name for name, info in members.items() if not info.is_dir()]
    return _files(paths, [name for name, info in members.items() if info.is_dir()], read)


@lru_cache(maxsize=1)  # both splits of a study come from one file
def _tar(path: Path, _changed: int, _size: int) -> Files:
    content: dict[str, bytes] = {}
    folders: list[str] = []
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isdir():
                folders.append(_clean(member.name))
            elif member.isfile():
                file = archive.extractfile(member)
                assert file is not None
                content[_clean(member.name)] = file.read()
        # tarfile takes the end of the file for the end of the archive.
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(BLOCK) != bytes(BLOCK):
            raise tarfile.ReadError("the archive ends too early")
    return _files(list(content), folders, lambda names: map(content.__getitem__, names))


def _files(paths: list[str], folders: list[str], read: Reader) -> Files:
    """Return the listing without hidden files, and with the folders that only show in paths."""
    visible = sorted(path for path in paths if _visible(path))
    above = {str(parent) for path in visible for parent in PurePosixPath(path).parents}
    shown = {folder for folder in folders if _visible(folder)} | above
    return Files(visible, sorted(shown - {".", ""}), read)


def _visible(path: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _clean(name: str) -> str:
    """Return an archive's member name as a relative path: ``./test/a.png`` is ``test/a.png``."""
    return str(PurePosixPath(name.replace("\\", "/"))).lstrip("/")
