"""Bad input of every kind is refused with a clear word, and the cube stays what it was."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

import metaeval
from metaeval.cli import main

STUDY = """
schema_version = 1

[study]
name = "bad"

[data]
source = "npz"
path = "d.npz"
samples = 60

[[models]]
source = "checkpoint"
architecture = "mlp"
weights = "w.safetensors"

[[threat_models]]
norm = "linf"
epsilons = [0, 0.1]
attacks = ["apgd-ce"]
"""
HTML = b"<!DOCTYPE html><html><title>Quota exceeded</title></html>"


class Place(NamedTuple):
    """A folder with a study that has run: its data, its weights, and its cube."""

    folder: Path
    x: np.ndarray
    y: np.ndarray
    state: dict[str, torch.Tensor]
    run: Callable[[], tuple[int, str]]

    def cube(self) -> dict[str, str]:
        """Return the hash of every file of the results but the locks."""
        files = (self.folder / "reports").rglob("*")
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.is_file() and "locks" not in path.parts
        }


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Place:
    digits = load_digits()
    x = np.round(digits.images[-60:] * 255 / 16).astype(np.uint8)
    y = digits.target[-60:]
    from metaeval.sources.models.architectures import mlp

    torch.manual_seed(0)
    module = mlp((1, 8, 8), 10)
    inputs = torch.tensor(digits.images[:1200, None] / 16, dtype=torch.float32)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs), torch.tensor(digits.target[:1200])).backward()
        optimizer.step()
    state = {name: value.detach().clone() for name, value in module.state_dict().items()}
    np.savez(tmp_path / "d.npz", x_test=x, y_test=y)
    save_file(state, tmp_path / "w.safetensors")
    (tmp_path / "study.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METAEVAL_CACHE_DIR", str(tmp_path / "cache"))

    def run() -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["metaeval", "run", "study.toml"])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capsys.readouterr().err

    return Place(tmp_path, x, y, state, run)


def arrays(place: Place, **changed: np.ndarray) -> None:
    np.savez(place.folder / "d.npz", **{"x_test": place.x, "y_test": place.y, **changed})


def keys(place: Place, old: str, new: str) -> None:
    study = place.folder / "study.toml"
    assert old in study.read_text()
    study.write_text(study.read_text().replace(old, new))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def weights(place: Place, **changed: torch.Tensor) -> None:
    save_file({**place.state, **changed}, place.folder / "w.safetensors")


def not_finite(place: Place) -> None:
    name = next(iter(place.state))
    weights(place, **{name: place.state[name].fill_(float("nan"))})


NAMES = 'path = "d.npz"\nclass_names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]'

# What is done, and what is said then.
BAD: dict[str, tuple[Callable[[Place], object], str]] = {
    "data cut off": (lambda p: cut(p.folder / "d.npz"), "d.npz is no .npz file, or damaged"),
    "data are a web page": (
        lambda p: (p.folder / "d.npz").write_bytes(HTML),
        "d.npz is no .npz file, or damaged",
    ),
    "other size": (lambda p: arrays(p, x_test=p.x[:, :7]), "does not fit the architecture"),
    "grey for colour": (
        lambda p: arrays(p, x_test=np.stack([p.x] * 3, axis=1)),
        "(built for the data: inputs (3, 8, 8), 10 classes)",
    ),
    "one label less": (lambda p: arrays(p, y_test=p.y[:-1]), "'y_test' has 59 labels for 60 inputs"),
    "labels off by one": (lambda p: arrays(p, y_test=p.y + 1), "labels start at 0: subtract 1"),
    "labels turned by one": (
        lambda p: arrays(p, y_test=(p.y + 1) % 10),
        "the cube's samples are not the study's: sample 0 is 'test/0' with class",
    ),
    "label beyond the classes": (
        lambda p: (keys(p, 'path = "d.npz"', NAMES), arrays(p, y_test=np.where(p.y == 9, 10, p.y))),
        "10 names for 11 classes: the highest label is 10",
    ),
    "empty class": (
        lambda p: arrays(p, y_test=np.where(p.y == 4, 5, p.y)),
        "no sample has the label 4, but labels go up to 9",
    ),
    "one class": (lambda p: arrays(p, y_test=p.y * 0), "all samples are of class '0'; two are needed"),
    "NaN inputs": (
        lambda p: arrays(p, x_test=np.where(p.x > 250, np.nan, p.x / 255)),
        "inputs must be finite; 'x_test' has nan at index",
    ),
    "[0, 255]": (
        lambda p: arrays(p, x_test=p.x.astype(float)),
        "inputs must lie in [0, 1]; 'x_test' goes from 0",
    ),
    "normalised": (lambda p: arrays(p, x_test=p.x / 255 - 0.5), "store the data without normalisation"),
    "wrong split": (
        lambda p: keys(p, 'source = "npz"', 'source = "npz"\nsplit = "train"'),
        "data.split: d.npz has no array 'x_train'; it has: x_test, y_test",
    ),
    "other order": (
        lambda p: arrays(p, x_test=p.x[::-1], y_test=p.y[::-1]),
        "the cube's samples are not the study's: sample 0",
    ),
    "a sample twice": (
        lambda p: arrays(p, x_test=p.x[np.r_[0:59, 3]], y_test=p.y[np.r_[0:59, 3]]),
        "1 of 60 samples repeat the input of another (test/59 is test/3)\nthe cube's samples are not",
    ),
    "weights cut off": (lambda p: cut(p.folder / "w.safetensors"), "w.safetensors is no safetensors file"),
    "weights are a web page": (
        lambda p: (p.folder / "w.safetensors").write_bytes(HTML),
        "w.safetensors is a web page, not a file of weights",
    ),
    "weights with NaN": (not_finite, "w.safetensors has numbers that are not finite in "),
    "weights of another shape": (
        lambda p: weights(p, **{next(iter(p.state)): torch.zeros(3, 3)}),
        "does not fit the architecture",
    ),
    "wrong hash": (
        lambda p: keys(p, 'weights = "w', f'sha256 = "{"0" * 64}"\nweights = "w'),
        "models[0].sha256: w.safetensors has the sha256 ",
    ),
}


def test_bad_input_leaves_the_cube_as_it_was(place: Place) -> None:
    code, said = place.run()
    assert code == 0, said
    before = place.cube()
    assert len(before) > 20
    good = {path: path.read_bytes() for path in place.folder.iterdir() if path.is_file()}
    for name, (spoil, message) in BAD.items():
        state = {key: value.clone() for key, value in place.state.items()}
        spoil(place)
        code, said = place.run()
        assert code == 2, (name, said)
        assert message in said, name
        assert "Traceback" not in said, name
        assert place.cube() == before, name
        place.state.update(state)
        for path, content in good.items():
            path.write_bytes(content)
    code, said = place.run()
    assert code == 0, said


def test_a_model_that_is_near_chance_changes_no_result(place: Place) -> None:
    """Labels that are off by one, found by predictions alone: in a model that is new to the cube."""
    code, said = place.run()
    assert code == 0, said
    before = metaeval.open_cube(place.folder / "reports" / "bad")["linf"].to_dataset().load()
    last = list(place.state)[-2:]
    turned = {key: torch.roll(place.state[key], 1, dims=0).contiguous() for key in last}
    save_file({**place.state, **turned}, place.folder / "turned.safetensors")
    table = '[[models]]\nsource = "checkpoint"\narchitecture = "mlp"\nweights = "turned.safetensors"\n\n'
    keys(place, "[[threat_models]]", f"{table}[[threat_models]]")
    code, said = place.run()
    assert code == 2
    assert "turned: clean accuracy is" in said
    assert "labels are off by one: predictions equal label +1" in said
    after = metaeval.open_cube(place.folder / "reports" / "bad")["linf"].to_dataset().load()
    for name in ("robust_accuracy", "correct", "status"):
        np.testing.assert_array_equal(after[name].sel(model="w"), before[name].sel(model="w"))
    assert (after.correct.sel(model="turned", attack="apgd-ce") == -1).all()


def test_copies_of_samples_are_said_and_counted(place: Place) -> None:
    rows = np.r_[0:58, 3, 3]
    labels = place.y[rows]
    labels[-1] = (labels[-1] + 1) % 10
    arrays(place, x_test=place.x[rows], y_test=labels)
    code, said = place.run()
    assert code == 0
    expected = "2 of 60 samples repeat the input of another (test/58 is test/3), 1 of them with another label"
    assert expected in said
