"""What a run will cost: passes from the attacks' formulas, seconds from timing each model on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from metaeval.cube.journal import Journal, covers
from metaeval.cube.journal import Task as Key
from metaeval.cube.measures import read_record
from metaeval.runner.cache import is_trained, known_failure
from metaeval.runner.devices import fitting_threads
from metaeval.runner.measure_plan import training_count
from metaeval.runner.measuring import lacking
from metaeval.runner.needed import measured
from metaeval.runner.prepare import Prepared
from metaeval.runner.progress import duration
from metaeval.runner.shift_forecast import HEADER, is_recorded, shift_cells, shift_rows
from metaeval.study.plan import Cost, Task, paid_once

TIMED_ROWS = 64
HEAVY = 5_000_000  # parameters; of such models one row is timed, 64 can take minutes
TIMED_SECONDS = 0.1
TIMED_CALLS = 5  # whichever ends first: timing must stay a negligible part of a run's passes


@dataclass(frozen=True)
class Speed:
    """Seconds that one row takes forward, and what a backward pass adds."""

    forward: float
    backward: float

    def seconds(self, cost: Cost) -> float:
        """Return the predicted seconds of a cost."""
        return cost.forwards * self.forward + cost.backwards * self.backward


@dataclass(frozen=True)
class ModelForecast:
    """What one model will cost: `training` passes and the `tasks` that are still to do.

    `algebra` is work on the weights, in passes that take about as long. `at_most` tells that training may end
    before its last epoch. A training known to fail has no tasks. `skipped` says, in words, which attacks do
    not apply to it.
    """

    model: str
    speed: Speed
    training: Cost
    tasks: int
    finished: int
    attacks: Cost
    measures: Cost
    algebra: Cost
    at_most: bool = False
    failure: str | None = None
    skipped: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Predicted seconds, training included."""
        return self.speed.seconds(self.training + self.attacks + self.measures + self.algebra)


@dataclass(frozen=True)
class Forecast:
    """What a study will cost on this machine.

    `missing` names what a run fetches first or does without, `notes` what else is to be known; kept
    adversarials take up to `evidence_bytes`.
    """

    study: str
    samples: int
    models: dict[str, ModelForecast]
    attacks: tuple[dict[str, Any], ...]
    evidence_bytes: int = 0
    missing: tuple[str, ...] = ()
    measures: tuple[dict[str, Any], ...] = ()
    shifts: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Predicted seconds of everything that is still to do."""
        return sum(model.seconds for model in self.models.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast as JSON can say it."""
        return {**asdict(self), "seconds": self.seconds}

    def text(self) -> str:
        """Return the forecast as the command line prints it."""
        tasks = sum(model.tasks for model in self.models.values())
        finished = sum(model.finished for model in self.models.values())
        lines = [
            f"{self.study}: {len(self.models)} models, {self.samples} samples, {len(self.attacks)} attacks",
            "",
        ]
        lines += _table(
            [
                "attack",
                "norm",
                "levels",
                "search",
                "forwards/sample",
                "backwards/sample",
                "settings below standard",
            ],
            [
                [
                    a["attack"],
                    a["norm"],
                    a["levels"],
                    a["search"],
                    f"{a['forwards']:,.0f}",
                    f"{a['backwards']:,.0f}",
                    a["reduced"] or "-",
                ]
                for attack in self.attacks
                for a in [attack, *_stage_rows(attack)]
            ],
        )
        if self.measures:
            header = ["measure", "family", "computed on", "forwards/model", "backwards/model"]
            rows = [
                [m["measure"], m["family"], m["where"], f"{m['forwards']:,.0f}", f"{m['backwards']:,.0f}"]
                for m in self.measures
            ]
            lines += ["", *_table(header, rows)]
            longest = max((m.algebra.forwards for m in self.models.values()), default=0.0)
            if longest:
                lines.append(
                    f"singular values of weights: as long as about {longest:,.0f} forward and backward "
                    "passes of a sample for each model; that is in the predicted times"
                )
        if self.shifts:
            lines += ["", *_table(HEADER, [shift_cells(row) for row in self.shifts])]
        lines += [
            "",
            *_table(
                ["model", "to train", "tasks to do", "recorded", "forwards", "backwards", "predicted time"],
                [
                    [
                        m.model,
                        _to_train(m),
                        m.tasks,
                        m.finished,
                        f"{m.attacks.forwards + m.measures.forwards:,.0f}",
                        f"{m.attacks.backwards + m.measures.backwards:,.0f}",
                        duration(m.seconds),
                    ]
                    for m in self.models.values()
                ],
            ),
        ]
        lines += [
            "",
            *self.notes,
            *self.missing,
            *([""] if self.missing or self.notes else []),
            *(skipped := [line for model in self.models.values() for line in model.skipped]),
            *([""] if skipped else []),
            f"{tasks} tasks to do, {finished} recorded; about {duration(self.seconds)} on this machine",
        ]
        if any(model.at_most for model in self.models.values()):
            lines.append("training to a target loss is predicted with all its epochs: an upper bound")
        lines += [f"{model.model} failed: {model.failure}" for model in self.models.values() if model.failure]
        if self.evidence_bytes:
            lines.append(f"evidence: up to {_size(self.evidence_bytes)} of adversarials, before compression")
        return "\n".join(lines)


