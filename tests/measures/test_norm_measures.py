"""Norm measures: closed forms, invariances, the margin, and what is said where there is no value."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from normed import Normalized, Residual, context_of, trained_norms
from torch import nn

from metaeval.measures.norm_measures import MEASURES
from metaeval.measures.spec import (
    INVARIANCES,
    NEEDS,
    Context,
    Measure,
    Split,
    Undefined,
    Unsupported,
    Value,
)
from metaeval.sources.models.architectures import cnn, mlp

NAMES = {measure.name: measure for measure in MEASURES}
GREY = (1, 8, 8)


def value_of(measure: type[Measure], context: Context, **settings: object) -> Value:
    assert context.train is not None
    return measure().compute(context, context.train, **{**measure.settings, **settings})


def all_of(context: Context) -> dict[str, float]:
    return {name: value_of(measure, context).value for name, measure in NAMES.items()}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    ).eval()


def rescale_layers(module: nn.Sequential) -> None:
    for parameter in module[0].parameters():
        parameter.data *= 10
    module[3].weight.data /= 10


def rescale_nodes(module: nn.Sequential) -> None:
    factor = torch.tensor([10.0, 0.1, 3.0, 1.0])
    module[0].weight.data *= factor[:, None, None, None]
    module[0].bias.data *= factor
    module[3].weight.data /= factor[:, None, None]


def sharpen(module: nn.Sequential) -> None:
    for parameter in module[-1].parameters():
        parameter.data *= 3


CHANGES: dict[str, Callable[[nn.Sequential], None]] = {
    "layer rescaling": rescale_layers,
    "node rescaling": rescale_nodes,
    "temperature": sharpen,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_declared_invariant_stays_and_what_is_not_moves(change: str) -> None:
    initial = network()
    module = copy.deepcopy(initial)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    changed = copy.deepcopy(module)
    CHANGES[change](changed)
    before, after = (context_of(each, GREY, initial=initial) for each in (module, changed))
    assert before.train is not None
    assert after.train is not None
    expected = before.train.logits * (3 if change == "temperature" else 1)
    np.testing.assert_allclose(after.train.logits, expected, rtol=1e-3, atol=1e-4)
    old, new = all_of(before), all_of(after)
    for name, measure in NAMES.items():
        moved = abs(new[name] - old[name])
        if change in measure.invariance:
            assert moved <= 1e-4 * max(1, abs(old[name])), name
        else:
            assert moved > 1e-3 * abs(old[name]), name


def test_each_measure_says_what_it_is() -> None:
    assert len(NAMES) == len(MEASURES)
    for name, measure in NAMES.items():
        assert re.fullmatch("[a-z0-9_]+", name)
        assert measure.family == "norm"
        assert measure.expected_sign in (-1, 0)
        assert {*measure.needs} <= {*NEEDS}
        assert {*measure.invariance} <= {*INVARIANCES}
        for text in (measure.definition, measure.formula, measure.citation, measure.cost, measure.__doc__):
            assert text
        assert "train_logits" in measure.needs or not name.endswith("_over_margin")
        assert re.search(r"\d{4}", measure.citation)


def test_values_of_one_linear_layer() -> None:
    torch.manual_seed(0)
    module, start = nn.Linear(5, 3), nn.Linear(5, 3)
    context = context_of(module, (5,), initial=start)
    assert context.train is not None
    (weight, bias), (weight0, bias0) = (
        [parameter.detach().double().numpy() for parameter in layer.parameters()] for layer in (module, start)
    )
    singular = np.linalg.svd(weight)[1]
    moved = np.linalg.svd(weight - weight0)[1]
    logits, y = context.train.logits.astype(float), context.train.y
    rows = np.arange(len(y))
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    odds[rows, y] -= 1
    ordered = np.sort(logits, axis=1)
    margin = np.percentile(ordered[:, -1] - ordered[:, -2], 10)
    expected = {
        "parameters": 18.0,
        "l2_norm": np.sqrt((weight**2).sum() + (bias**2).sum()),
        "initial_distance": np.sqrt(((weight - weight0) ** 2).sum() + ((bias - bias0) ** 2).sum()),
        "frobenius_sum": np.linalg.norm(weight),
        "log_frobenius_product": np.log(np.linalg.norm(weight)),
        "frobenius_distance_sum": np.linalg.norm(weight - weight0),
        "spectral_sum": singular[0],
        "log_spectral_product": np.log(singular[0]),
        "spectral_distance_sum": moved[0],
        "nuclear_sum": singular.sum(),
        "log_nuclear_product": np.log(singular.sum()),
        "nuclear_distance_sum": moved.sum(),
        "frobenius_over_spectral": (singular**2).sum() / singular[0] ** 2,
        "frobenius_distance_over_spectral": (moved**2).sum() / singular[0] ** 2,
        "log_spectral_complexity": np.log(np.linalg.norm(weight, axis=1).sum()),
        "log_spectral_complexity_initial": np.log(np.linalg.norm(weight - weight0, axis=1).sum()),
        "log_path_norm_l1": np.log(np.abs(weight).sum() + np.abs(bias).sum()),
        "log_path_norm_l2": np.log((weight**2).sum() + (bias**2).sum()) / 2,
        "fisher_rao": np.sqrt(((odds * logits).sum(1) ** 2).mean()),
    }
    for name, value in list(expected.items()):
        if name != "parameters":
            over = value - np.log(margin) if name.startswith("log_") else value / margin
            expected[f"{name}_over_margin"] = over
    assert all_of(context) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_several_layers_are_put_together_by_their_formulas() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)]
    parts = [part for layer in layers for part in (layer, nn.ReLU())][:-1]
    context = context_of(nn.Sequential(*parts), (4,))
    weights = [layer.weight.detach().double().numpy() for layer in layers]
    tops = [np.linalg.norm(weight, 2) for weight in weights]
    ratios = [np.linalg.norm(weight, axis=1).sum() / top for weight, top in zip(weights, tops, strict=True)]
    expected = {
        "spectral_sum": sum(tops),
        "log_spectral_product": np.log(np.prod(tops)),
        "log_frobenius_product": np.log(np.prod([np.linalg.norm(weight) for weight in weights])),
        "nuclear_sum": sum(np.linalg.norm(weight, "nuc") for weight in weights),
        "frobenius_over_spectral": sum(
            np.linalg.norm(weight) ** 2 / top**2 for weight, top in zip(weights, tops, strict=True)
        ),
        "log_spectral_complexity": np.log(np.prod(tops) * sum(ratio ** (2 / 3) for ratio in ratios) ** 1.5),
    }
    for name, value in expected.items():
        assert value_of(NAMES[name], context).value == pytest.approx(value, rel=1e-6)


def test_fisher_rao_of_a_relu_network_without_biases() -> None:
    """Liang et al. (2019), theorem 3.1: (L + 1)^2 E <dl/df, f>^2 for L hidden layers."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(6, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 8, bias=False),
        nn.ReLU(),
        nn.Linear(8, 3, bias=False),
    )
    context = context_of(module, (6,))
    assert context.train is not None
    logits, y = context.train.logits.astype(float), context.train.y
    slope = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slope[np.arange(len(y)), y] -= 1
    expected = 3 * math.sqrt(float(((slope * logits).sum(1) ** 2).mean()))
    assert value_of(NAMES["fisher_rao"], context).value == pytest.approx(expected, rel=1e-5)


