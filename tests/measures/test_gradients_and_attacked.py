"""Gradient norms of linear models in closed form; measures of attacked copies by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measured import compute, context_of, random_split, split_of
from scipy import special, stats
from test_margin import linear_split

from metaeval.measures.spec import Context, Split, Undefined


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1), ("l1", np.inf)])
def test_input_gradients_of_a_linear_model(norm: str, dual: float) -> None:
    """The gradient of the log-loss in x is W^T (p - one-hot)."""
    module, split, weight = linear_split(4)
    residual = special.softmax(split.logits.astype(np.float64), axis=1) - np.eye(4)[split.y]
    expected = np.linalg.norm(residual @ weight, dual, axis=1)
    for size in (1, 7, 64):
        context = context_of(split, module=module, batch_size=size)
        value = compute("input_gradient_norm", split, context, norm=norm)
        assert value.value == pytest.approx(expected.mean(), rel=1e-5)
    few = compute("input_gradient_norm", split, context, norm=norm, samples=10)
    assert few.value == pytest.approx(expected[:10].mean(), rel=1e-5)
    assert few.forwards == 10


def test_weight_gradient_of_a_linear_model() -> None:
    """The gradient of the mean log-loss is mean((p - one-hot) x^T), and mean(p - one-hot) in the bias."""
    module, split, _ = linear_split(4)
    residual = special.softmax(split.logits.astype(np.float64), axis=1) - np.eye(4)[split.y]
    weight, bias = residual.T @ split.x.astype(np.float64) / 40, residual.mean(axis=0)
    expected = np.sqrt((weight**2).sum() + (bias**2).sum())
    for size in (3, 64):
        context = context_of(split, module=module, batch_size=size)
        assert compute("weight_gradient_norm", split, context).value == pytest.approx(expected, rel=1e-5)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_weight_gradients_that_are_not_finite() -> None:
    module, split, _ = linear_split(3)
    module.weight.data[0, 0] = torch.nan
    for name in ("weight_gradient_norm", "input_gradient_norm"):
        with pytest.raises(Undefined, match="not finite"):
            compute(name, split, context_of(split, module=module))


def attacked(n: int = 30, classes: int = 3) -> tuple[Split, Context]:
    """Return attacked copies of some of the clean samples, in another order, and the context."""
    clean = random_split(n, classes, seed=1)
    generator = np.random.default_rng(2)
    x = generator.uniform(size=(n, 2, 2)).astype(np.float32)
    order = generator.permutation(n)[: n // 2]
    moved = x[order] + 0.1 * np.sign(generator.normal(size=(n // 2, 2, 2))).astype(np.float32)
    logits = clean.logits[order] + generator.normal(size=(n // 2, classes))
    copies = split_of(logits, clean.y[order], x=moved, clean=order)
    return copies, context_of(split_of(clean.logits, clean.y, x=x))


def test_pgd_measures_by_scipy() -> None:
    copies, context = attacked()
    p = special.softmax(context.clean.logits.astype(np.float64), axis=1)[copies.clean]
    q = special.softmax(copies.logits.astype(np.float64), axis=1)
    assert compute("pgd_kl", copies, context).value == pytest.approx(stats.entropy(p, q, axis=1).mean())
    rows = np.arange(len(copies.y))
    assert compute("pgd_loss", copies, context).value == pytest.approx(-np.log(q[rows, copies.y]).mean())
    masked = q.copy()
    masked[rows, copies.y] = -1
    margin = (q[rows, copies.y] - masked.max(axis=1)).mean()
    assert compute("pgd_probability_margin", copies, context).value == pytest.approx(margin)


def test_local_lipschitz_of_a_known_change() -> None:
    copies, context = attacked()
    change = np.abs(copies.logits.astype(np.float64) - context.clean.logits[copies.clean]).sum(axis=1)
    expected = (change / 0.1).mean()
    assert compute("local_lipschitz", copies, context).value == pytest.approx(expected, rel=1e-5)
    distance = np.full(len(copies.y), 0.1)
    distance[:3] = 0  # returned unchanged by the attack
    stored = Split(copies.y, copies.logits, clean=copies.clean, distance=distance)
    value = compute("local_lipschitz", stored, context)
    assert value.value == pytest.approx((change[3:] / 0.1).mean(), rel=1e-9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clean": None}, "originals of the attacked copy are not known"),
        ({"clean": np.full(15, -1)}, "no sample of the attacked copy has its original"),
        ({"x": None}, "neither the inputs nor the linf distances"),
        ({"distance": np.zeros(15)}, "no sample of the attacked copy differs"),
    ],
)
def test_no_local_lipschitz(change: dict[str, object], reason: str) -> None:
    copies, context = attacked()
    split = Split(**{"y": copies.y, "logits": copies.logits, "x": copies.x, "clean": copies.clean, **change})
    with pytest.raises(Undefined, match=reason):
        compute("local_lipschitz", split, context)


def test_one_class_has_no_input_margin() -> None:
    x = np.ones((4, 2), dtype=np.float32)
    split = split_of(np.ones((4, 1)), [0] * 4, x=x)
    of = context_of(split, module=torch.nn.Linear(2, 1))
    with pytest.raises(Undefined, match="one class only"):
        compute("input_margin", split, of)
