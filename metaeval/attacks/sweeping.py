"""One attack on some samples at every epsilon: what is broken, what is robust, and on what that rests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from metaeval import outcomes
from metaeval.attacks import catalogue, checks
from metaeval.attacks.arithmetic import PRECISIONS, arithmetic
from metaeval.attacks.catalogue import AttackSpec
from metaeval.attacks.column import Bools, Column, Floats, Known
from metaeval.attacks.runs import AttackRuns
from metaeval.attacks.search import LevelSearch, Mode, Rows
from metaeval.attacks.verify import VOTES, Evaluator, predictions
from metaeval.errors import UsageError, unknown
from metaeval.outcomes import Cell

Integers = npt.NDArray[np.int64]

SEARCHES = ("exact", "frontier")


class Adversarials:
    """The smallest adversarials found so far of n samples.

    Attributes
    ----------
    points : Tensor
        (n, \\*shape): adversarials where `found`, else the inputs.
    found : ndarray
        bool (n,).
    distance : ndarray
        float64 (n,), inf where none was found.
    """

    def __init__(self, x: Tensor) -> None:
        self.points = x.clone()
        self.found = np.zeros(len(x), dtype=bool)
        self.distance = np.full(len(x), np.inf)

    def evidence(self) -> npt.NDArray[np.float32]:
        """Return the adversarials, float32 (n, \\*shape), NaN where there is none."""
        evidence = self.points.cpu().numpy().astype(np.float32)
        evidence[~self.found] = np.nan
        return evidence


@dataclass(frozen=True)
class SweepResult:
    """The column of one attack for n samples; all arrays are numpy.

    Attributes
    ----------
    distance : ndarray
        float64 (n,): norm of the smallest verified adversarial; inf if none was found, 0 if the sample is
        misclassified as it is, NaN for a randomised model.
    searched : ndarray
        float64 (n,): the largest radius below `distance` attacked in full without success, else 0. A
        minimum-norm attack searches all radii below its distance.
    forwards, backwards : ndarray
        int64 (n,): passes that the attack spent on each sample in this call.
    cells : ndarray
        uint8 (n, levels), codes of `metaeval.outcomes.Cell`, levels as they were given.
    flags : dict
        Numbers that say whether the column can be trusted; see `metaeval.attacks.checks.FLAG_MEANINGS`.
        Empty if nothing had to be attacked.
    verification : int
        Forward passes spent outside the attack: clean predictions, checks, verification and projections.
    clean_prediction : ndarray
        int64 (n,): predicted classes of the inputs, `NO_CLASS` where the logits contain NaN.
    evidence : ndarray, optional
        float32 (n, \\*shape): the smallest adversarials of this call, NaN where there is none.
    verification_seconds : float
        Time that the passes of `verification` took.
    """

    distance: Floats
    searched: Floats
    forwards: Integers
    backwards: Integers
    cells: npt.NDArray[np.uint8]
    flags: dict[str, float]
    verification: int
    clean_prediction: Integers
    evidence: npt.NDArray[np.float32] | None = None
    verification_seconds: float = 0.0


def sweep(
    model: nn.Module,
    x: Tensor | npt.ArrayLike,
    y: Tensor | npt.ArrayLike,
    *,
    norm: str = "linf",
    epsilons: npt.ArrayLike,
    attack: str = "apgd-ce",
    search: str = "frontier",
    seed: int = 0,
    sample_hashes: Sequence[str] | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    evidence: bool = False,
    precision: str = "float32",
    **settings: Any,
) -> SweepResult:
    """Attack every sample at every epsilon and say what each verdict rests on.

    Parameters
    ----------
    model : torch.nn.Module
        Maps inputs in [0, 1] to logits (n, classes); normalisation is part of it. It is evaluated in
        evaluation mode, on `device`.
    x : Tensor or array
        Inputs (n, \\*shape) in [0, 1].
    y : Tensor or array
        Labels (n,).
    norm : {"linf", "l2", "l1"}
        Norm of the perturbation.
    epsilons : array_like
        Radii, not negative, no two the same; 0 is the clean forward pass. In inputs' units; may be
        fractions in strings.
    attack : str
        Id of an attack, as `metaeval list attacks` shows them.
    search : {"frontier", "exact"}
        ``"exact"`` attacks every cell that is called robust; ``"frontier"`` infers that a sample is robust
        below a level at which the attack failed.
    seed : int
        With a sample's content and an epsilon it decides all randomness, whatever the batch or the order.
    sample_hashes : sequence of str, optional
        Content hashes of the inputs, computed if not given.
    batch_size : int, optional
        Most samples that the attack sends through the model at once.
    device : torch.device or str, optional
        Where to compute; by default where the model is.
    evidence : bool
        Return the smallest adversarials too.
    precision : {"float32", "tf32", "bfloat16"}
        What attacks compute in; TF32 exists on CUDA only, bfloat16 is for our APGD, which confirms in
        float32 as it goes (others take float32). Adversarials are verified in float32 whatever it is.
    **settings
        The attack's settings, as in a study; defaults for those not given.

    Raises
    ------
    UsageError
        If an argument is wrong: an unknown attack or setting, inputs outside [0, 1], too few classes.
    """
    spec = catalogue.get(attack).for_norm(norm)
    inputs, labels = as_array(x, np.float32), as_array(y, np.int64)
    return run(
        model,
        inputs,
        labels,
        spec=spec,
        settings=catalogue.resolve_settings(spec, settings),
        norm=norm,
        epsilons=as_epsilons(epsilons),
        search=search,
        seed=seed,
        sample_hashes=sample_hashes,
        batch_size=batch_size,
        device=device,
        evidence=evidence,
        precision=precision,
    )


def run(
    model: nn.Module,
    x: npt.NDArray[np.float32],
    y: Integers,
    *,
    spec: AttackSpec,
    settings: dict[str, Any],
    norm: str,
    epsilons: Floats,
    search: str = "frontier",
    seed: int = 0,
    sample_hashes: Sequence[str] | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    evidence: bool = False,
    known: Known | None = None,
    clean_prediction: Integers | None = None,
    precision: str = "float32",
) -> SweepResult:
    """Do what `sweep` does, with a resolved attack and with what an earlier call left.

    Parameters
    ----------
    known : Known, optional
        The column so far. In frontier mode a sample is attacked only where a new epsilon lies between what
        was searched and its smallest adversarial; in exact mode at every new epsilon below that adversarial.
        A minimum-norm attack never runs twice on a sample. Rows with a NaN distance are computed afresh.
    clean_prediction : ndarray, optional
        int64 (n,): predictions of the same model on the same inputs, if they are known already.
    """
    spec = spec.for_norm(norm)
    check_arguments([spec], norm, epsilons, search, precision)
    checks.check_data(x, y)
    place = place_of(model, device)
    model.to(place)
    flags: checks.Flags = {}
    with arithmetic(place, precision), checks.guarded(model, flags):
        evaluator = Evaluator(model, place)
        runs = AttackRuns(
            model, x, y, spec, settings, norm, seed, sample_hashes, batch_size, place, precision
        )
        if clean_prediction is None:
            clean_prediction = clean_predictions(evaluator, runs.x, y)
        column, correct, taken = _start(spec, epsilons, norm, known, clean_prediction == y)
        mode = mode_of(spec, search)
        if spec.kind == "minimum-norm":
            work = correct & ~taken & (len(column.levels) > 0)
        else:
            work = correct & column.pending(mode)
        best = Adversarials(runs.x)
        if work.any():
            classes, seen = checks.check_outputs(evaluator, runs.x)
            if reason := catalogue.problems(spec, norm=norm, classes=classes, shape=x.shape[1:]):
                raise UsageError(reason)
            flags |= seen
            if seen["randomised"]:  # no verdict says anything about another: neither earlier ones
                mode, work, column = "independent", correct, Column.fresh(len(x), column.levels)
                runs.randomised, evaluator.votes = True, VOTES
            flags |= attack_rows(column, np.flatnonzero(work), runs, evaluator, mode, best)
            flags["nonfinite_logits"] = float((clean_prediction < 0).mean())
    return SweepResult(
        **verdicts(column, epsilons, correct, randomised=mode == "independent"),
        forwards=runs.forwards,
        backwards=runs.backwards,
        flags=flags if work.any() else {},
        verification=evaluator.forwards,
        verification_seconds=evaluator.seconds,
        clean_prediction=clean_prediction,
        evidence=best.evidence() if evidence else None,
    )


def mode_of(spec: AttackSpec, search: str) -> Mode:
    """Return how the levels are searched, for a model that does not answer at random."""
    return "frontier" if search == "frontier" and spec.inferable else "exact"


def clean_predictions(evaluator: Evaluator, x: Tensor, y: Integers) -> Integers:
    """Return the predicted classes of the inputs; a UsageError if a label is none of the model's."""
    logits = evaluator.logits(x)
    checks.check_labels(y, logits)
    return predictions(logits).cpu().numpy()


