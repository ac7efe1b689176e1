"""The JSON schema for editors: made from the same tables, accepting what the loader accepts."""

from __future__ import annotations

import copy
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from metaeval import registry
from metaeval.errors import StudyError
from metaeval.study import json_schema
from metaeval.study.load import load_study, restore_study
from metaeval.study.schema import DATA_SOURCES

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))

EVERYTHING = """
schema_version = 1
[study]
name = "everything"
title = "T"
seed = 3
[data]
source = "npz"
path = "d.npz"
name = "d"
split = "test"
train_split = "train"
samples = "all"
select = "random"
x = "x"
y = "y"
layout = "channels_last"
class_names = ["a", "b"]
[[models]]
source = "checkpoint"
weights = "w.pt"
architecture = "m:f"
architecture_settings = { a = 1, b = "1/3" }
name = "n"
family = "f"
normalize = { mean = ["1/2"], std = [0.5] }
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
published_accuracy = "9/10"
[[models]]
source = "train"
architecture = "cnn"
depth = 2
batch_norm = true
dropout = "1/3"
optimizer = "sgd"
adversarial_norm = "l2"
grid = { adversarial_epsilon = [0, "8/255"], seed = [0, 1], momentum = [0.9] }
[[threat_models]]
norm = "l2"
epsilons = [0, "1/2", 0.75]
attacks = ["square"]
search = "exact"
[[threat_models.attack]]
name = "square"
queries = 5
[analysis]
reference_epsilons = ["1/2"]
family = "depth"
confidence = "19/20"
[report]
figures = ["curves"]
"""


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def errors(validator: Draft202012Validator, document: dict[str, Any]) -> list[str]:
    return [error.message for error in validator.iter_errors(document)]


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_our_studies_follow_the_schema(validator: Draft202012Validator, path: Path) -> None:
    assert errors(validator, tomllib.loads(path.read_text(encoding="utf-8"))) == []


def test_a_study_with_every_key_follows_the_schema(validator: Draft202012Validator, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(EVERYTHING, encoding="utf-8")
    content = load_study(path).to_dict()
    assert errors(validator, tomllib.loads(EVERYTHING)) == []
    assert errors(validator, content) == []


STANDARD = 'root = "data"\nclasses = ["a", "b"]\nname = "n"\n'
DATA = {
    **dict.fromkeys(
        ("cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "tiny_imagenet", "har"), STANDARD
    ),
    "gtsrb": STANDARD + "size = 48",
    "imagenet": STANDARD + "size = 96",
    "digits": 'name = "n"',
    "images": 'path = "folder"\nname = "n"',
    "npz": 'path = "d.npz"\nx = "a"\ny = "b"\nlayout = "auto"\nclass_names = ["a", "b"]',
    "npy": 'x = "x_{split}.npy"\ny = "y.npy"\nlayout = "channels_last"\nclass_names = ["a", "b"]',
    "callable": 'function = "m:f"\nlayout = "auto"\nclass_names = ["a", "b"]',
    "csv": 'path = "d_{split}.csv"\nlabel = "l"\nfeatures = ["a"]\nbounds = ["1/2", 2]\noutside = "clip"',
    "parquet": 'path = "d.parquet"\nbounds = "train"',
    "huggingface": 'dataset = "a/b"\nconfiguration = "c"\nrevision = "v"\nimage = "i"\nlabel = "l"',
}


@pytest.mark.parametrize("source", DATA_SOURCES)
def test_every_data_source_follows_the_schema_and_comes_back(
    validator: Draft202012Validator, tmp_path: Path, source: str
) -> None:
    text = EVERYTHING.replace(EVERYTHING.split("[data]")[1].split("[[models]]")[0], "\nDATA\n", 1)
    common = f'source = "{source}"\nsplit = "s"\ntrain_split = "t"\nsamples = 9\nselect = "stratified"\n'
    text = text.replace("DATA", common + DATA[source])
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    study = load_study(path)
    assert study.data.source == source
    assert errors(validator, tomllib.loads(text)) == []
    assert errors(validator, study.to_dict()) == []
    assert restore_study(study.to_dict(), path).data == study.data
    wrong = tomllib.loads(text)
    wrong["data"]["unknown"] = 1
    assert errors(validator, wrong) != []


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ("[1, 1]", "expected 'train' or [lowest, highest], got [1, 1]"),
        ("[3, 1]", "expected 'train' or [lowest, highest], got [3, 1]"),
        ('"test"', "expected 'train' or [lowest, highest], got 'test'"),
        ("[0]", "expected 'train' or [lowest, highest], got [0]"),
        ('[0, "x"]', "'x'"),
    ],
)
def test_bounds_are_a_range(tmp_path: Path, bounds: str, message: str) -> None:
    path = tmp_path / "study.toml"
    table = f'source = "csv"\npath = "d.csv"\nbounds = {bounds}\n'
    path.write_text(
        EVERYTHING.replace(EVERYTHING.split("[data]")[1].split("[[models]]")[0], f"\n{table}\n", 1)
    )
    with pytest.raises(StudyError) as raised:
        load_study(path)
    (problem,) = raised.value.problems
    assert problem.key.startswith("data.bounds")
    assert message in problem.message


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("study", "sead"), 1),
        (("study", "seed"), "x"),
        (("data", "source"), "robustbench"),
        (("data", "samples"), 0.5),
        (("data", "samples"), "some"),
        (("models",), []),
        (("models", 1, "epochs"), 0),
        (("models", 1, "weights"), "w"),
        (("models", 1, "grid", "seed"), []),
        (("threat_models", 0, "norm"), "l3"),
        (("threat_models", 0, "epsilons"), [True]),
        (("schema_version",), 2),
    ],
)
def test_mistakes_break_the_schema(
    validator: Draft202012Validator, place: tuple[str | int, ...], value: Any
) -> None:
    document = copy.deepcopy(tomllib.loads(EVERYTHING))
    table: Any = document
    for part in place[:-1]:
        table = table[part]
    table[place[-1]] = value
    assert errors(validator, document)


def test_every_key_but_settings_says_what_it_is(validator: Draft202012Validator) -> None:
    definitions = validator.schema["$defs"]
    for table in ("StudyTable", "NpzData", "ThreatModel", "AnalysisTable", "ReportTable"):
        for key, field in definitions[table]["properties"].items():
            assert "description" in field or key in ("source", "attack"), (table, key)


def test_sources_of_other_packages_join_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    document = tomllib.loads(EVERYTHING)
    document["data"] = {"source": "theirs", "anything": 1}
    assert errors(Draft202012Validator(json_schema()), document)
    monkeypatch.setattr(
        registry,
        "entry_points",
        lambda group: [EntryPoint("theirs", "a:b", group)] if group == "metaeval.data_sources" else [],
    )
    assert errors(Draft202012Validator(json_schema()), document) == []
