"""Cubes made by hand from the layout in the design; nothing here uses metaeval.cube."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

PENDING, OK, FAILED, SKIPPED = range(4)
FLAGS = ["zero_gradient", "randomised", "rejected_claims"]


def text(values: Sequence[Any]) -> np.ndarray:
    return np.array(list(values), dtype=np.dtypes.StringDType())


def handmade_cube(
    *,
    models: Sequence[str] = ("plain", "robust", "middle"),
    classes: Sequence[str] = ("cat", "dog", "ship"),
    samples: int = 60,
    norms: Mapping[str, Sequence[tuple[float, str]]] | None = None,
    attacks: Sequence[str] = ("apgd-ce", "square"),
    distances: Mapping[str, np.ndarray] | None = None,
    scale: Sequence[float] | None = None,
    failed: Mapping[tuple[str, str, str], str] | None = None,
    pending: Sequence[tuple[str, str, str]] | None = None,
    flags: Mapping[tuple[str, str, str, str], float] | None = None,
    labels: Sequence[int] | None = None,
    reduced: Mapping[str, str] | None = None,
    seed: int = 0,
    attributes: Mapping[str, Any] | None = None,
    reference: Sequence[str] = ("2/255",),
    confidence: float = 0.95,
) -> xr.DataTree:
    """Return a cube whose samples break at random distances.

    `failed` and `pending` name (norm, model, attack); `distances` maps a norm to
    (model, attack, sample): 0 misclassified, inf never broken.
    """
    if norms is None:
        norms = {"linf": [(0.0, "0"), (1 / 255, "1/255"), (2 / 255, "2/255"), (4 / 255, "4/255")]}
    failed, pending, flags = failed or {}, pending or (), flags or {}
    random = np.random.default_rng(seed)
    label = np.asarray(labels if labels is not None else np.arange(samples) % len(classes))
    total = np.bincount(label, minlength=len(classes))
    m, a, c = len(models), len(attacks), len(classes)
    scale = scale or np.linspace(0.3, 1.5, m)
    misclassified = random.random((m, samples)) < 0.1

    def per_class(correct: np.ndarray) -> np.ndarray:  # (..., sample) -> (..., class)
        return np.stack([correct[..., label == k].sum(-1) for k in range(c)], axis=-1)

    tree: dict[str, xr.Dataset] = {}
    sample_coordinates = {
        "sample": np.arange(samples),
        "label": ("sample", label),
        "sample_id": ("sample", text(f"test/{i}" for i in range(samples))),
    }
    cost_norms = list(norms) or ["linf"]
    seconds = np.full((m, len(cost_norms), a, 2), np.nan)
    forwards = np.full((m, len(cost_norms), a, 2), -1)
    for position, (norm, levels) in enumerate(norms.items()):
        epsilons = np.array([value for value, _ in levels])
        if distances and norm in distances:
            distance = np.asarray(distances[norm], dtype=float)
            misclassified = (distance == 0).any(axis=1)
        else:
            size = epsilons.max() or 1.0
            base = random.exponential(size, (m, 1, samples)) * np.asarray(scale)[:, None, None]
            distance = base * random.uniform(1.0, 1.3, (m, a, samples))
            distance[np.broadcast_to(misclassified[:, None], distance.shape)] = 0.0
            distance[distance > epsilons.max()] = np.inf
        cell = np.where(distance[..., None] <= epsilons, 2, 5).astype(np.uint8)
        cell[np.broadcast_to(misclassified[:, None, :, None], cell.shape)] = 1
        after = np.roll(cell, -1, axis=-1)
        after[..., -1] = 0
        cell[(cell == 5) & (after == 5)] = 6  # only the largest robust level was run
        status = np.full((m, a + 1), OK, dtype=np.uint8)
        reason = np.full((m, a + 1), "", dtype=object)
        for (where, model, attack), why in failed.items():
            if where == norm:
                i, j = models.index(model), list(attacks).index(attack)
                status[i, j + 1], reason[i, j + 1], cell[i, j] = FAILED, why, 0
        for where, model, attack in pending:
            if where == norm:
                i, j = models.index(model), list(attacks).index(attack)
                status[i, j + 1], cell[i, j] = PENDING, 0
        complete = status[:, 1:] == OK
        correct = np.where(
            complete[:, :, None, None], per_class(np.moveaxis(np.isin(cell, (5, 6)), 2, 3)), -1
        )
        inferred = np.where(complete[:, :, None, None], per_class(np.moveaxis(cell == 6, 2, 3)), -1)
        robust = np.isin(cell, (5, 6)).all(axis=1)
        worst = per_class(np.moveaxis(robust, 1, 2))
        worst_inferred = per_class(np.moveaxis(robust & (cell == 6).any(axis=1), 1, 2))
        everything = complete.all(axis=1)
        worst = np.where(everything[:, None, None], worst, -1)
        worst_inferred = np.where(everything[:, None, None], worst_inferred, -1)
        status[:, 0] = np.where(everything, OK, PENDING)
        members = np.ones((m, a + 1), dtype=bool)
        correct = np.concatenate([worst[:, None], correct], axis=1)  # (model, attack, epsilon, class)
        inferred = np.concatenate([worst_inferred[:, None], inferred], axis=1)
        order = np.argsort(epsilons)
        dims = ("model", "attack", "epsilon", "class")
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = np.where(correct >= 0, correct / total, np.nan)
        values = np.zeros((m, a + 1, len(FLAGS)))
        for (where, model, attack, flag), value in flags.items():
            if where == norm:
                values[models.index(model), list(attacks).index(attack) + 1, FLAGS.index(flag)] = value
        names = ["worst-case", *attacks]
        tree[f"/{norm}"] = xr.Dataset(
            {
                "robust_accuracy": (dims, accuracy[:, :, order]),
                "correct": (dims, correct[:, :, order]),
                "inferred": (dims, inferred[:, :, order]),
                "total": ("class", total),
                "evaluated": (
                    ("model", "attack", "class"),
                    np.where((status == OK)[..., None], total, 0),
                ),
                "status": (("model", "attack"), status),
                "reason": (("model", "attack"), text(reason.ravel()).reshape(m, a + 1)),
                "flags": (("model", "attack", "flag"), values),
                "members": (("model", "attack"), members),
                "overruled": (("model", "epsilon", "attack"), np.zeros((m, len(levels), a + 1), dtype=int)),
            },
            {
                "model": text(models),
                "class": text(classes),
                "epsilon": epsilons[order],
                "epsilon_label": ("epsilon", text(levels[i][1] for i in order)),
                "attack": text(names),
                "flag": text(FLAGS),
                "reduced": ("attack", text(["", *((reduced or {}).get(name, "") for name in attacks)])),
                "settings": ("attack", text(["", *('{"iterations": 100}' for _ in attacks)])),
            },
        ).transpose("model", "class", "epsilon", "attack", "flag")
        tree[f"/samples/{norm}"] = xr.Dataset(
            {
                "distance": (("model", "attack", "sample"), distance),
                "searched": (("model", "attack", "sample"), np.zeros_like(distance)),
                "cell": (("model", "attack", "sample", "level"), cell),
            },
            {
                "model": text(models),
                "attack": text(attacks),
                **sample_coordinates,
                "level": np.arange(len(levels)),
                "epsilon": ("level", epsilons),
                "epsilon_label": ("level", text(label for _, label in levels)),
            },
        )
        seconds[:, position, :, 0] = np.where(complete, 1.0 + np.arange(a), np.nan)
        seconds[:, position, :, 1] = np.where(complete, 0.1, np.nan)
        forwards[:, position, :, 0] = np.where(complete, 100 * samples, -1)
        forwards[:, position, :, 1] = np.where(complete, samples, -1)
    clean = per_class(~misclassified)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy = clean / total
    tree["/clean"] = xr.Dataset(
        {
            "accuracy": (("model", "class"), accuracy),
            "correct": (("model", "class"), clean),
            "total": ("class", total),
        },
        {"model": text(models), "class": text(classes)},
    )
    tree["/models"] = xr.Dataset(
        {
            "family": ("model", text(["cnn"] * m)),
            "architecture": ("model", text(["cnn"] * m)),
            "source": ("model", text(["train"] * m)),
            "weights_sha256": ("model", text(f"{i:064x}" for i in range(m))),
            "parameters": ("model", np.full(m, 12345)),
            "learning_rate": ("model", np.full(m, 0.001)),
        },
        {"model": text(models)},
    )
    if attacks and norms:
        dims = ("model", "norm", "attack", "stage")
        tree["/cost"] = xr.Dataset(
            {"seconds": (dims, seconds), "forwards": (dims, forwards), "backwards": (dims, forwards)},
            {
                "model": text(models),
                "norm": text(cost_norms),
                "attack": text(attacks),
                "stage": text(["attack", "verification"]),
            },
        )
    tree["/samples/clean"] = xr.Dataset(
        {"prediction": (("model", "sample"), np.where(misclassified, -1, label))},
        {"model": text(models), **sample_coordinates},
    )
    cube = xr.DataTree.from_dict(tree)
    study = {
        "schema_version": 1,
        "study": {"name": "handmade", "title": "A cube made by hand", "seed": 0},
        "analysis": {"reference_epsilons": list(reference), "confidence": confidence},
    }
    cube.attrs = {
        "study": json.dumps(study),
        "study_hash": "0" * 64,
        "versions": json.dumps({"python": "3.11", "torch": "2.6"}),
        **(attributes or {}),
    }
    return cube
