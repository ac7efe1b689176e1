"""What `metaeval plan` predicts against what a run counts, for the studies named; run by hand.

python benchmarks/plan.py studies/quickstart.toml benchmarks/studies/*.toml
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from tables import table

import metaeval
from metaeval.runner.prepare import prepare
from metaeval.runner.run import run_study

WITHIN = 2.0  # the factor that a study's total must keep to


def main() -> None:
    """Run each study into a folder that is thrown away, and print predicted and counted passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", type=Path)
    torch.set_num_threads(1)
    for path in parser.parse_args().studies:
        print("\n".join(compared(path)), flush=True)


def compared(path: Path) -> list[str]:
    """Return the lines of one study: every attack, then the total with its verdict."""
    study = metaeval.load_study(path)
    prepared = prepare(study)
    with tempfile.TemporaryDirectory() as folder:
        summary = run_study(study, output=Path(folder), quiet=True)
        if summary.failures:
            raise SystemExit("\n".join(summary.failures))
        # Verification is counted apart, in the run as in the prediction.
        costs = metaeval.open_cube(Path(folder) / "cube.zarr")["cost"].to_dataset()
        costs = costs.sel(stage="attack").sum("model").load()
    rows = []
    for attack in prepared.plan.attacks:
        predicted = attack.cost * (prepared.plan.samples * len(prepared.plan.models))
        here = costs.sel(norm=attack.norm, attack=attack.attack)
        counted = float(here["forwards"]), float(here["backwards"])
        rows.append(
            _row(f"{attack.attack} {attack.norm}", (predicted.forwards, predicted.backwards), counted)
        )
    predictions = [task.cost for model in prepared.plan.models for task in prepared.tasks(model)]
    total = sum(cost.forwards for cost in predictions), sum(cost.backwards for cost in predictions)
    rows.append(_row("all", total, (summary.forwards, summary.backwards)))
    ratio = sum(total) / (summary.forwards + summary.backwards)
    header = ["attack", "forwards predicted", "counted", "ratio", "backwards predicted", "counted", "ratio"]
    verdict = "" if 1 / WITHIN <= ratio <= WITHIN else "NOT "
    return [
        f"\n## {study.study.name}\n",
        table(header, rows),
        "\nforwards and backwards together: predicted / counted = "
        f"{ratio:.2f}, {verdict}within a factor of {WITHIN:g}",
    ]


def _row(name: str, predicted: tuple[float, float], counted: tuple[float, float]) -> list[str]:
    cells = [name]
    for expected, found in zip(predicted, counted, strict=True):
        cells += [f"{expected:,.0f}", f"{found:,.0f}", f"{expected / found:.2f}" if found else "-"]
    return cells


if __name__ == "__main__":
    main()
