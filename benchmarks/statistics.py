"""Time the statistics at the size of a large study and compare them with scipy; by hand, two minutes.

OMP_NUM_THREADS=1 python benchmarks/statistics.py
"""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy import stats

from metaeval.analysis import class_variance, rankings, resampling

MODELS, MEASURES, NOTIONS, RESAMPLES, CELLS = 100, 50, 20, 10_000, 200


def seconds(call: Callable[[], object]) -> float:
    """Return the CPU-seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def correlations() -> None:
    """Correlate 50 x 20 columns under 10,000 resamples, tied and constant columns among them."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(MODELS, MEASURES)), random.normal(size=(MODELS, NOTIONS))
    x[:, 0], x[:, 1], y[:, 0] = 1.0, random.integers(0, 3, MODELS), random.integers(0, 2, MODELS)
    weights = random.multinomial(MODELS, np.full(MODELS, 1 / MODELS), RESAMPLES).astype(float)
    for mine, theirs in (
        (resampling.pearson, stats.pearsonr),
        (resampling.spearman, stats.spearmanr),
        (resampling.kendall, stats.kendalltau),
    ):
        start = time.process_time()
        found = mine(x, y, weights)
        spent = time.process_time() - start
        worst, start = 0.0, time.process_time()
        for cell in range(CELLS):
            r, a, b = random.integers(RESAMPLES), random.integers(MEASURES), random.integers(NOTIONS)
            if cell < 20:
                a, b = cell % 2, 0  # a constant or a tied column
            rows = np.repeat(np.arange(MODELS), weights[r].astype(int))
            expected = theirs(x[rows, a], y[rows, b])[0]
            if np.isnan(expected) != np.isnan(found[r, a, b]):
                raise SystemExit(f"{mine.__name__}: {found[r, a, b]} where scipy says {expected}")
            worst = max(worst, float(np.nan_to_num(abs(expected - found[r, a, b]))))
        each = (time.process_time() - start) / CELLS
        ratio = each * RESAMPLES * MEASURES * NOTIONS / spent
        print(
            f"{mine.__name__}: {spent:.2f} CPU-seconds, {ratio:,.0f} times faster than scipy (extrapolated "
            f"from {CELLS} cells), largest difference {worst:.1e}"
        )


def crossings() -> None:
    """Certify the crossings of all pairs of 100 models on 10,000 samples."""
    random = np.random.default_rng(1)
    distance = random.exponential(size=(MODELS, 10_000)) * random.uniform(0.7, 1.3, (MODELS, 1))
    for levels in (16, 101):
        epsilons = np.linspace(0.05, 2, levels)
        spent = seconds(lambda e=epsilons: rankings.compare(distance, epsilons=e))  # type: ignore[misc]
        print(f"crossings of {MODELS * (MODELS - 1) // 2} pairs, {levels} epsilons: {spent:.1f} CPU-seconds")


def variance() -> None:
    """Decompose the variance of 100 models x 10 classes x 16 epsilons x 10,000 samples."""
    random = np.random.default_rng(2)
    outcomes = random.random((MODELS, 16, 10_000), dtype=np.float32) < np.linspace(0.9, 0.3, 16)[:, None]
    spent = seconds(lambda: class_variance.decompose(outcomes, np.arange(10_000) % 10))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"variance decomposition with 1,000 resamples: {spent:.1f} CPU-seconds, peak {peak:.1f} GB")


if __name__ == "__main__":
    warnings.simplefilter("ignore", stats.ConstantInputWarning)
    variance()
    correlations()
    crossings()
