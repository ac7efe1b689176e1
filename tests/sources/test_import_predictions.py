"""Predictions of many models: formats, classes, several test sets, orders that cannot be right."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaeval.errors import MissingInputError, StudyError, UsageError
from metaeval.sources.published import predictions
from metaeval.sources.published.content import Published

LABELS = [0, 0, 1, 1, 2, 2]
SAID = {"a": [0, 0, 1, 1, 2, 0], "b": [0, 1, 1, 1, 2, 2]}
NEW_LABELS, NEW_SAID = [2, 1, 0], {"a": [2, 1, 0], "b": [2, 2, 2]}


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Published:
    return predictions.read([shared_data / "cifar10_predictions.npz"])


def test_published_accuracies(published: Published) -> None:
    clean, shifts = published.groups["clean"], published.groups["shifts"]
    assert shifts["shift"] == ["v4", "v6"]
    for model, expected in (("wrn_28_10", (95.93, 89.71, 90.15)), ("vgg16_keras", (93.59, 85.25, 85.60))):
        i = published.models.index(model)
        found = [clean["correct"][i].sum() / clean["total"].sum()]
        found += list(shifts["correct"][i, ..., 0].sum(axis=0) / shifts["total"][..., 0].sum(axis=0))
        assert [round(100 * share, 2) for share in found] == list(expected)
    assert published.counts["samples of original"] == 10_000
    assert not published.warnings


def test_per_class_accuracies_by_another_route(published: Published, shared_data: Path) -> None:
    archive = np.load(shared_data / "cifar10_predictions.npz")
    right = pd.DataFrame((archive["prediction"] == archive["label"]).T, columns=archive["model"])
    expected = right.groupby(archive["label"]).mean().T
    clean = published.groups["clean"]
    np.testing.assert_allclose(clean["accuracy"], expected.loc[published.models].to_numpy())
    assert clean["total"].tolist() == [1000] * 10
    samples = published.groups["samples/shifts/v6"]
    assert (samples["clean"] == -1).all()
    np.testing.assert_array_equal(samples["prediction"][:, 0], archive["prediction_v6"])


def needs_pyarrow() -> None:
    if importlib.util.find_spec("pyarrow") is None:
        assert os.environ.get("CI", "").lower() != "true", "CI must read parquet, but there is no pyarrow"
        pytest.skip("no pyarrow")


def write(path: Path) -> Path:
    """Write the small example in the format that the path's ending names."""
    frame = pd.DataFrame({"sample_id": [f"s{i}" for i in range(6)], "label": LABELS, **SAID})
    if path.suffix == ".parquet":
        needs_pyarrow()
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    elif path.suffix == ".json":
        path.write_text(
            json.dumps({"label": LABELS, "prediction": SAID, "sample_id": list(frame["sample_id"])})
        )
    elif path.suffix == ".npz":
        names = list(frame["sample_id"])
        np.savez(path, label=LABELS, prediction=list(SAID.values()), model=list(SAID), sample_id=names)
    return path


@pytest.mark.parametrize("ending", ["csv", "json", "npz", "parquet"])
def test_formats_are_the_same(tmp_path: Path, ending: str) -> None:
    found = predictions.read([write(tmp_path / f"small.{ending}")])
    assert found.models == ["a", "b"]
    clean, samples = found.groups["clean"], found.groups["samples/clean"]
    assert clean["class"] == ["0", "1", "2"]
    np.testing.assert_array_equal(clean["correct"], [[2, 2, 1], [1, 2, 2]])
    np.testing.assert_array_equal(clean["total"], [2, 2, 2])
    assert samples["sample_id"] == [f"s{i}" for i in range(6)]
    np.testing.assert_array_equal(samples["prediction"], list(SAID.values()))


