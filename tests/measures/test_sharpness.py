"""Sharpness against closed forms, brute force and its declared invariances."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor, nn
from torch.nn import functional

from metaeval.measures import perturbed, sigma_search
from metaeval.measures.sharpness import (
    MEASURES,
    PacBayesBound,
    PacBayesBoundInitial,
    PacBayesFlatness,
    PacBayesMagnitudeBound,
    PacBayesMagnitudeBoundInitial,
    PacBayesMagnitudeFlatness,
)
from metaeval.measures.spec import INVARIANCES, NEEDS, Context, Measure, Split, Undefined, Unsupported, Value
from metaeval.measures.worst_case import (
    AdaptiveWorstCaseSharpness,
    WorstCaseMagnitudeSharpness,
    WorstCaseSharpness,
)

AVERAGE = next(measure for measure in MEASURES if measure.name == "average_relative_sharpness")


def context(
    module: nn.Module, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], classes: int = 2, **more: Any
) -> Context:
    x = x.astype(np.float32)
    with torch.no_grad():
        logits = module.eval()(torch.from_numpy(x)).numpy()
    split = Split(y.astype(np.int64), logits, x)
    return Context(module, x.shape[1:], classes, split, split, **more)


def value(measure: type[Measure], of: Context, **settings: Any) -> Value:
    assert of.train is not None
    return measure().compute(of, of.train, **settings)


def linear(wrong: float = 0.0, samples: int = 400) -> tuple[nn.Linear, np.ndarray, np.ndarray]:
    """Return a linear classifier of two classes, points, and labels of which a share is wrong."""
    random = np.random.default_rng(3)
    x = random.random((samples, 5))
    module = nn.Linear(5, 2, bias=False)
    weights = random.normal(size=(2, 5))
    weights -= weights.mean(axis=1, keepdims=True)  # both classes occur among points in [0, 1]
    module.weight.data = torch.from_numpy(weights.astype(np.float32))
    y = (x @ weights.T).argmax(axis=1)
    flip = random.random(samples) < wrong
    return module, x, np.where(flip, 1 - y, y)


def expected_drop(module: nn.Linear, x: np.ndarray, y: np.ndarray, std: Callable[[Any], Any]) -> float:
    """Return the expected drop of accuracy when each weight has independent Gaussian noise."""
    w = module.weight.detach().double().numpy()
    sign = np.where(y == 1, 1, -1)
    margin = sign * (x @ (w[1] - w[0]))
    spread = np.sqrt(x**2 @ (std(w) ** 2).sum(axis=0))
    return float(np.mean(margin > 0) - norm.cdf(margin / spread).mean())


@pytest.mark.parametrize(
    ("measure", "std"),
    [
        (PacBayesFlatness, lambda s: lambda w: np.full_like(w, s)),
        (PacBayesMagnitudeFlatness, lambda s: lambda w: np.sqrt(s**2 * w**2 + 1e-6)),
    ],
)
@pytest.mark.parametrize("wrong", [0.0, 0.1])
def test_interval_contains_the_closed_form(
    measure: type[Measure], std: Callable[[float], Any], wrong: float
) -> None:
    module, x, y = linear(wrong)
    root = brentq(lambda s: expected_drop(module, x, y, std(math.exp(s))) - 0.1, -9, 2)
    truth, found = math.exp(-2 * root), []
    for seed in range(8):
        answer = value(measure, context(module, x, y, seed=seed))
        assert answer.lower < answer.value < answer.upper
        assert abs(math.log(answer.value / truth)) < 0.5
        found.append(answer.lower <= truth <= answer.upper)
    assert sum(found) >= 6  # of 8 at 95 %: fewer in 6 of 1000 runs


def test_convention_of_the_reference_squares_the_deviation() -> None:
    module, x, y = linear()
    for measure, std in (
        (PacBayesFlatness, lambda s: lambda w: np.full_like(w, s**2)),
        (PacBayesMagnitudeFlatness, lambda s: lambda w: s**2 * w**2 + 1e-6),
    ):
        root = brentq(lambda s, std=std: expected_drop(module, x, y, std(math.exp(s))) - 0.1, -6, 2)
        answer = value(measure, context(module, x, y), convention="dziugaite2020", rtol=0.05)
        truth = math.sqrt(math.exp(-2 * root) / len(y))
        assert answer.value == pytest.approx(truth, rel=0.08)
        assert answer.lower * 0.97 <= truth <= answer.upper * 1.03


class Small(nn.Module):
    """A convolution with batch norm, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.relu(self.norm(self.first(x))).flatten(1))


