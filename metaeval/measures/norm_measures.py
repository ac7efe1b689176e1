"""Measures of the size of a network's weights, with batch norm folded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from metaeval.measures.fisher_rao import fisher_rao_norm
from metaeval.measures.folding import folded
from metaeval.measures.norm_base import FOLDED, SINGULAR_COST, NormMeasure, over_margin
from metaeval.measures.norm_layers import Profile, folded_start, profile
from metaeval.measures.path import log_path_norm
from metaeval.measures.spec import INVARIANCES, SHARED, Context, Measure, Undefined, Value
from metaeval.measures.spectral import METHODS

JIANG = (
    "Jiang, Neyshabur, Mobahi, Krishnan and Bengio, Fantastic generalization measures and where to find "
    "them, ICLR 2020"
)
BARTLETT = (
    "Bartlett, Foster and Telgarsky, Spectrally-normalized margin bounds for neural networks, NeurIPS 2017"
)
PATHS = "Neyshabur, Tomioka and Srebro, Norm-based capacity control in neural networks, COLT 2015"
LIANG = (
    "Liang, Poggio, Rakhlin and Stokes, Fisher-Rao metric, geometry, and complexity of neural networks, "
    "AISTATS 2019"
)
INPUTS = "Input normalization counts as part of the first layer: the map starts from inputs in [0, 1]. "
ARCHITECTURES = "Not comparable between architectures of different depth. "
POOLS = "Pooling and activations are left out. "
SIGN = "The sign is the bounds'; Jiang et al. (2020) often found the opposite for products of norms. "
LAYERWISE = FOLDED + INPUTS + POOLS + ARCHITECTURES
SYMBOL = {
    "frobenius": r"\|W_i\|_F",
    "spectral": r"\|W_i\|_2",
    "nuclear": r"\|W_i\|_*",
}
METHOD = {"frobenius": "reshaped", "spectral": "operator", "nuclear": "circular"}
CHOICES = {"frobenius": METHODS, "spectral": METHODS, "nuclear": METHODS[1:]}
CONVENTION = {
    "frobenius": "By default kernels count once (method reshaped), whatever the size of their input. ",
    "spectral": "By default a convolution is the map at its real input size (method operator). ",
    "nuclear": "By default a convolution is the map on a torus, larger than its input by the padding (method "
    "circular): an upper bound. ",
}


class Parameters(NormMeasure):
    """Number of parameters."""

    name = "parameters"
    definition = "number of trained parameters, batch norm's among them"
    formula = r"\dim \theta"
    citation = JIANG
    expected_sign = 0
    invariance: ClassVar[tuple[str, ...]] = INVARIANCES
    cost = "none"
    caveats = "The same for all models of one architecture."

    def size(self, context: Context, **settings: Any) -> Value:
        """Return the number."""
        module = context.module if context.trained is None else context.trained
        return Value(float(sum(parameter.numel() for parameter in module.parameters())))


class L2Norm(NormMeasure):
    """Euclidean norm of all weights and biases."""

    name = "l2_norm"
    definition = "Euclidean norm of all weights and biases"
    formula = r"\|\theta\|_2"
    citation = JIANG
    caveats = FOLDED + "Without input normalization. "

    def size(self, context: Context, **settings: Any) -> Value:
        """Return the norm."""
        return Value(_norm(context.shared(folded).module.parameters()))


class InitialDistance(NormMeasure):
    """Euclidean distance of all weights and biases from their values before training."""

    name = "initial_distance"
    definition = "Euclidean distance of all weights and biases from initialisation"
    formula = r"\|\theta - \theta^0\|_2"
    citation = (
        "Nagarajan and Kolter, Generalization in deep networks: the role of distance from initialization, "
        "NeurIPS workshop 2017"
    )
    needs: ClassVar[tuple[str, ...]] = ("weights", "initial_weights")
    caveats = (
        FOLDED + "Before training, batch norm is folded with the statistics that it had then (0 and 1). "
    )

    def size(self, context: Context, **settings: Any) -> Value:
        """Return the distance."""
        now, before = (context.shared(network).module.parameters() for network in (folded, folded_start))
        return Value(_norm([end.double() - start.double() for end, start in zip(now, before, strict=True)]))


class LayerSum(NormMeasure):
    """Sum of a norm over layers."""

    norm: ClassVar[str]
    moved: ClassVar[bool] = False

    def size(self, context: Context, **settings: Any) -> Value:
        """Return the sum."""
        found = context.shared(profile, norm=self.norm, method=settings["method"], moved=self.moved)
        return Value(math.fsum(found.values.values()), note="; ".join(found.notes))


class LayerProduct(NormMeasure):
    """Logarithm of the product of a norm over layers."""

    norm: ClassVar[str]
    logarithmic = True

    def size(self, context: Context, **settings: Any) -> Value:
        """Return the logarithm."""
        found = context.shared(profile, norm=self.norm, method=settings["method"], moved=False)
        return Value(math.fsum(_logs(found)), note="; ".join(found.notes))


class FrobeniusOverSpectral(NormMeasure):
    """Sum of stable ranks."""

    name = "frobenius_over_spectral"
    definition = (
        "sum over layers of the squared Frobenius norm over the squared spectral norm (the stable rank)"
    )
    formula = r"\sum_i \|W_i\|_F^2 / \|W_i\|_2^2"
    citation = JIANG
    invariance: ClassVar[tuple[str, ...]] = ("temperature", "layer rescaling")
    singular, cost = "spectral", SINGULAR_COST
    settings: ClassVar[dict[str, str]] = {"method": "operator"}
    choices: ClassVar = {"method": METHODS}
    caveats = LAYERWISE + CONVENTION["spectral"] + "Both norms are by the same method. "
    moved: ClassVar[bool] = False

    def size(self, context: Context, **settings: Any) -> Value:
        """Return the sum."""
        method = settings["method"]
        top = context.shared(profile, norm="frobenius", method=method, moved=self.moved)
        bottom = context.shared(profile, norm="spectral", method=method, moved=False)
        _logs(bottom)
        ratios = [
            top.values[place] / bottom.values[place] for place in sorted({*top.values} & {*bottom.values})
        ]
        return Value(math.fsum(ratio**2 for ratio in ratios), note=_joined(top, bottom))


class FrobeniusDistanceOverSpectral(FrobeniusOverSpectral):
    """Sum over layers of the squared distance from initialisation over the squared spectral norm."""

    name = "frobenius_distance_over_spectral"
    definition = (
        "sum over layers of the squared Frobenius distance from initialisation over the squared spectral norm"
    )
    formula = r"\sum_i \|W_i - W_i^0\|_F^2 / \|W_i\|_2^2"
    needs: ClassVar[tuple[str, ...]] = ("weights", "initial_weights")
    invariance: ClassVar[tuple[str, ...]] = ()
    moved = True


class SpectralComplexity(NormMeasure):
    """Logarithm of the spectral complexity with reference zero."""

    name = "log_spectral_complexity"
    definition = "logarithm of the spectral complexity with reference matrices zero"
    formula = (
        r"\sum_i \log \|W_i\|_2 + \tfrac32 \log \sum_i \left(\|W_i^\top\|_{2,1} / \|W_i\|_2\right)^{2/3}"
    )
    citation = BARTLETT
    invariance: ClassVar[tuple[str, ...]] = ("layer rescaling",)
    singular, cost = "spectral", SINGULAR_COST
    settings: ClassVar[dict[str, str]] = {"method": "operator"}
    choices: ClassVar = {"method": METHODS}
    caveats = (
        LAYERWISE + CONVENTION["spectral"] + SIGN + "Without the bound's constants and the norm of the data. "
    )
    logarithmic = True
    moved: ClassVar[bool] = False

    def size(self, context: Context, **settings: Any) -> Value:
        """Return the logarithm."""
        method = settings["method"]
        rows = context.shared(profile, norm="rows", method=method, moved=self.moved)
        largest = context.shared(profile, norm="spectral", method=method, moved=False)
        logs = _logs(largest)
        places = sorted({*rows.values} & {*largest.values})
        total = math.fsum((rows.values[place] / largest.values[place]) ** (2 / 3) for place in places)
        if not total > 0:
            raise Undefined("no layer differs from its reference")
        return Value(math.fsum(logs) + 1.5 * math.log(total), note=_joined(rows, largest))


class SpectralComplexityInitial(SpectralComplexity):
    """Logarithm of the spectral complexity with the initial weights as reference."""

    name = "log_spectral_complexity_initial"
    definition = "logarithm of the spectral complexity with the initial weights as reference matrices"
    formula = (
        r"\sum_i \log \|W_i\|_2 "
        r"+ \tfrac32 \log \sum_i \left(\|(W_i - W_i^0)^\top\|_{2,1} / \|W_i\|_2\right)^{2/3}"
    )
    needs: ClassVar[tuple[str, ...]] = ("weights", "initial_weights")
    invariance: ClassVar[tuple[str, ...]] = ()
    moved = True


class PathNorm(NormMeasure):
    """Logarithm of a path norm."""

    citation = PATHS
    invariance: ClassVar[tuple[str, ...]] = ("layer rescaling", "node rescaling")
    logarithmic = True
    cost = "one forward pass in float64"
    caveats = (
        "ReLU networks only. Paths start at inputs and biases; input normalization is the first layer; "
        "max-pooling sums over its window. "
    )
    order: ClassVar[int]

    def size(self, context: Context, **settings: Any) -> Value:
        """Return the logarithm."""
        known = context.has(_log_path_norm, order=self.order)
        value = context.shared(_log_path_norm, order=self.order)
        return Value(value, note=SHARED if known else "", forwards=0 if known else 1)

    @classmethod
    def passes(cls, samples: int, train: int, settings: Mapping[str, Any]) -> tuple[float, float]:
        """Return the one pass of ones; see `Measure.passes`."""
        return 1.0, 0.0

    @classmethod
    def shares(cls, settings: Mapping[str, Any]) -> str:
        """Return the order; see `Measure.shares`."""
        return f"path norm {cls.order}"


class PathNormL1(PathNorm):
    """Logarithm of the l1 path norm."""

    name = "log_path_norm_l1"
    definition = "logarithm of the sum over all paths of the product of absolute weights"
    formula = r"\log \sum_{\text{paths}} \prod_e |w_e|"
    order = 1


class PathNormL2(PathNorm):
    """Logarithm of the l2 path norm."""

    name = "log_path_norm_l2"
    definition = "logarithm of the root of the sum over all paths of the product of squared weights"
    formula = r"\tfrac12 \log \sum_{\text{paths}} \prod_e w_e^2"
    order = 2


class FisherRao(NormMeasure):
    """Fisher-Rao norm."""

    name = "fisher_rao"
    definition = "root of the mean squared derivative of the loss along the weights, over the training set"
    formula = r"\sqrt{\mathbb{E} \langle \nabla_\theta \ell(f(x), y), \theta \rangle^2}"
    citation = LIANG
    needs: ClassVar[tuple[str, ...]] = ("weights", "gradients", "train_data")
    invariance: ClassVar[tuple[str, ...]] = ("layer rescaling", "node rescaling")
    settings: ClassVar[dict[str, int]] = {"samples": 2048}
    limits: ClassVar = {"samples": (1, 10**9)}
    cost = "one forward pass with a derivative per training image used"
    caveats = FOLDED + "With true classes (the empirical Fisher matrix); near 0 where the training loss is. "

    def size(self, context: Context, **settings: Any) -> Value:
        """Return the norm."""
        known = context.has(fisher_rao_norm, samples=settings["samples"])
        found = context.shared(fisher_rao_norm, samples=settings["samples"])
        return replace(found, forwards=0, note=SHARED) if known else found

    @classmethod
    def passes(cls, samples: int, train: int, settings: Mapping[str, Any]) -> tuple[float, float]:
        """Return a forward pass per image used; see `Measure.passes`."""
        return float(min(train, settings["samples"])), 0.0

    @classmethod
    def shares(cls, settings: Mapping[str, Any]) -> str:
        """Return the number of images; see `Measure.shares`."""
        return f"Fisher-Rao {settings['samples']}"


def _layer_measures(norm: str) -> tuple[type[NormMeasure], ...]:
    """Return a norm's log product, sum, and sum of distances from the start, each also over the margin."""
    word = norm.capitalize()
    title = word if norm == "frobenius" else norm
    shared: dict[str, Any] = {
        "__module__": __name__,
        "norm": norm,
        **({"singular": norm, "cost": SINGULAR_COST} if norm != "frobenius" else {}),
        "citation": JIANG,
        "settings": {"method": METHOD[norm]},
        "choices": {"method": CHOICES[norm]},
        "caveats": LAYERWISE + CONVENTION[norm],
    }
    product = type(
        f"{word}Product",
        (LayerProduct,),
        {
            **shared,
            "__doc__": f"Logarithm of the product of {title} norms.",
            "name": f"log_{norm}_product",
            "definition": f"logarithm of the product over layers of the {title} norm",
            "formula": rf"\sum_i \log {SYMBOL[norm]}",
            "invariance": ("layer rescaling",),
            "caveats": shared["caveats"] + SIGN,
        },
    )
    total = type(
        f"{word}Sum",
        (LayerSum,),
        {
            **shared,
            "__doc__": f"Sum of {title} norms.",
            "name": f"{norm}_sum",
            "definition": f"sum over layers of the {title} norm",
            "formula": rf"\sum_i {SYMBOL[norm]}",
        },
    )
    distance = type(
        f"{word}DistanceSum",
        (LayerSum,),
        {
            **shared,
            "__doc__": f"Sum of {title} distances from initialisation.",
            "name": f"{norm}_distance_sum",
            "definition": f"sum over layers of the {title} norm of the distance from initialisation",
            "formula": rf"\sum_i {SYMBOL[norm].replace('W_i', 'W_i - W_i^0')}",
            "needs": ("weights", "initial_weights"),
            "moved": True,
            **({"singular": f"{norm} distance"} if norm != "frobenius" else {}),
        },
    )
    return (
        product,
        over_margin(product, invariance=("temperature", "layer rescaling")),
        total,
        over_margin(total, invariance=()),
        distance,
        over_margin(distance, invariance=()),
    )


