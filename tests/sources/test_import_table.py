"""Published tables: counts that a printed share can mean, holes that stay holes, wrong mappings."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from csv_tables import read
from hypothesis import given, settings
from hypothesis import strategies as st

from metaeval.errors import MissingInputError, StudyError
from metaeval.sources.published import numbers, table
from metaeval.sources.published.content import Published

MAPPINGS = Path(__file__).parents[2] / "studies" / "mappings"


# Counts ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 400), st.data())
def test_a_printed_share_gives_back_its_count(total: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, total))
    exact = Fraction(100 * k, total)
    rounded = f"{float(exact):.2f}"
    cut = f"{int(exact * 100) // 100}.{int(exact * 100) % 100:02d}"
    for printed in (rounded, cut):
        if total <= 49:  # neighbours are more than two hundredths apart
            assert numbers.count(printed, total) == (k, numbers.RECOVERED)
        found, status = numbers.count(printed, total)
        near = [
            j
            for j in range(total + 1)
            if abs(Fraction(100 * j, total) - Fraction(printed)) <= Fraction(1, 100)
        ]
        assert (found, status) == ((near[0], 1) if len(near) == 1 else (-1, 3 if near else 2))


@pytest.mark.parametrize(
    ("printed", "total", "expected"),
    [
        ("92.49", 40, (37, 1)),
        ("85.70", 56, (-1, numbers.NO_COUNT)),
        ("85.7", 56, (48, 1)),
        ("63.67", 49, (-1, numbers.NO_COUNT)),
        ("50.0", 5000, (-1, numbers.SEVERAL_COUNTS)),
        ("", 40, (-1, numbers.NOT_PRINTED)),
        ("50", None, (-1, numbers.NO_TOTAL)),
        ("100", 7, (7, 1)),
        ("0", 7, (0, 1)),
    ],
)
def test_counts_by_hand(printed: str, total: int | None, expected: tuple[int, int]) -> None:
    assert numbers.count(printed, total) == expected


def test_shares_are_exact() -> None:
    assert numbers.share("93.27") == 0.9327
    assert numbers.share("0.9410000000000001", "fraction") == 0.9410000000000001
    assert np.isnan(numbers.share(" - "))


# Real tables ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes(shared_data: Path) -> Published:
    mapping = MAPPINGS / "robustbench_2023_classes.toml"
    return table.read(shared_data / "robustbench_2023_class_table.csv", mapping)


def test_class_table(classes: Published) -> None:
    linf = classes.groups["linf"]
    assert classes.counts["counts recovered"] == 366
    assert (~np.isnan(linf["robust_accuracy"][..., 1])).sum() == 412
    assert (linf["correct"][..., 1] >= 0).sum() == 366
    assert linf["total"].tolist() == [57, 41, 51, 49, 40, 48, 54, 47, 57, 56]
    assert linf["epsilon_label"][-1] == "8/255"
    known = linf["correct"] >= 0
    totals = linf["total"][None, :, None, None]
    gap = np.abs(linf["correct"] / totals - linf["robust_accuracy"])
    assert gap[known].max() < 1.001e-4
    np.testing.assert_array_equal(linf["correct"][..., 0], linf["correct"][..., 1])
    deer = linf["count_status"][:, 4, :, 1]
    assert (deer == numbers.NO_COUNT).sum() > 10
    assert classes.groups["clean"]["correct"][1].sum() == 466
    assert any("46 printed shares fit no count" in note for note in classes.notes)


def test_stage_table(shared_data: Path) -> None:
    mapping = MAPPINGS / "robustbench_2023_stages.toml"
    found = table.read(shared_data / "robustbench_2023_stages.csv", mapping)
    linf = found.groups["linf"]
    assert linf["stage"] == ["apgd-ce", "apgd-dlr", "fab"]
    np.testing.assert_array_equal(linf["stage_accuracy"][0, 0], [0.7380, 0.7147, 0.7147])
    np.testing.assert_array_equal(linf["stage_seconds"][0, 0], [14 * 60, 25 * 60, 211 * 60])
    np.testing.assert_array_equal(linf["robust_accuracy"][:, 0, 0, 0], linf["stage_accuracy"][:, 0, -1])
    assert found.groups["clean"]["accuracy"][1, 0] == 0.9223
    assert found.columns["parameters_million"][0] == 267.72
    assert found.attributes["linf"]["cascade"] == linf["attack"][1]
    assert any("no numbers of samples" in note for note in found.notes)


def test_imagenet_testbed(shared_data: Path) -> None:
    path = shared_data / "imagenet_testbed_top1.csv"
    frame = pd.read_csv(path, index_col="model")
    for mapping in (None, MAPPINGS / "imagenet_testbed.toml"):
        found = table.read(path, mapping)
        assert found.counts == {
            "models": 338,
            "settings": 213,
            "results": int(frame.notna().to_numpy().sum()),
            "holes": int(frame.isna().to_numpy().sum()),
        }
        assert found.counts["holes"] / (338 * 213) == pytest.approx(0.36, abs=0.005)
        values = found.groups["shifts"]["accuracy"]
        clean = found.groups["clean"]["accuracy"] if mapping else np.array([])
        everything = np.concatenate([values[~np.isnan(values)], clean[~np.isnan(clean)]])
        expected = frame.to_numpy().ravel() / 100
        np.testing.assert_allclose(np.sort(everything), np.sort(expected[~np.isnan(expected)]), rtol=1e-14)
    shifts = found.groups["shifts"]
    at = shifts["shift"].index("fog (on-disk)"), shifts["severity"].index(3)
    column = frame["imagenet-c.fog.3_on-disk"].to_numpy() / 100
    np.testing.assert_allclose(shifts["accuracy"][:, 0, at[0], at[1]], column, rtol=1e-14)
    assert shifts["kind"][at[0]] == "corruption"


# Small tables ---------------------------------------------------------------------------------------------

LONG = "model,class,epsilon,total,accuracy_percent\n"
MAPPING = """layout = "long"
unit = "percent"
[columns]
value = "accuracy_percent"
class = "class"
epsilon = "epsilon"
total = "total"
[constants]
norm = "l2"
attack = "pgd"
"""


def test_several_attacks_have_no_worst_case(tmp_path: Path) -> None:
    text = "model,attack,epsilon,accuracy\nm,pgd,0.5,0.4\nm,fab,0.5,0.3\n"
    mapping = 'layout="long"\n[columns]\nattack="attack"\nepsilon="epsilon"\n[constants]\nnorm="l2"\n'
    found = read(tmp_path, text, mapping).groups["l2"]
    assert found["attack"] == ["worst-case", "pgd", "fab"]
    np.testing.assert_array_equal(found["robust_accuracy"][0, 0, 0], [np.nan, 0.4, 0.3])
    printed = read(tmp_path, f"{text}m,worst-case,0.5,0.2\n", mapping).groups["l2"]
    np.testing.assert_array_equal(printed["robust_accuracy"][0, 0, 0], [0.2, 0.4, 0.3])


def test_shifts_in_a_long_table(tmp_path: Path) -> None:
    text = "model,shift,severity,total,accuracy\nm,,,10,0.90\nm,fog,1,10,0.50\nm,fog,2,10,\nn,fog,2,10,0.33\n"
    found = read(tmp_path, text)
    assert found.groups["clean"]["correct"].tolist() == [[9], [-1]]
    shifts = found.groups["shifts"]
    assert shifts["severity"] == [1, 2]
    assert shifts["correct"][:, 0, 0].tolist() == [[5, -1], [-1, -1]]
    assert shifts["count_status"][1, 0, 0].tolist() == [numbers.NOT_PRINTED, numbers.NO_COUNT]
    assert shifts["status"].tolist() == [[1], [1]]


def test_wide_tables_without_a_mapping(tmp_path: Path) -> None:
    found = read(tmp_path, "model,year,clean,fog,empty\na,MMXX,90.5,50,\nb,MMXI,80,,NA\n")
    assert found.groups["clean"]["accuracy"].tolist() == [[0.905], [0.8]]
    np.testing.assert_array_equal(
        found.groups["shifts"]["accuracy"][:, 0, :, 0], [[0.5, np.nan], [np.nan] * 2]
    )
    assert found.groups["shifts"]["status"].tolist() == [[1, 3], [3, 3]]
    assert found.columns["year"] == ["MMXX", "MMXI"]
    assert found.options["unit"] == "percent"
    assert any("Columns without any result: empty" in note for note in found.notes)
    assert read(tmp_path, "model,fog\na,0.5\n").options["unit"] == "fraction"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,fog\na,130\n", r"t.csv:2:1: fog: 130 is no accuracy \(percent\): 0 to 100 is allowed"),
        ("model,fog\na,50\nb,high\n", "t.csv:3:1: fog: expected a number"),
        ("model,fog\na,50\na,40\n", "'a' has two rows"),
        ("model,fog,fog\na,50,40\n", "fog: the column occurs twice"),
        ("model,fog\na,50,40\n", "t.csv:2:1: row: 3 cells where the header has 2"),
        ("model,fog\n,50\n", "t.csv:2:1: model: the model has no name"),
        ("model,fog\n", "a header and one row at least"),
        ("", "a header and one row at least"),
        ('model,fog\na,"50\n', "CSV"),
        ("model,kind\na,big\n", "no column holds numbers"),
        (LONG + "m,0,8/255,50,60\n", r"does not say in which norm: give a mapping with \[constants\] norm"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("m,0,0.5,50,160\n", "t.csv:2:1: accuracy_percent: 160 is no accuracy"),
        ("m,0,far,50,60\n", "t.csv:2:1: epsilon: expected a number or a fraction"),
        ("m,0,-1,50,60\n", "an epsilon is at least 0"),
        ("m,0,0.5,many,60\n", "total: 'many' is no whole number"),
        ("m,0,0.5,50,60\nm,0,0.5,50,61\n", "t.csv:3:1: row: it says the same as line 2: m"),
        ("m,0,0.5,50,60\nn,0,0.5,51,60\n", "t.csv:3:1: total: 51 samples of 0, 50 in a row before"),
        (",0,0.5,50,60\n", "the model has no name"),
    ],
)
def test_wrong_rows(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        read(tmp_path, LONG + rows, MAPPING)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[columns]", "[colums]", "m.toml:3:2: colums: unknown key; allowed: .*did you mean 'columns'"),
        ('class = "class"', 'clas = "class"', "m.toml:5:1: columns.clas: unknown key.*did you mean 'class'"),
        ('class = "class"', 'class = "klass"', "columns.class: t.csv has no column 'klass'; did you mean"),
        ('norm = "l2"', 'norm = "L2"', "m.toml:9:1: constants.norm: unknown norm 'L2'; allowed: linf"),
        ('layout = "long"', 'layout = "lang"', "m.toml:1:1: layout: .*did you mean 'long'"),
        ('unit = "percent"', 'unit = "per cent"', "unit: .*did you mean 'percent'"),
        ('norm = "l2"', "norm = l2", "m.toml:9:1: TOML"),
        ('attack = "pgd"', 'attack = 3', "constants.attack"),
        ('attack = "pgd"', 'attack = "pgd"\nepsilon = "x"', "constants.epsilon: expected a number"),
        ("[constants]", '[[claims]]\nquantity = "drip"\nprinted = "4"\n[constants]',
         r"claims\[0\].quantity: unknown quantity 'drip'; allowed: .*did you mean 'drop'"),
        ("[constants]", '[[claims]]\nquantity = "drop"\nprinted = "4x"\n[constants]', r"claims\[0\].printed"),
        ("[constants]", '[[claims]]\nquantity = "drop"\nprinted = "4"\nmodel = "z"\n[constants]',
         r"claims\[0\].model: the table has no model 'z'"),
    ],
)  # fmt: skip
def test_wrong_mappings(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in MAPPING
    with pytest.raises(StudyError, match=message):
        read(tmp_path, f"{LONG}m,0,0.5,50,60\n", MAPPING.replace(old, new))


def test_wrong_patterns_and_files(tmp_path: Path) -> None:
    wide = 'layout = "wide"\n[[settings]]\npattern = "{a}.{a}"\n'
    with pytest.raises(StudyError, match=r"m.toml:3:1: settings.0..pattern: parts in braces need different"):
        read(tmp_path, "model,fog\na,5\n", wide)
    with pytest.raises(StudyError, match="two columns mean fog at severity 1"):
        read(tmp_path, "model,x.fog.1,y.fog.1\na,5,6\n", wide.replace("{a}.{a}", "{copy}.{shift}.{severity}"))
    with pytest.raises(MissingInputError, match=r"did you mean '.*t.csv'"):
        table.read(tmp_path / "tt.csv")
    with pytest.raises(MissingInputError):
        table.read(tmp_path / "t.csv", tmp_path / "none.toml")
    (tmp_path / "t.csv").write_bytes(b"model,fog\n\xff,5\n")
    with pytest.raises(StudyError, match=r"t.csv:2:1: text: the file is not UTF-8"):
        table.read(tmp_path / "t.csv")


def test_all_missing(tmp_path: Path) -> None:
    found = read(tmp_path, "model,fog\na,\nb,\n")
    assert np.isnan(found.groups["shifts"]["accuracy"]).all()
    assert found.counts["results"] == 0