@pytest.fixture
def small() -> tuple[Small, np.ndarray, np.ndarray]:
    """Return a trained network with batch norm that has statistics of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        x = torch.rand(300, 1, 4, 4)
        module = Small()
        y = (5 * x[:, 0, :2].mean(dim=(1, 2)) - 1).long().clamp(0, 2)
        optimizer = torch.optim.Adam(module.parameters(), 0.02)
        for _ in range(120):
            optimizer.zero_grad()
            functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        module.zero_grad(set_to_none=True)
    return module.eval(), x.numpy(), y.numpy()


def test_reference_perturbs_neutralised_batch_norm(small: tuple[Small, np.ndarray, np.ndarray]) -> None:
    """The drop at the sigma found, by a brute-force twin written from the reference's description."""
    module, x, y = small
    answer = value(PacBayesFlatness, context(module, x, y, 3), convention="dziugaite2020", rtol=0.05)
    sigma = 1 / (answer.value * math.sqrt(len(y)))
    twin = copy.deepcopy(module)
    scale = twin.norm.weight / (twin.norm.running_var + twin.norm.eps).sqrt()
    twin.first.bias.data = twin.norm.bias.data + scale.data * (twin.first.bias.data - twin.norm.running_mean)
    twin.first.weight.data *= scale.data[:, None, None, None]
    twin.norm.reset_parameters()
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    own = [p.detach().clone() for p in twin.parameters()]
    generator = torch.Generator().manual_seed(0)
    drops = []
    with torch.no_grad():
        before = (module(inputs).argmax(1) == labels).float().mean()
        assert torch.allclose(twin.eval()(inputs), module(inputs), atol=1e-3)
        for _ in range(1500):
            for parameter, weight in zip(twin.parameters(), own, strict=True):
                parameter.copy_(weight + sigma**2 * torch.randn(weight.shape, generator=generator))
            drops.append(float(before - (twin(inputs).argmax(1) == labels).float().mean()))
    error = np.std(drops) / math.sqrt(len(drops))
    # The interval at rtol .05 in log sigma is one of about +-20 % in the drop (slope about 4).
    assert np.mean(drops) == pytest.approx(0.1, abs=0.02 + 3 * error)


def test_accuracy_that_only_rises_under_noise_has_no_sigma() -> None:
    module, x, y = linear(wrong=0.7)
    with pytest.raises(Undefined, match=r"accuracy rises by 0\.\d+ at sigma = 10"):
        value(PacBayesFlatness, context(module, x, y))


def test_target_out_of_reach_has_no_sigma() -> None:
    module, x, y = linear(wrong=0.45)
    with pytest.raises(Undefined, match=r"accuracy falls by 0\.0\d+ at sigma = 10, which is less"):
        value(PacBayesFlatness, context(module, x, y))
    with pytest.raises(Undefined, match="cannot fall"):
        sigma_search.search(lambda k, sigma: 0.0, target=0.1, accuracy=0.1)
    with pytest.raises(Undefined, match=r"falls by 0\.5 at sigma = 1e-05, which is more"):
        sigma_search.search(lambda k, sigma: 0.5, target=0.1, accuracy=0.9)


def test_rise_before_the_fall_is_noted_and_not_counted_as_a_fall() -> None:
    """Accuracy rises by .2 at sigma = .01 (the reference would stop before it) and has fallen by .1 at 1."""

    def mean(log_sigma: float) -> float:
        return 0.6 * norm.cdf(log_sigma - 0.5) - 0.2 * math.exp(-((log_sigma - math.log(0.01)) ** 2) / 8)

    def drop(k: int, sigma: float) -> float:
        noise = np.random.default_rng(k).normal(scale=0.05)
        return mean(math.log(sigma)) + noise

    truth = brentq(lambda s: mean(s) - 0.1, -2, 2)
    found = sigma_search.search(drop, target=0.1, accuracy=0.9)
    assert found.log == pytest.approx(truth, abs=0.15)
    assert "accuracy rises by" in found.note


