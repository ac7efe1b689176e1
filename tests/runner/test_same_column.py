"""A column is the same whatever else happens: batch sizes, order of samples, growth, the other attacks.

The network is convolutional: where its kernels depend on the shape of a batch, last bits may differ, so that
a verdict on the very boundary may too. At most one cell in a thousand is allowed to.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import metaeval

SAMPLES = 60
STUDY = """
schema_version = 1

[study]
name = "same"

[data]
source = "npz"
path = "data.npz"
class_names = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
samples = {samples}

[[models]]
source = "checkpoint"
name = "kw"
architecture = "lenet_small"
weights = "{weights}"

[[threat_models]]
norm = "linf"
epsilons = [0, 0.05, 0.1, 0.15]
attacks = {attacks}
{settings}
"""
SETTINGS = """
[[threat_models.attack]]
name = "square"
queries = 60

[[threat_models.attack]]
name = "fab"
iterations = 10
"""
EVERYTHING = '["square", "apgd-ce", "fab"]'


@pytest.fixture(scope="module")
def columns(shared_data: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a function that computes the study in a new folder and gives its columns by input hash."""
    with np.load(shared_data / "mnist.npz") as arrays:
        x, y = arrays["x_test"][:SAMPLES], arrays["y_test"][:SAMPLES]

    def compute(
        *,
        batch_size: int = 256,
        order: np.ndarray | None = None,
        limits: tuple[int, ...] = (SAMPLES,),
        attacks: str = EVERYTHING,
    ) -> xr.Dataset:
        folder = tmp_path_factory.mktemp("same")
        chosen = np.arange(SAMPLES) if order is None else order
        np.savez(folder / "data.npz", x_test=x[chosen], y_test=y[chosen])
        settings = SETTINGS if "square" in attacks else ""
        (folder / "study.toml").write_text(
            STUDY.format(
                samples=SAMPLES,
                weights=shared_data / "models" / "kw_mnist.safetensors",
                attacks=attacks,
                settings=settings,
            )
        )
        study = metaeval.load_study(folder / "study.toml")
        for limit in limits:
            cube = metaeval.run(
                study, output=folder / "out", device="cpu", batch_size=batch_size, limit=limit, quiet=True
            )
        hashes = cube["samples/clean"].to_dataset()["input_hash"].values.tolist()
        return cube["samples/linf"].to_dataset().sel(model="kw").load().assign_coords(hash=("sample", hashes))

    return compute


@pytest.fixture(scope="module")
def expected(columns) -> xr.Dataset:
    return columns()


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 7},
        {"batch_size": 24},
        {"order": np.random.default_rng(0).permutation(SAMPLES)},
        {"limits": (20, SAMPLES)},
        {"attacks": '["apgd-ce"]'},
    ],
    ids=["batches of 7", "batches of 24", "permuted", "grown", "alone"],
)
def test_a_column_is_the_same(columns, expected, change) -> None:
    found = columns(**change)
    place = {name: k for k, name in enumerate(expected["hash"].values.tolist())}
    rows = [place[name] for name in found["hash"].values.tolist()]
    assert sorted(rows) == list(range(SAMPLES))
    wanted = expected.sel(attack=found["attack"]).isel(sample=rows)
    assert len(np.unique(wanted["cell"])) > 3
    differing = float((found["cell"].values != wanted["cell"].values).mean())
    assert differing <= 1e-3
    near = np.isclose(found["distance"].values, wanted["distance"].values, rtol=0, atol=1e-4)
    assert near.mean() >= 0.998
