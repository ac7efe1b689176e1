"""Models that give probabilities and no gradients; their logits are the logarithms of these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metaeval.errors import UsageError
from metaeval.hashing import hash_array, hash_json
from metaeval.sources.models.foreign.adapter import ForeignModel

Floats = npt.NDArray[np.floating[Any]]
Predict = Callable[[npt.NDArray[np.float32]], Any]

SMALLEST = float(np.finfo(np.float64).eps)  # probabilities below count as this: logarithms stay finite
ROUNDING = 1e-3  # how far a sum of probabilities may be off 1
PRINTED = 64  # inputs whose probabilities stand for a function's weights
PRINTED_DIGITS = 4  # what threads that sum in another order leave as it is


def adapt_estimator(
    built: Any, *, weights: Path | None, shape: tuple[int, ...], classes: int
) -> ForeignModel:
    """Return a fitted estimator of scikit-learn as a function of torch tensors.

    Parameters
    ----------
    built : object
        Has ``predict_proba`` of flat inputs (n, features) and ``classes_``, whole numbers from 0.
    shape, classes
        Of one input as the estimator was fitted to it, before it is made flat; number of classes.

    Raises
    ------
    UsageError
        If it is no such estimator, or knows other classes.
    """
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    _no_file(weights)
    predict = getattr(built, "predict_proba", None)
    if predict is None:
        raise UsageError(
            f"it gives type {type(built).__name__}, without predict_proba (CalibratedClassifierCV adds it)"
        )
    try:
        check_is_fitted(built)
    except NotFittedError:
        raise UsageError(f"it gives {type(built).__name__}, which is not fitted") from None
    known = np.asarray(built.classes_)
    if known.dtype.kind not in "iu" or known.ndim != 1 or not ((known >= 0) & (known < classes)).all():
        raise UsageError(
            f"its classes_ are {known.tolist()[:12]}; whole numbers from 0 to {classes - 1} are needed"
        )

    def probabilities(x: npt.NDArray[np.float32]) -> Floats:
        found = np.zeros((len(x), classes))
        found[:, known] = predict(x.reshape(len(x), -1))  # classes that it never saw have probability 0
        return found

    import joblib

    return _black_box(probabilities, hash_json(joblib.hash(built, hash_name="sha1")))


def adapt_function(built: Any, *, weights: Path | None, shape: tuple[int, ...], classes: int) -> ForeignModel:
    """Return any function from inputs to probabilities as a function of torch tensors.

    Parameters
    ----------
    built : callable
        From float32 (n, \\*shape) to probabilities (n, classes), NumPy arrays.
    """
    _no_file(weights)
    if not callable(built):
        raise UsageError(f"it gives type {type(built).__name__}, not a function from inputs to probabilities")
    inputs = np.random.default_rng(0).random((PRINTED, *shape)).astype(np.float32)
    print_ = _checked(built(inputs), PRINTED).round(PRINTED_DIGITS)
    return _black_box(built, hash_array(print_))


def _no_file(weights: Path | None) -> None:
    if weights is not None:
        raise UsageError(
            f"{weights.name} is not read: give the callable a parameter weights, which is its path"
        )


def _black_box(predict: Predict, fingerprint: str) -> ForeignModel:
    def logits(x: Tensor) -> Tensor:
        # A copy: what scales its inputs in place would change the samples that are attacked.
        found = _checked(predict(x.cpu().numpy().copy()), len(x))
        return torch.from_numpy(np.log(found.clip(SMALLEST)).astype(np.float32)).to(x.device)

    return ForeignModel(logits=logits, linearize=None, fingerprint=fingerprint, size=None)


def _checked(found: Any, n: int) -> Floats:
    """Return what a model gave if it is one row of probabilities per input."""
    probabilities = np.asarray(found, dtype=np.float64)
    if probabilities.ndim != 2 or len(probabilities) != n:
        raise UsageError(f"for {n} inputs it gives an array of shape {probabilities.shape}, not (n, classes)")
    sums = probabilities.sum(axis=1)
    if not (probabilities >= -ROUNDING).all() or not (abs(sums - 1) <= ROUNDING).all():
        low, high = (f"{value:.4g}" for value in (sums.min(), sums.max()))
        raise UsageError(f"what it gives are no probabilities: rows sum to {low} to {high}")
    return probabilities
