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
from metaeval.study import json_schema
from metaeval.study.load import load_study

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
