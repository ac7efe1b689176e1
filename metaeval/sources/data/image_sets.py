"""Standard sets that are published as image files: GTSRB, ImageNet, Tiny ImageNet."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from metaeval.errors import StudyError
from metaeval.sources.data.archives import DAMAGE, Files, open_files
from metaeval.sources.data.dataset import Dataset
from metaeval.sources.data.decoding import Convert, image_reader
from metaeval.sources.data.opening import refuse, refuse_split
from metaeval.sources.data.selection import restrict
from metaeval.sources.data.standard import root_of
from metaeval.sources.data.standards import Archive
from metaeval.sources.downloading import wrong_file
from metaeval.study import Study
from metaeval.study.data_tables import GtsrbData, ImagenetData, StandardData

_ERDA = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"

# The md5 sums of GTSRB are those that torchvision checks, that of Tiny ImageNet the one its users publish.
GTSRB = {
    "train": Archive(
        "gtsrb/GTSRB-Training_fixed.zip",
        f"{_ERDA}GTSRB-Training_fixed.zip",
        "513f3c79a4c5141765e10e952eaa2478",
    ),
    "test": Archive(
        "gtsrb/GTSRB_Final_Test_Images.zip",
        f"{_ERDA}GTSRB_Final_Test_Images.zip",
        "c7e4e6327067d32654124b0fe9e82185",
    ),
}
GTSRB_LABELS = Archive(
    "gtsrb/GTSRB_Final_Test_GT.zip",
    f"{_ERDA}GTSRB_Final_Test_GT.zip",
    "fe31e9c9270bbcd7b84b7f21a9d9d9e5",
)
TINY = Archive(
    "tiny-imagenet-200.zip",
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "90528d7ca1a48142e341f4ef8d21d0de",
)
# Two training sets are published: that of the first challenge, which torchvision fetches, and the final one.
GTSRB_COUNTS = {"train": (26640, 39209), "test": (12630,)}
GTSRB_CLASSES = tuple(str(label) for label in range(43))
IMAGENET_CLASSES = 1000
IMAGENET_VAL = 50  # images of each class
TINY_CLASSES = 200
TINY_COUNTS = {"train": 500, "val": 50}  # images of each class
IMAGENET_BY_HAND = (
    "ImageNet is had from https://www.image-net.org (registration needed): put the validation images into "
    "val/<WordNet id>/ below it"
)
WNID = re.compile(r"n\d{8}")


def open_gtsrb(study: Study, split: str) -> Dataset:
    """Open GTSRB in torchvision's layout and order, scaled to squares (bilinear, as torchvision's Resize).

    Raises
    ------
    StudyError
        If files are missing or damaged, or are not the published ones.
    """
    data = study.data
    assert isinstance(data, GtsrbData)
    if split not in GTSRB:
        raise refuse_split(study, split, list(GTSRB))
    base = root_of(data) / "gtsrb"
    folder = "GTSRB/Training" if split == "train" else "GTSRB/Final_Test/Images"
    files = _files(study, base, folder, GTSRB[split])
    images = [path for path in files.paths if path.startswith(f"{folder}/") and path.endswith(".ppm")]
    if split == "train":
        labelled = [(path, path.split("/")[-2]) for path in images]
    else:
        rows = csv.DictReader(io.StringIO(_ground_truth(study, base)), delimiter=";", skipinitialspace=True)
        labelled = [(f"{folder}/{row.get('Filename')}", str(row.get("ClassId"))) for row in rows]
    paths = [path for path, _ in labelled]
    wrong = next((label for _, label in labelled if not label.isdecimal() or int(label) > 42), None)
    if wrong is not None:
        raise refuse(study, "source", f"GTSRB has no class {wrong!r}; they are 0 to 42")
    absent = sorted(set(paths) - set(images))
    if absent:
        raise refuse(study, "source", f"GT-final_test.csv names {absent[0]}, which is not in {base}")
    labels = [int(label) for _, label in labelled]
    if len(paths) not in GTSRB_COUNTS[split]:
        published = " or ".join(f"{count:,}" for count in GTSRB_COUNTS[split])
        message = f"the split {split!r} in {base} has {len(paths):,} images, published are {published}"
        raise refuse(study, "source", message)

    def scaled(image: Image.Image) -> Image.Image:
        return image.convert("RGB").resize((data.size, data.size), Image.Resampling.BILINEAR)

    return _dataset(study, split, files, paths, labels, GTSRB_CLASSES, scaled, inside=f"{folder}/")


def _ground_truth(study: Study, base: Path) -> str:
    """Return the table of the labels of GTSRB's test images."""
    plain, packed = base / "GT-final_test.csv", base / Path(GTSRB_LABELS.path).name
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    files = _files(study, base, "GT-final_test.csv", GTSRB_LABELS)
    if plain.name not in files.paths:
        raise refuse(study, "source", f"{packed} holds no {plain.name}")
    return next(files.read([plain.name])).decode()


