"""Study files that several tests start from."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from metaeval.errors import StudyError
from metaeval.study import load_study

MINIMAL = """
schema_version = 1
[study]
name = "s"
[data]
source = "digits"
[[models]]
source = "train"
architecture = "cnn"
[[threat_models]]
norm = "linf"
epsilons = [0, "1/255", "8/255"]
attacks = ["apgd-ce", "square"]
"""

NPZ = MINIMAL.replace('source = "digits"', 'source = "npz"\npath = "{}"')

# The study file of the design, as far as it exists by now.
DESIGN = """
schema_version = 1

[study]
name = "robustbench_2023"
title = "Variation of accuracy and robustness across classes"
seed = 0

[data]
source = "images"
path = "cifar10-images.tar.xz"
split = "test"
samples = 500
select = "stratified"

[[models]]
source = "checkpoint"                 # path; safetensors or a torch state dict (weights only)
architecture = "metaeval.sources.models.architectures:lenet_small"
weights = "kw_cifar10_l2.safetensors"
normalize = { mean = [0.485, 0.456, 0.406], std = [0.225, 0.225, 0.225] }
family = "KW"

[[models]]
source = "train"                      # a family: every combination of the grid
architecture = "cnn"
grid = { depth = [2, 4], width = [16, 32], dropout = [0.0, 0.3], optimizer = ["sgd", "adam"], learning_rate = [0.01, 0.001] }
epochs = 20

[[threat_models]]
norm = "linf"
epsilons = "0:8/255:9"                # or a list: [0, "1/255", 0.03]
attacks = ["apgd-ce", "apgd-dlr", "fab", "square"]
search = "frontier"                   # or "exact"

[[threat_models.attack]]              # settings beyond the defaults, always recorded
name = "square"
queries = 5000

[analysis]
reference_epsilons = ["8/255"]
family = "architecture"               # what groups models for the intervals

[report]
figures = "all"
"""  # noqa: E501  # noqa: E501


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def problems(folder: Path, text: str) -> list[str]:
    """Return what is said about a study, without the file's name."""
    path = write(folder, text)
    with pytest.raises(StudyError) as raised:
        load_study(path)
    assert raised.value.exit_code == 2
    assert str(raised.value).count(f"{path}:") == len(raised.value.problems)
    return [str(problem).removeprefix(f"{path}:") for problem in raised.value.problems]
