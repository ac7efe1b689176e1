"""Our sweep over eight epsilons against pyautoattack run once per epsilon; run by hand, see README.md.

python benchmarks/sweep.py --samples 100 --json sweep.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from goals import goals
from measuring import Column, Comparison, available, naive, peer, swept, versions
from settings import SETTINGS, Scaled, Setting, load_model, load_samples
from tables import print_goals, print_robust_accuracy, print_runs
from torch import Tensor, nn

LOSSES = ("apgd-ce", "apgd-dlr")
EXPENSIVE = ("apgd-t", "fab-t", "cascade")  # nine targets: on fewer samples, with the first seed
FACTORS = (100.0, 1000.0)  # of hostile heads
KINDS = ("apgd", "hostile", "expensive")

Samples = tuple[Tensor, Tensor]


def main() -> None:
    """Measure what was asked for, print the tables and the goals."""
    options = _options()
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    for name in options.settings:
        setting = SETTINGS[name]
        model = load_model(setting)
        x, y = load_samples(setting, model, max(options.samples, options.expensive_samples))
        samples = x[: options.samples], y[: options.samples]
        few = x[: options.expensive_samples], y[: options.expensive_samples]
        if "apgd" in options.kinds:
            runs += [
                _searches(setting, model, samples, loss, seed) for loss in LOSSES for seed in options.seeds
            ]
        if "hostile" in options.kinds:
            runs += [
                _hostile(setting, model, samples, loss, options.seeds[0], factor)
                for loss in LOSSES
                for factor in FACTORS
            ]
        if "expensive" in options.kinds:
            runs += [
                _expensive(setting, model, few, attack, options.seeds[0]) for attack in available(EXPENSIVE)
            ]
    result = {
        "command": " ".join(["python", *sys.argv]),
        "versions": versions(),
        "epsilons": {name: SETTINGS[name].epsilons for name in options.settings},
        "runs": runs,
        "goals": [vars(goal) for goal in goals(runs)],
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    print(", ".join(f"{name} {number}" for name, number in result["versions"].items()))
    print_runs(runs)
    print_robust_accuracy(runs, result["epsilons"])
    print_goals(goals(runs))


def _searches(setting: Setting, model: nn.Module, samples: Samples, attack: str, seed: int) -> dict[str, Any]:
    """Measure both searches against pyautoattack and against our own naive loop."""
    task: dict[str, Any] = {"norm": setting.norm, "epsilons": setting.epsilons, "seed": seed}
    others = {
        "peer": peer(model, *samples, attack=attack, **task),
        "naive": naive(model, *samples, attack=attack, **task),
    }
    ours = {
        search: swept(model, *samples, attack=attack, search=search, **task)
        for search in ("exact", "frontier")
    }
    return _run("apgd", setting.name, attack, seed, samples, others, ours)


def _hostile(
    setting: Setting, model: nn.Module, samples: Samples, attack: str, seed: int, factor: float
) -> dict[str, Any]:
    """Measure the frontier search where saturated outputs hide gradients."""
    task: dict[str, Any] = {
        "norm": setting.norm,
        "epsilons": setting.epsilons,
        "attack": attack,
        "seed": seed,
    }
    scaled = Scaled(model, factor).eval()
    others = {"naive": naive(scaled, *samples, **task)}
    ours = {"frontier": swept(scaled, *samples, search="frontier", **task)}
    return _run("hostile", f"{setting.name} x{factor:g}", attack, seed, samples, others, ours)


def _expensive(
    setting: Setting, model: nn.Module, samples: Samples, attack: str, seed: int
) -> dict[str, Any]:
    """Measure the frontier search of an attack with nine targets against pyautoattack."""
    task: dict[str, Any] = {"norm": setting.norm, "epsilons": setting.epsilons, "seed": seed}
    others = {"peer": peer(model, *samples, attack=attack, **task)}
    ours = {"frontier": swept(model, *samples, attack=attack, search="frontier", **task)}
    return _run("expensive", setting.name, attack, seed, samples, others, ours)


def _run(
    kind: str,
    setting: str,
    attack: str,
    seed: int,
    samples: Samples,
    others: dict[str, Column],
    ours: dict[str, Column],
) -> dict[str, Any]:
    """Return one line of the tables: each column's cost, ours also against each of the others."""
    baseline = next(iter(others.values()))
    accuracy = baseline.robust_accuracy
    run: dict[str, Any] = {
        "kind": kind,
        "setting": setting,
        "attack": attack,
        "seed": seed,
        "samples": len(samples[0]),
        # What a frontier can save where a run stops at its first adversarial: a failure per sample is left.
        "bound": sum(accuracy) / accuracy[0] if accuracy[0] else None,
        **{name: column.as_dict() for name, column in others.items()},
    }
    for search, column in ours.items():
        run[search] = {
            **column.as_dict(),
            "gradient_ratio": baseline.passes.gradients / max(column.passes.gradients, 1),
            "forward_ratio": baseline.passes.forwards / max(column.passes.forwards, 1),
            "seconds_ratio": baseline.passes.seconds / column.passes.seconds,
            **{f"against_{name}": vars(Comparison.of(column, other)) for name, other in others.items()},
        }
    print(
        f"{setting} {attack} seed {seed}: "
        + ", ".join(f"{search} {run[search]['gradient_ratio']:.2f}" for search in ours),
        file=sys.stderr,
        flush=True,
    )
    return run


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100, help="correctly classified samples per setting")
    parser.add_argument(
        "--expensive-samples", type=int, default=50, help=f"the same for {', '.join(EXPENSIVE)}"
    )
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
