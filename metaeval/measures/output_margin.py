"""The margin that bounds are divided by."""

from __future__ import annotations

import numpy as np

from metaeval.measures.logits import margins
from metaeval.measures.spec import Context, Undefined

PERCENTILE = 10


def margin_of(context: Context) -> float:
    """Return gamma, the 10th percentile of z_y - max_{j != y} z_j over the training set (Jiang et al. 2020).

    Raises
    ------
    Undefined
        Without training logits, if they are not finite, or if gamma is not positive.
    """
    if context.train is None or not len(context.train.y):
        raise Undefined("the logits of the training set are not at hand")
    logits, y = context.train.logits.astype(np.float64), context.train.y
    if not np.isfinite(logits).all():
        raise Undefined("the logits of the training set are not finite")
    margin = float(np.percentile(margins(logits, y), PERCENTILE))
    if margin <= 0:
        raise Undefined(f"the margin's {PERCENTILE}th percentile is {margin:.3g}, not positive")
    return margin
