"""Square: as strong as the published code, bounded by its epsilon, the same whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from published import correct_samples, network, sample_keys
from torch import Tensor

from metaeval.attacks import square as module
from metaeval.attacks.square import run, square
from metaeval.outcomes import within


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class PublishedPositions(module._Window):
    """The published code never places a window in the last row or column it could stand in.

    With all positions, as the paper has it, ours is stronger: on `kw_mnist` at linf 0.17 and 500 queries
    29 % of 300 samples remain where the published code leaves 33 % and ours with its positions 32 %.
    """

    def __init__(self, size: tuple[int, int], x: Tensor) -> None:
        super().__init__(size, x)
        last = torch.tensor([max(k - 1, 1) for k in self.positions])
        self.ranges[:4] = last.repeat(2)


@pytest.mark.parametrize(
    ("name", "norm", "radius"),
    [("kw_mnist", "linf", 0.18), ("mmr_univ_mnist", "linf", 0.24), ("kw_mnist", "l2", 2.3),
     ("mmr_univ_mnist", "l2", 3.0)],
)  # fmt: skip
def test_as_strong_as_pyautoattack_at_equal_queries(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, name: str, norm: str, radius: float
) -> None:
    from pyautoattack.square import SquareAttack

    model = network(shared_data, name)
    n, queries, seeds = 150, 150, 2
    x, y = correct_samples(shared_data, model, n)
    epsilon = torch.full((n,), radius, dtype=torch.float64)
    published, ours = [], []
    monkeypatch.setattr(module, "_Window", PublishedPositions)
    for seed in range(seeds):
        attack = SquareAttack(
            model, norm=norm.capitalize(), eps=radius, n_queries=queries, seed=seed, device="cpu"
        )
        with torch.no_grad():
            published.append((model(attack.perturb(x.clone(), y)).argmax(1) == y).double().mean().item())
        keys = sample_keys(x, epsilon, seed)
        result = square(model, x, y, epsilon, norm=norm, keys=keys, queries=queries)
        ours.append(1 - result.success.double().mean().item())
    accuracy = np.mean(published)
    assert 0.2 < accuracy < 0.8
    # Between seeds ours varies by about 0.01, the published code, which draws one window for all samples,
    # by about 0.03: three standard deviations of the difference of the means.
    assert np.mean(ours) == pytest.approx(accuracy, abs=0.06)


def per_row_model(weights: Tensor):
    """A linear model whose sums run within a row: its logits owe nothing to the batch, to the last bit."""
    return lambda v: ((v.flatten(1)[:, None, :] - 0.5) * weights).sum(-1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1,), (7,), (64,), (5, 4), (1, 6, 6), (3, 9, 8), (2, 3, 16, 16)])
def test_any_shape_any_batch(shape: tuple[int, ...], norm: str) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.Size(shape).numel()
    model = per_row_model(torch.randn(3, features, generator=generator))
    x = 0.2 + 0.6 * torch.rand(23, *shape, generator=generator)
    y = model(x).argmax(1)
    unit = 0.1 if norm == "linf" else 0.1 * features**0.5
    epsilon = unit * torch.linspace(0.2, 3, 23, dtype=torch.float64)
    keys = torch.arange(23)
    calls = []

    def counted(v: Tensor) -> Tensor:
        calls.append(len(v))
        assert v.shape[1:] == x.shape[1:]
        return model(v)

    settings = {"queries": 60, "restarts": 2}
    result = run(counted, x, y, epsilon, norm=norm, keys=keys, settings=settings, batch_size=None)
    assert result.success.any()
    assert sum(calls) == result.forwards.sum()
    assert (result.forwards[~result.success] == 61 * 2).all()
    assert result.backwards.sum() == 0
    assert not result.zero_gradient.any()
    delta = result.candidates.double() - x.double()
    distance = torch.linalg.vector_norm(delta.flatten(1), ord=torch.inf if norm == "linf" else 2, dim=1)
    assert within(distance.numpy(), epsilon.numpy(), norm).all()
    assert result.candidates.min() >= 0
    assert result.candidates.max() <= 1
    assert torch.equal(model(result.candidates).argmax(1) != y, result.success)
    order = torch.randperm(23, generator=generator)
    for rows, size in ((order, 4), (order[:5], None), (order[5:6], 1)):
        part = run(
            model,
            x[rows],
            y[rows],
            epsilon[rows],
            norm=norm,
            keys=keys[rows],
            settings=settings,
            batch_size=size,
        )
        assert torch.equal(part.candidates, result.candidates[rows])
        assert torch.equal(part.forwards, result.forwards[rows])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_feature_can_change(norm: str) -> None:
    # The published code never touches the last row and column after its start.
    x = torch.full((40, 1, 6, 6), 0.5)
    seen = []

    def model(v: Tensor) -> Tensor:
        seen.append(v.clone())
        return torch.tensor([1.0, 0.0]).repeat(len(v), 1)

    epsilon = torch.full((40,), 0.1, dtype=torch.float64)
    y = torch.zeros(40, dtype=torch.int64)
    square(model, x, y, epsilon, norm=norm, keys=torch.arange(40), queries=200)
    # Nothing is ever an improvement, so each proposal differs from the start in its own windows.
    changed = torch.stack([(v != seen[0]).any(0) for v in seen[1:]]).any(0)
    assert changed.all()


@pytest.mark.parametrize("side", [2, 3, 5, 6, 7, 25])
def test_l2_patterns_equal_the_published_ones(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    from pyautoattack.square import SquareAttack

    attack = SquareAttack(None, norm="L2", eps=1.0, device="cpu")
    ours = module._patterns((side, side))
    for draw, pattern in ((0.9, ours[1]), (0.1, ours[0])):
        monkeypatch.setattr(torch, "rand", lambda shape, draw=draw: torch.full(shape, draw))
        assert torch.allclose(attack.eta(side), pattern, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("queries", [100, 777, 5000])
def test_window_sizes_follow_the_published_schedule(norm: str, queries: int) -> None:
    from pyautoattack.square import SquareAttack

    attack = SquareAttack(None, norm=norm.capitalize(), eps=1.0, n_queries=queries)
    for query in range(queries):
        expected = max(round((attack.p_selection(query) * 32 * 32) ** 0.5), 1)
        if norm == "l2":
            expected = max(expected, 3)
            expected += expected % 2 == 0
        assert module._window_size(query, queries, (32, 32), norm) == (expected, expected)


def test_wrong_arguments_are_refused() -> None:
    x, y, epsilon = torch.rand(3, 4), torch.zeros(3, dtype=torch.int64), torch.full((3,), 0.1)
    for change, message in (({"norm": "l1"}, "norm is 'l1'"), ({"queries": 0}, "queries is 0")):
        with pytest.raises(ValueError, match=message):
            square(lambda v: v, x, y, epsilon, **{"norm": "linf", "keys": torch.arange(3), **change})
