"""Small studies of linear classifiers, whose smallest adversarials have a closed form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import metaeval
from metaeval.cube.store import CubeStore
from metaeval.runner.replay import ColumnReplay, replay
from metaeval.runner.run import run_study
from metaeval.study.load import load_study

CLASSES = 3
SAMPLES = 14

STUDY = """
schema_version = 1

[study]
name = "replayed"

[data]
source = "npz"
path = "data.npz"
samples = {samples}

{models}

[[threat_models]]
norm = "{norm}"
epsilons = {epsilons}
attacks = {attacks}
{extra}
"""
MODEL = """
[[models]]
source = "checkpoint"
name = "{name}"
architecture = "mlp"
architecture_settings = {{ depth = 0 }}
weights = "{name}.safetensors"
"""
NOISY = """
[[models]]
source = "checkpoint"
name = "first"
architecture = "evidence_study:noisy"
weights = "first.safetensors"
"""


class Noisy(torch.nn.Sequential):
    """A linear classifier of four features with random logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return logits + 0.05 * torch.randn(logits.shape) if logits.device.type == "cpu" else logits


def noisy() -> Noisy:
    return Noisy(torch.nn.Flatten(), torch.nn.Linear(4, CLASSES))


@dataclass
class Evidence:
    """A folder with data, weights and a study."""

    folder: Path
    x: np.ndarray  # as the models see it
    y: np.ndarray

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def store(self) -> CubeStore:
        return CubeStore.open(self.output)

    def write(
        self,
        *,
        evidence: bool = True,
        models: tuple[str, ...] = ("first",),
        norm: str = "linf",
        epsilons: str = '["0", "0.05", "0.1"]',
        attacks: str = '["apgd-ce"]',
        samples: int = SAMPLES,
        tables: str = "",
    ) -> Path:
        path = self.folder / "study.toml"
        tables = tables or "".join(MODEL.format(name=name) for name in models)
        text = STUDY.format(
            models=tables,
            norm=norm,
            epsilons=epsilons,
            attacks=attacks,
            samples=samples,
            extra="evidence = true" if evidence else "",
        )
        path.write_text(text)
        return path

    def run(self, **changes: object) -> int:
        """Write the study and run it; return how many tasks were computed."""
        study = load_study(self.write(**changes))  # type: ignore[arg-type]
        summary = run_study(study, output=self.output, device="cpu", quiet=True)
        assert not summary.failures
        return summary.computed

    def replay(self) -> list[ColumnReplay]:
        return replay(load_study(self.folder / "study.toml"), self.output, device="cpu")

    def weights(self, name: str = "first") -> tuple[np.ndarray, np.ndarray]:
        """Return a model's matrix and bias, float64."""
        generator = torch.Generator().manual_seed({"first": 1, "second": 2}[name])
        features = int(np.prod(self.x.shape[1:]))
        weight = torch.randn(CLASSES, features, generator=generator, dtype=torch.float32) * 2
        bias = -0.5 * weight.sum(dim=1)  # the boundaries meet in the middle of the box
        return weight.double().numpy(), bias.double().numpy()

    def logits(self, x: np.ndarray, name: str = "first") -> np.ndarray:
        weight, bias = self.weights(name)
        return x.reshape(len(x), -1).astype(np.float64) @ weight.T + bias

    def minimum(self, norm: str, name: str = "first") -> np.ndarray:
        """Return the closed form of every sample's minimal distance, without the box."""
        dual = {"linf": 1, "l2": 2}[norm]
        weight, _ = self.weights(name)
        logits = self.logits(self.x, name)
        distances = np.full((len(self.x), CLASSES), np.inf)
        for i, label in enumerate(self.y):
            for other in set(range(CLASSES)) - {int(label)}:
                gap = logits[i, label] - logits[i, other]
                distances[i, other] = max(gap, 0) / np.linalg.norm(weight[label] - weight[other], dual)
        return distances.min(axis=1)

    def column(
        self, attack: str = "apgd-ce", norm: str = "linf", model: str = "first"
    ) -> dict[str, np.ndarray]:
        """Return a column of the cube, as a reader of it sees it."""
        group = metaeval.open_cube(self.output)[f"samples/{norm}"].to_dataset()
        chosen = group.sel(model=model, attack=attack)
        return {name: chosen[name].values for name in ("distance", "cell", "evidence") if name in chosen}


def evidence_folder(folder: Path, shape: tuple[int, ...] = (4,)) -> Evidence:
    """Return a folder with random data of a shape and two linear models, the labels mostly the first's."""
    x = np.random.default_rng(0).uniform(0.3, 0.7, (SAMPLES, *shape)).astype(np.float32)
    made = Evidence(folder, x, np.zeros(SAMPLES, dtype=np.int64))
    for name in ("first", "second"):
        weight, bias = made.weights(name)
        state = {"1.weight": torch.tensor(weight).float(), "1.bias": torch.tensor(bias).float()}
        save_file(state, folder / f"{name}.safetensors")
    made.y = made.logits(x).argmax(axis=1)
    made.y[0] = (made.y[0] + 1) % CLASSES  # misclassified as it is
    assert set(made.y) == set(range(CLASSES))
    stored = np.moveaxis(x, 1, -1) if len(shape) == 3 else x
    np.savez(folder / "data.npz", x_test=stored, y_test=made.y)
    return made
