"""PAC-Bayes flatness: how much noise on the weights the training accuracy endures."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from metaeval.measures import perturbed, sigma_search
from metaeval.measures.average_sharpness import AverageRelativeSharpness
from metaeval.measures.spec import SHARED, Context, Measure, Scalar, Split, Undefined, Value
from metaeval.measures.worst_case import (
    AdaptiveWorstCaseSharpness,
    WorstCaseMagnitudeSharpness,
    WorstCaseSharpness,
)

REFERENCE = "dziugaite2020"
CONVENTIONS = ("standard", REFERENCE)
STEP = 1e-4  # in log sigma
SETTINGS: dict[str, Scalar] = {
    "target": 0.1,
    "images": 32,
    "rtol": 0.1,
    "draws": 512,
    "perturb": "weights",
    "fold_batch_norm": True,
    "convention": "standard",
}
CHOICES = {"perturb": perturbed.PERTURBED, "convention": CONVENTIONS}
LIMITS: dict[str, tuple[float, float]] = {
    "target": (1e-3, 0.999),
    "images": (1, 10**9),
    "rtol": (1e-3, 10.0),
    "draws": (sigma_search.PILOT, 10**9),
}
MAGNITUDE_LIMITS = {**LIMITS, "magnitude_eps": (0.0, 1.0)}
MAGNITUDE_SETTINGS: dict[str, Scalar] = {**SETTINGS, "magnitude_eps": 1e-3}
JIANG = (
    "Y. Jiang, B. Neyshabur, H. Mobahi, D. Krishnan, S. Bengio: Fantastic Generalization Measures and Where "
    "to Find Them. ICLR 2020; G. K. Dziugaite et al.: In Search of Robust Measures of Generalization. "
    "NeurIPS 2020"
)
CONVENTION = (
    'With convention = "dziugaite2020": sigma as the published reference code defines it, whose noise has '
    "the standard deviation sigma^2 (magnitude-aware: sigma^2 w^2 + e^2) on all parameters, biases and "
    "neutralised batch norm (scale 1, shift 0) included, and the value is the square root of the measure "
    "over the number of training samples. The reference searches in (0, 2), stops within .01 of the target "
    "and takes a rise of accuracy for a fall; where these act, its numbers differ."
)

SAMPLES = (
    "m is the number of all training samples, and so in the convention, however few of them are looked at; "
    "omega is the number of weights."
)

# The standard deviation of the noise on a weight, by convention and whether it is magnitude-aware.
DEVIATIONS: dict[tuple[str, bool], Callable[[Tensor, float, float], Tensor]] = {
    ("standard", False): lambda w, sigma, e: torch.full_like(w, sigma),
    ("standard", True): lambda w, sigma, e: torch.sqrt(sigma**2 * w**2 + e**2),
    (REFERENCE, False): lambda w, sigma, e: torch.full_like(w, sigma**2),
    (REFERENCE, True): lambda w, sigma, e: sigma**2 * w**2 + e**2,
}


@dataclass(frozen=True)
class Found:
    """The result of a search and what it took."""

    sigma: sigma_search.Sigma
    forwards: int
    note: str


def find_sigma(
    context: Context,
    *,
    magnitude: bool,
    magnitude_eps: float,
    target: float,
    images: int,
    rtol: float,
    draws: int,
    perturb: str,
    fold_batch_norm: bool,
    convention: str,
) -> Found:
    """Return sigma*; draw k takes noise and images that depend on the seed and k only.

    Raises
    ------
    Undefined, Unsupported
        With the reason.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention is one of {', '.join(CONVENTIONS)}, got {convention!r}")
    assert context.train is not None
    training = perturbed.Training.of(context, context.train)
    reference = convention == REFERENCE
    network = perturbed.network(
        context,
        perturb="all" if reference else perturb,
        fold_batch_norm=fold_batch_norm,
        neutral=reference,
    )
    deviation = DEVIATIONS[convention, magnitude]
    forwards = 0

    def drop(k: int, sigma: float) -> float:
        nonlocal forwards
        random = perturbed.generator(context.seed, "sigma", k)
        indices = training.draw(random, images)
        x, y = training.rows(indices)
        noise = perturbed.noise(network.weights, random)
        weights = {
            name: perturbed.moved(
                weight, noise[name] * deviation(perturbed.precise(weight), sigma, magnitude_eps)
            )
            for name, weight in network.weights.items()
        }
        forwards += len(indices)
        right = int(perturbed.correct(network.logits_in_parts(x, y, weights), y).sum())
        return (int(training.correct[indices].sum()) - right) / len(indices)

    with torch.no_grad():
        try:
            sigma = sigma_search.search(
                drop,
                target=target,
                accuracy=float(training.correct.mean()),
                rtol=rtol,
                draws=draws,
                seed=context.seed,
            )
        except Undefined as error:
            raise error.after(forwards) from None
    return Found(sigma, forwards, sigma.note)