@pytest.mark.parametrize("rtol", [0.1, 0.01])
def test_curved_drop_does_not_move_the_root(rtol: float) -> None:
    """Margins that are normal in log sigma, and guesses at one class in ten or three once all is noise."""
    for chance, steepness in ((0.1, 2.3), (1 / 3, 2.5), (1 / 3, 4.0)):

        def mean(log_sigma: float, most: float = 1 - chance, steepness: float = steepness) -> float:
            return most * float(norm.cdf(steepness * (log_sigma + 2)))

        truth = brentq(lambda s, mean=mean: mean(s) - 0.1, -6, 2)
        found = sigma_search.search(
            lambda k, sigma, mean=mean: mean(math.log(sigma)), target=0.1, accuracy=1.0, rtol=rtol
        )
        assert found.log == pytest.approx(truth, abs=0.15 * rtol)
        p = norm.ppf(0.1 / (1 - chance))
        slope = steepness * norm.pdf(p) / norm.cdf(p)
        assert found.slope == pytest.approx(slope, rel=0.1)


def test_a_drop_that_hardly_grows_leaves_sigma_without_bounds() -> None:
    """With three labels in ten wrong, ten times more noise costs hardly more accuracy."""
    module, x, y = linear(wrong=0.3)
    for measure in (PacBayesFlatness, PacBayesBound):
        found = value(measure, context(module, x, y))
        assert found.lower == 0
        assert np.isnan(found.upper)
        assert "no bounds on sigma after 512 draws" in found.note


def test_draws_stop_at_the_cap_and_say_so() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(size=10_000)

    def drop(k: int, sigma: float) -> float:
        return 0.1 * sigma + 0.3 * noise[k]

    calls = 0

    def counted(k: int, sigma: float) -> float:
        nonlocal calls
        calls += 1
        return drop(k, sigma)

    found = sigma_search.search(counted, target=0.1, accuracy=0.99, rtol=0.001, draws=300)
    assert "after 300 draws" in found.note
    assert found.draws == calls
    assert found.upper - found.lower > 0.002


def mlp(hidden: int = 12) -> tuple[nn.Sequential, np.ndarray, np.ndarray]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        module = nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Linear(hidden, 3))
        x = torch.rand(256, 6)
        y = x[:, :3].argmax(dim=1)
        optimizer = torch.optim.Adam(module.parameters(), 0.02)
        for _ in range(200):
            optimizer.zero_grad()
            functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        module.zero_grad(set_to_none=True)
    return module.eval(), x.numpy(), y.numpy()


