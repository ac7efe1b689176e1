"""What must hold of every measure: its description, order of samples, declared invariances, seeds."""

from __future__ import annotations

import copy
import re
from functools import cache
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from measured import compute, context_of, random_split, split_of

from metaeval.errors import UsageError
from metaeval.measures import registry
from metaeval.measures.spec import INVARIANCES, NEEDS, Context, Measure, Split, Value

FROM_LOGITS = sorted(m.name for m in registry.measures().values() if m.needs == ("logits",))
HERE = ("performance", "uncertainty", "calibration", "margin", "gradient")  # families that these tests know
MEASURES = [m for m in registry.measures().values() if m.family in HERE]


@pytest.mark.parametrize("measure", registry.measures().values(), ids=lambda m: m.name)
def test_every_measure_says_what_it_is(measure: type[Measure]) -> None:
    assert re.fullmatch(r"[a-z0-9_]+", measure.name)
    assert re.fullmatch(r"[a-z0-9_]+", measure.family)
    assert "\n" not in measure.definition
    assert measure.definition
    assert measure.formula
    assert re.search(r"\b(19|20)\d\d\b", measure.citation)
    assert measure.expected_sign in (-1, 0, 1)
    assert set(measure.needs) <= set(NEEDS)
    assert set(measure.invariance) <= set(INVARIANCES)
    assert set(measure.choices) <= set(measure.settings)
    assert set(measure.limits) <= set(measure.settings)
    assert not registry.setting_problems(measure, measure.settings)
    assert measure.__doc__


@pytest.mark.parametrize("name", FROM_LOGITS)
@settings(max_examples=6, deadline=None)
@given(
    seed=strategies.integers(0, 10**6),
    n=strategies.integers(20, 60),
    classes=strategies.integers(2, 5),
    decimals=strategies.sampled_from([0, 5]),
)
def test_the_order_of_samples_does_not_matter(
    name: str, seed: int, n: int, classes: int, decimals: int
) -> None:
    """Also with ties: rounded logits are often equal."""
    split = random_split(n, classes, seed=seed, scale=1.0)
    split = split_of(np.round(split.logits, decimals), split.y)
    order = np.random.default_rng(seed).permutation(n)
    values = [attempt(name, part) for part in (split, split_of(split.logits[order], split.y[order]))]
    assert values[0] == pytest.approx(values[1], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", FROM_LOGITS)
def test_the_temperature_moves_what_is_not_invariant(name: str) -> None:
    split = random_split(300, 4, seed=6, scale=1.0)
    measure = registry.measures()[name]
    cooler, hotter = (split_of(split.logits / by, split.y) for by in (1, 3))
    value, after = (compute(name, part, **more(measure)).value for part in (cooler, hotter))
    if "temperature" in measure.invariance:
        assert after == pytest.approx(value, rel=1e-4)
    else:
        assert abs(after - value) > 1e-3 * abs(value)


@pytest.mark.parametrize("name", FROM_LOGITS)
def test_the_seed_decides_everything(name: str) -> None:
    split = random_split(100, 3, seed=4, scale=1.0)
    chosen = more(registry.measures()[name])
    first, again, other = (compute(name, split, seed=seed, **chosen) for seed in (1, 1, 2))
    assert repr(first) == repr(again)
    assert other.value == first.value


@cache
def network() -> tuple[torch.nn.Sequential, Context]:
    """Return a small trained network and its context."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))
    x = torch.rand(120, 4)
    y = (x @ torch.rand(4, 3)).argmax(dim=1)
    weights = list(module.parameters())
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(module(x), y)
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.data -= 0.5 * gradient
    module.eval().requires_grad_(False)
    return module, context_for(module, x.numpy(), y.numpy())


def context_for(module: torch.nn.Module, x: np.ndarray, y: np.ndarray, batch_size: int = 256) -> Context:
    split = Split(y, module(torch.from_numpy(x)).numpy(), x)
    return context_of(split, module=module, train=split, batch_size=batch_size)


def rescaled(module: torch.nn.Sequential, factor: torch.Tensor) -> torch.nn.Sequential:
    """Return the network with every hidden node scaled and the scale taken back after it."""
    other = copy.deepcopy(module)
    other[0].weight *= factor[:, None]
    other[0].bias *= factor
    other[2].weight /= factor
    return other


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
@pytest.mark.parametrize("kind", ["layer rescaling", "node rescaling"])
def test_rescaling_moves_only_what_is_not_invariant(measure: type[Measure], kind: str) -> None:
    module, context = network()
    factor = torch.full((12,), 10.0) if kind == "layer rescaling" else torch.logspace(-1, 1, 12)
    other = context_for(rescaled(module, factor), context.clean.x, context.clean.y)
    before = compute(measure.name, context.clean, context, **more(measure)).value
    after = compute(measure.name, other.clean, other, **more(measure)).value
    if kind in measure.invariance:
        assert after == pytest.approx(before, rel=1e-4, abs=1e-6)
    else:
        assert abs(after - before) > 1e-2 * abs(before)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_the_batch_size_does_not_matter(measure: type[Measure]) -> None:
    module, context = network()
    other = context_for(module, context.clean.x, context.clean.y, batch_size=7)
    a, b = (compute(measure.name, c.clean, c, **more(measure)).value for c in (context, other))
    assert a == pytest.approx(b, rel=1e-4)


class Added(Measure):
    """A measure of another package."""

    name, family, definition, formula = "added", "other", "number of samples", "n"
    citation, expected_sign, needs = "Nobody, 2020", 0, ("logits",)

    def compute(self, context: Context, split: Split, **settings: object) -> Value:
        return Value(float(len(split.y)))


class Nameless(Added):
    name = "something else"


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("test_properties:Added", None),
        ("test_properties:Nameless", "calls itself 'something else'"),
        ("test_properties:network", "is no subclass of Measure"),
        ("test_properties:Absent", "cannot be loaded"),
    ],
)
def test_another_package_adds_a_measure(
    value: str, wrong: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("added", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    if wrong:
        with pytest.raises(UsageError, match=wrong):
            registry.measures()
        return
    assert registry.measures()["added"].family == "other"
    assert [measure.name for measure in registry.choose(["other"], [])] == ["added"]
    assert compute("added", random_split(12, 2)).value == 12


def test_settings_are_checked() -> None:
    ece, recall = (registry.measures()[name] for name in ("ece", "recall"))
    assert registry.setting_problems(ece, {"bin": 3})[0][2] == "bins"
    assert "a whole number, got 1.5" in registry.setting_problems(ece, {"bins": 1.5})[0][1]
    assert "a whole number, got True" in registry.setting_problems(ece, {"bins": True})[0][1]
    assert "expected 1 to 10000, got 0" in registry.setting_problems(ece, {"bins": 0})[0][1]
    assert registry.setting_problems(recall, {"average": "mirco"})[0][2] == "micro"
    margin = registry.measures()["logit_margin"]
    assert registry.resolve_settings(margin, {"percentile": 5}) == {"percentile": 5.0}
    assert isinstance(registry.resolve_settings(margin, {"percentile": 5})["percentile"], float)


def more(measure: type[Measure]) -> dict[str, float]:
    """Return the settings with which a measure has a value here: the median margin is above 0."""
    return {"percentile": 50.0} if "percentile" in measure.settings else {}


def attempt(name: str, split: Split) -> float:
    try:
        return compute(name, split).value
    except ValueError:
        return -1.0
