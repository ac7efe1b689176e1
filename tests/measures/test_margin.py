"""Margins against hand-computed tables, order statistics and linear models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from measured import compute, context_of, random_split, split_of
from scipy import special, stats

from metaeval.measures.logits import percentile
from metaeval.measures.spec import Split, Undefined


def linear(weight: np.ndarray, bias: np.ndarray) -> torch.nn.Module:
    module = torch.nn.Linear(weight.shape[1], len(weight))
    module.weight.data, module.bias.data = torch.tensor(weight), torch.tensor(bias)
    return module.eval().requires_grad_(False)


def linear_split(classes: int, n: int = 40) -> tuple[torch.nn.Module, Split, np.ndarray]:
    generator = np.random.default_rng(classes)
    weight = generator.normal(size=(classes, 5)).astype(np.float32)
    x = generator.uniform(size=(n, 5)).astype(np.float32)
    module = linear(weight, np.zeros(classes, dtype=np.float32))
    logits = module(torch.from_numpy(x)).numpy()
    y = np.where(np.arange(n) % 9 == 0, (logits.argmax(axis=1) + 1) % classes, logits.argmax(axis=1))
    return module, split_of(logits, y, x=x), weight


def test_margins_by_hand() -> None:
    split = split_of([[3, 1, 0], [0, 2, 1], [1, 0, 4], [5, 6, 0]], [0, 1, 2, 0])  # margins 2, 1, 3, -1
    assert compute("logit_margin", split, percentile=50).value == 1.5
    assert compute("logit_margin", split, percentile=0).value == -1
    per_class = compute("logit_margin", split, percentile=50).per_class
    np.testing.assert_allclose(per_class, [0.5, 1, 3])
    probability = special.softmax(split.logits.astype(np.float64), axis=1)
    expected = np.mean(
        [
            probability[0, 0] - probability[0, 1],
            probability[1, 1] - probability[1, 2],
            probability[2, 2] - probability[2, 0],
            probability[3, 0] - probability[3, 1],
        ]
    )
    assert compute("probability_margin", split).value == pytest.approx(expected, rel=1e-6)
    spread = np.sqrt(split.logits.astype(np.float64).var(axis=0).sum())
    assert compute("normalised_margin", split, percentile=50).value == pytest.approx(1.5 / spread)


def test_inverse_margin_and_where_it_is_undefined() -> None:
    split = split_of([[3, 1], [4, 0], [0.5, 0], [9, 1]] * 10, [0] * 40)
    value = compute("inverse_squared_margin", split, percentile=50)
    gamma = compute("logit_margin", split, percentile=50)
    assert value.value == pytest.approx(gamma.value**-2)
    assert (value.lower, value.upper) == pytest.approx((gamma.upper**-2, gamma.lower**-2))
    with pytest.raises(Undefined, match="the 10th percentile of the logit margins, is -1 and not above 0"):
        compute("inverse_squared_margin", split_of([[0, 1]] * 5, [0] * 5))
    with pytest.raises(Undefined, match="is 0 and not above 0"):
        compute("inverse_squared_margin", split_of([[1, 1]] * 5, [0] * 5))


def test_interval_of_a_percentile_covers_it_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    true = stats.norm.ppf(0.1)
    covered = [
        found.lower <= true <= found.upper
        for found in (percentile(generator.normal(size=200), 10) for _ in range(2000))
    ]
    assert 0.935 < np.mean(covered) < 0.985


def test_ends_that_need_more_samples_are_missing() -> None:
    found = percentile(np.arange(10.0), 10)
    assert np.isnan(found.lower)
    assert np.isnan(found.standard_error)
    assert found.upper > found.value


@pytest.mark.parametrize(("norm", "dual"), [("l2", 2), ("linf", 1), ("l1", np.inf)])
def test_input_margin_of_a_binary_linear_model_is_its_distance(norm: str, dual: float) -> None:
    module, split, weight = linear_split(2)
    context = context_of(split, module=module, batch_size=7)
    difference = weight[0].astype(np.float64) - weight[1]
    sign = np.where(split.y == 0, 1, -1)
    distance = sign * (split.x.astype(np.float64) @ difference) / np.linalg.norm(difference, dual)
    for q in (10, 50):
        value = compute("input_margin", split, context, norm=norm, percentile=q)
        assert value.value == pytest.approx(np.quantile(distance, q / 100), rel=1e-4, abs=1e-7)
    assert (value.forwards, value.backwards) == (40, 40)


def test_input_margin_is_towards_the_runner_up() -> None:
    module, split, weight = linear_split(4)
    others = split.logits.astype(np.float64)
    others[np.arange(40), split.y] = -np.inf
    runner_up = others.argmax(axis=1)
    gap = split.logits[np.arange(40), split.y] - others.max(axis=1)
    distance = gap / np.linalg.norm(weight[split.y] - weight[runner_up], axis=1)
    value = compute("input_margin", split, context_of(split, module=module))
    assert value.value == pytest.approx(np.quantile(distance, 0.1), rel=1e-4)


def test_input_margin_needs_inputs_and_gradients() -> None:
    module, split, _ = linear_split(3)
    with pytest.raises(Undefined, match="inputs of this scope are not kept"):
        compute("input_margin", split_of(split.logits, split.y), context_of(split, module=module))
    flat = linear(np.zeros((3, 5), dtype=np.float32), np.arange(3, dtype=np.float32))
    with pytest.raises(Undefined, match="the gradient of 40 of 40 samples is 0"):
        compute("input_margin", split, context_of(split, module=flat))


def test_margins_refuse_logits_that_are_not_finite() -> None:
    split = random_split(10, 3)
    split.logits[4, 1] = np.nan
    for name in ("logit_margin", "inverse_squared_margin", "normalised_margin", "probability_margin"):
        with pytest.raises(Undefined, match="logits of 1 of 10 samples are not finite"):
            compute(name, split)


def test_constant_logits_have_no_normalised_margin() -> None:
    with pytest.raises(Undefined, match="the same for every sample"):
        compute("normalised_margin", split_of([[1, 0]] * 4, [0] * 4))
