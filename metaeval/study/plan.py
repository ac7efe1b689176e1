"""The plan: every task of a study, what it depends on and what it costs, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from metaeval.study.numbers import Epsilon

Row = tuple[str, str, str]  # model, norm, attack

SHARD = 1000  # samples in one task; also the chunk length of the cube's sample axis


@dataclass(frozen=True)
class Cost:
    """Passes through a model: rows sent forward and rows sent backward."""

    forwards: float = 0.0
    backwards: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forwards + other.forwards, self.backwards + other.backwards)

    def __mul__(self, factor: float) -> Cost:
        return Cost(self.forwards * factor, self.backwards * factor)


@dataclass(frozen=True)
class StagePlan:
    """One stage of a cascade; attributes as of `AttackPlan`."""

    attack: str
    version: str
    settings: Mapping[str, Any]
    reduced: str
    cost: Cost


@dataclass(frozen=True)
class AttackPlan:
    """One attack, or one cascade, of one threat model with everything that decides its results.

    Attributes
    ----------
    attack : str
        Name of its row in the cube: the attack's id, a preset's name, or "cascade".
    settings : mapping
        All settings, defaults included; of a cascade those of each stage by its attack.
    reduced : str
        The settings that are weaker than the attack's standard, in words; empty if none.
    cost : Cost
        Predicted passes for one sample over all epsilons.
    evidence : bool
        Whether the smallest adversarials are kept.
    stages : tuple of StagePlan
        The stages of a cascade, in order; empty for one attack.
    """

    norm: str
    attack: str
    version: str
    search: str
    settings: Mapping[str, Any]
    reduced: str
    epsilons: tuple[Epsilon, ...]
    cost: Cost
    evidence: bool = False
    stages: tuple[StagePlan, ...] = ()


@dataclass(frozen=True)
class MeasurePlan:
    """One generalization measure with everything that decides its values.

    Attributes
    ----------
    where : str
        "every scope", "clean", "train" or "attacked copies".
    needs : tuple of str
        What it looks at, as its registry entry says.
    described : mapping
        What the cube says of it: family, definition, formula, citation and so on.
    cost : Cost
        Predicted passes for one model.
    shares : str
        Measures that say the same, but not "", pay for their passes once.
    algebra : mapping of str to float
        Work on the weights by what is made, in passes of one row forward and backward; paid for once, too.
    """

    name: str
    version: int
    settings: Mapping[str, Any]
    where: str
    needs: tuple[str, ...]
    described: Mapping[str, Any]
    cost: Cost
    shares: str = ""
    algebra: Mapping[str, float] = field(default_factory=dict)

    @property
    def duration(self) -> Cost:
        """What takes as long: the passes, and work on the weights counted in passes."""
        work = sum(self.algebra.values())
        return self.cost + Cost(work, work)


def paid_once(measures: Iterable[MeasurePlan]) -> list[MeasurePlan]:
    """Return measures in order, without the cost of those that share what one before them paid for."""
    first: dict[str, str] = {}
    return [
        replace(
            plan,
            cost=Cost()
            if plan.shares and first.setdefault(f"passes {plan.shares}", plan.name) != plan.name
            else plan.cost,
            algebra={
                what: work
                for what, work in plan.algebra.items()
                if first.setdefault(f"algebra {what}", plan.name) == plan.name
            },
        )
        for plan in measures
    ]


@dataclass(frozen=True)
class Task:
    """One unit of work: one model, one attack, one shard of samples, all epsilons at once."""

    model: str
    attack: AttackPlan
    shard: int
    start: int
    stop: int

    @property
    def samples(self) -> int:
        """Number of samples of the shard that the study uses."""
        return self.stop - self.start

    @property
    def cost(self) -> Cost:
        """Predicted passes of the whole task."""
        return self.attack.cost * self.samples


@dataclass(frozen=True)
class Plan:
    """All that a study will compute: models x attacks x shards of samples, and models x measures.

    Attributes
    ----------
    skipped : mapping
        Why an attack is not run on a model, for each (model, norm, attack) that is so.
    """

    samples: int
    models: tuple[str, ...]
    attacks: tuple[AttackPlan, ...]
    measures: tuple[MeasurePlan, ...] = ()
    skipped: Mapping[Row, str] = field(default_factory=dict)

    def shards(self) -> Iterator[tuple[int, int, int]]:
        """Yield (shard, first sample, end) over the samples of the study."""
        for shard, start in enumerate(range(0, self.samples, SHARD)):
            yield shard, start, min(start + SHARD, self.samples)

    def tasks(self, model: str) -> Iterator[Task]:
        """Yield the tasks of one model, in the order in which they run."""
        return (task for task in self._tasks(model) if self._reason(task) is None)

    def skips(self, model: str) -> Iterator[tuple[Task, str]]:
        """Yield the tasks that are not run on one model, and why."""
        return ((task, reason) for task in self._tasks(model) if (reason := self._reason(task)) is not None)

    def _reason(self, task: Task) -> str | None:
        return self.skipped.get((task.model, task.attack.norm, task.attack.attack))

    def _tasks(self, model: str) -> Iterator[Task]:
        for attack in self.attacks:
            for shard, start, stop in self.shards():
                yield Task(model, attack, shard, start, stop)
