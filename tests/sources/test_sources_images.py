"""Images: folder, zip and tar give the same samples, and a clear word for every wrong file."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metaeval.sources.data import Dataset, open_data, take

RNG = np.random.default_rng(0)
CLASSES = ("cat", "dog", "eel")
SOURCE = 'source = "images"\npath = "{}"'


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def grey(shape: tuple[int, ...] = (6, 5)) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def write_tree(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def pack(root: Path, archive: Path) -> Path:
    """Pack a folder; members in reverse order, so that nothing depends on it."""
    names = sorted((path for path in root.rglob("*")), reverse=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in names:
                file.write(path, path.relative_to(root))
    else:
        mode = {".tar": "w", ".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}[archive.suffix]
        with tarfile.open(archive, mode) as tar:
            for path in names:
                tar.add(path, f"./{path.relative_to(root)}", recursive=False)
    return archive


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder with two splits of three images in each of three classes, and things to ignore."""
    files = {
        f"{split}/{label}/{i}.png": png(grey((6, 5, 3)))
        for split in ("test", "train")
        for label in CLASSES
        for i in range(3)
    }
    write_tree(tmp_path / "images", files)
    write_tree(
        tmp_path / "images", {"README.txt": b"x", "test/cat/notes.txt": b"x", "test/.hidden/a.png": b"x"}
    )
    write_tree(tmp_path / "images", {"__MACOSX/test/cat/0.png": b"x", "test/cat/._0.png": b"x"})
    return tmp_path / "images"


def same(a: Dataset, b: Dataset) -> None:
    np.testing.assert_array_equal(a.labels, b.labels)
    assert (a.sample_ids, a.class_names, a.shape) == (b.sample_ids, b.class_names, b.shape)
    everything = np.arange(len(a))
    np.testing.assert_array_equal(a.read(everything), b.read(everything))


def test_a_folder_gives_its_pixels(write_study: Any, tree: Path) -> None:
    data = open_data(write_study(SOURCE.format("images")), "test")
    assert (data.name, data.class_names, data.shape) == ("images", CLASSES, (3, 6, 5))
    assert data.sample_ids[:4] == ("test/cat/0.png", "test/cat/1.png", "test/cat/2.png", "test/dog/0.png")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for row, name in zip(data.read(np.array([4, 0])), ("test/dog/1.png", "test/cat/0.png"), strict=True):
        pixels = np.asarray(Image.open(tree / name)).transpose(2, 0, 1)
        np.testing.assert_array_equal(row, pixels / np.float32(255))


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
def test_archives_give_what_the_folder_gives(
    write_study: Any, tree: Path, tmp_path: Path, ending: str
) -> None:
    archive = pack(tree, tmp_path / f"images.{ending}")
    for split in ("test", "train"):
        folder, packed = (open_data(write_study(SOURCE.format(path.name)), split) for path in (tree, archive))
        same(folder, packed)
        assert packed.name == "images"


def test_a_folder_around_everything_does_not_matter(write_study: Any, tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "outer" / "some-name-1.0")
    same(*(open_data(write_study(SOURCE.format(name)), "test") for name in ("images", "outer")))


def test_class_folders_alone_are_the_evaluated_split(
    write_study: Any, problems: Any, tree: Path, tmp_path: Path
) -> None:
    shutil.copytree(tree / "test", tmp_path / "flat")
    study = write_study(SOURCE.format("flat"))
    assert open_data(study, "test").sample_ids[0] == "cat/0.png"
    (problem,) = problems(study, lambda: open_data(study, "train"))
    assert problem.startswith("data.train_split: flat has no folder 'train', only class folders")
    assert "not trained on the samples that they are evaluated on" in problem


def test_grey_images_stay_grey_and_nested_ones_are_found(write_study: Any, tmp_path: Path) -> None:
    pixels = grey()
    write_tree(tmp_path / "g", {"a/images/1.png": png(pixels), "b/images/1.PNG": png(pixels)})
    data = open_data(write_study(SOURCE.format("g")), "test")
    assert data.shape == (1, 6, 5)
    np.testing.assert_array_equal(data.read(np.array([1]))[0, 0], pixels / np.float32(255))


