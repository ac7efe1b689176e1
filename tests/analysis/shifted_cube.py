"""A cube made by hand with two shifts: a corruption of its samples and a test set of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from handmade_cube import handmade_cube, text

SEVERITIES = {"fog": (1, 3), "new": (0,)}
CLASSES = 3


def logits_of(seed: int, rows: int, labels: np.ndarray | None = None, skill: float = 0.0) -> np.ndarray:
    """Return logits (sample, class), float32; with skill the labels' are larger."""
    z = np.random.default_rng(seed).normal(size=(rows, CLASSES))
    if labels is not None:
        z[np.arange(rows), labels] += skill
    return z.astype(np.float32)


def skill(model: int, severity: int) -> float:
    """Return how well a model does: later ones better, higher severities worse."""
    return 1.5 + 0.3 * model - severity / 4


def shifted_cube(
    *,
    models: Sequence[str] = ("plain", "robust", "middle"),
    samples: int = 600,
    failed: Sequence[tuple[str, str]] = (("middle", "fog"),),
) -> xr.DataTree:
    """Return a cube with the shifts "fog" (paired) and "new"; `failed` names (model, shift)."""
    cube = handmade_cube(models=list(models), samples=samples)
    labels = np.arange(samples) % CLASSES
    clean = np.stack([logits_of(i, samples, labels, 2.0 + 0.3 * i) for i in range(len(models))])
    prediction = clean.argmax(axis=2)
    names, total = [str(name) for name in cube["clean"]["class"].values], np.bincount(labels)
    right = [np.bincount(labels[row == labels], minlength=CLASSES) for row in prediction]
    own = {"model": text(models), "label": ("sample", labels)}
    cube["clean"] = xr.DataTree(
        xr.Dataset(
            {"correct": (("model", "class"), np.array(right)), "total": ("class", total)},
            {"model": text(models), "class": text(names)},
        )
    )
    cube["samples/clean"] = xr.DataTree(
        xr.Dataset(
            {
                "prediction": (("model", "sample"), prediction),
                "logits": (("model", "sample", "logit"), clean),
            },
            own,
        )
    )
    levels = sorted({s for chosen in SEVERITIES.values() for s in chosen})
    shape = (len(models), CLASSES, len(SEVERITIES), len(levels))
    correct, log_loss = np.full(shape, -1), np.full(shape, np.nan)
    totals = np.full(shape[1:], -1)
    status, reason = (
        np.ones((len(models), len(SEVERITIES)), dtype=np.uint8),
        np.full((len(models), 2), "", object),
    )
    for j, (shift, severities) in enumerate(SEVERITIES.items()):
        rows = samples if shift == "fog" else 200
        y = labels if shift == "fog" else (np.arange(rows) + 1) % CLASSES
        logits = np.stack(
            [
                np.stack(
                    [logits_of(100 * j + 10 * s + i, rows, y, 1.5 + 0.3 * i - s / 4) for s in severities]
                )
                for i in range(len(models))
            ]
        )
        answers = logits.argmax(axis=3)
        cube[f"samples/shifts/{shift}"] = xr.DataTree(
            xr.Dataset(
                {
                    "prediction": (("model", "severity", "sample"), answers),
                    "logits": (("model", "severity", "sample", "logit"), logits),
                },
                {
                    "model": text(models),
                    "severity": list(severities),
                    "label": ("sample", y),
                    "clean": ("sample", np.arange(rows) if shift == "fog" else np.full(rows, -1)),
                },
            )
        )
        for k, severity in enumerate(severities):
            at = levels.index(severity)
            totals[:, j, at] = np.bincount(y)
            for i, model in enumerate(models):
                if (model, shift) in failed:
                    status[i, j], reason[i, j] = 2, "RuntimeError: out of fog"
                    continue
                z = logits[i, k].astype(float)
                losses = np.log(np.exp(z).sum(axis=1)) - z[np.arange(rows), y]
                correct[i, :, j, at] = np.bincount(y[answers[i, k] == y], minlength=CLASSES)
                log_loss[i, :, j, at] = np.bincount(y, weights=losses) / np.bincount(y)
    dims = ("model", "class", "shift", "severity")
    cube["shifts"] = xr.DataTree(
        xr.Dataset(
            {
                "correct": (dims, correct),
                "accuracy": (dims, np.where(correct >= 0, correct / totals, np.nan)),
                "log_loss": (dims, log_loss),
                "total": (dims[1:], totals),
                "status": (("model", "shift"), status),
                "reason": (("model", "shift"), text(reason.ravel()).reshape(reason.shape)),
            },
            {
                "model": text(models),
                "class": text(names),
                "shift": text(SEVERITIES),
                "severity": levels,
                "kind": ("shift", text(["corruption", "test set"])),
                "settings": ("shift", text(['{"source": "corruptions", "seed": 0}', '{"source": "data"}'])),
            },
        )
    )
    return cube
