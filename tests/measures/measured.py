"""Computing one measure on given logits, as a run would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from metaeval.measures.registry import measures, resolve_settings
from metaeval.measures.spec import Context, Split, Value


def split_of(logits: Any, y: Any, **more: Any) -> Split:
    """Return a split of plain lists or arrays."""
    return Split(np.asarray(y, dtype=np.int64), np.asarray(logits, dtype=np.float32), **more)


def context_of(split: Split, *, seed: int = 0, **more: Any) -> Context:
    """Return a context whose clean samples are the split's."""
    shape = (1,) if split.x is None else split.x.shape[1:]
    options = {"module": torch.nn.Identity(), "shape": shape, "classes": split.logits.shape[1], **more}
    return Context(clean=split, seed=seed, **options)


def compute(
    name: str, split: Split, context: Context | None = None, *, seed: int = 0, **settings: Any
) -> Value:
    """Return a measure's value on a split."""
    measure = measures()[name]
    resolved: Mapping[str, Any] = resolve_settings(measure, settings)
    return measure().compute(context or context_of(split, seed=seed), split, **resolved)


def random_split(n: int, classes: int, seed: int = 0, scale: float = 3.0) -> Split:
    """Return logits that know something about the labels."""
    generator = np.random.default_rng(seed)
    y = generator.integers(classes, size=n)
    logits = generator.normal(size=(n, classes)) * scale
    logits[np.arange(n), y] += scale
    return split_of(logits, y)
