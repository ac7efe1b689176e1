"""Builds stores for the tests of `metaeval.cube`, without the engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from metaeval.cube.store import Column, CubeStore

EPSILONS = [(0.0, "0"), (4 / 255, "4/255"), (8 / 255, "8/255")]


def build_store(
    directory: Path,
    *,
    models: tuple[str, ...] = ("first", "second"),
    attacks: tuple[str, ...] = ("apgd-ce", "square"),
    samples: int = 1200,
    norm: str = "linf",
) -> CubeStore:
    """Return a store with axes and nothing computed."""
    store = CubeStore.open_or_create(directory)
    add_samples(store, samples)
    store.ensure_models(models)
    store.ensure_norm(norm, attacks, EPSILONS)
    return store


def add_samples(store: CubeStore, samples: int) -> None:
    ids = [f"test/{i:05d}.png" for i in range(samples)]
    hashes = [f"{i:032x}" for i in range(samples)]
    store.ensure_samples(ids, hashes, np.arange(samples) % 3, ["cat", "dog", "Ørn"], 3)


def random_column(store: CubeStore, norm: str, rows: int, seed: int = 0) -> Column:
    """Return a column whose cells all have a verdict."""
    rng = np.random.default_rng(seed)
    distance = rng.choice([0.0, 0.01, 8 / 255, 0.05, np.inf], rows)
    return Column(
        distance=distance,
        searched=rng.uniform(0, 0.01, rows),
        forwards=rng.integers(1, 200, rows),
        backwards=rng.integers(1, 100, rows),
        cell=rng.integers(1, 7, (rows, len(store.epsilons(norm)))).astype(np.uint8),
    )


def write_random(
    store: CubeStore, model: str, attack: str, shard: int, *, norm: str = "linf", seed: int = 0
) -> Column:
    rows = store.rows(shard)
    column = random_column(store, norm, rows.stop - rows.start, seed)
    store.write_column(
        model, norm, attack, shard, column, identity=f"{model} {attack}", settings={"iterations": 100}
    )
    return column


def chunk_file(store: CubeStore, group: str, name: str, *index: int) -> Path:
    """Return the file of a chunk."""
    return store.path.joinpath(group, name, "c", *(str(i) for i in index))
