"""Where to attack next: epsilons that narrow down where robustness curves cross, proposed and computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaeval.analysis import refinement
from metaeval.analysis.reading import sampled_norms, seed, wish
from metaeval.analysis.subset import of_study
from metaeval.cube.importing import provenance_of
from metaeval.cube.opening import open_cube
from metaeval.cube.store import CubeStore
from metaeval.errors import UsageError
from metaeval.study.numbers import parse_epsilon

if TYPE_CHECKING:
    import xarray as xr

    from metaeval.study.schema import Study

FINEST = 100  # cells narrower than the largest epsilon by this factor are left alone
DIGITS = 6  # of a proposed epsilon, so that it can be written into a study


@dataclass(frozen=True)
class Step:
    """One epsilon to attack next: the pair of models it is for and the cell of the grid it divides."""

    norm: str
    epsilon: str
    first: str
    second: str
    low: float
    high: float


@dataclass(frozen=True)
class Advice:
    """What a cube says of its next epsilon.

    Attributes
    ----------
    next : Step or None
        The widest cell at the edge of a certified bracket, relative to the norm's largest epsilon.
    pairs : list of dict
        Every pair of complete models: `norm`, `first`, `second`, `reason`, and the proposal if there is one.
    sampled : bool
        Whether the cube holds per-sample outcomes of attacks at all; published results do not.
    """

    next: Step | None
    pairs: list[dict[str, Any]]
    sampled: bool = True

    def sentence(self) -> str:
        """Return in words what to do next, or why nothing."""
        if not self.sampled:
            return (
                "nothing can be refined: that rests on what became of every sample under attack, and the "
                "cube holds no such outcomes"
            )
        if self.next:
            s = self.next
            return (
                f"next: {s.norm} epsilon {s.epsilon}, inside [{s.low:.6g}, {s.high:.6g}], where {s.first} "
                f"and {s.second} change places"
            )
        reasons = {row["reason"] for row in self.pairs}
        if not reasons:
            return "nothing to refine: under no norm are two models complete, sample by sample"
        if reasons == {"none"}:
            return "nothing to refine: no crossing is certified"
        if "samples" in reasons:
            return "more samples are needed, not more epsilons: no cell can change by more than they can tell"
        return "nothing to refine: every certified crossing is known to the tolerance"


def advise(cube: xr.DataTree, tolerance: float | None = None) -> Advice:
    """Return where the next epsilon of a cube should be.

    Parameters
    ----------
    cube : DataTree
        As opened; the confidence and the models are those of the study's ``[analysis]``.
    tolerance : float, optional
        Cells of at most this width are left alone; default: a hundredth of each norm's largest epsilon.
    """
    part = of_study(cube)
    confidence = float(wish(part, "analysis", "crossings", {}).get("confidence", 0.95))
    rows: list[dict[str, Any]] = []
    for norm in sampled_norms(part):
        largest = float(part.children[norm].coords["epsilon"].values.max())
        if largest == 0:
            continue
        width = tolerance or largest / FINEST
        found = refinement.from_cube(part, norm, width, alpha=1 - confidence, seed=seed(part))
        for row in found.to_dict("records"):
            named = {str(key): value for key, value in row.items()}
            rows.append({"norm": norm, **named, "share": (named["high"] - named["low"]) / largest})
    refinable = [row for row in rows if row["reason"] == "refine"]
    best = max(refinable, key=lambda row: row["share"], default=None)
    for each in rows:
        del each["share"]
    if best is None:
        return Advice(None, rows, bool(sampled_norms(part)))
    step = Step(epsilon=f"{best['epsilon']:.{DIGITS}g}", **{key: best[key] for key in _STEP_KEYS})
    return Advice(step, rows)


_STEP_KEYS = ("norm", "first", "second", "low", "high")


def with_epsilon(study: Study, step: Step) -> Study:
    """Return a study with one more epsilon in every threat model of the step's norm."""
    epsilon = parse_epsilon(step.epsilon)
    threats = tuple(
        threat.model_copy(
            update={"epsilons": tuple(sorted({*threat.epsilons, epsilon}, key=lambda e: e.value))}
        )
        if threat.norm == step.norm
        else threat
        for threat in study.threat_models
    )
    return study.model_copy(update={"threat_models": threats})


def refine(
    folder: Path,
    *,
    budget: int,
    tolerance: float | None = None,
    note: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> tuple[Study, list[Step], Advice]:
    """Attack the proposed epsilons one after the other, each where the last result asks for it.

    Parameters
    ----------
    folder : Path
        Of the cube, which the study that last ran there has completed.
    budget : int
        Epsilons at most.
    note : callable
        Told of every step before it is computed.
    options
        As of `metaeval.runner.run.run_study`.

    Returns
    -------
    Study, list of Step, Advice
        The study with the new epsilons, the steps computed, and what is proposed after them.

    Raises
    ------
    UsageError
        If the results were imported: there is nothing to attack.
    """
    from metaeval.runner.records import read_lock
    from metaeval.runner.run import run_study

    if provenance_of(folder) is not None:
        raise UsageError(f"{folder} holds imported results, which come without the models to attack")
    study = read_lock(folder)
    selection = CubeStore.open(folder).selection()
    limit = selection.samples if selection else None  # a run on the first samples stays one
    steps: list[Step] = []
    while True:
        advice = advise(open_cube(folder), tolerance)
        if advice.next is None or len(steps) == budget:
            return study, steps, advice
        step = advice.next
        note(f"{len(steps) + 1} of at most {budget}: {advice.sentence().removeprefix('next: ')}")
        study = with_epsilon(study, step)
        run_study(study, output=folder, limit=limit, **options)
        steps.append(step)


def table(advice: Advice) -> list[dict[str, Any]]:
    """Return the pairs as rows to print; what is not there is empty."""
    return [
        {
            key: ("" if value != value else f"{value:.{DIGITS}g}") if isinstance(value, float) else value
            for key, value in row.items()
        }
        for row in advice.pairs
    ]


def as_dict(advice: Advice) -> dict[str, Any]:
    """Return the advice as JSON can say it."""
    pairs = [{key: None if value != value else value for key, value in row.items()} for row in advice.pairs]
    return {"next": asdict(advice.next) if advice.next else None, "pairs": pairs}