def test_fisher_rao_of_some_samples_has_an_interval() -> None:
    module = network()
    every = value_of(NAMES["fisher_rao"], context_of(module, GREY, samples=400))
    assert math.isnan(every.standard_error)
    assert every.forwards == 400
    inside = 0
    for seed in range(20):
        found = value_of(NAMES["fisher_rao"], context_of(module, GREY, samples=400, seed=seed), samples=50)
        assert found.forwards == 50
        inside += found.lower <= every.value <= found.upper
    assert inside >= 16  # of 20 intervals of 95 %


def test_batch_norm_and_its_convolution_are_one_map() -> None:
    """Scaling a convolution before batch norm changes the weights, not the network: no measure may see it."""
    torch.manual_seed(0)
    module = trained_norms(cnn(GREY, 3, depth=2, width=4))
    scaled = copy.deepcopy(module)
    convolution, norm = scaled[0], scaled[1]
    convolution.weight.data *= 5
    norm.running_mean *= 5
    norm.running_var.copy_(25 * norm.running_var + 24 * norm.eps)
    one, other = (context_of(each, GREY, initial=module) for each in (module, scaled))
    for name, measure in NAMES.items():
        if "initial_weights" not in measure.needs:
            value = value_of(measure, one).value
            assert value_of(measure, other).value == pytest.approx(value, rel=1e-4), name


