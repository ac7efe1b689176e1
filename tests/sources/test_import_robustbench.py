"""RobustBench's published results: every entry and field, exact numbers, and files that are wrong."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from metaeval.analysis import shifts
from metaeval.errors import MissingInputError, StudyError, UsageError
from metaeval.sources.published import robustbench
from metaeval.sources.published.content import Published

ENTRY = {
    "name": "A paper",
    "link": "https://example.org",
    "authors": "A. Author",
    "additional_data": False,
    "number_forward_passes": 1,
    "dataset": "cifar10",
    "venue": "Venue 2020",
    "architecture": "ResNet-18",
    "eps": "8/255",
    "clean_acc": "84.10",
    "reported": "",
    "autoattack_acc": "47.27",
}
WIDTH = ",fog,fog,snow\n,1,2,1\n"


@pytest.fixture(scope="module")
def boards(shared_data: Path) -> dict[str, Published]:
    found = robustbench.read([shared_data / "robustbench_model_info.zip"])
    return {board.name: board for board in found}


def tree(folder: Path, **entries: dict[str, Any] | str) -> Path:
    """Write entries as cifar10/Linf/<name>.json (or the text itself)."""
    place = folder / "cifar10" / "Linf"
    place.mkdir(parents=True, exist_ok=True)
    for name, entry in entries.items():
        (place / f"{name}.json").write_text(entry if isinstance(entry, str) else json.dumps(entry))
    return folder


def test_every_entry_is_there_and_data_sets_are_not_pooled(boards: dict[str, Published]) -> None:
    assert {name: len(board.models) for name, board in boards.items()} == {
        "cifar10-linf": 99,
        "cifar10-l2": 21,
        "cifar10-corruptions": 23,
        "cifar100-linf": 38,
        "cifar100-corruptions": 13,
        "imagenet-linf": 30,
        "imagenet-corruptions": 12,
    }


def test_every_field_is_kept_as_it_is_written(boards: dict[str, Published], shared_data: Path) -> None:
    seen = 0
    with zipfile.ZipFile(shared_data / "robustbench_model_info.zip") as archive:
        for name in (name for name in archive.namelist() if name.endswith(".json")):
            dataset, threat, file = name.split("/")[-3:]
            board = boards[f"{dataset}-{threat}".lower()]
            kept = board.groups["published"]
            row = kept["written"][board.models.index(file.removesuffix(".json"))]
            for field, value in json.loads(archive.read(name)).items():
                text = row[kept["field"].index(field)]
                assert text == value or json.loads(text) == value
                seen += 1
    assert seen > 236 * 11


def test_published_aggregates(boards: dict[str, Published]) -> None:
    board = boards["cifar10-linf"]
    columns = {name: np.array(column) for name, column in board.columns.items()}
    clean, attacked = columns["clean_accuracy"], columns["autoattack_accuracy"]
    assert 100 * clean.mean() == pytest.approx(87.5669, abs=5e-5)
    assert 100 * attacked.mean() == pytest.approx(52.9042, abs=5e-5)
    assert stats.spearmanr(clean, attacked)[0] == pytest.approx(0.48766, abs=5e-6)
    linf = board.groups["linf"]
    assert linf["epsilon_label"] == ["0.031", "8/255"]
    assert linf["epsilon"] == [0.031, 8 / 255]
    assert (~np.isnan(linf["robust_accuracy"][:, 0, :, 1])).sum(axis=0).tolist() == [6, 93]


def test_the_three_accuracies_are_kept_apart(boards: dict[str, Published]) -> None:
    board = boards["cifar10-linf"]
    linf, i = board.groups["linf"], board.models.index("Kang2021Stable")
    at = dict(zip(linf["attack"], linf["robust_accuracy"][i, 0, 1], strict=True))
    assert at == {"worst-case": 0.642, "autoattack": 0.7128, "external": 0.642, "reported": 0.7128}
    assert board.columns["clean_accuracy"][i] == 0.9373
    plain = board.models.index("Peng2023Robust")
    assert np.isnan(board.columns["external_accuracy"][plain])
    assert board.columns["best_known_accuracy"][plain] == 0.7107
    assert linf["status"][plain].tolist() == [1, 1, 3, 1]
    assert (linf["correct"] == -1).all()
    assert (board.groups["clean"]["total"] == -1).all()
    assert "no per-sample outcomes" in board.notes[0]


def test_corruption_tables(boards: dict[str, Published]) -> None:
    board = boards["cifar10-corruptions"]
    group = board.groups["shifts"]
    assert group["accuracy"].shape == (23, 1, 15, 5)
    assert np.isfinite(group["accuracy"]).all()
    assert any("Hendrycks2020AugMixWRN is Hendrycks2020AugMix_WRN" in note for note in board.notes)
    model, fog = board.models.index("Calian2021Defending"), group["shift"].index("shot_noise")
    np.testing.assert_array_equal(group["accuracy"][model, 0, fog], [0.9421, 0.9383, 0.9217, 0.9137, 0.8959])
    mean = group["accuracy"].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(mean, board.columns["corruptions_accuracy"], atol=1.0001e-4)
    assert boards["imagenet-corruptions"].groups["shifts"]["accuracy"].shape == (12, 1, 27, 5)
    other = "the field `dataset` of 4 files says otherwise (Gowal2020Uncovering_Linf"
    assert any(other in note for note in boards["cifar100-corruptions"].notes)


def test_the_published_corruption_errors_come_out_of_the_table(boards: dict[str, Published]) -> None:
    board = boards["imagenet-corruptions"]
    group, alexnet = board.groups["shifts"], board.models.index("AlexNet")
    for part, column in ((slice(0, 15), "corruptions_mce"), (slice(15, 27), "corruptions_3d_mce")):
        accuracy = group["accuracy"][:, 0, part]
        found = shifts.mean_corruption_error(accuracy, accuracy[alexnet])
        np.testing.assert_allclose(found, board.columns[column], atol=6e-5)


def test_a_folder_a_zip_and_a_list_of_files_are_the_same(tmp_path: Path) -> None:
    folder = tree(tmp_path / "info", First=ENTRY, Second={**ENTRY, "eps": "0.031", "external": "40"})
    with zipfile.ZipFile(tmp_path / "info.zip", "w") as archive:
        for file in folder.rglob("*.json"):
            archive.write(file, file.relative_to(tmp_path))
    files = sorted(folder.rglob("*.json"))
    loose = [tmp_path / file.name for file in files]
    for file, copy in zip(files, loose, strict=True):
        copy.write_bytes(file.read_bytes())
    found = [
        robustbench.read([folder]),
        robustbench.read([folder / "cifar10" / "Linf"]),
        robustbench.read([tmp_path / "info.zip"]),
        robustbench.read(files),
        robustbench.read(loose, dataset="cifar10", threat_model="Linf"),
    ]
    for (board,) in found:
        assert board.models == ["First", "Second"]
        assert board.columns["best_known_accuracy"] == [0.4727, 0.4]
        assert board.groups["linf"]["epsilon_label"] == ["0.031", "8/255"]
    with pytest.raises(StudyError, match=r"First.json:1:1: path: data set and threat model are not known"):
        robustbench.read(loose)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean_acc": "130"}, r"Bad.json:1:1: clean_acc: 130 is no accuracy \(percent\): 0 to 100"),
        ({"autoattack_acc": "-1"}, "autoattack_acc: -1 is no accuracy"),
        ({"clean_acc": "eighty"}, "clean_acc: expected a number"),
        ({"clean_acc": [84.1]}, "clean_acc: one value is needed"),
        ({"clean_acc": True}, "clean_acc: expected a number"),
        ({"eps": "0"}, "eps: an epsilon above 0"),
        ({"eps": "8/0"}, "eps: '8/0' divides by zero"),
        ({"eps": None}, "need their epsilon"),
    ],
)
def test_wrong_values(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        robustbench.read([tree(tmp_path, Good=ENTRY, Bad={**ENTRY, **change})])


def test_other_snapshots(tmp_path: Path) -> None:
    new = {**ENTRY, "extra": {"seed": 1}, "eps": "2/255"}  # beside no `external`, which it is not
    (found,) = robustbench.read([tree(tmp_path / "a", New=new, Above={**ENTRY, "autoattack_acc": "99.9"})])
    assert "Fields kept as written and not interpreted: extra." in found.notes
    written = found.groups["published"]
    assert written["written"][1][written["field"].index("extra")] == '{"seed": 1}'
    assert any(
        text.startswith("Contradiction: `autoattack_acc` lies above the clean accuracy of Above 99.9 and")
        for text in found.notes
    )


def test_wrong_files(tmp_path: Path, shared_data: Path) -> None:
    misspelt = {("clean_ac" if key == "clean_acc" else key): value for key, value in ENTRY.items()}
    folder = tree(tmp_path / "a", Bad=misspelt, Worse='{"clean_acc": ', Worst="[1]")
    with pytest.raises(StudyError) as caught:
        robustbench.read([folder])
    assert "Bad.json:1:1: clean_ac: unknown field" in str(caught.value)
    assert "did you mean 'clean_acc'?" in str(caught.value)
    assert "Worse.json:1:1: JSON: not valid JSON" in str(caught.value)
    assert "Worst.json:1:1: JSON: an object" in str(caught.value)
    whole = (shared_data / "robustbench_model_info.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StudyError, match=r"cut.zip:1:1: file: it is no folder, zip or JSON file"):
        robustbench.read([tmp_path / "cut.zip"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="there is no JSON file in it"):
        robustbench.read([tmp_path / "empty"])
    with pytest.raises(MissingInputError, match=r"did you mean '.*cut.zip'"):
        robustbench.read([tmp_path / "cuts.zip"])
    twice = [tree(tmp_path / part, Same=ENTRY) for part in ("b", "c")]
    with pytest.raises(StudyError, match="'Same' occurs twice in cifar10 Linf"):
        robustbench.read(twice)
    with pytest.raises(UsageError, match="did you mean 'Linf'"):
        robustbench.read([twice[0]], threat_model="linf")
    with pytest.raises(UsageError, match="no model of imagenet"):
        robustbench.read([twice[0]], dataset="imagenet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{WIDTH}m,0.5,0.4,1.2\n", "csv:3:1: m, snow 1: 1.2 is no accuracy"),
        (f"{WIDTH}m,0.5,0.4\n", "csv:3:1: m: 2 values where 3 are needed"),
        (f"{WIDTH}m,0.5,0.4,0.3\nm,0.5,0.4,0.3\n", "m: the model has two rows"),
        (f"{WIDTH}m,0.5,0.4,0.3\nM,0.5,0.4,0.3\n", "two rows mean this model"),
        (",fog,fog\n,1,1\nm,0.1,0.2\n", "a pair occurs twice"),
        ("model,fog\nm,0.5\n", "a row of corruptions, one of severities"),
    ],
)
def test_wrong_corruption_tables(tmp_path: Path, text: str, message: str) -> None:
    place = corrupted(tmp_path, text)
    with pytest.raises(StudyError, match=message):
        robustbench.read([place])


def corrupted(folder: Path, text: str) -> Path:
    place = folder / "cifar10" / "corruptions"
    place.mkdir(parents=True)
    fields = {key: value for key, value in ENTRY.items() if key != "autoattack_acc"}
    (place / "m.json").write_text(json.dumps({**fields, "eps": None, "corruptions_acc": "40.0"}))
    (place / "unaggregated_results.csv").write_text(text)
    return folder


def test_holes_strangers_and_other_means_are_said(tmp_path: Path) -> None:
    (board,) = robustbench.read([corrupted(tmp_path, f"{WIDTH}m,0.5,,0.5\nother,0.1,0.1,0.1\n")])
    accuracy = board.groups["shifts"]["accuracy"][0, 0]
    np.testing.assert_array_equal(accuracy, [[0.5, np.nan], [0.5, np.nan]])
    assert any("without a JSON file are left out: other" in note for note in board.notes)
    assert any("differ: m 50.00 and 40.00 %" in note for note in board.notes)


def test_a_single_model_without_robust_accuracy(tmp_path: Path) -> None:
    bare = {key: value for key, value in ENTRY.items() if key != "autoattack_acc"}
    (board,) = robustbench.read([tree(tmp_path, Only={**bare, "new_field_of_2030": "kept"})])
    assert np.isnan(board.groups["linf"]["robust_accuracy"]).all()
    assert board.groups["linf"]["status"].tolist() == [[3, 3, 3, 3]]
    assert any("new_field_of_2030" in note for note in board.notes)
