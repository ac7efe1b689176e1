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
