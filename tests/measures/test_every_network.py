"""Every measure on every kind of network: a value, or a status with its reason; and what it costs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from normed import Residual, context_of, trained_norms
from torch import nn

from metaeval.measures import perturbed
from metaeval.measures.registry import measures, setting_problems
from metaeval.measures.sharpness import REFERENCE
from metaeval.measures.spec import SHARED, Context, Measure, Undefined, Unsupported, Value

OWN = [measure for measure in measures().values() if "attacked_logits" not in measure.needs]


class NoNumbers(nn.Linear):
    """Logits that are all NaN, from finite weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * torch.nan


class Branching(nn.Linear):
    """Cannot be traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.mean() > 0 else -x)


class Weightless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] + x[:, 1], x[:, 2]], dim=1)


def norm_first() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Flatten(), nn.Linear(48, 3),
    )  # fmt: skip


def odd() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 3)
    )


def vector() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def built(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> Context:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        now, before = trained_norms(build()), build().eval()
    return context_of(now, shape, initial=before, samples=30)


def answers(context: Context) -> tuple[dict[str, Value], dict[str, str]]:
    """Return the values, and the reasons of the others."""
    found: dict[str, Value] = {}
    reasons: dict[str, str] = {}
    assert context.train is not None
    for measure in OWN:
        try:
            found[measure.name] = measure().compute(context, context.train, **measure.settings)
        except (Undefined, Unsupported) as error:
            reasons[measure.name] = str(error)
    assert all(np.isfinite(value.value) for value in found.values())
    return found, reasons


@pytest.mark.parametrize(
    ("build", "shape"),
    [(Residual, (3, 9, 7)), (norm_first, (1, 7, 9)), (odd, (1, 7, 11)), (vector, (6,))],
    ids=["skip connections", "batch norm first", "one channel, odd size", "vector"],
)
def test_all_but_the_temperature_have_values(build: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    found, reasons = answers(built(build, shape))
    assert list(reasons) == ["optimal_temperature"]
    assert "no sample has a larger logit" in reasons["optimal_temperature"]
    skips = build is Residual
    assert ("skip connections" in found["log_spectral_product"].note) == skips
    assert ("skip connections" in found["spectral_distance_sum"].note) == skips


@pytest.mark.parametrize(
    ("module", "shape", "kept", "lost"),
    [
        (NoNumbers(6, 3), (6,), ["accuracy", "f1", "parameters"], {"l2_norm": "its logits are not finite"}),
        (Branching(6, 3), (6,), ["pac_bayes_flatness", "ece"], {"fisher_rao": "cannot be traced"}),
        (Weightless(), (3,), ["log_loss", "input_margin"], {"fisher_rao": "the model has no weights"}),
        (nn.Linear(6, 1), (6,), ["accuracy", "l2_norm"], {"logit_margin": "one class only"}),
    ],
    ids=["logits NaN", "not traced", "no weights", "one class"],
)
def test_what_has_no_value_says_why(
    module: nn.Module, shape: tuple[int, ...], kept: list[str], lost: dict[str, str]
) -> None:
    found, reasons = answers(built(lambda: module, shape))
    assert set(kept) <= set(found)
    for name, reason in lost.items():
        assert reason in reasons[name]


def test_passes_are_counted_once_and_as_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    context = built(vector, (6,))
    assert context.train is not None
    rows = 0
    own = perturbed.Network.logits

    def count(self: perturbed.Network, x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal rows
        rows += len(x)
        return own(self, x, weights)

    monkeypatch.setattr(perturbed.Network, "logits", count)
    paid: set[str] = set()
    for measure in OWN:
        rows = 0
        try:
            value = measure().compute(context, context.train, **measure.settings)
        except (Undefined, Unsupported):
            continue
        if measure.family == "sharpness":
            assert value.forwards == rows
        shared = measure.shares(measure.settings)
        predicted = measure.passes(0, len(context.train.y), measure.settings)
        if shared and shared in paid:
            assert value.forwards == value.backwards == 0
            assert SHARED in value.note
        else:
            assert SHARED not in value.note
            for counted, usual in zip((value.forwards, value.backwards), predicted, strict=True):
                assert usual / 2.5 <= counted <= usual * 2.5
        paid.add(shared)


@pytest.mark.parametrize(
    ("name", "setting", "wrong"),
    [
        ("nuclear_sum", "method", "operator"),
        ("log_spectral_product", "method", "fft"),
        ("pac_bayes_flatness", "convention", "reference"),
        ("pac_bayes_flatness", "target", 0.0),
        ("average_relative_sharpness", "draws", 0),
        ("worst_case_sharpness", "perturb", "biases"),
        ("adaptive_worst_case_sharpness", "steps", 0),
        ("fisher_rao", "samples", 0),
    ],
)
def test_wrong_settings_are_found_before_anything_runs(name: str, setting: str, wrong: object) -> None:
    measure = measures()[name]
    assert not setting_problems(measure, measure.settings)
    assert len(setting_problems(measure, {setting: wrong})) == 1


def test_all_singular_values_of_the_operator_are_not_the_kernel_s() -> None:
    context = built(odd, (1, 7, 11))
    measure: type[Measure] = measures()["nuclear_sum"]
    with pytest.raises(ValueError, match="not by 'operator'"):
        measure().compute(context, context.clean, method="operator")


def test_the_reference_perturbs_neutral_batch_norm_of_any_network() -> None:
    context = built(Residual, (3, 9, 7))
    assert context.train is not None
    chosen = {**measures()["pac_bayes_flatness"].settings, "convention": REFERENCE, "fold_batch_norm": True}
    assert measures()["pac_bayes_flatness"]().compute(context, context.train, **chosen).value > 0
    neutral = perturbed.network(context, perturb="all", fold_batch_norm=True, neutral=True)
    plain = perturbed.network(context, perturb="all", fold_batch_norm=True)
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in context.module.modules())
    folded_away = len(neutral.weights) - len(plain.weights)
    assert 0 < folded_away <= 2 * norms
