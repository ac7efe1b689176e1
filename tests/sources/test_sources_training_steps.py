"""One step of a training against what it is by definition: by hand, by brute force, by SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch.nn.functional import cross_entropy

from metaeval.sources.models import augmentation
from metaeval.sources.models.adversarial import perturb, project, training_loss
from metaeval.sources.models.loop import Loop
from metaeval.sources.models.settings import training_settings

SCHEDULES: dict[str, Any] = {
    "constant": lambda step: 1.0,
    "cosine": lambda step: (1 + np.cos(np.pi * step / 20)) / 2,
    "step": lambda step: 1.0 if step < 10 else 0.1 if step < 15 else 0.01,
    "warmup-cosine": lambda step: (step + 1) / 3 if step < 2 else (1 + np.cos(np.pi * (step - 2) / 18)) / 2,
}


def linear(features: int = 6, classes: int = 3) -> torch.nn.Sequential:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(features, classes)).double()


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_sgd_on_a_linear_model_is_the_update_by_hand(schedule: str) -> None:
    """Momentum and weight decay as in Sutskever et al. 2013 and PyTorch: v = m v + g + d w, w -= rate v."""
    random = np.random.default_rng(0)
    x, y = random.random((8, 6)), random.integers(0, 3, 8)
    model = linear()
    weight, bias = (parameter.detach().numpy().copy() for parameter in model.parameters())
    given = {"optimizer": "sgd", "learning_rate": 0.2, "momentum": 0.9, "weight_decay": 0.01}
    # All in one batch, so that the order does not matter: 20 epochs are 20 steps.
    loop = Loop(
        model,
        torch.from_numpy(x),
        torch.from_numpy(y),
        training_settings({**given, "schedule": schedule, "epochs": 20, "batch_size": 8}, seed=0),
    )
    speeds = [np.zeros_like(weight), np.zeros_like(bias)]
    for step in range(20):
        scores = x @ weight.T + bias
        error = softmax(scores, axis=1)
        assert not loop.finished
        loop.epoch()
        assert loop.log[-1]["loss"] == pytest.approx(-log_softmax(scores, axis=1)[range(8), y].mean())
        error[range(8), y] -= 1
        gradients = [error.T @ x / 8 + 0.01 * weight, error.mean(axis=0) + 0.01 * bias]
        speeds = [0.9 * v + g for v, g in zip(speeds, gradients, strict=True)]
        rate = 0.2 * SCHEDULES[schedule](step)
        assert loop.log[-1]["learning_rate"] == pytest.approx(rate, abs=1e-12)
        weight, bias = weight - rate * speeds[0], bias - rate * speeds[1]
    assert loop.finished
    for parameter, wanted in zip(model.parameters(), (weight, bias), strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("beta", [0.5, 6.0])
def test_the_loss_of_trades_is_cross_entropy_plus_divergence(beta: float) -> None:
    x, y = torch.rand(7, 6, dtype=torch.float64), torch.arange(7) % 3
    model = linear()
    given = {"adversarial_epsilon": 0.1, "adversarial_method": "trades", "trades_beta": beta}
    chosen = training_settings(given, seed=0)
    loss, logits = training_loss(model, x, y, chosen, torch.Generator().manual_seed(3))
    assert model.training
    found = perturb(model, x, y, chosen, torch.Generator().manual_seed(3))
    clean, attacked = (model(inputs).detach().numpy() for inputs in (x, found))
    np.testing.assert_array_equal(logits.detach().numpy(), clean)
    p, log_p, log_q = softmax(clean, axis=1), log_softmax(clean, axis=1), log_softmax(attacked, axis=1)
    divergence = (p * (log_p - log_q)).sum(axis=1).mean()
    assert divergence > 0
    wanted = -log_p[range(7), y].mean() + beta * divergence
    assert loss.item() == pytest.approx(wanted, rel=1e-9)
    # The inner maximisation climbed that divergence, far above what its random start has.
    start = x + 1e-3 * torch.randn(x.shape, dtype=torch.float64)
    log_s = log_softmax(model(start).detach().numpy(), axis=1)
    assert divergence > 100 * (p * (log_p - log_s)).sum(axis=1).mean()


def test_standard_and_adversarial_losses_are_cross_entropies() -> None:
    x, y = torch.rand(7, 6, dtype=torch.float64), torch.arange(7) % 3
    model = linear()
    loss, _ = training_loss(model, x, y, training_settings({}, seed=0), torch.Generator())
    assert loss.item() == pytest.approx(cross_entropy(model(x), y).item())
    chosen = training_settings({"adversarial_epsilon": 0.1}, seed=0)
    loss, _ = training_loss(model, x, y, chosen, torch.Generator().manual_seed(3))
    found = perturb(model, x, y, chosen, torch.Generator().manual_seed(3))
    assert loss.item() == pytest.approx(cross_entropy(model(found), y).item())
    # Of a linear model with two classes the worst point of the linf ball is a corner of it.
    two = linear(classes=2)
    gap = two[1].weight.detach()[1] - two[1].weight.detach()[0]
    inside = 0.2 + 0.6 * x
    worst = inside + 0.1 * gap.sign() * torch.where(y[:, None] % 2 == 0, 1, -1)
    torch.testing.assert_close(perturb(two, inside, y % 2, chosen, torch.Generator()), worst)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-3, 3)),
    st.floats(0.01, 5),
)
def test_the_l1_projection_is_the_nearest_point(delta: np.ndarray, epsilon: float) -> None:
    """Against bisection of the threshold that soft-thresholding needs, which is the optimality condition."""
    found = project(torch.from_numpy(delta), "l1", epsilon).numpy()
    for row, projected in zip(delta, found, strict=True):
        assert np.abs(projected).sum() <= epsilon * (1 + 1e-12)
        low, high = 0.0, np.abs(row).max()
        for _ in range(80):
            middle = (low + high) / 2
            if np.maximum(np.abs(row) - middle, 0).sum() > epsilon:
                low = middle
            else:
                high = middle
        wanted = row if np.abs(row).sum() <= epsilon else np.sign(row) * np.maximum(np.abs(row) - high, 0)
        np.testing.assert_allclose(projected, wanted, atol=1e-12)


def test_the_l1_projection_against_scipy() -> None:
    random = np.random.default_rng(5)
    for _ in range(5):
        row = random.normal(size=4)
        # delta = a - b with a, b >= 0 makes the ball smooth constraints.
        result = minimize(
            lambda z, row=row: ((z[:4] - z[4:] - row) ** 2).sum(),
            np.full(8, 0.05),
            bounds=[(0, None)] * 8,
            constraints={"type": "ineq", "fun": lambda z: 0.7 - z.sum()},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        found = project(torch.from_numpy(row)[None], "l1", 0.7).numpy()[0]
        np.testing.assert_allclose(found, result.x[:4] - result.x[4:], atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (20,)])
@pytest.mark.parametrize(
    ("norm", "order", "epsilon"), [("linf", float("inf"), 0.2), ("l2", 2, 0.2), ("l1", 1, 1.5)]
)
@pytest.mark.parametrize("method", ["pgd", "trades"])
def test_adversarial_inputs_stay_inside_and_raise_the_loss(
    norm: str, order: float, epsilon: float, shape: tuple[int, ...], method: str
) -> None:
    model = linear(int(np.prod(shape))).float()
    x, y = torch.rand(50, *shape), torch.arange(50) % 3
    given = {"adversarial_norm": norm, "adversarial_epsilon": epsilon, "adversarial_method": method}
    chosen = training_settings(given, seed=0)
    found = perturb(model, x, y, chosen, torch.Generator().manual_seed(0))
    assert torch.equal(found, perturb(model, x, y, chosen, torch.Generator().manual_seed(0)))
    assert found.min() >= 0
    assert found.max() <= 1
    distance = torch.linalg.vector_norm((found - x).double().flatten(1), ord=order, dim=1)
    assert distance.max() <= epsilon * (1 + 1e-6)
    assert distance.mean() > 0.6 * epsilon
    before, after = (cross_entropy(model(inputs), y, reduction="none") for inputs in (x, found))
    if method == "pgd":
        assert (after > before).all()
    else:  # away from the output, whatever the label
        assert not torch.equal(after, before)


def test_l1_steps_are_stronger_than_chance_and_near_the_best() -> None:
    """On a linear model the most harmful l1 perturbations move the inputs with the largest weights."""
    torch.manual_seed(2)
    model = linear(100, 2).float()
    gap = (model[1].weight[1] - model[1].weight[0]).detach()
    x, y = 0.3 + 0.4 * torch.rand(20, 100), torch.zeros(20, dtype=torch.int64)
    chosen = training_settings({"adversarial_norm": "l1", "adversarial_epsilon": 0.25}, seed=0)
    found = perturb(model, x, y, chosen, torch.Generator().manual_seed(0))
    gained = (found - x) @ gap
    assert (gained > 0.75 * 0.25 * gap.abs().max()).all()


@given(st.sampled_from(["flip", "crop", "flip+crop"]), st.integers(0, 2**62), st.sampled_from([8, 28, 32]))
@settings(max_examples=30, deadline=None)
def test_augmentation_is_a_crop_of_the_framed_image_or_its_mirror(name: str, seed: int, side: int) -> None:
    shape = (3, side, side + 2)
    x = torch.rand(5, *shape)
    drawn = augmentation.draw(name, 5, shape, seed)
    assert drawn is not None
    found = drawn.apply(x, torch.arange(5))
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() <= 1
    frame = {8: 1, 28: 3, 32: 4}[side] if "crop" in name else 0
    framed = np.pad(x.numpy(), [(0, 0), (0, 0), (frame, frame), (frame, frame)])
    for image, result in zip(framed, found.numpy(), strict=True):
        candidates = [
            source[:, i : i + side, j : j + side + 2]
            for source in ([image, image[..., ::-1]] if "flip" in name else [image])
            for i in range(2 * frame + 1)
            for j in range(2 * frame + 1)
        ]
        assert any(np.array_equal(result, candidate) for candidate in candidates)


def test_augmentation_depends_on_the_sample_and_the_epoch_only() -> None:
    x = torch.rand(40, 1, 32, 32)
    drawn, again, other = (augmentation.draw("flip+crop", 40, (1, 32, 32), seed) for seed in (1, 1, 2))
    assert drawn is not None
    assert again is not None
    assert other is not None
    whole = drawn.apply(x, torch.arange(40))
    # The same sample is changed alike in any batch and at any place in it.
    chosen = torch.tensor([31, 2, 17])
    assert torch.equal(again.apply(x[chosen], chosen), whole[chosen])
    assert not torch.equal(other.apply(x, torch.arange(40)), whole)
    crops = augmentation.draw("crop", 40, (1, 32, 32), 1)
    assert crops is not None
    assert torch.equal(crops.offsets, drawn.offsets)
    assert augmentation.draw("none", 40, (1, 32, 32), 1) is None


def test_every_flip_and_offset_is_as_frequent() -> None:
    drawn = augmentation.draw("flip+crop", 8100, (3, 32, 32), 7)
    assert drawn is not None
    assert drawn.flips is not None
    assert drawn.offsets is not None
    assert abs(drawn.flips.double().mean() - 0.5) < 5 * 0.5 / 90
    counts = torch.bincount(drawn.offsets[:, 0] * 9 + drawn.offsets[:, 1], minlength=81)
    assert counts.min() > 50  # 100 expected, standard deviation 10
    assert counts.max() < 150


def test_augmented_training_still_sees_the_right_labels() -> None:
    """Where the class is the brightness, which flips and crops hardly change, it is learned."""
    y = torch.arange(60) % 2
    x = torch.rand(60, 1, 8, 8) * 0.2 + 0.6 * y.view(-1, 1, 1, 1)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    chosen = training_settings({"augmentation": "flip+crop", "epochs": 20, "batch_size": 7}, seed=0)
    loop = Loop(model, x, y, chosen)
    while not loop.finished:
        loop.epoch()
    assert loop.evaluate()[1] == 1


def test_a_batch_size_of_one_trains_on_every_sample() -> None:
    x, y = torch.rand(9, 6), torch.arange(9) % 3
    loop = Loop(linear().float(), x, y, training_settings({"batch_size": 1, "epochs": 2}, seed=0))
    done: list[float] = []
    loop.epoch(done.append)
    assert len(done) == 9
    assert done[-1] == 0.5
