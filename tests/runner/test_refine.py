"""Refinement of two linear models whose exact robustness curves cross at a known epsilon."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from counted import Counted
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from metaeval import refining
from metaeval.cube.opening import open_cube

SAMPLES = 400


def weights(images: np.ndarray, labels: np.ndarray, noise: float) -> dict[str, torch.Tensor]:
    """Return a least-squares classifier; trained with noise it is less accurate and more robust."""
    random = np.random.default_rng(0)
    x = np.concatenate([images + noise * random.normal(size=images.shape) for _ in range(20)])
    design = np.hstack([x, np.ones((len(x), 1))])
    solution = np.linalg.lstsq(design, np.tile(np.eye(10)[labels], (20, 1)), rcond=None)[0]
    return {
        "body.1.weight": torch.tensor(solution[:-1].T.copy(), dtype=torch.float32),
        "body.1.bias": torch.tensor(solution[-1], dtype=torch.float32),
    }


def exact_distance(state: dict[str, torch.Tensor], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the exact linf distances of a linear model inside [0, 1], by bisection for each other class."""
    w, b = (state[f"body.1.{name}"].double().numpy() for name in ("weight", "bias"))
    logits = x @ w.T + b
    smallest = np.full(len(x), np.inf)
    for other in range(10):
        slope = w[y] - w[other]  # moving against it makes the other class larger
        margin = logits[np.arange(len(y)), y] - logits[:, other]
        room = np.where(slope > 0, x, 1 - x)
        low, high = np.zeros(len(x)), np.ones(len(x))
        for _ in range(40):
            middle = (low + high) / 2
            reached = (np.abs(slope) * np.minimum(room, middle[:, None])).sum(1) >= margin
            low, high = np.where(reached, low, middle), np.where(reached, middle, high)
        distance = np.where(margin <= 0, 0.0, high)
        smallest = np.where(y == other, smallest, np.minimum(smallest, distance))
    return smallest


@pytest.fixture
def crossing(counted: Counted) -> tuple[Counted, np.ndarray]:
    """Return a folder with the two models, and the epsilons at which they exactly change places."""
    digits = load_digits()
    images, labels = digits.data / 16, digits.target
    test = slice(1297, 1297 + SAMPLES)
    distances = []
    for name, noise in (("sharp", 0.02), ("flat", 1.0)):
        state = weights(images[:1297], labels[:1297], noise)
        save_file(state, counted.folder / f"{name}.safetensors")
        distances.append(exact_distance(state, images[test], labels[test]))
    grid = np.linspace(0, 0.1, 2001)
    difference = (distances[0][:, None] > grid).mean(0) - (distances[1][:, None] > grid).mean(0)
    counted.write({"sharp": "", "flat": ""}, samples=SAMPLES + 50, epsilons='["0", "0.05", "0.1"]')
    signs = np.sign(difference)
    last, first = np.flatnonzero(signs > 0).max(), np.flatnonzero(signs < 0).min()
    return counted, grid[[min(last, first), max(last, first)]]


def test_the_bracket_closes_around_the_exact_crossing(crossing: tuple[Counted, np.ndarray]) -> None:
    folder, exact = crossing
    folder.metaeval("run", "study.toml", "-q", "--limit", str(SAMPLES))
    whole = folder.forwards()
    proposed = json.loads(folder.metaeval("refine", "study.toml", "--json").stdout)
    assert proposed["computed"] == []
    assert proposed["next"]["low"] < float(proposed["next"]["epsilon"]) < proposed["next"]["high"]
    assert folder.forwards() == whole  # proposing computes nothing
    text = folder.metaeval("refine", "study.toml", "--run", "--budget", "3", "-q").stdout
    assert "3 epsilons computed; to keep them in the study file:" in text
    assert folder.forwards() - whole < whole  # only inside each sample's bracket
    cube = open_cube(folder.folder / "reports" / "counted")
    assert int(cube["linf"]["total"].sum()) == SAMPLES  # what the run was limited to
    epsilons = cube["linf"]["epsilon"].values
    assert len(epsilons) == 6
    assert proposed["next"]["epsilon"] in {f"{epsilon:g}" for epsilon in epsilons}
    step = refining.advise(cube).next
    assert step is not None
    assert 0 < step.high - step.low < 0.05
    sign = np.sign(cube["linf"]["correct"].sel(attack="worst-case").sum("class").diff("model").values[0])
    changes = np.flatnonzero(np.diff(sign))
    assert epsilons[changes[0]] <= exact[1]
    assert exact[0] <= epsilons[changes[-1] + 1]


def test_where_nothing_crosses_there_is_nothing_to_refine(counted: Counted) -> None:
    counted.write({"one": ""}, samples=30)
    counted.metaeval("run", "study.toml", "-q")
    assert "under no norm are two models complete" in counted.metaeval("refine", "study.toml").stdout
    counted.write({"one": "", "two": ""}, samples=30)
    counted.metaeval("run", "study.toml", "-q")
    said = counted.metaeval("refine", "study.toml", "--run").stdout
    assert "no crossing is certified" in said
    assert "epsilons computed" not in said
    assert "not above 0" in counted.metaeval("refine", "study.toml", "--tolerance", "0", expect=2).stderr


def test_a_proposed_epsilon_can_be_written_into_a_study() -> None:
    import metaeval

    study = metaeval.load_study("studies/quickstart.toml")
    step = refining.Step("l2", "0.0328286", "a", "b", 0.0, 0.1)
    refined = refining.with_epsilon(study, step)
    assert [len(threat.epsilons) for threat in refined.threat_models] == [9, 10]
    assert sorted(e.value for e in refined.threat_models[1].epsilons)[1] == 0.0328286
    assert len(refining.with_epsilon(refined, step).threat_models[1].epsilons) == 10