def open_imagenet(study: Study, split: str) -> Dataset:
    """Open ImageNet from a folder with one folder per class (named by its WordNet id) in each split.

    The shorter side is scaled to size * 256 / 224 and the centre is cut out, as torchvision's Resize and
    CenterCrop do; all images become RGB.

    Raises
    ------
    StudyError
        If the folder is missing, or has other classes or numbers of images than the published set.
    """
    data = study.data
    assert isinstance(data, ImagenetData)
    root = data.root or root_of(data) / "imagenet"
    if not root.is_dir():
        message = f"there is no folder {root}; {IMAGENET_BY_HAND}"
        raise StudyError([study.problem(("data", "root"), message)], missing=True)
    if not (root / split).is_dir():
        found = sorted(path.name for path in root.iterdir() if path.is_dir())
        raise refuse_split(study, split, found)
    files = open_files(root / split)
    counts = Counter(path.split("/")[0] for path in files.paths if "/" in path)
    names = tuple(sorted({*counts, *(folder for folder in files.folders if "/" not in folder)}))
    wanted = names if data.classes is None else [name for name in names if name in data.classes]
    wrong = None
    if not names:
        wrong = "images lie without class folders; sort them into folders named by WordNet ids first"
    elif strange := next((name for name in names if not WNID.fullmatch(name)), None):
        wrong = f"{strange!r} is no WordNet id such as n01440764"
    elif data.classes is None and len(names) != IMAGENET_CLASSES:
        wrong = f"it has {len(names)} class folders, published are 1,000; classes = [...] chooses some"
    elif bad := next((name for name in wanted if counts[name] == 0), None):
        wrong = f"the class folder {bad} is empty"
    elif split == "val" and (bad := next((name for name in wanted if counts[name] != IMAGENET_VAL), None)):
        wrong = f"class {bad} has {counts[bad]} images, published are {IMAGENET_VAL}"
    if wrong:
        raise refuse(study, "root", f"{root / split} is not ImageNet's {split}: {wrong}")
    paths = [path for path in files.paths if "/" in path]
    labels = [names.index(path.split("/")[0]) for path in paths]
    return _dataset(study, split, files, paths, labels, names, centred(data.size), key="root")


