"""The standard sets in binary files: what torchvision reads, and nothing that only looks like it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sets import SmallSet, cifar_batch, idx, md5, tar_gz, write

from metaeval.hashing import hash_array
from metaeval.sources.data import Dataset, open_data, take
from metaeval.sources.data.standards import STANDARDS

datasets = pytest.importorskip("torchvision.datasets")  # comes with the extra robustbench

COUNTS = {
    "cifar10": {"train": (3, 2, 2, 2, 2, 2, 2, 2, 2, 1), "test": (1, 2) * 5},
    "cifar100": {"train": (2, 1, 3), "test": (1, 2, 1)},
    "mnist": {"train": (2, 1, 3) * 3 + (1,), "test": (1, 2) * 5},
    "fashion_mnist": {"train": (2,) * 10, "test": (1,) * 10},
    "svhn": {"train": (3, 2) * 5, "test": (1, 2) * 5},
}
SOURCE = 'source = "{}"\nroot = "data"\n'


def everything(data: Dataset) -> np.ndarray:
    return data.read(np.arange(len(data)))


def by_torchvision(source: str, root: Path, small: SmallSet, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels as torchvision's own reader gives them."""
    if source.startswith("cifar"):
        base = datasets.CIFAR10 if source == "cifar10" else datasets.CIFAR100
        hashes = {Path(path).name: md5(content) for path, content in small.plain.items()}

        lists = {
            key: [[name, hashes[name]] for name, _ in getattr(base, key)]
            for key in ("train_list", "test_list")
        }
        Small = type("Small", (base,), {**lists, "_load_meta": lambda self: None})
        found = Small(root, train=split == "train")
        return found.data.transpose(0, 3, 1, 2), np.array(found.targets)
    if source == "svhn":
        listed = datasets.SVHN.split_list.items()
        lists = {name: [u, file, md5(small.plain[file])] for name, (u, file, _) in listed if name != "extra"}
        SmallSvhn = type("SmallSvhn", (datasets.SVHN,), {"split_list": lists})
        found = SmallSvhn(root, split=split)
        return found.data, found.labels
    found = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[source](
        root, train=split == "train"
    )
    return found.data.numpy()[:, None], found.targets.numpy()


