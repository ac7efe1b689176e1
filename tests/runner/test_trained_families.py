"""Families trained in a run: failed members stay apart with their reasons, and the rest is complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import metaeval
from metaeval.report.findings import findings
from metaeval.runner.forecast import forecast
from metaeval.runner.prepare import prepare
from metaeval.runner.run import run_study
from metaeval.study import load_study
from metaeval.study.inputs import TrainModel

ROOT = Path(__file__).parents[2]

STUDY = """
schema_version = 1

[study]
name = "family"

[data]
source = "digits"
samples = 40
select = "stratified"
train_samples = 400

[[models]]
source = "train"
architecture = "mlp"
optimizer = "sgd"
schedule = "cosine"
epochs = 4
grid = { learning_rate = [0.2, 1e30], target_loss = [1.8, 0.001] }

[[models]]
source = "train"
architecture = "mlp"
name = "idle"
optimizer = "sgd"
learning_rate = 1e-12
epochs = 1

[[threat_models]]
norm = "linf"
epsilons = ["0", "0.1"]
attacks = ["apgd-ce", "apgd-dlr"]
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAEVAL_CACHE_DIR", str(tmp_path / "cache"))


def plan(path: Path) -> str:
    return forecast(
        prepare(load_study(path)), directory=Path("reports/family"), device=torch.device("cpu")
    ).text()


def test_failed_models_are_marked_left_out_and_not_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    planned = plan(path)
    assert re.search(r"mlp-learning_rate=0.2-target_loss=1.8 +at most", planned)
    assert re.search(r"idle +yes", planned)
    assert "training to a target loss is predicted with all its epochs: an upper bound" in planned
    summary = run_study(load_study(path), device="cpu", quiet=True)
    assert len(summary.failures) == 6
    assert "TrainingError: training diverged" in summary.failures[0]
    cube = metaeval.open_cube(tmp_path / "reports/family")
    models, linf = cube["models"].to_dataset(), cube["linf"].to_dataset()
    names = [str(name) for name in models.model.values]
    broken = [name for name in names if "1e+30" in name or name == "idle"]
    assert len(names) == 5
    assert len(broken) == 3
    statuses = linf.status.flag_meanings.split()
    for name in names:
        row = linf.sel(model=name, attack=["apgd-ce", "apgd-dlr"])
        word = "failed" if name in broken else "ok"
        assert {statuses[int(status)] for status in row.status.values} == {word}
        assert linf.robust_accuracy.sel(model=name).isnull().all() == (name in broken)
        assert cube["clean"].to_dataset().accuracy.sel(model=name).isnull().all() == (name in broken)
    assert "chance (10.0%, the commonest class; 400 samples)" in str(
        linf.reason.sel(model="idle", attack="apgd-ce").values
    )
    # What they were to be trained with stands beside what came of it.
    assert set(models.learning_rate.values) == {0.2, 1e30, 1e-12}
    assert set(models.schedule.values) == {"cosine", "constant"}
    good = models.sel(model=[name for name in names if name not in broken])
    assert good.training_reached_target.values.tolist() == [1, 0]
    assert (good.training_epochs < 4).values.tolist() == [True, False]
    assert np.isnan(models.training_accuracy.sel(model=broken)).all()
    (notice,) = [sentence for sentence in findings(cube) if "left out" in sentence]
    assert notice.startswith(
        "3 models are left out: <strong>mlp-learning_rate=1e+30-target_loss=1.8</strong>: "
    )
    assert "training diverged: the loss is nan in epoch 1 (sgd, learning rate 1e+30)" in notice
    assert "<strong>idle</strong>: TrainingError: training accuracy" in notice
    (short,) = [sentence for sentence in findings(cube) if "did not reach" in sentence]
    late = str(good.model.values[1])
    assert short.startswith("1 model did not reach the target loss of training")
    assert short.endswith(f": <strong>{late}</strong>.")
    # The failures are known: nothing is trained or attacked again.
    logs = sorted(log.stat().st_mtime_ns for log in tmp_path.glob("cache/models/*/log.json"))
    planned = plan(path)
    assert re.search(r"idle +failed +0 ", planned)
    assert "0 tasks to do, 4 recorded" in planned
    assert "idle failed: training accuracy" in planned
    again = run_study(load_study(path), device="cpu", quiet=True)
    assert (again.computed, again.reused, len(again.failures)) == (0, 4, 6)
    assert logs == sorted(log.stat().st_mtime_ns for log in tmp_path.glob("cache/models/*/log.json"))


SMALL = {
    r"\nsamples = 250": "\nsamples = 10",
    "train_samples = 4000": "train_samples = 500",
    "train_samples = 1000": "train_samples = 50",
    "batch_size = 32": "batch_size = 8",
    r"batch_size = \[32, 128\]": "batch_size = [8, 16]",
    r"epochs = \d+": "epochs = 3",
    "adversarial_steps = 2": "adversarial_steps = 1",
    "target_loss = .*": "",
    r'epsilons = \["0", .*\]': 'epsilons = ["0", "2/255"]',
    "sample = 24": "sample = 2",
    "sample = 12": "sample = 2",
    "sample = 1[04]": "sample = 1",
}


@pytest.mark.timeout(900)
def test_six_models_of_the_study_of_sixty(shared_data: Path, tmp_path: Path) -> None:
    """Its first models on fewer images; the study itself takes most of an hour."""
    original = ROOT / "studies" / "cifar10_jpeg_family.toml"
    tables = [table for table in load_study(original).models if isinstance(table, TrainModel)]
    assert {table.architecture for table in tables} == {"cnn", "vgg", "resnet", "mlp"}
    assert sum(table.sample or 0 for table in tables) == 60
    text = original.read_text()
    for pattern, replacement in SMALL.items():
        text, count = re.subn(pattern, replacement, text)
        assert count, pattern
    (tmp_path / "study.toml").write_text(text)
    assert not run_study(load_study(tmp_path / "study.toml"), device="cpu", quiet=True).failures
    cube = metaeval.open_cube(tmp_path / "reports/cifar10_jpeg_family")
    models, linf = cube["models"].to_dataset(), cube["linf"].to_dataset()
    assert models.sizes["model"] == 6
    assert sorted(models.architecture.values) == ["cnn", "cnn", "mlp", "resnet", "vgg", "vgg"]
    assert (linf.evaluated.sel(attack="apgd-ce") == linf.total).all()
    assert (models.training_accuracy > 0.12).all()
    logs = [json.loads(path.read_text()) for path in tmp_path.glob("cache/models/*/log.json")]
    assert {log["name"] for log in logs} == {str(name) for name in models.model.values}
    assert all(len(log["epochs"]) == 3 and log["data"]["samples"] == 500 for log in logs)
