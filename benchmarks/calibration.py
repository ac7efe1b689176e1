"""Repeat the coverage simulations of the statistics: nominal against measured, with its binomial interval.

OMP_NUM_THREADS=1 python benchmarks/calibration.py [repetitions]        # 1,000 by default, a few minutes
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from scipy.special import expit

from metaeval.analysis import (
    bands,
    class_drops,
    class_variance,
    correlation,
    crossings,
    shifts,
    thresholds,
)

Random = np.random.Generator


def false_crossing(random: Random, seed: int) -> bool:
    """Tell whether two models with one true curve are certified to cross (500 samples, 61 epsilons)."""
    a, b = random.exponential(size=500) * random.uniform(0.5, 1.5, size=(2, 500))
    return crossings.certified(a, b, epsilons=np.linspace(0, 3, 61), seed=seed).count > 0


def false_leader(random: Random, seed: int) -> bool:
    """Tell whether one of two equal models is called the better anywhere (300 samples, 3 epsilons)."""
    u, distance = random.random(300), random.uniform(0.9, 1.1, (2, 300))
    distance[0, u < 0.15] = distance[1, u > 0.85] = 0
    return bool(crossings.certified(*distance, epsilons=[0, 0.5, 1], seed=seed).sign.any())


def families_missed(random: Random, seed: int) -> bool:
    """Tell whether the family jackknife misses the truth (15 families of 5, 80 % of the variance theirs)."""
    covariance = [[1, 0.5], [0.5, 1]]
    member = np.repeat(np.arange(15), 5)
    common = random.multivariate_normal([0, 0], covariance, 15)[member]
    values = np.sqrt(0.8) * common + np.sqrt(0.2) * random.multivariate_normal([0, 0], covariance, 75)
    found = correlation.correlations(values[:, :1], values[:, 1:], member)
    truth = 6 / np.pi * np.arcsin(0.25)
    return not bool(found["lower"] <= truth <= found["upper"])


def class_variance_missed(random: Random, seed: int) -> bool:
    """Tell whether the class variance's interval misses the truth (10 classes of 100, 4 models)."""
    label = np.arange(1000) % 10
    accuracy = np.linspace(-0.08, 0.08, 10)[:, None, None] + np.array([0.9, 0.6, 0.4]) + np.zeros((1, 4, 1))
    truth = class_variance.mean_squares(accuracy)[0]
    outcomes = random.random(1000) < np.moveaxis(accuracy[label], 0, -1)
    found = class_variance.decompose(outcomes, label, resamples=300, seed=seed)
    return not found.lower[0] <= truth <= found.upper[0]


def drop_missed(random: Random, seed: int) -> bool:
    """Tell whether the interval of a class's drop misses it (first of 8 classes of 50, .9 to .6)."""
    label = np.repeat(np.arange(8), 50)
    before = random.random(400) < 0.9
    after = before & (random.random(400) < 0.6 / 0.9)
    found = class_drops.from_outcomes(np.stack([before, after])[None].astype(float), label, seed=seed)
    return not found.lower[0] <= 0.3 <= found.upper[0]


def outlier_claimed(random: Random, seed: int) -> bool:
    """Tell whether an ordinary model lies outside its prediction interval under shift (12 models, logit)."""
    x = random.normal(1, 0.8, 12)
    y = 0.1 + 0.7 * x + random.normal(0, 0.2, 12)
    found = shifts.effective_robustness(expit(x), expit(y))
    return bool(found.lower[0] > 0 or found.upper[0] < 0)


def false_bend(random: Random, seed: int) -> bool:
    """Tell whether the primary threshold test finds a bend where there is none (300 samples)."""
    found = thresholds.change_of_slope(*random.exponential(2.0, (2, 300)), 1.0)
    return bool(found.table["p"].iloc[0] < 0.05)


def band_missed(random: Random, seed: int) -> bool:
    """Tell whether the simultaneous band of a curve misses it anywhere (60 samples, all epsilons)."""
    alive = np.arange(60, -1, -1)
    lower, upper = bands.clopper_pearson(alive, 60, bands.local_level(60, 0.95))
    ends = np.exp(-np.concatenate([[0.0], np.sort(random.exponential(size=60)), [np.inf]]))
    return bool(((upper < ends[:-1]) | (lower > ends[1:])).any())


SIMULATIONS: tuple[tuple[str, float, Callable[[Random, int], bool]], ...] = (
    ("false crossings (at most)", 0.05, false_crossing),
    ("false leaders", 0.05, false_leader),
    ("family jackknife misses", 0.05, families_missed),
    ("class variance misses", 0.05, class_variance_missed),
    ("drop of a class misses", 0.05, drop_missed),
    ("prediction interval under shift misses", 0.05, outlier_claimed),
    ("false bends at the threshold", 0.05, false_bend),
    ("simultaneous band misses", 0.05, band_missed),
)


def main(repetitions: int) -> None:
    """Print one line per simulation."""
    for name, nominal, simulate in SIMULATIONS:
        random = np.random.default_rng(0)
        count = sum(simulate(random, seed) for seed in range(repetitions))
        lower, upper = bands.clopper_pearson(count, repetitions, 0.05)
        print(
            f"{name}: nominal {nominal:.1%}, measured {count / repetitions:.1%} "
            f"({float(lower):.1%} to {float(upper):.1%}, {repetitions} repetitions)",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
