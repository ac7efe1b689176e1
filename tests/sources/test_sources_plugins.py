"""Sources of other packages, and what can be done without torch."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaeval import registry
from metaeval.sources.data import Dataset, open_data, take
from metaeval.sources.models import ModelEntry, load_model
from metaeval.study import Study


def open_noise(study: Study, split: str) -> Dataset:
    """Open data as another package would: `levels` is its own key."""
    levels = study.data.model_extra["levels"]  # type: ignore[index]
    x = np.linspace(0, 1, 6 * 4, dtype=np.float32).reshape(6, 4) // (1 / levels) / levels
    labels = np.array([0, 1] * 3)
    return Dataset("noise", split, labels, tuple("abcdef"), ("no", "yes"), (4,), lambda rows: x[rows])


def expand_linear(study: Study, index: int, *, classes: int, shape: tuple[int, ...]) -> list[ModelEntry]:
    """Give models as another package would."""
    place = study.problem(("models", index), "")
    return [
        ModelEntry(
            name, "linear", "linear", "theirs", shape, classes, place, loader=f"{__name__}:load_linear"
        )
        for name in ("one", "two")
    ]


def load_linear(entry: ModelEntry) -> torch.nn.Module:
    module = torch.nn.Linear(entry.shape[0], entry.classes)
    with torch.no_grad():
        module.weight.fill_(1 if entry.name == "one" else 2)
        module.bias.zero_()
    return module


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    points = {
        "metaeval.data_sources": [EntryPoint("noise", f"{__name__}:open_noise", "metaeval.data_sources")],
        "metaeval.model_sources": [
            EntryPoint("linear", f"{__name__}:expand_linear", "metaeval.model_sources")
        ],
    }
    monkeypatch.setattr(registry, "entry_points", lambda group: points.get(group, []))


@pytest.mark.usefixtures("plugins")
def test_sources_of_other_packages_work_like_ours(write_study: Any, entries: Any) -> None:
    study = write_study('source = "noise"\nlevels = 2\nsamples = 4', 'source = "linear"')
    samples = take(study, open_data(study, "test"))
    assert samples.x.shape == (4, 4)
    one, two = (load_model(entry) for entry in entries(study))
    assert one.module(torch.ones(1, 4)).tolist() == [[4, 4]]
    assert one.parameters == 4 * 2 + 2
    assert one.identity != two.identity
    assert entries(study)[0].build()(torch.ones(1, 4)).shape == (1, 2)


def test_studies_are_checked_without_torch(write_study: Any, tmp_path: Path) -> None:
    arrays = {f"x_{split}": np.zeros((2, 8, 8)) for split in ("train", "test")}
    np.savez(tmp_path / "d.npz", **arrays, y_train=[0, 1], y_test=[0, 1])
    study = write_study('source = "npz"\npath = "d.npz"', 'source = "train"\narchitecture = "cnn"')
    code = f"""
import sys
sys.modules["torch"] = None
from metaeval.study import load_study
from metaeval.sources.data import open_data
from metaeval.sources.models import expand_models
study = load_study({str(study.path)!r})
data = open_data(study, "test")
print([entry.name for entry in expand_models(study, classes=2, shape=data.shape)])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "['cnn']\n"
