"""Which files a study's shifts need, whether they are there, and how they come there."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from metaeval.errors import MissingInputError, nearest
from metaeval.sources.data.needs import needs_of_splits
from metaeval.sources.data.standards import Archive
from metaeval.sources.files import hash_of
from metaeval.sources.needs import Need, Note, downloaded
from metaeval.sources.shifts.own_data import within
from metaeval.sources.shifts.published import FOLDERS, key_of, place_of
from metaeval.study import Study
from metaeval.study.schema import DataShift
from metaeval.study.shift_inputs import Cifar10CShift, Cifar100CShift, Cifar101Shift, ImageNetCShift

CIFAR101 = "https://github.com/modestyachts/CIFAR-10.1/raw/master/datasets/"
ARCHIVES = {
    "cifar10-c": Archive(
        "CIFAR-10-C.tar",
        "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
        "56bf5dcef84df0e2308c6dcbcbbd8499",
    ),
    "cifar100-c": Archive(
        "CIFAR-100-C.tar",
        "https://zenodo.org/records/3555552/files/CIFAR-100-C.tar",
        "11f0ed0f1191edbf9fa23466ae6021d3",
    ),
}
IMAGENET_C = "unpack the archive that holds it, of https://zenodo.org/records/2235448, so that it is there"


def shift_needs(study: Study) -> list[Need]:
    """Return the files and folders of all ``[[shifts]]`` that are made of files."""
    found: list[Need] = []
    for i, table in enumerate(study.shifts):
        if isinstance(table, Cifar101Shift):
            found += _cifar101(study, i, table)
        elif isinstance(table, (Cifar10CShift, Cifar100CShift)):
            found += _cifar_c(study, i, table)
        elif isinstance(table, ImageNetCShift):
            found += _imagenet_c(study, i, table)
        elif isinstance(table, DataShift):
            inner = needs_of_splits(within(study, i, table), (table.data.split,))
            found += [replace(need, kind="shift", name=table.name) for need in inner]
    return found


def _cifar101(study: Study, i: int, table: Cifar101Shift) -> Iterator[Need]:
    for part in ("data", "labels"):
        place = place_of(table) / f"cifar10.1_{table.version}_{part}.npy"
        address = CIFAR101 + place.name
        yield Need(
            "shift",
            table.name,
            place,
            place.is_file(),
            study.problem(("shifts", i, key_of(table)), ""),
            f"get it from {address} and put it there",
            address,
            downloaded(address, place),
        )


def _cifar_c(study: Study, i: int, table: Cifar10CShift | Cifar100CShift) -> Iterator[Need]:
    folder, archive = place_of(table), ARCHIVES[table.source]
    packed = folder.parent / archive.path
    for name, stem in (("labels", "labels"), *zip(table.shifts, table.names, strict=True)):
        place = folder / f"{stem}.npy"
        have = place.is_file()
        near = None if have else nearest(place.name, [other.name for other in folder.glob("*.npy")])
        yield Need(
            "shift",
            f"{table.source} {name}",
            place,
            have,
            study.problem(("shifts", i, key_of(table)), "", near),
            f"it is in {archive.address}: put that at {packed}, or what is in it at {folder}",
            archive.address,
            _unpacked(archive, packed, f"{FOLDERS[table.source]}/{place.name}", place),
        )


def _imagenet_c(study: Study, i: int, table: ImageNetCShift) -> Iterator[Need]:
    for name, corruption in zip(table.shifts, table.names, strict=True):
        for severity in table.severities:
            place = place_of(table) / corruption / str(severity)
            at = study.problem(("shifts", i, key_of(table)), "")
            yield Need("shift", f"{name} severity {severity}", place, place.is_dir(), at, IMAGENET_C)


@lru_cache(maxsize=len(ARCHIVES))  # one archive holds many needs
def _md5(path: Path, _changed: int, _size: int) -> str:
    return hash_of(path, "md5")


def _unpacked(archive: Archive, packed: Path, member: str, place: Path) -> Callable[[Note], None]:
    """Return what takes one file out of a tar file, which is fetched if it is not there."""

    def fetch(note: Note) -> None:
        if not packed.is_file():
            downloaded(archive.address, packed, archive.md5)(note)
        state = packed.stat()
        if (found := _md5(packed, state.st_mtime_ns, state.st_size)) != archive.md5:
            raise MissingInputError(f"{packed}: its md5 is {found}, not {archive.md5}")
        partial = place.with_name(f"{place.name}.{os.getpid()}.part")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(packed) as tar:
                content = tar.extractfile(member)
                if content is None:
                    raise KeyError(member)
                with partial.open("wb") as file:
                    shutil.copyfileobj(content, file)
            partial.replace(place)
        except KeyError:
            raise MissingInputError(f"{packed} holds no {member}") from None
        except (tarfile.TarError, OSError, EOFError) as error:
            raise MissingInputError(f"{packed} is damaged or cannot be unpacked: {error}") from None
        finally:
            partial.unlink(missing_ok=True)

    return fetch
