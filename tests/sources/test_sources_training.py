"""Training: decided by seed and data alone, kept whole or not at all, and good enough to be attacked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from metaeval.sources.data import open_data, take
from metaeval.sources.models import LoadedModel, TrainingError, loading, train_model, training_identity
from metaeval.sources.models.settings import training_settings
from metaeval.sources.models.adversarial import perturb

ALL = "batch_norm = true\ndropout = 0.3\nadversarial_epsilon = 0.1\nadversarial_steps = 2\nepochs = 1\n"
CNN = 'source = "train"\narchitecture = "cnn"\nwidth = 4\nbatch_size = 100\n' + ALL
QUICK = 'source = "train"\narchitecture = "mlp"\nwidth = 16\nepochs = 1\n'


def weights(model: LoadedModel) -> dict[str, torch.Tensor]:
    return model.module.state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_seed_decides_whatever_ran_before(write_study: Any, entries: Any, tmp_path: Path) -> None:
    study = write_study('source = "digits"', CNN, QUICK, CNN + 'seed = 1\nname = "other"')
    first, second, other = entries(study)
    digits = open_data(study, "train")
    alone = train_model(first, digits, tmp_path / "a")
    torch.manual_seed(99)
    torch.rand(7)
    before = torch.get_rng_state()
    train_model(second, digits, tmp_path / "b")
    again = train_model(first, digits, tmp_path / "b")
    assert torch.equal(torch.get_rng_state(), before), "training moved the global generator"
    assert equal(weights(alone), weights(again))
    assert alone.identity == again.identity
    assert alone.weights_sha256 == again.weights_sha256
    torch.set_num_threads(2)
    assert equal(weights(alone), weights(train_model(first, digits, tmp_path / "c")))
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    different = train_model(other, digits, tmp_path / "b")
    assert not equal(weights(alone), weights(different))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_optimizer_and_norm_learns(
    write_study: Any, entries: Any, tmp_path: Path, optimizer: str, norm: str
) -> None:
    table = (
        f'source = "train"\narchitecture = "mlp"\noptimizer = "{optimizer}"\nepochs = 3\n'
        f'adversarial_norm = "{norm}"\nadversarial_epsilon = 0.1\nadversarial_steps = 2\n'
    )
    study = write_study('source = "digits"', table)
    (entry,) = entries(study)
    model = train_model(entry, open_data(study, "train"), tmp_path)
    log = json.loads(next(tmp_path.glob("models/*/log.json")).read_text())
    assert [epoch["loss"] for epoch in log["epochs"]] == sorted(
        (epoch["loss"] for epoch in log["epochs"]), reverse=True
    )
    assert model.training is not None
    assert model.training["accuracy"] > 0.8


def accuracy(model: LoadedModel, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return (model.module(x).argmax(1) == y).double().mean().item()


def test_models_are_good_and_adversarial_training_pays(
    write_study: Any, entries: Any, tmp_path: Path
) -> None:
    grid = "grid = { adversarial_epsilon = [0, 0.1] }\nadversarial_steps = 3\nepochs = 15\n"
    study = write_study('source = "digits"', f'source = "train"\narchitecture = "cnn"\n{grid}')
    samples = take(study, open_data(study, "test"))
    x, y = torch.from_numpy(samples.x), torch.from_numpy(samples.y)
    robust = []
    for entry in entries(study):
        model = train_model(entry, open_data(study, "train"), tmp_path)
        assert accuracy(model, x, y) >= 0.95
        # One gradient step (Goodfellow et al. 2015) by hand.
        point = x.clone().requires_grad_()
        cross_entropy(model.module(point), y).backward()
        assert point.grad is not None
        robust.append(accuracy(model, (x + 0.1 * point.grad.sign()).clamp(0, 1), y))
    assert robust[1] > robust[0] + 0.1


@pytest.mark.parametrize("shape", [(1, 8, 8), (20,)])
@pytest.mark.parametrize(("norm", "order"), [("linf", float("inf")), ("l2", 2)])
def test_adversarial_inputs_stay_inside_and_raise_the_loss(
    norm: str, order: float, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(int(np.prod(shape)), 3))
    x, y = torch.rand(50, *shape), torch.arange(50) % 3
    given = {"adversarial_norm": norm, "adversarial_epsilon": 0.2}
    found = perturb(model, x, y, training_settings(given, seed=0), torch.Generator().manual_seed(0))
    assert found.min() >= 0
    assert found.max() <= 1
    distance = torch.linalg.vector_norm((found - x).double().flatten(1), ord=order, dim=1)
    assert distance.max() <= 0.2 * (1 + 1e-6)
    assert distance.mean() > 0.15
    before, after = (cross_entropy(model(inputs), y, reduction="none") for inputs in (x, found))
    assert (after > before).all()


def test_what_was_trained_is_not_trained_again(
    write_study: Any, entries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study('source = "digits"', QUICK, QUICK + 'name = "same"')
    first, same = entries(study)
    done: list[float] = []
    digits = open_data(study, "train")
    fresh = train_model(first, digits, tmp_path, progress=done.append)
    assert done == sorted(done)
    assert done[-1] == 1
    monkeypatch.setattr(loading, "train", None)
    cached = train_model(same, open_data(study, "train"), tmp_path, progress=done.append)
    assert equal(weights(fresh), weights(cached))
    assert (fresh.identity, fresh.training) == (cached.identity, cached.training)
    assert cached.parameters == 64 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10


def test_initial_weights_and_log_are_kept(write_study: Any, entries: Any, tmp_path: Path) -> None:
    study = write_study('source = "digits"', QUICK, QUICK.replace("epochs = 1", "epochs = 2\nname = 'two'"))
    short, long = entries(study)
    digits = open_data(study, "train")
    model = train_model(short, digits, tmp_path)
    train_model(long, digits, tmp_path)
    folders = [tmp_path / "models" / training_identity(entry, digits) for entry in (short, long)]
    initial = [load_file(folder / "initial.safetensors") for folder in folders]
    assert equal(*initial)
    assert not equal(initial[0], load_file(folders[0] / "weights.safetensors"))
    assert equal(weights(model), load_file(folders[0] / "weights.safetensors"))
    log = json.loads((folders[1] / "log.json").read_text())
    assert len(log["epochs"]) == log["training"]["epochs"] == 2
    assert log["data"] == {"name": "digits", "split": "train", "samples": 1297}


def test_the_cache_is_keyed_by_all_that_decides(
    write_study: Any, entries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = [
        "",
        "seed = 1",
        "depth = 1",
        "learning_rate = 0.5",
        "normalize = { mean = [0.5], std = [0.5] }",
    ]
    tables = [f'{QUICK}{line}\nname = "m{i}"' for i, line in enumerate(variants)]
    study = write_study('source = "digits"', *tables)
    found = entries(study)
    data = open_data(study, "train")
    identities = {training_identity(entry, data) for entry in found}
    x = data.read(np.arange(len(data)))
    x[5, 0, 3, 3] += 1e-3
    changed = replace(data, read=lambda indices: x[indices])
    identities.add(training_identity(found[0], changed))
    labels = data.labels.copy()
    labels[5] = (labels[5] + 1) % 10
    identities.add(training_identity(found[0], replace(data, labels=labels)))
    monkeypatch.setattr(loading, "TRAINING_VERSION", 0)
    identities.add(training_identity(found[0], data))
    assert len(identities) == len(variants) + 3


@pytest.mark.parametrize("failing", [0, 1])
def test_an_interrupted_write_leaves_no_half_model(
    write_study: Any, entries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    study = write_study('source = "digits"', QUICK)
    (entry,) = entries(study)
    data = open_data(study, "train")
    save = loading.save_file
    calls = iter(range(9))

    def interrupted(state: Any, path: Path) -> None:
        save(state, path)
        if next(calls) == failing:
            path.write_bytes(path.read_bytes()[:50])
            raise KeyboardInterrupt

    monkeypatch.setattr(loading, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_model(entry, data, tmp_path)
    assert not list(tmp_path.glob("models/*"))
    monkeypatch.setattr(loading, "save_file", save)
    train_model(entry, data, tmp_path)
    assert [folder.name for folder in tmp_path.glob("models/*")] == [training_identity(entry, data)]


@pytest.mark.parametrize("file", ["weights.safetensors", "initial.safetensors", "log.json"])
def test_a_damaged_cache_is_trained_anew(write_study: Any, entries: Any, tmp_path: Path, file: str) -> None:
    study = write_study('source = "digits"', QUICK)
    (entry,) = entries(study)
    data = open_data(study, "train")
    first = train_model(entry, data, tmp_path)
    damaged = next(tmp_path.glob(f"models/*/{file}"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    second = train_model(entry, data, tmp_path)
    assert equal(weights(first), weights(second))
    assert first.identity == second.identity
    assert len(list(tmp_path.glob("models/*"))) == 1


def test_a_faster_process_wins(
    write_study: Any, entries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study('source = "digits"', QUICK)
    (entry,) = entries(study)
    data = open_data(study, "train")
    train = loading.train

    def meanwhile(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(loading, "train", train)
        theirs.append(train_model(entry, data, tmp_path))
        return train(*args, **options)

    theirs: list[LoadedModel] = []
    monkeypatch.setattr(loading, "train", meanwhile)
    ours = train_model(entry, data, tmp_path)
    assert ours.training == theirs[0].training
    assert len(list(tmp_path.glob("models/*"))) == 1


def test_divergence_is_said_and_not_kept(write_study: Any, entries: Any, tmp_path: Path) -> None:
    study = write_study('source = "digits"', QUICK + 'optimizer = "sgd"\nlearning_rate = 1e30\n')
    (entry,) = entries(study)
    with pytest.raises(TrainingError, match=r"diverged: .* in epoch 1 \(sgd, learning rate 1e\+30\)"):
        train_model(entry, open_data(study, "train"), tmp_path)
    assert not list(tmp_path.glob("models/*"))


def test_a_last_batch_of_one_sample_is_no_error(write_study: Any, entries: Any, tmp_path: Path) -> None:
    table = 'source = "train"\narchitecture = "cnn"\nbatch_norm = true\nepochs = 1\nbatch_size = 1296\n'
    study = write_study('source = "digits"', table)
    (entry,) = entries(study)
    assert train_model(entry, open_data(study, "train"), tmp_path).training is not None
