"""Worst-case sharpness: what the worst change of the weights in a box does, found by sign ascent."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from metaeval.measures import perturbed
from metaeval.measures.spec import Context, Measure, Scalar, Split, Undefined, Value

LOWEST, HIGHEST, FIRST, WIDER = 1e-5, 10.0, 0.01, 4.0
BRACKETING = 3  # radii as a rule until the target lies between two
STRIDE = 2.5  # the steps together, in radii
LOWER_BOUND = "a lower bound: the ascent need not find the worst change"


@dataclass(frozen=True, eq=False)
class Box:
    """Fixed images and the boxes |u_i| <= radius * scale_i around a network's weights."""

    network: perturbed.Network
    scale: Mapping[str, Tensor]
    x: Tensor
    y: Tensor
    loss: Tensor
    correct: Tensor

    @property
    def rows(self) -> int:
        """Number of images."""
        return len(self.y)

    def ascend(self, radius: float, steps: int) -> tuple[Tensor, Tensor]:
        """Return the losses (n,) and verdicts (n,) at the largest mean loss, and at the fewest correct.

        Sign ascent on the mean cross-entropy from the weights themselves, `steps` steps of equal length.
        """
        reach = {name: radius * perturbed.precise(scale) for name, scale in self.scale.items()}
        start = {name: perturbed.precise(weight) for name, weight in self.network.weights.items()}
        weights = start
        worst_loss, fewest = self.loss, self.correct
        for step in range(steps + 1):
            rounded = {name: weights[name].to(own.dtype) for name, own in self.network.weights.items()}
            if step < steps:
                gradient, logits = self.network.gradient(self.x, self.y, rounded)
            else:
                logits = self.network.logits_in_parts(self.x, self.y, rounded)
            loss = functional.cross_entropy(logits, self.y, reduction="none")
            right = perturbed.correct(logits, self.y)
            if loss.mean() > worst_loss.mean():
                worst_loss = loss
            if right.sum() < fewest.sum():
                fewest = right
            if step < steps:
                weights = {
                    name: torch.clamp(
                        weights[name] + STRIDE / steps * reach[name] * gradient[name].nan_to_num().sign(),
                        own - reach[name],
                        own + reach[name],
                    )
                    for name, own in start.items()
                }
        return worst_loss, fewest

    def passes(self, steps: int, radii: int = 1) -> tuple[int, int]:
        """Return the rows sent forwards and backwards for a number of ascents, the first look included."""
        return self.rows * (1 + radii * (steps + 1)), self.rows * radii * steps


def box(context: Context, *, adaptive: bool, images: int, perturb: str, fold_batch_norm: bool) -> Box:
    """Return the box around the weights: in proportion to each weight if `adaptive`, else a cube.

    Raises
    ------
    Undefined
        If there are no training data, or logits are not finite.
    """
    if context.train is None:
        raise Undefined("no training data at hand")
    training = perturbed.Training.of(context, context.train)
    network = perturbed.network(context, perturb=perturb, fold_batch_norm=fold_batch_norm)
    indices = training.fixed(perturbed.generator(context.seed, "fixed images"), images)
    x, y = training.rows(indices)
    with torch.no_grad():
        logits = network.logits_in_parts(x, y, network.weights)
    scale = {
        name: weight.abs() if adaptive else torch.ones_like(weight)
        for name, weight in network.weights.items()
    }
    loss = functional.cross_entropy(logits, y, reduction="none")
    return Box(network, scale, x, y, loss, perturbed.correct(logits, y))


class _WorstCase(Measure):
    """What the measures of a worst change share."""

    family = "sharpness"
    version = 3  # the radius at which the drop was seen
    expected_sign = -1
    needs: ClassVar[tuple[str, ...]] = ("weights", "gradients", "train_data", "train_logits")
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"perturb": perturbed.PERTURBED}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"images": (1, 10**9), "steps": (1, 10**6)}
    adaptive: ClassVar[bool] = True

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        """Return the measure on fixed training images."""
        chosen = {**self.settings, **settings}
        place: dict[str, Any] = {key: chosen[key] for key in ("images", "perturb", "fold_batch_norm")}
        looked_at = context.has(box, adaptive=self.adaptive, **place)
        around = context.shared(box, adaptive=self.adaptive, **place)
        with torch.no_grad():
            try:
                found = self.inside(around, chosen)
            except Undefined as error:
                raise error.after(error.forwards - looked_at * around.rows, error.backwards) from None
        return replace(found, forwards=found.forwards - looked_at * around.rows)

    @classmethod
    def passes(cls, samples: int, train: int, settings: Mapping[str, Any]) -> tuple[float, float]:
        """Return those of a usual number of ascents; see `Measure.passes`."""
        rows, steps, radii = min(train, settings["images"]), settings["steps"], cls.usual_radii(settings)
        return float(rows * (1 + radii * (steps + 1))), float(rows * radii * steps)

    @classmethod
    def usual_radii(cls, settings: Mapping[str, Any]) -> int:
        """Return how many radii are tried as a rule."""
        return 1

    @abstractmethod
    def inside(self, around: Box, settings: Mapping[str, Any]) -> Value:
        """Return the measure of a box."""