def test_sorted_images_are_not_taken_from_the_front(write_study: Any, problems: Any, tree: Path) -> None:
    study = write_study(SOURCE.format("images") + "\nsamples = 4")
    (problem,) = problems(study, lambda: take(study, open_data(study, "test")))
    assert problem.startswith(
        "data.select: the samples are sorted by class, and the first 4 of 9 are only cat, dog"
    )
    assert "stratified" in problem


def test_a_missing_split_is_refused(write_study: Any, problems: Any, tree: Path) -> None:
    study = write_study(SOURCE.format("images") + '\nsplit = "tets"')
    assert problems(study, lambda: open_data(study, "tets")) == [
        "data.split: unknown split 'tets'; allowed: test, train"
    ]


BAD = {
    "empty class": (
        {"test/cat/0.png": None, "test/cat/1.txt": b"x"},
        "no images in the class folder 'test/cat'",
    ),
    "size": ({"test/dog/1.png": png(grey((6, 7, 3)))}, "test/dog/1.png is colour, 7 x 6 pixels"),
    "channels": ({"test/dog/1.png": png(grey())}, "test/dog/1.png is grey, 5 x 6 pixels"),
    "transparent": ({"test/dog/1.png": png(grey((6, 5, 4)))}, "test/dog/1.png has the mode RGBA"),
    "16 bits": ({"test/dog/1.png": png(grey().astype(np.uint16))}, "test/dog/1.png has the mode I;16"),
    "no image": ({"test/dog/1.png": b"<html>"}, "test/dog/1.png is no image, or damaged"),
    "empty": ({"test/dog/1.png": b""}, "test/dog/1.png is no image, or damaged"),
    "truncated": ({"test/dog/1.png": png(grey((60, 50, 3)))[:2000]}, "test/dog/1.png cannot be read: "),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused(write_study: Any, problems: Any, tmp_path: Path, name: str) -> None:
    changed, message = BAD[name]
    good = {f"test/{label}/{i}.png": png(grey((6, 5, 3))) for label in ("cat", "dog") for i in range(2)}
    if name == "empty class":
        del good["test/cat/1.png"]
    files = {path: content for path, content in {**good, **changed}.items() if content is not None}
    write_tree(tmp_path / "images", files)
    study = write_study(SOURCE.format("images"))
    (problem,) = problems(study, lambda: take(study, open_data(study, "test")))
    assert problem.startswith("data.path: ")
    assert message in problem


def test_one_class_is_refused(write_study: Any, problems: Any, tmp_path: Path) -> None:
    write_tree(tmp_path / "images", {"test/cat/1.png": png(grey())})
    study = write_study(SOURCE.format("images"))
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert problem.startswith("data.source: all samples are of class 'cat'")


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz", "tar.xz", "tar.bz2"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.9])
def test_truncated_archives_are_refused(
    write_study: Any, problems: Any, tree: Path, tmp_path: Path, ending: str, kept: float
) -> None:
    content = pack(tree, tmp_path / f"whole.{ending}").read_bytes()
    (tmp_path / f"cut.{ending}").write_bytes(content[: int(kept * len(content))])
    study = write_study(SOURCE.format(f"cut.{ending}"))
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert problem.startswith(f"data.path: cut.{ending} is no folder, zip or tar file, or damaged")


@pytest.mark.parametrize("offset", [0, 100])
def test_a_tar_file_cut_between_two_files_is_refused(
    write_study: Any, problems: Any, tree: Path, tmp_path: Path, offset: int
) -> None:
    with tarfile.open(pack(tree, tmp_path / "whole.tar")) as tar:
        member = tar.getmembers()[7]
    content = (tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: member.offset + offset])
    study = write_study(SOURCE.format("cut.tar"))
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert "ends too early" in problem


def test_a_missing_folder_is_a_missing_input(write_study: Any, problems: Any, tmp_path: Path) -> None:
    study = write_study(SOURCE.format("absent"))
    (problem,) = problems(study, lambda: open_data(study, "test"), exit_code=4)
    assert problem == f"data.path: there is no {tmp_path / 'absent'}"
