"""What all norm measures share: the family, and the division by the margin."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from metaeval.measures.output_margin import margin_of
from metaeval.measures.spec import Context, Measure, Split, Value

SINGULAR = {"operator": 400.0, "circular": 200.0, "reshaped": 20.0}
"""About what singular values of all layers cost, by method, in passes of one row forward and backward."""
SINGULAR_COST = (
    "no data; singular values, once for all measures, take about as long as "
    + ", ".join(f"{rows:g} ({method})" for method, rows in SINGULAR.items())
    + " forward and backward passes of one image"
)
FOLDED = "Of the network with batch norm folded into the layer before it, or as a diagonal layer of its own. "


class NormMeasure(Measure):
    """A size of a network; subclasses say which, and whether it is divided by the margin.

    Attributes
    ----------
    logarithmic : bool
        Whether the value is a logarithm, so that the margin's is subtracted.
    margin : bool
        Whether it is over the margin.
    singular : str
        What needs singular values of the layers: a norm, or its distance; "" if nothing does.
    """

    family = "norm"
    expected_sign = -1
    needs: ClassVar[tuple[str, ...]] = ("weights",)
    cost = "no data; linear algebra on the weights"
    caveats = FOLDED
    logarithmic: ClassVar[bool] = False
    margin: ClassVar[bool] = False
    singular: ClassVar[str] = ""
    invariance: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def algebra(cls, settings: Mapping[str, Any]) -> dict[str, float]:
        """Return the cost of singular values; see `Measure.algebra`."""
        method = settings.get("method", "")
        return {f"{cls.singular} by {method}": SINGULAR[method]} if cls.singular else {}

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        """Return the value; see `Measure.compute`."""
        gamma = context.shared(margin_of) if self.margin else 1.0
        found = self.size(context, **settings)
        if self.logarithmic:
            return replace(found, value=found.value - math.log(gamma))
        return replace(
            found,
            value=found.value / gamma,
            standard_error=found.standard_error / gamma,
            lower=found.lower / gamma,
            upper=found.upper / gamma,
        )

    @abstractmethod
    def size(self, context: Context, **settings: Any) -> Value:
        """Return the value before the margin."""


def over_margin(base: type[NormMeasure], *, invariance: tuple[str, ...]) -> type[NormMeasure]:
    """Return a measure divided by the margin (for a logarithm: minus the margin's)."""
    sign = rf"{base.formula} - \log \gamma" if base.logarithmic else rf"({base.formula}) / \gamma"
    return type(
        f"{base.__name__}OverMargin",
        (base,),
        {
            "__doc__": f"{base.__doc__} Over the margin.",
            "__module__": base.__module__,
            "name": f"{base.name}_over_margin",
            "definition": f"{base.definition}, "
            + ("minus the logarithm of the margin" if base.logarithmic else "divided by the margin"),
            "formula": sign,
            "needs": (*base.needs, "train_logits"),
            "invariance": invariance,
            "margin": True,
            "caveats": base.caveats
            + "The margin is the 10th percentile of the logit margin over the training set; undefined where "
            "that is not positive. ",
        },
    )