def rescaled(module: nn.Sequential, factors: Tensor) -> nn.Sequential:
    """Return the same function with hidden unit j's inputs times factor j and its outputs divided by it."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        other[0].weight *= factors[:, None]
        other[0].bias *= factors
        other[2].weight /= factors
    return other


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_declared_invariance_holds_and_the_rest_moves(measure: type[Measure]) -> None:
    module, x, y = mlp()
    initial = {name: torch.full_like(w, 0.01) for name, w in module.state_dict().items()}
    before = value(measure, context(module, x, y, 3, initial=initial)).value
    cases = {"layer rescaling": torch.full((12,), 10.0), "node rescaling": 2.0 ** torch.arange(-4, 8)}
    for name, factors in cases.items():
        after = value(measure, context(rescaled(module, factors), x, y, 3, initial=initial)).value
        if name in measure.invariance:
            assert after == pytest.approx(before, rel=1e-4)
        elif measure is not PacBayesMagnitudeFlatness:
            assert abs(after / before - 1) > 1e-2


def test_magnitude_aware_flatness_is_invariant_without_its_constant_only() -> None:
    module, x, y = mlp()
    of = context(module, x, y, 3)
    scaled = {
        factor: context(rescaled(module, torch.full((12,), factor)), x, y, 3) for factor in (10.0, 300.0)
    }
    before = value(PacBayesMagnitudeFlatness, of)
    assert before.lower < value(PacBayesMagnitudeFlatness, scaled[10.0]).value < before.upper
    assert abs(value(PacBayesMagnitudeFlatness, scaled[300.0]).value / before.value - 1) > 1e-2
    exact = value(PacBayesMagnitudeFlatness, of, magnitude_eps=0.0).value
    for other in scaled.values():
        found = value(PacBayesMagnitudeFlatness, other, magnitude_eps=0.0).value
        assert found == pytest.approx(exact, rel=1e-4)


def test_bounds_are_the_published_formulas() -> None:
    module, x, y = mlp()
    initial = {name: torch.zeros_like(w) + 0.1 for name, w in module.state_dict().items()}
    of = context(module, x, y, 3, initial=initial)
    w = np.concatenate([module[i].weight.detach().double().numpy().ravel() for i in (0, 2)])
    d, m, e = w - np.float64(np.float32(0.1)), len(y), 1e-3
    sigma = value(PacBayesFlatness, of).value ** -0.5
    logs = math.log(m / sigma) + 10
    for measure, vector in ((PacBayesBound, w), (PacBayesBoundInitial, d)):
        answer = value(measure, of)
        expected = math.sqrt((vector @ vector / (4 * sigma**2) + logs) / m)
        assert answer.value == pytest.approx(expected, rel=1e-6)
        assert answer.lower < answer.value < answer.upper
    part = context(module, x, y, 3, training_size=60_000)
    whole = math.sqrt((w @ w / (4 * sigma**2) + math.log(60_000 / sigma) + 10) / 60_000)
    assert value(PacBayesBound, part).value == pytest.approx(whole, rel=1e-6)
    scaled = value(PacBayesFlatness, part, convention="dziugaite2020").value
    assert scaled == pytest.approx(
        value(PacBayesFlatness, of, convention="dziugaite2020").value * math.sqrt(m / 60_000), rel=1e-6
    )
    sigma = value(PacBayesMagnitudeFlatness, of).value ** -0.5
    logs = math.log(m / sigma) + 10
    for measure, vector in ((PacBayesMagnitudeBound, w), (PacBayesMagnitudeBoundInitial, d)):
        answer = value(measure, of)
        ratio = (e**2 + (sigma**2 + 1) * (vector @ vector) / len(w)) / (e**2 + sigma**2 * vector**2)
        assert answer.value == pytest.approx(math.sqrt((np.log(ratio).sum() / 4 + logs) / m), rel=1e-6)


def one_direction(samples: int = 40) -> tuple[nn.Linear, np.ndarray, np.ndarray, np.ndarray]:
    """Return a linear classifier and points on one ray, which all turn over at the same change."""
    ray = np.array([0.5, 0.25, 1.0])
    module = nn.Linear(3, 2, bias=False)
    module.weight.data = torch.tensor([[0.1, -0.2, 0.05], [0.4, 0.3, 0.2]])
    x = np.linspace(0.5, 1, samples)[:, None] * ray
    return module, x, np.ones(samples), ray


def test_worst_case_sharpness_of_a_linear_model_is_exact() -> None:
    module, x, y, ray = one_direction()
    w = module.weight.detach().numpy().astype(float)
    margin = ray @ (w[1] - w[0])
    for measure, reach in (
        (WorstCaseSharpness, 2 * ray.sum()),
        (WorstCaseMagnitudeSharpness, ray @ np.abs(w).sum(axis=0)),
    ):
        answer = value(measure, context(module, x, y))
        alpha = margin / reach
        assert answer.value * (1 - 1e-5) <= alpha**-2 <= answer.upper * (1 + 1e-5)
        assert answer.value == answer.lower
        assert answer.upper / answer.lower <= 1.05**2 * (1 + 1e-9)
        assert "lower bound" in answer.note


def test_adaptive_sharpness_of_a_linear_model_is_exact_and_grows_with_the_radius() -> None:
    module, x, y, ray = one_direction(samples=1)
    w = module.weight.detach().numpy().astype(float)
    margin, reach = 0.5 * ray @ (w[1] - w[0]), 0.5 * ray @ np.abs(w).sum(axis=0)
    before = 0.0
    for radius in (0.001, 0.01, 0.1, 0.5):
        answer = value(AdaptiveWorstCaseSharpness, context(module, x, y), radius=radius)
        expected = np.logaddexp(0, -(margin - radius * reach)) - np.logaddexp(0, -margin)
        assert answer.value == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert answer.value > before
        before = answer.value


def test_average_relative_sharpness_at_a_small_radius_is_the_trace_of_the_hessian() -> None:
    module, x, _, _ = one_direction(samples=2)
    module.weight.data[1] = module.weight.data[0]  # with both labels on equal logits no gradient remains
    x[1] = x[0]
    w = module.weight.detach().double()
    trace = 2 * 0.25 * float((x[0] ** 2).sum())
    radius = 0.3
    expected = 0.5 * trace * radius**2 * float(w.square().sum()) / (w.numel() + 2)
    answer = value(AVERAGE, context(module, x, np.array([0, 1])), radius=radius, draws=2000, rtol=0.03)
    assert answer.lower * 0.98 <= expected <= answer.upper * 1.02
    assert answer.upper / answer.lower < 1.12


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_value_depends_on_the_seed_alone_and_the_module_is_left_alone(measure: type[Measure]) -> None:
    module, x, y = mlp()
    initial = {name: torch.zeros_like(w) for name, w in module.state_dict().items()}
    kept = {name: w.clone() for name, w in module.state_dict().items()}
    settings = {"images": 40} if "images" in measure.settings else {}
    passed = 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal passed
        passed += len(inputs[0])

    answers = []
    for seed, batch, noise in ((0, 256, 1), (0, 7, 2), (1, 256, 1)):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        of = context(module, x, y, 3, initial=initial, seed=seed, batch_size=batch)
        with_hook = module.register_forward_pre_hook(count)
        passed = 0
        answers.append(value(measure, of, **settings))
        with_hook.remove()
        assert torch.equal(torch.get_rng_state(), state)
        assert answers[-1].forwards == passed
    assert answers[0] == answers[1]
    assert answers[0].value != answers[2].value
    assert all(torch.equal(w, kept[name]) for name, w in module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


class Breaks(nn.Module):
    """A module whose forward raises after a number of calls."""

    def __init__(self, module: nn.Module, calls: int) -> None:
        super().__init__()
        self.module, self.calls = module, calls

    def forward(self, x: Tensor) -> Tensor:
        self.calls -= 1
        if self.calls < 0:
            raise MemoryError("the device is full")
        return self.module(x)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_weights_survive_an_error(measure: type[Measure]) -> None:
    inner, x, y = mlp()
    of = context(inner, x, y, 3)
    of.initial = {f"module.{name}": w.clone() for name, w in inner.state_dict().items()}
    of.module = Breaks(inner, 2).eval()
    kept = {name: w.clone() for name, w in inner.state_dict().items()}
    with pytest.raises(MemoryError):
        value(measure, of, fold_batch_norm=False)
    assert all(torch.equal(w, kept[name]) for name, w in of.module.module.state_dict().items())
    assert not of.module.training
    assert all(p.requires_grad and p.grad is None for p in of.module.parameters())


def test_batch_norm_is_folded_before_weights_are_perturbed(
    small: tuple[Small, np.ndarray, np.ndarray],
) -> None:
    module, x, y = small
    of = context(module, x, y, 3)
    inputs = torch.from_numpy(x)
    kept = {name: w.clone() for name, w in module.state_dict().items()}
    for neutral in (False, True):
        found = perturbed.network(of, perturb="all", fold_batch_norm=True, neutral=neutral)
        assert torch.allclose(found.logits(inputs, found.weights), module(inputs), atol=1e-4)
        sizes = sorted(weight.numel() for weight in found.weights.values())
        assert sizes == sorted([36, 4, 48, 3] + [4, 4] * neutral)
        kernels = perturbed.network(of, perturb="weights", fold_batch_norm=True, neutral=neutral).weights
        assert sorted(weight.numel() for weight in kernels.values()) == [36, 48]
    assert all(torch.equal(w, kept[name]) for name, w in module.state_dict().items())
    first = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 3)).eval()
    before = perturbed.network(context(first, x, y, 3), perturb="weights", fold_batch_norm=True)
    assert [weight.shape for weight in before.weights.values()] == [(3, 16)]


class Unused(nn.Module):
    """A module with a weight that its logits do not depend on."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.aside = module, nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class Reduced(nn.Module):
    """A module in another precision, from float32 to float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = copy.deepcopy(module).to(dtype), dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.to(self.dtype)).float()


WORST = [measure for measure in MEASURES if "gradients" in measure.needs]


@pytest.mark.parametrize("measure", WORST, ids=lambda measure: measure.name)
def test_a_weight_without_influence_changes_no_worst_case(measure: type[Measure]) -> None:
    module, x, y = mlp()
    expected = value(measure, context(module, x, y, 3))
    assert value(measure, context(Unused(module), x, y, 3)).value == expected.value


@pytest.mark.parametrize(
    ("dtype", "rel"), [(torch.float16, 0.1), (torch.bfloat16, 0.3), (torch.float64, 0.1)]
)
def test_precision_of_the_weights_changes_little(dtype: torch.dtype, rel: float) -> None:
    module, x, y = mlp()
    full, reduced = context(module, x, y, 3), context(Reduced(module, dtype), x, y, 3)
    for measure in MEASURES:
        if "initial_weights" in measure.needs:
            continue
        expected, found = value(measure, full), value(measure, reduced)
        assert found.value == pytest.approx(expected.value, rel=rel), measure.name
        assert 0 < found.lower <= found.value <= found.upper


def test_a_search_without_an_answer_counts_its_passes_once() -> None:
    module, x, y = linear(wrong=0.45)
    of, passed = context(module, x, y), 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal passed
        passed += len(inputs[0])

    module.register_forward_pre_hook(count)
    for measure in (PacBayesFlatness, PacBayesBound, WorstCaseMagnitudeSharpness):
        if measure is WorstCaseMagnitudeSharpness:
            assert of.train is not None
            of.train.logits[:] = 0.0
            module.weight.data[:] = 0.0
        passed = 0
        with pytest.raises(Undefined) as caught:
            value(measure, of)
        assert caught.value.forwards == passed
        assert (passed > 0) == (measure is not PacBayesBound)
    assert caught.value.backwards > 0


class Branching(Small):
    """A network that cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0 else -x)


