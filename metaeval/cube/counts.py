"""Counting verdicts: the numpy core of the aggregates, for one model and one norm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metaeval.outcomes import Cell

Integer = npt.NDArray[np.int64]
Cells = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

UNKNOWN = -1

# In the worst case a sample takes the first of these states that a member gives it, so a correct sample is
# inferred as soon as one member's verdict is, and overruled only if nothing else breaks it.
_WORST_FIRST = (
    Cell.PENDING,
    Cell.MISCLASSIFIED,
    Cell.BROKEN,
    Cell.BROKEN_ENVELOPE,
    Cell.BROKEN_OVERRULED,
    Cell.ROBUST_INFERRED,
    Cell.ROBUST,
)
_RANK = np.empty(len(_WORST_FIRST), dtype=np.uint8)
_RANK[list(_WORST_FIRST)] = np.arange(len(_WORST_FIRST))
_STATE = np.array(_WORST_FIRST, dtype=np.uint8)


@dataclass(frozen=True)
class Counts:
    """One model's aggregates in one norm; -1 and NaN wherever a sample they cover has no verdict.

    `correct`, `inferred` int64 and `robust_accuracy` float64 `(class, epsilon, attack)`, `evaluated`
    `(class, attack)`, `overruled` `(epsilon, attack)`, `total` `(class,)`. The accuracy of a class without
    samples is NaN.
    """

    robust_accuracy: npt.NDArray[np.float64]
    correct: Integer
    inferred: Integer
    evaluated: Integer
    overruled: Integer
    total: Integer


def worst_case(cells: Cells, members: Mask) -> Cells:
    """Return each sample's state when every member attacks it, uint8 `(sample, level)`.

    Parameters
    ----------
    cells : ndarray of uint8, (attack, sample, level)
    members : ndarray of bool, (attack,)
        Attacks that take part; without any, every sample is pending.
    """
    if not members.any():
        return np.zeros(cells.shape[1:], dtype=np.uint8)
    worst: Cells = _STATE[_RANK[cells[members]].min(axis=0)]
    return worst


def count_cells(cells: Cells, labels: Integer, classes: int) -> Counts:
    """Count verdicts by class.

    Parameters
    ----------
    cells : ndarray of uint8, (attack, sample, level)
        States; 0 wherever no record vouches for one.
    labels : ndarray of int64, (sample,)
        True classes, 0 to `classes` - 1.
    classes : int
        Number of classes.
    """
    total = np.bincount(labels, minlength=classes).astype(np.int64)
    seen = (cells != Cell.PENDING).all(axis=2)
    evaluated = _by_class(seen[:, :, None], labels, classes)[:, 0, :].T
    complete = evaluated == total[:, None]
    known = complete[:, None, :]
    robust = _by_class((cells == Cell.ROBUST) | (cells == Cell.ROBUST_INFERRED), labels, classes)
    correct = np.where(known, robust.transpose(2, 1, 0), UNKNOWN)
    inferred = np.where(
        known, _by_class(cells == Cell.ROBUST_INFERRED, labels, classes).transpose(2, 1, 0), UNKNOWN
    )
    overruled = np.where(complete.all(axis=0), (cells == Cell.BROKEN_OVERRULED).sum(axis=1).T, UNKNOWN)
    return Counts(
        robust_accuracy=accuracy(correct, total[:, None, None]),
        correct=correct,
        inferred=inferred,
        evaluated=evaluated,
        overruled=overruled.astype(np.int64),
        total=total,
    )


def aggregate_norm(cells: Cells, labels: Integer, classes: int, members: Mask) -> Counts:
    """Count verdicts as `count_cells` does, with the worst case over `members` as the first attack."""
    return count_cells(np.concatenate([worst_case(cells, members)[None], cells]), labels, classes)


def accuracy(correct: npt.ArrayLike, total: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return correct / total as fractions; NaN where correct is unknown (-1) or total is 0."""
    c, t = np.broadcast_arrays(np.asarray(correct, dtype=np.float64), np.asarray(total, dtype=np.float64))
    result: npt.NDArray[np.float64] = np.divide(c, t, out=np.full(c.shape, np.nan), where=(c >= 0) & (t > 0))
    return result


def overall_accuracy(correct: npt.ArrayLike, total: npt.ArrayLike, axis: int = 0) -> npt.NDArray[np.float64]:
    """Return the accuracy over all classes, sum of correct / sum of total along the class axis.

    Never the mean of class accuracies, which weighs a rare class as much as a frequent one. NaN where any
    class is unknown (-1).
    """
    c, t = np.broadcast_arrays(np.asarray(correct), np.asarray(total))
    return accuracy(np.where((c < 0).any(axis=axis), UNKNOWN, c.sum(axis=axis)), t.sum(axis=axis))


def only_black_box(cells: Cells, black_box: Mask) -> npt.NDArray[np.float64]:
    """Return the share of samples that each black-box attack broke at some level and no other kind did.

    Parameters
    ----------
    cells : ndarray of uint8, (attack, sample, level)
    black_box : ndarray of bool, (attack,)

    Returns
    -------
    ndarray of float64, (attack,)
        NaN for other attacks, where there are no other attacks, and where a verdict is missing.
    """
    share = np.full(len(cells), np.nan)
    if black_box.all() or cells.shape[1] == 0 or (cells[~black_box] == Cell.PENDING).any():
        return share
    correct = (cells == Cell.ROBUST) | (cells == Cell.ROBUST_INFERRED)
    others = correct[~black_box].all(axis=0)
    for attack in np.flatnonzero(black_box):
        if not (cells[attack] == Cell.PENDING).any():
            share[attack] = (others & ~correct[attack]).any(axis=1).mean()
    return share


def _by_class(mask: Mask, labels: Integer, classes: int) -> Integer:
    """Count a mask `(attack, sample, level)` by class: int64 `(attack, level, class)`."""
    attacks, _, levels = mask.shape
    result = np.empty((attacks, levels, classes), dtype=np.int64)
    for attack in range(attacks):
        for level in range(levels):
            result[attack, level] = np.bincount(labels[mask[attack, :, level]], minlength=classes)
    return result
