"""Norms of the loss's gradient in the weights and in the inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch.nn import functional

from metaeval.measures import perturbed
from metaeval.measures.spec import Context, Measure, Scalar, Split, Undefined, Value

CITATION = (
    "H. Kim, J. Park, Y. Choi, J. Lee: Fantastic Robustness Measures: The Secrets of Robust Generalization. "
    "NeurIPS 2023"
)


class WeightGradientNorm(Measure):
    """The norm of the mean loss's gradient in the weights."""

    name = "weight_gradient_norm"
    family = "sharpness"
    definition = "L2 norm of the gradient of the mean training cross-entropy in the weights"
    formula = r"\|\nabla_w L(w)\|_2"
    citation = CITATION
    expected_sign = -1
    needs: ClassVar[tuple[str, ...]] = ("weights", "gradients", "train_data", "train_logits")
    settings: ClassVar[Mapping[str, Scalar]] = {"images": 2000, "perturb": "weights", "fold_batch_norm": True}
    cost = "two forward and backward passes over `images` fixed training images"
    caveats = "On fixed training images: the fewer, the larger. Changes when layers are rescaled."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        """Return the norm; its error from the parts of the gradient along it in blocks of images."""
        if context.train is None:
            raise Undefined("no training data at hand")
        chosen = {**self.settings, **settings}
        training = perturbed.Training.of(context, context.train)
        network = perturbed.network(
            context, perturb=chosen["perturb"], fold_batch_norm=chosen["fold_batch_norm"]
        )
        x, y = training.rows(
            training.fixed(perturbed.generator(context.seed, "fixed images"), chosen["images"])
        )
        gradient, logits = network.gradient(x, y, network.weights)
        if not bool(logits.isfinite().all()):
            raise Undefined("the logits of the training data are not finite")
        norm = math.sqrt(sum(float(part.double().square().sum()) for part in gradient.values()))
        if norm == 0:
            return Value(value=0.0, note=network.note, forwards=len(y), backwards=len(y))
        along = []
        for rows, labels in perturbed.parts(x, y):
            part, _ = network.gradient(rows, labels, network.weights)
            dot = sum(float((part[name] * whole).double().sum()) for name, whole in gradient.items()) / norm
            along.append(dot - norm / len(y) * len(labels))
        value = norm / len(y)
        blocks = len(along)
        error = math.nan
        if blocks > 1:
            error = math.sqrt(sum(a * a for a in along) * blocks / (blocks - 1)) / len(y)
        return Value(
            value=value,
            standard_error=error,
            lower=max(value - 1.96 * error, 0.0) if blocks > 1 else math.nan,
            upper=value + 1.96 * error,
            note=network.note,
            forwards=2 * len(y),
            backwards=2 * len(y),
        )


class InputGradientNorm(Measure):
    """The mean norm of the loss's gradient in the input."""

    name = "input_gradient_norm"
    family = "sharpness"
    definition = "mean L2 norm of the gradient of the cross-entropy in the training input"
    formula = r"\frac1n \sum_i \|\nabla_x \ell(x_i, y_i)\|_2"
    citation = CITATION
    expected_sign = -1
    needs: ClassVar[tuple[str, ...]] = ("gradients", "train_data", "train_logits")
    invariance = ("layer rescaling", "node rescaling")
    settings: ClassVar[Mapping[str, Scalar]] = {"images": 2000}
    cost = "one forward and backward pass over `images` fixed training images"
    caveats = "On fixed training images. The loss depends on the scale of the logits."

    def compute(self, context: Context, split: Split, **settings: Any) -> Value:
        """Return the mean over fixed training images with its error over them."""
        if context.train is None:
            raise Undefined("no training data at hand")
        chosen = {**self.settings, **settings}
        training = perturbed.Training.of(context, context.train)
        x, y = training.rows(
            training.fixed(perturbed.generator(context.seed, "fixed images"), chosen["images"])
        )
        norms = []
        for rows, labels in perturbed.parts(x, y):
            leaf = rows.clone().requires_grad_()
            with torch.enable_grad():
                loss = functional.cross_entropy(context.module(leaf), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, leaf)
            norms.append(gradient.flatten(1).double().norm(dim=1))
        found = torch.cat(norms)
        if not bool(found.isfinite().all()):
            raise Undefined("the gradient in the input is not finite")
        value = float(found.mean())
        error = float(found.std()) / math.sqrt(len(found)) if len(found) > 1 else math.nan
        return Value(
            value=value,
            standard_error=error,
            lower=value - 1.96 * error,
            upper=value + 1.96 * error,
            forwards=len(found),
            backwards=len(found),
        )