def test_what_cannot_be_done_says_why(small: tuple[Small, np.ndarray, np.ndarray]) -> None:
    module, x, y = small
    branching = Branching()
    branching.load_state_dict(module.state_dict())
    with pytest.raises(Unsupported, match="cannot be traced"):
        value(PacBayesFlatness, context(branching, x, y, 3))
    unfolded = value(PacBayesFlatness, context(branching, x, y, 3), fold_batch_norm=False)
    assert unfolded.value > 0
    with pytest.raises(Unsupported, match="no parameters to perturb in ReLU"):
        value(WorstCaseSharpness, context(nn.Sequential(nn.ReLU())[0], x[:, 0, 0, :3], y, 3))
    of = context(module, x, y, 3)
    with pytest.raises(Undefined, match="before training"):
        value(PacBayesBoundInitial, of)
    of.train = None
    for measure in MEASURES:
        with pytest.raises(Undefined, match=r"no training data|before training"):
            measure().compute(of, of.clean)
    of = context(module, x, y, 3)
    assert of.train is not None
    of.train.logits[3, 1] = np.nan
    for measure in MEASURES:
        with pytest.raises(Undefined, match=r"not finite|before training"):
            value(measure, of)


def test_every_measure_declares_what_the_registry_asks_for() -> None:
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)
    for measure in MEASURES:
        assert measure.family == "sharpness"
        assert set(measure.needs) <= set(NEEDS)
        assert set(measure.invariance) <= set(INVARIANCES)
        assert measure.expected_sign in (-1, 0, 1)
        assert measure.definition
        assert measure.formula
        assert measure.citation