def test_npy_files_have_labels_apart(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", LABELS)
    for name, said in SAID.items():
        np.save(tmp_path / f"{name}.npy", said)
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    found = predictions.read(files, labels=tmp_path / "labels.npy")
    assert found.models == ["a", "b"]
    np.testing.assert_array_equal(found.groups["clean"]["correct"], [[2, 2, 1], [1, 2, 2]])
    (tmp_path / "labels.txt").write_text("\n".join(map(str, LABELS)))
    assert predictions.read(files, labels=tmp_path / "labels.txt").groups["clean"]["total"].tolist() == [
        2,
        2,
        2,
    ]
    with pytest.raises(UsageError, match="give them with --labels"):
        predictions.read(files)


def test_several_test_sets(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(
        json.dumps(
            {
                "old": {"label": LABELS, "prediction": SAID},
                "new": {"label": NEW_LABELS, "prediction": NEW_SAID},
            }
        )
    )
    rows = [("old", label, *pair) for label, *pair in zip(LABELS, *SAID.values(), strict=True)]
    rows += [("new", label, *pair) for label, *pair in zip(NEW_LABELS, *NEW_SAID.values(), strict=True)]
    pd.DataFrame(rows, columns=["set", "label", "a", "b"]).to_csv(tmp_path / "p.csv", index=False)
    for name in ("p.json", "p.csv"):
        found = predictions.read([tmp_path / name])
        assert found.options["original"] == "old"
        shifts = found.groups["shifts"]
        assert shifts["shift"] == ["new"]
        assert shifts["kind"] == ["test set"]
        np.testing.assert_array_equal(shifts["correct"][:, :, 0, 0], [[1, 1, 1], [0, 0, 1]])
        other = predictions.read([tmp_path / name], original="new")
        assert other.groups["shifts"]["shift"] == ["old"]
    with pytest.raises(UsageError, match="did you mean 'new'"):
        predictions.read([tmp_path / "p.json"], original="knew")


def test_files_add_models_to_a_test_set(tmp_path: Path) -> None:
    one = {"old": {"label": LABELS, "prediction": {"a": SAID["a"]}}}
    two = {"old": {"label": LABELS, "prediction": {"b": SAID["b"]}},
           "new": {"label": NEW_LABELS, "prediction": {"b": NEW_SAID["b"]}}}  # fmt: skip
    (tmp_path / "1.json").write_text(json.dumps(one))
    (tmp_path / "2.json").write_text(json.dumps(two))
    found = predictions.read([tmp_path / "1.json", tmp_path / "2.json"])
    shifts = found.groups["shifts"]
    assert found.models == ["a", "b"]
    assert shifts["status"].tolist() == [[3], [1]]
    assert (shifts["correct"][0] == -1).all()
    assert any("a on new" in note for note in found.notes)
    with pytest.raises(StudyError, match="old: a: another file has predictions of this model already"):
        predictions.read([tmp_path / "1.json", tmp_path / "1.json"])
    one["old"]["label"] = LABELS[::-1]
    (tmp_path / "1.json").write_text(json.dumps(one))
    with pytest.raises(StudyError, match="another file has other labels"):
        predictions.read([tmp_path / "1.json", tmp_path / "2.json"])


def test_classes_with_names_and_missing_predictions(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("label,m\ncat,cat\ndog,\ncat,dog\nant,ant\n")
    found = predictions.read([tmp_path / "p.csv"])
    clean = found.groups["clean"]
    assert clean["class"] == ["ant", "cat", "dog"]
    assert clean["correct"].tolist() == [[1, 1, -1]]
    assert np.isnan(clean["accuracy"][0, 2])
    given = predictions.read([tmp_path / "p.csv"], classes=["dog", "cat", "ant", "emu"])
    assert given.groups["clean"]["correct"].tolist() == [[-1, 1, 1, 0]]
    assert given.groups["clean"]["total"].tolist() == [1, 2, 1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"label": [0, 1], "prediction": {"m": [0]}}, "prediction of m: 1 values for 2 labels"),
        ({"label": [0, 1], "prediction": [[0, 1], [0]], "model": ["m", "n"]}, "of n: 1 values for 2 labels"),
        ({"label": [0, 1], "prediction": [[0, 1]], "model": ["m", "n"]}, "2 names for 1 rows"),
        ({"label": [0, 1], "prediction": [[0, 1], [1, 0]], "model": ["m", "m"]}, "'m' occurs twice"),
        ({"label": [0, 1], "prediction": {"m": [0, -2]}}, "sample 1: '-2' is no class; allowed: 0 to 1"),
        ({"label": [0, 1], "prediction": {"m": [0, 0.5]}}, "classes are whole numbers or words"),
        ({"label": [0, "x"], "prediction": {"m": [0, 1]}}, "classes are whole numbers or words"),
        ({"label": [0, 10**9], "prediction": {"m": [0, 1]}}, "class 1,000,000,000 is beyond"),
        ({"label": [0, 2], "prediction": {"m": [0, 1]}, "class": ["u", "v"]}, "sample 1: '2' is no class"),
        ({"label": [0, 1], "prediction": {"m": [0, 5]}, "class": ["u", "v"]}, "m: sample 1: '5' is no class"),
        ({"label": [0, None], "prediction": {"m": [0, 1]}}, "original: label: sample 1"),
        ({"label": [], "prediction": {"m": []}}, "one class per sample is needed"),
        ({"label": [0], "prediction": {}}, "no model"),
        ({"label": [0], "prediction": []}, "predictions .model, sample. are needed"),
        ({"label": [0]}, "prediction: the array is missing"),
        ({"labl": [0], "prediction": [[0]]}, "unknown array; allowed: label, .*did you mean 'label'"),
        ({"label": [0], "prediction": {"m": [0]}, "class": ["u", "u"]}, "'u' occurs twice"),
        ({"../up": {"label": [0], "prediction": {"m": [0]}}}, "names of test sets are of letters"),
        ([1], "an object with label and prediction"),
    ],
)
def test_wrong_contents(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(StudyError, match=message):
        predictions.read([tmp_path / "p.json"])


def test_wrong_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", label=np.array([{}], dtype=object), prediction=[[0]])
    whole = write(tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad.npy").write_bytes(b"no array")
    (tmp_path / "bad.json").write_text('{"label": ')
    (tmp_path / "bad.csv").write_text("label,m,m\n0,0,0\n")
    (tmp_path / "ragged.csv").write_text("label,m\n0,0\n1,1,1\n")
    (tmp_path / "no.csv").write_text("lable,m\n0,0\n")
    (tmp_path / "p.cvs").write_text("label,m\n0,0\n")
    for name, message in (
        ("o.npz", "the npz file cannot be read"),
        ("cut.npz", "the npz file cannot be read"),
        ("bad.npy", "the npy file cannot be read"),
        ("bad.json", r"bad.json:1:1: JSON: not valid JSON"),
        ("bad.csv", "m: the column occurs twice"),
        ("ragged.csv", "the CSV file cannot be read.*line 3"),
        ("no.csv", "no column of this name; there are lable, m; did you mean 'lable'"),
        ("p.cvs", "unknown kind '.cvs'; allowed: .*did you mean '.csv'"),
    ):
        with pytest.raises(StudyError, match=message):
            predictions.read([tmp_path / name])
    with pytest.raises(MissingInputError, match=r"did you mean '.*bad.csv'"):
        predictions.read([tmp_path / "bat.csv"])


def test_wrong_parquet(tmp_path: Path) -> None:
    needs_pyarrow()
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(StudyError, match="the parquet file cannot be read"):
        predictions.read([tmp_path / "bad.parquet"])


def test_orders_that_cannot_be_right_give_advice(tmp_path: Path, shared_data: Path) -> None:
    archive = np.load(shared_data / "cifar10_predictions.npz")
    by_class = np.sort(archive["label"])
    path = tmp_path / "sorted.npz"
    np.savez(path, label=by_class, prediction=archive["prediction"], model=archive["model"])
    (warning,) = predictions.read([path]).warnings
    assert "original: the best model is right on 10." in warning
    assert "the models agree with each other on 8" in warning
    assert "its labels are sorted by class" in warning
    assert "give both in the same order" in warning


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 12), st.integers(10, 400), st.floats(0.5, 1), st.integers(0, 10**6))
def test_models_that_are_right_more_often_than_not_give_none(
    classes: int, samples: int, accuracy: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, samples)
    right = np.arange(samples) < np.ceil(accuracy * samples)
    said = np.where(right, label, (label + 1) % classes)[None]
    if right.mean() > 2 / classes + 2 * np.sqrt(1 / classes / samples):
        assert predictions.wrong_order("x", label, said, classes) == ""


def test_too_few_samples_and_labels_of_one_class_show_no_order(tmp_path: Path) -> None:
    few = np.array([0, 1, 2, 1])
    assert predictions.wrong_order("x", few, np.array([[1, 1, 2, 1]]), 3) == ""
    one = np.zeros(50, dtype=np.int64)
    assert predictions.wrong_order("x", one, np.stack([one, one + 1]), 2) == ""
    many = np.arange(1000) % 10
    assert "different orders" in predictions.wrong_order("x", many, np.sort(many)[None], 10)
    path = tmp_path / "p.csv"
    path.write_text("label,m\n0,0\n1,1\n")
    assert not any("compared" in note or "paired" in note for note in predictions.read([path]).notes)


def test_one_class_and_one_model(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("label,m\n0,0\n0,0\n")
    found = predictions.read([tmp_path / "p.csv"])
    assert found.groups["clean"]["accuracy"].tolist() == [[1.0]]
    assert not found.warnings
    assert found.title == "Predictions of m"
