"""GTSRB, ImageNet, Tiny ImageNet and UCI HAR: small sets in the published layouts, against other readers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_sets import encoded, images, labels_of, write, zipped

from metaeval.sources.data import Dataset, har, image_sets, open_data
from metaeval.sources.data.standards import Split

datasets = pytest.importorskip("torchvision.datasets")  # comes with the extra robustbench
transforms = pytest.importorskip("torchvision.transforms")

SOURCE = 'source = "{}"\nroot = "data"\n'
RNG = np.random.default_rng(1)


def everything(data: Dataset) -> np.ndarray:
    return data.read(np.arange(len(data)))


def as_float(found: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return what a data set of torchvision holds, with its transform to tensors."""
    return np.stack([x.numpy() for x, _ in found]), np.array([y for _, y in found])


def ppm(side: int) -> bytes:
    return encoded(images(1, side, side + 3, 3)[0], "ppm")


@pytest.fixture
def gtsrb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a small GTSRB, unpacked and packed; return the folder of the unpacked one."""
    train = {
        f"GTSRB/Training/{label:05}/00000_{i:05}.ppm": ppm(15 + i) for label in range(43) for i in range(2)
    }
    labels = labels_of((1,) * 43)
    test = {f"GTSRB/Final_Test/Images/{i:05}.ppm": ppm(20 + i % 5) for i in range(43)}
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    lines += [f"{i:05}.ppm;53;54;6;5;48;49;{label}" for i, label in enumerate(labels)]
    table = {"GT-final_test.csv": "\r\n".join(lines).encode()}
    write(tmp_path / "data" / "gtsrb", {**train, **test, **table})
    packed = {
        "GTSRB-Training_fixed.zip": zipped(train),
        "GTSRB_Final_Test_Images.zip": zipped(test),
        "GTSRB_Final_Test_GT.zip": zipped(table),
    }
    write(tmp_path / "packed" / "gtsrb", packed)
    monkeypatch.setattr(image_sets, "GTSRB_COUNTS", {"train": (86, 99), "test": (43,)})
    return tmp_path / "data"


def test_gtsrb_is_read_as_torchvision_reads_it(write_study: Any, gtsrb: Path) -> None:
    steps = transforms.Compose(
        [transforms.Resize((16, 16), transforms.InterpolationMode.BILINEAR), transforms.ToTensor()]
    )
    for split in ("train", "test"):
        data = open_data(write_study(SOURCE.format("gtsrb") + "size = 16"), split)
        x, y = as_float(datasets.GTSRB(gtsrb, split=split, transform=steps))
        np.testing.assert_array_equal(everything(data), x)
        np.testing.assert_array_equal(data.labels, y)
        packed = open_data(write_study(SOURCE.format("gtsrb").replace("data", "packed") + "size = 16"), split)
        np.testing.assert_array_equal(everything(packed), x)
        assert packed.sample_ids == data.sample_ids
    assert data.sample_ids[0] == "gtsrb/test/00000.ppm"
    assert data.shape == (3, 16, 16)
    chosen = open_data(write_study(SOURCE.format("gtsrb") + 'classes = ["14", "2"]'), "train")
    assert chosen.labels.tolist() == [1, 1, 0, 0]
    assert chosen.sample_ids[0] == "gtsrb/train/00002/00000_00000.ppm"


def test_what_is_wrong_with_gtsrb(write_study: Any, problems: Any, gtsrb: Path) -> None:
    study = write_study(SOURCE.format("gtsrb"))
    base = gtsrb / "gtsrb"

    def said(split: str = "test", exit_code: int = 2) -> str:
        (problem,) = problems(study, lambda: open_data(study, split), exit_code=exit_code)
        return str(problem)

    (base / "GTSRB/Training/00007/00000_00000.ppm").unlink()
    assert "has 85 images, published are 86 or 99" in said("train")
    table = base / "GT-final_test.csv"
    good = table.read_text()
    table.write_text(good.replace("00003.ppm", "00099.ppm"))
    assert "GT-final_test.csv names GTSRB/Final_Test/Images/00099.ppm, which is not in" in said()
    table.write_text(good.replace(";42", ";43"))
    assert "GTSRB has no class '43'; they are 0 to 42" in said()
    table.write_text("".join(good.splitlines(keepends=True)[:20]))
    assert "has 19 images, published are 43" in said()
    table.unlink()
    assert "GTSRB_Final_Test_GT.zip, and neither is there" in said(exit_code=4)
    write(base, {"GTSRB_Final_Test_GT.zip": b"<!DOCTYPE html><p>moved"})
    assert "it is a web page" in said()
    write(base, {"GTSRB_Final_Test_GT.zip": zipped({"a.csv": b"x"})[:-30]})
    assert "cut off: a zip file without its end" in said()


WNIDS = ("n01440764", "n02007558", "n03000134")


@pytest.fixture
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a small ImageNet of odd images: upright, lying, grey, with a palette, in CMYK."""
    shapes = [(40, 60, 3), (61, 40, 3), (45, 45), (300, 320, 3), (33, 90, 3), (64, 64, 4)]
    for number, shape in enumerate(shapes):
        pixels = Image.fromarray(images(1, *shape)[0], "CMYK" if len(shape) == 3 and shape[2] == 4 else None)
        path = tmp_path / "data" / "val" / WNIDS[number // 2] / f"ILSVRC2012_val_0000000{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels.save(path, "jpeg")
    monkeypatch.setattr(image_sets, "IMAGENET_CLASSES", 3)
    monkeypatch.setattr(image_sets, "IMAGENET_VAL", 2)
    return tmp_path / "data"


@pytest.mark.parametrize("size", [224, 32])
def test_imagenet_is_prepared_as_torchvision_does(write_study: Any, imagenet: Path, size: int) -> None:
    steps = [transforms.Resize(size * 256 // 224), transforms.CenterCrop(size), transforms.ToTensor()]
    x, y = as_float(datasets.ImageFolder(imagenet / "val", transforms.Compose(steps)))
    data = open_data(write_study(SOURCE.format("imagenet") + f"size = {size}"), "val")
    np.testing.assert_array_equal(everything(data), x)
    np.testing.assert_array_equal(data.labels, y)
    assert data.class_names == WNIDS
    assert data.shape == (3, size, size)
    assert data.sample_ids[0] == "imagenet/val/n01440764/ILSVRC2012_val_00000000.JPEG"


def test_what_is_wrong_with_imagenet(write_study: Any, problems: Any, imagenet: Path) -> None:
    study = write_study(SOURCE.format("imagenet"))

    def said(study: Any = study, exit_code: int = 2) -> str:
        (problem,) = problems(study, lambda: open_data(study, "val"), exit_code=exit_code)
        return str(problem)

    (imagenet / "val" / "n01440765").mkdir()
    assert "data.root: " in said()
    assert "it has 4 class folders, published are 1,000; classes = [...] chooses some" in said()
    some = write_study(SOURCE.format("imagenet") + 'classes = ["n02007558", "n01440764"]')
    assert open_data(some, "val").labels.tolist() == [1, 1, 0, 0]
    empty = write_study(SOURCE.format("imagenet") + 'classes = ["n02007558", "n01440765"]')
    assert "the class folder n01440765 is empty" in said(empty)
    study = write_study(SOURCE.format("imagenet"))
    (imagenet / "val" / "n01440765").rmdir()
    first = next((imagenet / "val" / WNIDS[1]).iterdir())
    kept = first.read_bytes()
    first.unlink()
    assert f"class {WNIDS[1]} has 1 images, published are 2" in said()
    first.write_bytes(kept[:300])
    data = open_data(study, "val")
    (problem,) = problems(study, lambda: everything(data))
    assert f"{first.name} cannot be read: " in problem
    (imagenet / "val" / WNIDS[0]).rename(imagenet / "val" / "tench")
    assert "'tench' is no WordNet id such as n01440764" in said()
    shutil.rmtree(imagenet / "val")
    write(imagenet / "val", {"ILSVRC2012_val_00000001.JPEG": b"x"})
    assert "images lie without class folders; sort them" in said()
    shutil.rmtree(imagenet)
    assert "ImageNet is had from https://www.image-net.org" in said(exit_code=4)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a small Tiny ImageNet, unpacked and packed, its classes listed in another order than sorted."""

    def jpeg(grey: bool = False) -> bytes:
        return encoded(images(1, *((64, 64) if grey else (64, 64, 3)))[0], "jpeg")

    files = {"wnids.txt": "\n".join(WNIDS[::-1]).encode()}
    files |= {f"train/{name}/images/{name}_{i}.JPEG": jpeg(i == 3) for name in WNIDS for i in range(12)}
    files |= {f"train/{name}/{name}_boxes.txt": b"x\t0\t0\t9\t9" for name in WNIDS}
    labels = labels_of((2, 2, 2))
    files |= {f"val/images/val_{i}.JPEG": jpeg() for i in range(6)}
    rows = [f"val_{i}.JPEG\t{WNIDS[label]}\t0\t0\t62\t62\n" for i, label in enumerate(labels)]
    files["val/val_annotations.txt"] = "".join(rows).encode()
    files = {f"tiny-imagenet-200/{name}": content for name, content in files.items()}
    write(tmp_path / "data", files)
    write(tmp_path / "packed", {"tiny-imagenet-200.zip": zipped(files)})
    monkeypatch.setattr(image_sets, "TINY_CLASSES", 3)
    monkeypatch.setattr(image_sets, "TINY_COUNTS", {"train": 12, "val": 2})
    return tmp_path / "data" / "tiny-imagenet-200"


def test_tiny_imagenet_is_what_its_files_say(write_study: Any, tiny: Path) -> None:
    study = write_study(SOURCE.format("tiny_imagenet"))
    val, train = open_data(study, "val"), open_data(study, "train")
    table = pd.read_csv(tiny / "val" / "val_annotations.txt", sep="\t", header=None)
    assert [WNIDS[label] for label in val.labels] == table[1].tolist()
    steps = transforms.ToTensor()
    x = np.stack([steps(Image.open(tiny / "val" / "images" / name)).numpy() for name in table[0]])
    np.testing.assert_array_equal(everything(val), x)
    # torchvision sorts by text (_0, _1, _10, _11, _2 ...): the same images in another order.
    folder = datasets.ImageFolder(tiny / "train", steps)
    theirs = {
        Path(path).name: (x.numpy(), y) for (path, _), (x, y) in zip(folder.samples, folder, strict=True)
    }
    for name, x, y in zip(train.sample_ids, everything(train), train.labels, strict=True):
        np.testing.assert_array_equal(x, theirs[Path(name).name][0])
        assert y == theirs[Path(name).name][1]
    numbers = [int(Path(name).stem.split("_")[1]) for name in train.sample_ids]
    assert numbers == list(range(12)) * 3
    assert train.class_names == tuple(folder.classes) == WNIDS
    packed = write_study(SOURCE.format("tiny_imagenet").replace("data", "packed"))
    for split, data in (("val", val), ("train", train)):
        again = open_data(packed, split)
        np.testing.assert_array_equal(everything(again), everything(data))
        assert again.sample_ids == data.sample_ids
    some = open_data(
        write_study(SOURCE.format("tiny_imagenet") + f'classes = ["{WNIDS[2]}", "{WNIDS[0]}"]'), "val"
    )
    assert [some.class_names[label] for label in some.labels] == [n for n in table[1] if n != WNIDS[1]]


def test_what_is_wrong_with_tiny_imagenet(write_study: Any, problems: Any, tiny: Path) -> None:
    study = write_study(SOURCE.format("tiny_imagenet"))

    def said(split: str = "val", exit_code: int = 2) -> str:
        (problem,) = problems(study, lambda: open_data(study, split), exit_code=exit_code)
        return str(problem)

    table = tiny / "val" / "val_annotations.txt"
    rows = table.read_text().splitlines()
    table.write_text("\n".join(rows[:-1]))
    assert "has 1 images, published are 2" in said()
    table.write_text("\n".join([rows[0].replace("val_0.", "val_77."), *rows[1:]]))
    assert "val_annotations.txt names tiny-imagenet-200/val/images/val_77.JPEG, which is not there" in said()
    table.write_text("\n".join([rows[0].replace(rows[0].split("\t")[1], "n99999999"), *rows[1:]]))
    assert "'n99999999' is not among the classes of wnids.txt" in said()
    table.unlink()
    assert "Tiny ImageNet lacks a file or a column" in said()
    (tiny / "wnids.txt").write_text(WNIDS[0])
    assert "wnids.txt lists 1 classes, published are 3" in said("train")
    shutil.rmtree(tiny)
    assert "tiny-imagenet-200.zip, and neither is there" in said(exit_code=4)
    study = write_study(SOURCE.format("tiny_imagenet") + 'split = "test"')
    assert "unknown split 'test'; allowed: train, val" in said("test")


def features(rows: np.ndarray) -> bytes:
    """Return rows as UCI HAR writes them: 16 characters a number, exponents of three digits."""
    text = "\n".join(
        "".join(f" {value: .7e}".replace("e-", "e-0").replace("e+", "e+0") for value in row) for row in rows
    )
    return text.encode()


@pytest.fixture
def movements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Write a small UCI HAR: unpacked, packed, and packed twice; return its files."""
    files = {}
    facts = {"train": (2, 1, 1, 2, 1, 1), "test": (1, 1, 1, 1, 1, 2)}
    for split, counts in facts.items():
        labels = labels_of(counts) + 1
        x = RNG.uniform(-1, 1, (len(labels), 561))
        x[0, :2] = (-1, 1)
        files[f"UCI HAR Dataset/{split}/X_{split}.txt"] = features(x)
        files[f"UCI HAR Dataset/{split}/y_{split}.txt"] = "\n".join(map(str, labels)).encode()
    write(tmp_path / "data", files)
    write(tmp_path / "packed", {"UCI HAR Dataset.zip": zipped(files)})
    write(tmp_path / "twice", {"UCI HAR Dataset.zip": zipped({"UCI HAR Dataset.zip": zipped(files)})})
    monkeypatch.setattr(har, "SPLITS", {split: Split((), counts) for split, counts in facts.items()})
    return files


def test_har_is_scaled_to_the_unit_interval(
    write_study: Any, tmp_path: Path, movements: dict[str, bytes]
) -> None:
    for split in ("train", "test"):
        data = open_data(write_study(SOURCE.format("har")), split)
        folder = tmp_path / "data" / "UCI HAR Dataset" / split
        table = pd.read_csv(folder / f"X_{split}.txt", sep=r"\s+", header=None)
        labels = pd.read_csv(folder / f"y_{split}.txt", header=None)[0]
        np.testing.assert_allclose(everything(data) * 2 - 1, table.to_numpy(), atol=2e-7)
        np.testing.assert_array_equal(data.labels + 1, labels)
        assert everything(data)[0, :2].tolist() == [0, 1]
        assert data.shape == (561,)
        for place in ("packed", "twice"):
            other = open_data(write_study(SOURCE.format("har").replace("data", place)), split)
            np.testing.assert_array_equal(everything(other), everything(data))
    assert data.class_names[0] == "WALKING"


def test_published_numbers_of_har_are_consistent() -> None:
    """10,299 windows of 30 people, 70 and 30 per cent of them (Anguita et al. 2013)."""
    assert [sum(split.counts) for split in har.SPLITS.values()] == [7352, 2947]
    assert sum(sum(split.counts) for split in har.SPLITS.values()) == 10_299


def test_what_is_wrong_with_har(
    write_study: Any, problems: Any, tmp_path: Path, movements: dict[str, bytes]
) -> None:
    study = write_study(SOURCE.format("har"))
    folder = tmp_path / "data" / "UCI HAR Dataset" / "test"
    y = movements["UCI HAR Dataset/test/y_test.txt"].decode().split()
    x = movements["UCI HAR Dataset/test/X_test.txt"].decode().splitlines()

    def said(x: list[str], y: list[str]) -> str:
        (folder / "X_test.txt").write_text("\n".join(x))
        (folder / "y_test.txt").write_text("\n".join(y))
        (problem,) = problems(study, lambda: open_data(study, "test"))
        return str(problem)

    assert "it has 7 labels for 6 rows" in said(x[:-1], y)
    assert "is damaged" in said([*x[:-1], x[-1][:500]], y)
    assert "it has 560 features, published are 561" in said([row[16:] for row in x], y)
    nan = "  " + "nan".rjust(14)
    assert "feature 0 of row 2 is nan" in said([*x[:2], nan + x[2][16:], *x[3:]], y)
    assert "features go from -1 to 1.5" in said([*x[:2], "  1.5000000e+000" + x[2][16:], *x[3:]], y)
    assert "labels go from 0, published ones from 1" in said(x, [str(int(label) - 1) for label in y])
    assert "it has 6 samples, published are 7" in said(x[1:], y[1:])
    shutil.rmtree(folder.parent)
    (problem,) = problems(study, lambda: open_data(study, "test"), exit_code=4)
    assert "UCI HAR Dataset.zip, and neither is there" in problem