def _start(
    spec: AttackSpec, epsilons: Floats, norm: str, known: Known | None, correct: Bools
) -> tuple[Column, Bools, Bools]:
    """Return the column with what is known of it, which samples are correctly classified, which are known."""
    levels = np.unique(epsilons if known is None else np.concatenate([epsilons, known.epsilons]))
    column = Column.fresh(len(correct), levels[levels > 0])
    if known is None:
        return column, correct, np.zeros(len(correct), dtype=bool)
    taken = ~np.isnan(known.distance)
    column.take_over(known, taken, norm)
    if spec.kind == "minimum-norm":
        column.settle(np.flatnonzero(taken))
    return column, np.where(taken, known.distance > 0, correct), taken


def attack_rows(
    column: Column, rows: Rows, runs: AttackRuns, evaluator: Evaluator, mode: Mode, best: Adversarials
) -> checks.Flags:
    """Attack some samples wherever the column is open, keep what was found, and return the flags raised."""
    fill = _minimum_norm if runs.spec.kind == "minimum-norm" else _fixed_epsilon
    rejected, suspicious = fill(column, rows, runs, evaluator, mode, best)
    return {
        "rejected_claims": float(rejected),
        "zero_gradient": suspicious / len(rows),
        "loss_switched": float(runs.switched[rows].mean()),
        "unperturbed": float((~runs.moved[rows]).mean()),
    }