@pytest.mark.parametrize("source", COUNTS)
def test_torchvision_reads_the_same(
    write_study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    small = SmallSet(source, COUNTS[source], monkeypatch)
    write(tmp_path / "data", small.plain)
    write(tmp_path / "packed", small.packed)
    for split in ("train", "test"):
        data = open_data(write_study(SOURCE.format(source)), split)
        x, y = by_torchvision(source, tmp_path / "data", small, split)
        np.testing.assert_array_equal(everything(data), x / np.float32(255))
        np.testing.assert_array_equal(data.labels, y)
        np.testing.assert_array_equal(data.labels, small.y[split])
        assert data.shape == STANDARDS[source].shape
        assert data.sample_ids[:2] == (f"{source}/{split}/0", f"{source}/{split}/1")
        packed = open_data(write_study(SOURCE.format(source).replace("data", "packed")), split)
        np.testing.assert_array_equal(everything(packed), everything(data))
    assert data.name == source
    assert len(data.class_names) == len(COUNTS[source]["test"])


@pytest.mark.parametrize(
    ("source", "name"),
    [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100"), ("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")],
)
def test_addresses_and_hashes_are_torchvisions(source: str, name: str) -> None:
    theirs, ours = getattr(datasets, name), STANDARDS[source]
    parts = {Path(part.path).name: part for split in ours.splits.values() for part in split.parts}
    if source.startswith("cifar"):
        listed = dict(theirs.train_list + theirs.test_list)
        assert {part: ours.md5 for part, ours in parts.items()} == listed
        (archive,) = {part.archive for part in parts.values()}
        assert (archive.address, archive.md5) == (theirs.url, theirs.tgz_md5)
        if ours.names:
            assert (Path(ours.names.path).name, ours.names.md5) == (
                theirs.meta["filename"],
                theirs.meta["md5"],
            )
    else:
        assert {f"{part}.gz": ours.archive.md5 for part, ours in parts.items()} == dict(theirs.resources)
        assert all(part.archive.address.startswith(tuple(theirs.mirrors)) for part in parts.values())
        if source == "fashion_mnist":
            assert list(ours.class_names) == theirs.classes


def test_svhn_is_torchvisions() -> None:
    for split, facts in STANDARDS["svhn"].splits.items():
        archive = facts.parts[0].archive
        assert [archive.address, archive.path, archive.md5] == datasets.SVHN.split_list[split]


def test_sizes_are_the_published_ones() -> None:
    sizes = {
        source: {split: sum(facts.counts) for split, facts in known.splits.items()}
        for source, known in STANDARDS.items()
    }
    assert sizes == {
        "cifar10": {"train": 50_000, "test": 10_000},
        "cifar100": {"train": 50_000, "test": 10_000},
        "mnist": {"train": 60_000, "test": 10_000},
        "fashion_mnist": {"train": 60_000, "test": 10_000},
        "svhn": {"train": 73_257, "test": 26_032},
    }
    assert {source: known.classes for source, known in STANDARDS.items()} == {
        **dict.fromkeys(sizes, 10),
        "cifar100": 100,
    }


def test_the_real_mnist_passes_and_nothing_else_does(
    write_study: Any, problems: Any, tmp_path: Path, shared_data: Path
) -> None:
    with np.load(shared_data / "mnist.npz") as arrays:
        x, y = arrays["x_test"], arrays["y_test"]
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    study = write_study(SOURCE.format("mnist") + "samples = 100")

    def put(x: np.ndarray, y: np.ndarray) -> None:
        (raw / "t10k-images-idx3-ubyte").write_bytes(idx(x))
        (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(y.astype(np.uint8)))

    put(x, y)
    samples = take(study, open_data(study, "test"))
    assert samples.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    np.testing.assert_array_equal(samples.x[:, 0] * 255, x[:100])

    def said(x: np.ndarray, y: np.ndarray) -> str:
        put(x, y)
        (problem,) = problems(study, lambda: open_data(study, "test"))
        assert problem.startswith("data.source: ")
        return str(problem)

    order = np.argsort(y, kind="stable")
    assert "labels are in another order: sorted by class" in said(x[order], y[order])
    assert "labels are in another order: they begin [9, 5, 9" in said(x, np.roll(y, -7))
    assert "labels go from 1 to 10, published ones from 0: they are off by one" in said(x, y + 1)
    assert "it has 9,999 samples, published are 10,000" in said(x[1:], y[1:])
    assert "class 7 (7) has 1,027 samples, published 1,028" in said(x, np.where(np.arange(10_000) == 0, 8, y))
    changed = x.copy()
    changed[123, 14, 14] ^= 1
    assert "t10k-images-idx3-ubyte is not the published file: its md5 is" in said(changed, y)


def test_cifar_labels_must_be_the_canonical_ones(
    write_study: Any, problems: Any, tmp_path: Path, shared_data: Path
) -> None:
    """The labels come from published predictions on CIFAR-10; pixels that are not CIFAR's are refused too."""
    with np.load(shared_data / "cifar10_predictions.npz") as arrays:
        labels = arrays["label"].astype(np.int64)
    assert hash_array(labels) == STANDARDS["cifar10"].splits["test"].labels
    study = write_study(SOURCE.format("cifar10"))
    rows = np.zeros((10_000, 3072), np.uint8)
    for sequence, message in (
        (labels, "test_batch is not the published file: its md5 is"),
        (np.sort(labels), "labels are in another order: sorted by class"),
        (labels + 1, "off by one"),
    ):
        write(tmp_path / "data", {"cifar-10-batches-py/test_batch": cifar_batch(rows, sequence)})
        (problem,) = problems(study, lambda: open_data(study, "test"))
        assert message in problem


def test_classes_are_chosen_and_labelled_in_their_order(
    write_study: Any, problems: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = SmallSet("cifar10", COUNTS["cifar10"], monkeypatch)
    write(tmp_path / "data", small.plain)
    study = write_study(SOURCE.format("cifar10") + 'classes = ["dog", "cat"]')
    data = open_data(study, "test")
    rows = np.flatnonzero(np.isin(small.y["test"], [5, 3]))
    assert data.class_names == ("dog", "cat")
    np.testing.assert_array_equal(data.labels, (small.y["test"][rows] == 3).astype(int))
    np.testing.assert_array_equal(everything(data), small.x["test"][rows] / np.float32(255))
    assert data.sample_ids == tuple(f"cifar10/test/{row}" for row in rows)
    study = write_study(SOURCE.format("cifar10") + 'classes = ["dog", "catt"]')
    assert problems(study, lambda: open_data(study, "test")) == [
        "data.classes[1]: unknown class 'catt'; allowed: airplane, automobile, bird, cat, deer, dog, frog, "
        "horse, ship, truck"
    ]
    study = write_study(SOURCE.format("cifar10") + 'classes = ["dog"]')
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert "all samples are of class 'dog'; two are needed" in problem


BAD = {
    "missing": ("cifar10", {}, 4, "cifar-10-python.tar.gz, and neither is there; `metaeval fetch"),
    "web page": ("cifar10", {"cifar-10-python.tar.gz": b"<html>Not today</html>"}, 2, "it is a web page"),
    "empty": ("cifar10", {"cifar-10-python.tar.gz": b""}, 2, "the file is empty"),
    "other archive": (
        "cifar10",
        {"cifar-10-python.tar.gz": tar_gz({"a": b"x"})},
        2,
        "holds no cifar-10-batc",
    ),
    "no pickle": ("cifar10", {"cifar-10-batches-py/test_batch": b"not a pickle"}, 2, "no readable pickle"),
    "code": (
        "cifar10",
        {"cifar-10-batches-py/test_batch": b"cos\nsystem\n(S'echo no'\ntR."},
        2,
        "needs os.system, which could run code",
    ),
    "grey": (
        "cifar10",
        {"cifar-10-batches-py/test_batch": cifar_batch(np.zeros((10, 1024), np.uint8), np.arange(10))},
        2,
        "'data' is no uint8 array of 3,072 columns",
    ),
    "no idx": ("mnist", {"MNIST/raw/t10k-images-idx3-ubyte": b"abcdefgh" * 9}, 2, "no idx file of bytes"),
    "short idx": (
        "mnist",
        {"MNIST/raw/t10k-images-idx3-ubyte": idx(np.zeros((5, 28, 28), np.uint8))[:-9]},
        2,
        "cut off",
    ),
    "short gz": ("mnist", {"MNIST/raw/t10k-images-idx3-ubyte.gz": b"\x1f\x8b\x08\x00cut"}, 2, "damaged"),
    "mat": ("svhn", {"test_32x32.mat": b"MATLAB 5.0 MAT-file, cut off"}, 2, "no readable MATLAB file"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named(
    write_study: Any, problems: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, files, code, message = BAD[name]
    if source == "mnist":
        files = {"MNIST/raw/t10k-labels-idx1-ubyte": idx(np.zeros(5, np.uint8)), **files}
    write(tmp_path / "data", {**files, "other": b""})
    study = write_study(SOURCE.format(source))
    (problem,) = problems(study, lambda: open_data(study, "test"), exit_code=code)
    assert message in problem
    assert str(tmp_path / "data") in problem


def test_truncated_archives_are_damaged(
    write_study: Any, problems: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = SmallSet("cifar10", COUNTS["cifar10"], monkeypatch)
    (archive,) = small.packed.values()
    study = write_study(SOURCE.format("cifar10"))
    for kept in (0.3, 0.9):
        write(tmp_path / "data", {"cifar-10-python.tar.gz": archive[: int(kept * len(archive))]})
        (problem,) = problems(study, lambda: open_data(study, "test"))
        assert "cifar-10-python.tar.gz is damaged" in problem


def test_an_archive_of_unknown_content_has_its_own_hash(
    write_study: Any, problems: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in Fashion-MNIST's files has no published hash, but the files have."""
    pixels, labels = np.zeros((10_000, 28, 28), np.uint8), np.repeat(np.arange(10), 1000).astype(np.uint8)
    files = {
        "FashionMNIST/raw/t10k-images-idx3-ubyte.gz": gzip.compress(idx(pixels)),
        "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz": gzip.compress(idx(labels)),
    }
    write(tmp_path / "data", files)
    study = write_study(SOURCE.format("fashion_mnist"))
    (problem,) = problems(study, lambda: open_data(study, "test"))
    published = STANDARDS["fashion_mnist"].splits["test"].parts[0].archive.md5
    assert "t10k-images-idx3-ubyte.gz: its md5 is" in problem
    assert f"not {published}" in problem


def test_an_unknown_split_is_refused(write_study: Any, problems: Any) -> None:
    study = write_study(SOURCE.format("svhn") + 'split = "tets"')
    assert problems(study, lambda: open_data(study, "tets")) == [
        "data.split: unknown split 'tets'; allowed: test, train"
    ]


def test_data_lie_in_the_cache_by_default(
    write_study: Any, problems: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAEVAL_CACHE_DIR", str(tmp_path / "cache"))
    study = write_study('source = "mnist"')
    (problem,) = problems(study, lambda: open_data(study, "test"), exit_code=4)
    assert str(tmp_path / "cache" / "data" / "MNIST" / "raw" / "t10k-images-idx3-ubyte") in problem
