"""Small sets of random images in files laid out exactly as the standard sets are published."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from metaeval.hashing import hash_array
from metaeval.sources.data.standards import STANDARDS, Archive, Split

RNG = np.random.default_rng(0)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def labels_of(counts: tuple[int, ...]) -> np.ndarray:
    """Return labels with so many of each class, shuffled."""
    return RNG.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)


def images(number: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (number, *shape), dtype=np.uint8)


def cifar_batch(rows: np.ndarray, labels: np.ndarray, key: str = "labels") -> bytes:
    """Return a batch as NumPy 1 on Python 2 would have pickled it."""
    content = {"data": rows.reshape(len(rows), -1), key: labels.tolist(), "batch_label": "of a test"}
    return pickle.dumps(content, protocol=2).replace(b"numpy._core", b"numpy.core")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def svhn_file(x: np.ndarray, labels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    numbers = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    savemat(buffer, {"X": x.transpose(2, 3, 1, 0), "y": numbers})
    return buffer.getvalue()


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    """Return pixels (height, width[, channels]) as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


class SmallSet:
    """A small standard set: its files, unpacked and packed, and what they hold.

    Attributes
    ----------
    plain, packed : dict
        Files by their path below the root.
    x, y : dict
        By split: uint8 images (n, channels, height, width) and labels.
    """

    def __init__(self, source: str, splits: dict[str, tuple[int, ...]], monkeypatch: pytest.MonkeyPatch):
        self.plain: dict[str, bytes] = {}
        self.packed: dict[str, bytes] = {}
        self.x: dict[str, np.ndarray] = {}
        self.y: dict[str, np.ndarray] = {}
        known = STANDARDS[source]
        facts = {}
        for split, counts in splits.items():
            self.y[split] = labels_of(counts)
            self.x[split] = images(len(self.y[split]), *known.shape)
            parts = known.splits[split].parts
            contents = self._contents(source, split, len(parts))
            self.plain |= {part.path: content for part, content in zip(parts, contents, strict=True)}
            facts[split] = Split(
                tuple(replace(part, md5=md5(content)) for part, content in zip(parts, contents, strict=True)),
                counts,
                hash_array(self.y[split]),
            )
        names = known.names
        if names:
            listed = [f"class{i}" for i in range(len(counts))]
            content = pickle.dumps({"fine_label_names": listed, "coarse_label_names": ["x"]}, protocol=2)
            self.plain[names.path] = content
            names = replace(names, md5=md5(content))
        self._pack(facts)
        archives = {path: Archive(path, "", md5(content)) for path, content in self.packed.items()}
        facts = {
            split: replace(
                fact,
                parts=tuple(
                    replace(
                        part,
                        archive=replace(part.archive, md5=archives[part.archive.path].md5)
                        if part.archive.path in archives
                        else replace(part.archive, md5=part.md5),
                    )
                    for part in fact.parts
                ),
            )
            for split, fact in facts.items()
        }
        monkeypatch.setitem(STANDARDS, source, replace(known, splits=facts, names=names))

    def _contents(self, source: str, split: str, parts: int) -> list[bytes]:
        x, y = self.x[split], self.y[split]
        if source.startswith("cifar"):
            key = "labels" if source == "cifar10" else "fine_labels"
            pieces = zip(np.array_split(x, parts), np.array_split(y, parts), strict=True)
            return [cifar_batch(rows, labels, key) for rows, labels in pieces]
        if source == "svhn":
            return [svhn_file(x, y)]
        return [idx(x[:, 0]), idx(y.astype(np.uint8))]

    def _pack(self, facts: dict[str, Split]) -> None:
        for path in {part.archive.path for fact in facts.values() for part in fact.parts}:
            if path.endswith(".tar.gz"):
                self.packed[path] = tar_gz(self.plain)
            elif path.endswith(".gz"):
                self.packed[path] = gzip.compress(self.plain[path.removesuffix(".gz")])
            else:
                self.packed[path] = self.plain[path]