def _fixed_epsilon(
    column: Column, rows: Rows, runs: AttackRuns, evaluator: Evaluator, mode: Mode, best: Adversarials
) -> tuple[int, int]:
    """Search the levels of some samples; return how many claims were rejected, how many gradients zero."""
    index = torch.from_numpy(rows).to(runs.x.device)
    search = LevelSearch(
        runs.x[index],
        runs.y[index],
        column.take(rows),
        norm=runs.norm,
        attack=lambda chosen, epsilon, start: runs.fixed_epsilon(rows[chosen], epsilon, start),
        verify=evaluator.verify,
        warm=runs.spec.warm,
    )
    search.points, search.found = best.points[index], best.found[rows]
    search.run(mode)
    column.put(rows, search.column)
    best.points[index], best.found[rows] = search.points, search.found
    best.distance[rows] = np.where(search.found, search.column.distance, np.inf)
    return search.rejected_claims, int(search.suspicious.sum())


def _minimum_norm(
    column: Column, rows: Rows, runs: AttackRuns, evaluator: Evaluator, mode: Mode, best: Adversarials
) -> tuple[int, int]:
    """Run a minimum-norm attack once: its distance decides every level."""
    index = torch.from_numpy(rows).to(runs.x.device)
    attempt = runs.minimum_norm(rows)
    verified = evaluator.verify(runs.x[index], runs.y[index], attempt.candidates, runs.norm, None)
    distance = outcomes.snap(verified.distance, column.levels, runs.norm)
    column.distance[rows] = distance
    column.settle(rows)
    smaller = np.flatnonzero(verified.broken & (distance < best.distance[rows]))
    source = torch.from_numpy(smaller).to(index.device)
    best.points[index[source]] = verified.points[source]
    best.found[rows[smaller]], best.distance[rows[smaller]] = True, distance[smaller]
    found = verified.broken
    return int((attempt.success & ~found).sum()), int((attempt.zero_gradient & ~found).sum())


def verdicts(column: Column, epsilons: Floats, correct: Bools, *, randomised: bool) -> dict[str, Any]:
    """Return distance, searched and cells of all samples, levels as given."""
    distance = np.where(correct, column.distance, 0.0)
    searched = np.where(correct, column.searched(), 0.0)
    at_levels = column.cells()
    if randomised:
        distance[correct] = searched[correct] = np.nan
        at_levels = np.where(column.verified, Cell.BROKEN, Cell.ROBUST).astype(np.uint8)
    cells = np.full((len(correct), len(epsilons)), Cell.ROBUST, dtype=np.uint8)  # epsilon 0: the clean pass
    positive = np.flatnonzero(epsilons > 0)
    cells[:, positive] = at_levels[:, np.searchsorted(column.levels, epsilons[positive])]
    cells[~correct] = Cell.MISCLASSIFIED
    return {"distance": distance, "searched": searched, "cells": cells}


def check_arguments(
    specs: Sequence[AttackSpec], norm: str, epsilons: Floats, search: str, precision: str
) -> None:
    """Check what does not depend on the model; see `sweep`."""
    if norm not in outcomes.NORMS:
        raise UsageError(*unknown("norm", norm, outcomes.NORMS)[:1])
    if search not in SEARCHES:
        raise UsageError(*unknown("search", search, SEARCHES)[:1])
    if precision not in PRECISIONS:
        raise UsageError(*unknown("precision", precision, PRECISIONS)[:1])
    for spec in specs:
        if reason := catalogue.problems(spec, norm=norm):
            raise UsageError(reason)
    if epsilons.ndim != 1 or not np.isfinite(epsilons).all() or (epsilons < 0).any():
        raise UsageError("epsilons must be a list of finite numbers, none negative")
    if len(np.unique(epsilons)) != len(epsilons):
        raise UsageError("an epsilon occurs twice")


def place_of(model: nn.Module, device: torch.device | str | None) -> torch.device:
    if device is None:
        return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return torch.device(device)


def as_epsilons(values: npt.ArrayLike) -> Floats:
    """Return radii as float64; fractions in strings (``"8/255"``) are what they say."""
    given = np.asarray(values)
    if given.dtype.kind != "U":
        return given.astype(np.float64)
    try:
        return np.array([float(Fraction(text.replace(" ", ""))) for text in given.ravel().tolist()])
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"epsilons must be numbers, or fractions in strings: {error}") from error


def as_array(values: Tensor | npt.ArrayLike, dtype: type) -> npt.NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.ascontiguousarray(values, dtype=dtype)
