"""Average relative sharpness: the mean rise of the loss under noise as large as a share of each layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import stdtrit
from torch.nn import functional

from metaeval.measures import perturbed
from metaeval.measures.spec import Context, Measure, Scalar, Split, Undefined, Value

FIRST = 32  # draws before the interval is looked at


class AverageRelativeSharpness(Measure):
    """The expected rise of the loss in a ball relative to each layer's norm."""

    name = "average_relative_sharpness"
    family = "sharpness"
    version = 2  # batch norm is folded by torch.export
    definition = (
        "mean rise of cross-entropy under a random change within xi ||w_l|| of each tensor w_l, in nats"
    )
    formula = r"\mathbb{E}_u[L(w + u)] - L(w),\quad u_l \sim \mathrm{Uniform}\{\|u_l\|_2 \le \xi \|w_l\|_2\}"
    citation = (
        "D. Stutz, M. Hein, B. Schiele: Relating Adversarially Robust Generalization to Flat Minima. "
        "ICCV 2021"
    )
    expected_sign = -1
    needs: ClassVar[tuple[str, ...]] = ("weights", "train_data", "train_logits")
    invariance = ("layer rescaling",)
    settings: ClassVar[Mapping[str, Scalar]] = {
        "radius": 0.5,
        "images": 32,
        "rtol": 0.1,
        "draws": 256,
        "perturb": "weights",
        "fold_batch_norm": True,
    }
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"perturb": perturbed.PERTURBED}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "radius": (1e-9, 1e3),
        "images": (1, 10**9),
        "rtol": (1e-3, 10.0),
        "draws": (2, 10**9),
    }
    cost = "two forward passes of `images` images per draw, `draws` draws at most"
    caveats = (
        "The paper's average-case flatness with its relative radius, of the clean loss instead of the robust "
        "one; the loss depends on the scale of the logits."
    )

    @classmethod
    def passes(cls, samples: int, train: int, settings: Mapping[str, Any]) -> tuple[float, float]:
        """Return those of the most draws; see `Measure.passes`."""
        return 2.0 * min(train, settings["images"]) * settings["draws"], 0.0

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        """Draw until the 95 % half-width is a share `rtol` of the mean."""
        if context.train is None:
            raise Undefined("no training data at hand")
        chosen = {**self.settings, **settings}
        training = perturbed.Training.of(context, context.train)
        network = perturbed.network(
            context, perturb=chosen["perturb"], fold_batch_norm=chosen["fold_batch_norm"]
        )
        rises: list[float] = []
        rows, most = 0, int(chosen["draws"])
        mean, error, reach = math.nan, math.inf, math.inf
        with torch.no_grad():
            while len(rises) < most and not reach <= chosen["rtol"] * abs(mean):
                for k in range(len(rises), min(max(FIRST, 2 * len(rises)), most)):
                    random = perturbed.generator(context.seed, "relative", k)
                    indices = training.draw(random, chosen["images"])
                    x, y = training.rows(indices)
                    weights = _moved(network, chosen["radius"], random)
                    before, after = (
                        functional.cross_entropy(network.logits_in_parts(x, y, chosen_weights), y)
                        for chosen_weights in (network.weights, weights)
                    )
                    rises.append(float(after) - float(before))
                    rows += 2 * len(indices)
                if not np.isfinite(rises).all():
                    reason = f"the loss is not finite within relative radius {chosen['radius']:g}"
                    raise Undefined(reason).after(rows)
                mean, error = float(np.mean(rises)), float(np.std(rises, ddof=1)) / math.sqrt(len(rises))
                reach = float(stdtrit(len(rises) - 1, 0.975)) * error
        return Value(
            value=mean,
            standard_error=error,
            lower=mean - reach,
            upper=mean + reach,
            note=f"half-width {reach:.2g} after {most} draws" if reach > chosen["rtol"] * abs(mean) else "",
            forwards=rows,
        )


def _moved(network: perturbed.Network, radius: float, random: torch.Generator) -> dict[str, torch.Tensor]:
    """Return weights moved to a uniform point of the ball around each tensor."""
    noise = perturbed.noise(network.weights, random)
    share = torch.rand(len(noise), generator=random)
    return {
        name: perturbed.moved(
            weight,
            noise[name]
            * (
                radius
                * float(u) ** (1 / weight.numel())
                * perturbed.precise(weight).norm()
                / noise[name].norm()
            ),
        )
        for (name, weight), u in zip(network.weights.items(), share, strict=True)
    }