def forecast(prepared: Prepared, *, directory: Path, device: torch.device) -> Forecast:
    """Predict the cost of what is still to do, timing each architecture once.

    A recorded task counts as finished if its record covers the samples and epsilons; whether its weights
    and settings are still the same is checked when the study runs.
    """
    journal = Journal(directory / "journal")
    speeds: dict[str, Speed] = {}
    models: dict[str, ModelForecast] = {}
    shape = prepared.samples.x.shape[1:]
    outputs = Cost(training_count(prepared.study) if prepared.plan.measures else 0)
    for entry in prepared.entries:
        if entry.architecture_identity not in speeds:
            speeds[entry.architecture_identity] = time_model(entry.build(), shape, device)
        tasks = prepared.tasks(entry.name)
        shift_tasks, asked = prepared.shift_tasks(entry.name), prepared.measures(entry.name)
        total = len(tasks) + len(shift_tasks) + len(asked)
        failure = known_failure(entry, prepared.training_data) if entry.needs_training and total else None
        open_tasks = [task for task in tasks if not failure and not _recorded(journal, task, prepared)]
        open_shifts = [task for task in shift_tasks if not failure and not is_recorded(journal, task)]
        todo = [plan for plan in asked if not failure and read_record(journal, entry.name, plan.name) is None]
        gaps = lacking(entry).keys() | ({"initial_weights"} if entry.training is None else set())
        computed = [plan for plan in todo if not gaps & {*plan.needs}]
        paid = paid_once(computed)
        work = sum(sum(plan.algebra.values()) for plan in paid)
        count = len(open_tasks) + len(open_shifts) + len(todo)
        costs = [task.cost for task in open_tasks] + [task.cost for task in open_shifts]
        cost = sum(costs, Cost())
        to_train = entry.needs_training and not is_trained(entry, prepared.training_data)
        training = prepared.training_cost(entry) if total and to_train else Cost()
        models[entry.name] = ModelForecast(
            entry.name,
            speeds[entry.architecture_identity],
            training,
            count,
            0 if failure else total - count,
            cost,
            sum((plan.cost for plan in paid), outputs if todo else Cost()),
            Cost(work, work),
            at_most=bool(training.forwards and entry.training and entry.training.target_loss),
            failure=failure,
            skipped=tuple(
                dict.fromkeys(
                    f"{entry.name}: {what} is skipped: {reason}"
                    for what, reason in [
                        *(
                            (f"{t.attack.attack} ({t.attack.norm})", why)
                            for t, why in prepared.skips(entry.name)
                        ),
                        *((f"shift {name}", why) for name, why in prepared.shift_skips(entry.name).items()),
                    ]
                )
            ),
        )
    attacks = tuple(
        {
            "attack": attack.attack,
            "norm": attack.norm,
            "levels": len(attack.epsilons),
            "search": attack.search,
            "forwards": attack.cost.forwards,
            "backwards": attack.cost.backwards,
            "reduced": attack.reduced,
            "stages": [
                {
                    "attack": stage.attack,
                    "forwards": stage.cost.forwards,
                    "backwards": stage.cost.backwards,
                    "reduced": stage.reduced,
                }
                for stage in attack.stages
            ],
        }
        for attack in prepared.plan.attacks
    )
    kept = len(models) * sum(attack.evidence for attack in prepared.plan.attacks)
    evidence_bytes = kept * prepared.plan.samples * math.prod(shape) * 4  # float32
    missing = tuple(
        f"to fetch: {file.path} from {file.address}"
        for entry in prepared.entries
        if entry.is_missing
        for file in entry.downloads
        if not file.path.is_file()
    ) + tuple(
        f"training data for measures: {need.problem().message}"
        for need in measured(prepared.study)
        if not need.have
    )
    return Forecast(
        prepared.study.study.name,
        prepared.plan.samples,
        models,
        attacks,
        evidence_bytes,
        missing,
        measures=tuple(
            {"measure": m.name, "family": m.described["family"], "where": m.where, **asdict(m.cost)}
            for m in paid_once(prepared.plan.measures)
        ),
        shifts=tuple(shift_rows(prepared)),
        notes=prepared.notes,
    )


