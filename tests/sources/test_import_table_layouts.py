"""Layouts of published tables as people have them: norms, attacks, percent signs, columns of other things."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from csv_tables import read

from metaeval.errors import StudyError


def refused(folder: Path, text: str, message: str, mapping: str | None = None) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        read(folder, text, mapping)


def test_norms_in_a_column(tmp_path: Path) -> None:
    rows = "a,,0,90\na,Linf,8/255,50\na,l2,0.5,60\nb,,0,80\nb,Linf,8/255,40\n"
    found = read(
        tmp_path, f"model,norm,epsilon,accuracy\n{rows}".replace("a,,0", "a,Linf,0").replace("b,,0", "b,l2,0")
    )
    assert found.groups["clean"]["accuracy"].ravel().tolist() == [0.9, 0.8]
    assert found.groups["linf"]["robust_accuracy"][:, 0, -1, 0].tolist() == [0.5, 0.4]
    l2 = found.groups["l2"]
    assert l2["epsilon_label"] == ["0", "0.5"]
    np.testing.assert_array_equal(l2["robust_accuracy"][:, 0, :, 0], [[np.nan, 0.6], [0.8, np.nan]])
    refused(tmp_path, "model,norm,epsilon,accuracy\na,l3,1,5\n", "t.csv:2:1: norm: unknown norm 'l3'")


def test_attacks_in_a_column_and_one_epsilon(tmp_path: Path) -> None:
    text = "model,attack,accuracy\na,clean,90\na,PGD-20,50\nb,clean,80\nb,PGD-20,40\n"
    mapping = 'layout = "long"\n[columns]\nattack = "attack"\n[constants]\nnorm = "linf"\nepsilon = "8/255"\n'
    found = read(tmp_path, text, mapping)
    assert found.groups["clean"]["accuracy"].ravel().tolist() == [0.9, 0.8]
    assert found.groups["linf"]["attack"] == ["worst-case", "PGD-20"]
    assert found.groups["linf"]["robust_accuracy"][:, 0, 0, 0].tolist() == [0.5, 0.4]
    # Without an epsilon an attacked accuracy must not pass for a clean one.
    refused(tmp_path, text, "t.csv:3:1: epsilon: the attack 'PGD-20' needs the epsilon")


def test_two_clean_accuracies_of_a_model(tmp_path: Path) -> None:
    text = "model,norm,epsilon,attack,accuracy\na,linf,0,pgd,90\na,linf,0,square,91\n"
    refused(
        tmp_path, text, "t.csv:3:1: accuracy: the accuracy of a without attack is 91 here and 90 in line 2"
    )


def test_percent_signs(tmp_path: Path) -> None:
    found = read(tmp_path, "model,Clean,fog\na,0.5%,50 %\nb,80.25%,\n")
    assert found.options["unit"] == "percent"
    assert found.groups["clean"]["accuracy"].ravel().tolist() == [0.005, 0.8025]
    np.testing.assert_array_equal(found.groups["shifts"]["accuracy"].ravel(), [0.5, np.nan])
    refused(tmp_path, "model,fog\na,50%\nb,40\n", "t.csv:3:1: fog: some numbers of this column have a %")
    mapping = 'layout = "wide"\nunit = "fraction"\n'
    refused(tmp_path, "model,fog\na,50%\n", "fractions, but they have a %", mapping)


def test_units_that_nobody_said(tmp_path: Path) -> None:
    mixed = read(tmp_path, "model,clean,fog\na,0.9,50\nb,0.8,40\n")
    assert [text[:31] for text in mixed.warnings] == ["No number of clean is above 1, "]
    assert any("read as percent, because some are above 1" in note for note in mixed.notes)
    given = read(tmp_path, "model,clean,fog\na,0.9,50\n", 'layout = "wide"\nunit = "percent"\n')
    assert given.warnings == []


def test_numbers_that_are_no_accuracies(tmp_path: Path) -> None:
    found = read(tmp_path, "model,Params (M),clean,fog,recipe\na,25.6,90,50,x\nb,11,80,40,y\n")
    assert found.columns == {"Params (M)": [25.6, 11.0], "recipe": ["x", "y"]}
    assert found.groups["shifts"]["shift"] == ["fog"]
    assert "Columns of text, kept as properties of the models: recipe." in found.notes
    refused(tmp_path, "model,fog\na,50.1±0.2\nb,40.0±0.1\n", "t.csv:2:1: fog: expected a number")
    refused(tmp_path, "model,clean,fog\na,good,50\n", "clean: the column holds no number")
    refused(
        tmp_path, "model;clean\na;90\n", "t.csv:1:1: header: commas are needed between the columns, not ';'"
    )
    refused(tmp_path, "model,fog\na,1\nb,2\na,3\n", "t.csv:4:1: model: 'a' has two rows")


def test_mistakes_of_a_mapping_have_its_lines(tmp_path: Path) -> None:
    mapping = 'layout = "long"\nproperties = [\n  "sise",\n]\n[columns]\nvalue = "acuracy"\n'
    text = "model,size,accuracy\nresnet,3,90\n"
    refused(
        tmp_path,
        text,
        "m.toml:6:1: columns.value: t.csv has no column 'acuracy'; did you mean 'accuracy'?",
        mapping,
    )
    refused(
        tmp_path, text, "m.toml:3:1: properties[0]: t.csv has no column 'sise'; did you mean 'size'?", mapping
    )
    claims = 'layout = "long"\n[[claims]]\nquantity = "clean accuracy"\nmodel = "resnte"\nprinted = "90"\n'
    refused(
        tmp_path,
        text,
        "m.toml:4:1: claims[0].model: the table has no model 'resnte'; did you mean 'resnet'?",
        claims,
    )


def test_accuracies_that_rise_with_epsilon_are_named(tmp_path: Path) -> None:
    text = "model,norm,epsilon,class,accuracy\na,linf,0,cat,90\na,linf,0.2,cat,60.5\na,linf,0.1,cat,60\n"
    (said,) = (note for note in read(tmp_path, text).notes if "rises" in note)
    assert "(a, class cat: 60 at 0.1 and 60.5 at 0.2)" in said
    assert not any("rises" in note for note in read(tmp_path, text.replace("60.5", "60")).notes)
