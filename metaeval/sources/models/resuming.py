"""How far a training has come: one file per model, replaced after every epoch and gone at the end."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Checkpoint:
    """The file of one training.

    Attributes
    ----------
    path : Path
    made_by : dict
        What decides roundings: version of torch, device, threads. Only the same go on bit for bit.
    """

    path: Path
    made_by: dict[str, Any] = field(default_factory=dict)

    def save(self, state: dict[str, Any]) -> None:
        """Keep the state after an epoch; a process that is killed meanwhile leaves the old one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                torch.save({"made_by": self.made_by, "state": state}, file)
            with suppress(FileNotFoundError):  # another process has finished this very model
                partial.replace(self.path)
        finally:
            partial.unlink(missing_ok=True)

    def read(self) -> dict[str, Any] | None:
        """Return the kept state, or None if there is none that this process can go on from."""
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            if content["made_by"] == self.made_by:
                state: dict[str, Any] = content["state"]
                return state
        except Exception:  # none, or a damaged one, which raises nearly anything: start anew
            return None
        return None


def remove_checkpoint(path: Path) -> None:
    """Delete the file of a training, and what killed processes left beside it."""
    for leftover in path.parent.glob(f"{path.name}*"):
        leftover.unlink(missing_ok=True)
