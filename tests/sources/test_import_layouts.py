"""Layouts of predictions as people have them: long and wide, ids, shapes of arrays, classes from 1, holes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from metaeval.errors import StudyError
from metaeval.sources.published.predictions import read

LABEL = np.array([0, 1, 2, 0, 1, 2])
SAID = np.array([[0, 1, 2, 0, 1, 1], [0, 2, 2, 1, 1, 2]])
RIGHT = [[2, 2, 1], [1, 1, 2]]


def wide(**more: Any) -> pd.DataFrame:
    return pd.DataFrame({"label": LABEL, "a": SAID[0], "b": SAID[1], **more})


def test_one_row_for_each_model_and_sample(tmp_path: Path) -> None:
    ids = [f"i{i}" for i in range(6)]
    long = wide(sample_id=ids).melt(["label", "sample_id"], var_name="model", value_name="prediction")
    shuffled = long.sample(frac=1, random_state=0)
    for name, frame in (("t", long), ("s", shuffled), ("n", long.drop(columns="sample_id"))):
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        found = read([tmp_path / f"{name}.csv"])
        order = [found.models.index(model) for model in ("a", "b")]
        assert found.groups["clean"]["correct"][order].tolist() == RIGHT, name
    shuffled[shuffled["sample_id"] != "i4"].assign(set="v2").to_parquet(tmp_path / "v.parquet")
    assert read([tmp_path / "v.parquet"]).counts["samples of v2"] == 5
    for wrong, message in (
        (pd.concat([long, long[:1]]), "'a' has two rows of sample 'i0'"),
        (long.assign(label=range(12)), "sample 'i0' has several labels: 0, 6"),
        (long.drop(columns="sample_id")[:-1], "'b' has 5 rows and 'a' 6"),
        (long.assign(loss=0.1), "loss: unknown column"),
    ):
        wrong.to_csv(tmp_path / "w.csv", index=False)
        with pytest.raises(StudyError, match=re.escape(message)):
            read([tmp_path / "w.csv"])


def test_samples_of_two_files_are_matched_by_their_ids(tmp_path: Path) -> None:
    same = wide(
        sample_id=list("uvwxyz"), label=[0] * 6, set="v1"
    )  # labels alone would not tell the orders apart
    same.drop(columns="b").to_csv(tmp_path / "a.csv", index=False)
    same.drop(columns="a")[::-1].to_csv(tmp_path / "b.csv", index=False)
    found = read([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert found.groups["samples/clean"]["prediction"].tolist() == SAID.tolist()
    same.drop(columns="a").assign(sample_id=list("uvwxyq")).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(StudyError, match="another file has other sample_id"):
        read([tmp_path / "a.csv", tmp_path / "b.csv"])
    same.assign(sample_id=list("uvwxyy")).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(StudyError, match="'y' occurs twice"):
        read([tmp_path / "c.csv"])


def test_other_shapes_of_arrays(tmp_path: Path) -> None:
    for said, models in ((SAID.T, ["a", "b"]), (SAID, ["a", "b"])):
        np.savez(tmp_path / "p.npz", label=LABEL, prediction=said, model=models)
        assert read([tmp_path / "p.npz"]).groups["clean"]["correct"].tolist() == RIGHT
    sets = {"label": LABEL, "prediction": SAID, "model": ["a", "b"]}
    np.savez(tmp_path / "p.npz", **sets, label_v2=LABEL, prediction_v2=SAID[1:], model_v2=["b"])
    found = read([tmp_path / "p.npz"])
    assert found.groups["shifts"]["correct"][:, :, 0, 0].tolist() == [[-1] * 3, RIGHT[1]]
    logits = np.eye(3)[SAID]
    for said, models in ((logits, ["a", "b"]), (logits[0], ["a"])):
        np.savez(tmp_path / "p.npz", label=LABEL, prediction=said, model=models)
        with pytest.raises(StudyError, match="argmax over the last axis"):
            read([tmp_path / "p.npz"])


def test_classes_may_be_counted_from_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", label=LABEL + 1, prediction=SAID + 1, model=["a", "b"])
    found = read([tmp_path / "p.npz"])
    assert found.groups["clean"]["class"] == ["1", "2", "3"]
    assert found.groups["clean"]["correct"].tolist() == RIGHT
    assert read([tmp_path / "p.npz"], classes=["1", "2", "3"]).groups["clean"]["correct"].tolist() == RIGHT
    # Class 1 is not the second of the classes 1, 2, 3, and there is no class 0.
    np.savez(tmp_path / "p.npz", label=LABEL, prediction=SAID, model=["a", "b"])
    with pytest.raises(StudyError, match=r"'0' is no class; allowed: 1 to 3"):
        read([tmp_path / "p.npz"], classes=["1", "2", "3"])


def test_minus_one_is_a_missing_prediction(tmp_path: Path) -> None:
    said = SAID.copy()
    said[1, 0] = -1
    np.savez(tmp_path / "p.npz", label=LABEL, prediction=said, model=["a", "b"])
    found = read([tmp_path / "p.npz"])
    assert found.groups["clean"]["correct"].tolist() == [RIGHT[0], [-1, *RIGHT[1][1:]]]
    assert any("missing on original: b 1 (of 6 samples)" in note for note in found.notes)


def test_numbers_of_rows_are_no_predictions(tmp_path: Path) -> None:
    wide().to_csv(tmp_path / "p.csv")
    with pytest.raises(StudyError, match="column 1 has no name"):
        read([tmp_path / "p.csv"])
    wide().to_csv(tmp_path / "p.csv", sep=";", index=False)
    with pytest.raises(StudyError, match="commas are needed between the columns, not ';'"):
        read([tmp_path / "p.csv"])
    many = pd.DataFrame({"label": np.arange(40) % 2, "a": np.arange(40) % 2, "row": range(40)})
    many.to_csv(tmp_path / "p.csv", index=False)
    assert any(
        "row names 38 classes that no sample has" in text for text in read([tmp_path / "p.csv"]).warnings
    )
    wide(score=[0.5] * 6).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(StudyError, match=r"not both or others: 0\.5 \(score\)"):
        read([tmp_path / "p.csv"])
    indexed = wide().set_index(pd.Index(list("uvwxyz"), name="sample_id"))
    indexed.to_parquet(tmp_path / "p.parquet")
    assert read([tmp_path / "p.parquet"]).groups["samples/clean"]["sample_id"] == list("uvwxyz")


def test_one_file_for_each_model(tmp_path: Path) -> None:
    for name, said in (("resnet", SAID[0]), ("vgg", SAID[1])):
        pd.DataFrame({"label": LABEL, "prediction": said}).to_csv(tmp_path / f"{name}.csv", index=False)
    found = read([tmp_path / "resnet.csv", tmp_path / "vgg.csv"])
    assert found.models == ["resnet", "vgg"]
    assert found.counts["samples of original"] == 6
    assert found.groups["clean"]["correct"].tolist() == RIGHT
    assert "shifts" not in found.groups
    # The same models of two files are those of two test sets, also where the labels are the same.
    for name in ("clean", "fog"):
        wide().to_csv(tmp_path / f"{name}.csv", index=False)
    found = read([tmp_path / "clean.csv", tmp_path / "fog.csv"])
    assert found.models == ["a", "b"]
    assert found.groups["shifts"]["shift"] == ["fog"]
