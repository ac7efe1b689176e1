"""The engine's goals and whether the measured runs meet them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Run = dict[str, Any]

LEAST_RATIO, LEAST_MEAN_RATIO, MOST_WEAKER = 5.0, 6.0, 0.001
LEAST_SHARE_OF_BOUND, LEAST_FAB_RATIO, LEAST_SECONDS_RATIO = 0.95, 4.0, 4.0


@dataclass(frozen=True)
class Goal:
    """One goal: what is asked, what was measured, and whether that is enough (None: not measured)."""

    number: int
    asked: str
    measured: str
    met: bool | None

    def line(self) -> str:
        """Return the goal as one line."""
        verdict = {True: "met", False: "NOT MET", None: "not available"}[self.met]
        return f"{self.number}. {verdict:<13} {self.asked}: {self.measured}"


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of positive numbers."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def goals(runs: list[Run]) -> list[Goal]:
    """Judge all runs of a benchmark."""
    plain = [run for run in runs if run["kind"] == "apgd"]
    hostile = [run for run in runs if run["kind"] == "hostile"]
    return [
        *(_columns(plain) if plain else []),
        _bounded("apgd-t", runs),
        _bounded("cascade", runs),
        _fab(runs),
        *(_exact(plain) if plain else []),
        *(_hostile(hostile, plain) if hostile else []),
        *(_seconds(plain) if plain else []),
    ]


def _columns(runs: list[Run]) -> list[Goal]:
    ratios = [run["frontier"]["gradient_ratio"] for run in runs]
    same = [run["frontier"]["against_naive"] for run in runs]
    other = [run["frontier"]["against_peer"] for run in runs]
    mean, weaker = geometric_mean(ratios), sum(c["weaker"] for c in same) / sum(c["cells"] for c in same)
    above = [c["most_above"] for c in same]
    sums = [c["sum_above"] for c in same]
    return [
        Goal(
            1,
            f"frontier, at least {LEAST_RATIO} times fewer gradients in every run",
            f"{min(ratios):.2f} to {max(ratios):.2f} in {len(runs)} runs",
            min(ratios) >= LEAST_RATIO,
        ),
        Goal(
            1,
            f"at least {LEAST_MEAN_RATIO} times fewer in the geometric mean",
            f"{mean:.2f}",
            mean >= LEAST_MEAN_RATIO,
        ),
        Goal(
            1,
            "robust accuracy at most naive + 1 sample at every epsilon",
            f"most {max(above):+d} (against pyautoattack with its own noise: "
            f"{max(c['most_above'] for c in other):+d})",
            max(above) <= 1,
        ),
        Goal(
            1,
            "its sum over the epsilons not above naive",
            f"{min(sums):+d} to {max(sums):+d} cells, above in {sum(s > 0 for s in sums)} runs (against "
            f"pyautoattack: above in {sum(c['sum_above'] > 0 for c in other)})",
            max(sums) <= 0,
        ),
        Goal(
            1,
            f"weaker cells at most {MOST_WEAKER:.1%}",
            f"{weaker:.3%} of {sum(c['cells'] for c in same)} ({sum(c['weaker'] for c in same)} weaker, "
            f"{sum(c['stronger'] for c in same)} stronger)",
            weaker <= MOST_WEAKER,
        ),
    ]


def _bounded(attack: str, runs: list[Run]) -> Goal:
    asked = f"{attack}, at least {LEAST_SHARE_OF_BOUND} of sum(RA_k) / RA_1 times fewer gradients"
    found = [run for run in runs if run["attack"] == attack]
    if not found:
        return Goal(2, asked, "not available", None)
    shares = [run["frontier"]["gradient_ratio"] / run["bound"] for run in found]
    return Goal(
        2,
        asked,
        ", ".join(
            f"{run['setting']} {run['frontier']['gradient_ratio']:.2f} of {run['bound']:.2f}" for run in found
        ),
        min(shares) >= LEAST_SHARE_OF_BOUND,
    )


def _fab(runs: list[Run]) -> Goal:
    asked = f"fab-t, identical verdicts and at least {LEAST_FAB_RATIO} times fewer gradients"
    found = [run for run in runs if run["attack"] == "fab-t"]
    if not found:
        return Goal(2, asked, "not available", None)
    different = sum(run["frontier"]["against_peer"][key] for run in found for key in ("weaker", "stronger"))
    ratios = [run["frontier"]["gradient_ratio"] for run in found]
    return Goal(
        2,
        asked,
        f"{different} cells differ, {min(ratios):.2f} to {max(ratios):.2f} times fewer",
        different == 0 and min(ratios) >= LEAST_FAB_RATIO,
    )


def _exact(runs: list[Run]) -> list[Goal]:
    weaker = sum(run["exact"]["against_naive"]["weaker"] for run in runs)
    cells = sum(run["exact"]["against_naive"]["cells"] for run in runs)
    return [Goal(3, "exact, no weaker cell", f"{weaker} of {cells}", weaker == 0)]


def _hostile(runs: list[Run], plain: list[Run]) -> list[Goal]:
    weaker = sum(run["frontier"]["against_naive"]["weaker"] for run in runs)
    cells = sum(run["frontier"]["against_naive"]["cells"] for run in runs)
    by_attack = ", ".join(
        f"{attack} {sum(r['frontier']['against_naive']['weaker'] for r in runs if r['attack'] == attack)}"
        for attack in sorted({run["attack"] for run in runs})
    )
    twins = {(run["setting"].split()[0], run["attack"], run["seed"]) for run in runs}
    same = [run for run in plain if (run["setting"], run["attack"], run["seed"]) in twins]
    beside = sum(run["frontier"]["against_naive"]["weaker"] for run in same)
    return [
        Goal(
            3,
            "frontier on hostile heads, no weaker cell",
            f"{weaker} of {cells} ({by_attack}; the same settings and seeds without the factor: {beside} of "
            f"{sum(run['frontier']['against_naive']['cells'] for run in same)})",
            weaker == 0,
        )
    ]


def _seconds(runs: list[Run]) -> list[Goal]:
    ratios = [run["frontier"]["seconds_ratio"] for run in runs]
    mean = geometric_mean(ratios)
    return [
        Goal(
            4,
            f"frontier, at least {LEAST_SECONDS_RATIO} times less CPU time in the geometric mean",
            f"{mean:.2f}",
            mean >= LEAST_SECONDS_RATIO,
        ),
        Goal(
            4,
            "the same in every run",
            f"{min(ratios):.2f} to {max(ratios):.2f}, below in "
            f"{sum(ratio < LEAST_SECONDS_RATIO for ratio in ratios)} of {len(runs)}",
            min(ratios) >= LEAST_SECONDS_RATIO,
        ),
    ]
