"""No attack may change the model: modes and buffers after it are those before it, and a change is flagged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metaeval.attacks import catalogue, sweep
from metaeval.attacks.kernel import KernelResult

SHORT = {"iterations": 3, "queries": 20, "targets": 2}


def batch_norm_model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.5),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 36, 4),
    )
    model(torch.rand(64, 3, 6, 6))  # running statistics that are not those of the attacked batch
    return model.eval()


def attacked(model: torch.nn.Module, attack: str, norm: str) -> dict[str, float]:
    x = np.random.default_rng(0).random((12, 3, 6, 6), dtype=np.float32)
    y = model(torch.from_numpy(x)).argmax(1).numpy()
    allowed = catalogue.get(attack).for_norm(norm).settings
    settings = {name: max(value, allowed[name].minimum) for name, value in SHORT.items() if name in allowed}
    return sweep(model, x, y, norm=norm, epsilons=[0.05, 0.3], attack=attack, **settings).flags


@pytest.mark.parametrize("attack", catalogue.names())
def test_no_attack_changes_the_model(attack: str) -> None:
    model = batch_norm_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for norm in catalogue.get(attack).norms:
        flags = attacked(model, attack, norm)
        assert flags["buffers_changed"] == 0
        assert flags["train_mode"] == 0
        assert not any(module.training for module in model.modules())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_change_is_flagged_and_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack that trains the model is flagged, and the next one meets the model as it came."""

    def careless(model, x, y, epsilon, *, norm, keys, settings, batch_size):  # type: ignore[no-untyped-def]
        model.train()
        model(torch.rand_like(x))
        return KernelResult.failed(x)

    monkeypatch.setattr("metaeval.attacks.apgd.run_ce", careless)
    model = batch_norm_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = attacked(model, "apgd-ce", "linf")
    assert flags["buffers_changed"] == 1
    assert flags["train_mode"] == 1
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def unmoving(model, x, y, epsilon, *, norm, keys, settings, batch_size, start=None):  # type: ignore[no-untyped-def]
    """Attack the samples of class 0 with what the real kernel finds, and no other."""
    result = KernelResult.failed(x)
    result.forwards.add_(1)
    result.candidates[y == 0] += 0.5 * epsilon[y == 0].view(-1, 1, 1, 1).float()
    return result


def test_samples_that_an_attack_returns_as_they_were_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    model = batch_norm_model()
    assert attacked(model, "apgd-ce", "linf")["unperturbed"] == 0
    x = np.random.default_rng(0).random((12, 3, 6, 6), dtype=np.float32) * 0.5
    y = model(torch.from_numpy(x)).argmax(1).numpy()
    monkeypatch.setattr("metaeval.attacks.apgd.run_ce", unmoving)
    flags = sweep(model, x, y, epsilons=[1e-4], attack="apgd-ce").flags
    assert flags["unperturbed"] == np.mean(y != 0)


class AnswersAtRandom(torch.nn.Module):
    """Two classes; the second is answered with a given probability wherever x[0] is above 1/2."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x.flatten(1)[:, 0]
        wrong = (first > 0.5) & (torch.rand(len(x)) < self.probability)
        score = 2 * wrong.float() - 1 + 0.1 * (first - 0.5) + 0.01 * torch.rand(len(x))
        return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.mark.parametrize(("probability", "verdict"), [(0.15, False), (0.95, True)])
def test_random_answers_are_judged_by_the_majority(probability: float, verdict: bool) -> None:
    """A single wrong answer in 101 proves nothing: with probability 0.15 nearly every run would see one."""
    torch.manual_seed(0)
    x = np.full((40, 1, 1, 2), 0.4, dtype=np.float32)
    y = np.zeros(40, dtype=np.int64)
    result = sweep(AnswersAtRandom(probability), x, y, epsilons=[0.3], attack="apgd-ce", iterations=10)
    assert result.flags["randomised"] == 1
    broken = result.cells[:, 0] == 2
    assert broken.mean() > 0.9 if verdict else broken.mean() < 0.05


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("factor", [1.0, 1e5])
def test_saturated_logits_are_no_robustness(factor: float, classes: int) -> None:
    """Logits times 100,000 have no cross-entropy gradient left; the verdicts must stay what they were."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(12, classes)
    x = np.random.default_rng(0).uniform(0.3, 0.7, (40, 12)).astype(np.float32)
    y = linear(torch.from_numpy(x)).argmax(1).numpy()
    with torch.no_grad():
        linear.weight *= factor
        linear.bias *= factor
    result = sweep(linear, x, y, epsilons=[0.02, 0.05, 0.1, 0.3], attack="apgd-ce")
    weight, bias = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    logits = x @ weight.T + bias
    difference = weight[y][:, None] - weight[None]
    distance = (logits[np.arange(40), y][:, None] - logits) / np.maximum(np.abs(difference).sum(2), 1e-12)
    distance[np.arange(40), y] = np.inf
    broken = result.cells < 5
    exists = distance.min(axis=1)[:, None] <= np.array([0.02, 0.05, 0.1, 0.3]) * 0.999
    assert not (broken & (distance.min(axis=1)[:, None] > np.array([0.02, 0.05, 0.1, 0.3]) * 1.001)).any()
    assert (broken[exists]).mean() > (0.999 if classes == 2 else 0.9)
    assert (result.flags["loss_switched"] > 0.5) == (factor > 1)
    assert result.flags["zero_gradient"] < 0.05


class Writing(torch.nn.Module):
    """Halves what it gets, in place or not, before a linear layer."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(20, 3))
        self.inplace = inplace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x.mul_(0.5) if self.inplace else x * 0.5)


@pytest.mark.parametrize("attack", ["apgd-ce", "square", "fab", "pgd@torchattacks"])
def test_a_model_that_writes_into_its_inputs_is_attacked_like_its_twin(attack: str) -> None:
    x = np.random.default_rng(1).random((40, 20), dtype=np.float32)
    twin = Writing(inplace=False)
    y = twin(torch.from_numpy(x)).argmax(1).numpy()
    kept = x.copy()
    settings = {"queries": 50} if attack == "square" else {"iterations": 5}
    found = [
        sweep(model, x, y, norm="linf", epsilons=[0.02, 0.1], attack=attack, **settings)
        for model in (Writing(inplace=True), twin)
    ]
    np.testing.assert_array_equal(found[0].distance, found[1].distance)
    np.testing.assert_array_equal(found[0].cells, found[1].cells)
    np.testing.assert_array_equal(x, kept)
    assert (found[1].distance > 0).any()
