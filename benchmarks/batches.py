"""How many cells depend on batches, on networks whose convolutions choose kernels by the batch's shape.

    METAEVAL_SHARED_DATA=... python benchmarks/batches.py [--samples 300]

Prints, for every setting of the sweep benchmark and both losses, the cells that differ from those computed
in batches of 256 when the batches have 7 or 24 samples or the samples come in another order.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from settings import SETTINGS, Setting, load_model, load_samples
from torch import Tensor, nn

from metaeval.attacks import sweep

ALLOWED = 1e-3


def _column(
    setting: Setting, attack: str, model: nn.Module, x: Tensor, y: Tensor, rows: np.ndarray, size: int
) -> np.ndarray:
    given = {"norm": setting.norm, "epsilons": setting.epsilons, "attack": attack}
    return sweep(model, x[rows], y[rows], batch_size=size, **given).cells


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=300)
    samples = parser.parse_args().samples
    torch.set_num_threads(1)
    different = cells = 0
    print(f"{'setting':<16}{'attack':<10}{'change':<18}{'cells':>8}{'different':>11}")
    for name, setting in SETTINGS.items():
        model = load_model(setting)
        x, y = load_samples(setting, model, samples)
        order = np.random.default_rng(0).permutation(samples)
        for attack in ("apgd-ce", "apgd-dlr"):
            column = partial(_column, setting, attack, model, x, y)
            every = np.arange(samples)
            expected = column(every, 256)
            for change, rows, size in (
                ("batches of 7", every, 7),
                ("batches of 24", every, 24),
                ("permuted", order, 256),
            ):
                differing = int((column(rows, size) != expected[rows]).sum())
                print(f"{name:<16}{attack:<10}{change:<18}{expected.size:>8}{differing:>11}", flush=True)
                different, cells = different + differing, cells + expected.size
    verdict = "met" if different <= ALLOWED * cells else "NOT MET"
    print(f"{different} of {cells} cells differ ({different / cells:.2e}); at most {ALLOWED:.0e}: {verdict}")


if __name__ == "__main__":
    main()