def centred(size: int) -> Convert:
    """Return what scales the shorter side to size * 256 / 224 and cuts out the centre of an image."""

    def convert(image: Image.Image) -> Image.Image:
        width, height = image.size
        short = size * 256 // 224
        if width <= height:
            width, height = short, int(short * height / width)
        else:
            width, height = int(short * width / height), short
        image = image.convert("RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return image.crop((left, top, left + size, top + size))

    return convert


def open_tiny_imagenet(study: Study, split: str) -> Dataset:
    """Open Tiny ImageNet from its zip file or folder; validation images in the order of their annotations.

    Training images are in the order of their class's WordNet id and their number.

    Raises
    ------
    StudyError
        If files are missing or damaged, or are not the published ones.
    """
    data = study.data
    assert isinstance(data, StandardData)
    if split not in TINY_COUNTS:  # the labels of its test images were never published
        raise refuse_split(study, split, list(TINY_COUNTS))
    top = "tiny-imagenet-200"
    files = _files(study, root_of(data), f"{top}/wnids.txt", TINY)
    try:
        names = tuple(sorted(next(files.read([f"{top}/wnids.txt"])).decode().split()))
        if split == "val":
            table = next(files.read([f"{top}/val/val_annotations.txt"])).decode()
            rows = [line.split("\t") for line in table.splitlines() if line]
            labelled = [(f"{top}/val/images/{row[0]}", row[1]) for row in rows]
        else:
            inside = re.compile(rf"{top}/train/(n\d+)/images/\1_(\d+)\.JPEG")
            found = [match for match in map(inside.fullmatch, files.paths) if match]
            found.sort(key=lambda match: (match[1], int(match[2])))
            labelled = [(match[0], match[1]) for match in found]
    except (KeyError, FileNotFoundError, IndexError) as error:
        raise refuse(study, "source", f"Tiny ImageNet lacks a file or a column: {error}") from None
    except DAMAGE as error:
        raise refuse(study, "source", f"Tiny ImageNet is damaged: {error}") from None
    counts = Counter(name for _, name in labelled)
    published = TINY_COUNTS[split]
    absent = sorted({path for path, _ in labelled} - set(files.paths))
    wrong = None
    if len(names) != TINY_CLASSES:
        wrong = f"wnids.txt lists {len(names)} classes, published are {TINY_CLASSES}"
    elif strange := next((name for name in counts if name not in names), None):
        wrong = f"{strange!r} is not among the classes of wnids.txt"
    elif bad := next((name for name in names if counts[name] != published), None):
        wrong = f"class {bad} has {counts[bad]} images, published are {published}"
    elif absent:
        wrong = f"val_annotations.txt names {absent[0]}, which is not there"
    if wrong:
        raise refuse(study, "source", f"this is not Tiny ImageNet's split {split!r}: {wrong}")
    label = {name: i for i, name in enumerate(names)}
    paths, labels = [path for path, _ in labelled], [label[name] for _, name in labelled]

    def colour(image: Image.Image) -> Image.Image:
        return image.convert("RGB")

    return _dataset(study, split, files, paths, labels, names, colour, inside=f"{top}/{split}/")


def _dataset(
    study: Study,
    split: str,
    files: Files,
    paths: Sequence[str],
    labels: Sequence[int],
    names: tuple[str, ...],
    convert: Convert,
    *,
    inside: str = "",
    key: str = "source",
) -> Dataset:
    """Return the images of a split, named by their paths in its folder."""
    data = study.data
    assert isinstance(data, StandardData)
    shape, read = image_reader(study, files, paths, key=key, convert=convert)
    whole = Dataset(
        name=data.name,
        split=split,
        labels=np.array(labels, dtype=np.int64),
        sample_ids=tuple(f"{data.source}/{split}/{path.removeprefix(inside)}" for path in paths),
        class_names=names,
        shape=shape,
        read=read,
    )
    return restrict(study, whole, data.classes)


def _files(study: Study, base: Path, inside: str, archive: Archive) -> Files:
    """Return the files of a folder if it has what is looked for, else those of the archive beside it."""
    packed = base / Path(archive.path).name
    if (base / inside).exists():
        files = open_files(base / inside.split("/")[0])
        top = inside.split("/")[0]
        return Files(
            [f"{top}/{path}" for path in files.paths],
            [f"{top}/{folder}" for folder in files.folders],
            lambda names: files.read([name.removeprefix(f"{top}/") for name in names]),
        )
    if not packed.is_file():
        message = (
            f"{study.data.source} needs {base / inside} or {packed}, and neither is there; "
            f"`metaeval fetch {study.path}` gets it from {archive.address}"
        )
        raise StudyError([study.problem(("data", "source"), message)], missing=True)
    if reason := wrong_file(packed, packed.name):
        raise refuse(study, "source", f"{packed}: {reason}")
    try:
        return open_files(packed)
    except DAMAGE as error:
        raise refuse(study, "source", f"{packed} is damaged: {error}") from None