def test_values_do_not_depend_on_the_batch_size_or_the_run() -> None:
    module, initial = network(), network()
    rescale_layers(initial)
    found = all_of(context_of(module, GREY, initial=initial))
    assert all_of(context_of(network(), GREY, initial=initial)) == found
    small = all_of(context_of(module, GREY, initial=initial, batch_size=7, seed=5))
    assert small == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: cnn((3, 12, 12), 4), (3, 12, 12)),
        (lambda: cnn((1, 9, 11), 2, depth=3, width=4), (1, 9, 11)),
        (lambda: mlp((7,), 3), (7,)),
        (lambda: Normalized(Residual(), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]), (3, 12, 12)),
    ],
    ids=["colour", "grey", "vector", "residual"],
)
def test_every_measure_of_every_small_network(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    initial = build().eval()
    module = trained_norms(copy.deepcopy(initial))
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    context = context_of(module, shape, initial=initial)
    for name, measure in NAMES.items():
        found = value_of(measure, context)
        assert math.isfinite(found.value), name
        layerwise = any(word in name for word in ("frobenius", "spectral", "nuclear"))
        assert ("skip connections (1)" in found.note) == (layerwise and isinstance(module, Normalized)), name


def test_only_the_inner_part_has_initial_weights() -> None:
    torch.manual_seed(0)
    inner = mlp((5,), 3)
    context = context_of(Normalized(inner, [0.5], [0.5]), (5,), initial=inner)
    context.trained = inner
    assert value_of(NAMES["initial_distance"], context).value == 0
    context = context_of(Normalized(inner, [0.5], [0.5]), (5,), initial=mlp((5,), 3, width=64))
    context.trained = inner
    with pytest.raises(Undefined, match="do not fit"):
        value_of(NAMES["initial_distance"], context)


def test_without_margin_training_data_or_initial_weights_there_is_no_value() -> None:
    module = mlp((5,), 3)
    context = context_of(module, (5,))
    assert context.train is not None
    wrong = Split((context.train.y + 1) % 3, context.train.logits, context.train.x)
    endless = Split(context.train.y, context.train.logits * np.float32(np.inf), None)
    cases = [
        (wrong, "spectral_sum_over_margin", "not positive"),
        (endless, "l2_norm_over_margin", "not finite"),
        (endless, "fisher_rao", "inputs of the training set"),
        (None, "log_path_norm_l1_over_margin", "not at hand"),
        (context.train, "spectral_distance_sum", "before training are not known"),
    ]
    for train, name, reason in cases:
        context = Context(module, (5,), 3, clean=context.clean, train=train)
        with pytest.raises(Undefined, match=reason):
            NAMES[name]().compute(context, context.clean, **NAMES[name].settings)
        NAMES["spectral_sum"]().compute(context, context.clean, method="operator")  # the others stay


def test_a_layer_of_zeros_leaves_products_undefined() -> None:
    module = mlp((5,), 3)
    nn.init.zeros_(module[3].weight)
    context = context_of(module, (5,))
    with pytest.raises(Undefined, match="zero"):
        value_of(NAMES["log_spectral_product"], context)
    assert value_of(NAMES["spectral_sum"], context).value > 0


def test_values_say_what_they_leave_out() -> None:
    class Mixed(nn.Sequential):
        pass

    torch.manual_seed(0)
    module = Mixed(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"),
        nn.GroupNorm(1, 2),
        nn.Flatten(),
        nn.Linear(128, 3),
    ).eval()
    context = context_of(module, GREY)
    assert value_of(NAMES["spectral_sum"], context).note == "without 1 (group_norm)"
    note = value_of(NAMES["nuclear_sum"], context).note
    assert "0: " in note
    assert "reflect padding" in note
    assert value_of(NAMES["frobenius_over_spectral"], context).value > 1  # of the linear layer alone
    with pytest.raises(Unsupported, match=r"1 \(group_norm\)"):
        value_of(NAMES["log_path_norm_l1"], context)


def test_a_network_without_maps_is_unsupported() -> None:
    context = context_of(nn.Sequential(nn.Flatten(), nn.Softmax(1)), (3,))
    with pytest.raises(Unsupported, match="softmax"):
        value_of(NAMES["spectral_sum"], context)
    assert value_of(NAMES["parameters"], context).value == 0


def test_circular_and_reshaped_by_setting() -> None:
    context = context_of(network(), GREY)
    found = {
        method: value_of(NAMES["log_spectral_product"], context, method=method).value
        for method in ("operator", "circular", "reshaped")
    }
    assert found["reshaped"] < found["operator"] < found["circular"]