def time_model(module: torch.nn.Module, shape: tuple[int, ...], device: torch.device) -> Speed:
    """Return how long a row takes through a model, measured now."""
    module = module.eval().requires_grad_(False).to(device)
    heavy = device.type == "cpu" and sum(weight.numel() for weight in module.parameters()) > HEAVY
    rows = 1 if heavy else TIMED_ROWS
    x = torch.rand(rows, *shape, device=device)

    def forward() -> None:
        with torch.no_grad():
            module(x).sum().item()

    def both() -> None:
        inputs = x.clone().requires_grad_()
        torch.autograd.grad(module(inputs).sum(), inputs)[0].sum().item()

    # A model that cannot be computed with is no reason to stop here: its tasks will say what is wrong.
    with fitting_threads(shape):
        try:
            first = _seconds(forward)
        except Exception:
            return Speed(0.0, 0.0)
        try:
            second = _seconds(both)
        except Exception:
            return Speed(first / rows, 0.0)
    return Speed(first / rows, max(second - first, 0.0) / rows)


def _seconds(work: Callable[[], None]) -> float:
    work()  # the first call allocates and chooses kernels
    started, calls = time.perf_counter(), 0
    while True:
        work()
        calls += 1
        elapsed = time.perf_counter() - started
        if elapsed > TIMED_SECONDS or calls == TIMED_CALLS:
            return elapsed / calls


def _recorded(journal: Journal, task: Task, prepared: Prepared) -> bool:
    record = journal.read(Key(task.model, task.attack.norm, task.attack.attack, task.shard))
    hashes = prepared.samples.hashes[task.start : task.stop]
    wanted = [epsilon.value for epsilon in task.attack.epsilons]
    identity = "" if record is None else record.identity
    return covers(record, identity, hashes, wanted, evidence=task.attack.evidence)


def _to_train(model: ModelForecast) -> str:
    if model.failure:
        return "failed"
    if not model.training.forwards:
        return "-"
    return "at most" if model.at_most else "yes"


def _size(count: int) -> str:
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min((len(str(count)) - 1) // 3, len(units) - 1)
    return f"{count / 1000**power:,.1f} {units[power]}"


def _stage_rows(attack: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rows of a cascade's stages, named by their place in it."""
    return [
        {**stage, "attack": f"  {number}. {stage['attack']}", "norm": "", "levels": "", "search": ""}
        for number, stage in enumerate(attack["stages"], 1)
    ]


def _table(header: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [header, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
