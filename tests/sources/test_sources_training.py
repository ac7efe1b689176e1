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
from metaeval.sources.models import (
    LoadedModel,
    TrainingError,
    loading,
    train_model,
    training_failure,
    training_identity,
)
from metaeval.sources.models.training import no_better_than_chance

ALL = "batch_norm = true\ndropout = 0.3\nadversarial_epsilon = 0.1\nadversarial_steps = 2\nepochs = 1\n"
CNN = 'source = "train"\narchitecture = "cnn"\nwidth = 4\nbatch_size = 100\n' + ALL
ADVERSARIAL = {norm: f'adversarial_norm = "{norm}"' for norm in ("linf", "l2", "l1")}
ADVERSARIAL["trades"] = 'adversarial_method = "trades"'
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
@pytest.mark.parametrize(
    "adversarial", ["linf", "l2", "l1", "trades"], ids=["linf", "l2", "l1", "trades linf"]
)
def test_every_optimizer_and_norm_learns(
    write_study: Any, entries: Any, tmp_path: Path, optimizer: str, adversarial: str
) -> None:
    table = (
        f'source = "train"\narchitecture = "mlp"\noptimizer = "{optimizer}"\nepochs = 3\n'
        f"{ADVERSARIAL[adversarial]}\nadversarial_epsilon = 0.1\nadversarial_steps = 2\n"
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
    assert model.initial == folders[0] / "initial.safetensors"
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


def test_divergence_is_said_and_not_tried_again(
    write_study: Any, entries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study('source = "digits"', QUICK + 'optimizer = "sgd"\nlearning_rate = 1e30\n')
    (entry,) = entries(study)
    data = open_data(study, "train")
    assert training_failure(entry, data, tmp_path) is None
    said = r"diverged: .* in epoch 1 \(sgd, learning rate 1e\+30\)"
    with pytest.raises(TrainingError, match=said):
        train_model(entry, data, tmp_path)
    # The log and the weights before stay, and the next run needs no training to say the same.
    folder = tmp_path / "models" / training_identity(entry, data)
    log = json.loads((folder / "log.json").read_text())
    assert log["epochs"][0]["loss"] is None
    assert all(torch.isfinite(tensor).all() for tensor in load_file(folder / "initial.safetensors").values())
    monkeypatch.setattr(loading, "train", None)
    with pytest.raises(TrainingError, match=said):
        train_model(entry, data, tmp_path)
    assert "diverged" in str(training_failure(entry, data, tmp_path))


@pytest.mark.parametrize(
    ("correct", "word"),
    [(99, "not significantly above chance"), (112, "not significantly above chance"), (60, "below chance")],
)
def test_a_model_that_learned_nothing_has_failed(correct: int, word: str) -> None:
    labels = np.arange(1000) % 10  # chance: 100 of 1,000, standard deviation 9.5
    assert word in str(no_better_than_chance(correct, labels))
    assert no_better_than_chance(130, labels) is None


def test_chance_is_the_commonest_class_and_perfect_is_enough() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    assert "90.0%, the commonest class; 1000 samples" in str(no_better_than_chance(900, labels))
    assert no_better_than_chance(930, labels) is None
    assert no_better_than_chance(4, np.array([0, 1, 0, 1])) is None
    assert no_better_than_chance(3, np.array([0, 1, 0, 1])) is not None


def test_a_collapsed_model_fails_and_its_weights_are_kept(
    write_study: Any, entries: Any, tmp_path: Path
) -> None:
    # A perturbation of half of the whole range leaves nothing to learn.
    table = (
        QUICK + 'adversarial_epsilon = 0.9\nlearning_rate = 1e-9\noptimizer = "sgd"\nadversarial_steps = 1'
    )
    study = write_study('source = "digits"', table)
    (entry,) = entries(study)
    data = open_data(study, "train")
    with pytest.raises(TrainingError, match=r"training accuracy .* chance \(10\.\d%, the commonest class"):
        train_model(entry, data, tmp_path)
    assert load_file(tmp_path / "models" / training_identity(entry, data) / "weights.safetensors")


def test_a_target_loss_ends_training_and_is_recorded(write_study: Any, entries: Any, tmp_path: Path) -> None:
    near, far = "epochs = 30\ntarget_loss = 0.5\n", "epochs = 2\ntarget_loss = 1e-6\nname = 'far'\n"
    study = write_study('source = "digits"', *(QUICK.replace("epochs = 1\n", text) for text in (near, far)))
    data = open_data(study, "train")
    models = [train_model(entry, data, tmp_path) for entry in entries(study)]
    logs = [
        json.loads((tmp_path / "models" / training_identity(entry, data) / "log.json").read_text())
        for entry in entries(study)
    ]
    assert [log["training"]["reached_target"] for log in logs] == [True, False]
    assert [model.training["reached_target"] for model in models if model.training] == [True, False]
    losses = [epoch["clean_loss"] for epoch in logs[0]["epochs"]]
    assert len(losses) < 30
    assert losses[-1] < 0.5 <= min(losses[:-1])
    assert len(logs[1]["epochs"]) == 2
    # What was evaluated is the loss of the model that is returned.
    x = torch.from_numpy(data.read(np.arange(len(data))))
    with torch.no_grad():
        loss = cross_entropy(models[0].module(x), torch.from_numpy(data.labels)).item()
    assert loss == pytest.approx(losses[-1], rel=1e-5)


def test_a_last_batch_of_one_sample_is_no_error(write_study: Any, entries: Any, tmp_path: Path) -> None:
    table = 'source = "train"\narchitecture = "cnn"\nbatch_norm = true\nepochs = 1\nbatch_size = 1296\n'
    study = write_study('source = "digits"', table)
    (entry,) = entries(study)
    assert train_model(entry, open_data(study, "train"), tmp_path).training is not None