def _log_path_norm(context: Context, *, order: int) -> float:
    return log_path_norm(context.shared(folded), context.shape, order=order)


def _with_margin(base: type[NormMeasure], *invariance: str) -> tuple[type[NormMeasure], type[NormMeasure]]:
    return base, over_margin(base, invariance=invariance)


def _norm(tensors: Any) -> float:
    return math.sqrt(math.fsum(float(torch.as_tensor(tensor).double().square().sum()) for tensor in tensors))


def _logs(found: Profile) -> list[float]:
    if min(found.values.values()) <= 0:
        raise Undefined("a layer has only weights of zero")
    return [math.log(value) for value in found.values.values()]


def _joined(*profiles: Profile) -> str:
    return "; ".join(dict.fromkeys(note for found in profiles for note in found.notes))


MEASURES: tuple[type[Measure], ...] = (
    Parameters,
    *_with_margin(L2Norm),
    *_with_margin(InitialDistance),
    *_layer_measures("frobenius"),
    *_layer_measures("spectral"),
    *_layer_measures("nuclear"),
    *_with_margin(FrobeniusOverSpectral, "layer rescaling"),
    *_with_margin(FrobeniusDistanceOverSpectral),
    *_with_margin(SpectralComplexity, "temperature", "layer rescaling"),
    *_with_margin(SpectralComplexityInitial),
    *_with_margin(PathNormL1, "temperature", "layer rescaling", "node rescaling"),
    *_with_margin(PathNormL2, "temperature", "layer rescaling", "node rescaling"),
    *_with_margin(FisherRao, "layer rescaling", "node rescaling"),
)
