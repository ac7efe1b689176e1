"""Families of models: every combination of a grid once, and every mistake at its place."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from metaeval.sources.models.schedules import SCHEDULES
from metaeval.sources.models.settings import ADVERSARIAL_STEPS, LEARNING_RATES, TrainingSettings
from metaeval.sources.models.train import _written
from metaeval.study.inputs import Settings

CNN = 'source = "train"\narchitecture = "cnn"\n'
PLACE = "models[0].architecture"
MLP = 'source = "train"\narchitecture = "mlp"\n'


def names(entries: list[Any]) -> list[str]:
    return [entry.name for entry in entries]


def test_every_combination_is_one_model(write_study: Any, entries: Any) -> None:
    grid = 'grid = { depth = [1, 2], optimizer = ["sgd", "adam"], learning_rate = [0.1, "1/1000"] }'
    found = entries(write_study('source = "digits"', f"{CNN}epochs = 3\n{grid}", seed=5))
    assert names(found)[:3] == [
        "cnn-depth=1-sgd-learning_rate=0.1",
        "cnn-depth=1-sgd-learning_rate=0.001",
        "cnn-depth=1-adam-learning_rate=0.1",
    ]
    assert len({entry.identity for entry in found}) == len(found) == 8
    assert found[0].settings == {
        "depth": 1,
        "width": 16,
        "dropout": 0.0,
        "batch_norm": True,
        "kernel": 3,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "schedule": "constant",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "batch_size": 64,
        "augmentation": "none",
        "epochs": 3,
        "seed": 5,
        "adversarial_epsilon": 0.0,
    }
    assert found[0].needs_training
    assert found[0].training.passes(100) == (300, 300)


def test_what_does_not_apply_makes_no_second_model(write_study: Any, entries: Any) -> None:
    grid = (
        'grid = { adversarial_norm = ["linf", "l2"], adversarial_epsilon = [0, "8/255"], '
        'optimizer = ["adam", "sgd"], momentum = [0, 0.9] }'
    )
    found = entries(write_study('source = "digits"', MLP + 'name = "m"\n' + grid))
    assert set(names(found)) == {
        "m-adam-adversarial_epsilon=0",
        "m-sgd-momentum=0-adversarial_epsilon=0",
        "m-sgd-momentum=0.9-adversarial_epsilon=0",
        "m-adam-linf-adversarial_epsilon=8_255",
        "m-sgd-momentum=0-linf-adversarial_epsilon=8_255",
        "m-sgd-momentum=0.9-linf-adversarial_epsilon=8_255",
        "m-adam-l2-adversarial_epsilon=8_255",
        "m-sgd-momentum=0-l2-adversarial_epsilon=8_255",
        "m-sgd-momentum=0.9-l2-adversarial_epsilon=8_255",
    }
    assert len(found) == len({entry.identity for entry in found}) == 9
    (robust,) = [entry for entry in found if entry.name == "m-adam-l2-adversarial_epsilon=8_255"]
    assert robust.settings["adversarial_steps"] == 7
    assert robust.training.passes(10) == (10 * 20 * 8, 10 * 20 * 8)


def test_settings_of_schedules_augmentation_targets_and_trades(write_study: Any, entries: Any) -> None:
    grid = (
        'grid = { schedule = ["constant", "step"], augmentation = ["none", "flip+crop"], '
        'target_loss = [0.1], adversarial_method = ["pgd", "trades"], adversarial_epsilon = ["8/255"], '
        "trades_beta = [1, 6] }"
    )
    found = entries(write_study('source = "digits"', f'{CNN}name = "m"\n{grid}'))
    assert len(found) == 2 * 2 * 3
    named = {entry.name: entry for entry in found}
    pgd = named["m-constant-augmentation=none-target_loss=0.1-pgd-adversarial_epsilon=8_255"]
    trades = named[
        "m-step-augmentation=flip+crop-target_loss=0.1-trades-adversarial_epsilon=8_255-trades_beta=6"
    ]
    assert "trades_beta" not in pgd.settings
    assert trades.settings["trades_beta"] == 6
    assert trades.settings["adversarial_steps"] == 10
    # Steps and the batch itself, and the evaluation after each epoch.
    assert pgd.training.passes(10) == (20 * 10 * (7 + 1 + 1), 20 * 10 * (7 + 1))
    # Steps, two terms, what the steps are away from, and the evaluation.
    assert trades.training.passes(10) == (20 * 10 * (10 + 2 + 1 + 1), 20 * 10 * (10 + 2))


GRID = """grid = { width = [8, 16, 32], depth = [1, 2], dropout = [0, 0.3], optimizer = ["sgd", "adam"],
learning_rate = [0.01, 0.001], momentum = [0, 0.9], seed = [0, 1] }
"""


def test_samples_of_a_grid_are_distinct_and_only_grow(write_study: Any, entries: Any) -> None:
    everything = set(names(entries(write_study('source = "digits"', CNN + GRID.replace("\nlear", " lear")))))
    assert len(everything) == 3 * 2 * 2 * (2 * 2 * 2 + 2 * 2)  # Adam takes no momentum
    drawn = []
    for number in (1, 7, 60, len(everything)):
        table = f"{CNN}sample = {number}\n" + GRID.replace("\nlear", " lear")
        drawn.append(names(entries(write_study('source = "digits"', table))))
        assert len(set(drawn[-1])) == len(drawn[-1]) == number
    for fewer, more in itertools.pairwise(drawn):
        assert more[: len(fewer)] == fewer
    assert set(drawn[-1]) == everything
    other = names(entries(write_study('source = "digits"', table.replace("144", "60"), seed=1)))
    assert other[:10] != drawn[-1][:10]
    # Every value of the grid is drawn about as often: 30 of 60 with dropout, standard deviation below 4.
    assert 15 < sum("dropout=0.3" in name for name in drawn[2]) < 45


def test_the_family_of_the_readme_has_sixty_models(write_study: Any, entries: Any) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (table,) = re.findall(r"^```toml\n\[\[models\]\]\n(source = \"train\"\n.*?)^```", readme, re.M | re.S)
    found = entries(write_study('source = "digits"', table))
    assert len({entry.identity for entry in found}) == 60
    assert {entry.training.adversarial_method for entry in found} == {"trades", None}


def test_every_schedule_optimizer_and_method_can_be_named() -> None:
    def named(key: str) -> set[str]:
        return set(get_args(get_args(Settings.model_fields[key].annotation)[0]))

    assert named("schedule") == set(SCHEDULES)
    assert named("optimizer") == set(LEARNING_RATES)
    assert named("adversarial_method") == set(ADVERSARIAL_STEPS)
    assert Settings.model_fields.keys() >= TrainingSettings.__dataclass_fields__.keys()


def test_what_is_wrong_with_samples_and_augmentation(
    write_study: Any, entries: Any, problems: Any, tmp_path: Path
) -> None:
    study = write_study(
        'source = "digits"',
        MLP + "sample = 5\ngrid = { width = [4, 8] }",
        CNN + 'grid = { adversarial_epsilon = [0, 0.1], adversarial_method = ["pgd"] }\ntrades_beta = 2',
        MLP
        + 'name = "large"\nsample = 2\n'
        + f"grid = {{ seed = {list(range(1001))}, width = {list(range(1, 1001))} }}",
    )
    assert problems(study, lambda: entries(study)) == [
        "models[0].sample: 5 models asked for; the grid has 2",
        "models[1].trades_beta: "
        "has no effect: none of these models is trained by TRADES (adversarial_method)",
        "models[2].grid: 1,001,000 combinations; a grid has at most 1,000,000",
    ]
    arrays = {f"x_{split}": np.zeros((4, 9)) for split in ("train", "test")}
    labels = {f"y_{split}": [0, 1, 0, 1] for split in ("train", "test")}
    np.savez(tmp_path / "d.npz", **arrays, **labels)
    table = MLP + 'grid = { augmentation = ["none", "flip"] }'
    study = write_study('source = "npz"\npath = "d.npz"', table, 'source = "train"\narchitecture = "resnet"')
    first, second = problems(study, lambda: entries(study))
    assert first == (
        "models[0].grid.augmentation: images (channels, height, width) can be flipped and cropped, "
        "the data have inputs (9,)"
    )
    assert second.startswith("models[1].architecture: resnet takes images")


def test_a_longer_grid_renames_nothing(write_study: Any, entries: Any) -> None:
    short = entries(write_study('source = "digits"', MLP + "grid = { seed = [1], width = [8] }"))
    long = entries(write_study('source = "digits"', MLP + "grid = { width = [4, 8], seed = [0, 1] }"))
    assert {(entry.name, entry.identity) for entry in short} < {
        (entry.name, entry.identity) for entry in long
    }


def test_a_default_is_the_same_model_when_it_is_written(write_study: Any, entries: Any) -> None:
    written = 'name = "w"\nwidth = 128\noptimizer = "adam"\nlearning_rate = "3/1000"\nseed = 0\n'
    in_settings = 'name = "s"\narchitecture_settings = { width = 128 }\n'
    long = MLP.replace('"mlp"', '"metaeval.sources.models.architectures:mlp"') + 'name = "l"'
    found = entries(write_study('source = "digits"', MLP, MLP + written, MLP + in_settings, long))
    assert len({entry.identity for entry in found}) == 1
    assert {entry.family for entry in found} == {"mlp", "metaeval.sources.models.architectures:mlp"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.1, "0.1"),
        (8 / 255, "8_255"),
        (1 / 3, repr(1 / 3)),
        (True, "yes"),
        (3, "3"),
        ("l2", "l2"),
    ],
)
def test_values_in_names(value: Any, text: str) -> None:
    assert _written(value) == text


def test_all_mistakes_of_all_tables_are_found_at_once(write_study: Any, entries: Any, problems: Any) -> None:
    tables = [
        'source = "train"\narchitecture = "cmn"\n',
        MLP + "kernel = 3\n",
        MLP + 'name = "b"\ngrid = { batch_norm = [true, false] }\n',
        MLP + 'name = "c"\nmomentum = 0.9\n',
        MLP + 'name = "d"\nadversarial_epsilon = 0\nadversarial_steps = 3\n',
        MLP + 'name = "e"\nwidth = 3\narchitecture_settings = { width = 3, widht = 4 }\n',
        CNN + "kernel = 4\n",
        MLP + "name = 'ok'",
        MLP + "name = 'ok'",
    ]
    study = write_study('source = "digits"', *tables)
    first, *others = problems(study, lambda: entries(study))
    allowed = "cnn, lenet_small, mlp, resnet, vgg, or 'module:callable'"
    assert first == f"{PLACE}: unknown architecture 'cmn'; allowed: {allowed}"
    assert others == [
        "models[1].kernel: mlp has no setting 'kernel'; it has: depth, dropout, width",
        "models[2].grid.batch_norm: mlp has no setting 'batch_norm'; it has: depth, dropout, width",
        "models[3].momentum: has no effect: none of the optimizers of these models takes it",
        "models[4].adversarial_steps: has no effect: adversarial_epsilon is 0 for all of these models",
        "models[5].architecture_settings.widht: "
        "unknown setting of mlp 'widht'; allowed: depth, dropout, width",
        "models[5].width: given in architecture_settings too; write width once",
        "models[6].architecture: cnn needs an odd kernel, got 4",
        "models[8].name: models[7] has a model 'ok' too; set name to tell them apart",
    ]


def test_vectors_are_no_images(write_study: Any, entries: Any, problems: Any, tmp_path: Path) -> None:
    arrays = {f"x_{split}": np.zeros((4, 9)) for split in ("train", "test")}
    labels = {f"y_{split}": [0, 1, 0, 1] for split in ("train", "test")}
    np.savez(tmp_path / "d.npz", **arrays, **labels)
    study = write_study('source = "npz"\npath = "d.npz"', CNN, MLP)
    (problem,) = problems(study, lambda: entries(study))
    assert (
        problem
        == "models[0].architecture: cnn takes images (channels, height, width), the data have inputs (9,)"
    )


def test_training_data_must_be_there_and_alike(
    write_study: Any, entries: Any, problems: Any, tmp_path: Path
) -> None:
    np.savez(tmp_path / "d.npz", x_test=np.zeros((4, 8, 8)), y_test=[0, 1, 0, 1])
    study = write_study('source = "npz"\npath = "d.npz"')
    (problem,) = problems(study, lambda: entries(study))
    assert problem.startswith("data.train_split: d.npz has no array 'x_train'")
    split = {"x_train": np.zeros((2, 9, 9)), "y_train": [0, 1]}
    np.savez(tmp_path / "d.npz", x_test=np.zeros((4, 8, 8)), y_test=[0, 1, 0, 1], **split)
    (problem,) = problems(study, lambda: entries(study))
    assert problem == "data.train_split: inputs of the split 'train' are (1, 9, 9), those of 'test' (1, 8, 8)"


def test_classes_of_both_splits_must_have_the_same_names(
    write_study: Any, entries: Any, problems: Any, tmp_path: Path
) -> None:
    for name in ("test/cat", "test/dog", "train/cat", "train/hound"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "images" / name / "0.png")
    study = write_study('source = "images"\npath = "images"')
    assert problems(study, lambda: entries(study)) == [
        "data.train_split: classes of 'train' and 'test' differ: 2 and 2, differing in dog, hound"
    ]
