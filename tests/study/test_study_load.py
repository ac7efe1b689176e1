"""Study files that are right: values, defaults, paths, plug-ins."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import tomli_w
from pydantic import ValidationError
from study_files import DESIGN, MINIMAL, NPZ, problems, write

from metaeval import registry
from metaeval.errors import StudyError
from metaeval.study import load_study
from metaeval.study.inputs import TrainModel
from metaeval.study.schema import DATA_SOURCES

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))


def test_the_designs_example(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, DESIGN))
    assert study.study.name == "robustbench_2023"
    assert study.output == Path("reports/robustbench_2023")
    assert (study.data.samples, study.data.select, study.data.train_split) == (500, "stratified", "train")
    assert study.data.path == tmp_path / "cifar10-images.tar.xz"
    assert study.data.name == "cifar10-images"
    checkpoint, train = study.models
    assert checkpoint.weights == tmp_path / "kw_cifar10_l2.safetensors"
    assert (checkpoint.name, checkpoint.family) == ("kw_cifar10_l2", "KW")
    assert checkpoint.normalize.std == (0.225, 0.225, 0.225)
    assert isinstance(train, TrainModel)
    assert (train.name, train.family, train.settings) == ("cnn", "cnn", {"epochs": 20})
    assert train.choices == {
        "depth": (2, 4),
        "width": (16, 32),
        "dropout": (0.0, 0.3),
        "optimizer": ("sgd", "adam"),
        "learning_rate": (0.01, 0.001),
    }
    [threat] = study.threat_models
    assert [epsilon.value for epsilon in threat.epsilons] == [k / 255 for k in range(9)]
    assert [epsilon.label for epsilon in threat.epsilons][:3] == ["0", "1/255", "2/255"]
    assert [(table.name, table.settings) for table in threat.attack] == [("square", {"queries": 5000})]
    assert study.analysis.reference_epsilons[0].value == 8 / 255
    assert study.report.figures == "all"


def test_defaults(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, MINIMAL))
    assert (study.study.title, study.study.seed) == ("s", 0)
    assert (study.data.split, study.data.samples, study.data.select) == ("test", "all", "first")
    assert study.data.name == "digits"
    assert study.models[0].settings == study.models[0].choices == {}
    assert study.threat_models[0].search == "frontier"
    assert (study.analysis.family, study.analysis.confidence) == ("architecture", 0.95)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_our_studies_load(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAEVAL_SHARED_DATA", "/data")
    assert load_study(path).study.name == path.stem


def test_a_study_never_changes_and_travels(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, DESIGN))
    for table, key in ((study, "models"), (study.study, "seed"), (study.models[1], "epochs")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(table, key, 1)
    other = pickle.loads(pickle.dumps(study))
    assert other == study
    assert (other.path, other.base) == (study.path, study.base)


def test_to_dict_is_json_and_loads_to_the_same_study(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, DESIGN))
    content = study.to_dict()
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["threat_models"][0]["epsilons"] == ["0", *(f"{k}/255" for k in range(1, 9))]
    assert content["models"][0]["weights"] == str(tmp_path / "kw_cifar10_l2.safetensors")
    assert content["analysis"]["confidence"] == 0.95
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(tomli_w.dumps(content), encoding="utf-8")
    assert load_study(resolved).to_dict() == content


def test_other_encodings_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_study(path).study.name == "s"
    path.write_bytes(b'\nname = "gr\xfcn"\n')
    with pytest.raises(StudyError, match=r":2:11: study: the file is not UTF-8 text$"):
        load_study(path)


@pytest.mark.parametrize(
    ("written", "resolved", "name"),
    [
        ("mnist.npz", "{base}/mnist.npz", "mnist"),
        ("../data/m.npz", "{parent}/data/m.npz", "m"),
        ("/abs/m.npz", "/abs/m.npz", "m"),
        ("${DATA_FOLDER}/m.npz", "/data/folder/m.npz", "m"),
        ("x/${PART}/m.npz", "{base}/x/p q/m.npz", "m"),
    ],
)
def test_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, resolved: str, name: str
) -> None:
    monkeypatch.setenv("DATA_FOLDER", "/data/folder")
    monkeypatch.setenv("PART", "p q")
    base = tmp_path / "studies"
    base.mkdir()
    write(base, NPZ.replace("{}", written))
    monkeypatch.chdir(tmp_path)
    study = load_study("studies/study.toml")
    assert (study.path, study.base) == (Path("studies/study.toml"), base)
    assert str(study.data.path) == resolved.format(base=base, parent=tmp_path)
    assert study.data.name == name


def test_numbers_may_be_fractions_everywhere(tmp_path: Path) -> None:
    text = MINIMAL.replace(
        'architecture = "cnn"',
        'architecture = "m:f"\narchitecture_settings = { ratio = "1/3", kind = "a/b" }\n'
        'learning_rate = "1/1000"\ngrid.adversarial_epsilon = [0, "8/255"]',
    )
    text += (
        '[[threat_models.attack]]\nname = "square"\nstep_size = "2/255"\n[analysis]\nconfidence = "9/10"\n'
    )
    study = load_study(write(tmp_path, text))
    assert study.models[0].architecture_settings == {"ratio": 1 / 3, "kind": "a/b"}
    assert study.models[0].settings == {"learning_rate": 0.001}
    assert study.models[0].choices == {"adversarial_epsilon": (0.0, 8 / 255)}
    assert study.threat_models[0].attack[0].settings == {"step_size": 2 / 255}
    assert study.analysis.confidence == 0.9


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry_points(group: str) -> list[EntryPoint]:
        names = {"metaeval.data_sources": ["their-data"], "metaeval.model_sources": ["their-models"]}
        return [EntryPoint(name, "theirs:it", group) for name in names.get(group, [])]

    monkeypatch.setattr(registry, "entry_points", entry_points)


@pytest.mark.usefixtures("plugins")
def test_sources_of_other_packages_keep_their_keys(tmp_path: Path) -> None:
    text = MINIMAL.replace('"digits"', '"their-data"\nsamples = 5\nversion = "v4"').replace(
        '"train"\n', '"their-models"\nadversarial_norm = "l2"\n'
    )
    study = load_study(write(tmp_path, text))
    assert (study.data.source, study.data.samples, study.data.name) == ("their-data", 5, "their-data")
    assert study.data.model_extra == {"version": "v4"}
    assert study.models[0].model_extra == {"architecture": "cnn", "adversarial_norm": "l2"}
    assert study.to_dict()["data"]["version"] == "v4"


@pytest.mark.usefixtures("plugins")
def test_sources_of_other_packages_are_suggested(tmp_path: Path) -> None:
    names = sorted([*DATA_SOURCES, "their-data"])
    assert problems(tmp_path, MINIMAL.replace('"digits"', '"their-dta"')) == [
        f"6:1: data.source: unknown source 'their-dta'; allowed: {', '.join(names)}; did you "
        "mean 'their-data'?"
    ]


def test_loading_a_study_is_light() -> None:
    code = (
        "import sys, metaeval.study.load, metaeval.study.identity\n"
        "heavy = {'torch', 'xarray', 'zarr', 'pandas', 'scipy', 'altair', 'sklearn', 'statsmodels'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
