"""What each measure costs per model: seconds, rows forward and backward, on a family of small CNNs.

OMP_NUM_THREADS=1 python benchmarks/measures.py
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch

import metaeval
from metaeval.cube.layout import MEASURE_STATUS
from metaeval.runner.run import run_study
from metaeval.study import load_study

GOAL = 45.0  # minutes for 50 models on two cores
MODELS = 50
SHOWN = 0.05  # seconds; cheaper measures are one row together

DATA = {
    "digits": 'source = "digits"',
    "cifar": 'source = "images"\nname = "cifar10-jpeg"\n'
    'path = "${METAEVAL_SHARED_DATA}/cifar10-images.tar.xz"',
}
STUDY = """
schema_version = 1
[study]
name = "measures"
[data]
%(data)s
samples = %(samples)d
select = "stratified"
%(available)s
[[models]]
source = "train"
architecture = "cnn"
epochs = %(epochs)d
sample = %(models)d
[models.grid]
depth = [2, 3, 4]
width = [8, 16]
batch_norm = [true, false]
seed = [0, 1, 2, 3]
[[threat_models]]
norm = "linf"
epsilons = ["0", "1/255"]
attacks = ["fgsm@torchattacks"]
[[shifts]]
source = "corruptions"
names = ["gaussian_noise"]
severities = [1, 3]
[[shifts]]
source = "attacked"
attack = "pgd"
norm = "linf"
epsilon = "2/255"
[measures]
families = [
  "performance", "uncertainty", "calibration", "margin", "gradient", "norm", "sharpness", "attacked",
]
train_samples = %(train)d
"""


def main() -> None:
    """Train and measure a family, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=DATA, default="cifar")
    parser.add_argument("--models", type=int, default=6)
    parser.add_argument("--samples", type=int, default=250)
    parser.add_argument("--train-samples", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    available = f"train_samples = {4 * arguments.train_samples}" if arguments.data == "cifar" else ""
    values = {
        "data": DATA[arguments.data],
        "samples": arguments.samples,
        "models": arguments.models,
        "epochs": arguments.epochs,
        "train": arguments.train_samples,
        "available": available,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "study.toml")
        path.write_text(STUDY % values)
        run_study(load_study(path), output=Path(folder, "out"), quiet=True)
        group = metaeval.open_cube(Path(folder, "out"))["measures"].to_dataset().load()
    asked = group.status != MEASURE_STATUS["skipped"]
    ok = (group.status == MEASURE_STATUS["ok"]).sum(("model", "scope")).values
    seconds = group.seconds.where(asked).sum("scope").values  # (model, measure)
    rows = [group[name].where(asked, 0).sum("scope").values for name in ("forwards", "backwards")]
    cells = asked.sum(("model", "scope")).values
    print(
        f"python {platform.python_version()}, metaeval {metaeval.__version__}, torch {torch.__version__}, "
        f"threads {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f}"
    )
    print(f"{arguments.data}: {len(group.model)} models, {arguments.train_samples} training samples\n")
    print("| measure | family | s/model: mean | largest | forwards | backwards | values |")
    print("|---|---|--:|--:|--:|--:|--:|")
    cheap = [k for k in range(len(group.measure)) if seconds[:, k].mean() < SHOWN]
    for k in np.argsort(-seconds.mean(axis=0)):
        if k in cheap:
            continue
        counts = " | ".join(f"{part[:, k].mean():,.0f}" for part in rows)
        print(
            f"| {group.measure.values[k]} | {group.family.values[k]} | {seconds[:, k].mean():.3f} | "
            f"{seconds[:, k].max():.3f} | {counts} | {ok[k]} of {cells[k]} |"
        )
    counts = " | ".join(f"{part[:, cheap].sum(axis=1).mean():,.0f}" for part in rows)
    print(
        f"| {len(cheap)} others | | {seconds[:, cheap].sum(axis=1).mean():.3f} | "
        f"{seconds[:, cheap].sum(axis=1).max():.3f} | {counts} | {ok[cheap].sum()} of {cells[cheap].sum()} |"
    )
    whole = seconds.sum(axis=1)
    print(f"| all {len(group.measure)} | | {whole.mean():.2f} | {whole.max():.2f} | | | |\n")
    minutes = whole.mean() * MODELS / 60
    print(f"{MODELS} models on one core: {minutes:.1f} minutes; goal: {GOAL:g} minutes on two cores")


if __name__ == "__main__":
    main()
