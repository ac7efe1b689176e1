"""Attacked copies: inside the ball, at its edge for FGSM, and the points that torchattacks itself returns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from torch import nn

from metaeval.attacks import catalogue
from metaeval.attacks.copies import Copies, attacked_copies
from metaeval.hashing import hash_samples

N = 12


@pytest.fixture(scope="module")
def world() -> tuple[nn.Module, np.ndarray, np.ndarray]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 4)).eval()
    x = torch.rand(N, 3, 4, 4)
    y = model(x).argmax(1)
    y[:2] = (y[:2] + 1) % 4  # misclassified as they are
    return model, x.numpy(), y.numpy()


def copies(
    world: tuple[nn.Module, np.ndarray, np.ndarray],
    attack: str,
    norm: str,
    epsilon: float | None,
    rows: slice = slice(None),
    batch_size: int = 5,
    **settings: Any,
) -> Copies:
    model, x, y = world
    spec = catalogue.get(attack).for_norm(norm)
    return attacked_copies(
        model,
        x[rows],
        y[rows],
        spec=spec,
        settings=catalogue.resolve_settings(spec, settings),
        norm=norm,
        epsilon=epsilon,
        seed=0,
        sample_hashes=hash_samples(x[rows]),
        batch_size=batch_size,
        device=torch.device("cpu"),
    )


def distances(x: np.ndarray, points: torch.Tensor, norm: str) -> np.ndarray:
    delta = (points.numpy().astype(np.float64) - x).reshape(len(x), -1)
    return np.abs(delta).max(axis=1) if norm == "linf" else np.sqrt((delta**2).sum(axis=1))


def test_fgsm_is_one_signed_step(world: tuple[nn.Module, np.ndarray, np.ndarray]) -> None:
    model, x, y = world
    found = copies(world, "fgsm@torchattacks", "linf", 8 / 255)
    inputs = torch.from_numpy(x).requires_grad_()
    nn.functional.cross_entropy(model(inputs), torch.from_numpy(y), reduction="sum").backward()
    assert inputs.grad is not None
    expected = (inputs.detach() + 8 / 255 * inputs.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(found.points, expected, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(found.distance, 8 / 255)  # exactly, for every sample
    assert (found.forwards, found.backwards) == (N, N)


def test_fgsm_and_bim_are_the_library_s(world: tuple[nn.Module, np.ndarray, np.ndarray]) -> None:
    model, x, y = world
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    theirs = {
        "fgsm@torchattacks": torchattacks.FGSM(model, eps=0.05),
        "bim@torchattacks": torchattacks.BIM(model, eps=0.05, alpha=0.0125, steps=10),
    }
    for name, attack in theirs.items():
        expected = torch.cat([attack(inputs[i : i + 1], labels[i : i + 1]) for i in range(N)])
        torch.testing.assert_close(copies(world, name, "linf", 0.05).points, expected, rtol=0, atol=1e-6)


def test_deepfool_and_cw_are_the_library_s(world: tuple[nn.Module, np.ndarray, np.ndarray]) -> None:
    model, x, y = world
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    for name, attack in (
        ("deepfool@torchattacks", torchattacks.DeepFool(model, steps=50, overshoot=0.02)),
        ("cw@torchattacks", torchattacks.CW(model, c=1, kappa=0, steps=50, lr=0.01)),
    ):
        found = copies(world, name, "l2", None)
        expected = torch.cat([attack(inputs[i : i + 1], labels[i : i + 1]) for i in range(N)])
        np.testing.assert_allclose(found.distance, distances(x, found.points, "l2"), rtol=1e-12)
        # Ours leaves the boundary by the overshoot once more, where the library stops on it.
        np.testing.assert_allclose(found.distance, distances(x, expected, "l2"), atol=2e-2)
        assert found.distance[:2].max() == 0  # misclassified as they were


@pytest.mark.parametrize(
    ("attack", "norm"),
    [
        ("fgsm@torchattacks", "linf"),
        ("bim@torchattacks", "linf"),
        ("pgd@torchattacks", "linf"),
        ("pgd@torchattacks", "l2"),
        ("apgd-ce", "l2"),
    ],
)
@pytest.mark.parametrize("epsilon", [8 / 255, 0.3])
def test_copies_stay_in_ball_and_box(
    world: tuple[nn.Module, np.ndarray, np.ndarray], attack: str, norm: str, epsilon: float
) -> None:
    _, x, _ = world
    found = copies(world, attack, norm, epsilon)
    assert (found.distance <= epsilon).all()
    np.testing.assert_allclose(found.distance, distances(x, found.points, norm), rtol=2e-6, atol=1e-7)
    assert float(found.points.min()) >= 0
    assert float(found.points.max()) <= 1
    if attack != "apgd-ce":  # which leaves alone what is misclassified
        assert (found.distance > 0).all()


def test_a_copy_depends_on_its_sample_alone(world: tuple[nn.Module, np.ndarray, np.ndarray]) -> None:
    whole = copies(world, "pgd@torchattacks", "linf", 0.1)
    for rows in (slice(3, 4), slice(2, 9)):
        part = copies(world, "pgd@torchattacks", "linf", 0.1, rows, batch_size=3)
        torch.testing.assert_close(part.points, whole.points[rows], rtol=0, atol=1e-6)


def test_an_attack_that_leaves_its_ball_is_refused(
    world: tuple[nn.Module, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    import metaeval.attacks.torchattacks as kernels

    run = kernels.fgsm
    monkeypatch.setattr(kernels, "fgsm", lambda m, x, y, e, **k: run(m, x, y, 1.1 * e, **k))
    with pytest.raises(ValueError, match=r"norm 0\.055 for epsilon 0\.05"):
        copies(world, "fgsm@torchattacks", "linf", 0.05)
