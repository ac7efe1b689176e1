"""Tables, arrays in two files, callables and Hugging Face data sets: the right numbers, and clear words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_wine
from sklearn.preprocessing import MinMaxScaler

from metaeval.sources.data import Dataset, open_data

RNG = np.random.default_rng(0)
ROWS, LABELS = load_wine(return_X_y=True)
ORDER = RNG.permutation(len(LABELS))
TRAIN, TEST = ORDER[:120], ORDER[120:]
NAMES = [f"f{i}" for i in range(ROWS.shape[1])]
CSV = 'source = "csv"\npath = "wine_{split}.csv"\n'


def everything(data: Dataset) -> np.ndarray:
    return data.read(np.arange(len(data)))


def frame(rows: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame(ROWS[rows], columns=NAMES)
    table.insert(3, "label", LABELS[rows])
    return table


@pytest.fixture
def wine(tmp_path: Path) -> None:
    for split, rows in (("train", TRAIN), ("test", TEST)):
        frame(rows).to_csv(tmp_path / f"wine_{split}.csv", index=False)
        table = pyarrow.Table.from_pandas(frame(rows), preserve_index=False)
        pyarrow.parquet.write_table(table, tmp_path / f"wine_{split}.parquet")


@pytest.mark.usefixtures("wine")
@pytest.mark.parametrize("source", ["csv", "parquet"])
def test_columns_are_scaled_as_scikit_learn_does(write_study: Any, source: str) -> None:
    text = CSV.replace("csv", source) + 'outside = "clip"'
    scaler = MinMaxScaler(clip=True).fit(ROWS[TRAIN])
    for split, rows in (("train", TRAIN), ("test", TEST)):
        data = open_data(write_study(text), split)
        np.testing.assert_allclose(everything(data), scaler.transform(ROWS[rows]), atol=1e-7)
        np.testing.assert_array_equal(data.labels, LABELS[rows])
        assert everything(data).dtype == np.float32
        assert 0 <= everything(data).min() <= everything(data).max() <= 1
    assert (data.name, data.shape, data.class_names) == ("wine", (13,), ("0", "1", "2"))


@pytest.mark.usefixtures("wine")
def test_values_beyond_the_bounds_are_refused_unless_told_otherwise(write_study: Any, problems: Any) -> None:
    study = write_study(CSV)
    (problem,) = problems(study, lambda: open_data(study, "test"))
    low, high = ROWS[TRAIN].min(axis=0), ROWS[TRAIN].max(axis=0)
    outside = ((ROWS[TEST] < low) | (ROWS[TEST] > high)).sum()
    assert outside > 0
    assert problem.startswith(
        f"data.bounds: {outside} values of the split 'test' lie beyond the bounds; the first"
    )
    assert "outside = 'clip' sets them to the nearest bound" in problem
    assert len(open_data(study, "train")) == 120
    data = open_data(write_study(CSV + "bounds = [0, 2000]"), "test")
    np.testing.assert_allclose(everything(data), ROWS[TEST] / 2000, atol=1e-7)
    data = open_data(write_study(CSV + 'bounds = ["-1/2", 2000]\nfeatures = ["f7", "f2"]'), "test")
    np.testing.assert_allclose(everything(data), (ROWS[TEST][:, [7, 2]] + 0.5) / 2000.5, atol=1e-7)


def test_labels_may_be_words_and_columns_constant(write_study: Any, tmp_path: Path) -> None:
    text = "a,b,kind\n1,5,pear\n3,5,apple\n2,5,fig\n"
    (tmp_path / "fruit.csv").write_text(text)
    study = write_study('source = "csv"\npath = "fruit.csv"\nlabel = "kind"\nbounds = [1, 5]')
    data = open_data(study, "test")
    assert (data.class_names, data.labels.tolist()) == (("apple", "fig", "pear"), [2, 0, 1])
    assert everything(data).tolist() == [[0, 1], [0.5, 1], [0.25, 1]]
    (tmp_path / "fruit_train.csv").write_text(text)
    (tmp_path / "fruit_test.csv").write_text("a,b,kind\n2,5,pear\n3,5,apple\n")
    study = write_study('source = "csv"\npath = "fruit_{split}.csv"\nlabel = "kind"')
    data = open_data(study, "test")
    assert data.class_names == ("apple", "fig", "pear")  # one of them only in the other split
    assert everything(data).tolist() == [[0.5, 0], [1, 0]]


GOOD = "a,b,label\n1,2,0\n2,3,1\n3,1,0\n"
BOUNDED = 'source = "csv"\npath = "d.csv"\nbounds = [0, 9]\n'
BAD_TABLES = {
    "text": (GOOD.replace("2,3", "2,x"), "", "data.features: row 1 of 'b' in the split 'test' is 'x'"),
    "gap": (GOOD.replace("2,3", "2,"), "", "data.features: row 1 of 'b' in the split 'test' is nan"),
    "infinite": (GOOD.replace("2,3", "inf,3"), "", "data.features: row 1 of 'a' in the split 'test' is inf"),
    "beyond": (GOOD.replace("3,1", "3,10"), "", "data.bounds: 1 values of the split 'test' lie beyond"),
    "no label": (
        GOOD,
        'label = "lable"',
        "data.label: unknown column of d.csv 'lable'; allowed: a, b, label",
    ),
    "labels as inputs": (
        GOOD,
        'features = ["a", "label"]',
        "data.features: 'label' is the column of labels, which models must not see",
    ),
    "no column": (GOOD, 'features = ["a", "c"]', "data.features[1]: unknown column of d.csv 'c'"),
    "missing label": (
        GOOD.replace("3,1,0", "3,1,"),
        "",
        "data.label: row 2 of the split 'test' has no label",
    ),
    "fractions": (
        GOOD.replace("3,1,0", "3,1,0.5"),
        "",
        "data.label: the column 'label' holds numbers",
    ),
    "one class": (GOOD.replace("3,1", "2,1"), "", None),
    "only labels": ("label\n0\n1\n", "", "data.features: d has no column but 'label'"),
    "no rows": ("a,b,label\n", "", "data.path: d.csv holds no rows"),
    "ragged": (GOOD + "1,2,3,4,5\n", "", "data.path: d.csv is no csv file, or damaged"),
    "empty": ("", "", "data.path: d.csv is no csv file, or damaged"),
    "web page": ("<html><body>\n<p>a, b</p>", "", "data.path: d.csv is a web page, not data: '<html>"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables_are_refused(write_study: Any, problems: Any, tmp_path: Path, name: str) -> None:
    content, keys, message = BAD_TABLES[name]
    if name == "one class":
        content, message = "a,label\n1,7\n2,7\n", "data.source: all samples are of class '7'; two are needed"
    (tmp_path / "d.csv").write_text(content)
    study = write_study(BOUNDED + keys)
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert problem.startswith(message)


def test_what_is_missing_of_a_table(write_study: Any, problems: Any, tmp_path: Path) -> None:
    study = write_study(BOUNDED)
    (problem,) = problems(study, lambda: open_data(study, "test"), exit_code=4)
    assert problem == f"data.path: there is no file {tmp_path / 'd.csv'}"
    (tmp_path / "d.csv").write_text(GOOD)
    (problem,) = problems(study, lambda: open_data(study, "train"))
    assert problem.startswith("data.train_split: path names one file, which is the split 'test'")
    study = write_study(BOUNDED.replace("bounds = [0, 9]\n", ""))
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert "set bounds = [lowest, highest]" in problem
    (tmp_path / "d.parquet").write_bytes(b"PAR1 cut off")
    study = write_study(BOUNDED.replace("csv", "parquet"))
    (problem,) = problems(study, lambda: open_data(study, "test"))
    assert problem.startswith("data.path: d.parquet is no parquet file, or damaged")


NPY = 'source = "npy"\nx = "x_{split}.npy"\ny = "y_{split}.npy"\n'


def save(folder: Path, split: str, x: np.ndarray, y: np.ndarray) -> None:
    np.save(folder / f"x_{split}.npy", x)
    np.save(folder / f"y_{split}.npy", y)


def test_arrays_in_two_files(write_study: Any, problems: Any, tmp_path: Path) -> None:
    digits = load_digits()
    x = np.round(digits.images * 255 / 16).astype(np.uint8)
    save(tmp_path, "test", x[:100], digits.target[:100])
    save(tmp_path, "train", x[100:], digits.target[100:])
    study = write_study(NPY)
    data = open_data(study, "test")
    assert (data.name, data.shape, len(open_data(study, "train"))) == ("x", (1, 8, 8), 1697)
    np.testing.assert_array_equal(everything(data)[:, 0], x[:100] / np.float32(255))
    np.testing.assert_array_equal(data.labels, digits.target[:100])

    def said(x: np.ndarray, y: np.ndarray) -> str:
        save(tmp_path, "test", x, y)
        (problem,) = problems(study, lambda: open_data(study, "test"))
        return str(problem)

    y = digits.target
    assert said(digits.images, y).startswith(
        "data.x: inputs must lie in [0, 1]; x_test.npy goes from 0 to 16"
    )
    assert said(x[:5], y).startswith("data.y: y_test.npy has 1797 labels for 5 inputs in x_test.npy")
    assert said(x, y.astype(object)).startswith(
        "data.y: y_test.npy is no .npy file, or damaged: it holds Python"
    )
    (tmp_path / "y_train.npy").unlink()
    assert said(x, y + 1).startswith(
        "data.y: no sample has the label 0, but labels go up to 10; labels start at 0: subtract 1"
    )
    assert said(x, np.where(y == 4, 5, y)).startswith(
        "data.y: no sample has the label 4, but labels go up to 9"
    )
    assert said(x, np.where(y == 9, 255, y)).startswith(
        "data.y: no sample has the label 9, 10, 11, 12, 13, ...,"
    )
    names = write_study(NPY + f"class_names = {[str(i) for i in range(10)]}")
    (problem,) = problems(names, lambda: open_data(names, "test"))
    assert problem == "data.class_names: 10 names for 256 classes: the highest label is 255"
    for content in (b"", b"\x93NUMPY cut off", (tmp_path / "y_test.npy").read_bytes()[:-9]):
        (tmp_path / "y_test.npy").write_bytes(content)
        (problem,) = problems(study, lambda: open_data(study, "test"))
        assert problem.startswith("data.y: y_test.npy is no .npy file, or damaged")
    (tmp_path / "x_test.npy").unlink()
    (problem,) = problems(study, lambda: open_data(study, "test"), exit_code=4)
    assert problem == f"data.x: there is no file {tmp_path / 'x_test.npy'}"


FUNCTIONS = """
import numpy as np

