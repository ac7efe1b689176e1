"""The benchmark's tables as Markdown, which people also read as plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from goals import Goal

Run = dict[str, Any]
WAYS = {"peer": "pyautoattack", "naive": "our naive loop", "exact": "exact", "frontier": "frontier"}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned to the right."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cells[0].ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)),
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([line(header), rule, *map(line, rows)])


def print_runs(runs: Sequence[Run]) -> None:
    """Print every run of a search: its cost as a ratio, its cells against the naive loop."""
    header = ["setting", "attack", "seed", "n", "search", "gradients: other", "ours", "ratio"]
    header += ["forwards", "CPU s: other", "ours", "ratio", "weaker", "stronger", "inferred"]
    rows = []
    for run in runs:
        for search in ("exact", "frontier"):
            if search not in run:
                continue
            ours, other = run[search], run.get("peer", run.get("naive"))
            cells = ours.get("against_naive") or ours["against_peer"]
            rows.append(
                [
                    run["setting"],
                    run["attack"],
                    str(run["seed"]),
                    str(run["samples"]),
                    search,
                    f"{other['gradients']:,}",
                    f"{ours['gradients']:,}",
                    f"{ours['gradient_ratio']:.2f}",
                    f"{ours['forward_ratio']:.2f}",
                    f"{other['seconds']:.1f}",
                    f"{ours['seconds']:.1f}",
                    f"{ours['seconds_ratio']:.2f}",
                    str(cells["weaker"]),
                    str(cells["stronger"]),
                    f"{ours['inferred']:.0%}",
                ]
            )
    print("\n## Cost and cells\n")
    print(table(header, rows))


def print_robust_accuracy(runs: Sequence[Run], epsilons: dict[str, list[float]]) -> None:
    """Print robust accuracy at each epsilon, as each way of attacking sees it, averaged over the seeds."""
    print("\n## Robust accuracy of the correctly classified samples in percent, mean over the seeds\n")
    rows = []
    for name, values in epsilons.items():
        rows.append([f"{name}: epsilon", "", *(f"{value:.4g}" for value in values)])
        here = [run for run in runs if run["setting"] == name]
        for attack in dict.fromkeys(run["attack"] for run in here):
            for way in ("peer", "naive", "exact", "frontier"):
                found = [
                    run[way]["robust_accuracy"] for run in here if run["attack"] == attack and way in run
                ]
                if found:
                    means = [100 * sum(shares) / len(shares) for shares in zip(*found, strict=True)]
                    rows.append([f"{name} {attack}", WAYS[way], *(f"{mean:.1f}" for mean in means)])
    print(table(["", "", *(f"e{k}" for k in range(1, 9))], rows))


def print_goals(goals: Sequence[Goal]) -> None:
    """Print which goals are met."""
    print("\n## Goals\n")
    for goal in goals:
        print(goal.line())
