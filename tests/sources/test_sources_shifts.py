"""Shifted test sets: published layouts made here, own data, functions; what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaeval.errors import StudyError
from metaeval.sources.data import Samples, open_data, take
from metaeval.sources.shifts import Shift, open_shifts
from metaeval.sources.shifts.corruptions import corrupt
from metaeval.study import Study, load_study

Opened = Callable[..., dict[str, Shift]]
SIDE, N = 8, 30
BASE = """
schema_version = 1
[study]
name = "shifted"
seed = 3
{data}
[[models]]
source = "train"
architecture = "mlp"
[[threat_models]]
norm = "linf"
epsilons = [0.1]
attacks = ["fgsm@torchattacks"]
"""
TEST = '[data]\nsource = "npz"\npath = "test.npz"\nsamples = 12\nselect = "random"'


def pixels(seed: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)


LABELS = np.arange(N) % 10


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METAEVAL_CACHE_DIR", str(tmp_path / "cache"))
    np.savez(tmp_path / "test.npz", x_test=pixels(0), y_test=LABELS)
    return tmp_path


def cifar_c(folder: Path, names: tuple[str, ...] = ("fog", "snow"), labels: np.ndarray = LABELS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    for seed, name in enumerate(names):
        np.save(folder / f"{name}.npy", np.concatenate([pixels(10 * seed + s) for s in range(1, 6)]))


def load(folder: Path, *tables: str, data: str = TEST) -> tuple[Study, Samples]:
    path = folder / "study.toml"
    path.write_text(BASE.format(data=data) + "".join(f"\n[[shifts]]\n{table}\n" for table in tables))
    study = load_study(path)
    return study, take(study, open_data(study, "test"))


def opened(folder: Path, *tables: str, limit: int | None = None, data: str = TEST) -> dict[str, Shift]:
    study, samples = load(folder, *tables, data=data)
    return {shift.name: shift for shift in open_shifts(study, samples, limit=limit)}


def problem(folder: Path, *tables: str, data: str = TEST) -> str:
    with pytest.raises(StudyError) as error:
        opened(folder, *tables, data=data)
    return str(error.value)


def test_rows_of_cifar_c_are_those_of_the_samples(folder: Path) -> None:
    cifar_c(folder / "cache/data/CIFAR-10-C")
    study, samples = load(folder, 'source = "cifar10-c"\nnames = ["fog", "snow"]\nseverities = [5, 2]')
    fog, snow = open_shifts(study, samples)
    assert (fog.kind, fog.severities) == ("corruption", (5, 2))
    assert fog.ids == samples.ids
    assert fog.clean == tuple(range(12))
    np.testing.assert_array_equal(fog.content.labels, samples.y)
    rows = [int(name.rpartition("/")[2]) for name in samples.ids]
    assert rows != sorted(rows)  # a random selection
    for shift, seed in ((fog, 0), (snow, 10)):
        for severity in (5, 2):
            expected = pixels(seed + severity)[rows].transpose(0, 3, 1, 2) / np.float32(255)
            np.testing.assert_array_equal(shift.read(severity, slice(3, 9)), expected[3:9])
    assert len(opened(folder, 'source = "cifar10-c"\nnames = ["fog"]', limit=5)["fog"]) == 5
    # The hash is of all severities of the file, so that another one asked for keeps it.
    again = opened(folder, 'source = "cifar10-c"\nnames = ["fog"]\nseverities = [1]')["fog"]
    assert again.content.hashes == fog.content.hashes
    changed = np.load(folder / "cache/data/CIFAR-10-C/fog.npy")
    changed[rows[0] + 3 * N] ^= 1
    np.save(folder / "cache/data/CIFAR-10-C/fog.npy", changed)
    after = opened(folder, 'source = "cifar10-c"\nnames = ["fog"]')["fog"].content.hashes
    assert [a == b for a, b in zip(after, fog.content.hashes, strict=True)] == [False] + [True] * 11


def test_cifar_c_of_other_samples_is_a_set_of_its_own(folder: Path) -> None:
    cifar_c(folder / "c", labels=np.roll(LABELS, 1))
    shift = opened(
        folder, 'source = "cifar10-c"\nnames = ["fog"]\npath = "c"\nprefix = "c10-"\nsamples = 20'
    )["c10-fog"]
    assert len(shift) == 20
    assert set(shift.clean) == {-1}
    np.testing.assert_array_equal(shift.content.labels, np.roll(LABELS, 1)[:20])
    np.testing.assert_array_equal(
        shift.read(1, slice(0, 4)), pixels(1)[:4].transpose(0, 3, 1, 2) / np.float32(255)
    )


def test_damaged_published_files_are_named(folder: Path) -> None:
    table = 'source = "cifar10-c"\npath = "c"\nnames = ["fog"]'
    assert "there is no folder" in problem(folder, table)
    cifar_c(folder / "c", ("fogg",))
    said = problem(folder, table)
    assert "fog.npy" in said
    assert "did you mean 'fogg.npy'" in said
    cifar_c(folder / "c", ("fog",))
    np.save(folder / "c/labels.npy", np.arange(5 * N) % 10)
    np.save(folder / "c/labels.npy", np.concatenate([LABELS, np.roll(np.tile(LABELS, 4), 1)]))
    assert "same labels for each of five severities" in problem(folder, table)
    cifar_c(folder / "c", ("fog",), labels=LABELS + 1)
    assert "labels go from 1 to 10" in problem(folder, table)
    cifar_c(folder / "c", ("fog",))
    np.save(folder / "c/fog.npy", np.zeros((5 * N, 4, 4, 3), dtype=np.uint8))
    assert "uint8 (4, 4, 3) images" in problem(folder, table)
    (folder / "c/fog.npy").write_bytes(b"no array")
    assert "damaged" in problem(folder, table)
    np.save(folder / "c/fog.npy", pixels(0))
    assert "150" in problem(folder, table)


@pytest.mark.parametrize("version", ["v4", "v6"])
def test_cifar101(folder: Path, version: str) -> None:
    place = folder / "cache/data/cifar10.1"
    place.mkdir(parents=True)
    np.save(place / f"cifar10.1_{version}_data.npy", pixels(7))
    np.save(place / f"cifar10.1_{version}_labels.npy", LABELS[::-1].astype(np.int32))
    table = f'source = "cifar10.1"\nversion = "{version}"'
    shift = opened(folder, table)["cifar10.1"]
    assert (shift.kind, shift.severities, len(shift)) == ("test set", (0,), N)
    assert set(shift.clean) == {-1}
    np.testing.assert_array_equal(shift.content.labels, LABELS[::-1])
    np.testing.assert_array_equal(
        shift.read(0, slice(2, 5)), pixels(7)[2:5].transpose(0, 3, 1, 2) / np.float32(255)
    )
    assert len(set(shift.content.hashes)) == N
    assert "31 samples asked for; there are 30" in problem(folder, table + "\nsamples = 31")


def imagenet_c(folder: Path, severities: tuple[int, ...], names: list[str]) -> None:
    for severity in severities:
        for k, name in enumerate(names):
            place = folder / "fog" / str(severity) / name
            place.mkdir(parents=True, exist_ok=True)
            for i in range(2):
                image = Image.fromarray(pixels(100 * severity + 10 * k + i, 1)[0])
                image.save(place / f"val_{k}{i}.png")


def test_imagenet_c_with_and_without_originals(folder: Path) -> None:
    wnids = ["n01", "n02", "n03"]
    imagenet_c(folder / "inc", (1, 3), wnids)
    for k, name in enumerate(wnids):
        (folder / "val" / name).mkdir(parents=True)
        Image.fromarray(pixels(k, 1)[0]).save(folder / "val" / name / f"val_{k}1.png")
    data = '[data]\nsource = "images"\npath = "val"'
    table = 'source = "imagenet-c"\npath = "inc"\nnames = ["fog"]\nseverities = [1, 3]'
    study, samples = load(folder, table, data=data)
    (shift,) = open_shifts(study, samples)
    assert shift.clean == (0, 1, 2)
    assert shift.content.labels.tolist() == [0, 1, 2]
    expected = np.stack([pixels(300 + 10 * k + 1, 1)[0] for k in range(3)]).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(shift.read(3, slice(0, 3)), expected / np.float32(255))
    (folder / "val/n02/val_11.png").rename(folder / "val/n02/other.png")
    alone = opened(folder, table, data=data)["fog"]
    assert alone.clean == (-1,) * 6
    assert alone.content.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert "there is no folder" in problem(folder, table.replace("[1, 3]", "[2]"), data=data)
    (folder / "inc/fog/3/n01/val_00.png").unlink()
    assert "hold different files" in problem(folder, table, data=data)


def test_generated_corruptions_are_of_the_selected_samples(folder: Path) -> None:
    study, samples = load(
        folder, 'source = "corruptions"\nnames = ["snow"]\nseverities = [2]\nprefix = "my-"'
    )
    (shift,) = open_shifts(study, samples)
    assert shift.name == "my-snow"
    assert shift.clean == tuple(range(12))
    expected = corrupt(samples.x, "snow", 2, samples.hashes, seed=3)
    np.testing.assert_array_equal(shift.read(2, slice(4, 7)), expected[4:7])
    np.savez(folder / "flat.npz", x_test=pixels(0).reshape(N, -1), y_test=LABELS)
    said = problem(folder, 'source = "corruptions"', data='[data]\nsource = "npz"\npath = "flat.npz"')
    assert "images with 1 or 3 channels" in said


def test_own_data_by_the_names_of_classes(folder: Path) -> None:
    np.savez(folder / "new.npz", x_test=pixels(5, 6), y_test=[0, 1, 2, 2, 1, 0])
    table = 'source = "data"\nname = "new"\ndata = {{ source = "npz", path = "new.npz"{} }}'
    shift = opened(folder, table.format(""))["new"]
    assert shift.content.labels.tolist() == [0, 1, 2, 2, 1, 0]
    named = opened(folder, table.format(', class_names = ["7", "1", "3"]'))["new"]
    assert named.content.labels.tolist() == [7, 1, 3, 3, 1, 7]
    assert len(opened(folder, table.format(", samples = 4"), limit=3)["new"]) == 3
    said = problem(folder, table.format(', class_names = ["7", "1", "cat"]'))
    assert "shifts[0].data.source" in said
    assert "the class 'cat' is none of the study's" in said
    assert "shifts[0].data.path: there is no file" in problem(
        folder, table.format("").replace("new.npz", "old.npz")
    )
    np.savez(folder / "new.npz", x_test=np.zeros((3, 4, 4, 3), dtype=np.uint8), y_test=[0, 1, 2])
    assert "shape (3, 4, 4)" in problem(folder, table.format(""))


FUNCTIONS = """
import numpy as np
def flipped(x): return x[:, :, ::-1]
def inverted(x): return 1 - x, 4
def random(x): return np.random.default_rng().random(x.shape)
def failing(x): raise OSError("no lens")
def large(x): return x + 1
"""


def test_functions(folder: Path) -> None:
    (folder / "shift_functions.py").write_text(FUNCTIONS)
    names = ("flipped", "inverted", "random", "failing", "large")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        tables = [f'source = "callable"\ntransform = "shift_functions:{name}"' for name in names]
        study, samples = load(folder, *tables)
        shifts = {shift.name: shift for shift in open_shifts(study, samples)}
        assert "has no 'flippd'" in problem(
            folder, 'source = "callable"\ntransform = "shift_functions:flippd"'
        )
    np.testing.assert_array_equal(shifts["flipped"].read(0, slice(0, 5)), samples.x[:5, :, :, ::-1])
    assert shifts["inverted"].content.labels.tolist() == [4] * 12
    assert shifts["flipped"].content.hashes != shifts["inverted"].content.hashes
    with pytest.raises(ValueError, match="another result each time"):
        shifts["random"].read(0, slice(0, 5))
    np.testing.assert_array_equal(shifts["failing"].content.labels, samples.y)
    with pytest.raises(OSError, match="no lens"):
        shifts["failing"].read(0, slice(0, 5))
    with pytest.raises(ValueError, match=r"does not lie in \[0, 1\]"):
        shifts["large"].read(0, slice(0, 5))


def test_every_problem_is_reported_at_once(folder: Path) -> None:
    said = problem(folder, 'source = "cifar10-c"\npath = "c"', 'source = "callable"\ntransform = "nowhere:f"')
    assert "shifts[0].path" in said
    assert "shifts[1].transform" in said


def test_what_is_no_function_is_refused(folder: Path) -> None:
    table = 'source = "callable"\ntransform = "json:decoder"'
    assert "json:decoder is a module, which cannot be called" in problem(folder, table)