def halves(split):
    n = {"train": 6, "test": 4}[split]
    return np.linspace(0, 1, n * 3).reshape(n, 3), np.arange(n) % 2

def normalised(split):
    x, y = halves(split)
    return x * 4 - 2, y

def triple(split):
    return 1, 2, 3

number = 3
"""


def test_a_callable_gives_arrays(
    write_study: Any, problems: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)

    def study(name: str, more: str = "") -> Any:
        return write_study(f'source = "callable"\nfunction = "my_functions:{name}"\n{more}')

    data = open_data(study("halves"), "test")
    np.testing.assert_allclose(everything(data), np.linspace(0, 1, 12).reshape(4, 3), atol=1e-7)
    assert (data.labels.tolist(), data.shape) == ([0, 1, 0, 1], (3,))
    assert len(open_data(study("halves"), "train")) == 6
    for name, message in {
        "normalised": "inputs must lie in [0, 1]; inputs of my_functions:normalised('test') goes from -2",
        "triple": "my_functions:triple('test') returned tuple, not a pair of inputs and labels",
        "number": "my_functions:number('test') raised TypeError",
        "absent": "module 'my_functions' has no 'absent'",
    }.items():
        wrong = study(name)
        (problem,) = problems(wrong, lambda wrong=wrong: open_data(wrong, "test"))
        assert problem.startswith(f"data.function: {message}")
    wrong = study("halves", 'split = "val"')
    (problem,) = problems(wrong, lambda: open_data(wrong, "val"))
    assert problem == "data.function: my_functions:halves('val') raised KeyError: 'val'"


HUB = 'source = "huggingface"\ndataset = "hub"\nimage = "img"\n'


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Write a data set as the library writes it, laid out like one of the hub's; return its pixels."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("METAEVAL_OFFLINE", "1")
    pixels = RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=["no", "yes", "perhaps"]),
            "id": datasets.Value("int64"),
        }
    )
    for split, rows in (("train", slice(0, 4)), ("test", slice(4, 6))):
        part = [Image.fromarray(image) for image in pixels[rows]]
        number = len(part)
        table = {"img": part, "label": [0, 1, 1, 0][:number], "id": list(range(number))}
        (tmp_path / "hub" / "data").mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(table, features=features).to_parquet(
            tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet"
        )
    return pixels


def test_hugging_face_images(write_study: Any, problems: Any, hub: np.ndarray) -> None:
    study = write_study(HUB)
    data = open_data(study, "train")
    assert (data.class_names, data.labels.tolist()) == (("no", "yes", "perhaps"), [0, 1, 1, 0])
    np.testing.assert_array_equal(everything(data), hub[:4].transpose(0, 3, 1, 2) / np.float32(255))
    assert len(open_data(study, "test")) == 2
    for keys, key, message in (
        ('label = "lable"', "label", "hub has no column 'lable'; it has: img, label, id"),
        ('split = "val"', "split", "unknown split 'val'; allowed: test, train"),
    ):
        wrong = write_study(HUB + keys)
        (problem,) = problems(wrong, lambda wrong=wrong: open_data(wrong, wrong.data.split))
        assert problem == f"data.{key}: {message}"
    wrong = write_study(HUB.replace('"img"', '"id"'))
    (problem,) = problems(wrong, lambda: open_data(wrong, "test"))
    assert problem == "data.image: the column 'id' holds int, no images"


@pytest.mark.usefixtures("hub")
def test_a_hub_that_cannot_be_reached_is_said(write_study: Any, problems: Any) -> None:
    study = write_study(HUB.replace('"hub"', '"nobody/nothing"'))
    (problem,) = problems(study, lambda: open_data(study, "test"), exit_code=4)
    assert problem.startswith("data.dataset: nobody/nothing cannot be had: ")
    assert "`metaeval fetch" in problem
