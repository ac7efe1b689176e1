"""Digits and npz files: the right numbers, and a clear word for every wrong file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from metaeval.errors import StudyError
from metaeval.hashing import hash_samples
from metaeval.sources.data import Dataset, fingerprint, open_data, take

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 6, 5), dtype=np.uint8)
LABELS = np.array([0, 1, 2] * 4)


def everything(data: Dataset) -> np.ndarray:
    return data.read(np.arange(len(data)))


def test_digits_are_scikit_learns(write_study: Any) -> None:
    study = write_study()
    train, test = open_data(study, "train"), open_data(study, "test")
    images, labels = load_digits(return_X_y=True)
    together = np.concatenate([everything(train), everything(test)])
    np.testing.assert_array_equal(together.reshape(1797, 64) * 16, images)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), labels)
    assert (len(train), len(test), test.shape) == (1297, 500, (1, 8, 8))
    assert len({*train.sample_ids, *test.sample_ids}) == 1797
    assert test.class_names == tuple("0123456789")


def test_samples_carry_their_content_hash(write_study: Any) -> None:
    study = write_study('source = "digits"\nsamples = 30')
    samples = take(study, open_data(study, "test"))
    assert samples.x.dtype == np.float32
    assert samples.y.dtype == np.int64
    assert samples.hashes == tuple(hash_samples(samples.x))
    assert samples.ids[0] == "digits/1297"
    assert len(take(study, open_data(study, "test"), limit=7).ids) == 7


def test_an_unknown_split_is_refused(write_study: Any, problems: Any) -> None:
    study = write_study('source = "digits"\nsplit = "tets"')
    assert problems(study, lambda: open_data(study, "tets")) == [
        "data.split: unknown split 'tets'; allowed: test, train"
    ]


def test_more_samples_than_there_are_is_refused(write_study: Any, problems: Any) -> None:
    study = write_study('source = "digits"\nsamples = 501')
    (problem,) = problems(study, lambda: take(study, open_data(study, "test")))
    assert problem.startswith("data.samples: 501 samples asked for; digits has 500")


@pytest.mark.parametrize(
    ("x", "layout", "shape"),
    [
        (IMAGES, "auto", (1, 6, 5)),
        (IMAGES[..., None], "auto", (1, 6, 5)),
        (IMAGES[:, None], "auto", (1, 6, 5)),
        (np.stack([IMAGES] * 3, 1), "auto", (3, 6, 5)),
        (np.stack([IMAGES] * 3, 3), "auto", (3, 6, 5)),
        (np.stack([IMAGES] * 2, 3), "channels_last", (2, 6, 5)),
        (np.stack([IMAGES] * 2, 1), "channels_first", (2, 6, 5)),
        (IMAGES.reshape(12, 30), "auto", (30,)),
    ],
)
def test_every_layout_gives_the_same_pixels(
    write_study: Any, tmp_path: Path, x: np.ndarray, layout: str, shape: tuple[int, ...]
) -> None:
    np.savez(tmp_path / "data.npz", x_test=x, y_test=LABELS)
    study = write_study(f'source = "npz"\npath = "data.npz"\nlayout = "{layout}"')
    data = open_data(study, "test")
    assert data.shape == shape
    assert data.name == "data"
    pixels = everything(data)
    assert pixels.dtype == np.float32
    for channel in range(shape[0] if len(shape) == 3 else 1):
        one = pixels[:, channel] if len(shape) == 3 else pixels.reshape(12, 6, 5)
        np.testing.assert_array_equal(one, IMAGES / np.float32(255))


def test_floats_stay_what_they_are(write_study: Any, tmp_path: Path) -> None:
    x = RNG.random((12, 7))
    np.savez_compressed(tmp_path / "d.npz", features=x, y_test=LABELS[:, None])
    study = write_study('source = "npz"\npath = "d.npz"\nx = "features"\nclass_names = ["a", "b", "c", "d"]')
    data = open_data(study, "test")
    np.testing.assert_array_equal(everything(data), x.astype(np.float32))
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.class_names == ("a", "b", "c", "d")


def test_a_class_that_only_the_other_split_has_counts(write_study: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_test=IMAGES, y_test=LABELS, x_train=IMAGES, y_train=LABELS + 1)
    study = write_study('source = "npz"\npath = "d.npz"')
    assert open_data(study, "test").class_names == open_data(study, "train").class_names == tuple("0123")


def test_the_fingerprint_is_of_labels_and_order(write_study: Any, tmp_path: Path) -> None:
    prints = set()
    for labels in (LABELS, LABELS, LABELS[::-1]):
        np.savez(tmp_path / "d.npz", x_test=IMAGES, y_test=labels)
        prints.add(fingerprint(open_data(write_study('source = "npz"\npath = "d.npz"'), "test")))
    assert len(prints) == 2


FLOATS = IMAGES / 255
BAD = {
    "[0, 255] floats": ({"x_test": FLOATS * 255}, "data.x: inputs must lie in [0, 1]", "divide by 255"),
    "normalised": ({"x_test": FLOATS - 0.5}, "data.x: inputs must lie in [0, 1]", "without normalisation"),
    "NaN": ({"x_test": np.where(FLOATS > 0.9, np.nan, FLOATS)}, "data.x: inputs must be finite", "at index"),
    "int64": ({"x_test": IMAGES.astype(int)}, "data.x: inputs must be uint8 or floats", "int64"),
    "1-d": ({"x_test": np.zeros(12)}, "data.x: inputs must be (n, features)", "(12,)"),
    "ambiguous": ({"x_test": np.zeros((12, 3, 5, 3))}, "data.layout:", "channels could be first or last"),
    "no channels": ({"x_test": np.zeros((12, 5, 5, 5))}, "data.layout:", "set layout"),
    "one hot": ({"y_test": np.eye(12, dtype=int)}, "data.y: labels must be integers", "one-hot"),
    "float labels": ({"y_test": LABELS / 2}, "data.y: labels must be integers", "float64"),
    "negative labels": ({"y_test": LABELS - 1}, "data.y: labels start at 0", "-1 at index 0"),
    "other length": ({"y_test": LABELS[:-1]}, "data.y:", "11 labels for 12 inputs"),
    "one class": ({"y_test": LABELS * 0}, "data.source: all samples are of class '0'", "two are needed"),
    "no samples": ({"x_test": IMAGES[:0], "y_test": LABELS[:0]}, "data.x:", "no samples"),
    "objects": ({"y_test": np.array([{}] * 12)}, "data.y:", "can run code"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_refused(write_study: Any, problems: Any, tmp_path: Path, name: str) -> None:
    arrays, start, part = BAD[name]
    np.savez(tmp_path / "d.npz", **{"x_test": IMAGES, "y_test": LABELS, **arrays})
    study = write_study('source = "npz"\npath = "d.npz"')
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert problem.startswith(start)
    assert part in problem


def test_missing_arrays_are_named(write_study: Any, problems: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_test=IMAGES, y_test=LABELS)
    study = write_study('source = "npz"\npath = "d.npz"\nx = "x_tset"')
    with pytest.raises(StudyError, match="did you mean 'x_test'"):
        open_data(study, "test")
    study = write_study('source = "npz"\npath = "d.npz"\nsplit = "val"')
    (problem,) = problems(study, lambda: open_data(study, "val"))
    assert problem.startswith("data.split: d.npz has no array 'x_val'; it has: x_test, y_test")


def test_too_few_class_names_are_refused(write_study: Any, problems: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_test=IMAGES, y_test=LABELS)
    study = write_study('source = "npz"\npath = "d.npz"\nclass_names = ["a", "b"]')
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert problem == "data.class_names: 2 names for 3 classes: the highest label is 2"


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(write_study: Any, problems: Any, tmp_path: Path, kept: float) -> None:
    np.savez_compressed(tmp_path / "whole.npz", x_test=IMAGES, y_test=LABELS)
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    study = write_study('source = "npz"\npath = "d.npz"')
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert "d.npz" in problem
    assert "damaged" in problem


def test_a_changed_byte_is_noticed(write_study: Any, problems: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x_test=IMAGES, y_test=LABELS)
    content = bytearray((tmp_path / "d.npz").read_bytes())
    content[250] ^= 1  # inside the pixels
    (tmp_path / "d.npz").write_bytes(content)
    study = write_study('source = "npz"\npath = "d.npz"')
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert "damaged" in problem


def test_other_files_are_refused(write_study: Any, problems: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", IMAGES)
    study = write_study('source = "npz"\npath = "d.npy"')
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert problem.startswith("data.path: d.npy is no .npz file")
    study = write_study('source = "npz"\npath = "absent.npz"')
    (problem,) = problems(study, lambda: open_data(study, "test"), exit_code=4)
    assert problem == f"data.path: there is no file {tmp_path / 'absent.npz'}"


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.uint8(3), LABELS, "data.x: 'x_test' is a single number, no array of inputs"),
        (
            np.zeros((12, 0)),
            LABELS,
            "data.x: inputs without any number: 'x_test' is float64 with shape (12, 0)",
        ),
        # Never a list of all the labels up to there.
        (IMAGES, LABELS + (LABELS == 2) * 10**15, "data.y: no sample has the label 2, 3, 4, 5, 6, ..., but"),
    ],
)
def test_degenerate_arrays_are_refused(
    write_study: Any, problems: Any, tmp_path: Path, x: np.ndarray, y: np.ndarray, message: str
) -> None:
    np.savez(tmp_path / "d.npz", x_test=x, y_test=y)
    study = write_study('source = "npz"\npath = "d.npz"')
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert problem.startswith(message)
