"""Standard sets of images in a few binary files, checked against what is known of them."""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from metaeval import registry
from metaeval.errors import StudyError
from metaeval.hashing import hash_array
from metaeval.sources.data.archives import DAMAGE, open_files
from metaeval.sources.data.arrays import unit_interval
from metaeval.sources.data.dataset import Dataset
from metaeval.sources.data.formats import read_names
from metaeval.sources.data.opening import refuse, refuse_split
from metaeval.sources.data.selection import restrict
from metaeval.sources.data.standards import STANDARDS, Part, Split
from metaeval.sources.downloading import wrong_file
from metaeval.sources.files import cache_directory, hash_of
from metaeval.study import Study
from metaeval.study.data_tables import StandardData


def open_standard(study: Study, split: str) -> Dataset:
    """Open a split of CIFAR-10, CIFAR-100, MNIST, Fashion-MNIST or SVHN in its published order.

    Files are read as they were published or unpacked, in torchvision's folders. Ids are
    ``<source>/<split>/<position>``, whatever classes are chosen.

    Raises
    ------
    StudyError
        If a file is missing or damaged, or is not the published one; the message says what was found.
    """
    data = study.data
    assert isinstance(data, StandardData)
    known = STANDARDS[data.source]
    if split not in known.splits:
        raise refuse_split(study, split, list(known.splits))
    facts, root = known.splits[split], root_of(data)
    contents = [_content(study, root, part) for part in facts.parts]
    try:
        images, labels = registry.resolve(known.reader)(contents)
        names = (
            read_names(_content(study, root, known.names, check=True)) if known.names else known.class_names
        )
    except ValueError as error:
        files = ", ".join(Path(part.path).name for part in facts.parts)
        raise refuse(study, "source", f"{files} in {root}: {error}") from None
    wrong = unlike(labels, facts, names)
    if wrong is None and images.shape[1:] != known.shape:
        wrong = f"images are {images.shape[1:]}, published ones {known.shape}"
    if wrong:
        raise refuse(
            study, "source", f"{data.source} in {root} is not the published split {split!r}: {wrong}"
        )
    for part, content in zip(facts.parts, contents, strict=True):
        _check_content(study, part, content)
    whole = Dataset(
        name=data.name,
        split=split,
        labels=labels,
        sample_ids=tuple(f"{data.source}/{split}/{i}" for i in range(len(labels))),
        class_names=names,
        shape=known.shape,
        read=unit_interval(images),
    )
    return restrict(study, whole, data.classes)


def root_of(data: StandardData) -> Path:
    """Return the folder that holds a standard set."""
    return data.root or cache_directory() / "data"


def unlike(labels: npt.NDArray[np.int64], facts: Split, class_names: Sequence[str]) -> str | None:
    """Return how a sequence of labels differs from the published one, or None.

    Parameters
    ----------
    labels : int64 array (n,)
        As they were read.
    facts : Split
        What is known of the published split.
    class_names : sequence of str
        Index = label.
    """
    found = Counter(labels.tolist())
    published = dict(enumerate(facts.counts))
    if len(labels) != sum(facts.counts):
        return f"it has {len(labels):,} samples, published are {sum(facts.counts):,}"
    if min(found) > 0 and max(found) == len(facts.counts):
        return f"labels go from {min(found)} to {max(found)}, published ones from 0: they are off by one"
    for label in sorted({*found, *published}):
        if found[label] != published.get(label, 0):
            name = f" ({class_names[label]})" if 0 <= label < len(class_names) else ""
            return f"class {label}{name} has {found[label]:,} samples, published {published.get(label, 0):,}"
    if facts.labels and hash_array(labels) != facts.labels:
        blocks = 1 + np.count_nonzero(np.diff(labels))
        order = "sorted by class" if blocks == len(found) else f"they begin {labels[:10].tolist()}"
        return f"labels are in another order: {order}"
    return None


def _content(study: Study, root: Path, part: Part, *, check: bool = False) -> bytes:
    """Return the content of a file, unpacked or from its archive."""
    plain, archive = root / part.path, root / part.archive.path
    place = plain if plain.is_file() else archive
    if not place.is_file():
        message = (
            f"{study.data.source} needs {plain} or {archive}, and neither is there; "
            f"`metaeval fetch {study.path}` gets it from {part.archive.address}"
        )
        raise StudyError([study.problem(("data", "source"), message)], missing=True)
    reason = wrong_file(place, place.name) if place == archive else None
    # What is in an archive has its own md5 where that is known.
    if reason is None and place == archive and part.archive.md5 and not part.md5:
        found = hash_of(place, "md5")
        reason = f"its md5 is {found}, not {part.archive.md5}" if found != part.archive.md5 else None
    if reason:
        raise refuse(study, "source", f"{place}: {reason}")
    try:
        if place == plain:
            content = plain.read_bytes()
        elif place.name.endswith(".tar.gz"):
            content = next(iter(open_files(place).read([part.path])))
        else:
            content = gzip.decompress(place.read_bytes())
    except KeyError:
        raise refuse(study, "source", f"{place} holds no {part.path}") from None
    except DAMAGE as error:
        raise refuse(study, "source", f"{place} is damaged: {error or type(error).__name__}") from None
    if check:
        _check_content(study, part, content)
    return content


def _check_content(study: Study, part: Part, content: bytes) -> None:
    """Refuse a file whose pixels or order are not the published ones, if its md5 is known."""
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if part.md5 and found != part.md5:
        message = f"{part.path} is not the published file: its md5 is {found}, not {part.md5}"
        raise refuse(study, "source", message)
