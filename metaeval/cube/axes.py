"""The axes of a store: its models, samples, and each norm's attacks and levels.

They are kept in one small file beside the records, written whole before any array grows, so that a growth
which was interrupted is finished by the next opening, and damaged coordinates can be written anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metaeval.cube.files import read_json, write_atomically
from metaeval.cube.journal import epsilon_hex
from metaeval.cube.layout import FORMAT, WORST_CASE
from metaeval.cube.shift_axes import ShiftAxes
from metaeval.errors import UsageError, unknown_name
from metaeval.hashing import hash_json
from metaeval.outcomes import NORMS


@dataclass
class NormAxes:
    """Attacks, epsilons with their labels, and stages of cascades, in order of arrival.

    `input_shape` is the shape of one input where adversarials are kept, else None.
    """

    attacks: list[str] = field(default_factory=list)
    epsilons: list[float] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    input_shape: list[int] | None = None
    stages: list[str] = field(default_factory=list)


@dataclass
class Axes:
    """Every axis; each grows at its end and never changes otherwise."""

    models: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    logits: int = 0
    norms: dict[str, NormAxes] = field(default_factory=dict)
    shifts: dict[str, ShiftAxes] = field(default_factory=dict)

    def add_models(self, names: Sequence[str]) -> None:
        """Append the models that are new."""
        _distinct("model", names)
        self.models += [name for name in names if name not in set(self.models)]

    def add_samples(
        self,
        ids: Sequence[str],
        hashes: Sequence[str],
        labels: npt.ArrayLike,
        class_names: Sequence[str],
        logits: int,
    ) -> None:
        """Append the samples that are new; what both know must be the same."""
        classes = [int(label) for label in np.asarray(labels)]
        if not len(ids) == len(hashes) == len(classes):
            raise ValueError(f"{len(ids)} ids, {len(hashes)} hashes and {len(classes)} labels")
        if self.class_names and (list(class_names), logits) != (self.class_names, self.logits):
            raise UsageError(
                f"the cube holds other classes ({len(self.class_names)}, {self.logits} logits) than the "
                f"study ({len(class_names)}, {logits} logits); choose another output folder "
                "or remove this one"
            )
        if classes and not 0 <= min(classes) <= max(classes) < len(class_names):
            raise ValueError(f"labels {min(classes)} to {max(classes)} for {len(class_names)} class names")
        known = list(zip(self.ids, self.hashes, self.labels, strict=True))
        asked = list(zip(ids, hashes, classes, strict=True))
        for position, (old, new) in enumerate(zip(known, asked, strict=False)):
            if old != new:
                raise UsageError(
                    f"the cube's samples are not the study's: sample {position} is {old[0]!r} with class "
                    f"{old[2]} there and {new[0]!r} with class {new[2]} here; samples can only be appended, "
                    "so choose another output folder or remove this one"
                )
        self.class_names, self.logits = list(class_names), int(logits)
        for id_, hash_, label in asked[len(known) :]:
            self.ids.append(id_)
            self.hashes.append(hash_)
            self.labels.append(label)

    def add_norm(
        self,
        norm: str,
        attacks: Sequence[str],
        epsilons: Sequence[tuple[float, str]],
        input_shape: Sequence[int] | None = None,
        stages: Sequence[str] = (),
    ) -> None:
        """Append what is new; an epsilon written differently takes its new label.

        With `input_shape` the norm keeps adversarials of that shape from now on.
        """
        if norm not in NORMS:
            raise unknown_name("norm", norm, NORMS)
        if WORST_CASE in attacks:
            raise UsageError(f"{WORST_CASE!r} is the name of an aggregate, not of an attack")
        _distinct("attack", attacks)
        _distinct("epsilon", [epsilon_hex(epsilon) for epsilon, _ in epsilons])
        for epsilon, label in epsilons:
            if not (math.isfinite(epsilon) and epsilon >= 0):
                raise UsageError(f"epsilon {label!r} is not a finite number of at least 0")
        axes = self.norms.setdefault(norm, NormAxes())
        shape = axes.input_shape if input_shape is None else [int(size) for size in input_shape]
        if axes.input_shape not in (None, shape):
            raise UsageError(
                f"the cube keeps adversarials of the shape {axes.input_shape}, and the study's inputs have "
                f"{shape}; choose another output folder or remove this one"
            )
        axes.input_shape = shape
        axes.attacks += [name for name in attacks if name not in set(axes.attacks)]
        axes.stages += [name for name in dict.fromkeys(stages) if name not in set(axes.stages)]
        for epsilon, label in epsilons:
            if epsilon in axes.epsilons:
                axes.labels[axes.epsilons.index(epsilon)] = label
            else:
                axes.epsilons.append(float(epsilon))
                axes.labels.append(label)

    def save(self, path: Path) -> None:
        """Write the axes, whole or not at all."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "models": self.models,
            "samples": {"ids": self.ids, "hashes": self.hashes, "labels": self.labels},
            "class_names": self.class_names,
            "logits": self.logits,
            "norms": {
                norm: {
                    "attacks": axes.attacks,
                    "epsilons": [epsilon_hex(epsilon) for epsilon in axes.epsilons],
                    "labels": axes.labels,
                    **({} if axes.input_shape is None else {"input_shape": axes.input_shape}),
                    "stages": axes.stages,
                }
                for norm, axes in self.norms.items()
            },
            "shifts": {
                name: axes.to_json(self.ids, self.hashes, self.labels) for name, axes in self.shifts.items()
            },
        }
        content["sha256"] = hash_json(content)
        write_atomically(path, json.dumps(content, ensure_ascii=False).encode())

    @classmethod
    def load(cls, path: Path) -> Axes | None:
        """Return the axes that `save` wrote, or None where there is no file.

        Raises
        ------
        UsageError
            If the file is damaged or of another format version.
        """
        if not path.exists():
            return None
        content = read_json(path)
        if not isinstance(content, dict) or content.pop("sha256", None) != hash_json(content):
            raise UsageError(f"{path} is damaged; remove the folder {path.parent.parent} to start anew")
        if content["format"] != FORMAT:
            raise UsageError(
                f"{path.parent.parent} holds a cube of format {content['format']}, and this version reads "
                f"format {FORMAT}"
            )
        samples = content["samples"]
        norms = {
            norm: NormAxes(
                axes["attacks"],
                [float.fromhex(epsilon) for epsilon in axes["epsilons"]],
                axes["labels"],
                axes.get("input_shape"),
                axes.get("stages", []),
            )
            for norm, axes in content["norms"].items()
        }
        own = samples["ids"], samples["hashes"], samples["labels"]
        shifts = {name: ShiftAxes.from_json(axes, *own) for name, axes in content.get("shifts", {}).items()}
        return cls(content["models"], *own, content["class_names"], content["logits"], norms, shifts)


def _distinct(kind: str, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise UsageError(f"{kind} {twice[0]!r} is named twice")