class _PacBayes(Measure):
    """What the measures of one sigma share."""

    family = "sharpness"
    version = 3  # the curve of the search is a probit
    citation = JIANG
    expected_sign = -1
    needs: ClassVar[tuple[str, ...]] = ("weights", "train_data", "train_logits")
    settings: ClassVar[Mapping[str, Scalar]] = SETTINGS
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = CHOICES
    limits: ClassVar[Mapping[str, tuple[float, float]]] = LIMITS
    cost = "one forward pass of `images` images per draw, at most about 800 draws; shared by the same noise"
    magnitude: ClassVar[bool] = False
    per_sample: ClassVar[bool] = False  # whether it is the square root of a complexity over the samples

    @classmethod
    def passes(cls, samples: int, train: int, settings: Mapping[str, Any]) -> tuple[float, float]:
        """Return the images of a usual number of draws; see `Measure.passes`."""
        draws = sigma_search.usual_draws(settings["rtol"], settings["draws"])
        return min(train, settings["images"]) * draws, 0.0

    @classmethod
    def shares(cls, settings: Mapping[str, Any]) -> str:
        """Return the noise and all settings; see `Measure.shares`."""
        return f"sigma {cls.magnitude} {sorted(settings.items())}"

    @abstractmethod
    def of_sigma(self, context: Context, settings: Mapping[str, Any]) -> Callable[[float], float]:
        """Return the measure as a function of sigma."""

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        """Return the measure at sigma* with the interval of sigma* carried over."""
        if context.train is None:
            raise Undefined("no training data at hand")
        chosen = {**self.settings, **settings}
        measure = self.of_sigma(context, chosen)
        search = {"magnitude": self.magnitude, "magnitude_eps": 0.0, **chosen}
        known = context.has(find_sigma, **search)
        found = context.shared(find_sigma, **search)
        samples = _count(context) if self.per_sample or chosen["convention"] == REFERENCE else None

        def at(log_sigma: float) -> float:
            value = measure(math.exp(log_sigma))
            if samples is None:
                return value
            if value < 0:
                reason = f"the complexity is negative ({value:.3g})"
                raise Undefined(reason).after(0 if known else found.forwards)
            return math.sqrt(value / samples)

        sigma = found.sigma
        # Where the draws do not bound sigma, all that is known is that the measure is not negative.
        bounded = math.isfinite(sigma.upper)
        ends = sorted((at(sigma.lower), at(sigma.upper))) if bounded else [0.0, math.nan]
        slope = (at(sigma.log + STEP) - at(sigma.log - STEP)) / (2 * STEP)
        return Value(
            value=at(sigma.log),
            standard_error=abs(slope) * sigma.standard_error,
            lower=ends[0],
            upper=ends[1],
            note="; ".join(part for part in (found.note, SHARED if known else "") if part),
            forwards=0 if known else found.forwards,
        )


class PacBayesFlatness(_PacBayes):
    """The inverse squared noise that accuracy endures."""

    name = "pac_bayes_flatness"
    definition = "1 / sigma^2, sigma the std of the noise on each weight that costs .1 of training accuracy"
    formula = r"1/\sigma^2,\quad \mathbb{E}_z[A(w) - A(w + \sigma z)] = 0.1"
    caveats = f"Changes when layers are rescaled. {CONVENTION}"

    def of_sigma(self, context: Context, settings: Mapping[str, Any]) -> Callable[[float], float]:
        return _inverse_square


class PacBayesMagnitudeFlatness(_PacBayes):
    """The same with noise in proportion to each weight."""

    name = "pac_bayes_magnitude_flatness"
    definition = "1 / sigma'^2, noise of std sqrt(sigma'^2 w^2 + e^2) on each weight w costing .1 of accuracy"
    formula = (
        r"1/\sigma'^2,\quad \mathbb{E}_z[A(w) - A(w + z)] = 0.1,"
        r"\; z_i \sim \mathcal{N}(0, \sigma'^2 w_i^2 + \varepsilon^2)"
    )
    settings: ClassVar[Mapping[str, Scalar]] = MAGNITUDE_SETTINGS
    limits: ClassVar[Mapping[str, tuple[float, float]]] = MAGNITUDE_LIMITS
    magnitude = True
    caveats = (
        "Unchanged by rescaling of layers and nodes with magnitude_eps = 0 only. With the default it changes "
        "little where sigma' |w| is well above e, but without bound as weights shrink. " + CONVENTION
    )

    def of_sigma(self, context: Context, settings: Mapping[str, Any]) -> Callable[[float], float]:
        return _inverse_square


class PacBayesBound(_PacBayes):
    """The complexity of the weights in the PAC-Bayes bound."""

    name = "pac_bayes_bound"
    definition = "square root of the PAC-Bayes complexity of the weights over the training samples"
    formula = r"\sqrt{\left(\|w\|_2^2/(4\sigma^2) + \log(m/\sigma) + 10\right)/m}"
    caveats = f"{SAMPLES} Changes when layers are rescaled. {CONVENTION}"
    per_sample = True
    from_initial: ClassVar[bool] = False

    def of_sigma(self, context: Context, settings: Mapping[str, Any]) -> Callable[[float], float]:
        weights, distance = _vectors(context, settings, distance=self.from_initial)
        squared = float(((distance if self.from_initial else weights) ** 2).sum())
        return lambda sigma: squared / (4 * sigma**2) + _log_terms(context, sigma)


