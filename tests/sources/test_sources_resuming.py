"""A training that is killed goes on where it was, and gives the very same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from metaeval.sources.data import open_data, open_training_data
from metaeval.sources.models import TrainingError, train_model, training, training_identity
from metaeval.sources.models.loop import Loop

# Everything that has a state: momentum, moments, a schedule, dropout, batch statistics, crops, random starts.
TABLES = {
    "sgd": 'optimizer = "sgd"\nschedule = "step"\nadversarial_norm = "l2"',
    "adam": 'optimizer = "adam"\nschedule = "warmup-cosine"\nadversarial_method = "trades"',
}
CNN = (
    'source = "train"\narchitecture = "cnn"\nwidth = 4\ndropout = 0.3\nbatch_norm = true\nepochs = 8\n'
    'augmentation = "flip+crop"\nadversarial_epsilon = 0.1\nadversarial_steps = 2\n'
)
SCRIPT = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from metaeval.sources.data import open_training_data
from metaeval.sources.models import expand_models, train_model
from metaeval.sources.models.loop import Loop
from metaeval.study import load_study

epoch = Loop.epoch
def slow(loop, progress=None):
    print(f"epoch {len(loop.log)}", flush=True)
    time.sleep(0.1)
    epoch(loop, progress)
Loop.epoch = slow
study = load_study(sys.argv[1])
data = open_training_data(study)
for entry in expand_models(study, classes=10, shape=data.shape):
    train_model(entry, data, Path(sys.argv[2]))
"""


def test_a_killed_training_gives_the_same_weights(
    write_study: Any, entries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study('source = "digits"\ntrain_samples = 300', CNN + TABLES["adam"])
    (entry,) = entries(study)
    data = open_training_data(study)
    train_model(entry, data, tmp_path / "calm")
    first = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(study.path), str(tmp_path / "killed")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("epoch 3"):
            break
    time.sleep(0.12)  # in the middle of it, or at its end
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert not list((tmp_path / "killed").glob("models/*"))
    begun: list[int] = []
    epoch = Loop.epoch

    def counted(loop: Loop, progress: Any = None) -> None:
        begun.append(len(loop.log))
        epoch(loop, progress)

    monkeypatch.setattr(Loop, "epoch", counted)
    train_model(entry, data, tmp_path / "killed")
    assert begun[0] >= 3, "it started anew"
    assert begun == list(range(begun[0], 8))
    for file in ("initial.safetensors", "weights.safetensors"):
        calm, killed = (
            (tmp_path / name / "models" / training_identity(entry, data) / file).read_bytes()
            for name in ("calm", "killed")
        )
        assert calm == killed
    assert not list((tmp_path / "killed" / "training").iterdir())


class Interrupted(BaseException):
    """What a test stops a training with."""


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    epoch = Loop.epoch

    def limited(loop: Loop, progress: Any = None) -> None:
        if len(loop.log) == after:
            raise Interrupted
        epoch(loop, progress)

    monkeypatch.setattr(Loop, "epoch", limited)


@pytest.mark.parametrize("damage", ["cut", "other threads", "none"])
def test_a_checkpoint_that_does_not_fit_is_not_gone_on_from(
    write_study: Any, entries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    study = write_study('source = "digits"', CNN + TABLES["sgd"].replace("step", "cosine"))
    (entry,) = entries(study)
    data = open_data(study, "train")
    calm = train_model(entry, data, tmp_path / "calm")
    with monkeypatch.context() as patch:
        interrupt(patch, after=5)
        with pytest.raises(Interrupted):
            train_model(entry, data, tmp_path / "cache")
    (kept,) = (tmp_path / "cache" / "training").iterdir()
    if damage == "cut":
        kept.write_bytes(kept.read_bytes()[:-100])
    if damage == "other threads":
        content = torch.load(kept, weights_only=True)
        content["made_by"]["threads"] += 1
        torch.save(content, kept)
    epochs = []
    epoch = Loop.epoch

    def counted(loop: Loop, progress: Any = None) -> None:
        epochs.append(len(loop.log))
        epoch(loop, progress)

    monkeypatch.setattr(Loop, "epoch", counted)
    model = train_model(entry, data, tmp_path / "cache")
    assert epochs == list(range(5 if damage == "none" else 0, 8))
    assert model.weights_sha256 == calm.weights_sha256
    assert not kept.exists()
    # The log knows all epochs, whoever trained them.
    assert model.training is not None
    assert model.training["epochs"] == 8


def test_a_target_is_reached_after_an_interruption(
    write_study: Any, entries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = 'source = "train"\narchitecture = "mlp"\nwidth = 16\nepochs = 40\ntarget_loss = 0.3\n'
    study = write_study('source = "digits"', table)
    (entry,) = entries(study)
    data = open_data(study, "train")
    calm = train_model(entry, data, tmp_path / "calm")
    with monkeypatch.context() as patch:
        interrupt(patch, after=2)
        with pytest.raises(Interrupted):
            train_model(entry, data, tmp_path / "cache")
    model = train_model(entry, data, tmp_path / "cache")
    assert calm.training is not None
    assert model.training is not None
    assert calm.training["reached_target"] is True
    assert {**calm.training, "seconds": 0} == {**model.training, "seconds": 0}
    assert model.weights_sha256 == calm.weights_sha256


def test_a_failed_training_leaves_no_checkpoint(
    write_study: Any, entries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study('source = "digits"', 'source = "train"\narchitecture = "mlp"\nepochs = 2\n')
    (entry,) = entries(study)
    monkeypatch.setattr(training, "no_better_than_chance", lambda correct, y: "it learned nothing")
    with pytest.raises(TrainingError, match="it learned nothing"):
        train_model(entry, open_data(study, "train"), tmp_path)
    assert not list((tmp_path / "training").iterdir())
    (folder,) = (tmp_path / "models").iterdir()
    assert (
        load_file(folder / "weights.safetensors").keys() == load_file(folder / "initial.safetensors").keys()
    )
