"""Gradients: of the loss in weights and inputs, and how far a margin reaches in input space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from metaeval.measures.logits import Real, finite_logits, margins, mean, percentile
from metaeval.measures.spec import Context, Measure, Missing, Split, Undefined, Value

DUAL = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}  # the gradient's norm for a perturbation's
FIRST = "The first so many samples of the scope."


class _Gradients(Measure):
    family = "gradient"
    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    invariance: ClassVar[tuple[str, ...]] = ("layer rescaling", "node rescaling")
    scoped = True
    settings: ClassVar[Mapping[str, Any]] = {"samples": 1000}
    limits: ClassVar = {"samples": (1, 10**9)}
    cost = "one forward and backward pass per sample, clean and training"

    @classmethod
    def passes(cls, samples: int, train: int, settings: Mapping[str, Any]) -> tuple[float, float]:
        rows = min(samples, settings["samples"]) + min(train, settings["samples"])
        return rows, rows


class InputGradientNorm(_Gradients):
    """Mean norm of the loss's gradient in the input."""

    name = "input_gradient_norm"
    definition = (
        "mean over samples of the norm of the log-loss's gradient in the input (nats); normal interval"
    )
    formula = r"\frac{1}{n}\sum_i \left\|\nabla_x \ell(f(x_i), y_i)\right\|_q"
    citation = "Simon-Gabriel et al., First-order adversarial vulnerability of neural networks, ICML 2019"
    expected_sign = -1
    settings: ClassVar = {"samples": 1000, "norm": "l2"}
    choices: ClassVar = {"norm": tuple(DUAL)}
    caveats = f"{FIRST} `norm` is the perturbation's; the gradient is taken in the dual one."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        y, norms = _head(split.y, settings), []
        for x, labels in _batches(context, split, len(y)):
            loss = functional.cross_entropy(context.module(x), labels, reduction="sum")
            norms.append(_dual(torch.autograd.grad(loss, x)[0], settings["norm"]))
        return _counted(mean(_finite(np.concatenate(norms)), y, context.classes), len(y))


class InputMargin(_Gradients):
    """A low percentile of the distance to the boundary, to first order."""

    name = "input_margin"
    family = "margin"
    definition = (
        "10th percentile (by default) of the distance to the boundary with the runner-up, to first order "
        "(input units); "
        "interval from order statistics"
    )
    formula = (
        r"Q_{0.1}\left(\frac{z_{i y_i} - z_{ij}}{\|\nabla_x (z_{i y_i} - z_{ij})\|_q}\right),\;"
        r" j = \arg\max_{k \neq y_i} z_{ik}"
    )
    citation = "Elsayed et al., Large margin deep networks for classification, NeurIPS 2018"
    expected_sign = 1
    invariance = ("temperature", *_Gradients.invariance)
    settings: ClassVar = {"samples": 1000, "percentile": 10.0, "norm": "l2"}
    choices: ClassVar = {"norm": tuple(DUAL)}
    limits: ClassVar = {**_Gradients.limits, "percentile": (0.0, 100.0)}
    caveats = (
        f"{FIRST} Exact for two classes of a linear model, else a first-order estimate towards one class. "
        "Negative where misclassified."
    )

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        y, found = _head(split.y, settings), []
        margins(finite_logits(split), split.y)
        for x, labels in _batches(context, split, len(y)):
            logits = context.module(x)
            own = logits.gather(1, labels[:, None])[:, 0]
            others = logits.scatter(1, labels[:, None], -torch.inf)
            gap = own - others.amax(dim=1)
            length = _dual(torch.autograd.grad(gap.sum(), x)[0], settings["norm"])
            ahead = gap.detach().double().cpu().numpy()
            with np.errstate(divide="ignore", invalid="ignore"):
                found.append(ahead / length)
        values = np.concatenate(found)
        flat = int((~np.isfinite(values)).sum())
        if flat:
            reason = f"the gradient of {flat:,} of {len(y):,} samples is 0 or not finite"
            raise Undefined(reason).after(len(y), len(y))
        return _counted(percentile(values, settings["percentile"]), len(y))


class WeightGradientNorm(_Gradients):
    """Norm of the training loss's gradient in the weights."""

    name = "weight_gradient_norm"
    definition = "Euclidean norm of the mean training log-loss's gradient in all weights (nats)"
    formula = r"\left\|\nabla_w \frac{1}{n}\sum_i \ell(f_w(x_i), y_i)\right\|_2"
    citation = "Jiang et al., Fantastic generalization measures and where to find them, ICLR 2020"
    expected_sign = -1
    needs = ("weights", "gradients", "train_data")
    invariance = ()
    scoped = False
    cost = "one forward and backward pass per training sample"
    caveats = f"{FIRST} Near 0 where training has converged; changes when layers are rescaled."

    @classmethod
    def passes(cls, samples: int, train: int, settings: Mapping[str, Any]) -> tuple[float, float]:
        rows = min(train, settings["samples"])
        return rows, rows

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        y = _head(split.y, settings)
        weights = {
            name: weight.detach().clone().requires_grad_()
            for name, weight in context.module.named_parameters()
        }
        if not weights:
            raise Undefined("the model has no weights")
        total = [torch.zeros_like(weight, dtype=torch.float64) for weight in weights.values()]
        for x, labels in _batches(context, split, len(y)):
            logits = functional_call(context.module, weights, (x.detach(),))
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            parts = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for whole, part in zip(total, parts, strict=True):
                if part is not None:
                    whole += part.double()
        square = sum(float((part**2).sum()) for part in total)
        if not np.isfinite(square):
            raise Undefined("the gradient is not finite").after(len(y), len(y))
        return _counted(Value(float(np.sqrt(square)) / len(y)), len(y))


MEASURES: tuple[type[Measure], ...] = (InputMargin, InputGradientNorm, WeightGradientNorm)


def _head(y: Any, settings: Mapping[str, Any]) -> Any:
    if not len(y):
        raise Undefined("there are no samples")
    return y[: settings["samples"]]


def _batches(context: Context, split: Split, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs that take gradients, and labels, of the first samples."""
    if split.x is None:
        raise Missing("the inputs of this scope are not kept")
    for start in range(0, count, context.batch_size):
        rows = slice(start, min(start + context.batch_size, count))
        x = torch.from_numpy(split.x[rows]).to(context.device).requires_grad_()
        yield x, torch.from_numpy(split.y[rows]).to(context.device)


def _dual(gradient: Tensor, norm: str) -> Real:
    flat = gradient.detach().double().flatten(1)
    return np.asarray(torch.linalg.vector_norm(flat, DUAL[norm], dim=1).cpu().numpy())


def _finite(values: Real) -> Real:
    bad = int((~np.isfinite(values)).sum())
    if bad:
        reason = f"the gradient of {bad:,} of {len(values):,} samples is not finite"
        raise Undefined(reason).after(len(values), len(values))
    return values


def _counted(value: Value, rows: int) -> Value:
    return Value(
        value.value,
        value.standard_error,
        value.lower,
        value.upper,
        value.per_class,
        forwards=rows,
        backwards=rows,
    )