class PacBayesBoundInitial(PacBayesBound):
    """The complexity of the distance from initialisation in the PAC-Bayes bound."""

    name = "pac_bayes_bound_initial"
    definition = "the PAC-Bayes bound's with the distance from the initial weights"
    formula = r"\sqrt{\left(\|w - w_0\|_2^2/(4\sigma^2) + \log(m/\sigma) + 10\right)/m}"
    needs: ClassVar[tuple[str, ...]] = (*_PacBayes.needs, "initial_weights")
    from_initial = True


class PacBayesMagnitudeBound(_PacBayes):
    """The complexity of the weights in the magnitude-aware bound."""

    name = "pac_bayes_magnitude_bound"
    definition = "square root of the magnitude-aware PAC-Bayes complexity of the weights over the samples"
    formula = (
        r"\sqrt{\left(\tfrac14 \sum_i \log \frac{\varepsilon^2 + (\sigma'^2 + 1)\|w\|_2^2/\omega}"
        r"{\varepsilon^2 + \sigma'^2 w_i^2} + \log(m/\sigma') + 10\right)/m}"
    )
    settings: ClassVar[Mapping[str, Scalar]] = MAGNITUDE_SETTINGS
    limits: ClassVar[Mapping[str, tuple[float, float]]] = MAGNITUDE_LIMITS
    magnitude = True
    per_sample = True
    from_initial: ClassVar[bool] = False
    caveats = (
        f"{SAMPLES} The reference divides by the distances from the initial weights here too, and so does "
        "the convention; otherwise it is the noise that was measured. Changes when layers are rescaled. "
        + CONVENTION
    )

    def of_sigma(self, context: Context, settings: Mapping[str, Any]) -> Callable[[float], float]:
        by_distance = self.from_initial or settings["convention"] == REFERENCE
        weights, distance = _vectors(context, settings, distance=by_distance)
        squared = float(((distance if self.from_initial else weights) ** 2).mean())
        scale, e = (distance if by_distance else weights) ** 2, float(settings["magnitude_eps"]) ** 2

        def complexity(sigma: float) -> float:
            ratios = (e + (sigma**2 + 1) * squared) / (e + sigma**2 * scale)
            return float(ratios.log().sum()) / 4 + _log_terms(context, sigma)

        if not e and not bool(scale.all()):
            raise Undefined("a weight of 0 (or at its initial value) has no noise with magnitude_eps = 0")
        return complexity


class PacBayesMagnitudeBoundInitial(PacBayesMagnitudeBound):
    """The complexity of the distance from initialisation in the magnitude-aware bound."""

    name = "pac_bayes_magnitude_bound_initial"
    definition = "the magnitude-aware PAC-Bayes bound's with the distance from the initial weights"
    formula = (
        r"\sqrt{\left(\tfrac14 \sum_i \log \frac{\varepsilon^2 + (\sigma'^2 + 1)\|w - w_0\|_2^2/\omega}"
        r"{\varepsilon^2 + \sigma'^2 (w_i - w_{0,i})^2} + \log(m/\sigma') + 10\right)/m}"
    )
    needs: ClassVar[tuple[str, ...]] = (*_PacBayes.needs, "initial_weights")
    from_initial = True
    caveats = (
        f"{SAMPLES} The noise that was measured is in proportion to the weights, not to the distances that "
        f"the formula divides by. Changes when layers are rescaled. {CONVENTION}"
    )


MEASURES: tuple[type[Measure], ...] = (
    PacBayesFlatness,
    PacBayesMagnitudeFlatness,
    PacBayesBound,
    PacBayesBoundInitial,
    PacBayesMagnitudeBound,
    PacBayesMagnitudeBoundInitial,
    WorstCaseSharpness,
    WorstCaseMagnitudeSharpness,
    AdaptiveWorstCaseSharpness,
    AverageRelativeSharpness,
)


def _inverse_square(sigma: float) -> float:
    return sigma**-2


def _log_terms(context: Context, sigma: float) -> float:
    return math.log(_count(context) / sigma) + 10


def _count(context: Context) -> int:
    """Return m, the number of samples that the model was trained on."""
    assert context.train is not None
    return len(context.train.y) if context.training_size is None else context.training_size


def _vectors(context: Context, settings: Mapping[str, Any], *, distance: bool) -> tuple[Tensor, Tensor]:
    """Return the weights and, where asked for, their distances from the initial ones (else the same)."""
    chosen = {
        "perturb": "weights" if settings["convention"] == REFERENCE else settings["perturb"],
        "fold_batch_norm": settings["fold_batch_norm"],
    }
    weights = perturbed.network(context, **chosen).weights
    vector = torch.cat([weight.flatten().double() for weight in weights.values()])
    if not distance:
        return vector, vector
    initial = perturbed.initial_weights(context, **chosen)
    start = torch.cat([initial[name].flatten().double().to(vector.device) for name in weights])
    return vector, vector - start
