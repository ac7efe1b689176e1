"""What is known of the published standard sets: files, addresses, hashes, and how many samples of each class.

The md5 sums of archives, and of CIFAR's batches, are those that torchvision checks; those of MNIST's unpacked
files and the hashes of label sequences were computed from the sets themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Archive:
    """A published file: where it is kept below the root, where it comes from, its md5 if that is known."""

    path: str
    address: str
    md5: str = ""


@dataclass(frozen=True)
class Part:
    """A file with samples: where it lies below the root when it is unpacked, and the archive it is in."""

    path: str
    archive: Archive
    md5: str = ""


@dataclass(frozen=True)
class Split:
    """The files of a split and the samples of each class; `labels` is the hash of the label sequence."""

    parts: tuple[Part, ...]
    counts: tuple[int, ...]
    labels: str = ""


@dataclass(frozen=True)
class Standard:
    """A standard set of images in a few binary files.

    Attributes
    ----------
    reader : str
        ``module:callable`` from the content of a split's parts to images and labels.
    shape : tuple of int
        Of one image: (channels, height, width).
    class_names : tuple of str
        Index = label; empty where `names`, a file of the set, has them.
    """

    reader: str
    shape: tuple[int, ...]
    splits: Mapping[str, Split]
    class_names: tuple[str, ...] = ()
    names: Part | None = None

    @cached_property
    def classes(self) -> int:
        """The number of classes."""
        return len(next(iter(self.splits.values())).counts)


def _cifar(folder: str, archive: Archive, parts: dict[str, str], count: int, labels: str = "") -> Split:
    classes = 10 if len(parts) > 1 or count == 1000 else 100
    found = tuple(Part(f"{folder}/{name}", archive, md5) for name, md5 in parts.items())
    return Split(found, (count,) * classes, labels)


def _idx(
    folder: str, prefix: str, mirror: str, packed: tuple[str, str], unpacked: tuple[str, str], **facts: object
) -> Split:
    names = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    parts = tuple(
        Part(f"{folder}/raw/{name}", Archive(f"{folder}/raw/{name}.gz", f"{mirror}{name}.gz", md5), plain_md5)
        for name, md5, plain_md5 in zip(names, packed, unpacked, strict=True)
    )
    return Split(parts, **facts)  # type: ignore[arg-type]


def _svhn(name: str, md5: str, counts: tuple[int, ...]) -> Split:
    archive = Archive(name, f"http://ufldl.stanford.edu/housenumbers/{name}", md5)
    return Split((Part(name, archive, md5),), counts)


_FORMATS = "metaeval.sources.data.formats:"
_CIFAR10 = Archive(
    "cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
)
_CIFAR100 = Archive(
    "cifar-100-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
)
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

STANDARDS: dict[str, Standard] = {
    "cifar10": Standard(
        f"{_FORMATS}read_cifar",
        (3, 32, 32),
        {
            "train": _cifar(
                "cifar-10-batches-py",
                _CIFAR10,
                {
                    "data_batch_1": "c99cafc152244af753f735de768cd75f",
                    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                    "data_batch_4": "634d18415352ddfa80567beed471001a",
                    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                },
                5000,
            ),
            "test": _cifar(
                "cifar-10-batches-py",
                _CIFAR10,
                {"test_batch": "40351d587109b95175f43aff81a1287e"},
                1000,
                "e48789e454371556a2bb51ca3d0ae85c540e7312f8c74b0090d23c69408a5979",
            ),
        },
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": Standard(
        f"{_FORMATS}read_cifar",
        (3, 32, 32),
        {
            "train": _cifar(
                "cifar-100-python", _CIFAR100, {"train": "16019d7e3df5f24257cddd939b257f8d"}, 500
            ),
            "test": _cifar("cifar-100-python", _CIFAR100, {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}, 100),
        },
        names=Part("cifar-100-python/meta", _CIFAR100, "7973b15100ade9c7d40fb424638fde48"),
    ),
    "mnist": Standard(
        f"{_FORMATS}read_idx",
        (1, 28, 28),
        {
            "train": _idx(
                "MNIST",
                "train",
                _MNIST,
                ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
                ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
                counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
                labels="709bf8e34a5eecad0ba9e319b1d154e9069f3e5492f2bb65e5da9a7ce1e406b2",
            ),
            "test": _idx(
                "MNIST",
                "t10k",
                _MNIST,
                ("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
                ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
                counts=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
                labels="bc4f9655c228502ea84fb679f1b5c618ad81c0ca308f62e8b89621010716f3d7",
            ),
        },
        DIGITS,
    ),
    "fashion_mnist": Standard(
        f"{_FORMATS}read_idx",
        (1, 28, 28),
        {
            "train": _idx(
                "FashionMNIST",
                "train",
                _FASHION,
                ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
                ("", ""),
                counts=(6000,) * 10,
            ),
            "test": _idx(
                "FashionMNIST",
                "t10k",
                _FASHION,
                ("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
                ("", ""),
                counts=(1000,) * 10,
            ),
        },
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
    "svhn": Standard(
        f"{_FORMATS}read_svhn",
        (3, 32, 32),
        {
            "train": _svhn(
                "train_32x32.mat",
                "e26dedcc434d2e4c54c9b2d4a06d8373",
                (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
            ),
            "test": _svhn(
                "test_32x32.mat",
                "eb5a983be6a315427106f1b164d9cef3",
                (1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
            ),
        },
        DIGITS,
    ),
}