class WorstCaseSharpness(_WorstCase):
    """The inverse squared radius at which the worst change costs the target accuracy."""

    name = "worst_case_sharpness"
    definition = "1 / alpha^2, alpha the linf radius on the weights whose worst change costs .1 of accuracy"
    formula = r"1/\alpha^2,\quad \alpha = \max\{r : \max_{\|u\|_\infty \le r} A(w) - A(w + u) \le 0.1\}"
    citation = (
        "N. S. Keskar et al.: On Large-Batch Training for Deep Learning. ICLR 2017; Y. Jiang et al.: "
        "Fantastic Generalization Measures and Where to Find Them. ICLR 2020"
    )
    settings: ClassVar[Mapping[str, Scalar]] = {
        "target": 0.1,
        "images": 512,
        "steps": 15,
        "rtol": 0.05,
        "perturb": "weights",
        "fold_batch_norm": True,
    }
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        **_WorstCase.limits,
        "target": (0.0, 0.999),
        "rtol": (1e-3, 10.0),
    }
    adaptive = False
    cost = "about 8 ascents of `steps` forward and backward passes over `images` fixed images"
    caveats = (
        f"On fixed training images, {LOWER_BOUND}. lower and upper are the ends of the bisection, not a "
        "confidence interval: at the radius of `lower`, which is the value, the drop was seen, at that of "
        "`upper` it was not. "
        "Changes when layers are rescaled."
    )

    @classmethod
    def usual_radii(cls, settings: Mapping[str, Any]) -> int:
        """Return how many radii are tried as a rule."""
        return BRACKETING + math.ceil(math.log2(math.log(WIDER) / math.log1p(settings["rtol"])))

    def inside(self, around: Box, settings: Mapping[str, Any]) -> Value:
        """Bisect the radius in log scale."""
        target, steps, rows = settings["target"], int(settings["steps"]), around.rows
        right = int(around.correct.sum())
        if right <= target * rows:
            reason = f"an accuracy of {right / rows:.3g} cannot fall by {target:g}"
            raise Undefined(reason).after(*around.passes(steps, 0))
        drops: dict[float, float] = {}

        def never(reason: str) -> Undefined:
            return Undefined(reason).after(*around.passes(steps, len(drops)))

        def breaks(radius: float) -> bool:
            _, fewest = around.ascend(radius, steps)
            drops[radius] = (right - int(fewest.sum())) / rows
            return bool(drops[radius] > target)

        low = high = FIRST
        if breaks(FIRST):
            while low > LOWEST:
                low = max(low / WIDER, LOWEST)
                if not breaks(low):
                    break
                high = low
            else:
                raise never(f"accuracy falls by {drops[low]:.3g} already in a radius of {LOWEST:g}")
        else:
            while high < HIGHEST:
                high = min(high * WIDER, HIGHEST)
                if breaks(high):
                    break
                low = high
            else:
                raise never(f"accuracy falls by {drops[high]:.3g} at most in a radius of {HIGHEST:g}")
        while high / low > 1 + settings["rtol"]:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if breaks(middle) else (middle, high)
        forwards, backwards = around.passes(steps, len(drops))
        return Value(
            value=high**-2,
            lower=high**-2,
            upper=low**-2,
            note=LOWER_BOUND,
            forwards=forwards,
            backwards=backwards,
        )


class WorstCaseMagnitudeSharpness(WorstCaseSharpness):
    """The same with a radius in proportion to each weight."""

    name = "worst_case_magnitude_sharpness"
    definition = "1 / alpha'^2, the worst change being within alpha' |w_i| of each weight"
    formula = r"1/\alpha'^2,\quad \alpha' = \max\{r : \max_{|u_i| \le r|w_i|} A(w) - A(w + u) \le 0.1\}"
    invariance = ("layer rescaling", "node rescaling")
    adaptive = True
    caveats = WorstCaseSharpness.caveats.removesuffix(" Changes when layers are rescaled.")


class AdaptiveWorstCaseSharpness(_WorstCase):
    """The largest rise of the loss within a fixed radius in proportion to each weight."""

    name = "adaptive_worst_case_sharpness"
    definition = "rise of the cross-entropy by the worst change within radius |w_i| of each weight, in nats"
    formula = r"\max_{|u_i| \le \rho |w_i|} L(w + u) - L(w)"
    citation = (
        "M. Andriushchenko, F. Croce, M. Müller, M. Hein, N. Flammarion: A Modern Look at the Relationship "
        "between Sharpness and Generalization. ICML 2023; J. Kwon et al.: ASAM. ICML 2021"
    )
    expected_sign = 0
    invariance = ("layer rescaling", "node rescaling")
    settings: ClassVar[Mapping[str, Scalar]] = {
        "radius": 0.01,
        "images": 512,
        "steps": 15,
        "perturb": "weights",
        "fold_batch_norm": True,
    }
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {**_WorstCase.limits, "radius": (1e-9, 1e3)}
    cost = "`steps` forward and backward passes over `images` fixed images"
    caveats = (
        f"On fixed training images, {LOWER_BOUND}. The interval is over images, at the change that was "
        "found. The loss depends on the scale of the logits; the paper finds no consistent sign."
    )

    def inside(self, around: Box, settings: Mapping[str, Any]) -> Value:
        """Ascend once."""
        steps = int(settings["steps"])
        worst, _ = around.ascend(settings["radius"], steps)
        rises = (worst - around.loss).double()
        if not bool(rises.isfinite().all()):
            reason = f"the loss is not finite within a radius of {settings['radius']:g}"
            raise Undefined(reason).after(*around.passes(steps))
        value, error = float(rises.mean()), math.nan
        if around.rows > 1:
            error = float(rises.std()) / math.sqrt(around.rows)
        forwards, backwards = around.passes(steps)
        return Value(
            value=value,
            standard_error=error,
            lower=value - 1.96 * error,
            upper=value + 1.96 * error,
            note=LOWER_BOUND,
            forwards=forwards,
            backwards=backwards,
        )
