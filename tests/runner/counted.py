"""A study whose models count, in a file that survives a kill, every row sent through them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

NETWORKS = '''
"""Architectures of the tests: linear and small networks that count the rows they see."""
import os
import time

import torch


class Counting(torch.nn.Module):
    def __init__(self, classes=10, features=64, hidden=0, fail_when_attacked=False, stairs=0, delay=0.0):
        super().__init__()
        layers = [torch.nn.Flatten()]
        if hidden:
            layers += [torch.nn.Linear(features, hidden), torch.nn.ReLU()]
        self.body = torch.nn.Sequential(*layers, torch.nn.Linear(hidden or features, classes))
        self.fail_when_attacked = fail_when_attacked
        self.stairs = stairs
        self.delay = delay

    def forward(self, x):
        if self.fail_when_attacked and torch.is_grad_enabled() and not os.path.exists("repaired"):
            raise RuntimeError("this model refuses gradients")
        if x.device.type != "meta" and "COUNT_FILE" in os.environ:
            file = os.open(os.environ["COUNT_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, f"{len(x)}\\n".encode())
            os.close(file)
            time.sleep(self.delay)
        if self.stairs:  # a step function, without any gradient
            x = torch.round(x * self.stairs) / self.stairs
        return self.body(x)


def counting(**settings):
    return Counting(**settings)
'''

STUDY = """
schema_version = 1

[study]
name = "counted"
title = "A study that counts"

[data]
source = "digits"
samples = {samples}

{models}

[[threat_models]]
norm = "linf"
epsilons = {epsilons}
attacks = {attacks}
"""

MODEL = """
[[models]]
source = "checkpoint"
name = "{name}"
architecture = "networks:counting"
architecture_settings = {{ {settings} }}
weights = "{name}.safetensors"
"""


@dataclass
class Counted:
    """A folder with a study in it, and the command line run there."""

    folder: Path

    def write(
        self,
        models: dict[str, str],
        *,
        samples: int = 60,
        epsilons: str = '["0", "0.1", "0.2"]',
        attacks: str = '["apgd-ce"]',
        extra: str = "",
    ) -> Path:
        """Write the study; `models` maps names to settings of the architecture."""
        tables = "".join(MODEL.format(name=name, settings=settings) for name, settings in models.items())
        path = self.folder / "study.toml"
        text = STUDY.format(samples=samples, models=tables, epsilons=epsilons, attacks=attacks)
        path.write_text(text + extra)
        return path

    def command(self, *arguments: str) -> list[str]:
        """Return a command line of metaeval, run by this interpreter."""
        return [sys.executable, "-c", "from metaeval.cli import main; main()", *arguments]

    def environment(self) -> dict[str, str]:
        """Return the environment of the command line: counts and cache inside the folder."""
        return {
            **os.environ,
            "COUNT_FILE": str(self.folder / "count"),
            "METAEVAL_CACHE_DIR": str(self.folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }

    def metaeval(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end and check its exit code."""
        result = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == expect, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    def forwards(self) -> int:
        """Return the rows that all runs so far sent through the models."""
        file = self.folder / "count"
        return sum(int(line) for line in file.read_text().split()) if file.exists() else 0

    def forwards_of(self, work: Callable[[], object]) -> int:
        """Return the rows that some work sends through the models."""
        before = self.forwards()
        work()
        return self.forwards() - before


def counted_folder(tmp_path: Path) -> Counted:
    """Return a folder with architectures and weights of real, quickly trained linear classifiers."""
    (tmp_path / "networks.py").write_text(NETWORKS)
    digits = load_digits()
    x = torch.tensor(digits.data[:1297] / 16, dtype=torch.float32)
    y = torch.tensor(digits.target[:1297])
    for seed, name in enumerate(("one", "two", "three")):
        torch.manual_seed(seed)
        body = torch.nn.Linear(64, 10)
        optimizer = torch.optim.Adam(body.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(body(x), y).backward()
            optimizer.step()
        state = {"body.1.weight": body.weight.detach(), "body.1.bias": body.bias.detach()}
        save_file(state, tmp_path / f"{name}.safetensors")
    return Counted(tmp_path)
